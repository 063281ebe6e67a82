//! NVIDIA's own NCCL, as far as it goes without a device. `tests/nccl.sh` installs it and names it in `RINGFOLD_TEST_NCCL`.

#![allow(dead_code)]

#[path = "../calls/mod.rs"]
mod calls;

mod rank;
mod stand_in;

use rank::{Source, setup, store};
use ringfold::backend::nccl::{Library, NcclBackend, UniqueId, Version};
use ringfold::cuda::{Context, Driver};
use ringfold::{ReduceOp, tensor::DType};
use stand_in::StandIn;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn nccl() -> Library {
    let file = std::env::var_os("RINGFOLD_TEST_NCCL").expect("bash tests/nccl.sh installs NCCL and names it");
    Library::find(Some(&PathBuf::from(file))).unwrap()
}

#[test]
fn nvidias_library_loads_and_answers() {
    let nccl = nccl();
    println!("\nfound NCCL {} at {}", nccl.version(), nccl.place());
    assert!(nccl.version() >= Version { major: 2, minor: 18, patch: 0 });
    assert!(nccl.splits() && nccl.is_non_blocking());
    assert!(nccl.version().minor < 28 || nccl.has_all_to_all());
    assert_eq!(nccl.error_string(0), "no error");
    assert!(nccl.error_string(2).contains("system error"), "{}", nccl.error_string(2));
    nccl.check_reduction(ReduceOp::Mean, DType::BF16).unwrap();
}

#[test]
fn its_names_for_groups_differ() {
    let nccl = nccl();
    let ids = [(); 3].map(|()| nccl.unique_id().unwrap().to_bytes());
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != [0; UniqueId::BYTES]);
}

/// NVIDIA's NCCL with a driver that only we believe in: it looks for the real one.
struct Half(StandIn);

impl Source for Half {
    fn library(&self) -> Library {
        nccl()
    }

    fn context(&self, ordinal: u32) -> Arc<Context> {
        self.0.context(ordinal)
    }
}

#[test]
fn without_a_driver_it_makes_no_group_and_says_why() {
    if let Ok(driver) = Driver::find(None) {
        panic!("{driver:?} is here: this is for machines without one, and tests/gpu.rs for this one");
    }
    let half = Half(StandIn::new());
    let store = store(1);
    let id = half.library().unique_id().unwrap();
    let begin = Instant::now();
    let made = NcclBackend::new(setup(&half, &store, 0, 64), id, Duration::from_secs(60));
    let error = made.expect_err("there is no device");
    println!("\n{error}");
    let text = error.to_string();
    assert!(text.contains("ncclCommInitRankConfig failed with ncclUnhandledCudaError"), "{text}");
    assert!(text.contains("CUDA"), "NCCL's own last words are there: {text}");
    assert!(begin.elapsed() < Duration::from_secs(30), "it did not wait for its deadline");
    assert_eq!(store.heard.lock().unwrap().len(), 1, "the others would have been told");
}
