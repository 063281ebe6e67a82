//! Which calls are made, with which arguments, on which streams, in which order.

use super::calls::call::{Call, Shape, prepare};
use super::calls::group::Group;
use super::rank::Source as _;
use super::rank::{Place, Rank, ranks, setup, store, upload};
use super::stand_in::{Age, StandIn};
use ringfold::backend::nccl::Landing;
use ringfold::backend::{Backend, Buffers, Operation, Piece, Pieces, Progress, Ticket};
use ringfold::collective::Request;
use ringfold::cuda::{DeviceMemory, OwnStream};
use ringfold::tensor::Device;
use ringfold::{Collective, DType, ReduceOp};
use std::sync::Arc;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

fn lines(log: Vec<String>) -> Vec<String> {
    log.into_iter().filter(|line| !line.contains("Create") && !line.contains("Alloc(")).collect()
}

fn call(group: &mut Vec<Rank>, call: &Call) {
    let (jobs, _) = prepare(call, group.len(), call.draw(), 1);
    for done in group.run(jobs.into_iter().map(|job| vec![job]).collect()) {
        done[0].1.clone().unwrap();
    }
}

fn pointer(memory: &DeviceMemory) -> *mut u8 {
    std::ptr::without_provenance_mut(memory.address() as usize)
}

fn over(memory: &DeviceMemory) -> Buffers {
    Buffers { input: pointer(memory), output: pointer(memory) }
}

fn all_reduce(world: usize, dtype: DType, count: usize) -> Request {
    let mut request = Request::new(Collective::AllReduce, world, dtype, count);
    request.in_place = true;
    request
}

#[test]
fn a_group_is_made_without_blocking_and_ended_in_good_order() {
    let stand_in = StandIn::new();
    drop(ranks(&stand_in, 1, Place::OnDevice, 64));
    assert_eq!(
        stand_in.nccl_log(),
        [
            "ncclGetUniqueId()",
            "ncclCommInitRankConfig(r0 of 1, size 24, version 21400, blocking 0)",
            "ncclCommFinalize(r0)",
            "ncclCommDestroy(r0)"
        ]
    );
}

#[test]
fn collectives_become_the_calls_of_nccls_that_they_are() {
    for (age, exchange) in [
        (Age::New, vec!["ncclAlltoAll(r0, n3, t7, o0, p0)"]),
        (
            Age::Middle,
            vec![
                "ncclGroupStart()",
                "ncclSend(r0, n3, t7, o0, p1)",
                "ncclRecv(r0, n3, t7, o0, p1)",
                "ncclGroupEnd()",
            ],
        ),
    ] {
        let stand_in = StandIn::of(age);
        let mut group = ranks(&stand_in, 2, Place::OnDevice, 64);
        stand_in.nccl_log();
        let mut made = |one: Call| -> Vec<String> {
            call(&mut group, &one);
            // Of rank 0; groups are of all.
            let mine = |line: &String| !line.contains("(r1");
            let without_stream = |line: String| match line.find(", s") {
                Some(at) => format!("{})", &line[..at]),
                None => line,
            };
            let mut lines: Vec<String> =
                stand_in.nccl_log().into_iter().filter(mine).map(without_stream).collect();
            // The other rank makes as many.
            let groups = lines.iter().filter(|line| line.starts_with("ncclGroup")).count();
            if groups > 0 {
                lines.retain(|line| !line.starts_with("ncclGroup"));
                lines.insert(0, "ncclGroupStart()".into());
                lines.push("ncclGroupEnd()".into());
            }
            lines
        };
        let of = |collective, dtype| Call::new(collective, dtype, 3);
        let blocks = |collective| of(collective, DType::F32).shape(Shape::Blocks(vec![4, 2]));
        assert_eq!(
            made(of(Collective::AllReduce, DType::F64).op(ReduceOp::Max)),
            ["ncclAllReduce(r0, n3, t8, o2, p0)"]
        );
        assert_eq!(
            made(of(Collective::AllReduce, DType::BF16).op(ReduceOp::Mean)),
            ["ncclAllReduce(r0, n3, t9, o4, p0)"]
        );
        assert_eq!(made(of(Collective::Reduce, DType::I32).root(1)), ["ncclReduce(r0, n3, t2, o0, p1)"]);
        // What NCCL has no type for is moved as bytes.
        assert_eq!(
            made(of(Collective::Broadcast, DType::I16).root(1)),
            ["ncclBroadcast(r0, n6, t1, o0, p1)"]
        );
        assert_eq!(made(of(Collective::AllGather, DType::F32)), ["ncclAllGather(r0, n3, t7, o0, p0)"]);
        assert_eq!(
            made(of(Collective::ReduceScatter, DType::F32)),
            ["ncclReduceScatter(r0, n3, t7, o0, p0)"]
        );
        assert_eq!(
            made(blocks(Collective::AllGather)),
            [
                "ncclGroupStart()",
                "ncclBroadcast(r0, n4, t7, o0, p0)",
                "ncclBroadcast(r0, n2, t7, o0, p1)",
                "ncclGroupEnd()"
            ]
        );
        assert_eq!(
            made(blocks(Collective::ReduceScatter)),
            [
                "ncclGroupStart()",
                "ncclReduce(r0, n4, t7, o0, p0)",
                "ncclReduce(r0, n2, t7, o0, p1)",
                "ncclGroupEnd()"
            ]
        );
        assert_eq!(made(of(Collective::AllToAll, DType::F32)), exchange);
        assert_eq!(
            made(of(Collective::Gather, DType::F32).root(1)),
            ["ncclGroupStart()", "ncclSend(r0, n3, t7, o0, p1)", "ncclGroupEnd()"]
        );
        assert_eq!(
            made(of(Collective::Scatter, DType::F32).root(1)),
            ["ncclGroupStart()", "ncclRecv(r0, n3, t7, o0, p1)", "ncclGroupEnd()"]
        );
        assert_eq!(made(of(Collective::Barrier, DType::U8)), ["ncclAllReduce(r0, n1, t1, o0, p0)"]);
    }
}

#[test]
fn an_operation_on_a_device_is_one_call_and_one_mark_on_the_callers_stream() {
    let stand_in = StandIn::new();
    let mut group = ranks(&stand_in, 1, Place::OnDevice, 64);
    let rank = &mut group[0];
    let memory = upload(&rank.context, &[0; 64]);
    let stream = OwnStream::new(&rank.context).unwrap();
    stand_in.cuda_log();
    let theirs =
        rank.operation(all_reduce(1, DType::F32, 16), over(&memory), LONG).on_stream(stream.stream());
    let own = rank.operation(all_reduce(1, DType::F32, 16), over(&memory), LONG);
    for operation in [theirs, own] {
        rank.backend.run(&mut Some(operation)).unwrap();
    }
    let log = lines(stand_in.cuda_log());
    let calls: Vec<&str> = log.iter().map(|line| line.split('(').next().unwrap()).collect();
    assert_eq!(calls, ["ncclAllReduce", "cuEventRecord", "ncclAllReduce", "cuEventRecord"]);
    let number = |line: &String| {
        let at = line.rfind('s').unwrap();
        line[at + 1..].chars().take_while(char::is_ascii_digit).collect::<String>()
    };
    let log: Vec<String> = log.iter().map(|line| line.trim_end_matches(" in place").to_owned()).collect();
    assert_eq!(number(&log[0]), number(&log[1]), "{log:?}");
    assert_eq!(number(&log[2]), number(&log[3]));
    assert_ne!(number(&log[0]), number(&log[2]), "the caller's stream and the backend's are two");
}

/// Its own stream is one that the device's default stream goes before and after.
#[test]
fn without_a_stream_the_default_one_is_followed() {
    let stand_in = StandIn::new();
    drop(ranks(&stand_in, 1, Place::OnDevice, 64));
    let log = stand_in.cuda_log();
    assert!(log.iter().any(|line| line == "cuStreamCreate(s1, d0, flags 0)"), "{log:?}");
}

#[test]
fn several_operations_are_given_to_the_device_before_the_first_is_done() {
    let stand_in = StandIn::new();
    let mut group = ranks(&stand_in, 1, Place::OnDevice, 64);
    let rank = &mut group[0];
    let memory = upload(&rank.context, &[0; 64]);
    stand_in.set("hold", 1);
    stand_in.cuda_log();
    let tickets: Vec<Ticket> = (0..3)
        .map(|_| {
            let operation = rank.operation(all_reduce(1, DType::F32, 16), over(&memory), LONG);
            rank.backend.submit(operation).unwrap()
        })
        .collect();
    assert!(matches!(rank.backend.progress(), Progress::Idle));
    let calls = stand_in.cuda_log().iter().filter(|line| line.starts_with("ncclAllReduce")).count();
    assert_eq!(calls, 3);
    stand_in.set("hold", 0);
    for ticket in tickets {
        match rank.backend.progress() {
            Progress::Done(done, result) => {
                assert_eq!(done, ticket);
                result.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

/// NCCL without blocking may queue a call later than it takes it: the mark comes behind it, and no other call in between.
#[test]
fn marks_come_behind_what_nccl_queues_in_its_own_time() {
    for (place, portion) in [(Place::OnDevice, 64), (Place::Host, 64)] {
        let stand_in = StandIn::new();
        let mut group = ranks(&stand_in, 2, place, portion);
        stand_in.set("launch_polls", 3);
        for count in [5, 100] {
            let one = Call::new(Collective::AllReduce, DType::I32, count);
            let (jobs, expected) = prepare(&one, 2, one.draw(), 1);
            for (rank, done) in group.run(jobs.into_iter().map(|job| vec![job]).collect()).iter().enumerate()
            {
                done[0].1.clone().unwrap();
                done[0].0.check(&expected[rank]).unwrap();
            }
        }
    }
}

#[test]
fn a_batch_is_one_group() {
    for place in [Place::OnDevice, Place::Host] {
        let stand_in = StandIn::new();
        let mut group = ranks(&stand_in, 1, place, 16);
        let rank = &mut group[0];
        let lens = [3usize, 1, 8];
        let mut host: Vec<Vec<i32>> = lens.iter().map(|&len| vec![7; len]).collect();
        let mut results: Vec<Vec<i32>> = lens.iter().map(|&len| vec![0; len]).collect();
        let devices: Vec<[DeviceMemory; 2]> =
            lens.iter().map(|&len| [(); 2].map(|()| upload(&rank.context, &vec![1; 4 * len]))).collect();
        let mut pieces = Pieces::default();
        for (index, &len) in lens.iter().enumerate() {
            let (input, output) = match place {
                Place::Host => {
                    (host[index].as_mut_ptr().cast::<u8>(), results[index].as_mut_ptr().cast::<u8>())
                }
                _ => (pointer(&devices[index][0]), pointer(&devices[index][1])),
            };
            pieces.push(Piece { input, output, bytes: 4 * len });
        }
        let request = Request::new(Collective::AllReduce, 1, DType::I32, 12);
        let nowhere = Buffers { input: std::ptr::null(), output: std::ptr::null_mut() };
        let operation = rank.operation(request, nowhere, LONG);
        // SAFETY: the pieces are kept until the operation is done.
        let operation = unsafe { operation.in_pieces(Arc::new(pieces)) };
        stand_in.nccl_log();
        rank.backend.run(&mut Some(operation)).unwrap();
        let log: Vec<String> =
            stand_in.nccl_log().iter().map(|line| line.split(", t").next().unwrap().to_owned()).collect();
        if place == Place::OnDevice {
            let expected = [
                "ncclGroupStart()",
                "ncclAllReduce(r0, n3",
                "ncclAllReduce(r0, n1",
                "ncclAllReduce(r0, n8",
                "ncclGroupEnd()",
            ];
            assert_eq!(log, expected);
        } else {
            // Three portions of four, whatever the pieces are.
            assert_eq!(log, ["ncclAllReduce(r0, n4"; 3]);
            assert_eq!(results, host);
        }
    }
}

#[test]
fn host_memory_goes_through_pinned_memory_in_a_pipeline() {
    let stand_in = StandIn::new();
    let mut group = ranks(&stand_in, 1, Place::Host, 64);
    let rank = &mut group[0];
    let input: Vec<f32> = (0..100).map(|i| i as f32).collect();
    let mut output = vec![0f32; 100];
    let buffers = Buffers { input: input.as_ptr().cast(), output: output.as_mut_ptr().cast() };
    stand_in.cuda_log();
    stand_in.set("hold", 1);
    let operation = rank.operation(Request::new(Collective::AllReduce, 1, DType::F32, 100), buffers, LONG);
    let ticket = rank.backend.submit(operation).unwrap();
    while !matches!(rank.backend.progress(), Progress::Idle) {}
    // Four portions of 16 elements are under way, on streams of their own, and none is done.
    let log = stand_in.cuda_log();
    assert!(log.iter().any(|line| line.starts_with("cuMemHostAlloc(64, flags 1)")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("not what it should be")), "{log:?}");
    let log = lines(log);
    let calls: Vec<&str> = log.iter().map(|line| line.split('(').next().unwrap()).collect();
    let portion = ["cuMemcpyHtoDAsync", "ncclAllReduce", "cuMemcpyDtoHAsync", "cuEventRecord"];
    assert_eq!(calls, portion.repeat(4));
    let streams: std::collections::BTreeSet<&str> =
        log.iter().filter_map(|line| line.strip_prefix("cuEventRecord(")).collect();
    assert_eq!(streams.len(), 4, "{log:?}");
    stand_in.set("hold", 0);
    rank.drive(ticket).unwrap();
    assert_eq!(output, input);
    let calls = lines(stand_in.cuda_log()).iter().filter(|line| line.starts_with("ncclAllReduce")).count();
    assert_eq!(calls, 3, "the other portions");
    assert!(rank.backend.meter().snapshot().scratch_bytes >= 8 * 64);
}

#[test]
fn memory_of_the_host_is_not_staged_without_leave_nor_memory_of_another_device_used() {
    let stand_in = StandIn::new();
    let store = store(1);
    let setup = setup(&stand_in, &store, 0, 64);
    let context = Arc::clone(&setup.context);
    let id = stand_in.library().unique_id().unwrap();
    let mut backend = ringfold::backend::nccl::NcclBackend::new(setup, id, LONG).unwrap();
    let mut data = [1f32; 4];
    let buffers = Buffers { input: data.as_ptr().cast(), output: data.as_mut_ptr().cast() };
    let make = |buffers| {
        // SAFETY: the memory is there for as long as the test.
        unsafe {
            Operation::new(all_reduce(1, DType::F32, 4), super::rank::any_schedule(), 0, false, LONG, buffers)
        }
    };
    let refuse = |backend: &mut ringfold::backend::nccl::NcclBackend, operation| {
        backend.submit(operation).unwrap_err().to_string()
    };
    let text = refuse(&mut backend, make(buffers));
    assert!(text.contains("unsupported: the nccl backend cannot reach memory of the host"), "{text}");
    assert!(text.contains("allow staging"), "{text}");
    let memory = upload(&context, &[0; 32]);
    let text = refuse(&mut backend, make(over(&memory)).on_device(Device::Cuda(2)));
    assert!(text.contains("memory of CUDA device 2, in a group whose device here is 0"), "{text}");
    let odd = Buffers { input: pointer(&memory).wrapping_add(2), output: pointer(&memory).wrapping_add(2) };
    let text = refuse(&mut backend, make(odd).on_device(Device::Cuda(0)));
    assert!(text.contains("not aligned"), "{text}");
}

#[test]
fn a_stream_can_wait_for_an_operation_while_the_host_goes_on() {
    let stand_in = StandIn::new();
    let mut group = ranks(&stand_in, 1, Place::OnDevice, 64);
    let rank = &mut group[0];
    let memory = upload(&rank.context, &[0; 64]);
    let stream = OwnStream::new(&rank.context).unwrap();
    let landing = Landing::new();
    // SAFETY: the stream lives.
    let early = unsafe { landing.wait_on(stream.stream(), Duration::from_millis(5)) };
    assert_eq!(early.unwrap_err().kind(), ringfold::ErrorKind::Deadline);
    stand_in.set("hold", 1);
    let operation = rank.operation(all_reduce(1, DType::F32, 16), over(&memory), LONG);
    let ticket = rank.backend.submit(operation.landing_at(Arc::clone(&landing))).unwrap();
    assert!(matches!(rank.backend.progress(), Progress::Idle));
    // SAFETY: the stream lives.
    assert!(unsafe { landing.wait_on(stream.stream(), LONG) }.unwrap());
    assert!(!stream.is_done().unwrap(), "the operation is not done, and so neither is what waits for it");
    stand_in.set("hold", 0);
    rank.drive(ticket).unwrap();
    stream.synchronize().unwrap();
    // SAFETY: the stream lives; there is nothing to wait for any more.
    assert!(!unsafe { landing.wait_on(stream.stream(), Duration::ZERO) }.unwrap());
    let log = stand_in.cuda_log();
    assert_eq!(log.iter().filter(|line| line.starts_with("cuStreamWaitEvent")).count(), 1, "{log:?}");
}
