//! Real processes over shared memory, and some over TCP, which do whatever is drawn by lot for a while: all collectives, algorithms and sizes,
//! in one communicator and another, over private and shared tensors, in place and not, blocking and started, each result checked; and
//! some of the groups lose a rank to SIGKILL, whose survivors must name it. Groups of threads do the same for a number of calls.
//!
//! The seed is printed, and taken from `RINGFOLD_TEST_STRESS_SEED`. Draws are the same again for a seed; what the
//! machine makes of them is not.

mod support;

use nix::sys::signal::Signal;
use ringfold::collective::{Collective, Request};
use ringfold::config::environment;
use ringfold::plan::{Algorithm, Reach};
use ringfold::{Buffer, Communicator, DType, Options, Owner, ReduceOp, Result, SharedTensor, With};
use std::ops::{Deref, DerefMut};
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::process::{Group, tell, tell_end};

/// What a rank is told to draw from: a seed, and how many calls to make.
const DRAWS: &str = "RINGFOLD_TEST_STRESS_DRAWS";
const SEED: &str = "RINGFOLD_TEST_STRESS_SEED";
/// How long: `.ci/nightly` sets more.
const SECONDS: &str = "RINGFOLD_TEST_STRESS_SECONDS";

/// Only detects a hang.
const PATIENT: Duration = Duration::from_secs(60);

const MOST_BYTES: usize = 3 << 20;

/// How many calls a group of threads makes.
const AMONG_THREADS: u64 = 120;

const COLLECTIVES: [Collective; 9] = [
    Collective::AllReduce,
    Collective::Reduce,
    Collective::ReduceScatter,
    Collective::AllGather,
    Collective::Broadcast,
    Collective::Gather,
    Collective::Scatter,
    Collective::AllToAll,
    Collective::Barrier,
];

/// Whose operands the other ranks can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Nobodys,
    /// Then reductions to all go by `push`, what else has no root by `pull`, whatever was asked for.
    Everybodys,
    /// Of each rank, input, output, both or neither.
    Some,
}

/// A call, as all ranks draw it.
#[derive(Debug)]
struct Draw {
    collective: Collective,
    /// Elements of a block, or of the message.
    count: usize,
    root: usize,
    algorithm: Option<Algorithm>,
    started: bool,
    in_place: bool,
    sharing: Sharing,
    /// Makes the values of this call differ from those of others.
    salt: u64,
}

/// A tensor that the other ranks can see, or not.
enum Tensor {
    Private(Vec<u64>),
    Shared(SharedTensor<u64>),
}

impl Deref for Tensor {
    type Target = [u64];

    fn deref(&self) -> &[u64] {
        match self {
            Tensor::Private(tensor) => tensor,
            Tensor::Shared(tensor) => tensor,
        }
    }
}

impl DerefMut for Tensor {
    fn deref_mut(&mut self) -> &mut [u64] {
        match self {
            Tensor::Private(tensor) => tensor,
            Tensor::Shared(tensor) => tensor,
        }
    }
}

impl Draw {
    fn new(random: &mut fastrand::Rng, world: usize, reach: Reach) -> Draw {
        let collective = COLLECTIVES[random.usize(..COLLECTIVES.len())];
        let divided = !matches!(
            collective,
            Collective::AllReduce | Collective::Reduce | Collective::Broadcast | Collective::Barrier
        );
        // As many small ones as large ones, and none too large.
        let bytes = random.usize(..=MOST_BYTES) >> random.u32(..23);
        let count = bytes / 8 / if divided { world } else { 1 };
        let request = Request::new(collective, world, DType::U64, count);
        let able: Vec<_> =
            Algorithm::within(reach).filter(|algorithm| algorithm.check(&request).is_ok()).collect();
        let algorithm = (!able.is_empty()).then(|| able[random.usize(..able.len())]);
        let may_be_in_place = !collective.is_rooted() || collective == Collective::Reduce;
        Draw {
            collective,
            count,
            root: random.usize(..64) % world,
            algorithm: algorithm.filter(|_| random.bool()),
            started: random.u8(..4) == 0,
            in_place: random.u8(..3) == 0 && may_be_in_place,
            sharing: [Sharing::Nobodys, Sharing::Everybodys, Sharing::Some][random.usize(..3)],
            salt: random.u64(..1 << 40),
        }
    }

    /// Element `index` of what a rank brings.
    fn brought(&self, rank: usize, index: usize) -> u64 {
        self.salt + (rank as u64 + 1) * (index as u64 % 1009 + 1)
    }

    fn sum(&self, world: usize, index: usize) -> u64 {
        (0..world).map(|rank| self.brought(rank, index)).sum()
    }

    /// Where a rank's operand is: its input, if it is the first.
    fn tensor(&self, comm: &Communicator, len: usize, is_input: bool) -> Result<Tensor> {
        let drawn = self.salt >> (2 * comm.rank() + usize::from(is_input && !self.started)) & 1 == 1;
        let shared = match self.sharing {
            Sharing::Nobodys => false,
            Sharing::Everybodys => true,
            Sharing::Some => drawn,
        };
        Ok(if shared { Tensor::Shared(comm.allocate(len)?) } else { Tensor::Private(vec![0; len]) })
    }

    /// What element `index` of a rank's output is in the end.
    fn expected(&self, rank: usize, world: usize, index: usize) -> u64 {
        let count = self.count;
        match self.collective {
            Collective::Reduce if self.in_place && rank != self.root => self.brought(rank, index),
            Collective::AllReduce | Collective::Reduce => self.sum(world, index),
            Collective::ReduceScatter if self.in_place && index / count != rank => self.brought(rank, index),
            Collective::ReduceScatter if self.in_place => self.sum(world, index),
            Collective::ReduceScatter => self.sum(world, rank * count + index),
            Collective::AllGather | Collective::Gather => self.brought(index / count, index % count),
            Collective::Scatter => self.brought(self.root, rank * count + index),
            Collective::AllToAll => self.brought(index / count, rank * count + index % count),
            _ => self.brought(self.root, index),
        }
    }

    /// Makes the call, and looks whether what comes of it is right.
    fn call(&self, comm: &Communicator) -> Result<()> {
        let (rank, world, count) = (comm.rank(), comm.world_size(), self.count);
        let is_root = rank == self.root;
        let (brings, gets) = match self.collective {
            Collective::AllReduce => (count, count),
            Collective::Reduce => (count, if is_root { count } else { 0 }),
            Collective::ReduceScatter => (count * world, count),
            Collective::AllGather => (count, count * world),
            Collective::Gather => (count, if is_root { count * world } else { 0 }),
            Collective::Scatter => (if is_root { count * world } else { 0 }, count),
            Collective::AllToAll => (count * world, count * world),
            Collective::Broadcast => (0, count),
            _ => (0, 0),
        };
        let options = self.algorithm.map_or(Options::new(), |algorithm| Options::new().algorithm(algorithm));
        let with = &comm.with(options);
        let output = if self.in_place || self.collective == Collective::Broadcast {
            let mut data = self.tensor(comm, brings.max(gets), false)?;
            let own = if self.collective == Collective::AllGather { rank * count } else { 0 };
            let brings = if self.collective == Collective::Broadcast && is_root { gets } else { brings };
            let filled = data[own..own + brings].iter_mut().enumerate();
            filled.for_each(|(index, value)| *value = self.brought(rank, index));
            match (self.started, data) {
                (false, mut data) => {
                    self.within(with, &mut data)?;
                    data
                }
                (true, Tensor::Private(data)) => Tensor::Private(self.started(with, data)?),
                (true, Tensor::Shared(data)) => Tensor::Shared(self.started(with, data)?),
            }
        } else {
            let mut input = self.tensor(comm, brings, true)?;
            let filled = input.iter_mut().enumerate();
            filled.for_each(|(index, value)| *value = self.brought(rank, index));
            let (input, output, ended) = match (self.started, input, self.tensor(comm, gets, false)?) {
                (true, Tensor::Private(input), Tensor::Private(output)) => {
                    let (input, output) = self.started(with, (input, output))?;
                    (Tensor::Private(input), Tensor::Private(output), Ok(()))
                }
                (true, Tensor::Shared(input), Tensor::Shared(output)) => {
                    let (input, output) = self.started(with, (input, output))?;
                    (Tensor::Shared(input), Tensor::Shared(output), Ok(()))
                }
                (_, input, mut output) => {
                    let ended = self.between(with, &input, &mut output);
                    (input, output, ended)
                }
            };
            // Others may look at it, and do no more than that, whatever happens.
            for (index, &value) in input.iter().enumerate() {
                let brought = self.brought(rank, index);
                assert_eq!(value, brought, "input {index} of rank {rank} of {world}: {ended:?}, {self:?}");
            }
            ended?;
            output
        };
        for (index, &value) in output.iter().enumerate() {
            let expected = self.expected(rank, world, index);
            assert_eq!(value, expected, "element {index} on rank {rank} of {world}: {self:?}");
        }
        Ok(())
    }

    /// By the verbs with one slice.
    fn within(&self, with: &With<'_>, data: &mut [u64]) -> Result<()> {
        match self.collective {
            Collective::AllReduce => with.all_reduce(data, ReduceOp::Sum),
            Collective::Reduce => with.reduce(data, ReduceOp::Sum, self.root),
            Collective::ReduceScatter => with.reduce_scatter_in_place(data, ReduceOp::Sum),
            Collective::AllGather => with.all_gather_in_place(data),
            Collective::AllToAll => with.all_to_all_in_place(data),
            Collective::Broadcast => with.broadcast(data, self.root),
            _ => with.barrier(),
        }
    }

    /// By the verbs with two.
    fn between(&self, with: &With<'_>, input: &[u64], output: &mut [u64]) -> Result<()> {
        match self.collective {
            Collective::AllReduce => with.all_reduce_into(input, output, ReduceOp::Sum),
            Collective::Reduce => with.reduce_into(input, output, ReduceOp::Sum, self.root),
            Collective::ReduceScatter => with.reduce_scatter(input, output, ReduceOp::Sum),
            Collective::AllGather => with.all_gather(input, output),
            Collective::Gather => with.gather(input, output, self.root),
            Collective::Scatter => with.scatter(input, output, self.root),
            Collective::AllToAll => with.all_to_all(input, output),
            _ => with.barrier(),
        }
    }

    /// By those that come back before the collective is over.
    fn started<B: Buffer + Owner<Output = B>>(&self, with: &With<'_>, both: B) -> Result<B> {
        match self.collective {
            Collective::AllReduce => with.start_all_reduce(both, ReduceOp::Sum)?.wait(),
            Collective::Reduce => with.start_reduce(both, ReduceOp::Sum, self.root)?.wait(),
            Collective::ReduceScatter => with.start_reduce_scatter(both, None, ReduceOp::Sum)?.wait(),
            Collective::AllGather => with.start_all_gather(both, None)?.wait(),
            Collective::Gather => with.start_gather(both, None, self.root)?.wait(),
            Collective::Scatter => with.start_scatter(both, None, self.root)?.wait(),
            Collective::AllToAll => with.start_all_to_all(both, None)?.wait(),
            Collective::Broadcast => with.start_broadcast(both, self.root)?.wait(),
            _ => {
                with.start_barrier()?.wait()?;
                Ok(both)
            }
        }
    }

    /// Whether it goes by way of what the operands' own memory holds: of a system that may refuse it, or of tensors that all
    /// ranks share.
    fn reaches(&self, comm: &Communicator) -> Reach {
        let world = comm.world_size();
        let request = Request::new(self.collective, world, DType::U64, self.count);
        let asked = match self.algorithm {
            Some(algorithm) => algorithm,
            None => match comm.schedule(&request) {
                Ok(schedule) => schedule.algorithm,
                Err(_) => return Reach::Messages,
            },
        };
        let shown = self.sharing == Sharing::Everybodys
            && !self.collective.is_rooted()
            && asked.needs() > Reach::Messages
            && self.count * 8 > 1 << 10
            && world > 1;
        if shown { Reach::Tensors } else { asked.needs() }
    }
}

/// Makes so many calls, in one communicator and another. How many of them went by messages, slots, the others' memory, shared tensors.
fn work(comm: &Communicator, seed: u64, calls: u64) -> Result<[u64; 4]> {
    let mut random = fastrand::Rng::with_seed(seed);
    // Where ranks may read each other's memory, that is what the table has for such a broadcast.
    let broadcast = Request::new(Collective::Broadcast, comm.world_size(), DType::U8, 100 << 10);
    let reach = comm.schedule(&broadcast)?.algorithm.needs();
    let mut others = Vec::new();
    let mut went = [0; 4];
    for call in 0..calls {
        if call % 50 == 0 {
            others.clear();
            let color = (comm.rank() / 2) as u32;
            others.extend(comm.split(Some(color), -(comm.rank() as i64))?);
            others.push(comm.duplicate()?);
        }
        let (which, mut fork) = (random.usize(..4), random.fork());
        let here = others.get(which).unwrap_or(comm);
        // From a fork: groups of different sizes draw differently much.
        let draw = Draw::new(&mut fork, here.world_size(), reach);
        draw.call(here)?;
        went[draw.reaches(here) as usize] += 1;
    }
    comm.barrier()?;
    Ok(went)
}

/// A rank's part; a test of its own name, which does nothing unless it is started as a rank.
#[test]
fn rank() {
    let Ok(draws) = std::env::var(DRAWS) else { return };
    let (seed, calls) = draws.split_once(' ').unwrap();
    let work = || {
        let comm = Communicator::from_env()?;
        assert_eq!(comm.backend(), std::env::var(environment::BACKEND).unwrap());
        comm.barrier()?;
        tell("at work");
        work(&comm, seed.parse().unwrap(), calls.parse().unwrap())
    };
    match work() {
        Ok(went) => tell(format!("fine||{}", went.map(|calls| calls.to_string()).join(" "))),
        Err(error) => tell_end(Err(error)),
    }
}

/// The same among threads of this process, for a shorter time and without deaths: what the sanitizer of threads sees whole.
#[test]
fn whatever_is_drawn_comes_out_right_among_threads() {
    let seed = number(SEED).unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for (world, form) in [
        (3, support::communicators as fn(usize) -> Vec<Communicator>),
        (2, support::over_sockets),
        (4, Communicator::local),
    ] {
        let draws = random.u64(..);
        std::thread::scope(|scope| {
            for comm in form(world) {
                scope.spawn(move || {
                    let what =
                        format!("{SEED}={seed}, rank {} of {world} over {}", comm.rank(), comm.backend());
                    work(&comm, draws, AMONG_THREADS).unwrap_or_else(|error| panic!("{what}: {error}"));
                });
            }
        });
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

#[test]
fn whatever_is_drawn_comes_out_right_and_deaths_are_named() {
    let seconds = number(SECONDS).unwrap_or(5);
    let seed = number(SEED).unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED}={seed} {SECONDS}={seconds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let (mut groups, mut deaths) = (0, 0);
    let mut went = [0; 4];
    while begun.elapsed() < Duration::from_secs(seconds) || groups < 4 {
        let world = if random.u8(..8) == 0 { 8 } else { random.usize(2..=4) };
        let draws = random.u64(..);
        let backend = if random.u8(..4) == 0 { "tcp" } else { "shm" };
        let what = format!("{SEED}={seed}, group {groups}: {world} ranks over {backend}, draws {draws}");
        // One dies in every other group, which is at work until then.
        let dies = (groups % 2 == 1).then(|| random.usize(..world));
        let calls = if dies.is_some() { 1 << 40 } else { random.u64(50..200) };
        let group = Group::start(world, PATIENT, |command| {
            command
                .env(DRAWS, format!("{draws} {calls}"))
                .env(environment::BACKEND, backend)
                .env(environment::HEARTBEAT, "60s")
                .env(environment::DEADLINE, "30s")
                .stderr(Stdio::inherit());
        });
        for (rank, process) in group.ranks.iter().enumerate() {
            assert_eq!(process.next_line().as_deref(), Some("at work"), "{what}, rank {rank}");
        }
        if let Some(dead) = dies {
            std::thread::sleep(Duration::from_micros(random.u64(..200_000)));
            group.ranks[dead].signal(Signal::SIGKILL);
            deaths += 1;
        }
        // All of what they tell, since only together it says what has happened.
        let survivors = (0..world).filter(|rank| Some(*rank) != dies);
        let told: Vec<_> = survivors.map(|rank| (rank, group.ranks[rank].end_if_any())).collect();
        for (rank, end) in &told {
            let fine = match (dies, end) {
                (None, Some(end)) => end.kind == "fine",
                (Some(dead), Some(end)) => end.blames("peer dead", dead),
                (_, None) => false,
            };
            assert!(fine, "{what}, rank {rank}, where {dies:?} died: {told:#?}");
        }
        if let (None, Some((0, Some(end)))) = (dies, told.first()) {
            let counts = end.text.split(' ').map(|count| count.parse::<u64>().unwrap());
            went.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        groups += 1;
    }
    let [messages, slots, memory, tensors] = went;
    println!(
        "{groups} groups, {deaths} deaths; calls by messages {messages}, slots {slots}, others' memory {memory}, shared \
         tensors {tensors}"
    );
    assert!(messages > 0 && slots > 0 && tensors > 0, "not everything was drawn");
    if memory == 0 {
        println!("NOT TRIED: `pull`, since processes of this machine may not read each other's memory");
    }
}
