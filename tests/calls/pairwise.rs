//! Fewer rows than the full cross product: every two values of any two parameters meet in one row at least.

use fastrand::Rng;
use std::collections::HashSet;

/// How many candidates compete for each row.
const CANDIDATES: usize = 8;

/// Rows of value numbers, one for each parameter: parameter p has `values[p]` values. Pairs that `possible` denies
/// (parameter, value, parameter, value; the lower parameter first) never meet. The same rows for the same seed.
pub fn rows(
    values: &[usize],
    possible: impl Fn(usize, usize, usize, usize) -> bool,
    seed: u64,
) -> Vec<Vec<usize>> {
    let mut random = Rng::with_seed(seed);
    let mut open: Vec<(usize, usize, usize, usize)> = Vec::new();
    for p in 0..values.len() {
        for q in p + 1..values.len() {
            for a in 0..values[p] {
                open.extend((0..values[q]).filter(|&b| possible(p, a, q, b)).map(|b| (p, a, q, b)));
            }
        }
    }
    let mut uncovered: HashSet<_> = open.iter().copied().collect();
    random.shuffle(&mut open);
    let pair = |p: usize, a: usize, q: usize, b: usize| if p < q { (p, a, q, b) } else { (q, b, p, a) };
    let mut rows = Vec::new();
    while let Some(seed_pair) = open.pop() {
        if !uncovered.contains(&seed_pair) {
            continue;
        }
        let mut best: Option<(usize, Vec<usize>)> = None;
        for _ in 0..CANDIDATES {
            let mut row: Vec<Option<usize>> = vec![None; values.len()];
            (row[seed_pair.0], row[seed_pair.2]) = (Some(seed_pair.1), Some(seed_pair.3));
            let mut order: Vec<usize> = (0..values.len()).filter(|&p| row[p].is_none()).collect();
            random.shuffle(&mut order);
            let mut gained = 1;
            for p in order {
                let fixed: Vec<(usize, usize)> =
                    row.iter().enumerate().filter_map(|(q, b)| Some((q, (*b)?))).collect();
                let start = random.usize(..values[p]);
                let choice = (0..values[p])
                    .map(|i| (start + i) % values[p])
                    .filter(|&a| {
                        fixed.iter().all(|&(q, b)| {
                            let (p, a, q, b) = pair(p, a, q, b);
                            possible(p, a, q, b)
                        })
                    })
                    .map(|a| {
                        (fixed.iter().filter(|&&(q, b)| uncovered.contains(&pair(p, a, q, b))).count(), a)
                    })
                    .max_by_key(|(gain, _)| *gain);
                let Some((gain, a)) = choice else { break };
                gained += gain;
                row[p] = Some(a);
            }
            if let Some(row) = row.into_iter().collect::<Option<Vec<_>>>()
                && best.as_ref().is_none_or(|(most, _)| gained > *most)
            {
                best = Some((gained, row));
            }
        }
        let (_, row) = best.expect("a pair that is possible has a row");
        for p in 0..row.len() {
            for q in p + 1..row.len() {
                uncovered.remove(&(p, row[p], q, row[q]));
            }
        }
        rows.push(row);
    }
    rows
}
