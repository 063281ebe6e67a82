//! The collectives of the system's MPI library.
//!
//! Each operation is one non-blocking collective of MPI's (several, where it is larger than MPI's counts), begun in the order of
//! submission and looked after by `MPI_Test`, so that deadlines, aborts and the deaths of others are noticed; a blocking call would not
//! come back from any of them. The schedule is MPI's own: an operation's is not looked at.
//!
//! Where the configuration says `mpi_blocking`, what a caller waits for is MPI's blocking collective instead: see below.
//!
//! - [`rounds`]: the calls that an operation becomes;
//! - [`memory`]: where their bytes lie.
//!
//! # What is promised
//! The reductions have ringfold's meaning in every element type: where MPI's own differs or does not exist, MPI runs ringfold's kernels.
//! In which order contributions are combined is MPI's affair, so [`Order::Fixed`](crate::Order::Fixed) and users' reductions that are
//! not commutative are [`Unsupported`](crate::ErrorKind::Unsupported); the backend `mpi-p2p` has both.
//!
//! # Who differs
//! Nothing of ringfold's travels ahead of the bytes. Each rank keeps a [`Ledger`] of what it has begun, which the store compares: at
//! once where a rank waits for more than some milliseconds, else five times a second. So ranks that ask for different things are told
//! soon, but a call may have returned by then, with whatever MPI made of it. Counts between pairs, messages, and whatever has strict
//! checks are compared before anything moves.
//!
//! # What stays with MPI
//! What has begun in MPI cannot be taken back. So borrowed memory passes through the backend's own, and where a deadline or an abort
//! comes first, that stays with MPI. Memory that an operation owns goes to MPI as it is, and is never freed where MPI still has it;
//! the error says so. With `mpi_direct`, MPI has borrowed memory as well, but none that is ringfold's own and is used again (tensors that
//! are packed or staged): see the [configuration](crate::config::keys).
//!
//! # Blocking calls
//! With `mpi_blocking`, every collective that its caller waits for is MPI's blocking one, straight on the caller's memory, which MPI has given
//! back when it returns. A blocking collective does not match one that is begun, so which of the two it is follows from what is called, never from
//! what is outstanding on a rank: behind what is outstanding it is called when its turn comes, by the thread that drives that. Messages,
//! started, gathered and batched operations, counts between pairs and strict checks go on as above. Ranks that call in different ways
//! differ in their fingerprints.
//!
//! No deadline and no failure ends such a call before MPI does. The ledger says that the rank is inside, and the watch thread tells the log when
//! the deadline has passed, with who has not come, or when the group has failed. A call that MPI ends well after its deadline has ended
//! well; after a failure of the group it has that.

mod memory;
mod rounds;

use super::{Backend, Meter, Operation, Pieces, Progress, Ticket, cannot};
use crate::collective::{Collective, Counts, Fingerprint, Order};
use crate::error::{Cause, CauseKind, Error, Result};
use crate::observe::trace::{Record, Tracer};
use crate::observe::{Poison, Time, Waker};
use crate::tensor::Device;
use crate::transport::control::{Awaited, Ledger, Reporter};
use crate::transport::mpi::{Ask, Holding, LIMIT, Mpi, Refusal, Turn, Type, free_turn, turn};
use memory::{Course, Means};
use rounds::{Round, rounds};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a turn looks whether MPI is done; less often where the CPU may be wanted by who is waited for. A look takes some 50 ns, and to offer
/// the CPU to others several times as long, also where nobody wants it: where a launcher has bound each rank to a CPU of its own, a
/// rank cannot know that.
const LOOKS: u32 = 32;
const LOOKS_SHARED: u32 = 8;

/// How many turns that find nothing pass between two looks at the clock.
const TURNS_PER_CLOCK: u32 = 8;

/// How long a rank waits before it tells what it waits in.
const TELL_AFTER: Duration = Duration::from_millis(5);

/// For how long a rank that waits does not sleep: MPI moves bytes only while it is looked at.
const AWAKE: Duration = Duration::from_millis(20);

/// The same for each MiB of an operation.
const AWAKE_FOR_MIB: Duration = Duration::from_millis(10);

/// The shortest and the longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_micros(20), Duration::from_micros(500));

/// How long a rank waits for the group's verdict on what it has noticed: see the planned backend.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a failure of MPI's is kept back: where ranks have asked for different things, the store finds out in that time.
const HOLD_BACK: Duration = Duration::from_millis(300);

/// Of short operations that are run at once one in so many is timed, and stands for all.
const TIMED: u32 = 16;

/// How long an operation may be to count as short, in bytes.
const SHORT: usize = 64 << 10;

/// The tags of messages: of what goes ahead, and of themselves.
const TAGS: [usize; 2] = [0, 1];

/// What a [`MpiCollectives`] is made of.
pub struct MpiSetup {
    /// A communicator of MPI's that is its own, with this group's ranks.
    pub mpi: Mpi,
    /// The generation of the group.
    pub generation: u32,
    /// Tells the groups of a world apart.
    pub communicator: u32,
    /// The ranks' numbers in the world, in rank order.
    pub numbers: Arc<[usize]>,
    /// The failure of the group.
    pub poison: Arc<Poison>,
    /// Tells the store.
    pub reporter: Reporter,
    /// Whether ranks must share CPUs.
    pub shares_cpus: bool,
    /// How often to look again before waiting.
    pub spins: u32,
    /// Whether MPI may have memory that calls have borrowed.
    pub direct: bool,
    /// Whether operations that their callers wait for are MPI's blocking collectives: the same on every rank, and where MPI allows calls at the
    /// same time only.
    pub blocking: bool,
    /// The most bytes of one call of MPI's: [`MpiSetup::LIMIT`], or less in tests.
    pub limit: usize,
    /// Where operations are written down, if they are.
    pub tracer: Option<Arc<Tracer>>,
}

impl MpiSetup {
    /// What MPI's counts hold, and less than half of it.
    pub const LIMIT: usize = LIMIT;
}

impl fmt::Debug for MpiSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiSetup")
            .field("mpi", &self.mpi)
            .field("numbers", &self.numbers)
            .finish_non_exhaustive()
    }
}

/// Carries out whole collectives by those of MPI.
///
/// Dropping it gives its communicator back to MPI where nothing is under way and no messages went over it.
pub struct MpiCollectives {
    setup: MpiSetup,
    rank: usize,
    ledger: Arc<Ledger>,
    meter: Arc<Meter>,
    queue: VecDeque<Queued>,
    running: Option<Running>,
    /// What MPI has of the running operation; used again by the next.
    holding: Box<Holding>,
    next_ticket: u64,
    runs: u32,
    history: u32,
    /// The next sequence number of each direction of each pair, for messages.
    sent: Vec<u64>,
    received: Vec<u64>,
    exchanged: bool,
    failure: Option<Cause>,
    nudged: Arc<AtomicBool>,
    origin: Instant,
    /// Where the tracer's clock is when this one's is at its origin, in ns.
    traced_from: u64,
    /// Turns that have found nothing.
    turns: u32,
    pid: u32,
}

struct Queued {
    ticket: Ticket,
    operation: Operation,
    /// `None` where nobody has looked at the clock.
    submitted: Option<Time>,
}

struct Running {
    queued: Queued,
    /// For how many operations its time stands.
    weight: u32,
    begun: Option<Time>,
    deadline: Option<Time>,
    fingerprint: Fingerprint,
    rest: VecDeque<Round>,
    phase: Phase,
    /// Whether the store knows that this rank waits.
    told: bool,
    waits: u32,
    waited: Duration,
    /// Whether MPI has memory of the operation's own.
    direct: bool,
    /// Whether its calls of MPI's come back at their ends only.
    blocks: bool,
}

enum Phase {
    /// Ranks compare what they are asked for; this is the round after that.
    Agreeing(Round),
    /// A call of MPI's is under way.
    Calling(Course),
    /// Messages: how what comes in is to be received, until its header has come.
    Messages(Option<Course>),
    /// Something is wrong; when to say so, unless it has been said, and until when to wait for the group's verdict.
    Settling { cause: Cause, report_at: Option<Time>, until: Time },
}

/// What a look at MPI has brought.
enum Look {
    Nothing,
    /// The operation is over.
    Over,
    /// Something has come about, and there is more to do.
    More,
}

/// Something is wrong, as far as this rank can see.
enum Trouble {
    Refused(Refusal),
    Mismatch {
        peer: usize,
        detail: String,
    },
    /// What came from a peer is no fingerprint: it does something else.
    Garbled {
        peer: usize,
    },
    Panic(String),
    /// The group has failed while this rank was in a call that does not come back from that.
    Failed(Cause),
    /// MPI has ended.
    Gone(Error),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Trouble {
        Trouble::Refused(refusal)
    }
}

impl MpiCollectives {
    /// A backend over this communicator.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the numbers are not as many as its ranks.
    pub fn new(setup: MpiSetup) -> Result<MpiCollectives> {
        let world = setup.mpi.size();
        if setup.numbers.len() != world || setup.limit == 0 {
            return Err(Error::invalid(format!("{setup:?} for {} ranks", setup.numbers.len())));
        }
        let rank = setup.mpi.rank();
        let origin = Instant::now();
        let mut traced_from = 0;
        if let Some(tracer) = &setup.tracer {
            tracer.communicator(setup.communicator, rank, world);
            traced_from = tracer.now();
        }
        Ok(MpiCollectives {
            rank,
            ledger: setup.reporter.ledger(setup.communicator, &setup.numbers),
            meter: Arc::new(Meter::traced(world, setup.tracer.clone())),
            queue: VecDeque::new(),
            running: None,
            holding: Box::default(),
            next_ticket: 0,
            runs: 0,
            history: 0,
            sent: vec![0; world],
            received: vec![0; world],
            exchanged: false,
            failure: None,
            nudged: Arc::default(),
            origin,
            traced_from,
            turns: 0,
            pid: std::process::id(),
            setup,
        })
    }

    /// This rank's number in the world.
    fn me(&self) -> usize {
        self.setup.numbers[self.rank]
    }

    /// Fails where MPI's collectives cannot do what is asked.
    #[inline]
    fn check(&self, operation: &Operation) -> Result<()> {
        let request = operation.request();
        let refuse = |error: Error| Err(error.at_rank(self.me()));
        if request.world != self.setup.numbers.len() {
            return refuse(Error::invalid(format!(
                "a request for {} ranks in a group of {}",
                request.world,
                self.setup.numbers.len()
            )));
        }
        operation.check("mpi").map_err(|error| error.at_rank(self.me()))?;
        let remedy = "use the backend mpi-p2p, which runs ringfold's own schedules over MPI";
        if request.custom.is_some_and(|custom| !custom.commutative) {
            return refuse(cannot("mpi", "reduce by what is not commutative").remedy(remedy));
        }
        if request.order == Order::Fixed && request.collective.combines() {
            return refuse(cannot("mpi", "promise the order of a reduction").remedy(remedy));
        }
        if operation.device() != Device::Host {
            return refuse(cannot("mpi", "reach the memory of a device"));
        }
        Ok(())
    }

    fn enqueue(&mut self, operation: Operation, submitted: Option<Time>) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket - 1);
        self.queue.push_back(Queued { ticket, operation, submitted });
        ticket
    }

    /// What a rank is asked for, as ranks compare it. The parts between pairs are not in it.
    #[inline]
    fn fingerprint(&self, operation: &Operation, blocking: bool) -> Fingerprint {
        let request = operation.request();
        let base = Fingerprint::of(request);
        Fingerprint {
            generation: self.setup.generation,
            communicator: self.setup.communicator,
            sequence: operation.sequence(),
            strict: operation.strict(),
            blocking,
            counts_hash: base.counts_hash ^ operation.pieces().map_or(0, Pieces::layout),
            history: if request.collective == Collective::SendRecv { 0 } else { self.history },
            ..base
        }
    }

    /// Whether an operation goes by calls that come back at their ends only: the same on every rank, as far as they call the same.
    #[inline]
    fn blocks(&self, operation: &Operation) -> bool {
        self.setup.blocking && operation.is_blocking() && !is_message(operation) && !agrees(operation)
    }

    /// Whether MPI may have an operation's memory for longer than the operation takes.
    #[inline]
    fn may_keep(&self, operation: &Operation) -> bool {
        operation.owns_memory() || (self.setup.direct && !operation.reuses_memory())
    }

    /// For how many operations the time of one that begins stands, and when it begins, where its time is taken.
    #[inline]
    fn timing(&mut self, operation: &Operation, submitted: bool) -> (u32, Option<Time>) {
        self.runs = self.runs.wrapping_add(1);
        let traced = self.setup.tracer.is_some();
        if operation.request().bytes(self.rank) > SHORT || submitted || traced {
            return (1, Some(self.now()));
        }
        if self.runs.is_multiple_of(TIMED) { (TIMED, Some(self.now())) } else { (0, None) }
    }

    /// Takes the next operation from the queue and begins it.
    fn start_next(&mut self, turn: &mut Turn) -> std::result::Result<(), Trouble> {
        let Some(queued) = self.queue.pop_front() else { return Ok(()) };
        let blocks = self.blocks(&queued.operation);
        let fingerprint = self.fingerprint(&queued.operation, blocks);
        let agrees = agrees(&queued.operation);
        let (weight, begun) = self.timing(&queued.operation, queued.submitted.is_some());
        let deadline = queued.submitted.map(|submitted| submitted.after(queued.operation.timeout()));
        let (round, rest) = rounds(queued.operation.request(), self.setup.limit);
        if !is_message(&queued.operation) {
            self.history = fingerprint.history_after();
            match blocks {
                true => self.ledger.enter(&fingerprint, queued.operation.timeout()),
                false => self.ledger.note(&fingerprint),
            }
        }
        self.turns = 0;
        let phase = if agrees { Phase::Agreeing(round.clone()) } else { Phase::Messages(None) };
        let running = Running {
            queued,
            weight,
            begun,
            deadline,
            fingerprint,
            rest,
            phase,
            told: false,
            waits: 0,
            waited: Duration::ZERO,
            direct: false,
            blocks,
        };
        self.running = Some(running);
        match round {
            Round::Messages => self.begin_messages(turn),
            _ if agrees => self.agree(turn),
            round => self.begin_round(round, turn),
        }
    }

    /// Lets every rank tell every other what it is asked for.
    fn agree(&mut self, turn: &mut Turn) -> std::result::Result<(), Trouble> {
        let running = self.running.as_ref().expect("an operation is running");
        let world = self.setup.numbers.len();
        let memory = self.holding.memory();
        memory.theirs.clear();
        for peer in 0..world {
            let mut own = running.fingerprint;
            if let Counts::Pairwise { send, .. } = &running.queued.operation.request().counts {
                own.pair_count = send[peer] as u64;
            }
            memory.theirs.extend_from_slice(&own.encode());
        }
        let told = memory.theirs.len();
        memory.theirs.resize(2 * told, 0);
        let input = memory.theirs.as_ptr();
        let output = memory.theirs[told..].as_mut_ptr();
        let ask = Ask::AllToAll { input, output, count: Fingerprint::SIZE };
        // SAFETY: both halves are as long as that, lie in a vector that the holding keeps for as long as MPI has it, and are touched by
        // nobody until the request is done.
        let request = unsafe { self.setup.mpi.comm().begin(&ask, &memory.lists, None, turn) }?;
        self.holding.requests.push(request);
        Ok(())
    }

    /// Compares what all ranks have told.
    fn compare(&mut self) -> std::result::Result<(), Trouble> {
        let running = self.running.as_ref().expect("an operation is running");
        let memory = self.holding.memory();
        let (_, theirs) = memory.theirs.split_at(memory.theirs.len() / 2);
        for (peer, theirs) in theirs.as_chunks::<{ Fingerprint::SIZE }>().0.iter().enumerate() {
            let mut mine = running.fingerprint;
            if let Counts::Pairwise { receive, .. } = &running.queued.operation.request().counts {
                mine.pair_count = receive[peer] as u64;
            }
            differs(&mine, theirs, self.rank, peer, &self.setup.numbers)?;
        }
        Ok(())
    }

    /// Begins a call of MPI's, or carries it out.
    #[inline]
    fn begin_round(&mut self, round: Round, turn: &mut Turn) -> std::result::Result<(), Trouble> {
        let running = self.running.as_ref().expect("an operation is running");
        if running.blocks {
            return self.carry_out_round(&round, turn);
        }
        let direct = self.may_keep(&running.queued.operation);
        let running = self.running.as_mut().expect("an operation is running");
        let (setup, operation) = (&self.setup, &running.queued.operation);
        let course = begin(setup, self.rank, &mut self.holding, operation, direct, &round, turn)?;
        running.direct |= course.direct;
        running.phase = Phase::Calling(course);
        Ok(())
    }

    /// Carries out a round of the running operation by a call that comes back at its end only.
    fn carry_out_round(&mut self, round: &Round, turn: &mut Turn) -> std::result::Result<(), Trouble> {
        let mut running = self.running.take().expect("an operation is running");
        let done = self.carry_out(&running.queued.operation, round, turn);
        let result = match done {
            Ok(course) => {
                running.phase = Phase::Calling(course);
                Ok(())
            }
            Err((trouble, direct)) => {
                running.direct = direct;
                Err(trouble)
            }
        };
        self.running = Some(running);
        result
    }

    /// Calls MPI for a round, which comes back at its end only; with what is wrong, whether MPI may have memory of the operation's own.
    #[inline]
    fn carry_out(
        &mut self,
        operation: &Operation,
        round: &Round,
        turn: &mut Turn,
    ) -> std::result::Result<Course, (Trouble, bool)> {
        let in_place = self.setup.mpi.in_place();
        // MPICH 4.0 follows the address that stands for "in place" where a root other than 0 passes it to MPI_Reduce.
        let to_one = operation.request().collective == Collective::Reduce || matches!(round, Round::Part(..));
        let mut means = Means {
            rank: self.rank,
            operation,
            memory: self.holding.memory(),
            // MPI gives it back before anybody sees it again, unless it fails.
            direct: operation.owns_memory() || !operation.reuses_memory(),
            in_place: in_place.is_some() && !to_one,
            limit: self.setup.limit,
            turn,
        };
        let (ask, course) = match means.ask(round) {
            Ok(asked) => asked,
            Err(refusal) => return Err((refusal.into(), false)),
        };
        // SAFETY: as in `begin_round`, and the key was refused where MPI does not allow calls at the same time. Where MPI fails, the error says
        // that it keeps the memory.
        let done =
            unsafe { self.setup.mpi.comm().carry_out(&ask, &self.holding.memory().lists, in_place, turn) };
        if let Err(refusal) = done {
            self.ledger.come_out();
            self.holding.fail(refusal.clone());
            return Err((refusal.into(), course.direct));
        }
        match self.failure() {
            Some(cause) => Err((Trouble::Failed(cause), false)),
            None => Ok(course),
        }
    }

    /// Begins an operation behind nothing, and looks at MPI some times: whether it is over.
    #[inline]
    fn begin_at_once(
        &mut self,
        operation: &Operation,
        round: &Round,
        turn: &mut Turn,
        over: &mut bool,
    ) -> std::result::Result<Course, (Trouble, bool)> {
        let direct = self.may_keep(operation);
        let course = begin(&self.setup, self.rank, &mut self.holding, operation, direct, round, turn)
            .map_err(|refusal| (refusal.into(), false))?;
        for _ in 0..self.looks() {
            match self.holding.look(turn) {
                Ok(true) => {
                    *over = true;
                    break;
                }
                Ok(false) => std::hint::spin_loop(),
                Err(refusal) => return Err((refusal.into(), course.direct)),
            }
        }
        Ok(course)
    }

    /// How often a turn looks at MPI.
    #[inline]
    fn looks(&self) -> u32 {
        if self.setup.shares_cpus { LOOKS_SHARED } else { LOOKS }
    }

    /// Runs a collective behind nothing, which is left where it is when it is over with one call that comes back, or with one that is done
    /// soon. What is not goes on as any other does.
    #[inline]
    fn run_at_once(&mut self, taken: &mut Option<Operation>, blocks: bool) -> Result<()> {
        let operation = taken.as_ref().expect("an operation to run");
        let mut turn = if blocks { free_turn() } else { turn() }?;
        let fingerprint = self.fingerprint(operation, blocks);
        let (weight, begun) = self.timing(operation, false);
        let (round, rest) = rounds(operation.request(), self.setup.limit);
        self.history = fingerprint.history_after();
        let mut over = blocks;
        let done = if blocks {
            self.ledger.enter(&fingerprint, operation.timeout());
            self.carry_out(operation, &round, &mut turn)
        } else {
            self.ledger.note(&fingerprint);
            self.begin_at_once(operation, &round, &mut turn, &mut over)
        };
        if let Ok(course) = &done
            && over
            && rest.is_empty()
            && self.holding.memory().custom.is_none()
        {
            self.holding.clean(&turn);
            drop(turn);
            course.end(operation);
            if blocks {
                self.ledger.come_out();
            }
            let request = operation.request();
            let time = begun.map_or(Duration::ZERO, |begun| self.now().since(begun)) * weight;
            self.meter.ended(request.collective, request.bytes(self.rank) as u64, time, true);
            return Ok(());
        }
        drop(turn);
        let operation = taken.take().expect("it was there");
        self.go_on(operation, fingerprint, (weight, begun), rest, done, blocks)
    }

    /// Drives an operation, whose first call of MPI's has been made, to its end.
    #[cold]
    fn go_on(
        &mut self,
        operation: Operation,
        fingerprint: Fingerprint,
        (weight, begun): (u32, Option<Time>),
        rest: VecDeque<Round>,
        done: std::result::Result<Course, (Trouble, bool)>,
        blocks: bool,
    ) -> Result<()> {
        let (phase, direct, trouble) = match done {
            // What a call that has come back had is MPI's no more.
            Ok(course) => {
                let direct = !blocks && course.direct;
                (Phase::Calling(course), direct, None)
            }
            Err((trouble, direct)) => (Phase::Messages(None), direct, Some(trouble)),
        };
        self.turns = 0;
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket - 1);
        self.running = Some(Running {
            queued: Queued { ticket, operation, submitted: None },
            weight,
            begun,
            deadline: None,
            fingerprint,
            rest,
            phase,
            told: false,
            waits: 0,
            waited: Duration::ZERO,
            direct,
            blocks,
        });
        if let Some(trouble) = trouble
            && let Progress::Done(_, result) = self.notice_trouble(trouble)
        {
            return result;
        }
        self.drive(ticket)
    }

    fn begin_messages(&mut self, turn: &mut Turn) -> std::result::Result<(), Trouble> {
        self.exchanged = true;
        let running = self.running.as_ref().expect("an operation is running");
        let direct = self.may_keep(&running.queued.operation);
        let running = self.running.as_mut().expect("an operation is running");
        let Counts::Messages { send, receive, .. } = running.queued.operation.request().counts else {
            unreachable!("messages have these counts")
        };
        let comm = self.setup.mpi.comm();
        let (rank, limit) = (self.rank, self.setup.limit);
        let memory = self.holding.memory();
        memory.theirs.clear();
        memory.theirs.resize(Fingerprint::SIZE, 0);
        let theirs = memory.theirs.as_mut_ptr();
        running.phase = Phase::Messages(None);
        if let Some((to, count)) = send {
            let header =
                Fingerprint { pair_count: count as u64, sequence: self.sent[to], ..running.fingerprint };
            self.sent[to] += 1;
            self.ledger.message(self.setup.numbers[to], true);
            self.meter.messages_sent.add(1);
            self.meter
                .sent(to, Fingerprint::SIZE + count * running.queued.operation.request().element_size());
            *memory.own = header.encode();
            let own = memory.own.as_ptr().cast::<u8>();
            let operation = &running.queued.operation;
            let mut means = Means { rank, operation, memory, direct, in_place: false, limit, turn };
            let (data, bytes, course) = means.message(true);
            let (count, place, each) = means.describe(bytes)?;
            running.direct |= course.direct;
            let data = data.wrapping_add(place);
            // SAFETY: the header and the stage are kept with the requests; for the operation's own memory see `begin_round`.
            unsafe {
                let header = comm.send_of(own, Fingerprint::SIZE, Type::byte(), to, TAGS[0], turn)?;
                self.holding.requests.push(header);
                self.holding.requests.push(comm.send_of(data, count, each, to, TAGS[1], turn)?);
            }
        }
        if let Some((from, _)) = receive {
            self.ledger.message(self.setup.numbers[from], false);
            self.meter.messages_received.add(1);
            // SAFETY: as above.
            let header =
                unsafe { comm.receive_of(theirs, Fingerprint::SIZE, Type::byte(), from, TAGS[0], turn) }?;
            self.holding.header = Some(header);
        }
        Ok(())
    }

    /// Receives the message whose header has come.
    fn receive_message(&mut self, turn: &mut Turn) -> std::result::Result<(), Trouble> {
        let running = self.running.as_ref().expect("an operation is running");
        let direct = self.may_keep(&running.queued.operation);
        let running = self.running.as_mut().expect("an operation is running");
        let Counts::Messages { receive: Some((from, count)), .. } = running.queued.operation.request().counts
        else {
            unreachable!("a header was waited for")
        };
        let mine =
            Fingerprint { pair_count: count as u64, sequence: self.received[from], ..running.fingerprint };
        self.received[from] += 1;
        let memory = self.holding.memory();
        let theirs = memory.theirs.first_chunk().expect("it has the length of a header");
        differs(&mine, theirs, self.rank, from, &self.setup.numbers)?;
        let operation = &running.queued.operation;
        self.meter.received(from, Fingerprint::SIZE + count * operation.request().element_size());
        let (rank, limit) = (self.rank, self.setup.limit);
        let mut means = Means { rank, operation, memory, direct, in_place: false, limit, turn };
        let (data, bytes, course) = means.message(false);
        let (count, place, each) = means.describe(bytes)?;
        running.direct |= course.direct;
        running.phase = Phase::Messages(Some(course));
        let data = data.wrapping_add(place);
        // SAFETY: as in `begin_messages`.
        let request = unsafe { self.setup.mpi.comm().receive_of(data, count, each, from, TAGS[1], turn) }?;
        self.holding.requests.push(request);
        Ok(())
    }

    /// Looks at MPI once, and does what has become possible.
    #[inline]
    fn look(&mut self, turn: &mut Turn) -> std::result::Result<Look, Trouble> {
        let Some(running) = &self.running else { return Ok(Look::Nothing) };
        match &running.phase {
            Phase::Settling { .. } => Ok(Look::Nothing),
            Phase::Messages(_) if self.holding.look_for_header(turn)? => {
                self.receive_message(turn)?;
                Ok(Look::More)
            }
            _ if !self.holding.look(turn)? => Ok(Look::Nothing),
            Phase::Messages(_) if self.holding.header.is_some() => Ok(Look::Nothing),
            Phase::Messages(course) => {
                if let Some(course) = course {
                    course.end(&running.queued.operation);
                }
                Ok(Look::Over)
            }
            Phase::Agreeing(round) => {
                let round = round.clone();
                self.compare()?;
                self.begin_round(round, turn)?;
                Ok(Look::More)
            }
            Phase::Calling(course) => {
                if let Some(why) = self.holding.memory().custom.as_ref().and_then(|custom| custom.failure()) {
                    return Err(Trouble::Panic(why));
                }
                course.end(&running.queued.operation);
                let running = self.running.as_mut().expect("an operation is running");
                match running.rest.pop_front() {
                    None => Ok(Look::Over),
                    Some(round) => {
                        self.begin_round(round, turn)?;
                        Ok(Look::More)
                    }
                }
            }
        }
    }

    /// Looks at MPI some times; what has come of it, if anything.
    fn look_often(&mut self) -> Option<Progress> {
        let mut turn = match turn() {
            Ok(turn) => turn,
            Err(error) => return Some(self.notice_trouble(Trouble::Gone(error))),
        };
        if self.running.is_none()
            && let Err(trouble) = self.start_next(&mut turn)
        {
            drop(turn);
            return Some(self.notice_trouble(trouble));
        }
        for _ in 0..self.looks() {
            match self.look(&mut turn) {
                Ok(Look::Over) => {
                    self.holding.clean(&turn);
                    drop(turn);
                    return Some(self.finish(Ok(())));
                }
                Ok(Look::More) => return Some(Progress::Advanced),
                Ok(Look::Nothing) => std::hint::spin_loop(),
                Err(trouble) => {
                    drop(turn);
                    return Some(self.notice_trouble(trouble));
                }
            }
        }
        None
    }

    /// Ends the running operation.
    fn finish(&mut self, result: Result<()>) -> Progress {
        let running = self.running.take().expect("an operation is running");
        if running.blocks {
            self.ledger.come_out();
        }
        let Queued { ticket, operation, submitted } = running.queued;
        let request = operation.request();
        let bytes = request.bytes(self.rank) as u64;
        let ended = running.begun.map(|_| self.now());
        let since = submitted.or(running.begun);
        let time =
            ended.zip(since).map_or(Duration::ZERO, |(ended, since)| ended.since(since)) * running.weight;
        self.meter.ended(request.collective, bytes, time, result.is_ok());
        if let (Some(tracer), Some(begun), Some(ended)) = (&self.setup.tracer, running.begun, ended) {
            let at = |time: Time| self.traced_from + time.as_nanos();
            tracer.record(Record {
                communicator: self.setup.communicator,
                collective: request.collective.as_str(),
                sequence: operation.sequence(),
                bytes,
                dtype: request.dtype.as_str(),
                op: operation.op_name(),
                algorithm: "mpi",
                order: request.order.as_str(),
                submitted: at(since.unwrap_or(begun)),
                begun: at(begun),
                ended: at(ended),
                first_sent: None,
                first_received: None,
                sent: 0,
                received: 0,
                waits: running.waits,
                waited: running.waited.as_nanos() as u64,
                longest_wait: None,
                error: result.as_ref().err().map(Error::kind),
            });
        }
        if let Err(error) = &result {
            operation.span().record("error", tracing::field::display(error));
        }
        Progress::Done(ticket, result)
    }

    /// Ends the running operation with the group's cause, which every later one will meet too. What MPI has of it stays there.
    fn fail(&mut self, cause: Cause) -> Progress {
        let running = self.running.as_ref().expect("an operation is running");
        let operation = &running.queued.operation;
        let mut error =
            cause.to_error(self.me(), operation.request().collective.as_str(), operation.sequence());
        if !self.holding.is_free() {
            let bytes = self.holding.bytes();
            let what = match (running.direct, operation.owns_memory()) {
                (true, true) => "the operation's buffer".to_owned(),
                (true, false) => {
                    let key = if running.blocks { "mpi_blocking" } else { "mpi_direct" };
                    format!("the caller's memory, as {key} allows,")
                }
                (false, _) => format!("{bytes} bytes of ringfold's own memory"),
            };
            error = error.explain(&format!("; MPI cannot be stopped, and {what} stays with it for ever"));
            if running.direct {
                error = error.keeping_memory();
            }
        }
        let holding = std::mem::take(&mut self.holding);
        if let Ok(mut turn) = turn() {
            holding.abandon(&mut turn);
        }
        let done = self.finish(Err(error));
        if self.failure.is_none() {
            let Cause { culprit, kind, reporter, detail, .. } = &cause;
            tracing::warn!(rank = self.me(), culprit, ?kind, reporter, %detail, "the group has failed");
            if let Some(tracer) = &self.setup.tracer {
                tracer.failed(&cause);
            }
            self.failure = Some(cause);
        }
        done
    }

    /// Something is wrong, as far as this rank can see: tells the group, at once or after a while, and settles on one cause with it.
    fn notice(&mut self, kind: CauseKind, culprit: usize, detail: String, hold_back: bool) -> Progress {
        let (me, now) = (self.me(), self.now());
        let generation = self.setup.generation;
        let running = self.running.as_mut().expect("an operation is running");
        let sequence = running.queued.operation.sequence();
        let cause = Cause { generation, sequence, kind, culprit, reporter: me, detail };
        tracing::debug!(rank = me, ?kind, sequence, detail = %cause.detail, "noticed a failure");
        let (report_at, until) = if hold_back {
            (Some(now.after(HOLD_BACK)), now.after(HOLD_BACK + PATIENCE))
        } else {
            self.setup.reporter.report(&cause);
            (None, now.after(PATIENCE))
        };
        running.phase = Phase::Settling { cause, report_at, until };
        Progress::Advanced
    }

    fn notice_trouble(&mut self, trouble: Trouble) -> Progress {
        let me = self.me();
        match trouble {
            Trouble::Refused(refusal) => {
                // Ranks that ask for different things make MPI fail, too.
                self.tell_of_waiting();
                let detail = format!("MPI has failed on rank {me}: {refusal}");
                self.notice(CauseKind::Unreachable, me, detail, true)
            }
            Trouble::Mismatch { peer, detail } => {
                self.notice(CauseKind::Mismatch, self.setup.numbers[peer], detail, false)
            }
            Trouble::Garbled { peer } => {
                // The store finds out what that is.
                self.tell_of_waiting();
                let number = self.setup.numbers[peer];
                let detail = format!("rank {number} sent bytes that begin no operation");
                self.notice(CauseKind::Mismatch, number, detail, true)
            }
            Trouble::Panic(why) => {
                self.notice(CauseKind::UserPanic, me, format!("on rank {me} {why}"), false)
            }
            Trouble::Failed(cause) => self.fail(cause),
            Trouble::Gone(error) => {
                if self.running.is_none()
                    && let Some(queued) = self.queue.pop_front()
                {
                    return Progress::Done(queued.ticket, Err(error));
                }
                self.notice(CauseKind::Internal, me, format!("on rank {me}: {error}"), false)
            }
        }
    }

    /// The rank of the other end of a message that this rank waits for, and what it waits for.
    fn awaited(&self) -> (Option<usize>, Awaited) {
        let Some(running) = &self.running else { return (None, Awaited::Collective) };
        let Counts::Messages { send, receive, .. } = running.queued.operation.request().counts else {
            return (None, Awaited::Collective);
        };
        let number = |rank: usize| self.setup.numbers[rank];
        match (&self.holding.header, receive, send) {
            (Some(_), Some((from, _)), _) => {
                (Some(number(from)), Awaited::Sender(number(from), self.received[from]))
            }
            (_, _, Some((to, _))) => {
                (Some(number(to)), Awaited::Receiver(number(to), self.sent[to].saturating_sub(1)))
            }
            (_, Some((from, _)), _) => {
                (Some(number(from)), Awaited::Sender(number(from), self.received[from].saturating_sub(1)))
            }
            _ => (None, Awaited::Collective),
        }
    }

    /// Lets the store know what this rank waits in.
    fn tell_of_waiting(&mut self) {
        let (_, awaited) = self.awaited();
        if let Some(running) = &mut self.running
            && !std::mem::replace(&mut running.told, true)
        {
            self.ledger.wait(awaited);
        }
    }

    /// What time brings: a deadline, or that others are told of the waiting.
    fn look_at_the_clock(&mut self) -> Option<Progress> {
        let now = self.now();
        let running = self.running.as_mut()?;
        let begun = *running.begun.get_or_insert(now);
        let timeout = running.queued.operation.timeout();
        let deadline = *running.deadline.get_or_insert(now.after(timeout));
        if let Phase::Settling { cause, report_at, until } = &mut running.phase {
            if report_at.is_some_and(|at| now >= at) {
                *report_at = None;
                self.setup.reporter.report(cause);
            }
            if now >= *until {
                let cause = cause.clone();
                return Some(self.fail(cause));
            }
            return None;
        }
        if now >= deadline {
            self.tell_of_waiting();
            let me = self.me();
            let (peer, _) = self.awaited();
            let detail = match peer {
                Some(peer) => format!(
                    "rank {me} waited {timeout:?} within MPI for rank {peer}, and the deadline passed"
                ),
                None => format!("rank {me} waited {timeout:?} within MPI, and the deadline passed"),
            };
            return Some(self.notice(CauseKind::Deadline, peer.unwrap_or(me), detail, false));
        }
        if now.since(begun) >= TELL_AFTER {
            self.tell_of_waiting();
        }
        None
    }

    /// Until when not to sleep.
    fn awake_until(&self) -> Time {
        let Some(running) = &self.running else { return Time::default() };
        let mibs = running.queued.operation.request().bytes(self.rank) >> 20;
        let awake = AWAKE + AWAKE_FOR_MIB * u32::try_from(mibs).unwrap_or(u32::MAX);
        running.begun.unwrap_or(self.now()).after(awake)
    }
}

/// Begins the call of MPI's that a round is; MPI may have the operation's memory where `direct` says so.
#[inline]
fn begin(
    setup: &MpiSetup,
    rank: usize,
    holding: &mut Holding,
    operation: &Operation,
    direct: bool,
    round: &Round,
    turn: &mut Turn,
) -> std::result::Result<Course, Refusal> {
    let in_place = setup.mpi.in_place();
    let mut means = Means {
        rank,
        operation,
        memory: holding.memory(),
        direct,
        in_place: in_place.is_some(),
        limit: setup.limit,
        turn,
    };
    let (ask, course) = means.ask(round)?;
    // SAFETY: the operation's memory is as long as its request says, and left to it until it is complete; where MPI has it longer, it
    // is the operation's own and the error says so, or whoever has set `direct` sees to that. The backend's own memory is kept with
    // the request.
    let request = unsafe { setup.mpi.comm().begin(&ask, &holding.memory().lists, in_place, turn) }?;
    holding.requests.push(request);
    Ok(course)
}

/// Whether an operation is a message between two.
fn is_message(operation: &Operation) -> bool {
    operation.request().collective == Collective::SendRecv
}

/// Whether ranks compare what they are asked for before they begin an operation.
fn agrees(operation: &Operation) -> bool {
    let request = operation.request();
    let pairwise = matches!(request.counts, Counts::Pairwise { .. });
    (operation.strict() || pairwise) && request.world > 1 && !is_message(operation)
}

/// A mismatch, where what a peer tells differs from what is expected of it.
fn differs(
    mine: &Fingerprint,
    theirs: &[u8; Fingerprint::SIZE],
    rank: usize,
    peer: usize,
    numbers: &[usize],
) -> std::result::Result<(), Trouble> {
    let (me, number) = (numbers[rank], numbers[peer]);
    let Some(theirs) = Fingerprint::decode(theirs) else { return Err(Trouble::Garbled { peer }) };
    let Some(difference) = mine.difference(&theirs) else { return Ok(()) };
    let detail = format!(
        "{} differs: {} on rank {me}, {} on rank {number}",
        difference.field, difference.mine, difference.theirs
    );
    Err(Trouble::Mismatch { peer, detail })
}

impl Backend for MpiCollectives {
    fn name(&self) -> &'static str {
        "mpi"
    }

    fn submit(&mut self, operation: Operation) -> Result<Ticket> {
        self.check(&operation)?;
        let now = self.now();
        Ok(self.enqueue(operation, Some(now)))
    }

    fn progress(&mut self) -> Progress {
        if self.running.is_none() && self.queue.is_empty() {
            return Progress::Idle;
        }
        if let Some(cause) = self.failure() {
            if self.running.is_none() {
                // It never comes to MPI.
                let queued = self.queue.pop_front().expect("one of them has something");
                let operation = &queued.operation;
                let error =
                    cause.to_error(self.me(), operation.request().collective.as_str(), operation.sequence());
                operation.span().record("error", tracing::field::display(&error));
                let time = Duration::ZERO;
                self.meter.ended(operation.request().collective, 0, time, false);
                self.failure.get_or_insert(cause);
                return Progress::Done(queued.ticket, Err(error));
            }
            return self.fail(cause);
        }
        if let Some(progress) = self.look_often() {
            return progress;
        }
        self.turns = self.turns.wrapping_add(1);
        if !self.turns.is_multiple_of(TURNS_PER_CLOCK) {
            return Progress::Idle;
        }
        self.look_at_the_clock().unwrap_or(Progress::Idle)
    }

    fn wait(&mut self, until: Time) {
        if self.running.is_none() {
            return;
        }
        let from = self.now();
        let awake = self.awake_until();
        let mut pause = PAUSES.0;
        loop {
            if self.nudged.swap(false, Ordering::SeqCst) || self.setup.poison.is_set() {
                break;
            }
            let now = self.now();
            // The next turn looks at the clock.
            self.turns = TURNS_PER_CLOCK - 1;
            let settling =
                self.running.as_ref().is_some_and(|running| matches!(running.phase, Phase::Settling { .. }));
            let due = |running: &Running| {
                let tell = running.begun.filter(|_| !running.told).map(|begun| begun.after(TELL_AFTER));
                let settled = match &running.phase {
                    Phase::Settling { report_at, until, .. } => Some(report_at.unwrap_or(*until)),
                    _ => running.deadline,
                };
                // Where nobody has looked at the clock yet, it is time to.
                settled.unwrap_or_default().min(tell.unwrap_or(Time::NEVER))
            };
            if now >= until || self.running.as_ref().is_none_or(|running| now >= due(running)) {
                break;
            }
            if !settling {
                let Ok(turn) = turn() else { break };
                let mut done = Ok(false);
                for _ in 0..LOOKS_SHARED {
                    done = match &self.holding.header {
                        Some(_) => self.holding.peek_for_header(&turn),
                        None => self.holding.look(&turn),
                    };
                    if !matches!(done, Ok(false)) {
                        break;
                    }
                }
                if !matches!(done, Ok(false)) {
                    break;
                }
            }
            if now < awake && !settling {
                std::thread::yield_now();
            } else {
                std::thread::sleep(pause);
                pause = (pause * 5 / 4).min(PAUSES.1);
            }
        }
        let waited = self.now().since(from);
        self.meter.waits.add(1);
        self.meter.waiting_nanos.add(waited.as_nanos() as u64);
        if let Some(running) = &mut self.running {
            running.waits += 1;
            running.waited += waited;
        }
    }

    fn waker(&self) -> Waker {
        let nudged = Arc::clone(&self.nudged);
        Arc::new(move || nudged.store(true, Ordering::SeqCst))
    }

    fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    fn spins(&self) -> u32 {
        self.setup.spins
    }

    fn holds_up(&self) -> bool {
        self.setup.blocking
    }

    fn unyielding(&self) -> u32 {
        if self.setup.shares_cpus { 0 } else { self.setup.spins }
    }

    fn now(&self) -> Time {
        Time::default().after(self.origin.elapsed())
    }

    fn failure(&self) -> Option<Cause> {
        match &self.failure {
            Some(cause) => Some(cause.clone()),
            None => self.setup.poison.cause().cloned(),
        }
    }

    fn owns_schedules(&self) -> bool {
        true
    }

    #[inline]
    fn run(&mut self, operation: &mut Option<Operation>) -> Result<()> {
        let asked = operation.as_ref().expect("an operation to run");
        self.check(asked)?;
        let first = self.queue.is_empty() && self.running.is_none();
        if first
            && self.setup.tracer.is_none()
            && !is_message(asked)
            && !agrees(asked)
            && self.failure().is_none()
        {
            let blocks = self.blocks(asked);
            return self.run_at_once(operation, blocks);
        }
        let mine = self.enqueue(operation.take().expect("it was there"), None);
        self.drive(mine)
    }
}

impl Drop for MpiCollectives {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        let holding = std::mem::take(&mut self.holding);
        let clean = holding.is_free() && self.failure().is_none() && self.running.is_none();
        if let Ok(mut turn) = turn() {
            if self.failure().is_some() {
                turn.spoil();
            }
            holding.abandon(&mut turn);
            turn.sweep();
            if clean && !self.exchanged {
                self.setup.mpi.free(&mut turn);
            }
        }
        self.ledger.leave();
    }
}

impl fmt::Debug for MpiCollectives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiCollectives").field("setup", &self.setup).finish_non_exhaustive()
    }
}
