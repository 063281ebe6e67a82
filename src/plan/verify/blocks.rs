//! Cuts memories and messages into blocks such that every task treats each block as one.

use super::{At, Fault};
use crate::plan::lower::{Kind, Lane, Lowered, Memory, Task, locate, overlap_out_of_step};
use crate::plan::{Place, Region, Span, Step};
use rustc_hash::FxHashMap;
use std::ops::Range;

/// What a task reads or writes.
pub(super) struct Operand {
    /// By its place in [`System::memories`].
    pub(super) memory: u32,
    /// The [cell](System::cell_base) that begins there; while cutting, the border within the memory.
    pub(super) first_cell: u32,
    /// The first element.
    at: usize,
    pub(super) writes: bool,
}

/// What matters of a step once its operands are known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Send,
    Receive,
    /// Copies or folds.
    Combine,
    Finish,
    Signal,
    Wait,
}

/// A task of some rank, in a form so small that millions of them are gone through quickly.
pub(super) struct Entry {
    pub(super) rank: u32,
    /// By its place among the rank's tasks.
    task: u32,
    pub(super) lane: u32,
    pub(super) action: Action,
    /// Elements to work through.
    pub(super) len: usize,
    /// The entry at the other end of the message, [`NONE`] where there is none.
    partner: u32,
    /// Reads in the order of the step, then the write if there is one: by their places in the system.
    operands: Range<u32>,
    /// One *event* for each block: numbered through all entries. One event where there is no element.
    pub(super) events: Range<u32>,
}

/// In place of an index.
pub(super) const NONE: u32 = u32::MAX;

impl Entry {
    pub(super) fn partner(&self) -> Option<usize> {
        (self.partner != NONE).then_some(self.partner as usize)
    }
}

/// All tasks and memories of all ranks, cut into blocks.
pub(super) struct System<'a> {
    pub(super) ranks: &'a [Lowered],
    /// Every rank's shift where it works in place.
    aliasing: Vec<Option<isize>>,
    pub(super) entries: Vec<Entry>,
    /// The first entry of each rank.
    pub(super) base: Vec<usize>,
    operands: Vec<Operand>,
    /// Where the block of each event ends, counted in elements of the task; its last is the task's length.
    pub(super) ends: Vec<usize>,
    /// The borders of the blocks of each memory, by [`memory_index`].
    pub(super) memories: Vec<Vec<usize>>,
    /// The number of the first block of each memory, all memories' blocks being counted through: a *cell*.
    pub(super) cell_base: Vec<usize>,
    messages: usize,
}

/// The place of a memory in [`System::memories`].
pub(super) fn memory_index(memory: Memory) -> usize {
    memory.rank * 4 + memory.kind as usize
}

impl<'a> System<'a> {
    pub(super) fn new(ranks: &'a [Lowered]) -> Result<Self, Fault> {
        let aliasing =
            ranks.iter().enumerate().map(|(rank, lowered)| lowered.plan.request.aliasing(rank)).collect();
        let tasks = ranks.iter().map(|lowered| lowered.tasks.len()).sum();
        let mut system = System {
            ranks,
            aliasing,
            entries: Vec::with_capacity(tasks),
            base: Vec::with_capacity(ranks.len()),
            operands: Vec::with_capacity(tasks),
            ends: Vec::with_capacity(tasks),
            memories: vec![Vec::new(); ranks.len() * 4],
            cell_base: Vec::new(),
            messages: 0,
        };
        system.collect()?;
        system.match_messages()?;
        system.cut();
        Ok(system)
    }

    /// Lists all tasks with their operands.
    fn collect(&mut self) -> Result<(), Fault> {
        let reach: Vec<Reach> = self.ranks.iter().map(Reach::of).collect();
        for (rank, lowered) in self.ranks.iter().enumerate() {
            self.base.push(self.entries.len());
            for (place, task) in lowered.tasks.iter().enumerate() {
                let step = &lowered.plan.steps[task.step];
                let at = At { rank, index: task.step, step };
                let first = self.operands.len();
                for span in step.reads() {
                    check_reach(&reach, &at, span)?;
                    self.add_operand(rank, span, false);
                }
                if let Some(span) = step.writes() {
                    check_reach(&reach, &at, &span)?;
                    self.add_operand(rank, &span, true);
                    // Lowering knows which memories are one only where they are its own rank's.
                    let (write, reads) = self.operands[first..].split_last().expect("it writes");
                    let place = |operand: &Operand| (operand.memory, operand.at);
                    if reads.iter().any(|read| overlap_out_of_step(place(read), place(write), span.len)) {
                        return Err(Fault::Malformed(format!("{at}: its ranges overlap, but not exactly")));
                    }
                }
                self.entries.push(Entry {
                    rank: rank as u32,
                    task: place as u32,
                    lane: task.lane as u32,
                    action: match step {
                        Step::Send { .. } => Action::Send,
                        Step::Recv { .. } | Step::RecvReduce { .. } => Action::Receive,
                        Step::Copy { .. } | Step::Fold { .. } => Action::Combine,
                        Step::Finish { .. } => Action::Finish,
                        Step::Signal { .. } => Action::Signal,
                        Step::Wait { .. } => Action::Wait,
                    },
                    len: task.len,
                    partner: NONE,
                    operands: first as u32..self.operands.len() as u32,
                    events: 0..0,
                });
            }
        }
        Ok(())
    }

    fn add_operand(&mut self, rank: usize, span: &Span, writes: bool) {
        let (memory, at) = self.locate(rank, span);
        self.operands.push(Operand { memory: memory as u32, first_cell: 0, at, writes });
    }

    /// Where a span of a rank's plan lies: the memory, and the element of it.
    pub(super) fn locate(&self, rank: usize, span: &Span) -> (usize, usize) {
        let (memory, at) = locate(rank, span, |rank| self.aliasing[rank]);
        (memory_index(memory), at)
    }

    /// What an entry reads, in the order of the step, and then what it writes, if anything.
    pub(super) fn operands(&self, entry: &Entry) -> &[Operand] {
        &self.operands[entry.operands.start as usize..entry.operands.end as usize]
    }

    /// Where an entry's blocks end.
    pub(super) fn ends(&self, entry: &Entry) -> &[usize] {
        &self.ends[entry.events.start as usize..entry.events.end as usize]
    }

    /// The element of a memory at which a cell begins.
    pub(super) fn border(&self, memory: usize, cell: usize) -> usize {
        self.memories[memory][cell - self.cell_base[memory]]
    }

    /// The number of messages.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// An entry's task in its rank's lowered plan.
    pub(super) fn task(&self, entry: &Entry) -> &'a Task {
        &self.ranks[entry.rank as usize].tasks[entry.task as usize]
    }

    /// An entry with its address, for messages and for what few entries have.
    pub(super) fn at(&self, entry: usize) -> At<'a> {
        let entry = &self.entries[entry];
        let (rank, index) = (entry.rank as usize, self.task(entry).step);
        At { rank, index, step: &self.ranks[rank].plan.steps[index] }
    }

    /// The k-th message from one rank to another is the k-th that the other receives from it.
    fn match_messages(&mut self) -> Result<(), Fault> {
        let mut receives: FxHashMap<(usize, usize), &[usize]> = FxHashMap::default();
        for (rank, lowered) in self.ranks.iter().enumerate() {
            for (lane, tasks) in &lowered.lanes {
                if let Lane::Receive(from) = lane {
                    receives.insert((*from, rank), tasks);
                }
            }
        }
        for (rank, lowered) in self.ranks.iter().enumerate() {
            for (lane, sends) in &lowered.lanes {
                let Lane::Send(to) = lane else { continue };
                let received = receives.remove(&(rank, *to)).unwrap_or_default();
                for (i, &send) in sends.iter().enumerate() {
                    let send = self.base[rank] + send;
                    let Some(&receive) = received.get(i) else {
                        return Err(Fault::Unmatched(format!("{} is received by nobody", self.at(send))));
                    };
                    let receive = self.base[*to] + receive;
                    if self.entries[send].len != self.entries[receive].len {
                        return Err(Fault::Unmatched(format!(
                            "{} meets {}, which is of another length",
                            self.at(send),
                            self.at(receive)
                        )));
                    }
                    self.entries[send].partner = receive as u32;
                    self.entries[receive].partner = send as u32;
                    self.messages += 1;
                }
                if let Some(&surplus) = received.get(sends.len()) {
                    return Err(Fault::Unmatched(format!(
                        "{} is sent by nobody",
                        self.at(self.base[*to] + surplus)
                    )));
                }
            }
        }
        let mut left: Vec<_> = receives.into_iter().filter(|(_, tasks)| !tasks.is_empty()).collect();
        left.sort_unstable();
        if let Some(((_, to), tasks)) = left.first() {
            return Err(Fault::Unmatched(format!(
                "{} is sent by nobody",
                self.at(self.base[*to] + tasks[0])
            )));
        }
        Ok(())
    }

    /// Cuts until nothing changes: a border in a memory is one in every task that works across it, a border in a
    /// task is one in all its operands and at the other end of its message.
    fn cut(&mut self) {
        for entry in &self.entries {
            for operand in &self.operands[entry.operands.start as usize..entry.operands.end as usize] {
                let borders = &mut self.memories[operand.memory as usize];
                // Most are known already: one range goes to many ranks, windows are used again and again.
                if borders.len() + 2 > borders.capacity() {
                    sort_and_dedup(borders);
                    borders.reserve(3 * borders.len() + 2);
                }
                for border in [operand.at, operand.at + entry.len] {
                    if !borders.iter().rev().take(2).any(|known| *known == border) {
                        borders.push(border);
                    }
                }
            }
        }
        for (rank, lowered) in self.ranks.iter().enumerate() {
            let request = &lowered.plan.request;
            for (place, len) in
                [(Place::Input, request.input_len(rank)), (Place::Output, request.output_len(rank))]
            {
                let (memory, at) = self.locate(rank, &Span { place, start: 0, len });
                self.memories[memory].extend([at, at + len]);
            }
        }
        self.memories.iter_mut().for_each(sort_and_dedup);
        let mut dirty = vec![true; self.memories.len()];
        while dirty.contains(&true) {
            self.find_borders(&dirty);
            let added = self.missing_borders(&dirty);
            for (memory, more) in added.into_iter().enumerate() {
                dirty[memory] = !more.is_empty();
                if !more.is_empty() {
                    self.memories[memory].extend(more);
                    sort_and_dedup(&mut self.memories[memory]);
                }
            }
        }
        self.number_blocks();
    }

    /// Finds the border at which each operand begins, in the dirty memories.
    fn find_borders(&mut self, dirty: &[bool]) {
        // Most operands begin where the one before them in the same memory does, or at the next border.
        let mut found = vec![0; self.memories.len()];
        for operand in self.operands.iter_mut().filter(|operand| dirty[operand.memory as usize]) {
            let (borders, found) =
                (&self.memories[operand.memory as usize], &mut found[operand.memory as usize]);
            if borders[*found] != operand.at {
                *found += 1;
                if borders.get(*found) != Some(&operand.at) {
                    *found = borders.partition_point(|&border| border < operand.at);
                }
            }
            operand.first_cell = *found as u32;
        }
    }

    /// The borders that are still missing in each memory, as far as tasks know that work on dirty ones.
    fn missing_borders(&self, dirty: &[bool]) -> Vec<Vec<usize>> {
        let is_crossed = |entry: &Entry| {
            let mut operands = self.operands(entry).iter();
            entry.len > 1 && operands.any(|operand| !self.borders_inside(operand, entry.len).is_empty())
        };
        let crossed: Vec<bool> = self.entries.iter().map(is_crossed).collect();
        let mut added: Vec<Vec<usize>> = vec![Vec::new(); self.memories.len()];
        let mut cuts = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let partner = entry.partner();
            // A message is cut as one, with its send.
            if (partner.is_some() && entry.action == Action::Receive)
                || !(crossed[index] || partner.is_some_and(|partner| crossed[partner]))
            {
                continue;
            }
            let received = partner.map_or(&[][..], |partner| self.operands(&self.entries[partner]));
            let operands = || self.operands(entry).iter().chain(received);
            if !operands().any(|operand| dirty[operand.memory as usize]) {
                continue;
            }
            cuts.clear();
            for operand in operands() {
                cuts.extend(self.borders_inside(operand, entry.len).iter().map(|border| border - operand.at));
            }
            sort_and_dedup(&mut cuts);
            for operand in operands() {
                let known = self.borders_inside(operand, entry.len);
                if known.len() < cuts.len() {
                    let missing = cuts.iter().map(|cut| operand.at + cut);
                    added[operand.memory as usize]
                        .extend(missing.filter(|border| known.binary_search(border).is_err()));
                }
            }
        }
        added
    }

    /// The borders inside an operand of this length.
    fn borders_inside(&self, operand: &Operand, len: usize) -> &[usize] {
        let borders = &self.memories[operand.memory as usize];
        let borders = &borders[operand.first_cell as usize + 1..];
        let count = borders.iter().take_while(|&&border| border < operand.at + len).count();
        &borders[..count]
    }

    /// Numbers cells and events, once all cuts are known.
    fn number_blocks(&mut self) {
        let mut cells = 0;
        for borders in &self.memories {
            self.cell_base.push(cells);
            cells += borders.len();
        }
        for entry in &mut self.entries {
            let first = self.ends.len();
            for operand in &mut self.operands[entry.operands.start as usize..entry.operands.end as usize] {
                // All operands are cut alike.
                if self.ends.len() == first && entry.len > 0 {
                    let borders = &self.memories[operand.memory as usize][operand.first_cell as usize + 1..];
                    let inside = borders.iter().take_while(|&&end| end < operand.at + entry.len);
                    self.ends.extend(inside.map(|end| end - operand.at));
                    self.ends.push(entry.len);
                }
                operand.first_cell += self.cell_base[operand.memory as usize] as u32;
            }
            if entry.len == 0 {
                self.ends.push(0);
            }
            entry.events = first as u32..self.ends.len() as u32;
        }
    }
}

fn sort_and_dedup(borders: &mut Vec<usize>) {
    borders.sort_unstable();
    borders.dedup();
}

/// How much of a rank's memory the others can see.
struct Reach {
    input: usize,
    output: usize,
    slot: usize,
}

impl Reach {
    fn of(lowered: &Lowered) -> Self {
        let (rank, request) = (lowered.plan.rank, &lowered.plan.request);
        Reach { input: request.input_len(rank), output: request.output_len(rank), slot: lowered.plan.slot }
    }
}

/// Spans of other ranks' memory lie within it.
fn check_reach(reach: &[Reach], at: &At<'_>, span: &Span) -> Result<(), Fault> {
    if let Place::Peer { rank: owner, region } = span.place {
        let limit = match region {
            Region::Input => reach[owner].input,
            Region::Output => reach[owner].output,
            Region::Slot => reach[owner].slot,
        };
        if span.start.checked_add(span.len).is_none_or(|end| end > limit) {
            return Err(Fault::Malformed(format!("{at}: {span} is beyond the end, which is {limit}")));
        }
    }
    Ok(())
}

/// The kind of a memory, by its place in [`System::memories`].
pub(super) fn kind_of(memory: usize) -> Kind {
    [Kind::Input, Kind::Output, Kind::Scratch, Kind::Slot][memory % 4]
}
