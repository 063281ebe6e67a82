//! Groups of several hosts: collectives level by level, in memory within each host and by messages between them.
//!
//! It composes other backends: one of the ranks of this host, one of those that stand [across](crate::plan::Levels) from this rank, and one of
//! all ranks, which does whatever gains nothing. A collective becomes a *score*: operations of these, each after those
//! that it needs. All of them compare the fingerprint of the collective that they are parts of, so that ranks
//! that disagree on anything are told as everywhere, and in terms of what was called; and since all that a score depends on is in that
//! fingerprint, or in the topology, whose hash begins its history, ranks that agree on it have scores that fit.

mod score;

use super::planned::fingerprint;
use super::{Backend, Buffers, Meter, Operation, Pieces, Progress, Ticket, Whole};
use crate::collective::{Collective, Difference, Fingerprint, Request};
use crate::error::{Cause, CauseKind, Error, Result};
use crate::memory::Pages;
use crate::observe::trace::{Record, Tracer};
use crate::observe::{Poison, Time, Waker};
use crate::plan::{Levels, Reach, Schedule};
use crate::reduce::{ReduceOp, kernels};
use score::{Base, Lane, Part, Place, Score, messages};
use std::collections::VecDeque;
use std::ptr::dangling_mut;
use std::sync::Arc;
use std::time::Duration;

/// What a [`Hierarchical`] is made of.
pub struct HierarchicalSetup {
    /// This rank's number in the group.
    pub rank: usize,
    /// The ranks' numbers in the world, by which causes and errors name them.
    pub numbers: Arc<[usize]>,
    /// Which ranks are on which host, and share memory there.
    pub levels: Levels,
    /// What tells that from other topologies.
    pub topology: u32,
    /// The generation of the group.
    pub generation: u32,
    /// Tells the groups of a world apart.
    pub communicator: u32,
    /// The group's failure, which is that of all these backends.
    pub poison: Arc<Poison>,
    /// Tells the group of a failure. Must not block.
    pub report: Box<dyn Fn(&Cause) + Send>,
    /// Where operations are written down, if they are.
    pub tracer: Option<Arc<Tracer>>,
    /// The ranks of this host, where there are others than this one.
    pub inside: Option<Box<dyn Backend>>,
    /// Those across, where there are any.
    pub across: Option<Box<dyn Backend>>,
    /// All ranks.
    pub whole: Box<dyn Backend>,
}

/// One of the backends, and how far it is.
struct Level {
    backend: Box<dyn Backend>,
    /// The numbers of its ranks in the group.
    ranks: Vec<usize>,
    meter: Arc<Meter>,
    seen: Vec<u64>,
    /// What it carries out.
    under_way: Option<(Ticket, usize)>,
    /// The first part of the score that may be its next.
    next: usize,
}

struct Queued {
    ticket: Ticket,
    operation: Operation,
    score: Arc<Score>,
    /// Whether it is a batch, whose tensors are laid together in the scratch memory for its time.
    is_packed: bool,
    submitted: Time,
    deadline: Time,
}

struct Running {
    queued: Queued,
    begun: Time,
    /// What its parts have of it.
    whole: Arc<Whole>,
    /// Which parts are complete.
    complete: Vec<bool>,
    /// What it has failed of; it ends when none of its parts is under way.
    failed: Option<Cause>,
    /// A cause that was reported, and until when the verdict is waited for.
    settling: Option<(Cause, Time)>,
    /// Bytes sent and received, waits, and the time of these, before it began.
    before: [u64; 4],
}

/// Collectives level by level. See the [module](self).
pub struct Hierarchical {
    rank: usize,
    numbers: Arc<[usize]>,
    shape: Arc<Levels>,
    generation: u32,
    communicator: u32,
    poison: Arc<Poison>,
    report: Box<dyn Fn(&Cause) + Send>,
    /// By [`Lane`].
    levels: [Option<Level>; 3],
    /// The scores of the latest requests, the last one first.
    scores: Vec<(Request, Schedule, bool, Arc<Score>)>,
    queue: VecDeque<Queued>,
    running: Option<Running>,
    /// Partial sums, and blocks on their way.
    scratch: Option<Pages>,
    /// What the latest operation has left, so that nothing is allocated anew.
    spare: (Option<Arc<Whole>>, Vec<bool>),
    history: u32,
    next_ticket: u64,
    failure: Option<Cause>,
    meter: Arc<Meter>,
    waker: Waker,
    /// When to listen to backends that nothing is under way on, and how long to wait until the next time.
    listen_at: Time,
    listen_after: Duration,
    /// How long one backend is waited for while another has something under way too, and which comes next.
    nap: Duration,
    turn: usize,
}

/// How many scores are kept.
const KEPT: usize = 64;

/// How long a rank is idle before it listens to the other backends; twice as long each time.
const FIRST_LISTENING: Duration = Duration::from_millis(10);
const RAREST_LISTENING: Duration = Duration::from_secs(1);

/// How long a rank waits for the group's verdict.
const SETTLING: Duration = Duration::from_millis(500);

/// How long one backend is waited for where two have something under way: at first, and at most.
const NAP: Duration = Duration::from_micros(20);
const LONGEST_NAP: Duration = Duration::from_millis(1);

impl Hierarchical {
    /// A backend over these.
    pub fn new(setup: HierarchicalSetup) -> Hierarchical {
        let HierarchicalSetup { rank, numbers, levels: shape, tracer, inside, across, whole, .. } = setup;
        let world = numbers.len();
        if let Some(tracer) = &tracer {
            tracer.communicator(setup.communicator, rank, world);
        }
        let level = |backend: Box<dyn Backend>, ranks: Vec<usize>| {
            let meter = backend.meter();
            Level { backend, ranks, meter, seen: Vec::new(), under_way: None, next: 0 }
        };
        let across = across.zip(shape.across()).map(|(backend, ranks)| level(backend, ranks));
        let levels = [
            inside.map(|backend| level(backend, shape.inside().to_vec())),
            across,
            Some(level(whole, (0..world).collect())),
        ];
        let wakers: Vec<Waker> = levels.iter().flatten().map(|level| level.backend.waker()).collect();
        Hierarchical {
            rank,
            numbers,
            shape: Arc::new(shape),
            generation: setup.generation,
            communicator: setup.communicator,
            poison: setup.poison,
            report: setup.report,
            levels,
            scores: Vec::new(),
            queue: VecDeque::new(),
            running: None,
            scratch: None,
            spare: (None, Vec::new()),
            history: setup.topology,
            next_ticket: 0,
            failure: None,
            meter: Arc::new(Meter::traced(world, tracer)),
            waker: Arc::new(move || wakers.iter().for_each(|wake| wake())),
            listen_at: Time::NEVER,
            listen_after: FIRST_LISTENING,
            nap: NAP,
            turn: 0,
        }
    }

    fn me(&self) -> usize {
        self.numbers[self.rank]
    }

    fn whole(&self) -> &dyn Backend {
        &*self.levels[Lane::Whole as usize].as_ref().expect("all ranks have a backend").backend
    }

    /// The backend whose peers answer first.
    fn nearest(&self) -> &dyn Backend {
        let inside = self.levels[Lane::Inside as usize].as_ref();
        inside.filter(|level| level.under_way.is_some()).map_or(self.whole(), |level| &*level.backend)
    }

    /// Whether an operation is carried out level by level, and then whether by shares.
    fn by_levels(&self, operation: &Operation) -> Option<bool> {
        let request = operation.request();
        let by_shares = match operation.schedule().algorithm.name() {
            "hierarchical_ring" => true,
            "hierarchical_tree" => false,
            _ => return None,
        };
        let fits = operation.pieces().is_none_or(|pieces| pieces.bytes() <= Levels::PACKED);
        (fits && operation.custom().is_none() && self.shape.takes(request)).then_some(by_shares)
    }

    /// The score of an operation, made if it is not there; and whether it is of packed memory.
    fn score(&mut self, operation: &Operation) -> Result<(Arc<Score>, bool)> {
        let (request, schedule, strict) = (operation.request(), operation.schedule(), operation.strict());
        let by_shares = self.by_levels(operation);
        let is_packed = operation.pieces().is_some() && by_shares.is_some();
        if (operation.pieces().is_some() && !is_packed) || operation.custom().is_some() {
            return Ok((Arc::new(Score::whole(request, schedule)), false));
        }
        // What is packed is one memory.
        let in_place = request.in_place || is_packed;
        let is_known = |(known, by, agrees, _): &(Request, Schedule, bool, _)| {
            *by == schedule
                && *agrees == strict
                && known.in_place == in_place
                && known.counts == request.counts
                && (known == request || (is_packed && *known == Request { in_place, ..request.clone() }))
        };
        if let Some(place) = self.scores.iter().position(is_known) {
            self.scores[..=place].rotate_right(1);
        } else {
            let reaches = std::array::from_fn(|lane| {
                self.levels[lane].as_ref().map_or(Reach::Messages, |level| level.backend.reach())
            });
            let (levels, request) = (&*self.shape, Request { in_place, ..request.clone() });
            let score = match by_shares {
                _ if request.collective == Collective::SendRecv => messages(levels, &request, schedule),
                Some(by_shares) => Score::of(levels, reaches, &request, by_shares, strict)?,
                None => Score::whole(&request, schedule),
            };
            let (rank, collective, parts) = (self.rank, request.collective.as_str(), score.parts.len());
            tracing::debug!(rank, collective, parts, scratch = score.scratch, "made a score");
            self.scores.truncate(KEPT - 1);
            self.scores.insert(0, (request, schedule, strict, Arc::new(score)));
        }
        Ok((Arc::clone(&self.scores[0].3), is_packed))
    }

    /// What ranks compare of the next operation. The history goes on by it.
    fn fingerprint(&mut self, operation: &Operation) -> Option<Fingerprint> {
        let request = operation.request();
        if request.collective == Collective::SendRecv {
            return None;
        }
        let of_request = fingerprint(request, Some(operation.schedule()));
        let new = Fingerprint {
            generation: self.generation,
            communicator: self.communicator,
            sequence: operation.sequence(),
            strict: operation.strict(),
            counts_hash: of_request.counts_hash ^ operation.pieces().map_or(0, Pieces::layout),
            history: self.history,
            ..of_request
        };
        self.history = new.history_after();
        Some(new)
    }

    /// What the parts of the next operation have of it.
    fn next_whole(&mut self, operation: &Operation) -> Arc<Whole> {
        let new = Whole { fingerprint: self.fingerprint(operation), timeout: operation.timeout() };
        let Some(mut shared) = self.spare.0.take() else { return Arc::new(new) };
        match Arc::get_mut(&mut shared) {
            Some(old) => *old = new,
            None => shared = Arc::new(new),
        }
        shared
    }

    /// Takes the next operation from the queue.
    fn start_next(&mut self) {
        let Some(queued) = self.queue.pop_front() else { return };
        let whole = self.next_whole(&queued.operation);
        let mut complete = std::mem::take(&mut self.spare.1);
        complete.clear();
        complete.resize(queued.score.parts.len(), false);
        let begun = self.whole().now();
        let packed = if queued.is_packed { queued.operation.pieces().map_or(0, Pieces::bytes) } else { 0 };
        let needs = queued.score.scratch + packed;
        let mut running =
            Running { queued, begun, whole, complete, failed: None, settling: None, before: self.totals() };
        self.levels.iter_mut().flatten().for_each(|level| level.next = 0);
        (self.listen_at, self.listen_after, self.nap) = (Time::NEVER, FIRST_LISTENING, NAP);
        if self.scratch.as_ref().map_or(0, Pages::len) < needs {
            // Nothing in it is worth keeping.
            self.scratch = None;
            match Pages::of_fitting_size(needs) {
                Ok(pages) => {
                    self.meter.scratch_bytes.set(pages.len() as u64);
                    self.scratch = Some(pages);
                }
                Err(error) => {
                    let detail = format!("rank {} has no memory for partial sums: {error}", self.me());
                    let cause = self.tell(&running, CauseKind::Unreachable, self.me(), detail);
                    running.settling = Some((cause, begun.after(SETTLING)));
                }
            }
        }
        if running.queued.is_packed && running.settling.is_none() {
            self.pack(&running.queued);
        }
        // Of a group that has failed nobody is shown another call.
        if let (Some(fingerprint), None) = (&running.whole.fingerprint, self.failure()) {
            let inside = running.queued.score.parts.first().is_some_and(|part| part.lane == Lane::Inside);
            if let (false, Some(level)) = (inside, &mut self.levels[Lane::Inside as usize]) {
                level.backend.announce(fingerprint);
            }
        }
        self.running = Some(running);
    }

    /// Lays the tensors of a batch together behind the rest of the scratch memory.
    fn pack(&self, queued: &Queued) {
        let operation = &queued.operation;
        if operation.request().input_len(self.rank) > 0 {
            let mut into = self.buffers(queued).output;
            for piece in operation.pieces().into_iter().flat_map(Pieces::iter) {
                // SAFETY: the operation's maker vouches for so many bytes of input; the scratch memory has room for all pieces.
                unsafe { std::ptr::copy_nonoverlapping(piece.input, into, piece.bytes) };
                into = into.wrapping_add(piece.bytes);
            }
        }
    }

    /// Puts the results of a batch where they belong.
    fn unpack(&self, queued: &Queued) {
        let operation = &queued.operation;
        if operation.request().output_len(self.rank) == 0 {
            return;
        }
        let mut from = self.buffers(queued).input;
        for piece in operation.pieces().into_iter().flat_map(Pieces::iter) {
            // SAFETY: the operation's maker vouches for so many bytes of output; all pieces were packed one after another.
            unsafe { std::ptr::copy_nonoverlapping(from, piece.output, piece.bytes) };
            from = from.wrapping_add(piece.bytes);
        }
    }

    /// Tells the group of a failure that this rank has noticed.
    fn tell(&self, running: &Running, kind: CauseKind, culprit: usize, detail: String) -> Cause {
        let sequence = running.queued.operation.sequence();
        let cause =
            Cause { generation: self.generation, sequence, kind, culprit, reporter: self.me(), detail };
        (self.report)(&cause);
        cause
    }

    /// What the parts of an operation work on: its memory, or where that is packed.
    fn buffers(&self, queued: &Queued) -> Buffers {
        if !queued.is_packed {
            return queued.operation.buffers();
        }
        let scratch = self.scratch.as_ref().map_or(dangling_mut(), Pages::address);
        let output = scratch.wrapping_add(queued.score.scratch);
        Buffers { input: output, output }
    }

    /// The address of an operand.
    fn address(&self, Place(base, offset): Place, buffers: Buffers) -> *mut u8 {
        let base = match base {
            Base::Nothing => return dangling_mut(),
            Base::Input => buffers.input.cast_mut(),
            Base::Output => buffers.output,
            Base::Scratch => self.scratch.as_ref().map_or(dangling_mut(), Pages::address),
        };
        base.wrapping_add(offset)
    }

    /// Gives a lane its next part, where that may begin. Tells whether it has got one.
    fn submit_to(&mut self, lane: usize, running: &mut Running) -> bool {
        let Some(level) = &mut self.levels[lane] else { return false };
        let parts = &running.queued.score.parts;
        if level.under_way.is_some() || running.failed.is_some() || running.settling.is_some() {
            return false;
        }
        while parts.get(level.next).is_some_and(|part| part.lane as usize != lane) {
            level.next += 1;
        }
        let Some(part) = parts.get(level.next) else { return false };
        if part.after.is_some_and(|after| !running.complete[after]) {
            return false;
        }
        let index = level.next;
        level.next += 1;
        let part = part.clone();
        let operation = self.operation(&part, running);
        let level = self.levels[lane].as_mut().expect("it was there");
        match level.backend.submit(operation) {
            Ok(ticket) => level.under_way = Some((ticket, index)),
            Err(error) => {
                let detail = format!("rank {} cannot do its part: {error}", self.me());
                let cause = self.tell(running, CauseKind::Internal, self.me(), detail);
                running.settling = Some((cause, self.whole().now().after(SETTLING)));
            }
        }
        true
    }

    /// The operation that a part is.
    fn operation(&self, part: &Part, running: &Running) -> Operation {
        let whole = &running.queued.operation;
        let left = running.queued.deadline.since(self.whole().now());
        let buffers = Buffers {
            input: self.address(part.input, self.buffers(&running.queued)).cast_const(),
            output: self.address(part.output, self.buffers(&running.queued)),
        };
        let strict = part.is_all && whole.strict();
        let sequence = whole.sequence();
        // SAFETY: the operation's maker vouches for its memory until it is complete, which is after all its parts; a score keeps within the
        // lengths that the request says, and within the scratch memory, which is nobody else's and as long as the score wants; two parts
        // that are under way at once touch different ranges of what either writes (the score's dependencies).
        let mut operation =
            unsafe { Operation::new(part.request.clone(), part.schedule, sequence, strict, left, buffers) };
        if let Some(extras) = whole.extras.as_deref().filter(|_| part.is_all) {
            if let Some(pieces) = &extras.pieces {
                // SAFETY: the pieces are those of the whole, of which its maker has promised as much.
                operation = unsafe { operation.in_pieces(Arc::clone(pieces)) };
            }
            if let Some(custom) = &extras.custom {
                operation.reduce_by(custom.clone());
            }
        }
        operation.within(Arc::clone(&running.whole))
    }

    /// Lets a lane move what it can. Tells whether anything has.
    fn step(&mut self, lane: usize, running: &mut Running) -> bool {
        let Some(level) = &mut self.levels[lane] else { return false };
        let Some((mine, index)) = level.under_way else { return false };
        let result = match level.backend.progress() {
            Progress::Idle => return false,
            Progress::Advanced => return true,
            Progress::Done(ticket, result) => {
                debug_assert_eq!(ticket, mine);
                result
            }
        };
        level.under_way = None;
        match result {
            Ok(()) => {
                running.complete[index] = true;
                self.finish_part(&running.queued.score.parts[index], running);
            }
            Err(error) => {
                let known = level.backend.failure();
                let cause = known.unwrap_or_else(|| {
                    let detail = format!("rank {} could not do its part: {error}", self.me());
                    self.tell(running, CauseKind::Internal, self.me(), detail)
                });
                // Whatever else is under way ends by that.
                self.poison.set(cause.clone());
                running.failed.get_or_insert(cause);
            }
        }
        true
    }

    /// What remains to be done to results that have come from across.
    fn finish_part(&self, part: &Part, running: &Running) {
        let request = running.queued.operation.request();
        if part.finish > 0
            && let Some(kernels) = kernels(ReduceOp::Mean, request.dtype)
        {
            let data = self.address(part.output, self.buffers(&running.queued));
            // SAFETY: the part is complete and was the only one that wrote there; those that read it come after it.
            unsafe { kernels.finish(data, part.finish, request.world) }
        }
    }

    /// Listens to the backends that nothing is under way on, if it is time.
    fn listen(&mut self, running: &mut Running) {
        let now = self.whole().now();
        if now < self.listen_at {
            return;
        }
        self.listen_after = (self.listen_after * 2).min(RAREST_LISTENING);
        self.listen_at = now.after(self.listen_after);
        let Some(fingerprint) = &running.whole.fingerprint else { return };
        let mut idle = self.levels.iter_mut().flatten().filter(|level| level.under_way.is_none());
        if let Some((culprit, difference)) = idle.find_map(|level| level.backend.overhear(fingerprint)) {
            let Difference { field, mine, theirs } = difference;
            let detail = format!("{field} differs: {mine} on rank {}, {theirs} on rank {culprit}", self.me());
            let cause = self.tell(running, CauseKind::Mismatch, culprit, detail);
            running.settling = Some((cause, now.after(SETTLING)));
        }
    }

    /// What is counted of bytes and waits.
    fn totals(&self) -> [u64; 4] {
        if self.meter.tracer.is_none() {
            return [0; 4];
        }
        let counters = self.meter.snapshot();
        [counters.bytes_sent(), counters.bytes_received(), counters.waits, self.meter.waiting_nanos.get()]
    }

    /// Ends the running operation.
    fn finish(&mut self, running: Running) -> Progress {
        let Running { queued, begun, whole, complete, failed, before, .. } = running;
        self.spare = (Some(whole), complete);
        let Queued { ticket, operation, submitted, .. } = queued;
        let request = operation.request();
        let result = match failed {
            None => Ok(()),
            Some(cause) => {
                let error = cause.to_error(self.me(), request.collective.as_str(), operation.sequence());
                if let (None, Some(tracer)) = (&self.failure, &self.meter.tracer) {
                    tracer.failed(&cause);
                }
                self.failure.get_or_insert(cause);
                Err(error)
            }
        };
        if let Err(error) = &result {
            operation.span().record("error", tracing::field::display(error));
        }
        for level in self.levels.iter_mut().flatten() {
            self.meter.take(&level.meter, &level.ranks, &mut level.seen);
        }
        let (now, bytes) = (self.whole().now(), request.bytes(self.rank) as u64);
        self.meter.ended(request.collective, bytes, now.since(submitted), result.is_ok());
        if let Some(tracer) = &self.meter.tracer {
            let origin = tracer.now().saturating_sub(now.as_nanos());
            let at = |time: Time| origin + time.as_nanos();
            let after = self.totals();
            let [sent, received, waits, waited] = std::array::from_fn(|i| after[i].wrapping_sub(before[i]));
            tracer.record(Record {
                communicator: self.communicator,
                collective: request.collective.as_str(),
                sequence: operation.sequence(),
                bytes,
                dtype: request.dtype.as_str(),
                op: operation.op_name(),
                algorithm: operation.algorithm_name(),
                order: request.order.as_str(),
                submitted: at(submitted),
                begun: at(begun),
                ended: at(now),
                first_sent: None,
                first_received: None,
                sent,
                received,
                waits: waits as u32,
                waited,
                longest_wait: None,
                error: result.as_ref().err().map(Error::kind),
            });
        }
        Progress::Done(ticket, result)
    }

    /// One turn of the running operation.
    fn turn(&mut self, mut running: Running) -> Progress {
        if let Some((cause, until)) = &running.settling
            && self.poison.cause().is_none()
            && self.whole().now() >= *until
        {
            self.poison.set(cause.clone());
        }
        let mut moved = false;
        for lane in 0..self.levels.len() {
            moved |= self.submit_to(lane, &mut running);
            moved |= self.step(lane, &mut running);
        }
        if self.levels.iter().flatten().all(|level| level.under_way.is_none()) {
            // Who has reported something waits for what the group calls it, however its own parts have ended.
            let over = running.settling.is_none() && running.complete.iter().all(|complete| *complete);
            if !over && running.failed.is_none() {
                running.failed = self.failure();
            }
            if over && running.failed.is_none() && running.queued.is_packed {
                self.unpack(&running.queued);
            }
            if over || running.failed.is_some() {
                return self.finish(running);
            }
        }
        if moved {
            self.nap = NAP;
        } else if running.settling.is_none() && running.failed.is_none() {
            self.listen(&mut running);
        }
        self.running = Some(running);
        if moved { Progress::Advanced } else { Progress::Idle }
    }
}

impl Backend for Hierarchical {
    fn name(&self) -> &'static str {
        "hierarchical"
    }

    fn submit(&mut self, operation: Operation) -> Result<Ticket> {
        let world = self.numbers.len();
        if operation.request().world != world {
            let text = format!("a request for {} ranks in a group of {world}", operation.request().world);
            return Err(Error::invalid(text).at_rank(self.rank));
        }
        operation.check(self.name()).map_err(|error| error.at_rank(self.rank))?;
        let (score, is_packed) = self.score(&operation)?;
        let submitted = self.whole().now();
        let deadline = submitted.after(operation.timeout());
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.queue.push_back(Queued { ticket, operation, score, is_packed, submitted, deadline });
        Ok(ticket)
    }

    fn progress(&mut self) -> Progress {
        if self.running.is_none() {
            self.start_next();
        }
        match self.running.take() {
            Some(running) => self.turn(running),
            None => Progress::Idle,
        }
    }

    fn wait(&mut self, until: Time) {
        let Some(running) = &self.running else { return };
        let now = self.whole().now();
        if self.listen_at == Time::NEVER {
            self.listen_at = now.after(self.listen_after);
        }
        let mut until = until.min(self.listen_at);
        if let Some((_, settled)) = &running.settling {
            until = until.min(*settled);
        }
        let mut busy = self.levels.iter_mut().flatten().filter(|level| level.under_way.is_some());
        let (Some(first), second) = (busy.next(), busy.next()) else {
            if running.settling.is_some() {
                // Nothing is left to be woken by but the verdict, which is looked at.
                std::thread::sleep(LONGEST_NAP.min(until.since(now)));
            }
            return;
        };
        let level = match second {
            None => first,
            Some(second) => {
                until = until.min(now.after(self.nap));
                self.nap = (self.nap * 2).min(LONGEST_NAP);
                self.turn += 1;
                if self.turn.is_multiple_of(2) { first } else { second }
            }
        };
        // Each has a clock of its own.
        level.backend.wait(level.backend.now().after(until.since(now)));
    }

    fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    fn waker(&self) -> Waker {
        Arc::clone(&self.waker)
    }

    fn spins(&self) -> u32 {
        self.nearest().spins()
    }

    fn unyielding(&self) -> u32 {
        self.nearest().unyielding()
    }

    fn now(&self) -> Time {
        self.whole().now()
    }

    fn failure(&self) -> Option<Cause> {
        let known = self.failure.clone().or_else(|| self.poison.cause().cloned());
        known.or_else(|| self.levels.iter().flatten().find_map(|level| level.backend.failure()))
    }

    fn levels(&self) -> Option<&Arc<Levels>> {
        Some(&self.shape)
    }
}
