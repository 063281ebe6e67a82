//! The plans of many ranks in little memory: what they have in common is kept once.
//!
//! The dependencies of a plan follow from which of its ranges are the same, and which are apart. Where all ranges are
//! one or the other, a plan with the same steps over ranges that lie in the same order (round the ring, perhaps)
//! has the same dependencies: it shares the *shape* of the first such plan, and brings its own lengths only. So a ring
//! of 10,000 ranks has one shape, of 40,000 items.
//!
//! Dependencies are those of [`lower`](crate::plan::lower::lower), pushed instead of pulled: an item that others wait for
//! tells them, in a *slot* that stands for whoever waits, when their bytes may be done. Slots are reused.

use super::fabric::Need;
use crate::error::{Error, Result};
use crate::plan::lower::{Kind as MemoryKind, locate};
use crate::plan::{Plan, Step};
use rustc_hash::{FxHashMap, FxHasher};
use std::hash::Hasher;
use std::sync::{Arc, Mutex, PoisonError};

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// What an item does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Sends to the rank this many places further.
    Send(u32),
    /// Receives from the rank this many places further, and reduces or not.
    Receive(u32, bool),
    /// Reduces or copies so many times its length.
    Compute(u32),
}

/// One step that does something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) action: Action,
    /// Where others tell when it may begin; [`NONE`] where it waits for nobody.
    pub(super) slot: u32,
    /// Its edges end here, and begin where those of the item before end.
    pub(super) edges_end: u32,
}

/// Somebody to be told: their slot, and what they need, by its place in [`Shape::needs`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) slot: u32,
    pub(super) need: u32,
}

/// What plans have in common.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) items: Vec<Item>,
    pub(super) edges: Vec<Edge>,
    pub(super) needs: Vec<Need>,
    pub(super) slots: usize,
    /// From whom it receives, as distances, in ascending order.
    sources: Vec<u32>,
}

impl Shape {
    /// How many ranks it receives from.
    pub(super) fn sources(&self) -> usize {
        self.sources.len()
    }

    /// The place of a rank among those that it receives from.
    pub(super) fn source(&self, distance: u32) -> Option<usize> {
        match self.sources.len() {
            // Where it hears from everybody, distances are places.
            many if many > 8 && self.sources[many - 1] as usize == many => (distance as usize).checked_sub(1),
            few if few <= 8 => self.sources.iter().position(|&source| source == distance),
            _ => self.sources.binary_search(&distance).ok(),
        }
    }
}

/// One rank's plan.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) shape: Arc<Shape>,
    /// The elements of each item: (so many items, of so many elements each).
    pub(super) lengths: Vec<(u32, u64)>,
}

/// A range that a step reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operand {
    memory: MemoryKind,
    start: usize,
    len: usize,
}

impl Operand {
    /// Becomes as long as another that begins where it does, if that is scratch memory.
    fn cover(&mut self, other: &Operand) {
        if self.memory == MemoryKind::Scratch {
            self.len = self.len.max(other.len);
        }
    }
}

/// What is known of a step before dependencies are.
struct Draft {
    action: Action,
    len: usize,
    /// Its operands: reads from the end of the item before, then at most one write.
    reads_end: u32,
    operands_end: u32,
}

/// A shape with what tells whether another plan is of it.
struct Template {
    shape: Arc<Shape>,
    operands: Operands,
}

enum Operands {
    /// All ranges are the same or apart: which operand is which range, and the ranges in order. Of scratch memory that
    /// is used for one thing after the other, ranges that begin together count as one.
    Apart { ids: Vec<u32>, order: Vec<u32> },
    /// They are not: only the very same ones do, which two hashes of theirs stand for.
    Exactly([u64; 2]),
}

/// The shapes that have been seen so far.
#[derive(Default)]
pub(super) struct Shapes {
    templates: Mutex<FxHashMap<u64, Vec<Arc<Template>>>>,
}

/// Of plans that look alike at first sight, the most that are compared.
const CANDIDATES: usize = 16;

impl Shapes {
    /// Makes a program of a plan.
    pub(super) fn program(&self, plan: &Plan) -> Result<Program> {
        let (drafts, operands) = draft(plan)?;
        let key = key(&drafts, &operands);
        let candidates: Vec<Arc<Template>> = {
            let templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
            templates
                .get(&key)
                .map_or_else(Vec::new, |found| found.iter().take(CANDIDATES).cloned().collect())
        };
        let known = candidates.iter().find(|template| template.fits(&drafts, &operands));
        let shape = match known {
            Some(template) => Arc::clone(&template.shape),
            None => {
                let template = Arc::new(Template::new(&drafts, &operands));
                let shape = Arc::clone(&template.shape);
                let mut templates = self.templates.lock().unwrap_or_else(PoisonError::into_inner);
                templates.entry(key).or_default().push(template);
                shape
            }
        };
        let mut lengths: Vec<(u32, u64)> = Vec::new();
        for draft in &drafts {
            match lengths.last_mut() {
                Some((count, len)) if *len == draft.len as u64 => *count += 1,
                _ => lengths.push((1, draft.len as u64)),
            }
        }
        Ok(Program { shape, lengths })
    }
}

/// Leaves out what does nothing, and finds out where operands really lie.
fn draft(plan: &Plan) -> Result<(Vec<Draft>, Vec<Operand>)> {
    let (rank, world) = (plan.rank, plan.request.world);
    let aliasing = plan.request.aliasing(rank);
    let mut drafts = Vec::with_capacity(plan.steps.len());
    let mut operands = Vec::with_capacity(plan.steps.len() * 2);
    let distance = |peer: usize| ((peer + world - rank) % world) as u32;
    for step in &plan.steps {
        let action = match step {
            Step::Send { to, .. } => Action::Send(distance(*to)),
            Step::Recv { from, .. } => Action::Receive(distance(*from), false),
            Step::RecvReduce { from, .. } => Action::Receive(distance(*from), true),
            Step::Copy { .. } => Action::Compute(1),
            Step::Fold { sources, .. } => Action::Compute(sources.len() as u32 - 1),
            // Only a mean has anything to do here, and that while the bytes are at hand.
            Step::Finish { .. } => Action::Compute(0),
            Step::Signal { .. } | Step::Wait { .. } => {
                return Err(Error::unsupported("plans for shared memory are not simulated"));
            }
        };
        let len = step.len();
        if len == 0 {
            continue;
        }
        let before = operands.len();
        let mut add = |span: &crate::plan::Span| {
            let (memory, start) = locate(rank, span, |_| aliasing);
            // Nobody writes what is an input and nothing else.
            if memory.kind != MemoryKind::Input {
                operands.push(Operand { memory: memory.kind, start, len });
            }
        };
        step.reads().iter().for_each(&mut add);
        let write = step.writes();
        write.iter().for_each(add);
        let reads_end = operands.len() - usize::from(write.is_some());
        // In which order operands are folded makes no difference to what depends on them.
        operands[before..reads_end].sort_by_key(|read| (read.memory, read.start));
        if let Step::Copy { .. } = step
            && reads_end - before == 1
            && operands[before] == operands[reads_end]
        {
            operands.truncate(before);
            continue;
        }
        drafts.push(Draft { action, len, reads_end: reads_end as u32, operands_end: operands.len() as u32 });
    }
    Ok((drafts, operands))
}

/// A number that plans of one shape share.
fn key(drafts: &[Draft], operands: &[Operand]) -> u64 {
    let mut hasher = FxHasher::default();
    for draft in drafts {
        let (kind, value) = match draft.action {
            Action::Send(distance) => (0, distance),
            Action::Receive(distance, false) => (1, distance),
            Action::Receive(distance, true) => (2, distance),
            Action::Compute(times) => (3, times),
        };
        hasher.write_u64(u64::from(value) << 2 | kind);
        hasher.write_u64(u64::from(draft.reads_end) << 32 | u64::from(draft.operands_end));
    }
    for operand in operands {
        hasher.write_u8(operand.memory as u8);
    }
    hasher.finish()
}

impl Template {
    fn new(drafts: &[Draft], operands: &[Operand]) -> Self {
        Template { shape: Arc::new(shape(drafts, operands)), operands: Operands::of(operands) }
    }

    fn fits(&self, drafts: &[Draft], operands: &[Operand]) -> bool {
        if !drafts.iter().map(|draft| draft.action).eq(self.shape.items.iter().map(|item| item.action)) {
            return false;
        }
        match &self.operands {
            Operands::Exactly(exactly) => *exactly == hashes(operands),
            Operands::Apart { ids, order } => ids.len() == operands.len() && lie_alike(ids, order, operands),
        }
    }
}

impl Operands {
    fn of(operands: &[Operand]) -> Self {
        let mut ids_of: FxHashMap<(u8, usize, usize), u32> = FxHashMap::default();
        let mut unique: Vec<Operand> = Vec::new();
        let ids = operands
            .iter()
            .map(|operand| {
                let len = if operand.memory == MemoryKind::Scratch { 0 } else { operand.len };
                let id = *ids_of.entry((operand.memory as u8, operand.start, len)).or_insert_with(|| {
                    unique.push(*operand);
                    unique.len() as u32 - 1
                });
                unique[id as usize].cover(operand);
                id
            })
            .collect();
        let mut order: Vec<u32> = (0..unique.len() as u32).collect();
        order.sort_by_key(|&id| (unique[id as usize].memory, unique[id as usize].start));
        let apart = order.windows(2).all(|pair| {
            let (one, next) = (unique[pair[0] as usize], unique[pair[1] as usize]);
            one.memory != next.memory || one.start + one.len <= next.start
        });
        if apart { Operands::Apart { ids, order } } else { Operands::Exactly(hashes(operands)) }
    }
}

/// Two numbers that, together, only the very same operands have.
fn hashes(operands: &[Operand]) -> [u64; 2] {
    [0, 0x9e37_79b9_7f4a_7c15].map(|seed| {
        let mut hasher = FxHasher::default();
        hasher.write_u64(seed);
        for operand in operands {
            hasher.write_u64((operand.start as u64).rotate_left(32) ^ seed);
            hasher.write_u64((operand.len as u64) << 2 | operand.memory as u64);
        }
        hasher.finish()
    })
}

/// Whether these operands are the same and apart just as the ones with these ids, which lie in this order. The order
/// may be turned, once in each memory.
fn lie_alike(ids: &[u32], order: &[u32], operands: &[Operand]) -> bool {
    let unknown = Operand { memory: MemoryKind::Input, start: 0, len: 0 };
    let mut unique = vec![unknown; order.len()];
    for (&id, operand) in ids.iter().zip(operands) {
        let known = &mut unique[id as usize];
        if *known == unknown {
            *known = *operand;
        }
        known.cover(operand);
        let is_scratch = operand.memory == MemoryKind::Scratch;
        if (known.memory, known.start) != (operand.memory, operand.start)
            || !is_scratch && known.len != operand.len
        {
            return false;
        }
    }
    let mut at = 0;
    while at < order.len() {
        let memory = unique[order[at] as usize].memory;
        let begin = at;
        let mut turns = 0;
        while at < order.len() && unique[order[at] as usize].memory == memory {
            let one = unique[order[at] as usize];
            let last = order.get(at + 1).is_none_or(|&next| unique[next as usize].memory != memory);
            let next = unique[order[if last { begin } else { at + 1 }] as usize];
            turns += usize::from(one.start + one.len > next.start);
            at += 1;
        }
        if turns > 1 {
            return false;
        }
    }
    true
}

/// Who last wrote a stretch of memory between two cuts, and who has read it since: items, and where their operands begin.
#[derive(Clone, Default)]
struct Stretch {
    writer: Option<(u32, usize)>,
    readers: Vec<(u32, usize)>,
}

/// A memory, cut wherever an operand begins or ends.
struct Memory {
    cuts: Vec<usize>,
    stretches: Vec<Stretch>,
}

impl Memory {
    fn new(operands: &[Operand], memory: MemoryKind) -> Self {
        let of = operands.iter().filter(|operand| operand.memory == memory);
        let mut cuts: Vec<usize> =
            of.flat_map(|operand| [operand.start, operand.start + operand.len]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        Memory { stretches: vec![Stretch::default(); cuts.len()], cuts }
    }

    fn stretches(&mut self, operand: &Operand) -> &mut [Stretch] {
        let place = |at: usize| self.cuts.partition_point(|&cut| cut < at);
        let (begin, end) = (place(operand.start), place(operand.start + operand.len));
        &mut self.stretches[begin..end]
    }
}

const MEMORIES: [MemoryKind; 4] =
    [MemoryKind::Input, MemoryKind::Output, MemoryKind::Scratch, MemoryKind::Slot];

/// Finds what depends on what, and gives out slots.
fn shape(drafts: &[Draft], operands: &[Operand]) -> Shape {
    let mut memories = MEMORIES.map(|memory| Memory::new(operands, memory));
    let mut last_of_lane: FxHashMap<(u8, u32), u32> = FxHashMap::default();
    // Who tells whom what.
    let mut tells: Vec<(u32, u32, Need)> = Vec::with_capacity(drafts.len() * 2);
    let mut waits = vec![false; drafts.len()];
    let mut found: Vec<(u32, isize)> = Vec::new();
    let mut begin = 0;
    for (index, draft) in drafts.iter().enumerate() {
        let item = index as u32;
        let (reads_end, end) = (draft.reads_end as usize, draft.operands_end as usize);
        for read in &operands[begin..reads_end] {
            for stretch in memories[read.memory as usize].stretches(read) {
                found.extend(stretch.writer.map(|(on, start)| (on, start as isize - read.start as isize)));
                stretch.readers.push((item, read.start));
            }
        }
        for write in &operands[reads_end..end] {
            for stretch in memories[write.memory as usize].stretches(write) {
                let others = stretch.readers.iter().filter(|(on, _)| *on != item);
                let before = found.len();
                found.extend(others.map(|(on, start)| (*on, *start as isize - write.start as isize)));
                if found.len() == before {
                    found.extend(
                        stretch.writer.map(|(on, start)| (on, start as isize - write.start as isize)),
                    );
                }
                stretch.writer = Some((item, write.start));
                stretch.readers.clear();
            }
        }
        begin = end;
        let lane = match draft.action {
            Action::Send(to) => (0, to),
            Action::Receive(from, _) => (1, from),
            Action::Compute(_) => (2, 0),
        };
        let before_in_lane = last_of_lane.insert(lane, item);
        found.sort_unstable();
        found.dedup_by_key(|(on, _)| *on);
        for (on, shift) in found.drain(..) {
            if on == item || Some(on) == before_in_lane {
                continue;
            }
            let whole = drafts[on as usize].len as f64;
            let need = Need {
                begin: (-shift as f64 / whole).clamp(0.0, 1.0),
                end: ((draft.len as isize - shift) as f64 / whole).clamp(0.0, 1.0),
            };
            if need.end > 0.0 {
                tells.push((on, item, need));
                waits[index] = true;
            }
        }
        if let Some(on) = before_in_lane {
            tells.push((on, item, Need::ALL));
            waits[index] = true;
        }
    }
    // By who tells; of each, by who is told.
    tells.sort_by_key(|(on, _, _)| *on);
    finish(drafts, &tells, &waits)
}

/// Gives slots to those that wait, from the first that tells them to their own turn.
fn finish(drafts: &[Draft], tells: &[(u32, u32, Need)], waits: &[bool]) -> Shape {
    let mut slot_of = vec![NONE; drafts.len()];
    let (mut free, mut slots) = (Vec::new(), 0u32);
    let mut items = Vec::with_capacity(drafts.len());
    let mut edges = Vec::new();
    let mut needs: Vec<Need> = Vec::new();
    let mut need_of: FxHashMap<(u64, u64), u32> = FxHashMap::default();
    let mut tells = tells.iter().peekable();
    for (index, draft) in drafts.iter().enumerate() {
        if waits[index] {
            free.push(slot_of[index]);
        }
        while let Some(&(_, waiting, need)) = tells.next_if(|(on, _, _)| *on == index as u32) {
            let slot = &mut slot_of[waiting as usize];
            if *slot == NONE {
                *slot = free.pop().unwrap_or_else(|| {
                    slots += 1;
                    slots - 1
                });
            }
            let need = *need_of.entry((need.begin.to_bits(), need.end.to_bits())).or_insert_with(|| {
                needs.push(need);
                needs.len() as u32 - 1
            });
            edges.push(Edge { slot: *slot, need });
        }
        items.push(Item { action: draft.action, slot: slot_of[index], edges_end: edges.len() as u32 });
    }
    let mut sources: Vec<u32> = drafts
        .iter()
        .filter_map(|draft| if let Action::Receive(from, _) = draft.action { Some(from) } else { None })
        .collect();
    sources.sort_unstable();
    sources.dedup();
    Shape { items, edges, needs, slots: slots as usize, sources }
}
