//! Groups that fail: deadlines, asynchronous errors, refused calls, aborts that take their time.

use super::calls::call::{Call, prepare};
use super::calls::group::Group;
use super::rank::{Place, ranks, ranks_with, store, upload};
use super::stand_in::StandIn;
use super::support::on_ranks;
use ringfold::backend::nccl::Landing;
use ringfold::backend::{Backend, Buffers};
use ringfold::collective::Request;
use ringfold::error::{Cause, CauseKind};
use ringfold::{Collective, DType, Error, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(200);
/// Much longer than anything here may take.
const HANG: Duration = Duration::from_secs(15);

fn barrier(deadline: Duration) -> Call {
    Call::new(Collective::Barrier, DType::U8, 1).deadline(deadline)
}

fn errors(group: &mut Vec<super::rank::Rank>, call: &Call) -> Vec<Error> {
    let (jobs, _) = prepare(call, group.len(), call.draw(), 1);
    let done = group.run(jobs.into_iter().map(|job| vec![job]).collect());
    done.into_iter().map(|mut done| done.remove(0).1.unwrap_err()).collect()
}

#[test]
fn a_group_that_is_never_made_ends_at_the_deadline() {
    let stand_in = StandIn::new();
    stand_in.set("init_hang", 1);
    let begin = Instant::now();
    let store = store(2);
    for made in ranks_with(&stand_in, &store, Place::Host, 64, SHORT) {
        let error = made.err().expect("it never ends");
        assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
        assert!(error.to_string().contains("joining the group, and the deadline passed"), "{error}");
    }
    assert!(begin.elapsed() < HANG);
    let aborts = stand_in.nccl_log().iter().filter(|line| line.starts_with("ncclCommAbort")).count();
    assert_eq!(aborts, 2);
    // Each blames the other: the store finds who has not complained.
    let heard = store.heard.lock().unwrap();
    assert!(heard.iter().all(|cause| cause.kind == CauseKind::Deadline && cause.culprit != cause.reporter));
}

#[test]
fn a_rank_that_cannot_join_is_named_by_all() {
    let stand_in = StandIn::new();
    stand_in.set("fail_join", 1);
    let begin = Instant::now();
    let made = ranks_with(&stand_in, &store(2), Place::Host, 64, Duration::from_secs(30));
    for made in made {
        let error = made.err().expect("rank 1 cannot join");
        assert_eq!(error.culprit(), Some(1), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("ncclCommInitRankConfig failed with ncclSystemError (unhandled system error)"),
            "{text}"
        );
        assert!(text.contains("no way to the others"), "{text}");
    }
    assert!(begin.elapsed() < HANG, "rank 0 was told, and did not wait for its deadline");
}

#[test]
fn an_operation_that_does_not_end_is_aborted_at_its_deadline() {
    for place in [Place::Host, Place::OnDevice] {
        let stand_in = StandIn::new();
        let mut group = ranks(&stand_in, 2, place, 64);
        stand_in.set("hang", 1);
        let begin = Instant::now();
        let call = Call::new(Collective::AllReduce, DType::F32, 100).deadline(SHORT);
        for (rank, error) in errors(&mut group, &call).into_iter().enumerate() {
            assert_eq!(error.kind(), ErrorKind::Deadline, "{error}");
            assert_eq!((error.collective(), error.sequence()), (Some("all_reduce"), Some(0)));
            assert!(error.to_string().contains("waited 200ms for NCCL's all_reduce"), "{rank}: {error}");
        }
        assert!(begin.elapsed() >= SHORT && begin.elapsed() < HANG);
        let aborts = stand_in.nccl_log().iter().filter(|line| line.starts_with("ncclCommAbort")).count();
        assert_eq!(aborts, 2, "what hangs on the devices was ended");
        // The group is spoilt: the first cause, at once.
        let again = Instant::now();
        for error in errors(&mut group, &barrier(Duration::from_secs(60))) {
            assert_eq!(error.kind(), ErrorKind::Deadline);
        }
        assert!(again.elapsed() < Duration::from_secs(5));
        drop(group);
        assert_eq!(stand_in.left(), 0, "all memory is given back");
    }
}

#[test]
fn an_asynchronous_error_is_named_with_rank_and_collective() {
    let stand_in = StandIn::new();
    let mut group = ranks(&stand_in, 3, Place::OnDevice, 64);
    for _ in 0..2 {
        let (jobs, _) = prepare(&barrier(HANG), 3, barrier(HANG).draw(), 1);
        group.run(jobs.into_iter().map(|job| vec![job]).collect());
    }
    stand_in.set("async_rank", 1);
    stand_in.set("async_after", 3);
    stand_in.set("hang", 1);
    let begin = Instant::now();
    for error in errors(&mut group, &Call::new(Collective::AllGather, DType::F32, 4).deadline(HANG)) {
        let text = error.to_string();
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Unreachable, Some(1)), "{text}");
        assert!(text.contains("rank 1, all_gather #2: all_gather failed with ncclRemoteError"), "{text}");
        assert!(text.contains("the seeded asynchronous fault"), "{text}");
    }
    assert!(begin.elapsed() < HANG, "nobody waited for the deadline");
}

#[test]
fn a_refused_call_spoils_the_group_in_nccls_words() {
    for (place, code, kind) in [
        (Place::OnDevice, 2, ErrorKind::Unreachable),
        (Place::Host, 2, ErrorKind::Unreachable),
        (Place::OnDevice, 5, ErrorKind::Internal),
    ] {
        let stand_in = StandIn::new();
        let mut group = ranks(&stand_in, 2, place, 64);
        stand_in.set("fail_rank", 0);
        stand_in.set("fail_call", 1);
        stand_in.set("fail_code", code);
        for error in errors(&mut group, &Call::new(Collective::Broadcast, DType::U8, 100).deadline(HANG)) {
            let text = error.to_string();
            assert_eq!((error.kind(), error.culprit()), (kind, Some(0)), "{text}");
            assert!(text.contains("rank 0, broadcast #0: ncclBroadcast failed"), "{text}");
            assert!(text.contains("the seeded fault of rank 0"), "{text}");
        }
    }
}

#[test]
fn a_call_inside_of_a_group_that_is_refused_ends_the_group_of_calls_too() {
    let stand_in = StandIn::new();
    let mut group = ranks(&stand_in, 2, Place::OnDevice, 64);
    stand_in.set("fail_rank", 1);
    stand_in.set("fail_call", 1);
    stand_in.nccl_log();
    for error in errors(&mut group, &Call::new(Collective::Gather, DType::U8, 9).root(0).deadline(HANG)) {
        assert_eq!(error.culprit(), Some(1), "{error}");
    }
    let log = stand_in.nccl_log();
    let count = |name: &str| log.iter().filter(|line| line.starts_with(name)).count();
    assert_eq!(count("ncclGroupStart"), count("ncclGroupEnd"), "{log:?}");
}

#[test]
fn an_abort_ends_what_waits_and_returns_even_where_nccls_own_does_not() {
    for abort_ms in [0, 6_000] {
        let stand_in = StandIn::new();
        let store = store(2);
        let mut group: Vec<_> = ranks_with(&stand_in, &store, Place::OnDevice, 64, HANG)
            .into_iter()
            .map(Result::unwrap)
            .collect();
        stand_in.set("hang", 1);
        stand_in.set("abort_ms", abort_ms);
        let begin = Instant::now();
        let poisons = store.poisons.clone();
        let aborter = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            let cause = Cause {
                generation: 3,
                sequence: Cause::NO_SEQUENCE,
                kind: CauseKind::Abort,
                culprit: 0,
                reporter: 0,
                detail: "rank 0 aborted the group: enough".into(),
            };
            let begin = Instant::now();
            for poison in poisons {
                poison.set(cause.clone());
            }
            begin.elapsed()
        });
        for error in errors(&mut group, &barrier(Duration::from_secs(60))) {
            assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
        }
        // NCCL has two seconds to end its communicator; a caller gets its error then in any case.
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        assert!(aborter.join().unwrap() < Duration::from_secs(1), "who aborts waits for nobody");
        let begin = Instant::now();
        drop(group);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
}

#[test]
fn dropping_a_rank_with_operations_under_way_aborts_them() {
    let stand_in = StandIn::new();
    let mut group = ranks(&stand_in, 1, Place::OnDevice, 64);
    let mut rank = group.remove(0);
    let memory = upload(&rank.context, &[0; 64]);
    stand_in.set("hang", 1);
    let pointer = std::ptr::without_provenance_mut(memory.address() as usize);
    let mut request = Request::new(Collective::AllReduce, 1, DType::F32, 16);
    request.in_place = true;
    let landing = Landing::new();
    let operation = rank.operation(request, Buffers { input: pointer, output: pointer }, HANG);
    rank.backend.submit(operation.landing_at(Arc::clone(&landing))).unwrap();
    let _ = rank.backend.progress();
    drop(rank);
    assert!(stand_in.nccl_log().iter().any(|line| line.starts_with("ncclCommAbort")));
    // Whoever waits for it on a device is let go.
    // SAFETY: there is nothing to wait for, so the stream is not looked at.
    unsafe { landing.wait_on(ringfold::tensor::Stream::default(), Duration::ZERO) }.unwrap();
}

#[test]
fn memory_that_cannot_be_had_for_staging_is_an_error_of_the_group() {
    let stand_in = StandIn::new();
    let mut group = ranks(&stand_in, 2, Place::Host, 64);
    stand_in.set("fail_alloc", 1);
    for error in errors(&mut group, &Call::new(Collective::AllReduce, DType::F32, 4).deadline(HANG)) {
        assert!(error.to_string().contains("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), "{error}");
    }
}

#[test]
fn ranks_that_call_different_things_wait_to_the_deadline_and_no_longer() {
    let stand_in = StandIn::new();
    let group = ranks(&stand_in, 2, Place::OnDevice, 64);
    let group = group.into_iter().map(std::sync::Mutex::new).collect::<Vec<_>>();
    let results = on_ranks(2, |rank| {
        let collective = [Collective::Broadcast, Collective::AllReduce][rank];
        let call = Call::new(collective, DType::F32, 8).deadline(SHORT);
        let (mut jobs, _) = prepare(&call, 2, call.draw(), 1);
        super::calls::group::Member::call(&mut *group[rank].lock().unwrap(), &mut jobs[rank])
    });
    for result in results {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Deadline);
    }
}
