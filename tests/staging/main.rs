//! Tensors of devices over backends that work on the host's memory: refused, or staged where that is allowed.

mod device;
#[path = "../support/mod.rs"]
mod support;

use device::{Fake, Fault, HERE, Held};
use ringfold::backend::{Backend, Buffers, Operation, Planned, STAGING};
use ringfold::collective::Request;
use ringfold::memory::device_memory::Way;
use ringfold::plan::select::Table;
use ringfold::tensor::{Stream, TensorMut, TensorRef};
use ringfold::transport::channel::channel;
use ringfold::transport::sim::{Sim, SimConfig};
use ringfold::{Call, Collective, Communicator, DType, ErrorKind, Options, Order, ReduceOp, Result};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The bytes of a portion, as `Options::staging` tells.
const PORTION: usize = 4 << 20;

/// Every backend that works on the host's memory.
const BACKENDS: [fn(usize) -> Vec<Communicator>; 3] =
    [Communicator::local, support::communicators, support::over_sockets];

/// Runs a function on a thread for each rank.
fn on<T: Send>(group: Vec<Communicator>, body: impl Fn(&Communicator) -> T + Sync) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> = group.into_iter().map(|comm| scope.spawn(move || body(&comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Elements on the host or on the device.
enum Place {
    Host(Vec<f32>),
    Device(Held),
}

impl Place {
    fn new(device: Option<&Arc<Fake>>, data: &[f32]) -> Self {
        match device {
            Some(device) => Place::Device(device.holding(data)),
            None => Place::Host(data.to_vec()),
        }
    }

    fn view(&self) -> TensorRef<'_> {
        match self {
            Place::Host(data) => TensorRef::from_slice(data),
            Place::Device(held) => held.view(),
        }
    }

    fn view_mut(&mut self) -> TensorMut<'_> {
        match self {
            Place::Host(data) => TensorMut::from_slice(data),
            Place::Device(held) => held.view_mut(),
        }
    }

    fn content(&self) -> Vec<f32> {
        match self {
            Place::Host(data) => data.clone(),
            Place::Device(held) => held.content(),
        }
    }
}

fn data(rank: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| 1.0 / (1 + 7 * i + 3 * rank) as f32).collect()
}

/// A call with the lengths of a rank's input and output, and of its tensor in place, of blocks of so many elements.
type Case = (Call<'static>, usize, usize, Option<usize>);

fn cases(rank: usize, world: usize, block: usize) -> Vec<Case> {
    const COUNTS: [usize; 3] = [3, 0, 5];
    let sum = || ReduceOp::Sum.into();
    let all = block * world;
    let root = 1 % world;
    let at_root = |root_has: usize, others: usize| Some(if rank == root { root_has } else { others });
    let (to, from) = (Some((rank + 1) % world), Some((rank + world - 1) % world));
    let mut cases: Vec<Case> = vec![
        (Call::AllReduce(sum()), block, block, Some(block)),
        (Call::AllReduce(ReduceOp::Mean.into()), block, block, Some(block)),
        (Call::Reduce(sum(), root), block, block, Some(block)),
        (Call::ReduceScatter(None, sum()), all, block, Some(all)),
        (Call::AllGather(None), block, all, Some(all)),
        (Call::Broadcast(root), block, block, Some(block)),
        (Call::Gather(None, root), block, all, at_root(all, block)),
        (Call::Scatter(None, root), all, block, at_root(all, block)),
        (Call::AllToAll(None), all, all, Some(all)),
        (Call::Messages { to, from }, block, block, None),
    ];
    if world == 3 {
        cases.push((Call::AllGather(Some(&COUNTS)), COUNTS[rank], 8, Some(8)));
        cases.push((Call::ReduceScatter(Some(&COUNTS), sum()), 8, COUNTS[rank], Some(8)));
    }
    cases
}

/// What a call makes of these lengths, with the input and the output at these places; the output, or the tensor in place.
fn outcome(
    comm: &Communicator,
    (call, input, output, in_place): &Case,
    options: &Options,
    places: (Option<&Arc<Fake>>, Option<&Arc<Fake>>),
    one: bool,
) -> Result<Vec<f32>> {
    let with = comm.with(options.clone());
    if one {
        let mut both = Place::new(places.0, &data(comm.rank(), in_place.unwrap()));
        with.call(call, both.view_mut())?;
        return Ok(both.content());
    }
    let from = Place::new(places.0, &data(comm.rank(), *input));
    let mut to = Place::new(places.1, &vec![-9.0; *output]);
    with.call(call, (from.view(), to.view_mut()))?;
    assert_eq!(from.content(), data(comm.rank(), *input), "{call:?} has written its input");
    Ok(to.content())
}

fn fixed() -> Options {
    Options::new().order(Order::Fixed).deadline(support::LONG)
}

/// Whichever ranks have which of their tensors on the device, and on every backend, the bits are those of the host.
#[test]
fn every_call_is_staged_wherever_its_tensors_are() {
    for (world, form) in [2, 3].into_iter().flat_map(|world| BACKENDS.map(|form| (world, form))) {
        on(form(world), |comm| {
            let device = Fake::new();
            comm.reach_devices_by(Arc::clone(&device) as Arc<_>);
            let staging = fixed().staging(true);
            for case in cases(comm.rank(), world, 1000) {
                // All four placements of a rank's tensors, shifted by the rank.
                for placement in 0..4 {
                    let on = |bit: usize| ((placement + comm.rank()) >> bit & 1 == 1).then_some(&device);
                    for one in [false, true] {
                        if one && case.3.is_none() {
                            continue;
                        }
                        let host = outcome(comm, &case, &fixed(), (None, None), one).unwrap();
                        let staged = outcome(comm, &case, &staging, (on(0), on(1)), one).unwrap();
                        let bits = |data: &[f32]| data.iter().map(|one| one.to_bits()).collect::<Vec<_>>();
                        assert_eq!(bits(&staged), bits(&host), "{:?} {placement} {one}", case.0);
                    }
                }
            }
            assert!(!device.log.lock().unwrap().is_empty());
            // As much as two calls' portions, until the communicator goes.
            assert!((1..=6).contains(&device.pinned()), "{}", device.pinned());
        });
    }
}

/// What is long goes in portions, of which copies and operations overlap; also of ranks whose tensors are on the host.
#[test]
fn long_tensors_go_in_portions_that_overlap() {
    let count = 3 * PORTION / 4 + 1001;
    for form in BACKENDS {
        on(form(3), |comm| {
            let device = Fake::new();
            comm.reach_devices_by(Arc::clone(&device) as Arc<_>);
            let places: Range<usize> = 0..2;
            for (call, one) in places.flat_map(|one| {
                let calls = [
                    Call::AllReduce(ReduceOp::Sum.into()),
                    Call::Reduce(ReduceOp::Max.into(), 2),
                    Call::Broadcast(1),
                ];
                calls.map(|call| (call, one == 1))
            }) {
                let on = (comm.rank() != 1).then_some(&device);
                let case = (call, count, count, Some(count));
                let before = comm.counters().of(Collective::AllReduce).completed;
                let host = outcome(comm, &case, &fixed(), (None, None), one).unwrap();
                device.log.lock().unwrap().clear();
                let staged = outcome(comm, &case, &fixed().staging(true), (on, on), one).unwrap();
                assert!(host == staged, "{:?}", case.0);
                let log = std::mem::take(&mut *device.log.lock().unwrap());
                if !matches!(case.0, Call::AllReduce(_)) {
                    continue;
                }
                assert_eq!(comm.counters().of(Collective::AllReduce).completed - before, 1 + 4);
                if comm.rank() == 1 {
                    assert!(log.is_empty());
                    continue;
                }
                use Way::{ToDevice, ToHost};
                let ways: Vec<Way> = log.iter().map(|(way, _)| *way).collect();
                assert_eq!(ways, [ToHost, ToHost, ToDevice, ToHost, ToDevice, ToHost, ToDevice, ToDevice]);
                let bytes: usize = log.iter().map(|(_, bytes)| bytes).sum();
                assert_eq!(bytes, 2 * 4 * count);
            }
            assert_eq!(device.pinned(), if comm.rank() == 1 { 0 } else { 6 });
        });
    }
}

/// A call that one rank's backend cannot reach is refused there, by its place, its backend and what to do; the group goes on.
#[test]
fn without_leave_a_tensor_of_a_device_is_refused_and_the_group_goes_on() {
    for form in BACKENDS {
        on(form(3), |comm| {
            let device = Fake::new();
            comm.reach_devices_by(Arc::clone(&device) as Arc<_>);
            let sum = ReduceOp::Sum;
            if comm.rank() == 1 {
                let refused = |what: &str, result: Result<()>| {
                    let error = result.expect_err(what);
                    assert_eq!(
                        (error.kind(), error.rank()),
                        (ErrorKind::Unsupported, Some(1)),
                        "{what}: {error}"
                    );
                    let text = error.to_string();
                    assert!(text.contains("memory of CUDA device 5"), "{what}: {text}");
                    assert!(text.contains(&format!("the backend {}", comm.backend())), "{what}: {text}");
                    assert!(text.contains("Options::staging"), "{what}: {text}");
                };
                let (mut held, host) = (device.holding(&[1.0; 6]), vec![1.0f32; 6]);
                refused("in place", comm.all_reduce_dyn(held.view_mut(), sum));
                refused("output", comm.all_reduce_dyn((TensorRef::from_slice(&host), held.view_mut()), sum));
                let mut out = vec![0.0f32; 6];
                refused("input", comm.all_reduce_dyn((held.view(), TensorMut::from_slice(&mut out)), sum));
                // What nobody would be there to copy back.
                let staging = comm.with(Options::new().staging(true));
                let lent = |held: &mut Held| {
                    // SAFETY: it is not used where it is refused.
                    unsafe { ringfold::Lent::new(held.view_mut().into()) }
                };
                let call = Call::AllReduce(sum.into());
                refused("started", staging.start(&call, lent(&mut held)).map(drop));
                refused("prepared", staging.prepare(&call, lent(&mut held)).map(drop));
                refused("gathered", staging.scope(|scope| scope.all_reduce(held.view_mut(), sum)));
                refused("batched", staging.all_reduce_batch(&mut [held.view_mut()], sum));
                assert_eq!(held.content(), [1.0; 6]);
            }
            let mut one = [1.0f32];
            comm.all_reduce(&mut one, sum).unwrap();
            assert_eq!(one, [3.0]);
            assert!(device.log.lock().unwrap().is_empty());
        });
    }
}

#[test]
fn without_anything_that_reaches_the_device_staging_is_refused() {
    let comm = Communicator::local(1).remove(0);
    let mut held = Fake::new().holding(&[1.0; 6]);
    let error =
        comm.with(Options::new().staging(true)).all_reduce_dyn(held.view_mut(), ReduceOp::Sum).unwrap_err();
    // For want of a driver, or of so many devices.
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("CUDA"), "{error}");
    comm.barrier().unwrap();
}

/// Backends that get such an operation all the same, by another way than a communicator's, do not touch its memory either.
#[test]
fn backends_of_the_host_refuse_operations_on_devices() {
    let refuse = |mut backend: Box<dyn Backend>| {
        let request = Request::new(Collective::AllReduce, 1, DType::F32, 6);
        let schedule = Table::default().select(&request).unwrap();
        let mut held = Fake::new().holding(&[1.0; 6]);
        let pointer = held.view_mut().pointer();
        let buffers = Buffers { input: pointer, output: pointer };
        let mut request = request;
        request.in_place = true;
        // SAFETY: the memory is there, on the device, and it is refused.
        let operation = unsafe { Operation::new(request, schedule, 0, false, Duration::MAX, buffers) };
        let error = backend.submit(operation.on_device(HERE)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains(backend.name()) && text.contains("CUDA device 5"), "{text}");
        assert!(!backend.works_on_devices());
    };
    refuse(Box::new(Planned::new("channel", channel(1).remove(0), 0, 0, STAGING)));
    let transport = Sim::new(SimConfig::new(1, 7)).transport(0);
    refuse(Box::new(Planned::new("sim", transport, 0, 0, STAGING)));
}

/// Where a copy fails others are in the call already, so the group fails, with the reason, on every rank.
#[test]
fn a_copy_that_fails_fails_the_group() {
    for (number, fault) in [(0, Fault::Fails), (1, Fault::Refused), (1, Fault::Fails)] {
        for form in BACKENDS {
            let results = on(form(2), |comm| {
                let device = Fake::new();
                comm.reach_devices_by(Arc::clone(&device) as Arc<_>);
                let staging = comm.with(Options::new().staging(true).deadline(support::LONG));
                let result = if comm.rank() == 0 {
                    *device.fault.lock().unwrap() = Some((number, fault));
                    let mut held = device.holding(&[1.0; 600]);
                    staging.all_reduce_dyn(held.view_mut(), ReduceOp::Sum)
                } else {
                    staging.all_reduce(&mut [1.0f32; 600], ReduceOp::Sum).and_then(|()| comm.barrier())
                };
                (result.unwrap_err(), comm.barrier().unwrap_err())
            });
            for (rank, (_, after)) in results.iter().enumerate() {
                assert_eq!(after.kind(), ErrorKind::Aborted, "rank {rank}: {after}");
                assert!(after.to_string().contains("a copy between host and device failed"), "{after}");
                assert_eq!(after.culprit(), Some(0));
            }
            assert_eq!(results[0].0.kind(), ErrorKind::Io, "{}", results[0].0);
        }
    }
}

/// A copy that is not over at the deadline keeps what it may still touch.
#[test]
fn a_copy_that_hangs_ends_at_the_deadline_and_keeps_its_memory() {
    for number in [0, 1] {
        let comm = Communicator::local(1).remove(0);
        let device = Fake::new();
        comm.reach_devices_by(Arc::clone(&device) as Arc<_>);
        *device.fault.lock().unwrap() = Some((number, Fault::Hangs));
        let mut held = device.holding(&[1.0; 600]);
        let staging = comm.with(Options::new().staging(true).deadline(Duration::from_millis(50)));
        let error = staging.all_reduce_dyn(held.view_mut(), ReduceOp::Sum).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
        assert!(error.to_string().contains("still be under way"), "{error}");
        assert_eq!(comm.barrier().unwrap_err().kind(), ErrorKind::Aborted);
        drop(comm);
        assert_eq!(device.pinned(), 1);
    }
}

#[test]
fn copies_follow_the_stream_that_is_given() {
    let comm = Communicator::local(1).remove(0);
    let device = Fake::new();
    comm.reach_devices_by(Arc::clone(&device) as Arc<_>);
    let mut held = device.holding(&[1.0; 6]);
    // SAFETY: the device has any stream.
    let options = unsafe { Options::new().staging(true).stream(Stream::from_raw(0x70 as *mut _)) };
    comm.with(options).all_reduce_dyn(held.view_mut(), ReduceOp::Sum).unwrap();
    assert_eq!(*device.streams.lock().unwrap(), [0x70, 0x70]);
    // A started one of the host's is complete for the host, and so for any stream.
    let pending = comm.start_all_reduce(vec![2.0f32; 10], ReduceOp::Sum).unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { pending.wait_on(Stream::default()) }.unwrap(), [2.0; 10]);
}

/// A strided tensor of the host goes by the same portions as those of others, packed where that is asked for.
#[test]
fn strided_tensors_are_packed_and_staged_with_the_others() {
    let count = PORTION / 4 + 77;
    on(Communicator::local(2), |comm| {
        let device = Fake::new();
        comm.reach_devices_by(Arc::clone(&device) as Arc<_>);
        let options = Options::new().staging(true).pack(true).deadline(support::LONG);
        if comm.rank() == 0 {
            let mut wide = vec![1.0f32; 2 * count];
            let pointer = wide.as_mut_ptr().cast();
            // SAFETY: every other element of a vector that is borrowed exclusively.
            let strided = unsafe {
                TensorMut::from_raw(pointer, DType::F32, &[count], Some(&[2]), ringfold::tensor::Device::Host)
            };
            comm.with(options).all_reduce_dyn(strided.unwrap(), ReduceOp::Sum).unwrap();
            assert!(wide.chunks_exact(2).all(|pair| pair == [3.0, 1.0]));
        } else {
            let mut held = device.holding(&vec![2.0; count]);
            comm.with(options).all_reduce_dyn(held.view_mut(), ReduceOp::Sum).unwrap();
            assert!(held.content().iter().all(|&one| one == 3.0));
        }
    });
}
