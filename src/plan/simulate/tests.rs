use super::*;
use crate::collective::Collective;
use crate::plan::Reach;
use crate::plan::cost::Link;
use crate::plan::select::Table;
use crate::tensor::DType;

const ALPHA: f64 = 20e-6;
const BETA: f64 = 1e-9;
const GAMMA: f64 = 0.25e-9;

fn network() -> Network {
    Network { granule: usize::MAX, ..Network::flat(Link::new(ALPHA, BETA), GAMMA) }
}

fn request(collective: Collective, world: usize, bytes: usize) -> Request {
    Request::new(collective, world, DType::F32, bytes / 4)
}

fn whole(name: &str) -> Schedule {
    Schedule::whole(Algorithm::named(name).unwrap())
}

fn time(request: &Request, name: &str, network: &Network) -> f64 {
    simulate(request, whole(name), network).unwrap().time()
}

#[track_caller]
fn close(found: f64, expected: f64, within: f64) {
    assert!((found / expected - 1.0).abs() <= within, "{found} where {expected} is expected");
}

#[test]
fn messages_that_are_passed_on_whole_take_what_the_textbook_says() {
    for log in 1..7 {
        let world = 1usize << log;
        let (n, m) = (world as f64, 65536.0 * world as f64);
        let reduce = request(Collective::AllReduce, world, m as usize);
        let part = m / n;
        close(
            time(&reduce, "ring", &network()),
            (n - 1.0) * (2.0 * (ALPHA + part * BETA) + part * GAMMA),
            1e-9,
        );
        let steps = f64::from(log as u32);
        close(time(&reduce, "recursive_doubling", &network()), steps * (ALPHA + m * (BETA + GAMMA)), 1e-9);
        let halves = 2.0 * steps * ALPHA + (m - part) * (2.0 * BETA + GAMMA);
        close(time(&reduce, "halving_doubling", &network()), halves, 1e-9);
        let broadcast = request(Collective::Broadcast, world, m as usize);
        close(time(&broadcast, "binomial_tree", &network()), steps * (ALPHA + m * BETA), 1e-9);
    }
}

#[test]
fn a_ring_of_long_messages_streams() {
    let streaming = Network { granule: 1, ..Network::flat(Link::new(ALPHA, BETA), 0.0) };
    // With blocks that take longer than the delay, a rank's port is never idle; with shorter ones, the delay counts.
    for (world, bytes) in [(8usize, 64usize << 20), (8, 8 << 10)] {
        let part = bytes as f64 / world as f64 * BETA;
        let steps = 2.0 * (world as f64 - 1.0);
        let expected = ALPHA + part + (steps - 1.0) * part.max(ALPHA);
        close(time(&request(Collective::AllReduce, world, bytes), "ring", &streaming), expected, 1e-3);
    }
}

#[test]
fn overheads_count_at_both_ends() {
    let link = Link { overhead: 3e-6, ..Link::new(ALPHA, BETA) };
    let network = Network { granule: usize::MAX, ..Network::flat(link, 0.0) };
    let steps = 5.0;
    let m = 1024.0;
    let expected = steps * (ALPHA + m * BETA + 6e-6);
    close(time(&request(Collective::AllReduce, 32, 1024), "recursive_doubling", &network), expected, 1e-9);
}

/// Networks on which, in an exchange of pairs or in a ring, nobody shares a port, and processors take no time.
fn unshared() -> Vec<Network> {
    let flat = Network::flat(Link::new(15e-6, 0.8e-9), 0.0);
    vec![
        network(),
        flat.clone(),
        Network { granule: 1000, ..flat.clone() },
        Network { stragglers: vec![(3, 4.0), (1, 1.5)], ..flat },
    ]
}

#[test]
fn sweeps_agree_with_events_where_nothing_is_shared() {
    for network in unshared() {
        for (world, bytes) in [(4, 400), (8, 100_000), (16, 4 << 20), (64, 1 << 20), (61, 77_777 * 4)] {
            for (collective, name) in [
                (Collective::AllReduce, "ring"),
                (Collective::AllReduce, "recursive_doubling"),
                (Collective::ReduceScatter, "ring"),
                (Collective::AllGather, "ring"),
                (Collective::Broadcast, "binomial_tree"),
            ] {
                if name != "ring" && !usize::is_power_of_two(world) {
                    continue;
                }
                let request =
                    request(collective, world, bytes / if collective.has_blocks() { world } else { 1 });
                let events = simulate_by(Method::Events, &request, whole(name), &network).unwrap();
                let sweeps = simulate_by(Method::Sweeps, &request, whole(name), &network).unwrap();
                for (rank, (event, sweep)) in events.finish.iter().zip(&sweeps.finish).enumerate() {
                    assert!(
                        (event / sweep - 1.0).abs() < 1e-9,
                        "{collective} {name} {world} {bytes} rank {rank}: {event} {sweep}"
                    );
                }
                assert_eq!(events.loads, sweeps.loads);
                assert_eq!(
                    (events.most_messages, events.most_bytes),
                    (sweeps.most_messages, sweeps.most_bytes)
                );
            }
        }
    }
}

/// Hosts, racks, processors and stragglers.
fn shared() -> Vec<Network> {
    let near = Link { alpha: 1e-6, beta: 0.1e-9, overhead: 0.5e-6, copy: 0.1e-9 };
    let far = Link { alpha: 20e-6, beta: 0.8e-9, ..near };
    let core = Link { alpha: 50e-6, beta: 0.4e-9, ..near };
    let hosts = Network { ranks_per_host: 4, host: near, rack: far, core, ..Network::flat(far, 0.2e-9) };
    vec![
        Network { hosts_per_rack: 2, ..hosts.clone() },
        Network { cpus_per_host: 2, ..hosts.clone() },
        Network { stragglers: vec![(5, 3.0)], ..hosts.clone() },
        hosts,
    ]
}

/// How far sweeps may be from events where resources are shared.
const SHARED: f64 = 0.35;

#[test]
fn sweeps_come_near_to_events_for_every_algorithm_and_collective() {
    let table = Table::default();
    for network in shared() {
        for (world, bytes) in [(8, 1000), (24, 1 << 20), (40, 200_000)] {
            for algorithm in Algorithm::within(Reach::Messages) {
                for &collective in algorithm.collectives() {
                    let has_blocks = collective.has_blocks() || collective == Collective::AllToAll;
                    let request = request(collective, world, bytes / if has_blocks { world } else { 1 });
                    if algorithm.check(&request).is_err() {
                        continue;
                    }
                    let schedule = table.schedule(&request, algorithm);
                    let events = simulate_by(Method::Events, &request, schedule, &network).unwrap();
                    let sweeps = simulate_by(Method::Sweeps, &request, schedule, &network).unwrap();
                    let ratio = sweeps.time() / events.time();
                    assert!(
                        (1.0 - SHARED..1.0 + SHARED).contains(&ratio),
                        "{collective} {algorithm} {world} {bytes} {network:?}: {} {}",
                        sweeps.time(),
                        events.time()
                    );
                    assert_eq!(events.loads, sweeps.loads);
                }
            }
        }
    }
}

#[test]
fn one_period_stands_for_all_where_a_sample_says_so() {
    let mut used = 0;
    let flat = Network::flat(Link { overhead: 1e-6, ..Link::new(ALPHA, BETA) }, GAMMA);
    for network in [flat, shared().remove(0)] {
        for world in [64, 96, 160] {
            for algorithm in Algorithm::within(Reach::Messages) {
                let request = request(Collective::AllReduce, world, 40 * 4 * 64 * 9 * 5);
                if algorithm.check(&request).is_err() {
                    continue;
                }
                let schedule = whole(algorithm.name());
                let shapes = Shapes::default();
                let (group, _) = Group::of(&request, schedule, &network).unwrap();
                let shape =
                    |rank| shapes.program(&group.plan(&request, rank, schedule).unwrap()).unwrap().shape;
                let all: Vec<_> = (0..world).map(shape).collect();
                match simulate_by(Method::Classes, &request, schedule, &network) {
                    Ok(classes) => {
                        used += 1;
                        let same = all.iter().all(|shape| Arc::ptr_eq(shape, &all[0]));
                        assert!(same, "{algorithm} {world}: the sample told wrong");
                        let sweeps = simulate_by(Method::Sweeps, &request, schedule, &network).unwrap();
                        close(classes.time(), sweeps.time(), 1e-2);
                        assert_eq!(classes.loads, sweeps.loads, "{algorithm} {world}");
                    }
                    Err(error) => assert_eq!(error.kind(), crate::ErrorKind::Unsupported),
                }
            }
        }
    }
    assert!(used >= 8, "{used} cases were alike");
}

#[test]
fn many_slices_follow_from_few() {
    let network = Network::flat(Link { overhead: 1e-6, ..Link::new(ALPHA, BETA) }, GAMMA);
    let mut seen = 0;
    for algorithm in Algorithm::within(Reach::Messages) {
        let request = request(Collective::AllReduce, 24, 4 << 20);
        let schedule = Schedule { slice: 5000, algorithm };
        if algorithm.check(&request).is_err() {
            continue;
        }
        let (group, _) = Group::of(&request, schedule, &network).unwrap();
        let Some(parts) = Parts::of(&group, &request, schedule, 1e4).unwrap() else { continue };
        seen += 1;
        let part = report(parts.extrapolate(&group).unwrap(), schedule, Method::Extrapolated);
        let all = simulate_by(Method::Events, &request, schedule, &network).unwrap();
        close(part.time(), all.time(), 0.1);
        close(part.most_messages as f64, all.most_messages as f64, 0.02);
        close(part.most_bytes as f64, all.most_bytes as f64, 0.02);
    }
    assert!(seen >= 4, "{seen} schedules were extrapolated");
}

#[test]
fn slices_of_a_hosts_share_are_extrapolated_too() {
    let network = shared().pop().unwrap();
    let request = request(Collective::AllReduce, 24, 4 << 20);
    let schedule = Schedule { slice: 5000, ..whole("hierarchical_ring") };
    let (group, _) = Group::of(&request, schedule, &network).unwrap();
    let parts = Parts::of(&group, &request, schedule, 1e4).unwrap().expect("many slices");
    let part = report(parts.extrapolate(&group).unwrap(), schedule, Method::Extrapolated);
    let all = simulate_by(Method::Events, &request, schedule, &network).unwrap();
    close(part.time(), all.time(), 0.1);
    close(part.most_messages as f64, all.most_messages as f64, 0.02);
}

#[test]
fn schedules_see_the_hosts_of_the_network() {
    let near = Link { overhead: 0.5e-6, ..Link::new(1e-6, 0.1e-9) };
    let far = Link { alpha: 200e-6, ..near };
    let hosts = Network { ranks_per_host: 4, host: near, ..Network::flat(far, 0.1e-9) };
    let sum = request(Collective::AllReduce, 32, 1 << 10);
    for method in [Method::Events, Method::Sweeps] {
        let of = |name: &str| simulate_by(method, &sum, whole(name), &hosts).unwrap();
        let (ring, rings) = (of("ring"), of("hierarchical_ring"));
        // 2 (h - 1) steps between hosts, where every block of a ring crosses between hosts about 2 h times.
        assert!(rings.time() * 1.1 < ring.time(), "{method:?}: {} {}", rings.time(), ring.time());
        assert!(rings.time() > 14.0 * far.alpha);
        // 2 (m - 1) + 2 (h - 1) messages, not those of a ring round everybody.
        assert_eq!((rings.most_messages, ring.most_messages), (2 * 3 + 2 * 7, 2 * 31));
    }
    let (rings, ring) =
        (simulate(&sum, whole("hierarchical_ring"), &hosts), simulate(&sum, whole("ring"), &hosts));
    assert!(rings.unwrap().time() * 1.1 < ring.unwrap().time());
    // On hosts of one rank each there is no difference.
    let flat = Network { ranks_per_host: 1, ..hosts };
    close(time(&sum, "hierarchical_ring", &flat), time(&sum, "ring", &flat), 1e-9);
}

#[test]
fn schedules_in_which_ranks_hang_come_last() {
    let dead = Network { dead: Some(5), ..network() };
    let broadcast = request(Collective::Broadcast, 8, 1000);
    let all = |request: &Request| {
        let table = Table::default();
        simulate_all(request, |algorithm| table.schedule(request, algorithm), &dead).unwrap()
    };
    let reports = all(&broadcast);
    let hang: Vec<bool> = reports.iter().map(Report::hangs).collect();
    assert!(!hang[0] && hang[hang.len() - 1] && hang.is_sorted(), "{hang:?}");
    assert!(reports[0].time() > 0.0);
    assert!(all(&request(Collective::AllReduce, 8, 1000)).iter().all(Report::hangs));
    let error = Table::from_cost(&dead, 8).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("rank 5 is dead"), "{error}");
}

#[test]
fn what_cannot_be_right_is_refused_and_slices_of_nothing_are_of_one() {
    let nobody = Request::new(Collective::AllReduce, 0, DType::F32, 4);
    let ring = whole("ring");
    let mut refused = vec![simulate(&nobody, ring, &network()).err()];
    for method in [Method::Events, Method::Sweeps, Method::Classes, Method::Extrapolated] {
        refused.push(simulate_by(method, &nobody, ring, &network()).err());
    }
    refused.push(simulate_all(&nobody, |_| ring, &network()).err());
    let strange = Request { root: 9, ..request(Collective::Reduce, 4, 400) };
    refused.push(simulate(&strange, whole("binomial_tree"), &network()).err());
    for error in refused {
        assert_eq!(error.unwrap().kind(), crate::ErrorKind::InvalidArgument);
    }
    let sum = request(Collective::AllReduce, 4, 400);
    let by = |slice: usize| simulate(&sum, Schedule { slice, ..ring }, &network()).unwrap();
    assert_eq!((by(0).time(), by(0).loads), (by(1).time(), by(1).loads));
    assert!(by(0).most_messages > simulate(&sum, ring, &network()).unwrap().most_messages);
}

#[test]
fn elements_of_the_users_are_as_wide_as_they_say() {
    let signature = crate::reduce::Signature { name: 7, width: 24, commutative: true };
    let mut sum = Request::new(Collective::AllReduce, 4, DType::U8, 1000);
    (sum.op, sum.custom) = (None, Some(signature));
    for method in [Method::Events, Method::Sweeps] {
        let report = simulate_by(method, &sum, whole("ring"), &network()).unwrap();
        assert_eq!(report.most_bytes, 2 * 3 * 250 * 24);
        let part = 250.0 * 24.0;
        close(report.time(), 3.0 * (2.0 * (ALPHA + part * BETA) + part * GAMMA), 1e-9);
    }
}

#[test]
fn a_straggler_slows_those_who_wait_for_it() {
    let even = network();
    let one = Network { stragglers: vec![(2, 10.0)], ..even.clone() };
    let ring = request(Collective::AllReduce, 8, 8 << 20);
    assert!(time(&ring, "ring", &one) > 3.0 * time(&ring, "ring", &even));
    // The last leaf of a broadcast keeps nobody waiting.
    let leaf = Network { stragglers: vec![(7, 10.0)], ..even.clone() };
    let broadcast = request(Collective::Broadcast, 8, 1 << 20);
    let (slow, quick) = (
        simulate(&broadcast, whole("binomial_tree"), &leaf).unwrap(),
        simulate(&broadcast, whole("binomial_tree"), &even).unwrap(),
    );
    // But for its parent, who is through when its bytes are.
    assert_eq!(slow.finish[1..6], quick.finish[1..6]);
    assert!(slow.finish[7] > quick.finish[7] * 3.0);
}

#[test]
fn a_dead_rank_is_at_the_end_of_every_chain() {
    for method in [Method::Events, Method::Sweeps] {
        for dead in [0, 3, 7] {
            let network = Network { dead: Some(dead), ..network() };
            let all = request(Collective::AllReduce, 8, 1 << 20);
            for name in ["ring", "recursive_doubling", "halving_doubling", "binomial_tree", "direct"] {
                let report = simulate_by(method, &all, whole(name), &network).unwrap();
                assert_eq!(report.hanging().count(), 7, "{name}: nobody gets a sum without rank {dead}");
                for rank in report.hanging() {
                    assert_eq!(
                        report.chain(rank).last(),
                        Some(&dead),
                        "{name} {rank}: {:?}",
                        report.waits_for
                    );
                }
            }
        }
        // Below the dead rank of a broadcast's tree hang 5, 6 and 7 only, and its parent, who cannot get rid of the bytes.
        let network = Network { dead: Some(4), ..network() };
        let broadcast = request(Collective::Broadcast, 8, 1 << 20);
        let report = simulate_by(method, &broadcast, whole("binomial_tree"), &network).unwrap();
        assert_eq!(report.hanging().collect::<Vec<_>>(), [0, 5, 6, 7]);
        assert_eq!(report.waits_for[7], Some(6));
        // Few bytes fit in between.
        let few = request(Collective::Broadcast, 8, 1000);
        let report = simulate_by(method, &few, whole("binomial_tree"), &network).unwrap();
        assert_eq!(report.hanging().collect::<Vec<_>>(), [5, 6, 7]);
    }
}

#[test]
fn ranks_that_share_a_card_or_processors_wait_for_each_other() {
    let far = Link::new(ALPHA, BETA);
    let own = Network { granule: usize::MAX, ..Network::flat(far, 0.0) };
    let shared = Network { ranks_per_host: 4, ..own.clone() };
    // Ranks 0..4 of one host all exchange with those of the other, in the last step of three.
    let exchange = request(Collective::AllReduce, 8, 4 << 20);
    let bytes = (4 << 20) as f64;
    close(time(&exchange, "recursive_doubling", &own), 3.0 * (ALPHA + bytes * BETA), 1e-9);
    close(time(&exchange, "recursive_doubling", &shared), 3.0 * ALPHA + 6.0 * bytes * BETA, 1e-9);
    let busy = Network { cpus_per_host: 2, gamma: BETA, ranks_per_host: 8, ..own };
    let free = Network { cpus_per_host: 8, ..busy.clone() };
    let ratio = time(&exchange, "recursive_doubling", &busy) / time(&exchange, "recursive_doubling", &free);
    assert!(ratio > 1.5, "{ratio}");
}

#[test]
fn the_critical_path_leads_to_the_end_without_gaps() {
    let request = request(Collective::AllReduce, 16, 1 << 20);
    let report = simulate(&request, whole("ring"), &network()).unwrap();
    let path = &report.critical_path;
    close(path.last().unwrap().end, report.time(), 1e-12);
    assert!(path.windows(2).all(|pair| pair[0].end <= pair[1].end + 1e-12));
    let messages = path.iter().filter(|hop| hop.step.sends_to().is_some()).count();
    assert_eq!(messages, 30, "2 (n - 1) messages in a row");
}

#[test]
fn ten_thousand_ranks_are_simulated() {
    // What this takes is recorded elsewhere; that it ends, with little memory, is what is tested.
    let network = Network::flat(Link { overhead: 1e-6, ..Link::new(ALPHA, 0.8e-9) }, 0.1e-9);
    let request = request(Collective::AllReduce, 10_000, 1 << 20);
    let table = Table::default();
    let reports = simulate_all(&request, |algorithm| table.schedule(&request, algorithm), &network).unwrap();
    assert_eq!(
        reports.len(),
        Algorithm::within(Reach::Messages).filter(|algorithm| algorithm.supports(&request)).count()
    );
    let of =
        |name: &str| reports.iter().find(|report| report.schedule.algorithm.name() == name).unwrap().time();
    assert!(of("halving_doubling") < of("ring") && of("ring") < of("direct"));
    assert!(of("ring") > 19_998.0 * ALPHA);
}

#[test]
fn a_table_is_made_of_costs() {
    // Where messages cost nothing but time on the wire, the fewest bytes win; where a byte is free, the fewest steps.
    let slow_wire = Network::flat(Link::new(0.0, 1e-6), 0.0);
    let delays = Network::flat(Link { overhead: 1e-6, ..Link::new(1e-3, 0.0) }, 0.0);
    for (network, fits) in [
        // Of one rank a host, rings between hosts are a ring.
        (slow_wire, &["ring", "hierarchical_ring", "halving_doubling"][..]),
        (delays, &["recursive_doubling", "direct"]),
    ] {
        let table = Table::from_cost(&network, 8).unwrap();
        let chosen = table.select(&request(Collective::AllReduce, 8, 16 << 20)).unwrap().algorithm;
        assert!(fits.contains(&chosen.name()), "{chosen}: {table}");
        assert_eq!(table.to_string().parse::<Table>().unwrap(), table);
        for collective in Collective::ALL {
            assert!(!table.rules_of(collective).is_empty());
        }
    }
}

#[test]
fn plans_that_do_not_match_are_told_of() {
    let request = request(Collective::Broadcast, 4, 100);
    // Everybody but the root takes the tree; the root sends straight to all.
    let shapes = Shapes::default();
    let programs: Vec<Program> = (0..4)
        .map(|rank| {
            let name = if rank == 3 { "direct" } else { "binomial_tree" };
            shapes.program(&Plan::generate(&request, rank, whole(name)).unwrap()).unwrap()
        })
        .collect();
    let error = sweep::sweep(&programs, 4, 4, &network()).err().unwrap();
    assert!(error.to_string().contains("waits for rank"), "{error}");
}
