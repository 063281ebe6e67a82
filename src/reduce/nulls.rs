//! What becomes of values that are not there.

use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// What a reduction of data that may have nulls makes of them. The same on every rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum NullPolicy {
    /// A null on any rank is an error on every rank, which names the column and the rank.
    #[default]
    Reject,
    /// A null counts as absent: the others are reduced. The result is null only where every rank is, and a mean is the sum
    /// divided by the number of ranks that have a value.
    Skip,
}

impl NullPolicy {
    /// The short name: `reject`, `skip`.
    pub const fn as_str(self) -> &'static str {
        match self {
            NullPolicy::Reject => "reject",
            NullPolicy::Skip => "skip",
        }
    }
}

impl fmt::Display for NullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for NullPolicy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [NullPolicy::Reject, NullPolicy::Skip].into_iter().find(|policy| policy.as_str() == name).ok_or_else(
            || Error::invalid(format!("no policy for nulls is called {name:?}")).remedy("use reject or skip"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for policy in [NullPolicy::Reject, NullPolicy::Skip] {
            assert_eq!(policy.to_string().parse::<NullPolicy>().unwrap(), policy);
        }
        assert!("drop".parse::<NullPolicy>().unwrap_err().to_string().contains("skip"));
    }
}
