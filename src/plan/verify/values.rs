//! Follows the values of all memories, symbolically, along a topological order.
//!
//! A value is an expression over the ranks' inputs and the element of the input that it is about. Expressions are
//! hash-consed: equal ids are equal expressions, hence equal bits. Two operands of a combination are kept in
//! a canonical order, since every reduction is commutative; nothing is taken to be associative.

use super::Fault;
use super::blocks::{Entry, System, kind_of, memory_index};
use super::graph::{Graph, needed};
use crate::collective::{Collective, Order, Request};
use crate::plan::lower::{Kind, locate};
use crate::plan::{Place, Span, Step};
use rustc_hash::FxHashMap;

type Id = u32;

/// "Expression `id`, taken at element `element` of everybody's input."
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value {
    id: Id,
    element: usize,
}

/// The expressions seen so far.
struct Expressions {
    world: usize,
    known: FxHashMap<Expression, Id>,
    /// Which ranks have contributed: `words` words an expression.
    contributors: Vec<u64>,
    words: usize,
    finished: Vec<bool>,
}

#[derive(PartialEq, Eq, Hash)]
enum Expression {
    Combine(Id, Id),
    Fold(Vec<Id>),
    Finish(Id),
}

impl Expressions {
    /// Knows every rank's input: rank r's is expression r.
    fn new(world: usize) -> Self {
        let words = world.div_ceil(64);
        let mut contributors = vec![0; world * words];
        for rank in 0..world {
            contributors[rank * words + rank / 64] |= 1 << (rank % 64);
        }
        Expressions { world, known: FxHashMap::default(), contributors, words, finished: vec![false; world] }
    }

    fn of(&self, id: Id) -> &[u64] {
        &self.contributors[id as usize * self.words..(id as usize + 1) * self.words]
    }

    fn count(&self, id: Id) -> usize {
        self.of(id).iter().map(|word| word.count_ones() as usize).sum()
    }

    fn is_complete(&self, id: Id) -> bool {
        self.count(id) == self.world
    }

    fn add(&mut self, expression: Expression, parts: &[Id], finished: bool) -> Id {
        if let Some(&id) = self.known.get(&expression) {
            return id;
        }
        let id = self.finished.len() as Id;
        for word in 0..self.words {
            let union = parts.iter().fold(0, |union, part| union | self.of(*part)[word]);
            self.contributors.push(union);
        }
        self.finished.push(finished);
        self.known.insert(expression, id);
        id
    }

    /// A rank that is in both, if there is one.
    fn common(&self, a: Id, b: Id) -> Option<usize> {
        let common = |word: usize| self.of(a)[word] & self.of(b)[word];
        (0..self.words)
            .find(|&word| common(word) != 0)
            .map(|word| word * 64 + common(word).trailing_zeros() as usize)
    }

    fn combine(&mut self, parts: &[Value]) -> Result<Value, String> {
        let element = parts[0].element;
        for (i, part) in parts.iter().enumerate() {
            if part.element != element {
                return Err(format!(
                    "combines element {element} of the message with element {}",
                    part.element
                ));
            }
            if self.finished[part.id as usize] {
                return Err("combines a value that is already finished".into());
            }
            for other in &parts[..i] {
                if let Some(rank) = self.common(part.id, other.id) {
                    return Err(format!("takes rank {rank}'s contribution a second time"));
                }
            }
        }
        let ids: Vec<Id> = parts.iter().map(|part| part.id).collect();
        let id = match ids[..] {
            [one] => one,
            [a, b] => self.add(Expression::Combine(a.min(b), a.max(b)), &[a, b], false),
            _ => self.add(Expression::Fold(ids.clone()), &ids, false),
        };
        Ok(Value { id, element })
    }

    fn finish(&mut self, value: Value) -> Result<Value, String> {
        if self.finished[value.id as usize] {
            return Err("finishes a value a second time".into());
        }
        if !self.is_complete(value.id) {
            return Err(format!("finishes {}", self.describe(value.id)));
        }
        Ok(Value { id: self.add(Expression::Finish(value.id), &[value.id], true), element: value.element })
    }

    /// The expression of `Order::Fixed` over these ranks.
    fn balanced(&mut self, ranks: std::ops::Range<usize>) -> Id {
        if ranks.len() == 1 {
            return ranks.start as Id;
        }
        let middle = ranks.start + ranks.len().next_power_of_two() / 2;
        let left = self.balanced(ranks.start..middle);
        let right = self.balanced(middle..ranks.end);
        self.add(Expression::Combine(left.min(right), left.max(right)), &[left, right], false)
    }

    fn describe(&self, id: Id) -> String {
        if (id as usize) < self.world {
            return format!("rank {id}'s contribution alone");
        }
        let missing: Vec<String> = (0..self.world)
            .filter(|rank| self.of(id)[rank / 64] >> (rank % 64) & 1 == 0)
            .map(|rank| rank.to_string())
            .collect();
        let finished = if self.finished[id as usize] { "a finished" } else { "an unfinished" };
        match missing.len() {
            0 => format!("{finished} reduction of all ranks"),
            1..=8 => format!("{finished} reduction without rank {}", missing.join(", ")),
            many => {
                format!("{finished} reduction without {many} of the ranks, rank {} one of them", missing[0])
            }
        }
    }
}

/// An access: the entry, and the node in which it happened.
type Access = (u32, u32);

#[derive(Clone, Default)]
struct Block {
    value: Option<Value>,
    writer: Option<Access>,
    readers: Vec<Access>,
}

struct Follower<'s, 'a> {
    system: &'s System<'a>,
    graph: &'s Graph,
    /// The place of each node in the order.
    position: Vec<u32>,
    memories: Vec<Vec<Block>>,
    expressions: Expressions,
}

/// Follows all values, and checks races, early writes and results.
pub(super) fn follow(system: &System<'_>, graph: &Graph, order: &[u32]) -> Result<(), Fault> {
    let mut position = vec![0; order.len()];
    for (place, &node) in order.iter().enumerate() {
        position[node as usize] = place as u32;
    }
    let memories = system.memories.iter().map(|borders| vec![Block::default(); borders.len()]).collect();
    let expressions = Expressions::new(system.ranks.len());
    let mut follower = Follower { system, graph, position, memories, expressions };
    follower.give_inputs();
    for &node in order {
        let index = graph.entry[node as usize] as usize;
        let block = (node - graph.first[index]) as usize;
        let entry = &system.entries[index];
        if entry.task.len == 0 {
            continue;
        }
        let sent = follower.step(index, entry, node, block, None)?;
        if let (Step::Send { .. }, Some(partner)) = (entry.step, entry.partner) {
            follower.step(partner, &system.entries[partner], node, block, sent)?;
        }
    }
    follower.check_results()
}

impl Follower<'_, '_> {
    fn request(&self, rank: usize) -> &Request {
        &self.system.ranks[rank].plan.request
    }

    /// Where a span of a rank's input or output lies: the memory, and its blocks with what they cover, counted
    /// from the start of the span.
    fn blocks_of(&self, rank: usize, place: Place, len: usize) -> (usize, Vec<(usize, usize, usize)>) {
        let span = Span { place, start: 0, len };
        let (memory, at) = locate(rank, &span, |rank| self.request(rank).aliasing(rank));
        let memory = memory_index(memory);
        let borders = &self.system.memories[memory];
        let first = borders.partition_point(|&border| border < at);
        let blocks = (first..borders.len().saturating_sub(1))
            .take_while(|&block| borders[block] < at + len)
            .map(|block| (block, borders[block] - at, borders[block + 1] - borders[block]))
            .collect();
        (memory, blocks)
    }

    fn give_inputs(&mut self) {
        for rank in 0..self.system.ranks.len() {
            let (memory, blocks) = self.blocks_of(rank, Place::Input, self.request(rank).input_len(rank));
            for (block, element, _) in blocks {
                self.memories[memory][block].value = Some(Value { id: rank as Id, element });
            }
        }
    }

    /// Does one block of one task. Returns what a send sends; a receive is given it.
    fn step(
        &mut self,
        index: usize,
        entry: &Entry<'_>,
        node: u32,
        block: usize,
        received: Option<Value>,
    ) -> Result<Option<Value>, Fault> {
        let wrong = |system: &System<'_>, reason: String| {
            Fault::WrongResult(format!("{} {reason}", system.at(index)))
        };
        let mut operands = Vec::with_capacity(entry.operands.len());
        for operand in &entry.operands {
            self.check_order(index, node, operand.memory, operand.first_block + block, operand.writes)?;
            if !operand.writes {
                let value = self.memories[operand.memory][operand.first_block + block].value;
                operands.push(value.ok_or_else(|| {
                    wrong(
                        self.system,
                        format!(
                            "reads element {} of undefined memory",
                            self.border(operand.memory, operand.first_block + block)
                        ),
                    )
                })?);
            }
        }
        let result = match entry.step {
            Step::Send { .. } => return Ok(operands.first().copied()),
            Step::Signal { .. } | Step::Wait { .. } => return Ok(None),
            Step::Recv { .. } => received.expect("a receive is given what was sent"),
            Step::RecvReduce { .. } => {
                operands.push(received.expect("a receive is given what was sent"));
                self.expressions.combine(&operands).map_err(|reason| wrong(self.system, reason))?
            }
            Step::Fold { .. } => {
                self.expressions.combine(&operands).map_err(|reason| wrong(self.system, reason))?
            }
            Step::Copy { .. } => operands[0],
            Step::Finish { .. } => {
                self.expressions.finish(operands[0]).map_err(|reason| wrong(self.system, reason))?
            }
        };
        let operand = entry.operands.last().expect("it writes");
        if kind_of(operand.memory) == Kind::Output
            && self.request(operand.memory / 4).collective.reduces()
            && !self.expressions.is_complete(result.id)
        {
            return Err(Fault::EarlyWrite(format!(
                "{} writes {} to user memory",
                self.system.at(index),
                self.expressions.describe(result.id)
            )));
        }
        self.memories[operand.memory][operand.first_block + block].value = Some(result);
        Ok(None)
    }

    fn border(&self, memory: usize, block: usize) -> usize {
        self.system.memories[memory][block]
    }

    /// Something must order this access and every conflicting one before it.
    fn check_order(
        &mut self,
        index: usize,
        node: u32,
        memory: usize,
        block: usize,
        writes: bool,
    ) -> Result<(), Fault> {
        let now = (index as u32, node);
        let cell = std::mem::take(&mut self.memories[memory][block]);
        let conflicts = if !writes || cell.readers.iter().all(|reader| reader.0 == now.0) {
            cell.writer.as_slice()
        } else {
            &cell.readers[..]
        };
        for &before in conflicts {
            if before.0 != now.0 && !self.ordered(before, now) {
                return Err(Fault::Race(format!(
                    "nothing orders {} and {} at element {} of rank {}'s {:?}",
                    self.system.at(before.0 as usize),
                    self.system.at(index),
                    self.border(memory, block),
                    memory / 4,
                    kind_of(memory),
                )));
            }
        }
        self.memories[memory][block] = if writes {
            Block { value: cell.value, writer: Some(now), readers: Vec::new() }
        } else {
            let mut cell = cell;
            cell.readers.push(now);
            cell
        };
        Ok(())
    }

    /// Whether one access comes before another on every run.
    fn ordered(&self, before: Access, after: Access) -> bool {
        let (b, a) = (&self.system.entries[before.0 as usize], &self.system.entries[after.0 as usize]);
        if b.rank == a.rank {
            if b.task.lane == a.task.lane {
                return true;
            }
            let block = |access: Access| (access.1 - self.graph.first[access.0 as usize]) as usize;
            let place = before.0 as usize - self.system.base[b.rank];
            let dependency = a.task.dependencies.iter().find(|dependency| dependency.on == place);
            if let Some(dependency) = dependency
                && needed(dependency, a.ends[block(after)], &b.ends)
                    .is_some_and(|needed| needed >= block(before))
            {
                return true;
            }
        }
        self.reaches(before.1, after.1)
    }

    /// Whether a path leads from one node to another.
    fn reaches(&self, from: u32, to: u32) -> bool {
        let limit = self.position[from as usize];
        let mut seen = rustc_hash::FxHashSet::default();
        let mut open = vec![to];
        while let Some(node) = open.pop() {
            if node == from {
                return true;
            }
            for &before in self.graph.before(node) {
                // An empty message carries no bytes after its first, so it orders nothing.
                let entry = &self.system.entries[self.graph.entry[before as usize] as usize];
                let empty_message = entry.task.len == 0 && entry.partner.is_some();
                let crosses = entry.rank
                    != self.system.entries[self.graph.entry[node as usize] as usize].rank
                    && empty_message;
                if !crosses && self.position[before as usize] >= limit && seen.insert(before) {
                    open.push(before);
                }
            }
        }
        false
    }

    /// Every output is what the collective promises.
    fn check_results(&mut self) -> Result<(), Fault> {
        let mut first: Option<Vec<(usize, usize, Id)>> = None;
        for rank in 0..self.system.ranks.len() {
            let request = self.request(rank).clone();
            let len = request.output_len(rank);
            let (memory, blocks) = self.blocks_of(rank, Place::Output, len);
            let mut got = Vec::with_capacity(blocks.len());
            for (block, start, count) in blocks {
                let value = self.memories[memory][block].value.ok_or_else(|| {
                    Fault::WrongResult(format!("rank {rank}'s output from element {start} is never written"))
                })?;
                self.check_value(rank, &request, start, count, value)?;
                got.push((start, count, value.id));
            }
            if got.iter().map(|(_, count, _)| count).sum::<usize>() != len {
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
        &mut self,
        rank: usize,
        request: &Request,
        start: usize,
        count: usize,
        value: Value,
    ) -> Result<(), Fault> {
        let wrong = |expected: String, got: String| {
            Fault::WrongResult(format!(
                "rank {rank}'s output[{start}..{}] should be {expected}, but is {got}",
                start + count
            ))
        };
        if request.collective.reduces() {
            let origin =
                if request.collective == Collective::ReduceScatter { request.block(rank).start } else { 0 };
            if !self.expressions.is_complete(value.id) || !self.expressions.finished[value.id as usize] {
                return Err(wrong(
                    "a finished reduction of all ranks".into(),
                    self.expressions.describe(value.id),
                ));
            }
            if value.element != origin + start {
                return Err(wrong(
                    format!("that of element {}", origin + start),
                    format!("that of element {}", value.element),
                ));
            }
            if request.order == Order::Fixed {
                let tree = self.expressions.balanced(0..request.world);
                let finished = self.expressions.add(Expression::Finish(tree), &[tree], true);
                if value.id != finished {
                    return Err(Fault::WrongOrder(format!(
                        "rank {rank}'s output[{start}..{}] is not combined as a balanced tree over rank order",
                        start + count
                    )));
                }
            }
            return Ok(());
        }
        let (from, element) = self.source(rank, request, start);
        let describe = |rank: usize, element: usize| format!("element {element} of rank {rank}'s input");
        if value != (Value { id: from as Id, element }) {
            return Err(wrong(describe(from, element), describe(value.id as usize, value.element)));
        }
        Ok(())
    }

    /// Where output element `at` of `rank` comes from, in collectives that do not reduce.
    fn source(&self, rank: usize, request: &Request, at: usize) -> (usize, usize) {
        let find = |block: &dyn Fn(usize) -> std::ops::Range<usize>| {
            let from =
                (0..request.world).find(|&from| block(from).contains(&at)).expect("blocks cover the output");
            (from, at - block(from).start)
        };
        match request.collective {
            Collective::Broadcast => (request.root, at),
            Collective::Scatter => (request.root, request.block(rank).start + at),
            Collective::AllToAll | Collective::SendRecv => {
                let (from, offset) = find(&|from| request.receive_block(rank, from));
                (from, self.request(from).send_block(from, rank).start + offset)
            }
            _ => find(&|from| request.block(from)),
        }
    }
}

/// Two ranks' outputs, cut differently perhaps, are made of the same expressions.
fn same_everywhere(
    first: &[(usize, usize, Id)],
    other: &[(usize, usize, Id)],
    rank: usize,
) -> Result<(), Fault> {
    let (mut i, mut j) = (0, 0);
    while i < first.len() && j < other.len() {
        let ((a_start, a_count, a), (b_start, b_count, b)) = (first[i], other[j]);
        if a != b {
            return Err(Fault::WrongOrder(format!(
                "ranks 0 and {rank} combine element {} in different orders, so their bits may differ",
                a_start.max(b_start)
            )));
        }
        let (a_end, b_end) = (a_start + a_count, b_start + b_count);
        i += usize::from(a_end <= b_end);
        j += usize::from(b_end <= a_end);
    }
    Ok(())
}
