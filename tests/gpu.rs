//! NCCL on the GPUs that are here: `cargo test --features gpu-tests`. One rank a GPU, as threads of this process; `RINGFOLD_NCCL` and
//! `RINGFOLD_CUDA` name the libraries where the system's loader does not find them.

#![allow(dead_code)]
#![allow(clippy::duplicate_mod, reason = "what finds a free port is a part of both")]

mod calls;
#[path = "nccl/rank.rs"]
mod rank;
mod support;
#[path = "nccl/sweep.rs"]
mod sweep;

use calls::call::Call;
use rank::{Place, Rank, Source, ranks, upload};
use ringfold::backend::nccl::{Landing, Library, PORTION};
use ringfold::backend::{Backend, Buffers};
use ringfold::collective::Request;
use ringfold::config::BackendChoice;
use ringfold::cuda::{Context, DeviceMemory, Driver, OwnStream};
use ringfold::{Collective, Communicator, Config, DType, ErrorKind, Options};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use support::{config, launcher, on_ranks};

const LONG: Duration = Duration::from_secs(60);

/// What this machine has.
struct Here(Config);

impl Source for Here {
    fn library(&self) -> Library {
        Library::find(self.0.nccl.as_deref()).unwrap()
    }

    fn context(&self, ordinal: u32) -> Arc<Context> {
        Context::new(&self.driver(), ordinal).unwrap()
    }
}

impl Here {
    fn new() -> Here {
        Here(Config::from_env().unwrap())
    }

    fn driver(&self) -> Driver {
        Driver::find(self.0.cuda.as_deref()).unwrap()
    }

    /// The sizes of groups to be tried: one GPU, and all of them up to four.
    fn worlds(&self) -> Vec<usize> {
        let all = self.driver().count().unwrap().min(4) as usize;
        if all > 1 { vec![1, all] } else { vec![1] }
    }
}

fn pointer(memory: &DeviceMemory) -> *mut u8 {
    std::ptr::without_provenance_mut(memory.address() as usize)
}

fn all_reduce(rank: &mut Rank, memory: &DeviceMemory, count: usize) -> ringfold::backend::Operation {
    let mut request = Request::new(Collective::AllReduce, rank.world, DType::F32, count);
    request.in_place = true;
    rank.operation(request, Buffers { input: pointer(memory), output: pointer(memory) }, LONG)
}

#[test]
fn every_call_on_devices() {
    let here = Here::new();
    for world in here.worlds() {
        sweep::every_call(&mut ranks(&here, world, Place::OnDevice, PORTION), Place::OnDevice);
    }
}

#[test]
fn every_call_staged() {
    let here = Here::new();
    for world in here.worlds() {
        // Small portions, so that each call is several.
        sweep::every_call(&mut ranks(&here, world, Place::Host, 64), Place::Host);
    }
}

#[test]
fn long_messages_staged() {
    let here = Here::new();
    for world in here.worlds() {
        let mut group = ranks(&here, world, Place::Host, PORTION);
        for collective in [Collective::AllReduce, Collective::AllGather, Collective::ReduceScatter] {
            sweep::run(&mut group, &Call::new(collective, DType::F32, 5_000_001), 7);
        }
    }
}

#[test]
fn streams_given_and_streams_that_wait() {
    let here = Here::new();
    let mut group = ranks(&here, 1, Place::OnDevice, PORTION);
    let rank = &mut group[0];
    let values: Vec<u8> = (0..1 << 20).flat_map(|i: i32| (i as f32).to_ne_bytes()).collect();
    let memory = upload(&rank.context, &values);
    let stream = OwnStream::new(&rank.context).unwrap();
    let operation = all_reduce(rank, &memory, values.len() / 4).on_stream(stream.stream());
    rank.backend.run(&mut Some(operation)).unwrap();
    assert!(stream.is_done().unwrap());
    let landing = Landing::new();
    let operation = all_reduce(rank, &memory, values.len() / 4).landing_at(Arc::clone(&landing));
    let ticket = rank.backend.submit(operation).unwrap();
    let _ = rank.backend.progress();
    // SAFETY: the stream lives.
    unsafe { landing.wait_on(stream.stream(), LONG) }.unwrap();
    rank.drive(ticket).unwrap();
    stream.synchronize().unwrap();
    let mut result = vec![0; values.len()];
    memory.read(&mut result).unwrap();
    assert!(result == values, "one rank's sum is its own values");
}

#[test]
fn devices_are_described_and_their_memory_is_known() {
    let here = Here::new();
    let context = here.context(0);
    let device = context.device();
    assert!(device.uuid.starts_with("GPU-") || device.uuid.starts_with("MIG-"), "{device:?}");
    assert!(device.pci.contains(':') && !device.name.is_empty(), "{device:?}");
    let memory = upload(&context, &[1, 2, 3]);
    assert_eq!(context.device_of(pointer(&memory)).unwrap(), Some(0));
    assert_eq!(context.device_of([0u8].as_ptr()).unwrap(), None);
    let none = here.driver().count().unwrap();
    assert_eq!(Context::new(&here.driver(), none).unwrap_err().kind(), ErrorKind::Unavailable);
}

/// Communicators of as many ranks, the k-th on the device that is said for it.
fn communicators<T: Send>(
    devices: &[u32],
    body: impl Fn(ringfold::Result<Communicator>) -> T + Sync,
) -> Vec<T> {
    let (here, world) = (Here::new(), devices.len());
    let server = launcher(world, Duration::from_secs(5));
    let store = server.address().to_string();
    on_ranks(world, |rank| {
        let mut config = config(rank, world)
            .with_store(&*store)
            .with_launcher_hosts_store(true)
            .with_init_deadline(LONG)
            .with_backend(BackendChoice::Nccl)
            .with_cuda_device(devices[rank]);
        (config.nccl, config.cuda) = (here.0.nccl.clone(), here.0.cuda.clone());
        body(Communicator::connect(&config))
    })
}

#[test]
fn communicators_form_divide_and_abort() {
    for world in Here::new().worlds() {
        let devices: Vec<u32> = (0..world as u32).collect();
        communicators(&devices, |comm| {
            let comm = comm.unwrap();
            assert_eq!(comm.backend(), "nccl");
            comm.barrier().unwrap();
            let part = comm.split(Some(comm.rank() as u32 % 2), 0).unwrap().unwrap();
            part.barrier().unwrap();
            comm.barrier().unwrap();
            comm.abort_handle().abort("the test is over");
            assert_eq!(comm.barrier().unwrap_err().kind(), ErrorKind::Aborted);
        });
    }
}

#[test]
fn a_rank_that_does_not_come_ends_the_others_at_their_deadline() {
    let here = Here::new();
    let Some(&world) = here.worlds().get(1) else {
        println!("one GPU: nobody to wait for");
        return;
    };
    let devices: Vec<u32> = (0..world as u32).collect();
    let all = std::sync::Barrier::new(world);
    communicators(&devices, |comm| {
        let comm = comm.unwrap();
        comm.barrier().unwrap();
        if comm.rank() > 0 {
            let with = comm.with(Options::new().deadline(Duration::from_secs(1)));
            let error = with.barrier().unwrap_err();
            assert_eq!((error.kind(), error.culprit()), (ErrorKind::Deadline, Some(0)), "{error}");
        }
        all.wait();
    });
}

#[test]
fn two_ranks_on_one_gpu_are_told() {
    for error in communicators(&[0, 0], |comm| comm.expect_err("they share a GPU")) {
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("ranks 0 and 1 are on one GPU"), "{error}");
    }
}

#[test]
fn perf_measures_by_nccl() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringfold"));
    command.args(["perf", "barrier", "-n", "1", "--backend", "nccl", "--seconds", "0.1", "--json"]);
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(text.contains("\"backend\":\"nccl\""), "{text}");
}
