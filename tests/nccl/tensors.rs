//! Tensors on devices and on the host, at the verbs: over NCCL, and over backends of the host.

use super::groups::{choice, group, same};
use super::stand_in::StandIn;
use super::support::on_ranks;
use ringfold::backend::nccl::Library;

use ringfold::cuda::{Context, DeviceMemory, OwnStream, Reach};
use ringfold::tensor::{DType, Device, TensorMut};

use ringfold::{Call, Communicator, ErrorKind, Lent, Options, ReduceOp};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn memory(context: &Arc<Context>, values: &[f32]) -> DeviceMemory {
    let mut memory = DeviceMemory::new(context, size_of_val(values)).unwrap();
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    memory.write(&bytes).unwrap();
    memory
}

fn values(memory: &DeviceMemory) -> Vec<f32> {
    let mut bytes = vec![0; memory.bytes()];
    memory.read(&mut bytes).unwrap();
    bytes.as_chunks().0.iter().map(|value| f32::from_ne_bytes(*value)).collect()
}

/// A tensor over all of a device's memory.
fn tensor(memory: &mut DeviceMemory, ordinal: u32) -> TensorMut<'_> {
    let (pointer, count) = (memory.address() as usize as *mut u8, memory.bytes() / 4);
    // SAFETY: so many elements are there, on this device, and borrowed for as long as the tensor is.
    unsafe { TensorMut::from_raw(pointer, DType::F32, &[count], None, Device::Cuda(ordinal)) }.unwrap()
}

#[test]
fn tensors_on_devices_are_reduced_where_they_are() {
    let stand_in = StandIn::new();
    let driver = stand_in.driver();
    group(&stand_in, 3, same, |comm| {
        let comm = comm.unwrap();
        let context = Context::new(&driver, comm.rank() as u32).unwrap();
        let mut own = memory(&context, &[comm.rank() as f32; 1000]);
        comm.all_reduce_dyn(tensor(&mut own, comm.rank() as u32), ReduceOp::Sum).unwrap();
        assert_eq!(values(&own), [3.0; 1000]);
        comm.broadcast_dyn(tensor(&mut own, comm.rank() as u32), 1).unwrap();
    });
    assert!(!stand_in.cuda_log().iter().any(|line| line.starts_with("cuMemHostAlloc")), "nothing was staged");
}

#[test]
fn tensors_of_the_host_go_over_nccl_where_that_is_allowed() {
    let stand_in = StandIn::new();
    group(&stand_in, 2, same, |comm| {
        let comm = comm.unwrap();
        let mut data = vec![comm.rank() as f32 + 1.0; 5000];
        let error = comm.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.what_to_do().is_some_and(|remedy| remedy.contains("allow staging")), "{error}");
        let with = comm.with(Options::new().staging(true));
        with.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [3.0; 5000]);
        let mut all = vec![0.0; 10_000];
        with.all_gather(&data, &mut all).unwrap();
        assert_eq!(all, [3.0; 10_000]);
    });
}

#[test]
fn a_stream_waits_for_what_was_started_while_the_host_goes_on() {
    let stand_in = StandIn::new();
    let driver = stand_in.driver();
    let waits = AtomicUsize::new(0);
    group(&stand_in, 2, same, |comm| {
        let comm = comm.unwrap();
        let ordinal = comm.rank() as u32;
        let context = Context::new(&driver, ordinal).unwrap();
        let mut own = memory(&context, &[1.0; 64]);
        let stream = OwnStream::new(&context).unwrap();
        // SAFETY: the memory is there until the stream has come so far, and nobody touches it before.
        let pending = unsafe {
            let lent = Lent::new(tensor(&mut own, ordinal).into());
            comm.start(&Call::AllReduce(ReduceOp::Sum.into()), lent)
        };
        // SAFETY: the stream lives, and nothing but what follows touches the memory.
        unsafe { pending.unwrap().wait_on(stream.stream()) }.unwrap();
        stream.synchronize().unwrap();
        assert_eq!(values(&own), [2.0; 64]);
        waits.fetch_add(1, Ordering::Relaxed);
        // What the host has given it goes by its copies, so it is over when the stream need not wait.
        let with = comm.with(Options::new().staging(true));
        let pending = with.start_all_reduce(vec![1.0f32; 64], ReduceOp::Sum).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { pending.wait_on(stream.stream()) }.unwrap(), [2.0; 64]);
    });
    assert_eq!(waits.into_inner(), 2);
}

#[test]
fn a_stream_does_not_wait_for_what_was_refused() {
    let stand_in = StandIn::new();
    group(&stand_in, 1, same, |comm| {
        let comm = comm.unwrap();
        let begun = std::time::Instant::now();
        let pending = comm.start_all_reduce(vec![1.0f32; 64], ReduceOp::Sum).unwrap();
        // SAFETY: every device has a default stream, and it is there for ever.
        let error = unsafe { pending.wait_on(ringfold::tensor::Stream::default()) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(begun.elapsed().as_secs() < 10, "its deadline was not waited for");
    });
}

#[test]
fn tensors_on_devices_go_over_backends_of_the_host_where_that_is_allowed() {
    let stand_in = StandIn::new();
    let driver = stand_in.driver();
    let comms = Communicator::local(2);
    std::thread::scope(|scope| {
        for comm in comms {
            let (driver, stand_in) = (&driver, &stand_in);
            scope.spawn(move || {
                let ordinal = comm.rank() as u32;
                comm.reach_devices_by(Arc::new(Reach::by(Some(stand_in.cuda.clone()))));
                let context = Context::new(driver, ordinal).unwrap();
                // More than a portion, so that copies and operations overlap.
                let count = (9 << 20) / 4 + 5;
                let mut own = memory(&context, &vec![comm.rank() as f32 + 1.0; count]);
                let error = comm.all_reduce_dyn(tensor(&mut own, ordinal), ReduceOp::Sum).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                let with = comm.with(Options::new().staging(true));
                with.all_reduce_dyn(tensor(&mut own, ordinal), ReduceOp::Sum).unwrap();
                assert!(values(&own) == vec![3.0; count]);
            });
        }
    });
    assert_eq!(stand_in.left(), 0, "all that was pinned is given back");
    let log = stand_in.cuda_log();
    let copies: Vec<&String> =
        log.iter().filter(|line| line.starts_with("cuMemcpy") && line.contains("(s0,")).collect();
    assert_eq!(copies.len(), 2 * 2 * 3, "three portions of each rank, there and back: {log:?}");
    assert!(
        !copies.iter().any(|line| line.contains("not what it should be")),
        "all by pinned memory: {log:?}"
    );
}

#[test]
fn a_driver_that_is_not_there_is_told_when_a_tensor_is_staged() {
    let stand_in = StandIn::new();
    let context = Context::new(&stand_in.driver(), 0).unwrap();
    let mut own = memory(&context, &[1.0; 8]);
    let comm = Communicator::local(1).remove(0);
    comm.reach_devices_by(Arc::new(Reach::by(Some("/nowhere/libcuda.so.1".into()))));
    let with = comm.with(Options::new().staging(true));
    let error = with.all_reduce_dyn(tensor(&mut own, 0), ReduceOp::Sum).unwrap_err();
    assert!(error.to_string().contains("looked for /nowhere/libcuda.so.1"), "{error}");
    assert_eq!(values(&own), [1.0; 8]);
}

#[test]
fn a_group_takes_the_driver_that_its_configuration_names() {
    let stand_in = StandIn::new();
    let (library, driver) = (Library::find(Some(&stand_in.nccl)), stand_in.driver());
    assert!(library.is_ok());
    on_ranks(1, |_| {
        let mut config = choice(&stand_in, 0, 1);
        config.backend = ringfold::config::BackendChoice::Tcp;
        let comm = Communicator::connect(&config).unwrap();
        assert_eq!(comm.backend(), "tcp");
        let context = Context::new(&driver, 0).unwrap();
        let mut own = memory(&context, &[2.0; 100]);
        let with = comm.with(Options::new().staging(true));
        with.all_reduce_dyn(tensor(&mut own, 0), ReduceOp::Sum).unwrap();
        assert_eq!(values(&own), [2.0; 100]);
    });
}
