//! Why an assignment cannot be: what was asked, what there is, and what would fit.

use super::request::{TaskRequest, bytes};
use crate::error::{Error, ErrorKind};
use std::fmt;

/// So many devices are named.
const NAMED: usize = 8;

/// Of one resource, what was asked and what there is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Shortage {
    /// The resource: the name of devices, [`CPUS`](Shortage::CPUS) or [`MEMORY`](Shortage::MEMORY).
    pub resource: String,
    /// How much all tasks ask for together; memory in bytes.
    pub asked: f64,
    /// How much there is that nobody else holds; memory in bytes.
    pub free: f64,
    /// The devices that nobody else holds, by UUID, else by address.
    pub names: Vec<String>,
    /// Those that another group holds.
    pub held: Vec<String>,
    /// Whether there is too little of it, whatever becomes of the rest; else it cannot be divided as it was asked for.
    pub short: bool,
}

impl Shortage {
    /// The resource that is CPUs.
    pub const CPUS: &str = "cpus";
    /// The resource that is memory of hosts.
    pub const MEMORY: &str = "memory";

    /// How much there is, in words.
    fn there(&self, f: &mut fmt::Formatter<'_>, with_name: bool, why_none: &[String]) -> fmt::Result {
        match &*self.resource {
            Shortage::MEMORY => return write!(f, "{} of memory", bytes(self.free as u64)),
            Shortage::CPUS if with_name => return write!(f, "{} cpus", self.free),
            Shortage::CPUS => return write!(f, "{}", self.free),
            _ if self.names.is_empty() && self.held.is_empty() => f.write_str("none")?,
            _ if self.names.is_empty() => f.write_str("none free")?,
            _ => write!(f, "{}", self.names.len())?,
        }
        if with_name {
            write!(f, " {}", self.resource)?;
        }
        let mut notes = Vec::new();
        if !self.names.is_empty() {
            let (named, more) = self.names.split_at(self.names.len().min(NAMED));
            let rest = if more.is_empty() { String::new() } else { format!(" and {} others", more.len()) };
            notes.push(format!("{}{rest}", named.join(", ")));
        }
        let more = if self.names.is_empty() { "" } else { "more " };
        match self.held.len() {
            0 if self.names.is_empty() => notes.extend(why_none.iter().cloned()),
            0 => {}
            1 => notes.push(format!("1 {more}is held by another group")),
            held => notes.push(format!("{held} {more}are held by other groups")),
        }
        if notes.is_empty() { Ok(()) } else { write!(f, " ({})", notes.join("; ")) }
    }
}

/// Why tasks cannot have what they ask for: a refusal of all of them. As text it says what was asked, what there is, and what would
/// fit; as an [`Error`] it is of the kind [`Unavailable`](ErrorKind::Unavailable), or, where a request cannot be right,
/// [`InvalidArgument`](ErrorKind::InvalidArgument).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Misfit {
    /// How many tasks asked.
    pub tasks: usize,
    /// What each of them asked for, where all asked for the same.
    pub each: Option<Box<TaskRequest>>,
    /// Of what there is too little; all that was asked for where it is the division that fails.
    pub shortages: Vec<Shortage>,
    /// How many of the tasks would fit, from the first on. As many as were found where [`proved`](Misfit::proved) is false.
    pub fit: usize,
    /// Whether it is certain that there is no way. It always is where all tasks ask for the same, and for few tasks.
    pub proved: bool,
    /// The first task whose request cannot be right, and why.
    pub invalid: Option<(usize, Error)>,
    /// How devices were looked for.
    found: Vec<String>,
}

impl Misfit {
    pub(super) fn new(
        requests: &[TaskRequest],
        alike: bool,
        shortages: Vec<Shortage>,
        fit: usize,
        proved: bool,
        found: Vec<String>,
    ) -> Misfit {
        let each = requests.first().filter(|_| alike).cloned().map(Box::new);
        Misfit { tasks: requests.len(), each, shortages, fit, proved, invalid: None, found }
    }

    pub(super) fn of_invalid(task: usize, tasks: usize, error: Error) -> Misfit {
        let (shortages, found) = (Vec::new(), Vec::new());
        Misfit { tasks, each: None, shortages, fit: 0, proved: true, invalid: Some((task, error)), found }
    }
}

fn tasks(count: usize) -> String {
    if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((task, error)) = &self.invalid {
            return write!(f, "task {task} asks for what cannot be: {}", error.message());
        }
        let verb = if self.tasks == 1 { "asks" } else { "ask" };
        write!(f, "{} {verb} for ", tasks(self.tasks))?;
        let each = self.each.as_deref().and_then(TaskRequest::told);
        let of_one = match (&each, &self.each) {
            (Some(text), Some(request)) => {
                f.write_str(text)?;
                if self.tasks > 1 {
                    f.write_str(" each")?;
                }
                let asked = request.amounts.values().filter(|&&amount| amount > 0.0).count();
                asked + usize::from(request.cpus > 0.0) + usize::from(request.memory > 0) == 1
            }
            _ => {
                for (index, shortage) in self.shortages.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { ", " })?;
                    match &*shortage.resource {
                        Shortage::MEMORY => write!(f, "{} of memory", bytes(shortage.asked as u64))?,
                        resource => write!(f, "{} {resource}", (shortage.asked * 1e6).round() / 1e6)?,
                    }
                }
                f.write_str(" in all")?;
                self.shortages.len() == 1
            }
        };
        f.write_str(match &self.shortages[..] {
            // A host that there is not has no CPUs either.
            [] => ", and there is no host that could have them",
            [one] if one.names.len() == 1 || one.free == 1.0 && one.names.is_empty() => ", and there is ",
            _ => ", and there are ",
        })?;
        for (index, shortage) in self.shortages.iter().enumerate() {
            f.write_str(match index {
                0 => "",
                _ if index + 1 == self.shortages.len() => " and ",
                _ => ", ",
            })?;
            shortage.there(f, !of_one, &self.found)?;
        }
        if !self.shortages.is_empty() && self.shortages.iter().all(|shortage| !shortage.short) {
            f.write_str(if self.proved {
                ", which cannot be divided so"
            } else {
                ", and no way was found to divide it so"
            })?;
        }
        let first = if self.each.is_some() || self.fit == 0 { "" } else { "the first " };
        match self.fit {
            0 => f.write_str(": no task would fit"),
            fit => write!(f, ": {first}{} would fit", tasks(fit)),
        }
    }
}

impl std::error::Error for Misfit {}

impl From<Misfit> for Error {
    fn from(misfit: Misfit) -> Error {
        if misfit.invalid.is_some() {
            let remedy = "ask for shares up to 1, for whole numbers above, and for nothing by 0";
            return Error::invalid(misfit.to_string()).remedy(remedy);
        }
        let held = misfit.shortages.iter().any(|shortage| !shortage.held.is_empty());
        let wait = if held { ", or wait until other groups have ended" } else { "" };
        let remedy = match misfit.fit {
            0 => format!("ask for less{wait}"),
            fit => format!("start {}, or ask for less{wait}", tasks(fit)),
        };
        Error::new(ErrorKind::Unavailable, misfit.to_string()).remedy(remedy)
    }
}
