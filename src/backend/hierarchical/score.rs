//! What the levels do for a collective: a list of operations of theirs, made from what all ranks agree on.
//!
//! Partial sums go to scratch memory; the caller's output is written first by what comes from across, when all ranks have compared
//! what they are asked for. Long messages go in slices, in such an order that a host works on one while the one before it is between
//! hosts.

use crate::collective::{Collective, Counts, Request};
use crate::error::Result;
use crate::plan::select::Table;
use crate::plan::{Levels, Reach, Schedule, split_evenly};
use crate::reduce::ReduceOp;
use crate::tensor::DType;
use std::ops::Range;

/// By which of its backends a part goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// That of the ranks of this host.
    Inside = 0,
    /// That of the ranks at this one's place on every host.
    Across = 1,
    /// That of all ranks.
    Whole = 2,
}

/// Whose memory an operand lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Nothing,
    Input,
    Output,
    Scratch,
}

/// An operand: a memory, and the byte at which it begins there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(pub(super) Base, pub(super) usize);

const NOWHERE: Place = Place(Base::Nothing, 0);

/// One operation of one of the backends.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) lane: Lane,
    pub(super) request: Request,
    pub(super) schedule: Schedule,
    pub(super) input: Place,
    pub(super) output: Place,
    /// The part that has to be complete first, besides those before it on its lane.
    pub(super) after: Option<usize>,
    /// How many elements of its output are results but for what [`finish`](crate::reduce::Kernels::finish) does.
    pub(super) finish: usize,
    /// Whether it is the whole operation, with whatever belongs to it.
    pub(super) is_all: bool,
}

/// The parts of a collective, those of each lane in their order.
#[derive(Debug, Default)]
pub(super) struct Score {
    pub(super) parts: Vec<Part>,
    pub(super) scratch: usize,
}

/// What ranks reach on each lane.
pub(super) type Reaches = [Reach; 3];

/// How many bytes of a message are a slice.
pub(super) const SLICE: usize = 4 << 20;

/// What barriers reduce lies here in the scratch memory, and behind it whatever else does.
const TOKENS: usize = 64;

impl Score {
    /// The parts of a request that is carried out as one operation of all ranks.
    pub(super) fn whole(request: &Request, schedule: Schedule) -> Score {
        let (input, output) = (Place(Base::Input, 0), Place(Base::Output, 0));
        let (lane, request) = (Lane::Whole, request.clone());
        let part = Part { lane, request, schedule, input, output, after: None, finish: 0, is_all: true };
        Score { parts: vec![part], scratch: 0 }
    }

    /// Those of a request that is carried out level by level, by shares of each rank of a host or by its leader; where `agrees`, after a round
    /// in which all ranks agree on it.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where no algorithm does a part.
    pub(super) fn of(
        levels: &Levels,
        reaches: Reaches,
        request: &Request,
        by_shares: bool,
        agrees: bool,
    ) -> Result<Score> {
        let mut writer = Writer {
            levels,
            reaches,
            request,
            score: Score { parts: Vec::new(), scratch: TOKENS },
            floor: None,
            readers: [None; 2],
        };
        if agrees || request.collective == Collective::Barrier {
            writer.barrier()?;
        }
        match request.collective {
            Collective::Barrier => {}
            Collective::AllReduce if by_shares && levels.holders() > 1 => writer.all_reduce_by_shares()?,
            Collective::AllReduce => writer.all_reduce_by_leaders()?,
            Collective::Reduce => writer.reduce()?,
            Collective::Broadcast => writer.broadcast()?,
            Collective::ReduceScatter => writer.reduce_scatter()?,
            _ => writer.all_gather()?,
        }
        Ok(writer.score)
    }
}

/// What is written for one slice: its elements, and where its partial sums lie.
struct Slice {
    range: Range<usize>,
    /// Which window, and where it is.
    turn: usize,
    window: Place,
}

struct Writer<'a> {
    levels: &'a Levels,
    reaches: Reaches,
    request: &'a Request,
    score: Score,
    /// What everything that depends on nothing else is after.
    floor: Option<usize>,
    /// Of each window, the part that reads it last, where nothing else keeps the next slice from being summed before.
    readers: [Option<usize>; 2],
}

impl Writer<'_> {
    fn size(&self) -> usize {
        self.request.element_size()
    }

    fn at(&self, base: Base, elements: usize) -> Place {
        Place(base, elements * self.size())
    }

    /// A request to the ranks of a lane.
    fn ask(&self, lane: Lane, collective: Collective, root: usize, counts: Counts) -> Request {
        let world = match lane {
            Lane::Inside => self.levels.inside().len(),
            _ => self.levels.hosts(),
        };
        // What is divided in the end is a sum until then.
        let op = self.request.op.filter(|_| collective.reduces());
        let op = op.map(|op| if op == ReduceOp::Mean { ReduceOp::Sum } else { op });
        Request {
            collective,
            op,
            root,
            world,
            counts,
            order: if collective.combines() { self.request.order } else { Default::default() },
            in_place: false,
            ..self.request.clone()
        }
    }

    /// Adds a part; its number.
    fn add(
        &mut self,
        lane: Lane,
        request: Request,
        input: Place,
        output: Place,
        after: Option<usize>,
    ) -> Result<usize> {
        let reach = self.reaches[lane as usize];
        let schedule = Table::standard().select_within(reach, &request)?;
        let after = after.or(self.floor);
        self.score.parts.push(Part {
            lane,
            request,
            schedule,
            input,
            output,
            after,
            finish: 0,
            is_all: false,
        });
        Ok(self.score.parts.len() - 1)
    }

    /// The output of a part is a result, as soon as it is finished.
    fn finish(&mut self, part: usize, count: usize) {
        if self.request.op == Some(ReduceOp::Mean) {
            self.score.parts[part].finish = count;
        }
    }

    fn has_inside(&self) -> bool {
        self.levels.inside().len() > 1
    }

    /// Scratch memory of so many elements.
    fn scratch(&mut self, elements: usize) -> Place {
        let at = self.score.scratch;
        self.score.scratch += (elements * self.size()).next_multiple_of(TOKENS);
        Place(Base::Scratch, at)
    }

    /// The slices of the message. The partial sums of every other one lie in the same window: of one of `parts` of a slice, where
    /// this rank has any.
    fn slices(&mut self, parts: usize, has_sums: bool) -> Vec<Slice> {
        let count = self.request.whole();
        let number = (count * self.size()).div_ceil(SLICE).max(1);
        let ranges = split_evenly(count, number);
        let most = if has_sums { ranges[0].len().div_ceil(parts) } else { 0 };
        let windows: Vec<Place> = (0..number.min(2)).map(|_| self.scratch(most)).collect();
        ranges
            .into_iter()
            .enumerate()
            .map(|(i, range)| Slice { range, turn: i % 2, window: windows[i % 2] })
            .collect()
    }

    /// Writes what each slice needs: its way up to where it is summed and across from there, and its way down, which is the next one's
    /// time between hosts.
    fn in_turn(
        &mut self,
        slices: &[Slice],
        up: impl Fn(&mut Self, &Slice) -> Result<Option<usize>>,
        down: impl Fn(&mut Self, &Slice, Option<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut before = None;
        for slice in slices {
            let summed = up(self, slice)?;
            if let Some((slice, summed)) = before.replace((slice, summed)) {
                down(self, slice, summed)?;
            }
        }
        if let Some((slice, summed)) = before {
            down(self, slice, summed)?;
        }
        Ok(())
    }

    /// Nobody goes on before everybody has come.
    fn barrier(&mut self) -> Result<()> {
        let request = |lane, world| (lane, Request::new(Collective::Barrier, world, DType::U8, 1));
        let (input, output) = (Place(Base::Scratch, 0), Place(Base::Scratch, 1));
        let inside = request(Lane::Inside, self.levels.inside().len());
        let across = request(Lane::Across, self.levels.hosts());
        let mut last = None;
        if self.has_inside() {
            last = Some(self.add(inside.0, inside.1.clone(), input, output, None)?);
        }
        if self.levels.place() == 0 {
            last = Some(self.add(across.0, across.1, input, output, last)?);
        }
        if self.has_inside() {
            last = Some(self.add(inside.0, inside.1, input, output, last)?);
        }
        self.floor = last;
        Ok(())
    }

    /// Each holder sums a share of the message.
    fn all_reduce_by_shares(&mut self) -> Result<()> {
        let (holders, place) = (self.levels.holders(), self.levels.place());
        let slices = self.slices(holders, place < holders);
        self.in_turn(&slices, Self::up_by_shares, Self::down_by_shares)
    }

    fn shares(&self, range: &Range<usize>) -> (Vec<Range<usize>>, Counts) {
        let (ranks, holders) = (self.levels.inside().len(), self.levels.holders());
        let mut shares = split_evenly(range.len(), holders);
        shares.resize(ranks, range.len()..range.len());
        let counts = match ranks == holders && range.len().is_multiple_of(holders) {
            true => Counts::Same(range.len() / holders),
            false => Counts::PerRank(shares.iter().map(|share| share.len()).collect()),
        };
        (shares, counts)
    }

    fn up_by_shares(&mut self, Slice { range, window, .. }: &Slice) -> Result<Option<usize>> {
        let (shares, counts) = self.shares(range);
        let place = self.levels.place();
        let request = self.ask(Lane::Inside, Collective::ReduceScatter, 0, counts);
        let input = self.at(Base::Input, range.start);
        let summed = self.add(Lane::Inside, request, input, *window, None)?;
        if place >= self.levels.holders() {
            return Ok(None);
        }
        let share = &shares[place];
        let request = self.ask(Lane::Across, Collective::AllReduce, 0, Counts::Same(share.len()));
        let output = self.at(Base::Output, range.start + share.start);
        let between = self.add(Lane::Across, request, *window, output, Some(summed))?;
        self.finish(between, share.len());
        Ok(Some(between))
    }

    fn down_by_shares(&mut self, Slice { range, .. }: &Slice, between: Option<usize>) -> Result<()> {
        let (shares, counts) = self.shares(range);
        let mut request = self.ask(Lane::Inside, Collective::AllGather, 0, counts);
        request.in_place = true;
        let input = self.at(Base::Output, range.start + shares[self.levels.place()].start);
        let output = self.at(Base::Output, range.start);
        self.add(Lane::Inside, request, input, output, between).map(|_| ())
    }

    /// The first rank of each host sums the message.
    fn all_reduce_by_leaders(&mut self) -> Result<()> {
        let slices = self.slices(1, self.levels.place() == 0 && self.has_inside());
        let up = |w: &mut Self, slice: &Slice| {
            let (input, after) = w.up_to(0, slice)?;
            if w.levels.place() > 0 {
                return Ok(None);
            }
            let count = slice.range.len();
            let mut request = w.ask(Lane::Across, Collective::AllReduce, 0, Counts::Same(count));
            request.in_place = w.request.in_place && input.0 == Base::Input;
            let output = w.at(Base::Output, slice.range.start);
            let between = w.add(Lane::Across, request, input, output, after)?;
            w.finish(between, count);
            Ok(Some(between))
        };
        self.in_turn(&slices, up, |w, slice, between| w.down_from(0, slice, between))
    }

    /// The host's sum of a slice comes to a place: where it lies there, and after what.
    fn up_to(
        &mut self,
        place: usize,
        Slice { range, turn, window }: &Slice,
    ) -> Result<(Place, Option<usize>)> {
        let input = self.at(Base::Input, range.start);
        if !self.has_inside() {
            return Ok((input, None));
        }
        let request = self.ask(Lane::Inside, Collective::Reduce, place, Counts::Same(range.len()));
        let output = if self.levels.place() == place { *window } else { NOWHERE };
        let summed = self.add(Lane::Inside, request, input, output, self.readers[*turn])?;
        Ok((*window, Some(summed)))
    }

    /// What is in the output at one place comes to all of the host.
    fn down_from(&mut self, place: usize, Slice { range, .. }: &Slice, after: Option<usize>) -> Result<()> {
        if !self.has_inside() {
            return Ok(());
        }
        let mut request = self.ask(Lane::Inside, Collective::Broadcast, place, Counts::Same(range.len()));
        request.in_place = self.levels.place() == place;
        let output = self.at(Base::Output, range.start);
        let input = if request.in_place { output } else { NOWHERE };
        self.add(Lane::Inside, request, input, output, after).map(|_| ())
    }

    fn reduce(&mut self) -> Result<()> {
        let (host, place) = self.levels.seat(self.request.root);
        let slices = self.slices(1, self.levels.place() == place && self.has_inside());
        let up = |w: &mut Self, slice: &Slice| {
            let (input, after) = w.up_to(place, slice)?;
            if w.levels.place() == place {
                let count = slice.range.len();
                let at_root = w.levels.host() == host;
                let mut request = w.ask(Lane::Across, Collective::Reduce, host, Counts::Same(count));
                request.in_place = w.request.in_place && input.0 == Base::Input && at_root;
                let output = if at_root { w.at(Base::Output, slice.range.start) } else { NOWHERE };
                let between = w.add(Lane::Across, request, input, output, after)?;
                if at_root {
                    w.finish(between, count);
                }
                // Nothing comes down here that the next sum would come after.
                w.readers[slice.turn] = Some(between);
            }
            Ok(None)
        };
        self.in_turn(&slices, up, |_, _, _| Ok(()))
    }

    fn broadcast(&mut self) -> Result<()> {
        let (host, place) = self.levels.seat(self.request.root);
        let slices = self.slices(1, false);
        let up = |w: &mut Self, slice: &Slice| {
            if w.levels.place() != place {
                return Ok(None);
            }
            let at_root = w.levels.host() == host;
            let mut request =
                w.ask(Lane::Across, Collective::Broadcast, host, Counts::Same(slice.range.len()));
            request.in_place = w.request.in_place && at_root;
            let input = if at_root { w.at(Base::Input, slice.range.start) } else { NOWHERE };
            let output = w.at(Base::Output, slice.range.start);
            w.add(Lane::Across, request, input, output, None).map(Some)
        };
        self.in_turn(&slices, up, |w, slice, between| w.down_from(place, slice, between))
    }

    /// The blocks of each host's ranks are summed by those of this one, and then among those at the same place.
    fn reduce_scatter(&mut self) -> Result<()> {
        let (ranks, hosts, count) =
            (self.levels.inside().len(), self.levels.hosts(), self.request.block(0).len());
        let Place(base, sums) = self.scratch(hosts * count);
        let mut last = None;
        for host in 0..hosts {
            let request = self.ask(Lane::Inside, Collective::ReduceScatter, 0, Counts::Same(count));
            let input = self.at(Base::Input, host * ranks * count);
            let output = Place(base, sums + host * count * self.size());
            last = Some(self.add(Lane::Inside, request, input, output, None)?);
        }
        let request = self.ask(Lane::Across, Collective::ReduceScatter, 0, Counts::Same(count));
        let between = self.add(Lane::Across, request, Place(base, sums), Place(Base::Output, 0), last)?;
        self.finish(between, count);
        Ok(())
    }

    /// The blocks at the same place are gathered, and then those of each host.
    fn all_gather(&mut self) -> Result<()> {
        let (ranks, hosts, count) =
            (self.levels.inside().len(), self.levels.hosts(), self.request.block(0).len());
        let Place(base, blocks) = self.scratch(hosts * count);
        let request = self.ask(Lane::Across, Collective::AllGather, 0, Counts::Same(count));
        let between = self.add(Lane::Across, request, Place(Base::Input, 0), Place(base, blocks), None)?;
        // This host's own are there already.
        let own = self.levels.host();
        for host in std::iter::once(own).chain((0..hosts).filter(|&host| host != own)) {
            let mut request = self.ask(Lane::Inside, Collective::AllGather, 0, Counts::Same(count));
            request.in_place = host == own && self.request.in_place;
            let there = Place(base, blocks + host * count * self.size());
            let (input, after) =
                if host == own { (Place(Base::Input, 0), None) } else { (there, Some(between)) };
            let output = self.at(Base::Output, host * ranks * count);
            self.add(Lane::Inside, request, input, output, after)?;
        }
        Ok(())
    }
}

/// The parts of messages between two: each goes inside where both are on one host, else among all.
pub(super) fn messages(levels: &Levels, request: &Request, schedule: Schedule) -> Score {
    let all = || Score::whole(request, schedule);
    let Counts::Messages { rank, send, receive } = request.counts else { return all() };
    let inside = |message: Option<(usize, usize)>| {
        let (peer, count) = message?;
        let place = levels.inside().iter().position(|&other| other == peer && peer != rank)?;
        Some((place, count))
    };
    let (sends, receives) = (inside(send), inside(receive));
    if sends.is_none() && receives.is_none() {
        return all();
    }
    let part = |lane, rank, world, send, receive| Part {
        lane,
        request: Request { world, counts: Counts::Messages { rank, send, receive }, ..request.clone() },
        schedule,
        input: Place(Base::Input, 0),
        output: Place(Base::Output, 0),
        after: None,
        finish: 0,
        is_all: false,
    };
    let mut parts = vec![part(Lane::Inside, levels.place(), levels.inside().len(), sends, receives)];
    let (far, from_far) = (send.filter(|_| sends.is_none()), receive.filter(|_| receives.is_none()));
    if far.is_some() || from_far.is_some() {
        parts.push(part(Lane::Whole, rank, request.world, far, from_far));
    }
    Score { parts, scratch: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Topology;

    /// What a part touches: a memory, its bytes there, and whether it writes them. In place, input and output are one memory.
    fn touches(part: &Part, levels: &Levels, request: &Request, rank: usize) -> Vec<(Base, i64, i64, bool)> {
        let own = if part.lane == Lane::Inside { levels.place() } else { levels.host() };
        let size = request.element_size();
        let shift = request.aliasing(rank).map(|shift| shift as i64 * size as i64);
        let span = |Place(base, offset): Place, len: usize, writes| {
            let (base, from) = match (base, shift) {
                (Base::Input, Some(shift)) => (Base::Output, offset as i64 + shift),
                _ => (base, offset as i64),
            };
            (base, from, from + (len * part.request.element_size()) as i64, writes)
        };
        let reads = span(part.input, part.request.input_len(own), false);
        let writes = span(part.output, part.request.output_len(own), true);
        let mut all = vec![reads, writes];
        if part.request.in_place && part.request.collective == Collective::AllGather {
            // What is there already is not written.
            all = vec![reads, (writes.0, writes.1, reads.1, true), (writes.0, reads.2, writes.2, true)];
        }
        all.into_iter().filter(|(base, from, to, _)| *base != Base::Nothing && from < to).collect()
    }

    /// Two parts of which neither comes after the other, and one writes what the other touches.
    fn race(score: &Score, levels: &Levels, request: &Request, rank: usize) -> Option<(usize, usize)> {
        let mut before: Vec<Vec<bool>> = Vec::new();
        for (index, part) in score.parts.iter().enumerate() {
            let on_lane = score.parts[..index].iter().rposition(|other| other.lane == part.lane);
            let mut earlier = vec![false; index];
            for one in on_lane.into_iter().chain(part.after) {
                earlier[one] = true;
                before[one].iter().zip(&mut earlier).for_each(|(seen, earlier)| *earlier |= *seen);
            }
            before.push(earlier);
        }
        let meet = |a: &(Base, i64, i64, bool), b: &(Base, i64, i64, bool)| {
            a.0 == b.0 && a.1 < b.2 && b.1 < a.2 && (a.3 || b.3)
        };
        for (second, part) in score.parts.iter().enumerate() {
            let of_second = touches(part, levels, request, rank);
            for first in (0..second).filter(|&first| !before[second][first]) {
                let of_first = touches(&score.parts[first], levels, request, rank);
                if of_first.iter().any(|a| of_second.iter().any(|b| meet(a, b))) {
                    return Some((first, second));
                }
            }
        }
        None
    }

    #[test]
    fn parts_that_touch_the_same_memory_come_one_after_another() {
        let (mut scores, mut would_race) = (0, 0);
        for hosts in [&[0, 0, 1, 1][..], &[0, 1, 0, 1], &[0, 1, 1, 2, 2, 2], &[0, 0, 1], &[0, 0, 1, 1, 2, 2]]
        {
            let world = hosts.len();
            for (rank, collective) in (0..world).flat_map(|rank| Collective::ALL.map(|c| (rank, c))) {
                let levels = Levels::of(&Topology::of_hosts(hosts), world, rank).unwrap();
                for (count, root) in [(1, 0), (7, 1), (5_000_000, 0), (5_000_000, world - 1)] {
                    for flags in 0..8 {
                        let [in_place, by_shares, agrees] = [flags & 1 > 0, flags & 2 > 0, flags & 4 > 0];
                        let mut request = Request::new(collective, world, DType::F32, count);
                        request.root = if collective.is_rooted() { root } else { 0 };
                        request.in_place = in_place && request.in_place_shift(rank).is_some();
                        if !levels.takes(&request) {
                            continue;
                        }
                        let reaches = [Reach::Memory, Reach::Messages, Reach::Messages];
                        let mut score = Score::of(&levels, reaches, &request, by_shares, agrees).unwrap();
                        let found = race(&score, &levels, &request, rank);
                        assert_eq!(found, None, "{request:?} on {hosts:?}, rank {rank}: {:?}", score.parts);
                        scores += 1;
                        score.parts.iter_mut().for_each(|part| part.after = None);
                        would_race += usize::from(race(&score, &levels, &request, rank).is_some());
                    }
                }
            }
        }
        assert!(scores > 500 && would_race > scores / 4, "{would_race} of {scores} would race without order");
    }
}
