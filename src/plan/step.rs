//! The steps of a plan and what they work on.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A region of memory that another rank can see, where memory is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// That rank's input.
    Input,
    /// That rank's output.
    Output,
    /// That rank's slot.
    Slot,
}

/// What a range of elements is a range of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// What the user gave. Never written, unless it is the output too.
    Input,
    /// What the user gets.
    Output,
    /// Private memory, undefined at the start.
    Scratch,
    /// Memory of this rank that the others can see, where memory is shared.
    Slot,
    /// Memory of another rank, where memory is shared.
    Peer {
        /// Whose.
        rank: usize,
        /// Which.
        region: Region,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Input => f.write_str("input"),
            Place::Output => f.write_str("output"),
            Place::Scratch => f.write_str("scratch"),
            Place::Slot => f.write_str("slot"),
            Place::Peer { rank, region } => {
                let region = match region {
                    Region::Input => "input",
                    Region::Output => "output",
                    Region::Slot => "slot",
                };
                write!(f, "rank {rank}'s {region}")
            }
        }
    }
}

/// A range of elements: an operand of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// Of what.
    pub place: Place,
    /// The first element.
    pub start: usize,
    /// How many.
    pub len: usize,
}

impl Span {
    /// The element after the last.
    pub const fn end(&self) -> usize {
        self.start + self.len
    }

    /// The part of this span that lies at `offset`, `len` elements long.
    pub fn part(&self, offset: usize, len: usize) -> Span {
        debug_assert!(offset + len <= self.len);
        Span { place: self.place, start: self.start + offset, len }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Spans that are wrong are shown too, those beyond all numbers among them.
        write!(f, "{}[{}..{}]", self.place, self.start, self.start.saturating_add(self.len))
    }
}

/// One step. All spans of a step have one length, and it works through them from front to back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Sends a range to a rank. The k-th message to a rank is its k-th one from this rank.
    Send {
        /// What.
        range: Span,
        /// To whom.
        to: usize,
    },
    /// Receives a range from a rank.
    Recv {
        /// Into what.
        range: Span,
        /// From whom.
        from: usize,
    },
    /// into = local + received, where + stands for the reduction.
    RecvReduce {
        /// Where the result goes; may be `local` itself.
        into: Span,
        /// This rank's operand.
        local: Span,
        /// From whom the other operand comes.
        from: usize,
    },
    /// Copies a range.
    Copy {
        /// From where.
        source: Span,
        /// To where.
        into: Span,
    },
    /// into = the reduction of all sources: from left to right, accumulated in `f32` or wider, rounded once; under
    /// [`Order::Fixed`](crate::Order::Fixed) as the balanced tree over them, rounded at every node.
    Fold {
        /// The operands, one at least.
        sources: Vec<Span>,
        /// Where the result goes; may be one of the sources.
        into: Span,
    },
    /// The last touch to a reduced range, exactly once an element: mean divides by the world size.
    Finish {
        /// The range, in place.
        range: Span,
    },
    /// Raises this rank's flag by one, after everything before it is done and visible to the others.
    Signal {
        /// Which flag of this rank.
        flag: u32,
    },
    /// Waits until a rank has raised a flag this many times; everything after it comes after.
    Wait {
        /// Whose flag.
        rank: usize,
        /// Which of its flags.
        flag: u32,
        /// How many times, counted from the start of the plan.
        value: u32,
    },
}

impl Step {
    /// The rank that it sends to.
    pub fn sends_to(&self) -> Option<usize> {
        if let Step::Send { to, .. } = self { Some(*to) } else { None }
    }

    /// The rank that it receives from.
    pub fn receives_from(&self) -> Option<usize> {
        match self {
            Step::Recv { from, .. } | Step::RecvReduce { from, .. } => Some(*from),
            _ => None,
        }
    }

    /// The spans that it reads.
    pub fn reads(&self) -> &[Span] {
        match self {
            Step::Send { range, .. } | Step::Finish { range } => std::slice::from_ref(range),
            Step::RecvReduce { local, .. } => std::slice::from_ref(local),
            Step::Copy { source, .. } => std::slice::from_ref(source),
            Step::Fold { sources, .. } => sources,
            Step::Recv { .. } | Step::Signal { .. } | Step::Wait { .. } => &[],
        }
    }

    /// The span that it writes.
    pub fn writes(&self) -> Option<Span> {
        match self {
            Step::Recv { range, .. } | Step::Finish { range } => Some(*range),
            Step::RecvReduce { into, .. } | Step::Copy { into, .. } | Step::Fold { into, .. } => Some(*into),
            Step::Send { .. } | Step::Signal { .. } | Step::Wait { .. } => None,
        }
    }

    /// How many elements it works through.
    pub fn len(&self) -> usize {
        self.writes().as_ref().or(self.reads().first()).map_or(0, |span| span.len)
    }

    /// Whether it touches no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Send { range, to } => write!(f, "send {range} to rank {to}"),
            Step::Recv { range, from } => write!(f, "recv {range} from rank {from}"),
            Step::RecvReduce { into, local, from } if into == local => {
                write!(f, "recv and reduce into {into} from rank {from}")
            }
            Step::RecvReduce { into, local, from } => {
                write!(f, "recv and reduce with {local} into {into} from rank {from}")
            }
            Step::Copy { source, into } => write!(f, "copy {source} to {into}"),
            Step::Fold { sources, into } => {
                write!(f, "fold ")?;
                for (i, source) in sources.iter().enumerate() {
                    write!(f, "{}{source}", if i == 0 { "" } else { " + " })?;
                }
                write!(f, " into {into}")
            }
            Step::Finish { range } => write!(f, "finish {range}"),
            Step::Signal { flag } => write!(f, "signal flag {flag}"),
            Step::Wait { rank, flag, value } => write!(f, "wait until rank {rank}'s flag {flag} is {value}"),
        }
    }
}
