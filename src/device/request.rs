//! What a task asks for.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A whole device in the units in which shares are counted. Spark's `ResourceAmountUtils` (4.0) counts in the same ones, so that
/// ten tenths are one.
pub(super) const ONE: u64 = 10_000_000_000_000_000;

/// A whole CPU in the units in which CPUs are counted.
pub(super) const CPU: u64 = 1_000_000;

/// A device is not shared by more tasks.
const FINEST: u64 = 1_000_000;

/// What one task asks for. Zero, and what is not named, asks for nothing. Plain data.
///
/// An amount follows Spark's rule (`ResourceUtils.calculateAmountAndPartsForFraction` of Spark 4): up to 1 it is a share of one device,
/// and as many tasks share that as there is room for, so 0.5 lets two and 0.3 lets three; above 1 it is whole. Shares are counted exactly, so
/// 1/93 lets 93, where Spark's rounding makes 92.
///
/// ```
/// use ringfold::device::TaskRequest;
/// let task = TaskRequest::new().cpus(2.0).memory(8 << 30).amount("gpu", 0.3);
/// assert_eq!(TaskRequest::slots(0.3).unwrap(), (1, 3));
/// assert_eq!(TaskRequest::slots(4.0).unwrap(), (4, 1));
/// assert!(task.check().is_ok());
/// assert!(task.amount("gpu", 1.5).check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TaskRequest {
    /// How many CPUs; fractions are allowed.
    pub cpus: f64,
    /// How much memory of the host, in bytes.
    pub memory: u64,
    /// How much of each resource.
    pub amounts: BTreeMap<String, f64>,
}

impl TaskRequest {
    /// A task that asks for nothing.
    pub fn new() -> TaskRequest {
        TaskRequest::default()
    }

    /// Asks for CPUs.
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpus = cpus;
        self
    }

    /// Asks for memory of the host, in bytes.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Asks for an amount of a resource.
    pub fn amount(mut self, resource: impl Into<String>, amount: f64) -> Self {
        self.amounts.insert(resource.into(), amount);
        self
    }

    /// How many devices an amount takes, and how many tasks with that amount can be on one of them. Zero takes none.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for what is negative or no number, above 1 and not whole, or a share so small
    /// that more than a million tasks would have one.
    pub fn slots(amount: f64) -> Result<(usize, usize)> {
        let wrong = |why: &str| Err(Error::invalid(format!("an amount of {amount}: {why}")));
        if !amount.is_finite() || amount < 0.0 {
            return wrong("it is a number from 0");
        }
        if amount == 0.0 {
            return Ok((0, 0));
        }
        if amount >= 1.0 {
            return if amount.fract() == 0.0 {
                Ok((amount as usize, 1))
            } else {
                wrong("above 1 it is whole")
            };
        }
        let parts = (ONE / share(amount).max(1)) as usize;
        if parts as u64 > FINEST { wrong("at most a million tasks share a device") } else { Ok((1, parts)) }
    }

    /// Whether all of it can be asked for.
    ///
    /// # Errors
    /// As [`slots`](TaskRequest::slots), naming the resource.
    pub fn check(&self) -> Result<()> {
        if !self.cpus.is_finite() || self.cpus < 0.0 {
            return Err(Error::invalid(format!("{} cpus: it is a number from 0", self.cpus)));
        }
        for (resource, &amount) in &self.amounts {
            if resource.is_empty() {
                return Err(Error::invalid("a resource without a name"));
            }
            TaskRequest::slots(amount)
                .map_err(|error| Error::invalid(format!("{resource}: {}", error.message())))?;
        }
        Ok(())
    }

    /// What it asks for, in words; `None` where that is nothing.
    pub(super) fn told(&self) -> Option<String> {
        let mut text = String::new();
        for (resource, amount) in self.amounts.iter().filter(|&(_, &amount)| amount > 0.0) {
            let _ = write!(text, "{}{amount} {resource}", comma(&text));
        }
        if self.cpus > 0.0 {
            let plural = if self.cpus == 1.0 { "cpu" } else { "cpus" };
            let _ = write!(text, "{}{} {plural}", comma(&text), self.cpus);
        }
        if self.memory > 0 {
            let _ = write!(text, "{}{} of memory", comma(&text), bytes(self.memory));
        }
        (!text.is_empty()).then_some(text)
    }
}

fn comma(text: &str) -> &'static str {
    if text.is_empty() { "" } else { ", " }
}

/// A share of a device, below 1, in units. What floating point may have rounded up is taken off, so that n times 1/n is never more
/// than one.
pub(super) fn share(amount: f64) -> u64 {
    (amount * ONE as f64 * (1.0 - 2.0 * f64::EPSILON)) as u64
}

/// CPUs in units; at least one where some are asked for.
pub(super) fn cpu_units(cpus: f64) -> u64 {
    let units = (cpus * CPU as f64).round() as u64;
    if cpus > 0.0 { units.max(1) } else { 0 }
}

/// Bytes as people write them.
pub(super) fn bytes(bytes: u64) -> String {
    let unit = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")]
        .into_iter()
        .find(|(shift, _)| bytes >> shift > 0);
    match unit {
        None => format!("{bytes} bytes"),
        Some((shift, name)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            match tenths % 10 {
                0 => format!("{} {name}", tenths / 10),
                rest => format!("{}.{rest} {name}", tenths / 10),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_leaves_room_for_as_many_as_spark_says() {
        for (amount, parts) in
            [(1.0, 1), (0.51, 1), (0.5, 2), (0.4, 2), (0.34, 2), (0.3, 3), (0.25, 4), (0.1, 10)]
        {
            assert_eq!(TaskRequest::slots(amount).unwrap(), (1, parts), "{amount}");
        }
        for tasks in 1..=1000u32 {
            let amount = 1.0 / f64::from(tasks);
            assert_eq!(TaskRequest::slots(amount).unwrap(), (1, tasks as usize), "1 / {tasks}");
            // Spark divides in floating point, which for 1 / 93 makes 92.
            let in_spark = (1.0 / amount).floor() as u32;
            assert!(in_spark == tasks || in_spark + 1 == tasks, "1 / {tasks} is for {in_spark} in Spark");
        }
        assert_eq!(TaskRequest::slots(0.0).unwrap(), (0, 0));
        assert_eq!(TaskRequest::slots(3.0).unwrap(), (3, 1));
        for wrong in [-1.0, 1.5, f64::NAN, f64::INFINITY, 1e-9] {
            assert!(TaskRequest::slots(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn requests_are_told_in_words() {
        let task = TaskRequest::new().cpus(2.0).memory(3 << 29).amount("gpu", 0.5).amount("fpga", 0.0);
        assert_eq!(task.told().unwrap(), "0.5 gpu, 2 cpus, 1.5 GiB of memory");
        assert_eq!(TaskRequest::new().told(), None);
        assert_eq!(bytes(1), "1 bytes");
        assert_eq!(bytes(80 << 30), "80 GiB");
    }
}
