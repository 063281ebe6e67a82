//! Messages between two ranks, as scripts.

use super::call::{Call, Job, prepare};
use super::group::{Group, Way};
use super::value::Draw;
use fastrand::Rng;
use ringfold::{Collective, DType, ErrorKind, ReduceOp};
use std::time::Duration;

/// What the ranks of a group are about to do, and what must come of it.
pub struct Script {
    world: usize,
    jobs: Vec<Vec<Job>>,
    expected: Vec<Vec<Vec<u8>>>,
    random: Rng,
}

impl Script {
    fn new(world: usize, seed: u64) -> Self {
        Script {
            world,
            jobs: vec![Vec::new(); world],
            expected: vec![Vec::new(); world],
            random: Rng::with_seed(seed),
        }
    }

    fn content(&mut self, dtype: DType, count: usize) -> Vec<u8> {
        (0..count * dtype.size()).map(|_| self.random.u8(..)).collect()
    }

    fn add(&mut self, rank: usize, call: &Call, input: &[u8], expected: &[u8]) {
        let call = call.clone().offset(self.random.usize(..2));
        self.jobs[rank].push(Job::new(&call, self.world, rank, input));
        self.expected[rank].push(expected.to_vec());
    }

    /// `from` sends, `to` receives.
    fn message(&mut self, dtype: DType, count: usize, from: usize, to: usize) {
        let content = self.content(dtype, count);
        self.add(from, &Call::message(dtype, Some((to, count)), None), &content, &[]);
        self.add(to, &Call::message(dtype, None, Some((from, count))), &[], &content);
    }

    /// Every rank sends to the one `distance` further and receives from the one `distance` back.
    fn shift(&mut self, dtype: DType, count: usize, distance: usize) {
        let world = self.world;
        let contents: Vec<Vec<u8>> = (0..world).map(|_| self.content(dtype, count)).collect();
        for rank in 0..world {
            let (to, from) = ((rank + distance) % world, (rank + world - distance % world) % world);
            let call = Call::message(dtype, Some((to, count)), Some((from, count)));
            self.add(rank, &call, &contents[rank], &contents[from]);
        }
    }

    fn collective(&mut self, call: &Call) {
        let (jobs, expected) = prepare(call, self.world, call.draw(), self.random.u64(..));
        for (rank, (job, expected)) in jobs.into_iter().zip(expected).enumerate() {
            self.jobs[rank].push(job);
            self.expected[rank].push(expected);
        }
    }

    fn play(self, name: &str, group: &mut dyn Group) {
        let done = group.run(self.jobs);
        for (rank, (done, expected)) in done.iter().zip(&self.expected).enumerate() {
            for (index, ((job, result), expected)) in done.iter().zip(expected).enumerate() {
                let fault = match result {
                    Ok(()) => job.check(expected).err(),
                    Err(error) => Some(error.to_string()),
                };
                if let Some(fault) = fault {
                    panic!("{name}: rank {rank} of {}, call {index}: {fault} in {:?}", self.world, job.call);
                }
            }
        }
    }
}

/// Messages of every type, and of nothing.
pub fn of_every_type(way: &Way, world: usize) {
    let mut script = Script::new(world, world as u64);
    for dtype in DType::ALL {
        for (count, distance) in [(0, 1), (1, 0), (5, 1), (130, 2), (0, 0), (33, world - 1)] {
            script.shift(dtype, count, distance);
        }
        if world > 1 {
            for count in [0, 1, 77] {
                script.message(dtype, count, 0, world - 1);
                script.message(dtype, count, world - 1, 0);
            }
        }
    }
    script.play(way.name, &mut *(way.form)(world));
}

/// Many messages among three ranks.
pub fn in_order(way: &Way) {
    let mut script = Script::new(3, 5);
    for index in 0..300 {
        let count = script.random.usize(..9);
        let dtype = DType::ALL[index % 12];
        let (from, to) = [(0, 1), (1, 2), (0, 2), (0, 1), (2, 1)][script.random.usize(..5)];
        script.message(dtype, count, from, to);
    }
    script.play(way.name, &mut *(way.form)(3));
}

/// Messages among collectives.
pub fn among_collectives(way: &Way, world: usize) {
    let mut script = Script::new(world, 70 + world as u64);
    for index in 0..60 {
        match script.random.usize(..4) {
            0 => script.shift(DType::U16, index, 1),
            1 => {
                let from = script.random.usize(..world);
                let to = (from + 1 + script.random.usize(..world - 1)) % world;
                script.message(DType::F64, 3 * index, from, to);
            }
            2 => script.collective(&Call::new(Collective::AllReduce, DType::I32, index).op(ReduceOp::Max)),
            _ => {
                let root = script.random.usize(..world);
                script.collective(&Call::new(Collective::Broadcast, DType::BF16, index).root(root));
                script.collective(&Call::new(Collective::Barrier, DType::U8, 1));
            }
        }
    }
    script.play(way.name, &mut *(way.form)(world));
}

/// A message of another length or type than is expected, between two ranks.
pub fn unlike(way: &Way) {
    for (sent, received) in [((DType::F32, 5), (DType::F32, 6)), ((DType::F32, 5), (DType::I32, 5))] {
        let deadline = Duration::from_secs(10);
        let send = Call::message(sent.0, Some((1, sent.1)), None).deadline(deadline);
        let receive = Call::message(received.0, None, Some((0, received.1))).deadline(deadline);
        let barrier = Call::new(Collective::Barrier, DType::U8, 1).deadline(deadline);
        let input = send.inputs(2, Draw::Bits, 1).remove(0);
        let after = |rank| Job::new(&barrier, 2, rank, &[1]);
        let done = (way.form)(2).run(vec![
            vec![Job::new(&send, 2, 0, &input), after(0)],
            vec![Job::new(&receive, 2, 1, &[]), after(1)],
        ]);
        if let Some((job, result)) = done[1].first() {
            let error = result.as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{}: {error}", way.name);
            job.unchanged().unwrap();
        }
        for (_, result) in done.iter().filter_map(|of_rank| of_rank.get(1)) {
            let error = result.as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{}: {error}", way.name);
        }
    }
}
