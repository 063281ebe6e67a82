//! The chunks of one stream, under way.

use super::call::{Checked, Comm};
use super::flight::Flight;
use super::library::Turn;
use std::collections::VecDeque;
use std::io::IoSlice;

/// The most bytes of a message of MPI's.
pub(super) const CHUNK: usize = 128 << 10;

/// How many messages of a stream its sender has under way, each until the receiver has asked for it: so many chunks at most lie
/// with somebody who does not read.
pub(super) const WINDOW: usize = 8;

/// How many messages of a stream its receiver has asked for ahead: where they are above MPI's eager limit, each takes a round trip from
/// then on.
const AHEAD: usize = WINDOW;

/// One way of one stream, seen from this rank.
#[derive(Clone, Copy)]
pub(super) struct Course {
    pub(super) comm: Comm,
    pub(super) peer: usize,
    pub(super) tag: usize,
}

/// Buffers that are used again.
#[derive(Default)]
pub(super) struct Pool(Vec<Vec<u8>>);

impl Pool {
    fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    fn give(&mut self, buffer: Vec<u8>) {
        if self.0.len() < 4 * WINDOW {
            self.0.push(buffer);
        }
    }
}

/// What goes out.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) flights: VecDeque<Flight>,
    /// All bytes so far.
    pub(super) total: u64,
}

impl Outgoing {
    /// Forgets messages that their receiver has asked for.
    pub(super) fn reap(&mut self, pool: &mut Pool, turn: &Turn) -> Checked<()> {
        while let Some(first) = self.flights.front_mut() {
            if !first.look(turn)? {
                break;
            }
            pool.give(self.flights.pop_front().map(Flight::reclaim).unwrap_or_default());
        }
        Ok(())
    }

    pub(super) fn has_room(&self) -> bool {
        self.flights.len() < WINDOW
    }

    /// Sends as many leading bytes as there is room for.
    pub(super) fn send(
        &mut self,
        course: Course,
        data: &[IoSlice<'_>],
        pool: &mut Pool,
        turn: &Turn,
    ) -> Checked<usize> {
        let mut left: usize = data.iter().map(|slice| slice.len()).sum();
        let mut slices = data.iter().map(|slice| &slice[..]);
        let (mut slice, mut sent) = (&[][..], 0);
        while left > 0 && self.has_room() {
            let mut buffer = pool.take();
            buffer.clear();
            let length = left.min(CHUNK);
            while buffer.len() < length {
                if slice.is_empty() {
                    slice = slices.next().unwrap_or_default();
                    continue;
                }
                let part;
                (part, slice) = slice.split_at(slice.len().min(length - buffer.len()));
                buffer.extend_from_slice(part);
            }
            self.flights.push_back(Flight::send(buffer, course.comm, course.peer, course.tag, true, turn)?);
            self.total += length as u64;
            sent += length;
            left -= length;
        }
        Ok(sent)
    }
}

/// What comes in.
#[derive(Default)]
pub(super) struct Incoming {
    flights: VecDeque<Flight>,
    /// How many bytes of the first were taken.
    taken: usize,
    /// All bytes so far that were asked for.
    total: u64,
}

impl Incoming {
    /// Asks for messages that are there.
    fn ask(&mut self, course: Course, pool: &mut Pool, turn: &Turn) -> Checked<()> {
        while self.flights.len() < AHEAD {
            let Some(found) = course.comm.find(Some(course.peer), Some(course.tag), turn)? else { break };
            self.total += found.bytes as u64;
            self.flights.push_back(Flight::receive(found, pool.take(), turn)?);
        }
        Ok(())
    }

    /// Whether there is a byte to take.
    pub(super) fn look(&mut self, course: Course, pool: &mut Pool, turn: &Turn) -> Checked<bool> {
        if self.flights.is_empty() {
            self.ask(course, pool, turn)?;
        }
        self.flights.front_mut().map_or(Ok(false), |first| first.look(turn))
    }

    /// What is there, as far as it lies together.
    pub(super) fn peek(&mut self, course: Course, pool: &mut Pool, turn: &Turn) -> Checked<&[u8]> {
        if !self.look(course, pool, turn)? {
            return Ok(&[]);
        }
        Ok(self.front())
    }

    /// What lies in the first message, where that has come.
    pub(super) fn front(&self) -> &[u8] {
        self.flights.front().map_or(&[], |first| first.bytes().get(self.taken..).unwrap_or_default())
    }

    /// Lets go of so many bytes that were shown.
    pub(super) fn consume(
        &mut self,
        bytes: usize,
        course: Course,
        pool: &mut Pool,
        turn: &Turn,
    ) -> Checked<()> {
        assert!(bytes <= self.front().len(), "so many bytes were not shown");
        self.taken += bytes;
        if bytes > 0 && self.front().is_empty() {
            self.taken = 0;
            pool.give(self.flights.pop_front().map(Flight::reclaim).unwrap_or_default());
            // The next chunks come while this one is used.
            self.ask(course, pool, turn)?;
        }
        Ok(())
    }

    /// Takes what is there.
    pub(super) fn receive(
        &mut self,
        course: Course,
        into: &mut [u8],
        pool: &mut Pool,
        turn: &Turn,
    ) -> Checked<usize> {
        let mut received = 0;
        while received < into.len() && self.look(course, pool, turn)? {
            let bytes = self.front();
            let part = bytes.len().min(into.len() - received);
            into[received..received + part].copy_from_slice(&bytes[..part]);
            received += part;
            self.consume(part, course, pool, turn)?;
        }
        Ok(received)
    }

    /// Whether so many bytes have come and were taken.
    pub(super) fn is_at(&self, total: u64) -> bool {
        self.flights.is_empty() && self.total >= total
    }

    /// What is still under way.
    pub(super) fn give_up(&mut self) -> impl Iterator<Item = Flight> {
        self.flights.drain(..)
    }
}
