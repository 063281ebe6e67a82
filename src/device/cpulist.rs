//! Lists of CPUs as the kernel writes them: `0-3,8,10-11`.

use serde::{Deserialize, Deserializer, Serializer};
use std::fmt::Write as _;

/// No machine has more: a list that says so is not expanded.
const MOST: usize = 1 << 16;

/// The numbers of a list, in order and once each. `None` where it is none. The empty list has no numbers.
pub(super) fn parse(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// The list of numbers, which are in order.
pub(super) fn show(cpus: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cpus;
    while let Some(&first) = rest.first() {
        let run = rest.iter().enumerate().take_while(|&(index, &cpu)| cpu == first + index).count();
        let comma = if text.is_empty() { "" } else { "," };
        let _ = match run {
            1 => write!(text, "{comma}{first}"),
            _ => write!(text, "{comma}{first}-{}", first + run - 1),
        };
        rest = &rest[run..];
    }
    text
}

pub(super) fn serialize<S: Serializer>(cpus: &[usize], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&show(cpus))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = || serde::de::Error::custom(format!("{text:?} is no list of CPUs such as 0-3,8"));
    parse(&text).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_written_as_the_kernel_does() {
        for (text, cpus) in
            [("0-3,8,10-11", vec![0, 1, 2, 3, 8, 10, 11]), ("", vec![]), ("5", vec![5]), ("0-1", vec![0, 1])]
        {
            assert_eq!(parse(text).unwrap(), cpus);
            assert_eq!(show(&cpus), text);
        }
        assert_eq!(parse(" 3, 1-2,2\n"), Some(vec![1, 2, 3]));
        for wrong in ["a", "3-1", "1-", "-1", "0-99999999999", "1;2"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
