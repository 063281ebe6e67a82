//! Every algorithm with every collective, over all small worlds and a sample of large ones.

use rayon::prelude::*;
use ringfold::collective::Collective;
use ringfold::plan::Algorithm;
use ringfold::plan::verify::Case;

fn cases(worlds: impl Iterator<Item = usize> + Clone) -> Vec<Case> {
    Algorithm::all()
        .flat_map(|algorithm| algorithm.collectives().iter().map(move |&collective| (algorithm, collective)))
        .flat_map(|(algorithm, collective)| {
            worlds.clone().flat_map(move |world| Case::of(algorithm, collective, world))
        })
        .collect()
}

/// Proves all cases, the first ones first: the threads end together if the small ones come last.
fn prove(cases: &[Case]) {
    let proofs = cases.iter().par_bridge().filter_map(|case| case.verify().err());
    let faults: Vec<String> = proofs.map(|error| error.to_string()).collect();
    let shown = faults.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{} of {} fail:\n{shown}", faults.len(), cases.len());
}

#[test]
fn every_plan_of_small_groups_is_proved() {
    let mut cases = cases(1..=64);
    assert!(cases.len() > 5_000, "{} cases", cases.len());
    cases.sort_by_key(|case| std::cmp::Reverse(case.world));
    prove(&cases);
}

/// Powers of two, their neighbours, and numbers that are far from any.
const LARGE: [usize; 14] = [65, 96, 127, 128, 129, 200, 255, 257, 384, 511, 513, 1000, 1023, 1024];

/// The most steps of all ranks that one case of the sample may have.
const MOST_STEPS: usize = 2_500_000;

/// About how many steps a case has: those of the first and the last rank and the root are taken for typical.
fn steps(case: &Case) -> usize {
    let of = |rank: usize| case.plan(rank).unwrap().steps.len();
    of(case.root) + (of(0) + of(case.world - 1)) / 2 * case.world
}

#[test]
fn a_sample_of_large_groups_is_proved() {
    let mut random = fastrand::Rng::with_seed(0x1a26e);
    let mut sample = Vec::new();
    for algorithm in Algorithm::all() {
        for &collective in algorithm.collectives() {
            let mut worlds = LARGE.to_vec();
            random.shuffle(&mut worlds);
            let bearable = worlds.into_iter().filter_map(|world| {
                let mut cases = Case::of(algorithm, collective, world);
                random.shuffle(&mut cases);
                cases.into_iter().take(12).find(|case| steps(case) <= MOST_STEPS)
            });
            let chosen: Vec<Case> = bearable.take(4).collect();
            assert!(!chosen.is_empty(), "no case of {collective} by {algorithm} is bearable");
            sample.extend(chosen);
        }
    }
    assert!(LARGE.iter().all(|world| sample.iter().any(|case| case.world == *world)));
    sample.sort_by_cached_key(|case| std::cmp::Reverse(steps(case)));
    prove(&sample);
}

#[test]
fn every_collective_is_covered() {
    let cases = cases(1..=2);
    for collective in Collective::ALL {
        assert!(cases.iter().any(|case| case.collective == collective));
    }
}
