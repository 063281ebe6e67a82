//! Cuts memories and messages into blocks such that every task treats each block as one.

use super::{At, Fault};
use crate::plan::lower::{Kind, Lane, Lowered, Memory, Task, locate};
use crate::plan::{Place, Region, Span, Step};
use rustc_hash::FxHashMap;

/// What a task reads or writes.
pub(super) struct Operand {
    /// By its place in [`System::memories`].
    pub(super) memory: usize,
    /// The first element.
    pub(super) at: usize,
    /// The block of the memory that begins there.
    pub(super) first_block: usize,
    pub(super) writes: bool,
}

/// A task of some rank.
pub(super) struct Entry<'a> {
    pub(super) rank: usize,
    pub(super) task: &'a Task,
    pub(super) step: &'a Step,
    /// Reads in the order of the step, then the write if there is one.
    pub(super) operands: Vec<Operand>,
    /// The task at the other end of the message.
    pub(super) partner: Option<usize>,
    /// Where each block ends, counted in elements of the task; the last is its length. One empty block where
    /// there is no element.
    pub(super) ends: Vec<usize>,
}

/// All tasks and memories of all ranks, cut into blocks.
pub(super) struct System<'a> {
    pub(super) ranks: &'a [Lowered],
    pub(super) entries: Vec<Entry<'a>>,
    /// The first entry of each rank.
    pub(super) base: Vec<usize>,
    /// The borders of the blocks of each memory, by [`memory_index`].
    pub(super) memories: Vec<Vec<usize>>,
    messages: usize,
}

/// The place of a memory in [`System::memories`].
pub(super) fn memory_index(memory: Memory) -> usize {
    memory.rank * 4 + memory.kind as usize
}

impl<'a> System<'a> {
    pub(super) fn new(ranks: &'a [Lowered]) -> Result<Self, Fault> {
        let aliasing: Vec<Option<isize>> =
            ranks.iter().enumerate().map(|(rank, lowered)| lowered.plan.request.aliasing(rank)).collect();
        let mut entries = Vec::new();
        let mut base = Vec::new();
        for (rank, lowered) in ranks.iter().enumerate() {
            base.push(entries.len());
            for task in &lowered.tasks {
                let step = &lowered.plan.steps[task.step];
                let mut operands = Vec::new();
                let spans = step.reads().into_iter().map(|span| (span, false));
                for (span, writes) in spans.chain(step.writes().map(|span| (span, true))) {
                    check_reach(ranks, rank, task.step, step, &span, writes)?;
                    let (memory, at) = locate(rank, &span, |rank| aliasing[rank]);
                    operands.push(Operand { memory: memory_index(memory), at, first_block: 0, writes });
                }
                entries.push(Entry { rank, task, step, operands, partner: None, ends: Vec::new() });
            }
        }
        let mut system =
            System { ranks, entries, base, memories: vec![Vec::new(); ranks.len() * 4], messages: 0 };
        system.match_messages()?;
        system.cut();
        Ok(system)
    }

    /// The number of messages.
    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    /// An entry with its address, for messages.
    pub(super) fn at(&self, entry: usize) -> At<'a> {
        let entry = &self.entries[entry];
        At { rank: entry.rank, index: entry.task.step, step: entry.step }
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
                    if self.entries[send].task.len != self.entries[receive].task.len {
                        return Err(Fault::Unmatched(format!(
                            "{} meets {}, which is of another length",
                            self.at(send),
                            self.at(receive)
                        )));
                    }
                    self.entries[send].partner = Some(receive);
                    self.entries[receive].partner = Some(send);
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
            for operand in &entry.operands {
                let borders = &mut self.memories[operand.memory];
                borders.extend([operand.at, operand.at + entry.task.len]);
            }
        }
        for (rank, lowered) in self.ranks.iter().enumerate() {
            let plan = &lowered.plan;
            for (place, len) in
                [(Place::Input, plan.request.input_len(rank)), (Place::Output, plan.request.output_len(rank))]
            {
                let span = Span { place, start: 0, len };
                let (memory, at) = locate(rank, &span, |rank| self.ranks[rank].plan.request.aliasing(rank));
                self.memories[memory_index(memory)].extend([at, at + len]);
            }
        }
        for borders in &mut self.memories {
            borders.sort_unstable();
            borders.dedup();
        }
        let mut cuts: Vec<Vec<usize>> = vec![Vec::new(); self.entries.len()];
        let mut dirty = vec![true; self.memories.len()];
        let mut dirty_task = vec![false; self.entries.len()];
        loop {
            let mut added: Vec<Vec<usize>> = vec![Vec::new(); self.memories.len()];
            let mut next_dirty_task = vec![false; self.entries.len()];
            let mut changed = false;
            for (index, entry) in self.entries.iter().enumerate() {
                let len = entry.task.len;
                if len < 2
                    || !(dirty_task[index] || entry.operands.iter().any(|operand| dirty[operand.memory]))
                {
                    continue;
                }
                let mut here = Vec::new();
                for operand in &entry.operands {
                    let borders = &self.memories[operand.memory];
                    let first = borders.partition_point(|&border| border <= operand.at);
                    here.extend(
                        borders[first..]
                            .iter()
                            .take_while(|&&border| border < operand.at + len)
                            .map(|border| border - operand.at),
                    );
                }
                if let Some(partner) = entry.partner {
                    here.extend_from_slice(&cuts[partner]);
                }
                here.sort_unstable();
                here.dedup();
                if here == cuts[index] {
                    continue;
                }
                for operand in &entry.operands {
                    let borders = &self.memories[operand.memory];
                    added[operand.memory].extend(
                        here.iter()
                            .map(|cut| operand.at + cut)
                            .filter(|border| borders.binary_search(border).is_err()),
                    );
                }
                if let Some(partner) = entry.partner {
                    next_dirty_task[partner] = true;
                }
                cuts[index] = here;
                changed = true;
            }
            if !changed {
                break;
            }
            for (memory, more) in added.into_iter().enumerate() {
                dirty[memory] = !more.is_empty();
                if !more.is_empty() {
                    self.memories[memory].extend(more);
                    self.memories[memory].sort_unstable();
                    self.memories[memory].dedup();
                }
            }
            dirty_task = next_dirty_task;
        }
        for (entry, mut cuts) in self.entries.iter_mut().zip(cuts) {
            cuts.push(entry.task.len);
            entry.ends = cuts;
            for operand in &mut entry.operands {
                operand.first_block =
                    self.memories[operand.memory].partition_point(|&border| border < operand.at);
            }
        }
    }
}

/// Spans of other ranks' memory lie within it, and nobody writes an input.
fn check_reach(
    ranks: &[Lowered],
    rank: usize,
    index: usize,
    step: &Step,
    span: &Span,
    writes: bool,
) -> Result<(), Fault> {
    let at = At { rank, index, step };
    if writes && matches!(span.place, Place::Input | Place::Peer { region: Region::Input, .. }) {
        return Err(Fault::Malformed(format!("{at} writes an input")));
    }
    if let Place::Peer { rank: owner, region } = span.place {
        let plan = &ranks[owner].plan;
        let limit = match region {
            Region::Input => plan.request.input_len(owner),
            Region::Output => plan.request.output_len(owner),
            Region::Slot => plan.slot,
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
