//! Follows the values of all memories, symbolically, along a topological order.
//!
//! A value is an expression over the ranks' inputs and the element of the input that it is about. Expressions are
//! hash-consed: equal ids are equal expressions, hence equal bits. Two operands of a combination are kept in
//! a canonical order, since every reduction is commutative; nothing is taken to be associative.

use super::Fault;
use super::blocks::{Action, System, kind_of};
use crate::collective::{Collective, Order, Request};
use crate::plan::lower::Kind;
use crate::plan::{Place, Span};
use rustc_hash::FxHashMap;

type Id = u32;

/// "Expression `id`, taken at element `element` of everybody's input."
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    id: Id,
    element: usize,
}

/// The expressions seen so far.
struct Expressions {
    world: usize,
    combinations: FxHashMap<(Id, Id), Id>,
    folds: FxHashMap<Box<[Id]>, Id>,
    finishes: FxHashMap<Id, Id>,
    /// Which ranks have contributed: `words` words an expression.
    contributors: Vec<u64>,
    words: usize,
    /// Whether all have.
    complete: Vec<bool>,
    finished: Vec<bool>,
}

impl Expressions {
    /// Knows every rank's input: rank r's is expression r.
    fn new(world: usize) -> Self {
        let words = world.div_ceil(64);
        let mut contributors = vec![0; world * words];
        for rank in 0..world {
            contributors[rank * words + rank / 64] |= 1 << (rank % 64);
        }
        Expressions {
            world,
            combinations: FxHashMap::default(),
            folds: FxHashMap::default(),
            finishes: FxHashMap::default(),
            contributors,
            words,
            complete: vec![world == 1; world],
            finished: vec![false; world],
        }
    }

    fn of(&self, id: Id) -> &[u64] {
        &self.contributors[id as usize * self.words..(id as usize + 1) * self.words]
    }

    fn is_complete(&self, id: Id) -> bool {
        self.complete[id as usize]
    }

    fn is_finished(&self, id: Id) -> bool {
        self.finished[id as usize]
    }

    fn add(&mut self, contributors: &[u64], finished: bool) -> Id {
        let count: u32 = contributors.iter().map(|word| word.count_ones()).sum();
        self.contributors.extend_from_slice(contributors);
        self.complete.push(count as usize == self.world);
        self.finished.push(finished);
        self.finished.len() as Id - 1
    }

    /// The contributors of all parts, none of which may be finished or share one with another.
    fn union(&self, ids: &[Id]) -> Result<Vec<u64>, String> {
        let mut union = vec![0; self.words];
        for &id in ids {
            if self.is_finished(id) {
                return Err("combines a value that is already finished".into());
            }
            for (word, (all, part)) in union.iter_mut().zip(self.of(id)).enumerate() {
                let common = *all & part;
                if common != 0 {
                    let rank = word * 64 + common.trailing_zeros() as usize;
                    return Err(format!("takes rank {rank}'s contribution a second time"));
                }
                *all |= part;
            }
        }
        Ok(union)
    }

    /// The combination of two or more; what has been combined before need not be checked again.
    fn combine(&mut self, ids: &[Id]) -> Result<Id, String> {
        if let [a, b] = *ids {
            let key = (a.min(b), a.max(b));
            if let Some(&id) = self.combinations.get(&key) {
                return Ok(id);
            }
            let union = self.union(ids)?;
            let id = self.add(&union, false);
            self.combinations.insert(key, id);
            return Ok(id);
        }
        if let Some(&id) = self.folds.get(ids) {
            return Ok(id);
        }
        let union = self.union(ids)?;
        let id = self.add(&union, false);
        self.folds.insert(ids.into(), id);
        Ok(id)
    }

    /// The balanced tree over these.
    fn tree(&mut self, ids: &[Id]) -> Result<Id, String> {
        if let [id] = *ids {
            return Ok(id);
        }
        let (low, high) = ids.split_at(ids.len().next_power_of_two() / 2);
        let sides = [self.tree(low)?, self.tree(high)?];
        self.combine(&sides)
    }

    fn finish(&mut self, id: Id) -> Result<Id, String> {
        if let Some(&finished) = self.finishes.get(&id) {
            return Ok(finished);
        }
        if self.is_finished(id) {
            return Err("finishes a value a second time".into());
        }
        if !self.is_complete(id) {
            return Err(format!("finishes {}", self.describe(id)));
        }
        let contributors = self.of(id).to_vec();
        let finished = self.add(&contributors, true);
        self.finishes.insert(id, finished);
        Ok(finished)
    }

    fn describe(&self, id: Id) -> String {
        if (id as usize) < self.world {
            return format!("rank {id}'s contribution alone");
        }
        let missing: Vec<String> = (0..self.world)
            .filter(|rank| self.of(id)[rank / 64] >> (rank % 64) & 1 == 0)
            .map(|rank| rank.to_string())
            .collect();
        let finished = if self.is_finished(id) { "a finished" } else { "an unfinished" };
        match missing.len() {
            0 => format!("{finished} reduction of all ranks"),
            1..=8 => format!("{finished} reduction without rank {}", missing.join(", ")),
            many => {
                format!("{finished} reduction without {many} of the ranks, rank {} one of them", missing[0])
            }
        }
    }
}

/// The values of all memories, along a topological order.
pub(super) struct Follower<'s, 'a> {
    system: &'s System<'a>,
    cells: Vec<Option<Value>>,
    expressions: Expressions,
    /// The expressions of the operands in hand.
    ids: Vec<Id>,
}

impl<'s, 'a> Follower<'s, 'a> {
    /// Knows what each rank's input is, and nothing else.
    pub(super) fn new(system: &'s System<'a>) -> Self {
        let cells = vec![None; system.memories.iter().map(Vec::len).sum()];
        let expressions = Expressions::new(system.ranks.len());
        let mut follower = Follower { system, cells, expressions, ids: Vec::new() };
        for rank in 0..system.ranks.len() {
            let len = follower.request(rank).input_len(rank);
            for (cell, element, _) in follower.blocks_of(rank, Place::Input, len) {
                follower.cells[cell] = Some(Value { id: rank as Id, element });
            }
        }
        follower
    }

    fn request(&self, rank: usize) -> &'a Request {
        &self.system.ranks[rank].plan.request
    }

    /// The blocks of a rank's whole input or output: the cell, and where it begins and ends, counted from the start
    /// of the input or output.
    fn blocks_of(&self, rank: usize, place: Place, len: usize) -> Vec<(usize, usize, usize)> {
        let (memory, at) = self.system.locate(rank, &Span { place, start: 0, len });
        let borders = &self.system.memories[memory];
        let first = borders.partition_point(|&border| border < at);
        let last = borders.partition_point(|&border| border < at + len);
        let base = self.system.cell_base[memory];
        (first..last).map(|block| (base + block, borders[block] - at, borders[block + 1] - at)).collect()
    }

    /// Does one block of one task. Returns what a send sends; a receive is given it.
    pub(super) fn step(
        &mut self,
        index: usize,
        block: u32,
        received: Option<Value>,
    ) -> Result<Option<Value>, Fault> {
        let system = self.system;
        let entry = &system.entries[index];
        let wrong = |reason: String| Fault::WrongResult(format!("{} {reason}", system.at(index)));
        // A reduction takes what is local before what is received.
        let mut first: Option<Value> = None;
        let mut written = None;
        self.ids.clear();
        for operand in system.operands(entry) {
            let (memory, cell) = (operand.memory as usize, (operand.first_cell + block) as usize);
            if operand.writes {
                written = Some((memory, cell));
                continue;
            }
            let value = self.cells[cell].ok_or_else(|| {
                wrong(format!("reads element {} of undefined memory", system.border(memory, cell)))
            })?;
            self.take(&mut first, value).map_err(wrong)?;
        }
        let Some((memory, cell)) = written else { return Ok(first) };
        if let Some(received) = received {
            self.take(&mut first, received).map_err(wrong)?;
        }
        let mut result = first.expect("what writes has an operand");
        if entry.action == Action::Finish {
            result.id = self.expressions.finish(result.id).map_err(wrong)?;
        } else if self.ids.len() > 1 {
            let fixed = self.request(entry.rank as usize).order == Order::Fixed;
            let combined =
                if fixed { self.expressions.tree(&self.ids) } else { self.expressions.combine(&self.ids) };
            result.id = combined.map_err(wrong)?;
        }
        if kind_of(memory) == Kind::Output
            && self.request(memory / 4).collective.reduces()
            && !self.expressions.is_complete(result.id)
        {
            return Err(Fault::EarlyWrite(format!(
                "{} writes {} to user memory",
                system.at(index),
                self.expressions.describe(result.id)
            )));
        }
        self.cells[cell] = Some(result);
        Ok(None)
    }

    /// Adds an operand to those in hand.
    fn take(&mut self, first: &mut Option<Value>, value: Value) -> Result<(), String> {
        let element = first.get_or_insert(value).element;
        if value.element != element {
            let other = value.element;
            return Err(format!("combines element {element} of the message with element {other}"));
        }
        self.ids.push(value.id);
        Ok(())
    }

    /// Every output is what the collective promises.
    pub(super) fn check_results(&mut self) -> Result<(), Fault> {
        let mut first: Option<Vec<(usize, Id)>> = None;
        let fixed = self.request(0).order == Order::Fixed && self.request(0).collective.combines();
        let promised = fixed.then(|| {
            let ranks: Vec<Id> = (0..self.system.ranks.len() as Id).collect();
            let tree = self.expressions.tree(&ranks).expect("no rank is there twice");
            self.expressions.finish(tree).expect("the tree has all ranks")
        });
        for rank in 0..self.system.ranks.len() {
            let request = self.request(rank);
            let len = request.output_len(rank);
            let sources = self.sources(rank, request);
            let mut source = 0;
            let mut got = Vec::new();
            for (cell, start, end) in self.blocks_of(rank, Place::Output, len) {
                let value = self.cells[cell].ok_or_else(|| {
                    Fault::WrongResult(format!("rank {rank}'s output from element {start} is never written"))
                })?;
                while sources[source].end <= start {
                    source += 1;
                }
                self.check_value(rank, start..end, value, &sources[source], promised)?;
                got.push((end, value.id));
            }
            if got.last().map_or(0, |(end, _)| *end) != len {
                return Err(Fault::WrongResult(format!("rank {rank}'s output is not written everywhere")));
            }
            if matches!(request.collective, Collective::AllReduce | Collective::Barrier) {
                match &first {
                    None => first = Some(got),
                    Some(first) => same_everywhere(first, &got, rank)?,
                }
            }
        }
        Ok(())
    }

    fn check_value(
        &self,
        rank: usize,
        output: std::ops::Range<usize>,
        value: Value,
        source: &Source,
        promised: Option<Id>,
    ) -> Result<(), Fault> {
        let at = format_args!("rank {rank}'s output[{}..{}]", output.start, output.end);
        let element = source.element + output.start - source.start;
        match source.rank {
            Some(from) if value == (Value { id: from as Id, element }) => Ok(()),
            Some(from) => Err(Fault::WrongResult(format!(
                "{at} should be element {element} of rank {from}'s input, but is element {} of {}",
                value.element,
                self.expressions.describe(value.id)
            ))),
            None if !self.expressions.is_complete(value.id) || !self.expressions.is_finished(value.id) => {
                Err(Fault::WrongResult(format!(
                    "{at} should be a finished reduction of all ranks, but is {}",
                    self.expressions.describe(value.id)
                )))
            }
            None if value.element != element => Err(Fault::WrongResult(format!(
                "{at} should be that of element {element}, but is that of element {}",
                value.element
            ))),
            None if promised.is_some_and(|promised| promised != value.id) => {
                Err(Fault::WrongOrder(format!("{at} is not combined as a balanced tree over rank order")))
            }
            None => Ok(()),
        }
    }

    /// Where the output of `rank` comes from, from its first element to its last.
    fn sources(&self, rank: usize, request: &Request) -> Vec<Source> {
        let block = |start, end, rank, element| Source { start, end, rank, element };
        let len = request.output_len(rank);
        match request.collective {
            Collective::AllReduce | Collective::Reduce | Collective::Barrier => vec![block(0, len, None, 0)],
            Collective::ReduceScatter => vec![block(0, len, None, request.block(rank).start)],
            Collective::Broadcast => vec![block(0, len, Some(request.root), 0)],
            Collective::Scatter => vec![block(0, len, Some(request.root), request.block(rank).start)],
            Collective::AllGather | Collective::Gather => {
                let blocks = request.blocks().into_iter().enumerate();
                blocks.map(|(from, range)| block(range.start, range.end, Some(from), 0)).collect()
            }
            Collective::AllToAll | Collective::SendRecv => (0..request.world)
                .map(|from| {
                    let range = request.receive_block(rank, from);
                    let sent = self.request(from).send_block(from, rank);
                    block(range.start, range.end, Some(from), sent.start)
                })
                .collect(),
        }
    }
}

/// Where a part of an output comes from.
struct Source {
    start: usize,
    end: usize,
    /// Whose input, or `None` for the reduction of everybody's.
    rank: Option<usize>,
    /// The element of the input that belongs to the part's first.
    element: usize,
}

/// Two ranks' outputs, cut differently perhaps, are made of the same expressions. Each is a list of ends and ids.
fn same_everywhere(first: &[(usize, Id)], other: &[(usize, Id)], rank: usize) -> Result<(), Fault> {
    let (mut i, mut j, mut at) = (0, 0, 0);
    while i < first.len() && j < other.len() {
        let ((a_end, a), (b_end, b)) = (first[i], other[j]);
        if a != b {
            return Err(Fault::WrongOrder(format!(
                "ranks 0 and {rank} combine element {at} in different orders, so their bits may differ"
            )));
        }
        at = a_end.min(b_end);
        i += usize::from(a_end == at);
        j += usize::from(b_end == at);
    }
    Ok(())
}
