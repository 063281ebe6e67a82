//! A ring of two bytes between two threads.

use super::bell::Bell;
use super::ring::{Receiver, Sender};
use super::sync::{AtomicU32, AtomicU64, Ordering};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

const CAPACITY: u64 = 2;

/// loom's cells fail where one thread writes while another reads, or where nothing orders the two.
#[derive(Default)]
struct Ring {
    head: AtomicU64,
    tail: AtomicU64,
    bytes: [UnsafeCell<u8>; CAPACITY as usize],
    gone: AtomicU32,
    bells: [[AtomicU32; 2]; 2],
}

impl Ring {
    fn cell(&self, at: u64) -> &UnsafeCell<u8> {
        &self.bytes[(at % CAPACITY) as usize]
    }

    fn bell(&self, rank: usize) -> Bell<'_> {
        let [rings, asleep] = &self.bells[rank];
        Bell { rings, asleep, quick: false }
    }
}

/// Writes `bytes` one by one; of the last, only the first half where it vanishes.
fn send(ring: &Ring, bytes: u8, vanishes: bool) {
    let mut sender = Sender::default();
    for byte in 0..bytes {
        while sender.room(&ring.tail, CAPACITY, 1) == Ok(0) {
            ring.bell(0).sleep(None, || sender.room(&ring.tail, CAPACITY, 1) != Ok(0));
        }
        // SAFETY: the ring has room here; loom checks that nobody else is at this cell.
        ring.cell(sender.at()).with_mut(|cell| unsafe { *cell = byte + 1 });
        if vanishes && byte + 1 == bytes {
            // What a verdict does in its stead.
            ring.gone.store(1, Ordering::Release);
            return ring.bell(1).ring_anyway();
        }
        sender.publish(&ring.head, 1);
        ring.bell(1).ring();
    }
}

/// Reads until `bytes` have come or the sender is gone; how many have.
fn receive(ring: &Ring, bytes: u8) -> u8 {
    let mut receiver = Receiver::default();
    for byte in 0..bytes {
        while receiver.there(&ring.head, CAPACITY, 1) == Ok(0) {
            if ring.gone.load(Ordering::Acquire) == 1 {
                return byte;
            }
            ring.bell(1).sleep(None, || {
                receiver.there(&ring.head, CAPACITY, 1) != Ok(0) || ring.gone.load(Ordering::Acquire) == 1
            });
        }
        // SAFETY: the byte is there; loom checks that nobody writes it.
        assert_eq!(ring.cell(receiver.at()).with(|cell| unsafe { *cell }), byte + 1);
        receiver.consume(&ring.tail, 1);
        ring.bell(0).ring();
    }
    bytes
}

pub(super) fn exchange(bytes: u8, vanishes: bool) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let ring = Arc::new(Ring::default());
        let theirs = Arc::clone(&ring);
        let sender = thread::spawn(move || send(&theirs, bytes, vanishes));
        let came = receive(&ring, bytes);
        // The verdict may overtake what was published before.
        assert!(if vanishes { came < bytes } else { came == bytes });
        sender.join().unwrap();
    });
}

#[test]
fn bytes_go_through_a_full_ring() {
    exchange(3, false);
}

#[test]
fn what_a_dead_rank_has_not_published_is_not_read() {
    for bytes in 1..=3 {
        exchange(bytes, true);
    }
}

#[test]
fn counters_that_cannot_be_are_noticed() {
    loom::model(|| {
        let (mut sender, mut receiver) = (Sender::default(), Receiver::default());
        assert!(sender.room(&AtomicU64::new(1), CAPACITY, 1) == Ok(2), "nobody looks while there is room");
        sender.publish(&AtomicU64::new(0), 2);
        assert!(sender.room(&AtomicU64::new(3), CAPACITY, 1).is_err(), "more was read than written");
        assert!(receiver.there(&AtomicU64::new(3), CAPACITY, 1).is_err(), "more was written than fits");
    });
}
