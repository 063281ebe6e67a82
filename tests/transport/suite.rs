//! The contract, for ranks that are threads: any way of making a world can be put through it.

use super::program::{Program, Step, Stream, await_verdict, everyone};
use ringfold::error::{Cause, CauseKind};
use ringfold::observe::{Poison, Time};
use ringfold::transport::{Channel, Direction, Interest, Transport};
use std::io::IoSlice;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

const C: Channel = Channel::COLLECTIVE;

/// A rank's transport and what poisons it.
pub(crate) type Rank = (Box<dyn Transport>, Arc<Poison>);

/// Makes a world.
pub(crate) type Make = fn(usize) -> Vec<Rank>;

/// Everything, of one kind of transport. `bytes` is the length of the long streams.
pub(crate) fn contract(make: Make, bytes: usize) {
    identities(make);
    everyone_with_everyone(make, 1, 5000, 700);
    everyone_with_everyone(make, 4, 70_000.min(bytes / 8), 9000);
    everyone_with_everyone(make, 3, 300, 1);
    everyone_with_everyone(make, 2, bytes, 1 << 20);
    everyone_with_everyone(make, 2, bytes / 16, 5000);
    a_full_channel_does_not_block_another(make);
    bytes_before_a_close_arrive(make, bytes / 4);
    a_reader_that_is_gone_is_noticed(make);
    poison_wakes(make);
    reports_become_one_verdict(make);
    waiting_ends_in_time(make);
}

fn identities(make: Make) {
    for (rank, (transport, _)) in make(3).iter_mut().enumerate() {
        assert_eq!((transport.rank(), transport.world()), (rank, 3));
        assert!(transport.verdict().is_none());
        assert!(transport.try_send(3, C, &[IoSlice::new(b"x")]).is_err());
        assert!(transport.try_recv(3, C, &mut [0]).is_err());
        assert!(transport.now() <= transport.now());
        assert_eq!(transport.try_recv((rank + 1) % 3, C, &mut [0]), Ok(0));
    }
}

/// Runs a function a rank, each in a thread, and gives back what they return.
fn threads<T: Send>(ranks: Vec<Rank>, run: impl Fn(usize, Rank) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let run = &run;
        let handles: Vec<_> =
            ranks.into_iter().enumerate().map(|(i, rank)| scope.spawn(move || run(i, rank))).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

fn everyone_with_everyone(make: Make, world: usize, bytes: usize, window: usize) {
    // Nobody leaves before all are done: an early goodbye would be a fault to whoever still sends.
    let barrier = Barrier::new(world);
    threads(make(world), |rank, (mut transport, _)| {
        Program::new(rank as u64, window, everyone(rank, world, bytes)).run_clean(&mut *transport);
        barrier.wait();
    });
}

fn a_full_channel_does_not_block_another(make: Make) {
    let barrier = Barrier::new(2);
    threads(make(2), |rank, (mut transport, _)| {
        if rank == 0 {
            // More than any queue or socket takes at once.
            let much = vec![7; 1 << 20];
            let mut last = Instant::now();
            let mut sent = 0;
            while last.elapsed() < Duration::from_millis(100) {
                let part = transport.try_send(1, C, &[IoSlice::new(&much)]).unwrap();
                if part > 0 {
                    (sent, last) = (sent + part, Instant::now());
                }
                // A peer's kernel takes what it can hold; whoever never fills up has no bound.
                assert!(sent < 1 << 30);
            }
        }
        let other = 1 - rank;
        let streams = vec![
            Stream::send(other, Channel::POINT_TO_POINT, 50_000),
            Stream::recv(other, Channel::POINT_TO_POINT, 50_000),
        ];
        Program::new(3, 8000, streams).run_clean(&mut *transport);
        barrier.wait();
    });
}

fn bytes_before_a_close_arrive(make: Make, most: usize) {
    for bytes in [0, 1, 200, most / 50, most] {
        threads(make(2), |rank, (mut transport, _)| {
            if rank == 0 {
                Program::new(1, 1 << 20, vec![Stream::send(1, C, bytes + 1)]).run_clean(&mut *transport);
                return;
            }
            // A sender that is done leaves at once: let it.
            thread::sleep(Duration::from_millis(30));
            let mut program = Program::new(2, 60_000, vec![Stream::recv_until_fault(0, C)]);
            assert_eq!(program.run(&mut *transport), Step::Done);
            let stream = &program.streams[0];
            let fault = stream.fault.as_ref().unwrap();
            assert_eq!((stream.done, fault.kind), (bytes + 1, CauseKind::Closed), "{fault:?}");
            // It stays so.
            assert!(transport.try_recv(0, C, &mut [0]).is_err());
        });
    }
}

fn a_reader_that_is_gone_is_noticed(make: Make) {
    threads(make(2), |rank, (mut transport, _)| {
        if rank == 1 {
            Program::new(1, 100, vec![Stream::recv(0, C, 1000)]).run_clean(&mut *transport);
            return;
        }
        let mut program = Program::new(1, 1 << 20, vec![Stream::send(1, C, 1 << 40)]);
        assert_eq!(program.run(&mut *transport), Step::Done);
        let fault = program.streams[0].fault.clone().unwrap();
        assert_eq!(fault.kind, CauseKind::Closed, "{fault:?}");
    });
}

fn some_cause(culprit: usize) -> Cause {
    Cause {
        generation: 0,
        sequence: 5,
        kind: CauseKind::Mismatch,
        culprit,
        reporter: 1,
        detail: "told".into(),
    }
}

fn poison_wakes(make: Make) {
    let mut ranks = make(2);
    let (_, poison) = &ranks[0];
    let poison = Arc::clone(poison);
    let start = Arc::new(Barrier::new(2));
    let sleeper = {
        let (mut transport, _) = ranks.remove(0);
        let start = Arc::clone(&start);
        thread::spawn(move || {
            let interests = [
                Interest { peer: 1, channel: C, direction: Direction::Receive },
                Interest { peer: 0, channel: C, direction: Direction::Receive },
            ];
            start.wait();
            while transport.verdict().is_none() {
                transport.wait(&interests, Time::NEVER);
            }
            (Instant::now(), transport.verdict().unwrap())
        })
    };
    start.wait();
    thread::sleep(Duration::from_millis(40));
    let set = Instant::now();
    poison.set(some_cause(1));
    let (woken, verdict) = sleeper.join().unwrap();
    assert_eq!(verdict, some_cause(1));
    let late = woken.saturating_duration_since(set);
    assert!(late < Duration::from_millis(200), "woken only after {late:?}");
}

fn reports_become_one_verdict(make: Make) {
    let barrier = Barrier::new(4);
    let verdicts = threads(make(4), |rank, (mut transport, _)| {
        Program::new(0, 1000, everyone(rank, 4, 100)).run_clean(&mut *transport);
        barrier.wait();
        if rank == 2 {
            transport.report(&some_cause(3));
        }
        let verdict = await_verdict(&mut *transport);
        barrier.wait();
        verdict
    });
    assert!(verdicts.iter().all(|verdict| *verdict == some_cause(3)), "{verdicts:?}");
}

fn waiting_ends_in_time(make: Make) {
    let (mut transport, _) = make(2).remove(0);
    let until = transport.now().after(Duration::from_millis(20));
    let interests = [Interest { peer: 1, channel: C, direction: Direction::Receive }];
    while transport.now() < until {
        transport.wait(&interests, until);
    }
    assert!(transport.now().since(until) < Duration::from_secs(2));
    transport.wait(&interests, until);
}
