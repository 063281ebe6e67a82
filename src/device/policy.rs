//! How tasks are placed, and what becomes of devices that others may want.

use serde::{Deserialize, Serialize};

/// Where tasks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Placement {
    /// On as few hosts and devices as possible.
    #[default]
    Pack,
    /// Over as many hosts, NUMA nodes and devices as possible.
    Spread,
    /// On devices that are linked best among each other; on as few hosts as possible.
    Linked,
}

impl Placement {
    /// All of them.
    pub const ALL: [Placement; 3] = [Placement::Pack, Placement::Spread, Placement::Linked];

    /// Its name, as it is written on a command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Placement::Pack => "pack",
            Placement::Spread => "spread",
            Placement::Linked => "linked",
        }
    }
}

impl std::fmt::Display for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Placement {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Placement::ALL.into_iter().find(|placement| placement.as_str() == text);
        known.ok_or_else(|| {
            crate::error::Error::invalid(format!("no placement is called {text:?}"))
                .remedy("choose pack, spread or linked")
        })
    }
}

/// Whether other groups of the machine may use the same devices at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Sharing {
    /// No other group may.
    #[default]
    Exclusive,
    /// Other groups that share may.
    Shared,
}

/// How an assignment is made: plain data. The default packs, takes devices exclusively, and pins nobody.
///
/// ```
/// use ringfold::device::{Placement, Policy, Sharing};
/// let policy = Policy::new(Placement::Linked).shared().pinned(true);
/// assert_eq!(policy.sharing, Sharing::Shared);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Policy {
    /// Where tasks go.
    #[serde(default)]
    pub placement: Placement,
    /// Whether other groups may use the same devices. An assignment does not depend on it; a claim does.
    #[serde(default)]
    pub sharing: Sharing,
    /// Whether each task is told CPUs, near its devices.
    #[serde(default)]
    pub pin: bool,
}

impl Policy {
    /// The policy with this placement.
    pub fn new(placement: Placement) -> Policy {
        Policy { placement, ..Policy::default() }
    }

    /// Lets other groups that share use the same devices.
    pub fn shared(mut self) -> Self {
        self.sharing = Sharing::Shared;
        self
    }

    /// Sets whether other groups may use the same devices.
    pub fn with_sharing(mut self, sharing: Sharing) -> Self {
        self.sharing = sharing;
        self
    }

    /// Sets whether tasks are told CPUs.
    pub fn pinned(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }
}
