//! What became of a launch.

use crate::error::Cause;
use nix::sys::signal::Signal;
use std::fmt;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal with this number.
    Killed(i32),
    /// Nobody can tell: somebody else took its status, or it did not end when it was killed.
    Unknown,
}

impl Status {
    /// Whether it is exit status 0.
    pub fn success(self) -> bool {
        self == Status::Exited(0)
    }

    /// The exit status by which a shell would tell this: 128 and the signal for a process that was killed.
    pub fn code(self) -> u8 {
        match self {
            Status::Exited(code) => code as u8,
            Status::Killed(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(127)),
            Status::Unknown => 1,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(code) => write!(f, "exited with status {code}"),
            Status::Killed(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was killed by signal {number} ({signal})"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
            Status::Unknown => f.write_str("ended in an unknown way"),
        }
    }
}

/// The failure that ended a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The rank that failed.
    pub rank: usize,
    /// Its process.
    pub pid: u32,
    /// How it ended.
    pub status: Status,
    /// What the group itself says of its failure, where its ranks had formed one.
    pub cause: Option<Cause>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} (pid {}) {}", self.rank, self.pid, self.status)
    }
}

/// What became of a launch.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// The failure that counts; `None` where all ranks ended with status 0.
    pub first_failure: Option<Failure>,
    /// How each rank ended, in rank order.
    pub statuses: Vec<Status>,
    /// The ranks that were told to end, by `SIGTERM` or worse, because another had failed, time was up, or
    /// [`Signaller::end`](super::Signaller::end) was called.
    pub ended: Vec<usize>,
    /// Whether [`Launch::timeout`](super::Launch::timeout) had passed.
    pub timed_out: bool,
}

impl Outcome {
    /// Whether all ranks ended with status 0, in time.
    pub fn success(&self) -> bool {
        self.first_failure.is_none() && !self.timed_out
    }

    /// The exit status that tells the outcome: 0, that of the first failure, 128 and the signal where it was killed,
    /// 124 where time was up.
    pub fn code(&self) -> u8 {
        match &self.first_failure {
            _ if self.timed_out => 124,
            None => 0,
            // A failure is never told as success, whatever is left of its status in eight bits.
            Some(failure) => failure.status.code().max(1),
        }
    }

    /// What became of the ranks beside the first failure, in few words, such as `rank 0 exited with status 1;
    /// ranks 1 to 3 were ended`. `None` where there is nothing to say.
    pub fn others(&self) -> Option<String> {
        let first = self.first_failure.as_ref().map(|failure| failure.rank);
        let mut kinds: Vec<(String, Vec<usize>)> = Vec::new();
        for (rank, status) in self.statuses.iter().enumerate().filter(|&(rank, _)| Some(rank) != first) {
            let words = match status {
                Status::Killed(_) if self.ended.contains(&rank) => "ended when told to".to_owned(),
                status => status.to_string(),
            };
            match kinds.iter_mut().find(|(known, _)| *known == words) {
                Some((_, ranks)) => ranks.push(rank),
                None => kinds.push((words, vec![rank])),
            }
        }
        let parts: Vec<String> = kinds
            .into_iter()
            .map(|(words, ranks)| {
                let words = if ranks.len() > 1 { words.replacen("was ", "were ", 1) } else { words };
                format!("{} {words}", name("rank", &ranks))
            })
            .collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// How many single numbers and runs of them a list has at most.
const SHOWN: usize = 16;

/// Numbers in ascending order after what they are the numbers of, in the plural where there are several: "rank 3", "ranks 0 to 2
/// and 5", "no rank". Of a long list the rest is told by its number: "and 97 more".
pub(crate) fn name(what: &str, numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let mut words: Vec<String> = Vec::new();
    let mut left = numbers.len();
    for (first, last) in runs {
        if words.len() >= SHOWN {
            words.push(format!("{left} more"));
            break;
        }
        left -= last - first + 1;
        match last - first {
            0 => words.push(first.to_string()),
            1 => words.extend([first.to_string(), last.to_string()]),
            _ => words.push(format!("{first} to {last}")),
        }
    }
    let Some(tail) = words.pop() else { return format!("no {what}") };
    let list = if words.is_empty() { tail } else { format!("{} and {tail}", words.join(", ")) };
    if numbers.len() == 1 { format!("{what} {list}") } else { format!("{what}s {list}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(statuses: &[Status], first: Option<usize>, ended: &[usize]) -> Outcome {
        let first_failure =
            first.map(|rank| Failure { rank, pid: 10 + rank as u32, status: statuses[rank], cause: None });
        Outcome { first_failure, statuses: statuses.to_vec(), ended: ended.to_vec(), timed_out: false }
    }

    #[test]
    fn the_exit_status_is_that_of_the_first_failure() {
        use Status::{Exited, Killed, Unknown};
        assert_eq!(outcome(&[Exited(0); 2], None, &[]).code(), 0);
        assert_eq!(outcome(&[Exited(1), Exited(3)], Some(1), &[]).code(), 3);
        assert_eq!(outcome(&[Killed(9), Exited(3)], Some(0), &[]).code(), 137);
        assert_eq!(outcome(&[Unknown], Some(0), &[]).code(), 1);
        assert_eq!(outcome(&[Exited(256)], Some(0), &[]).code(), 1);
        let late = Outcome { timed_out: true, ..outcome(&[Killed(15)], Some(0), &[0]) };
        assert_eq!((late.code(), late.success()), (124, false));
    }

    #[test]
    fn failures_are_told_in_words() {
        use Status::{Exited, Killed};
        let all = [Exited(1), Exited(1), Killed(9), Exited(1), Killed(15), Killed(11), Killed(11)];
        let outcome = outcome(&all, Some(2), &[4]);
        assert_eq!(
            outcome.first_failure.as_ref().unwrap().to_string(),
            "rank 2 (pid 12) was killed by signal 9 (SIGKILL)"
        );
        assert_eq!(
            outcome.others().unwrap(),
            "ranks 0, 1 and 3 exited with status 1; rank 4 ended when told to; \
             ranks 5 and 6 were killed by signal 11 (SIGSEGV)"
        );
    }

    #[test]
    fn numbers_are_named_in_runs_and_not_all_of_them() {
        assert_eq!(name("rank", &[0, 1, 2, 5]), "ranks 0 to 2 and 5");
        assert_eq!((name("task", &[3]).as_str(), name("task", &[]).as_str()), ("task 3", "no task"));
        assert_eq!(name("task", &[1, 2]), "tasks 1 and 2");
        let even = |count| (0..count).map(|half| 2 * half).collect::<Vec<usize>>();
        assert!(name("rank", &even(16)).ends_with("28 and 30"));
        assert_eq!(
            name("rank", &even(500)),
            "ranks 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30 and 484 more"
        );
        assert_eq!(name("rank", &(0..500).collect::<Vec<_>>()), "ranks 0 to 499");
    }
}
