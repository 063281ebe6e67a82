//! Plans in a file: JSON that anybody can write.

use ringfold::plan::Plan;
use ringfold::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// The form of this file; readers refuse others.
const VERSION: u32 = 1;

/// The plans of all ranks, with the version of the form.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PlanFile {
    ringfold_plan: u32,
    /// In rank order.
    pub(super) plans: Vec<Plan>,
}

impl PlanFile {
    pub(super) fn new(plans: Vec<Plan>) -> Self {
        PlanFile { ringfold_plan: VERSION, plans }
    }

    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::io("writing JSON", error))
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let wrong = |error: &dyn std::fmt::Display| {
            Error::invalid(format!("{} holds no plans: {error}", path.display()))
                .remedy("see what `ringfold plan show --json` writes")
        };
        let text = fs::read_to_string(path)
            .map_err(|error| Error::io(format_args!("reading {}", path.display()), error))?;
        let file: PlanFile = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        if file.ringfold_plan != VERSION {
            return Err(wrong(&format!("version {}, this program reads {VERSION}", file.ringfold_plan)));
        }
        Ok(file)
    }
}
