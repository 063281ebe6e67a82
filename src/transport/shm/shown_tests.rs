use super::*;
use crate::ErrorKind;
use crate::memory::{Arena, Segment};

const LEN: usize = 8 << 20;

/// The grounds of two ranks, each over a mapping of its own.
fn grounds() -> [Arc<Ground>; 2] {
    let first = Segment::create(LEN).unwrap();
    [0, 1].map(|rank| {
        let descriptor = first.descriptor().try_clone_to_owned().unwrap();
        let segment = Arc::new(Segment::open(descriptor, LEN).unwrap());
        Arc::new(Ground::new(Arena::new(segment, rank, 2)))
    })
}

/// How much memory the segment holds.
fn held(ground: &Ground) -> i64 {
    nix::sys::stat::fstat(ground.arena().segment().descriptor()).unwrap().st_blocks * 512
}

/// What a tensor is in: the segment, or pages of the caller's.
enum Tensor {
    Allocated(Allocation),
    Registered(Registration, Pages),
}

impl Tensor {
    fn new(ground: &Arc<Ground>, registered: bool, len: usize) -> Tensor {
        if !registered {
            return Tensor::Allocated(ground.allocate(len).unwrap());
        }
        let pages = Pages::zeroed(len).unwrap();
        let at = NonNull::new(pages.address()).unwrap();
        // SAFETY: the registration is dropped before the pages.
        Tensor::Registered(unsafe { ground.register(at, pages.len()) }.unwrap(), pages)
    }

    fn address(&self) -> *mut u8 {
        match self {
            Tensor::Allocated(allocation) => allocation.address(),
            Tensor::Registered(_, pages) => pages.address(),
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Tensor::Allocated(allocation) => allocation.is_shared(),
            Tensor::Registered(registration, _) => registration.is_shared(),
        }
    }
}

fn read(at: *const u8) -> u8 {
    // SAFETY: tests read and write only bytes of tensors and blocks, which are mapped and have memory.
    unsafe { at.read_volatile() }
}

fn write(at: *mut u8, byte: u8) {
    // SAFETY: as in `read`.
    unsafe { at.write_volatile(byte) }
}

#[test]
fn only_what_is_shown_is_located() {
    let [ours, _] = grounds();
    let nothing = ours.allocate(1).unwrap();
    for registered in [false, true] {
        let len = 4 * PAGE;
        let tensor = Tensor::new(&ours, registered, len);
        let offset = ours.locate(tensor.address(), len).expect("it is shown");
        assert!(ours.arena().part().contains(&(offset as usize)));
        let at = |from: usize| tensor.address().wrapping_add(from);
        assert_eq!(ours.locate(at(100), 7), Some(offset + 100));
        assert_eq!(ours.locate(at(len - 1), 1), Some(offset + len as u64 - 1));
        for (from, len) in [(0, 0), (0, len + 1), (len - 1, 2), (len, 1), (100, usize::MAX)] {
            assert_eq!(ours.locate(at(from), len), None, "{from}, {len}");
        }
        assert_eq!(ours.locate(at(0).wrapping_sub(1), 2), None);
        assert!(tensor.is_shared());
        let address = tensor.address();
        drop(tensor);
        assert_eq!(ours.locate(address, 1), None);
    }
    // A page has more bytes than the tensor; and other blocks are nobody's to see.
    assert_eq!(ours.locate(nothing.address(), 2), None);
    let other = ours.take(PAGE).unwrap();
    assert_eq!(ours.locate(other.address(), 1), None);
    assert_eq!(ours.locate([0].as_ptr(), 1), None);
}

#[test]
fn a_tensor_is_one_memory_for_all_and_comes_back() {
    let [ours, theirs] = grounds();
    let mut first = None;
    for round in 0..50 {
        let registered = round % 2 == 1;
        let len = 10 * PAGE;
        let tensor = Tensor::new(&ours, registered, len);
        let offset = ours.locate(tensor.address(), len).unwrap() as usize;
        assert_eq!(*first.get_or_insert(offset), offset, "the block is taken again");
        let peer = theirs.arena().segment().address(offset);
        for at in (0..len).step_by(PAGE / 2) {
            assert_eq!(read(peer.wrapping_add(at)), 0);
            write(peer.wrapping_add(at), 1);
            assert_eq!(read(tensor.address().wrapping_add(at)), 1);
            write(tensor.address().wrapping_add(at), round);
            assert_eq!(read(peer.wrapping_add(at)), round);
        }
        match tensor {
            Tensor::Allocated(allocation) => drop(allocation),
            Tensor::Registered(mut registration, pages) => {
                registration.give_back().unwrap();
                registration.give_back().unwrap();
                assert!(!registration.is_shared());
                assert_eq!(held(&ours), 0);
                drop(registration);
                write(peer, 77);
                for at in (0..len).step_by(PAGE / 2) {
                    assert_eq!(read(pages.address().wrapping_add(at)), round);
                }
                // What a stranger writes where nobody has a block is no reason to fail.
                assert!(theirs.arena().segment().release(offset..offset + PAGE));
            }
        }
        assert_eq!(held(&ours), 0);
    }
}

#[test]
fn what_is_isolated_no_peer_reaches() {
    for registered in [false, true] {
        for contents in [Contents::Kept, Contents::Lost] {
            let [ours, theirs] = grounds();
            let len = 10 * PAGE;
            let tensor = Tensor::new(&ours, registered, len);
            let other = Tensor::new(&ours, registered, PAGE);
            let offset = ours.locate(tensor.address(), len).unwrap() as usize;
            let at = |from: usize| tensor.address().wrapping_add(from);
            let peer = |from: usize| theirs.arena().segment().address(offset + from);
            (0..len).step_by(PAGE).for_each(|from| write(at(from), 5));
            // SAFETY: nobody relies on the contents.
            unsafe { ours.isolate(at(0), len, contents) }.unwrap();
            let expected = if contents == Contents::Kept { 5 } else { 0 };
            for from in (0..len).step_by(PAGE) {
                write(peer(from), 6);
                assert_eq!(read(at(from)), expected, "{registered} {contents:?}");
                write(at(from), 7);
                assert_eq!(read(peer(from)), 6);
            }
            assert_eq!(ours.locate(at(0), 1), None);
            assert!(!tensor.is_shared() && other.is_shared());
            // A second time changes nothing.
            ours.isolate_all().unwrap();
            assert!(!other.is_shared());
            (0..len).step_by(PAGE).for_each(|from| assert_eq!(read(at(from)), 7));
            match tensor {
                Tensor::Allocated(allocation) => drop(allocation),
                Tensor::Registered(registration, pages) => {
                    drop(registration);
                    let own = pages.address().addr();
                    assert_eq!(pages::not_ordinary(own..own + len).unwrap(), None);
                    write(peer(0), 8);
                    (0..len).step_by(PAGE).for_each(|from| {
                        assert_eq!(read(pages.address().wrapping_add(from)), 7);
                    });
                }
            }
            drop(other);
            // What a zombie may write to is never anybody's again.
            while let Ok(block) = ours.take(PAGE) {
                let range = block.range();
                assert!(range.end <= offset || range.start >= offset + len);
                block.abandon();
            }
        }
    }
}

#[test]
fn isolating_a_part_leaves_the_rest_as_it_is() {
    for registered in [false, true] {
        let [ours, theirs] = grounds();
        let len = 12 * PAGE;
        let tensor = Tensor::new(&ours, registered, len);
        let offset = ours.locate(tensor.address(), len).unwrap() as usize;
        let at = |from: usize| tensor.address().wrapping_add(from);
        let peer = |from: usize| theirs.arena().segment().address(offset + from);
        (0..len).for_each(|from| write(at(from), 1));
        // Parts that overlap, of which the later does not undo the earlier.
        for range in [2 * PAGE + 10..6 * PAGE + 10, 5 * PAGE..8 * PAGE - 1] {
            // SAFETY: nobody relies on the contents.
            unsafe { ours.isolate(at(range.start), range.len(), Contents::Lost) }.unwrap();
            write(at(6 * PAGE + 10), 3);
        }
        (0..len).for_each(|from| write(peer(from), 2));
        for from in 0..len {
            let expected = match from / PAGE {
                _ if from == 6 * PAGE + 10 => 3,
                0..2 | 8.. => 2,
                2 | 7 => 1,
                // It was on the first part's last page, and so it is not the segment's any more.
                6 => 1,
                _ => 0,
            };
            assert_eq!(read(at(from)), expected, "{registered}, byte {from}");
        }
        assert_eq!(ours.locate(at(0), 1), None);
    }
}

#[test]
fn nothing_is_lost_that_is_written_while_its_page_is_isolated() {
    use std::sync::atomic::AtomicU64;
    for registered in [false, true] {
        for _ in 0..200 {
            let [ours, _] = grounds();
            let tensor = Tensor::new(&ours, registered, 2 * PAGE);
            let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
            // SAFETY: aligned, and within the tensor, which outlives the threads.
            let word = unsafe { AtomicU64::from_ptr(tensor.address().wrapping_add(PAGE + 8).cast()) };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for count in 0.. {
                        assert_eq!(word.fetch_add(1, Ordering::Relaxed), count);
                        begun.store(true, Ordering::Relaxed);
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                });
                while !begun.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                // SAFETY: the word's page is isolated in part, and keeps its contents.
                unsafe { ours.isolate(tensor.address(), PAGE + 8, Contents::Lost) }.unwrap();
                over.store(true, Ordering::Relaxed);
            });
        }
    }
}

#[test]
fn giving_back_goes_on_where_it_was_interrupted() {
    let [ours, _] = grounds();
    let len = 10 * PAGE;
    let Tensor::Registered(mut registration, pages) = Tensor::new(&ours, true, len) else { panic!() };
    (0..len).for_each(|from| write(pages.address().wrapping_add(from), from as u8));
    // As an error leaves it: two portions are ordinary memory, the rest is not.
    let part = 3 * PAGE..9 * PAGE;
    let into = pages.address().wrapping_add(part.start);
    let private = Pages::zeroed(part.len()).unwrap();
    // SAFETY: the part is the test's own, and has the same contents afterwards.
    unsafe {
        std::ptr::copy_nonoverlapping(into, private.address(), part.len());
        private.put(into).unwrap();
    }
    let mut stretches = ours.shown.stretches();
    let stretch = stretches.values_mut().next().unwrap();
    stretch.apart.push(Apart { range: part.clone(), ordinary: true });
    assert_eq!(stretch.parts(0..len, true), [0..3 * PAGE, 9 * PAGE..len]);
    drop(stretches);
    write(into, 99);
    registration.give_back().unwrap();
    assert_eq!(read(into), 99);
    write(into, part.start as u8);
    (0..len).for_each(|from| assert_eq!(read(pages.address().wrapping_add(from)), from as u8));
    assert_eq!(held(&ours), 0);
}

#[test]
fn other_memory_cannot_be_registered() {
    let [ours, theirs] = grounds();
    let pages = Pages::zeroed(4 * PAGE).unwrap();
    let refused = |ground: &Arc<Ground>, at: *mut u8, len: usize, why: &str| {
        // SAFETY: it is refused.
        let error = unsafe { ground.register(NonNull::new(at).unwrap(), len) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(&ours, pages.address().wrapping_add(8), PAGE, "address is no multiple");
    refused(&ours, pages.address(), PAGE + 1, "no whole pages");
    refused(&ours, pages.address(), 0, "no memory at all");
    let middle = NonNull::new(pages.address().wrapping_add(PAGE)).unwrap();
    // SAFETY: it is dropped before the pages are.
    let registration = unsafe { ours.register(middle, 2 * PAGE) }.unwrap();
    for (from, pages_of_it) in [(0, 2), (0, 4), (1, 1), (1, 2), (2, 1), (2, 2)] {
        let at = pages.address().wrapping_add(from * PAGE);
        refused(&ours, at, pages_of_it * PAGE, "shared already");
        refused(&theirs, at, pages_of_it * PAGE, "only private memory");
    }
    let allocation = theirs.allocate(PAGE).unwrap();
    refused(&theirs, allocation.address(), PAGE, "shared already");
    refused(&ours, allocation.address(), PAGE, "only private memory");
    drop(registration);
    let all = NonNull::new(pages.address()).unwrap();
    // SAFETY: as above.
    drop(unsafe { ours.register(all, 4 * PAGE) }.unwrap());
    assert_eq!(held(&ours), PAGE as i64, "of the allocation");
}

#[test]
fn what_there_is_no_room_for_is_refused() {
    let [ours, _] = grounds();
    for len in [LEN, 1 << 50, usize::MAX] {
        assert_eq!(ours.allocate(len).unwrap_err().kind(), ErrorKind::Io);
    }
    let pages = Pages::zeroed(LEN).unwrap();
    write(pages.address(), 4);
    // SAFETY: it is refused.
    let error = unsafe { ours.register(NonNull::new(pages.address()).unwrap(), LEN) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert_eq!((read(pages.address()), held(&ours)), (4, 0));
    assert_eq!(ours.allocate(LEN / 2).unwrap().len(), LEN / 2);
}
