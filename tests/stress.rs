//! Real processes over shared memory, which do whatever is drawn by lot for a while: all collectives, algorithms and sizes,
//! in one communicator and another, blocking and started, each result checked; and some of the groups lose a rank
//! to SIGKILL, whose survivors must name it.
//!
//! The seed is printed, and taken from `RINGFOLD_TEST_STRESS_SEED`. Draws are the same again for a seed; what the
//! machine makes of them is not.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfold::bootstrap::host_for_launch;
use ringfold::collective::{Collective, Request};
use ringfold::config::environment;
use ringfold::plan::{Algorithm, Reach};
use ringfold::transport::control::Server;
use ringfold::{Communicator, DType, Options, ReduceOp, Result};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// What a rank is told to draw from: a seed, and how many calls to make.
const DRAWS: &str = "RINGFOLD_TEST_STRESS_DRAWS";
const SEED: &str = "RINGFOLD_TEST_STRESS_SEED";
/// How long: `.ci/nightly` sets more.
const SECONDS: &str = "RINGFOLD_TEST_STRESS_SECONDS";

/// Only detects a hang.
const PATIENT: Duration = Duration::from_secs(60);

const MOST_BYTES: usize = 3 << 20;

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

/// A call, as all ranks draw it.
#[derive(Debug)]
struct Draw {
    collective: Collective,
    /// Elements of a block, or of the message.
    count: usize,
    root: usize,
    algorithm: Option<Algorithm>,
    started: bool,
    /// Makes the values of this call differ from those of others.
    salt: u64,
}

impl Draw {
    fn new(random: &mut fastrand::Rng, world: usize) -> Draw {
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
            Algorithm::within(Reach::Slots).filter(|algorithm| algorithm.check(&request).is_ok()).collect();
        let algorithm = (!able.is_empty()).then(|| able[random.usize(..able.len())]);
        Draw {
            collective,
            count,
            root: random.usize(..64) % world,
            algorithm: algorithm.filter(|_| random.bool()),
            started: random.u8(..4) == 0,
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

    /// Makes the call, and looks whether what comes of it is right.
    fn call(&self, comm: &Communicator) -> Result<()> {
        let (rank, world, root, count) = (comm.rank(), comm.world_size(), self.root, self.count);
        let is_root = rank == root;
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
        let input: Vec<u64> = (0..brings).map(|index| self.brought(rank, index)).collect();
        let mut output = vec![0; gets];
        if self.collective == Collective::Broadcast && is_root {
            output = (0..count).map(|index| self.brought(rank, index)).collect();
        }
        let options = self.algorithm.map_or(Options::new(), |algorithm| Options::new().algorithm(algorithm));
        let with = comm.with(options);
        let output = if self.started {
            let both = (input, output);
            match self.collective {
                Collective::AllReduce => with.start_all_reduce(both, ReduceOp::Sum)?.wait()?.1,
                Collective::Reduce => with.start_reduce(both, ReduceOp::Sum, root)?.wait()?.1,
                Collective::ReduceScatter => with.start_reduce_scatter(both, None, ReduceOp::Sum)?.wait()?.1,
                Collective::AllGather => with.start_all_gather(both, None)?.wait()?.1,
                Collective::Gather => with.start_gather(both, None, root)?.wait()?.1,
                Collective::Scatter => with.start_scatter(both, None, root)?.wait()?.1,
                Collective::AllToAll => with.start_all_to_all(both, None)?.wait()?.1,
                Collective::Broadcast => with.start_broadcast(both.1, root)?.wait()?,
                _ => {
                    with.start_barrier()?.wait()?;
                    both.1
                }
            }
        } else {
            match self.collective {
                Collective::AllReduce => with.all_reduce_into(&input, &mut output, ReduceOp::Sum)?,
                Collective::Reduce => with.reduce_into(&input, &mut output, ReduceOp::Sum, root)?,
                Collective::ReduceScatter => with.reduce_scatter(&input, &mut output, ReduceOp::Sum)?,
                Collective::AllGather => with.all_gather(&input, &mut output)?,
                Collective::Gather => with.gather(&input, &mut output, root)?,
                Collective::Scatter => with.scatter(&input, &mut output, root)?,
                Collective::AllToAll => with.all_to_all(&input, &mut output)?,
                Collective::Broadcast => with.broadcast(&mut output, root)?,
                _ => with.barrier()?,
            }
            output
        };
        for (index, value) in output.iter().enumerate() {
            let expected = match self.collective {
                Collective::AllReduce | Collective::Reduce => self.sum(world, index),
                Collective::ReduceScatter => self.sum(world, rank * count + index),
                Collective::AllGather | Collective::Gather => self.brought(index / count, index % count),
                Collective::Scatter => self.brought(root, rank * count + index),
                Collective::AllToAll => self.brought(index / count, rank * count + index % count),
                _ => self.brought(root, index),
            };
            assert_eq!(*value, expected, "element {index} on rank {rank} of {world}: {self:?}");
        }
        Ok(())
    }
}

/// Makes so many calls, in one communicator and another.
fn work(seed: u64, calls: u64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(seed);
    let comm = Communicator::from_env()?;
    assert_eq!(comm.backend(), "shm");
    let mut others = Vec::new();
    comm.barrier()?;
    println!("told: at work");
    for call in 0..calls {
        if call % 50 == 0 {
            others.clear();
            let color = (comm.rank() / 2) as u32;
            others.extend(comm.split(Some(color), -(comm.rank() as i64))?);
            others.push(comm.duplicate()?);
        }
        let (which, mut fork) = (random.usize(..4), random.fork());
        let here = others.get(which).unwrap_or(&comm);
        // From a fork: groups of different sizes draw differently much.
        Draw::new(&mut fork, here.world_size()).call(here)?;
    }
    comm.barrier()
}

/// A rank's part; a test of its own name, which does nothing unless it is started as a rank.
#[test]
fn rank() {
    let Ok(draws) = std::env::var(DRAWS) else { return };
    let (seed, calls) = draws.split_once(' ').unwrap();
    match work(seed.parse().unwrap(), calls.parse().unwrap()) {
        Ok(()) => println!("told: fine"),
        Err(error) => {
            println!("told: {}|{}|{error}", error.kind(), error.culprit().map_or(-1, |rank| rank as i64));
        }
    }
}

/// A group of processes under a store of this one.
struct Group {
    ranks: Vec<(Child, BufReader<ChildStdout>)>,
    _store: Server,
}

impl Group {
    fn start(world: usize, seed: u64, calls: u64) -> Group {
        let store = host_for_launch(world, 77, 0, PATIENT).unwrap();
        let rank = |rank: usize| {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "rank", "--nocapture"])
                .env(DRAWS, format!("{seed} {calls}"))
                .env(environment::BACKEND, "shm")
                .env(environment::RANK, rank.to_string())
                .env(environment::WORLD_SIZE, world.to_string())
                .env(environment::STORE, store.address().to_string())
                .env(environment::STORE_HOST, "launcher")
                .env(environment::WORLD_ID, "77")
                .env(environment::HEARTBEAT, "60s")
                .env(environment::INIT_DEADLINE, "20s")
                .env(environment::DEADLINE, "10s")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let out = BufReader::new(child.stdout.take().unwrap());
            (child, out)
        };
        Group { ranks: (0..world).map(rank).collect(), _store: store }
    }

    /// The next thing that a rank tells; none where it has ended.
    fn line(&mut self, rank: usize) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.ranks[rank].1.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            if let Some((_, told)) = line.split_once("told: ") {
                return Some(told.trim().to_owned());
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for (child, _) in &mut self.ranks {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn whatever_is_drawn_comes_out_right_and_deaths_are_named() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seconds = number(SECONDS).unwrap_or(5);
    let seed = number(SEED).unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED}={seed} {SECONDS}={seconds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let begun = Instant::now();
    let (mut groups, mut deaths) = (0, 0);
    while begun.elapsed() < Duration::from_secs(seconds) || deaths == 0 || groups == deaths {
        let (world, draws) = (random.usize(2..=4), random.u64(..));
        let what = format!("{SEED}={seed}, group {groups}: {world} ranks, draws {draws}");
        // One dies in every other group, which is at work until then.
        let dies = (groups % 2 == 1).then(|| random.usize(..world));
        let mut group =
            Group::start(world, draws, if dies.is_some() { 1 << 40 } else { random.u64(50..200) });
        for rank in 0..world {
            assert_eq!(group.line(rank).as_deref(), Some("at work"), "{what}, rank {rank}");
        }
        if let Some(dead) = dies {
            std::thread::sleep(Duration::from_micros(random.u64(..200_000)));
            kill(Pid::from_raw(group.ranks[dead].0.id() as i32), Signal::SIGKILL).unwrap();
            deaths += 1;
        }
        for rank in (0..world).filter(|rank| Some(*rank) != dies) {
            let told = group.line(rank).unwrap_or_else(|| panic!("{what}: rank {rank} ended without a word"));
            let fine = match dies {
                None => told == "fine",
                Some(dead) => told.starts_with(&format!("peer dead|{dead}|")),
            };
            assert!(fine, "{what}: rank {rank} tells {told:?} where {dies:?} died");
        }
        groups += 1;
    }
    println!("{groups} groups, {deaths} deaths");
}
