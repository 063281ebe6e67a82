//! Where in a tree of structures something is wrong.

use crate::error::Error;
use std::fmt;

/// A structure's place, as one would write it in C. Made on the way down, on the stack: it costs nothing until it is printed.
pub(super) struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    step: Step<'a>,
    pub(super) depth: usize,
}

enum Step<'a> {
    Root(&'static str),
    Child(usize, Option<&'a str>),
    Dictionary,
}

impl<'a> Place<'a> {
    pub(super) fn root(name: &'static str) -> Self {
        Place { parent: None, step: Step::Root(name), depth: 1 }
    }

    /// The place of a child, with its name where that is known.
    pub(super) fn child<'b>(&'b self, index: usize, name: Option<&'b str>) -> Place<'b> {
        Place { parent: Some(self), step: Step::Child(index, name), depth: self.depth + 1 }
    }

    pub(super) fn dictionary(&self) -> Place<'_> {
        Place { parent: Some(self), step: Step::Dictionary, depth: self.depth + 1 }
    }

    /// A refusal of what is here.
    pub(super) fn invalid(&self, why: impl fmt::Display) -> Error {
        Error::invalid(format!("{self}: {why}"))
    }

    /// A refusal of what is sound, but not known here.
    pub(super) fn unsupported(&self, why: impl fmt::Display) -> Error {
        Error::unsupported(format!("{self}: {why}"))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            fmt::Display::fmt(parent, f)?;
        }
        match self.step {
            Step::Root(name) => f.write_str(name),
            Step::Child(index, None) => write!(f, ".children[{index}]"),
            Step::Child(index, Some(name)) => {
                write!(f, ".children[{index}] (\"{}\")", short(name))
            }
            Step::Dictionary => f.write_str(".dictionary"),
        }
    }
}

/// A text from outside as it is fit for a message: one line, of a bounded length.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 64;
    let mut short: String = text.chars().take(MOST).collect::<String>().escape_debug().collect();
    if text.chars().nth(MOST).is_some() {
        short.push_str("...");
    }
    short
}
