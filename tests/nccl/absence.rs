//! Libraries that are missing, too old, or not what they should be.

use super::rank::Source as _;
use super::stand_in::{Age, StandIn};
use ringfold::backend::nccl::{Library, Version};
use ringfold::cuda::{Context, Driver};
use ringfold::{ErrorKind, ReduceOp, tensor::DType};
use std::path::Path;

#[test]
fn the_stand_ins_are_found_as_the_real_ones_are() {
    let stand_in = StandIn::new();
    let driver = stand_in.driver();
    assert_eq!((driver.version(), driver.count().unwrap()), (12040, 4));
    let device = driver.device(2).unwrap();
    assert_eq!((device.name.as_str(), device.pci.as_str()), ("Invented GPU 2", "0000:03:00.0"));
    assert_eq!(device.uuid, "GPU-03030303-0303-0303-0303-030303030303");
    let library = stand_in.library();
    assert_eq!(library.version(), Version { major: 2, minor: 32, patch: 3 });
    assert_eq!(library.place(), stand_in.nccl.to_str().unwrap());
    assert!(library.splits() && library.has_all_to_all() && library.is_non_blocking());
    assert_eq!(library.error_string(2), "unhandled system error");
}

#[test]
fn what_a_version_can_do_is_asked_of_it() {
    let middle = StandIn::of(Age::Middle).library();
    assert_eq!(middle.version().to_string(), "2.17.0");
    assert!(!middle.splits() && !middle.has_all_to_all() && middle.is_non_blocking());
    middle.check_reduction(ReduceOp::Mean, DType::BF16).unwrap();
    let old = StandIn::of(Age::Old).library();
    assert_eq!(old.version().to_string(), "2.8.4");
    assert!(!old.is_non_blocking());
    let error = old.check_reduction(ReduceOp::Sum, DType::BF16).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("NCCL 2.8.4 does not reduce bf16"), "{error}");
}

#[test]
fn a_group_over_an_old_version_is_refused_before_it_is_made() {
    use super::rank::{Place, ranks_with, store};
    let stand_in = StandIn::of(Age::Old);
    let made = ranks_with(&stand_in, &store(1), Place::Host, 64, std::time::Duration::from_secs(1));
    let error = made.into_iter().next().unwrap().err().expect("it is too old");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("NCCL 2.8.4") && error.to_string().contains("2.14"), "{error}");
}

#[test]
fn one_library_in_the_place_of_another_is_told_apart() {
    let stand_in = StandIn::new();
    let error = Library::find(Some(&stand_in.cuda)).unwrap_err();
    assert!(error.to_string().contains("lacks ncclGetVersion"), "{error}");
    let error = Driver::find(Some(&stand_in.nccl)).unwrap_err();
    assert!(error.to_string().contains("lacks cuInit"), "{error}");
}

#[test]
fn a_driver_without_a_device_says_so_in_its_own_words() {
    let stand_in = StandIn::new();
    stand_in.set("fail_init", 1);
    let error = Driver::find(Some(&stand_in.cuda)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let text = error.to_string();
    assert!(text.contains("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"), "{text}");
    stand_in.set("fail_init", 0);
    stand_in.set("devices", 1);
    let error = Context::new(&stand_in.driver(), 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("CUDA device 1, and this process sees 1"), "{error}");
}

#[test]
fn whose_memory_an_address_is_can_be_asked() {
    let stand_in = StandIn::new();
    let context = stand_in.context(3);
    let memory = super::rank::upload(&context, &[1, 2, 3]);
    let address = std::ptr::without_provenance(memory.address() as usize);
    assert_eq!(context.device_of(address).unwrap(), Some(3));
    assert_eq!(context.device_of([0u8].as_ptr()).unwrap(), None);
}

#[test]
fn files_that_are_no_libraries_are_named() {
    let error = Library::find(Some(Path::new("/etc/passwd"))).unwrap_err();
    assert!(error.to_string().contains("/etc/passwd ("), "{error}");
}

/// Who knows the name of a group can join it.
#[test]
fn names_of_groups_are_shown_nowhere() {
    let stand_in = StandIn::new();
    let id = stand_in.library().unique_id().unwrap();
    assert!(id.to_bytes().starts_with(b"group 1"));
    assert_eq!(format!("{id:?}"), "UniqueId");
}
