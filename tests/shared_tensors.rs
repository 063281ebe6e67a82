//! Tensors in memory that the other ranks of a host can see: made, registered, given back, and given to every verb.

mod support;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use ringfold::memory::{Arena, PAGE, Pages, Segment};
use ringfold::transport::shm::{Contents, Ground};
use ringfold::{Communicator, ErrorKind, ReduceOp, Registered, SharedTensor};
use std::ops::DerefMut;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use support::{communicators, over_sockets};

/// Whole pages as a slice.
struct Own(Pages);

impl Own {
    fn new(bytes: usize) -> Own {
        Own(Pages::zeroed(bytes).unwrap())
    }

    fn slice<T: ringfold::Element>(&mut self) -> &mut [T] {
        let len = self.0.len() / size_of::<T>();
        // SAFETY: the pages are this value's own, aligned, and any bits are an element.
        unsafe { std::slice::from_raw_parts_mut(self.0.address().cast(), len) }
    }
}

/// Registers memory in tests that drop what they get before the memory.
fn register<'a, T: ringfold::Element>(
    comm: &Communicator,
    data: &'a mut [T],
) -> ringfold::Result<Registered<'a, T>> {
    // SAFETY: nothing here forgets it.
    unsafe { comm.register(data) }
}

/// Runs a function on a thread per communicator.
fn each(comms: Vec<Communicator>, body: impl Fn(Communicator) + Sync) {
    let body = &body;
    std::thread::scope(|scope| {
        for comm in comms {
            scope.spawn(move || body(comm));
        }
    });
}

/// How the system knows the mapping that an address is in.
fn mapping(at: *const u8) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let holds = |line: &&str| {
        let (start, rest) = line.split_once('-').unwrap();
        let bounds = [start, rest.split(' ').next().unwrap()];
        let [start, end] = bounds.map(|bound| usize::from_str_radix(bound, 16).unwrap());
        (start..end).contains(&at.addr())
    };
    maps.lines().find(holds).unwrap().to_owned()
}

/// A tensor of one kind or another.
enum Any<'a> {
    Shared(SharedTensor<f64>),
    Registered(Registered<'a, f64>),
    Private(Vec<f64>),
}

impl<'a> Any<'a> {
    fn new(comm: &Communicator, kind: usize, len: usize, own: &'a mut Own) -> Any<'a> {
        match kind % 3 {
            0 => Any::Shared(comm.allocate(len).unwrap()),
            1 => Any::Registered(register(comm, own.slice()).unwrap()),
            _ => Any::Private(vec![0.0; len]),
        }
    }

    fn data(&mut self) -> &mut [f64] {
        match self {
            Any::Shared(tensor) => tensor.deref_mut(),
            Any::Registered(tensor) => tensor.deref_mut(),
            Any::Private(tensor) => tensor,
        }
    }
}

#[test]
fn every_verb_takes_them_in_any_mix_of_shared_and_private() {
    const WORLD: usize = 3;
    const BLOCK: usize = 20 * PAGE / 8;
    for (make, shares) in [
        (communicators as fn(usize) -> Vec<Communicator>, true),
        (over_sockets, false),
        (Communicator::local, false),
    ] {
        each(make(WORLD), |comm| {
            let rank = comm.rank();
            // Kinds by rank for inputs, and by rank for outputs: all alike, and all different.
            for mix in 0..9 {
                let turn = if mix % 2 == 0 { rank } else { 0 };
                let mut owns = [Own::new(WORLD * BLOCK * 8), Own::new(WORLD * BLOCK * 8)];
                let [own, other] = &mut owns;
                let mut input = Any::new(&comm, mix / 3 + turn, WORLD * BLOCK, own);
                let mut output = Any::new(&comm, mix + turn, WORLD * BLOCK, other);
                if let Any::Shared(tensor) = &input {
                    assert_eq!(tensor.is_shared(), shares);
                }
                let (input, output) = (input.data(), output.data());

                input.iter_mut().enumerate().for_each(|(i, x)| *x = (i + rank) as f64);
                comm.all_reduce_into(input, output, ReduceOp::Sum).unwrap();
                assert!(output.iter().enumerate().all(|(i, &x)| x == (3 * i + 3) as f64));
                comm.all_reduce(&mut output[7..100], ReduceOp::Max).unwrap();
                assert!(output.iter().enumerate().all(|(i, &x)| x == (3 * i + 3) as f64));
                comm.reduce_scatter(input, &mut output[..BLOCK], ReduceOp::Sum).unwrap();
                let begins = rank * BLOCK;
                assert!(output[..BLOCK].iter().enumerate().all(|(i, &x)| x == (3 * (i + begins) + 3) as f64));
                comm.all_gather(&input[..BLOCK], output).unwrap();
                assert!(output.iter().enumerate().all(|(i, &x)| x == (i % BLOCK + i / BLOCK) as f64));
                comm.all_to_all(input, output).unwrap();
                let sent = |i: usize| i % BLOCK + begins + i / BLOCK;
                assert!(output.iter().enumerate().all(|(i, &x)| x == sent(i) as f64));
                comm.broadcast(output, 1).unwrap();
                let sent = |i: usize| i % BLOCK + BLOCK + i / BLOCK;
                assert!(output.iter().enumerate().all(|(i, &x)| x == sent(i) as f64));
                comm.send_recv(input, (rank + 1) % WORLD, output, (rank + 2) % WORLD).unwrap();
                assert!(output.iter().enumerate().all(|(i, &x)| x == (i + (rank + 2) % WORLD) as f64));
                comm.barrier().unwrap();
            }
            let mut started = comm.allocate::<u32>(50_000).unwrap();
            started.fill(1);
            let pending = comm.start_all_reduce(started, ReduceOp::Sum).unwrap();
            let started = pending.wait().unwrap();
            assert!(started.is_shared() == shares && started.iter().all(|&x| x == 3));
            let two = (started, comm.allocate::<u32>(50_000).unwrap());
            let mut prepared = comm.prepare_all_reduce(two, ReduceOp::Sum).unwrap();
            prepared.run().unwrap();
            prepared.run().unwrap();
            let (input, output) = prepared.into_buffer().unwrap();
            assert!(input.iter().all(|&x| x == 3) && output.iter().all(|&x| x == 9));
        });
    }
}

#[test]
fn memory_is_zeroed_and_aligned_each_time() {
    each(
        [communicators(2), over_sockets(1), Communicator::local(1)].into_iter().flatten().collect(),
        |comm| {
            for round in 0..5 {
                for len in [1, 1000, 3 << 20] {
                    let mut tensor = comm.allocate::<u16>(len).unwrap();
                    assert_eq!((tensor.len(), tensor.as_ptr().addr() % PAGE), (len, 0));
                    assert!(tensor.iter().all(|&x| x == 0), "round {round}");
                    tensor.fill(9);
                }
            }
            let mut nothing = comm.allocate::<f32>(0).unwrap();
            assert!(nothing.is_empty() && !nothing.is_shared());
            comm.all_reduce(&mut nothing, ReduceOp::Sum).unwrap();
        },
    );
}

#[test]
fn tensors_outlive_their_communicator_or_not() {
    for tensors_first in [true, false] {
        each(communicators(3), |comm| {
            let mut own = Own::new(5 * PAGE);
            let address = own.0.address();
            let mut shared = comm.allocate::<u64>(100_000).unwrap();
            let mut registered = register(&comm, own.slice::<u64>()).unwrap();
            shared.fill(2);
            comm.all_reduce(&mut shared, ReduceOp::Sum).unwrap();
            comm.broadcast(&mut registered, 0).unwrap();
            registered.fill(8);
            assert!(mapping(address).contains("memfd"));
            if tensors_first {
                drop((shared, registered));
                comm.barrier().unwrap();
            } else {
                drop(comm);
                assert!(shared.is_shared() && shared.iter().all(|&x| x == 6));
                shared.fill(7);
                registered[3] = 9;
                assert!(shared.iter().all(|&x| x == 7));
                drop(registered);
                assert_eq!(own.slice::<u64>()[..5], [8, 8, 8, 9, 8]);
                drop(shared);
            }
            assert!(!mapping(address).contains("memfd"));
            assert!(own.slice::<u64>()[4..].iter().all(|&x| x == 8));
        });
    }
}

#[test]
fn what_was_registered_comes_back_unchanged() {
    each(communicators(2), |comm| {
        // More than goes in or out at once.
        let mut own = Own::new(66 << 20);
        let address = own.0.address();
        let number = |i: usize| (i as u32).wrapping_mul(0x9e37_79b9);
        own.slice::<u32>().iter_mut().enumerate().for_each(|(i, x)| *x = number(i));
        let data = own.slice::<u32>();
        let (before, rest) = data.split_at_mut(PAGE / 4);
        {
            let mut tensor = register(&comm, rest).unwrap();
            assert!(tensor.is_shared() && mapping(address.wrapping_add(PAGE)).contains("memfd"));
            assert!(!mapping(address).contains("memfd"), "its neighbour is not touched");
            assert!(tensor.iter().enumerate().all(|(i, &x)| x == number(i + PAGE / 4)));
            let end = tensor.len() - 1;
            tensor[end] = 5;
            comm.all_reduce(&mut tensor[..1000], ReduceOp::Min).unwrap();
            tensor.unregister().unwrap();
            assert!(!tensor.is_shared());
            assert!(!mapping(address.wrapping_add(PAGE)).contains("memfd"));
            assert!(tensor[..end].iter().enumerate().all(|(i, &x)| x == number(i + PAGE / 4)));
            assert_eq!(tensor[end], 5);
            tensor.unregister().unwrap();
        }
        assert!(before.iter().enumerate().all(|(i, &x)| x == number(i)));
        let again = comm.with_registered(rest, |tensor| {
            assert!(tensor.is_shared());
            tensor[0] = 6;
            comm.all_reduce(&mut tensor[..1], ReduceOp::Sum).map(|()| tensor[0])
        });
        assert_eq!((again.unwrap().unwrap(), rest[0]), (12, 12));
    });
}

#[test]
fn what_cannot_be_registered_is_refused_and_says_how_it_could() {
    each(
        [communicators(2), over_sockets(2), Communicator::local(2)].into_iter().flatten().collect(),
        |comm| {
            let mut own = Own::new(4 * PAGE);
            let data = own.slice::<u8>();
            for range in [1..PAGE + 1, 0..PAGE - 1, 0..0] {
                let error = register(&comm, &mut data[range]).unwrap_err();
                assert_eq!((error.kind(), error.rank()), (ErrorKind::InvalidArgument, Some(comm.rank())));
                assert!(error.what_to_do().unwrap().contains("allocate"), "{error}");
            }
        },
    );
    each(communicators(2), |comm| {
        let mut tensor = comm.allocate::<u8>(2 * PAGE).unwrap();
        let mut own = Own::new(4 * PAGE);
        let pages = own.slice::<u8>();
        // A slice cannot be borrowed twice, but a part of what is registered can.
        let mut registered = register(&comm, &mut pages[..3 * PAGE]).unwrap();
        let refused = |data: &mut [u8]| {
            let error = register(&comm, data).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains("shared already"), "{error}");
        };
        refused(&mut tensor);
        refused(&mut tensor[PAGE..]);
        refused(&mut registered);
        refused(&mut registered[PAGE..2 * PAGE]);
        drop(registered);
        drop(register(&comm, pages).unwrap());
    });
}

#[test]
fn far_too_much_is_an_error() {
    let machine = nix::sys::sysinfo::sysinfo().unwrap().ram_total() as usize;
    each(
        [communicators(1), over_sockets(1), Communicator::local(1)].into_iter().flatten().collect(),
        |comm| {
            let shares = comm.backend() == "shm";
            // Twice the machine's memory has a place in the segment of one rank, but nothing behind it.
            for len in [usize::MAX, usize::MAX / 8, 1 << 57].into_iter().chain(shares.then_some(machine / 4))
            {
                let error = comm.allocate::<u64>(len).unwrap_err();
                assert_eq!((error.kind(), error.rank()), (ErrorKind::Io, Some(0)), "{error}");
            }
            let mut tensor = comm.allocate::<u64>(1000).unwrap();
            comm.all_reduce(&mut tensor, ReduceOp::Sum).unwrap();
        },
    );
}

#[test]
fn a_group_that_has_failed_shows_nothing_new() {
    each(communicators(2), |comm| {
        let mut own = Own::new(PAGE);
        let mut tensor = comm.allocate::<u8>(100).unwrap();
        tensor.fill(3);
        comm.barrier().unwrap();
        comm.abort_handle().abort("enough");
        let error = comm.allocate::<u8>(1).unwrap_err();
        assert_eq!((error.kind(), error.collective()), (ErrorKind::Aborted, Some("allocate")));
        assert_eq!(register(&comm, own.slice::<u8>()).unwrap_err().kind(), ErrorKind::Aborted);
        assert!(tensor.iter().all(|&x| x == 3));
    });
}

/// A ground of one rank.
fn ground() -> Arc<Ground> {
    Arc::new(Ground::new(Arena::new(Arc::new(Segment::create(1 << 30).unwrap()), 0, 1)))
}

/// Runs a function in a process that is forked off, and says whether it was content.
fn forked(body: impl FnOnce() -> bool) -> impl FnOnce() -> bool {
    // SAFETY: the child does what the tests here have it do, which takes no lock that another thread might have had but
    // the allocator's, which glibc sees to; and leaves without running anything else.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let content = body();
            // SAFETY: it returns to nobody.
            unsafe { nix::libc::_exit(i32::from(!content)) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            move || nix::sys::wait::waitpid(child, None) == Ok(nix::sys::wait::WaitStatus::Exited(child, 0))
        }
    }
}

#[test]
fn another_process_that_wakes_too_late_reaches_nobody() {
    for contents in [Contents::Kept, Contents::Lost] {
        let ground = ground();
        let bell = ground.allocate(PAGE).unwrap();
        // SAFETY: aligned, and mapped as long as `bell` is there.
        let word = unsafe { AtomicU32::from_ptr(bell.address().cast()) };
        let mut own = Own::new(3 * PAGE);
        let at = NonNull::new(own.0.address()).unwrap();
        // SAFETY: it is dropped before the pages are.
        let registration = unsafe { ground.register(at, 3 * PAGE) }.unwrap();
        let allocation = ground.allocate(5000).unwrap();
        let bytes = [(allocation.address(), 5000), (at.as_ptr(), 3 * PAGE)];
        // SAFETY: both are mapped, and writable.
        let fill = |byte: u8| bytes.map(|(at, len)| unsafe { std::ptr::write_bytes(at, byte, len) });
        let all = |byte: u8| {
            // SAFETY: as above.
            bytes.iter().all(|&(at, len)| (0..len).all(|i| unsafe { at.add(i).read_volatile() } == byte))
        };
        fill(1);
        let ended = forked(|| {
            let seen = all(1);
            fill(2);
            word.store(1, Ordering::Release);
            while word.load(Ordering::Acquire) == 1 {
                std::hint::spin_loop();
            }
            fill(3);
            seen
        });
        while word.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        assert!(all(2), "both see one memory");
        for (at, len) in bytes {
            // SAFETY: nobody relies on the contents.
            unsafe { ground.isolate(at, len, contents) }.unwrap();
        }
        word.store(2, Ordering::Release);
        assert!(ended());
        assert!(all(if contents == Contents::Kept { 2 } else { 0 }), "{contents:?}");
        fill(4);
        drop(registration);
        drop(allocation);
        assert!(own.slice::<u8>().iter().all(|&x| x == 4));
    }
}

#[test]
fn what_is_forked_off_can_give_back_its_copy_and_nothing_else() {
    let ground = ground();
    let mut own = Own::new(3 * PAGE);
    let at = NonNull::new(own.0.address()).unwrap();
    // SAFETY: it is dropped before the pages are.
    let mut registration = unsafe { ground.register(at, 3 * PAGE) }.unwrap();
    let mut allocation = Some(ground.allocate(3 * PAGE).unwrap());
    let shown = allocation.as_ref().unwrap().address();
    // SAFETY: both are mapped in both processes, which take turns.
    let (read, write) =
        unsafe { (|at: *mut u8| at.read_volatile(), |at: *mut u8, byte: u8| at.write_volatile(byte)) };
    write(at.as_ptr(), 1);
    write(shown, 1);
    let ended = forked(|| {
        // It sees the parent's memory, and the parent what it writes.
        let seen = read(at.as_ptr()) == 1 && read(shown) == 1;
        write(at.as_ptr(), 2);
        write(shown, 2);
        drop(allocation.take());
        let given_back = registration.give_back().is_ok();
        let kept = read(at.as_ptr()) == 2;
        write(at.as_ptr(), 3);
        seen && given_back && kept
    });
    assert!(ended());
    assert_eq!((read(at.as_ptr()), read(shown)), (2, 2));
    assert!(registration.is_shared() && allocation.as_ref().unwrap().is_shared());
    registration.give_back().unwrap();
    assert_eq!(own.slice::<u8>()[0], 2);
}

/// In a process of its own, since a limit holds for all of a process.
#[test]
fn where_the_system_refuses() {
    if !support::process::alone("where_the_system_refuses") {
        return;
    }
    const LEN: usize = 24 << 20;
    let ground = ground();
    let (limit, most) = getrlimit(Resource::RLIMIT_AS).unwrap();
    // Little more address space than there is.
    let tight = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        setrlimit(Resource::RLIMIT_AS, pages * PAGE as u64 + (8 << 20), most).unwrap();
    };
    let loose = || setrlimit(Resource::RLIMIT_AS, limit, most).unwrap();
    let mut own = Own::new(LEN);
    let at = NonNull::new(own.0.address()).unwrap();
    let number = |i: usize| (i * 7) as u8;
    own.slice::<u8>().iter_mut().enumerate().for_each(|(i, x)| *x = number(i));
    let mut intact = || own.slice::<u8>().iter().enumerate().all(|(i, &x)| x == number(i));

    tight();
    // SAFETY: it is dropped before the pages are, or refused.
    let register = || unsafe { ground.register(at, LEN) };
    assert_eq!(register().unwrap_err().kind(), ErrorKind::Io);
    assert!(intact() && ground.locate(at.as_ptr(), 1).is_none() && !mapping(at.as_ptr()).contains("memfd"));
    loose();

    let mut registration = register().unwrap();
    tight();
    assert_eq!(registration.give_back().unwrap_err().kind(), ErrorKind::Io);
    assert!(intact() && registration.is_shared() && ground.locate(at.as_ptr(), LEN).is_some());
    loose();
    registration.give_back().unwrap();
    assert!(intact() && !mapping(at.as_ptr()).contains("memfd"));
    drop(registration);

    let registration = register().unwrap();
    tight();
    drop(registration);
    loose();
    // Still shared, but nobody is told of it, and its block is nobody else's.
    assert!(intact() && mapping(at.as_ptr()).contains("memfd") && ground.locate(at.as_ptr(), 1).is_none());
    let other = ground.allocate(LEN).unwrap();
    // SAFETY: it is mapped, and the test's own.
    unsafe { std::ptr::write_bytes(other.address(), 1, LEN) };
    assert!(intact());
}
