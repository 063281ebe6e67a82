//! The simulated network: the same contract, driven by one thread, under every kind of roughness.

use super::program::{Program, Step, Stream, everyone};
use ringfold::error::{Cause, CauseKind};
use ringfold::observe::Time;
use ringfold::transport::sim::{Sim, SimConfig, SimTransport};
use ringfold::transport::{Channel, Transport};
use std::time::Duration;

const C: Channel = Channel::COLLECTIVE;

/// Drives all ranks to their ends: how each ended, `None` for those that do not run any more.
fn drive(sim: &Sim, ranks: &mut [(SimTransport, Program)]) -> Vec<Option<Step>> {
    let mut ends: Vec<Option<Step>> = ranks.iter().map(|_| None).collect();
    loop {
        let mut moved = false;
        for (rank, (transport, program)) in ranks.iter_mut().enumerate() {
            if ends[rank].is_some() || !sim.runs(rank) {
                continue;
            }
            match program.step(transport) {
                Step::Moved => moved = true,
                Step::Idle => transport.wait(program.interests(), Time::NEVER),
                end => ends[rank] = Some(end),
            }
        }
        let over = (0..ranks.len()).all(|rank| ends[rank].is_some() || !sim.runs(rank));
        if over || (!moved && !sim.advance()) {
            return ends;
        }
    }
}

fn world(config: SimConfig, window: usize, bytes: usize) -> (Sim, Vec<(SimTransport, Program)>) {
    let (world, seed) = (config.world, config.seed);
    let sim = Sim::new(config);
    let rank = |rank| {
        let program = Program::new(seed ^ rank as u64, window, everyone(rank, world, bytes));
        (sim.transport(rank), program)
    };
    let ranks = (0..world).map(rank).collect();
    (sim, ranks)
}

#[test]
fn everyone_with_everyone_whatever_the_network() {
    for seed in 0..30 {
        let short_io = seed % 2 == 0;
        let capacity = [1, 2, 13, 1000, 1 << 20][seed as usize % 5];
        let bandwidth = (seed % 3 == 0).then_some(1 << 20);
        let max_delay = Duration::from_micros(seed * 50);
        let size = 2 + seed as usize % 4;
        let config = SimConfig { short_io, capacity, bandwidth, max_delay, ..SimConfig::new(size, seed) };
        let bytes = if capacity < 100 { 60 } else { 2000 };
        let (sim, mut ranks) = world(config, 2000, bytes);
        for end in drive(&sim, &mut ranks) {
            assert_eq!(end, Some(Step::Done), "seed {seed}");
        }
        for (_, program) in &ranks {
            assert!(program.streams.iter().all(|stream| stream.fault.is_none()), "seed {seed}");
        }
    }
}

#[test]
fn a_run_is_its_seed() {
    let run = |seed| {
        let deaths = vec![(1, Time::from_nanos(900_000))];
        let config = SimConfig { short_io: true, deaths, ..SimConfig::new(4, seed) };
        let (sim, mut ranks) = world(config, 500, 800);
        let ends = drive(&sim, &mut ranks);
        (sim.log_hash(), sim.now(), ends)
    };
    for seed in 0..10 {
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed).0, run(seed + 100).0);
    }
}

#[test]
fn bytes_before_a_departure_arrive() {
    for seed in 0..50 {
        let sim = Sim::new(SimConfig { short_io: seed % 2 == 0, ..SimConfig::new(2, seed) });
        let mut there = sim.transport(0);
        let mut here = sim.transport(1);
        let mut sender = Program::new(seed, 400, vec![Stream::send(1, C, 3000)]);
        let mut receiver = Program::new(seed, 400, vec![Stream::recv_until_fault(0, C)]);
        while sender.step(&mut there) != Step::Done {}
        drop(there);
        while receiver.step(&mut here) != Step::Done {
            sim.advance();
        }
        let stream = &receiver.streams[0];
        assert_eq!((stream.done, stream.fault.as_ref().unwrap().kind), (3000, CauseKind::Closed));
    }
}

#[test]
fn every_survivor_of_a_death_gets_the_same_verdict_and_only_true_bytes() {
    for seed in 0..40 {
        let deaths = vec![(2, Time::from_nanos(seed * 40_000)), (0, Time::from_nanos(3_000_000))];
        let config = SimConfig { short_io: true, deaths, capacity: 500, ..SimConfig::new(5, seed) };
        let (sim, mut ranks) = world(config, 500, 400);
        let mut verdicts: Vec<Cause> = Vec::new();
        // The programs stop at link faults; the verdict is what counts.
        drive(&sim, &mut ranks);
        while sim.advance() {}
        for (rank, (transport, _)) in ranks.iter().enumerate() {
            assert_eq!(sim.is_dead(rank), rank == 0 || rank == 2);
            if sim.runs(rank) {
                verdicts.push(transport.verdict().expect("a verdict"));
            }
        }
        assert_eq!(verdicts.len(), 3);
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{verdicts:?}");
        assert_eq!(verdicts[0].kind, CauseKind::PeerDead);
        assert!([0, 2].contains(&verdicts[0].culprit));
    }
}

#[test]
fn a_reported_cause_becomes_everyones_and_the_better_one_wins() {
    for seed in 0..30 {
        let sim = Sim::new(SimConfig::new(3, seed));
        let mut ranks: Vec<_> = (0..3).map(|rank| sim.transport(rank)).collect();
        let cause = |kind, culprit| Cause {
            generation: 0,
            sequence: 4,
            kind,
            culprit,
            reporter: 0,
            detail: String::new(),
        };
        ranks[0].report(&cause(CauseKind::Closed, 1));
        ranks[2].report(&cause(CauseKind::Mismatch, 2));
        while sim.advance() {}
        for end in &ranks {
            assert_eq!(end.verdict(), Some(cause(CauseKind::Mismatch, 2)));
        }
    }
}
