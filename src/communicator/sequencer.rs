//! The order of a communicator's operations: from a request to the operation that has its place, schedule and deadline.

use super::call::Lists;
use super::options::{Check, Options};
use super::recent::{Known, Recent, Slot};
use super::tensors::Tensors;
use crate::backend::{Buffers, Operation, Piece, Pieces};
use crate::collective::{Collective, Order, Request};
use crate::error::{Error, ErrorKind, Result};
use crate::plan::select::Table;
use crate::plan::{Algorithm, Levels, Reach, Schedule, Topology};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

/// From how many bytes on strict checks are the default, in the collectives that they help.
const STRICT_FROM: usize = 64 << 10;

/// How a request is carried out: what the table and the options make of it. They stay as they are, so it does, too.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    /// No other course of the communicator has it, so that who meets it again knows request and schedule.
    pub(super) number: u64,
    pub(super) schedule: Schedule,
    pub(super) strict: bool,
    pub(super) timeout: Duration,
}

pub(super) struct Sequencer {
    table: Table,
    /// What the ranks can reach of each other.
    reach: Reach,
    /// Whether rings know hosts: there are several, one with several ranks, and nobody has written a table.
    host_rings: bool,
    /// The group's levels, where collectives are carried out level by level and nobody has written a table.
    levels: Option<Arc<Levels>>,
    /// Whether schedules are made by a library, and none of ringfold's is looked at.
    of_library: bool,
    defaults: Options,
    deadline: Duration,
    sequence: u64,
    /// How many courses there have been.
    courses: Cell<u64>,
    /// The calls that were made lately.
    pub(super) recent: Recent,
    /// Lists of counts, shared by requests.
    pub(super) lists: Lists,
    /// Lists of pieces that operations have had, to be filled again.
    pieces: Vec<Arc<Pieces>>,
}

impl Sequencer {
    pub(super) fn new(table: Table, defaults: Options, deadline: Duration) -> Self {
        Sequencer {
            table,
            reach: Reach::Messages,
            host_rings: false,
            levels: None,
            of_library: false,
            defaults,
            deadline,
            sequence: 0,
            courses: Cell::new(0),
            recent: Recent::default(),
            lists: Lists::default(),
            pieces: Vec::new(),
        }
    }

    /// The same of a group whose ranks reach so much of each other.
    pub(super) fn within(self, reach: Reach) -> Self {
        Sequencer { reach, ..self }
    }

    /// The same of a group whose schedules are a library's own, where so.
    pub(super) fn of_library(self, of_library: bool) -> Self {
        Sequencer { of_library, ..self }
    }

    /// The same of a group that is carried out by levels, where so. Where the default table counts they have rules of their own.
    pub(super) fn in_levels(self, levels: Option<&Arc<Levels>>) -> Self {
        let levels = levels.filter(|_| self.table == *Table::standard()).cloned();
        Sequencer { levels, ..self }
    }

    /// The same of a group whose ranks are on these hosts. Where the default table says `ring`, the ring goes from host to host, so that
    /// neighbours are near each other in whatever order ranks are placed.
    pub(super) fn on(self, topology: &Topology) -> Self {
        let host_rings = topology.shares_hosts() && self.table == Table::default();
        Sequencer { host_rings, ..self }
    }

    /// One with the same table and defaults, for a group within this one.
    pub(super) fn sibling(&self) -> Self {
        Sequencer::new(self.table.clone(), self.defaults.clone(), self.deadline)
    }

    /// The table by which algorithms are chosen.
    pub(super) fn table(&self) -> &Table {
        if self.levels.is_some() { Table::of_levels() } else { &self.table }
    }

    /// The schedule for a request for which nobody asks for another.
    pub(super) fn select(&self, request: &Request) -> Result<Schedule> {
        self.select_within(self.reach, request, false)
    }

    fn select_within(&self, reach: Reach, request: &Request, is_batch: bool) -> Result<Schedule> {
        let fits = !is_batch || Table::agreed_bytes(request) <= Levels::PACKED;
        if fits && self.levels.as_ref().is_some_and(|levels| levels.takes(request)) {
            // Levels that take a request keep its order, whatever their algorithms do by messages.
            let free = Request { order: Order::Default, ..request.clone() };
            return Table::of_levels().select_within(Reach::Messages, &free);
        }
        let schedule = self.table.select_within(reach, request)?;
        if !self.host_rings || schedule.algorithm.name() != "ring" {
            return Ok(schedule);
        }
        let of_hosts = Algorithm::named("hierarchical_ring")?;
        Ok(if of_hosts.supports(request) { self.table.schedule(request, of_hosts) } else { schedule })
    }

    /// The options of a call: what it says, else what the communicator says.
    fn options(&self, call: &Options, request: &Request) -> Options {
        // A default algorithm serves where it can; one that a call asks for must.
        let serves = |algorithm: &Algorithm| algorithm.needs() <= self.reach && algorithm.supports(request);
        let default = self.defaults.algorithm.filter(serves);
        call.over(&Options { algorithm: default, ..self.defaults.clone() })
    }

    /// How a validated request is carried out. The request gets the order that the options demand.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where no algorithm does it, or the one that is asked for does not.
    pub(super) fn course(&self, request: &mut Request, options: &Options) -> Result<Course> {
        self.course_within(self.reach, request, options, false)
    }

    /// The same of a batch, of which ranks see slots at most: where its tensors are is not told.
    pub(super) fn course_of_pieces(&self, request: &mut Request, options: &Options) -> Result<Course> {
        self.course_within(self.reach.min(Reach::Slots), request, options, true)
    }

    fn course_within(
        &self,
        reach: Reach,
        request: &mut Request,
        options: &Options,
        is_batch: bool,
    ) -> Result<Course> {
        let is_message = request.collective == Collective::SendRecv;
        // Order and checks mean nothing to a message between two, and rank order is the one of some reductions.
        request.order = match request.order {
            _ if is_message => Order::Default,
            Order::Fixed => Order::Fixed,
            _ => options.order.or(self.defaults.order).unwrap_or_default(),
        };
        if let Some(algorithm) = options.algorithm.filter(|_| self.of_library && !is_message) {
            let text = format!("the algorithm {algorithm} on a backend whose library has its own");
            return Err(
                Error::unsupported(text).remedy("leave it out, or use a backend of ringfold's schedules")
            );
        }
        let options = self.options(options, request);
        let schedule = match options.algorithm {
            _ if is_message => self.table.any_schedule(),
            Some(algorithm) => {
                algorithm.check(request)?;
                if algorithm.needs() > reach {
                    return Err(out_of_reach(algorithm));
                }
                self.table.schedule(request, algorithm)
            }
            None => self.select_within(reach, request, is_batch)?,
        };
        let strict = match options.check.unwrap_or_default() {
            _ if is_message => false,
            Check::Normal => false,
            Check::Strict => true,
            Check::Auto => {
                let helps = !matches!(
                    request.collective,
                    Collective::AllReduce | Collective::ReduceScatter | Collective::Barrier
                );
                // In shared memory everybody hears from everybody, unless there is a root.
                let heard = schedule.algorithm.needs() > Reach::Messages && !request.collective.is_rooted();
                helps && !heard && Table::agreed_bytes(request) > STRICT_FROM
            }
        };
        let number = self.courses.get() + 1;
        self.courses.set(number);
        Ok(Course { number, schedule, strict, timeout: options.deadline.unwrap_or(self.deadline) })
    }

    /// The operation that a request with its course becomes, with the next place in the order.
    ///
    /// # Safety
    /// The buffers are as [`Operation::new`] demands.
    #[inline]
    pub(super) unsafe fn operation(
        &mut self,
        request: &Request,
        course: &Course,
        buffers: Buffers,
    ) -> Operation {
        let sequence = take_place(&mut self.sequence, request);
        let Course { number, schedule, strict, timeout } = *course;
        // SAFETY: handed on to the caller of this function; a course has one request.
        unsafe { Operation::numbered(number, request.clone(), schedule, sequence, strict, timeout, buffers) }
    }

    /// The same of a call that is remembered, over the memory of these tensors.
    ///
    /// # Safety
    /// As [`operation`](Self::operation): the tensors have the lengths of the call.
    #[inline]
    pub(super) unsafe fn again(&mut self, slot: Slot, tensors: &mut Tensors<'_>) -> Operation {
        let Known { request, course, offsets } = self.recent.get(slot);
        let sequence = take_place(&mut self.sequence, request);
        let Course { number, schedule, strict, timeout } = *course;
        let buffers = tensors.buffers(*offsets);
        // SAFETY: handed on to the caller of this function; a course has one request.
        unsafe { Operation::numbered(number, request.clone(), schedule, sequence, strict, timeout, buffers) }
    }

    /// Takes note of what has become of the latest operation: where the backend refused it, its place is free again.
    /// Messages are ordered in each direction of a pair, collectives among all.
    pub(super) fn settle(&mut self, is_message: bool, result: &Result<()>) {
        if !is_message && result.as_ref().is_err_and(is_refusal) {
            self.sequence -= 1;
        }
    }

    /// The place of the next collective in the order.
    pub(super) fn place(&self) -> u64 {
        self.sequence
    }

    /// Takes back the places of operations that have been made since, and never handed to a backend.
    pub(super) fn back_to(&mut self, place: u64) {
        self.sequence = place;
    }

    /// A list of these pieces.
    pub(super) fn pieces(&mut self, list: impl Iterator<Item = Piece>) -> Arc<Pieces> {
        let index = match self.pieces.iter_mut().position(|pieces| Arc::get_mut(pieces).is_some()) {
            Some(index) => index,
            None => {
                self.pieces.push(Arc::default());
                self.pieces.len() - 1
            }
        };
        let pieces = Arc::get_mut(&mut self.pieces[index]).expect("nobody else has it");
        pieces.clear();
        list.for_each(|piece| pieces.push(piece));
        Arc::clone(&self.pieces[index])
    }
}

/// The next place in the order, which is taken by collectives; messages have an order of their own.
#[inline]
fn take_place(next: &mut u64, request: &Request) -> u64 {
    let place = *next;
    if request.collective != Collective::SendRecv {
        *next += 1;
    }
    place
}

fn out_of_reach(algorithm: Algorithm) -> Error {
    let needs = match algorithm.needs() {
        Reach::Messages => "nothing",
        Reach::Slots => "ranks that share memory",
        Reach::Memory => "ranks of one host that may read each other's memory, and no batch",
        Reach::Tensors => "shared tensors on all ranks, where it is taken by itself",
    };
    Error::unsupported(format!("{algorithm} needs {needs}"))
        .remedy("leave the choice of the algorithm to ringfold")
}

/// Whether an operation has been refused before it began.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn rings_of_several_hosts_go_from_host_to_host() {
        let chosen = |hosts: &[u8], table: Option<&str>, collective, bytes: usize| {
            let table = table.map_or(Table::default(), |text| text.parse().unwrap());
            let sequencer = Sequencer::new(table, Options::new(), Duration::MAX);
            let request = Request::new(collective, hosts.len(), DType::F32, bytes / 4);
            sequencer.on(&Topology::of_hosts(hosts)).select(&request).unwrap().algorithm.name()
        };
        let (large, apart) = (64 << 20, [0, 1, 0, 1]);
        for collective in [Collective::AllReduce, Collective::ReduceScatter, Collective::AllGather] {
            assert_eq!(chosen(&apart, None, collective, large), "hierarchical_ring");
            // One host, or one rank a host: nothing to be gained. A table of one's own means what it says.
            assert_eq!(chosen(&[0; 4], None, collective, large), "ring");
            assert_eq!(chosen(&[0, 1, 2, 3], None, collective, large), "ring");
            let own = format!("{collective}: .. ring");
            assert_eq!(chosen(&apart, Some(&own), collective, large), "ring");
        }
        assert_eq!(chosen(&apart, None, Collective::AllReduce, 8), "recursive_doubling");
    }
}
