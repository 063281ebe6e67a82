//! Groups within a group.

use super::call::Call;
use super::execute::Checked;
use super::kin::{Founding, OFFER};
use super::line::Line;
use super::site::Site;
use super::{Communicator, With};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::Topology;
use std::cell::RefCell;
use std::sync::Arc;

/// What one rank says at a split.
struct Say {
    color: Option<u32>,
    key: i64,
    /// Nothing where the rank could not bring anything.
    offer: Option<[u8; OFFER]>,
}

impl Say {
    const SIZE: usize = 16 + OFFER;

    fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = u8::from(self.color.is_some());
        bytes[1] = u8::from(self.offer.is_some());
        bytes[4..8].copy_from_slice(&self.color.unwrap_or(0).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.key.to_le_bytes());
        bytes[16..].copy_from_slice(&self.offer.unwrap_or([0; OFFER]));
        bytes
    }

    fn decode(bytes: &[u8]) -> Self {
        let color = u32::from_le_bytes(std::array::from_fn(|i| bytes[4 + i]));
        Say {
            color: (bytes[0] == 1).then_some(color),
            key: i64::from_le_bytes(std::array::from_fn(|i| bytes[8 + i])),
            offer: (bytes[1] == 1).then(|| std::array::from_fn(|i| bytes[16 + i])),
        }
    }
}

/// The ranks of one color, ordered by key and then by rank.
fn members(said: &[Say], color: u32) -> Vec<usize> {
    let mut members: Vec<usize> = (0..said.len()).filter(|&rank| said[rank].color == Some(color)).collect();
    members.sort_by_key(|&rank| (said[rank].key, rank));
    members
}

/// Sub-groups. Each of these is a call that all ranks of the communicator make, like a collective.
impl Communicator {
    /// Divides the group: ranks that pass one `color` become a group of their own, numbered by `key` and, where keys
    /// are equal, by their number here. A rank that passes `None` becomes member of none, and gets `None`.
    ///
    /// The new group has its own order of operations and connections of its own, made when first needed, so that it can
    /// be used beside this one, by another thread too. It makes no thread: all groups of a world have one control link
    /// and one progress thread in common. They also fail together, as they began: after the failure of any, all calls
    /// of all of them return the first cause, in which ranks are named by their numbers in the world
    /// ([`world_rank_of`](Communicator::world_rank_of)). Options, deadline and table are this communicator's.
    ///
    /// Blocks until all ranks of this communicator have called it, at most for the deadline.
    ///
    /// ```
    /// use ringfold::{Communicator, ReduceOp};
    /// std::thread::scope(|scope| {
    ///     for comm in Communicator::local(4) {
    ///         scope.spawn(move || {
    ///             // Rows of a grid of two by two.
    ///             let row = comm.split(Some(comm.rank() as u32 / 2), 0).unwrap().unwrap();
    ///             let mut data = [comm.rank() as u32];
    ///             row.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    ///             assert_eq!(data[0], if comm.rank() < 2 { 1 } else { 5 });
    ///         });
    ///     }
    /// });
    /// ```
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather); [`Io`](ErrorKind::Io) on every rank where one cannot have what its part
    /// needs (a socket), which names that rank. Nothing has failed then, and this group goes on.
    pub fn split(&self, color: Option<u32>, key: i64) -> Result<Option<Communicator>> {
        let offer = color.map(|_| self.kind.offer(self.world));
        let (brought, failed) = match offer {
            Some(Ok(brought)) => (Some(brought), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        let offer = match (&brought, color) {
            (Some((_, bytes)), _) => Some(*bytes),
            // Whoever joins nothing lacks nothing.
            (None, None) => Some([0; OFFER]),
            (None, Some(_)) => None,
        };
        let mine = Say { color, key, offer }.encode();
        let mut all = vec![0; Say::SIZE * self.world];
        self.gather_what_is_said(&mine, &mut all)?;
        let count = self.splits.get();
        self.splits.set(count + 1);
        let said: Vec<Say> = all.chunks_exact(Say::SIZE).map(Say::decode).collect();
        if let Some(error) = failed {
            return Err(self.line.complete(error));
        }
        if let Some(rank) = said.iter().position(|say| say.offer.is_none()) {
            let number = self.numbers[rank];
            let error = Error::new(ErrorKind::Io, format!("rank {number} cannot be part of a new group"));
            return Err(self.line.complete(error.blame(number).remedy("look at that rank's own error")));
        }
        let (Some(color), Some((brought, _))) = (color, brought) else {
            self.kind.stand_aside().map_err(|error| self.line.complete(error))?;
            return Ok(None);
        };
        let members = members(&said, color);
        self.found(brought, &members, &said, count).map(Some)
    }

    /// An all_gather of what ranks say, over whatever carries this group's bytes: by way of its own memory, where that is on devices.
    fn gather_what_is_said(&self, mine: &[u8], all: &mut [u8]) -> Result<()> {
        let with = With { communicator: self, options: Default::default() };
        let mut tensors = (mine, all).into();
        let Checked { mut request, buffers, .. } = with.check(&Call::AllGather(None), &mut tensors)?;
        let course = with.course(&mut request)?;
        let site = Site { staged: true, reused: true, ..Site::default() };
        // SAFETY: the tensors were checked just now, and are borrowed until this returns, which is after the operation's end;
        // where it unwinds instead, the backend is never driven again.
        let operation = unsafe { self.next(&request, &course, buffers, None, site) };
        self.run(&mut Some(operation))
    }

    fn found(
        &self,
        brought: Box<dyn std::any::Any>,
        members: &[usize],
        said: &[Say],
        count: u32,
    ) -> Result<Communicator> {
        let rank = members.iter().position(|&member| member == self.rank).expect("this rank has its color");
        let numbers: Arc<[usize]> = members.iter().map(|&member| self.numbers[member]).collect();
        let first = members[0] as u64;
        // Never 0, which is the world's.
        let mixed = (u64::from(self.id) << 32 | u64::from(count)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ first;
        let id = (mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32) as u32 | 1;
        let founding = Founding {
            rank,
            members,
            numbers: &numbers,
            key: u64::from(count) << 32 | first,
            communicator: id,
            offers: members.iter().map(|&member| said[member].offer.expect("all have one")).collect(),
        };
        let found = self.kind.found(brought, &founding);
        let (backend, kind) = found.map_err(|error| self.line.complete(error))?;
        let hosts = Topology::of_hosts(numbers.iter().map(|&number| kind.host(number)));
        let sequencer = self
            .sequencer
            .borrow()
            .sibling()
            .within(backend.reach())
            .on(&hosts)
            .of_library(backend.owns_schedules())
            .in_levels(backend.levels());
        let line =
            Line::new(self.numbers[self.rank], Arc::clone(&self.line.hosts), backend, self.line.held());
        Ok(Communicator {
            rank,
            world: members.len(),
            generation: self.generation,
            numbers,
            id,
            kind,
            splits: Default::default(),
            line: Arc::new(line),
            progress: Arc::clone(&self.progress),
            sequencer: RefCell::new(sequencer),
            completions: RefCell::default(),
            #[cfg(feature = "arrow")]
            recycler: self.recycler.clone(),
            abort: self.abort.clone(),
            passed_over: Arc::clone(&self.passed_over),
            staging: RefCell::new(self.staging.borrow().again()),
        })
    }

    /// The same group again, with an order of operations of its own: for calls that overlap with this one's. See
    /// [`split`](Communicator::split).
    ///
    /// # Errors
    /// As [`split`](Communicator::split).
    pub fn duplicate(&self) -> Result<Communicator> {
        let again = self.split(Some(0), self.rank as i64)?;
        Ok(again.expect("every rank has passed a color"))
    }

    /// A group of these ranks in this order; `None` on ranks that are not among them. All ranks of this communicator
    /// pass the same list. See [`split`](Communicator::split).
    ///
    /// # Errors
    /// As [`split`](Communicator::split); [`InvalidArgument`](ErrorKind::InvalidArgument) for a list that names a rank
    /// twice or one that does not exist, and where not all members have passed this very list.
    pub fn group(&self, ranks: &[usize]) -> Result<Option<Communicator>> {
        let wrong = |text: String| Err(self.line.complete(Error::invalid(text)));
        let mut seen = vec![false; self.world];
        for &rank in ranks {
            match seen.get_mut(rank) {
                None => return wrong(format!("a group with rank {rank} of {} ranks", self.world)),
                Some(true) => return wrong(format!("a group with rank {rank} twice")),
                Some(seen) => *seen = true,
            }
        }
        let place = ranks.iter().position(|&rank| rank == self.rank);
        let mix = |hash: u32, rank: &usize| (hash ^ *rank as u32).wrapping_mul(0x0100_0193).rotate_left(5);
        let color = ranks.iter().fold(0x811c_9dc5, mix);
        let group = self.split(place.map(|_| color), place.unwrap_or(0) as i64)?;
        match &group {
            Some(group) if group.world != ranks.len() => {
                wrong(format!("{} of {} ranks have passed this list for a group", group.world, ranks.len()))
            }
            _ => Ok(group),
        }
    }

    /// The number in the world of a rank of this communicator: by which errors name ranks. The same number, unless this
    /// communicator has been split from another.
    ///
    /// # Panics
    /// Where there is no such rank.
    pub fn world_rank_of(&self, rank: usize) -> usize {
        self.numbers[rank]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_round_trips_and_members_are_ordered() {
        let say = |color, key| Say { color, key, offer: Some([7; OFFER]) };
        let said: Vec<Say> =
            [say(Some(1), 5), say(None, 0), say(Some(1), -2), say(Some(1), 5), say(Some(0), 0)]
                .iter()
                .map(|say| Say::decode(&say.encode()))
                .collect();
        assert_eq!(members(&said, 1), [2, 0, 3]);
        assert_eq!(members(&said, 0), [4]);
        assert_eq!(members(&said, 9), [0; 0]);
        assert!(Say::decode(&Say { offer: None, ..say(Some(1), 1) }.encode()).offer.is_none());
    }
}
