//! What every transport promises, asked of the one over MPI, whose ranks are processes.

use crate::program::{Program, Step, Stream, everyone};
use ringfold::error::{Cause, CauseKind};
use ringfold::observe::{Poison, Time};
use ringfold::transport::mpi::{Mpi, MpiExchange, MpiSetup, MpiTransport};
use ringfold::transport::{Channel, Direction, Exchange, Interest, Transport};
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const C: Channel = Channel::COLLECTIVE;
const LONG: Duration = Duration::from_secs(60);

struct Scene {
    mpi: Mpi,
    groups: AtomicUsize,
}

impl Scene {
    /// A transport of a group of the ranks below `world`.
    fn transport(&self, world: usize) -> (MpiTransport, Arc<Poison>) {
        let poison = Arc::new(Poison::new());
        let own = Arc::clone(&poison);
        let setup = MpiSetup {
            mpi: self.mpi,
            rank: self.mpi.rank(),
            numbers: (0..world).collect(),
            group: self.groups.fetch_add(1, Ordering::Relaxed),
            poison: Arc::clone(&poison),
            report: Box::new(move |cause| {
                own.set(cause.clone());
            }),
            spins: 0,
            shares_cpus: true,
        };
        (MpiTransport::new(setup).unwrap(), poison)
    }

    /// Waits for everybody.
    fn meet(&self) {
        MpiExchange::over(self.mpi).all_gather(&[], LONG).unwrap();
    }
}

pub(crate) fn contract() {
    // Far from the numbers that groups of communicators get in the same process: what is left unread here is not for them.
    let scene = Scene { mpi: Mpi::world(LONG).unwrap(), groups: AtomicUsize::new(100_000) };
    let world = scene.mpi.size();
    identities(&scene);
    for (bytes, window) in [(5000, 700), (300, 1), (70_000, 9000), (3 << 20, 1 << 20), (400_000, 5000)] {
        let (mut transport, _) = scene.transport(world);
        Program::new(scene.mpi.rank() as u64, window, everyone(scene.mpi.rank(), world, bytes))
            .run_clean(&mut transport);
        scene.meet();
    }
    poison_and_wakers_end_a_wait(&scene);
    waiting_ends_in_time(&scene);
    unread_bytes_outlive_their_sender_and_leave_nothing(&scene);
    if world < 2 {
        return;
    }
    a_full_channel_does_not_block_another(&scene);
    for bytes in [0, 1, 200, 100_000, 6 << 20] {
        bytes_before_a_close_arrive(&scene, bytes);
    }
    a_reader_that_is_gone_is_noticed(&scene);
    whoever_leaves_by_a_panic_says_so(&scene);
}

fn identities(scene: &Scene) {
    let (world, rank) = (scene.mpi.size(), scene.mpi.rank());
    let (mut transport, _) = scene.transport(world);
    assert_eq!((transport.rank(), transport.world()), (rank, world));
    assert!(transport.verdict().is_none());
    assert!(transport.try_send(world, C, &[IoSlice::new(b"x")]).is_err());
    assert!(transport.try_recv(world, C, &mut [0]).is_err());
    assert!(transport.try_send(0, Channel(2), &[IoSlice::new(b"x")]).is_err());
    assert!(transport.now() <= transport.now());
    assert_eq!(transport.try_recv((rank + 1) % world, C, &mut [0]), Ok(0));
    // Nobody leaves before all have looked.
    scene.meet();
    for (rank, numbers, group) in [
        (rank, vec![world; world], 0),
        (world, (0..world).collect(), 0),
        (rank, (0..world).collect(), usize::MAX),
    ] {
        let setup = MpiSetup {
            mpi: scene.mpi,
            rank,
            numbers,
            group,
            poison: Arc::default(),
            report: Box::new(|_| {}),
            spins: 0,
            shares_cpus: false,
        };
        assert!(MpiTransport::new(setup).is_err());
    }
}

fn a_full_channel_does_not_block_another(scene: &Scene) {
    let rank = scene.mpi.rank();
    let (mut transport, _) = scene.transport(scene.mpi.size());
    if rank == 0 {
        let much = vec![7; 1 << 20];
        let (mut last, mut sent) = (Instant::now(), 0);
        while last.elapsed() < Duration::from_millis(100) {
            let part = transport.try_send(1, C, &[IoSlice::new(&much)]).unwrap();
            if part > 0 {
                (sent, last) = (sent + part, Instant::now());
            }
            assert!(sent <= 8 << 20, "{sent} bytes lie with somebody who does not read");
        }
    }
    if rank < 2 {
        let other = 1 - rank;
        let streams = vec![
            Stream::send(other, Channel::POINT_TO_POINT, 50_000),
            Stream::recv(other, Channel::POINT_TO_POINT, 50_000),
        ];
        Program::new(3, 8000, streams).run_clean(&mut transport);
    }
    scene.meet();
}

fn bytes_before_a_close_arrive(scene: &Scene, bytes: usize) {
    let rank = scene.mpi.rank();
    let (mut transport, _) = scene.transport(scene.mpi.size());
    if rank == 0 {
        Program::new(1, 1 << 20, vec![Stream::send(1, C, bytes + 1)]).run_clean(&mut transport);
        drop(transport);
    } else if rank == 1 {
        // A sender that is done leaves at once: let it.
        std::thread::sleep(Duration::from_millis(30));
        let mut program = Program::new(2, 60_000, vec![Stream::recv_until_fault(0, C)]);
        assert_eq!(program.run(&mut transport), Step::Done);
        let stream = &program.streams[0];
        let fault = stream.fault.as_ref().unwrap();
        assert_eq!((stream.done, fault.kind), (bytes + 1, CauseKind::Closed), "{fault:?}");
        assert!(transport.try_recv(0, C, &mut [0]).is_err(), "it stays so");
        assert!(transport.try_send(0, C, &[]).is_err(), "also for a sender");
    }
    scene.meet();
}

fn a_reader_that_is_gone_is_noticed(scene: &Scene) {
    let rank = scene.mpi.rank();
    let (mut transport, _) = scene.transport(scene.mpi.size());
    if rank == 1 {
        Program::new(1, 100, vec![Stream::recv(0, C, 1000)]).run_clean(&mut transport);
        drop(transport);
    } else if rank == 0 {
        let mut program = Program::new(1, 1 << 20, vec![Stream::send(1, C, 1 << 40)]);
        assert_eq!(program.run(&mut transport), Step::Done);
        let fault = program.streams[0].fault.clone().unwrap();
        assert_eq!(fault.kind, CauseKind::Closed, "{fault:?}");
    }
    scene.meet();
}

fn whoever_leaves_by_a_panic_says_so(scene: &Scene) {
    let rank = scene.mpi.rank();
    let (mut transport, _) = scene.transport(scene.mpi.size());
    if rank == 1 {
        let thread = std::thread::spawn(move || {
            let _mine = transport;
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert!(thread.join().is_err());
    } else if rank == 0 {
        let mut program = Program::new(1, 10, vec![Stream::recv(1, C, 10)]);
        assert_eq!(program.run(&mut transport), Step::Done);
        assert_eq!(program.streams[0].fault.as_ref().unwrap().kind, CauseKind::UserPanic);
    }
    scene.meet();
}

fn poison_and_wakers_end_a_wait(scene: &Scene) {
    let (mut transport, poison) = scene.transport(scene.mpi.size());
    let peer = (scene.mpi.rank() + 1) % scene.mpi.size();
    let interests = [Interest { peer, channel: C, direction: Direction::Receive }];
    let wake = transport.waker();
    wake();
    // One that came before the wait counts.
    transport.wait(&interests, Time::NEVER);
    let cause = Cause {
        generation: 0,
        sequence: 5,
        kind: CauseKind::Mismatch,
        culprit: 0,
        reporter: 0,
        detail: "told".into(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(40));
            wake();
            std::thread::sleep(Duration::from_millis(40));
            poison.set(cause.clone());
        });
        transport.wait(&interests, Time::NEVER);
        assert!(transport.verdict().is_none());
        transport.wait(&interests, Time::NEVER);
        assert_eq!(transport.verdict(), Some(cause.clone()));
    });
    scene.meet();
}

fn waiting_ends_in_time(scene: &Scene) {
    let (mut transport, _) = scene.transport(scene.mpi.size());
    let until = transport.now().after(Duration::from_millis(20));
    let interests = [Interest {
        peer: (scene.mpi.rank() + 1) % scene.mpi.size(),
        channel: C,
        direction: Direction::Receive,
    }];
    while transport.now() < until {
        transport.wait(&interests, until);
    }
    assert!(transport.now().since(until) < Duration::from_secs(2));
    transport.wait(&interests, until);
    scene.meet();
}

/// Nobody ever reads these: the end of the process takes them.
fn unread_bytes_outlive_their_sender_and_leave_nothing(scene: &Scene) {
    let (mut transport, _) = scene.transport(scene.mpi.size());
    let to = (scene.mpi.rank() + 1) % scene.mpi.size();
    for length in [10, 100_000] {
        assert_eq!(transport.try_send(to, C, &[IoSlice::new(&vec![1; length])]), Ok(length));
    }
    let start = Instant::now();
    drop(transport);
    assert!(start.elapsed() < Duration::from_secs(10));
    scene.meet();
}
