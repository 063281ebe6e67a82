//! Accelerators: which there are, how they are linked, and who gets which.
//!
//! Three steps, each by itself. [`Inventory::discover`] looks where a [`Discovery`] says: NVIDIA's library, a discovery script as
//! Spark has them, a description, the text of `CUDA_VISIBLE_DEVICES`, AMD's part of sysfs. [`assign`] is a pure function from an
//! inventory, what each task asks for and a policy to an [`Assignment`], or to a [`Misfit`] that says what was asked, what
//! there is, and what would fit. A [`Claim`] holds the assigned devices against other groups of the machine until it is dropped or its
//! process ends, however that happens. [`allot`] is the three in one, without a race between groups that start at once.
//!
//! A machine can be described in a file, so that all but the discovery works without the machine:
//!
//! ```
//! use ringfold::device::{Inventory, Policy, TaskRequest, assign};
//! let machine: Inventory = serde_json::from_str(
//!     r#"{"hosts": [{"name": "a", "nodes": [{"id": 0, "cpus": "0-7"}], "devices": [
//!         {"address": "0", "uuid": "GPU-aa", "numa": 0},
//!         {"address": "1", "uuid": "GPU-bb", "numa": 0}]}]}"#,
//! )
//! .unwrap();
//! // Two tasks share each device, as in Spark.
//! let tasks = vec![TaskRequest::new().cpus(1.0).amount("gpu", 0.5); 4];
//! let assignment = assign(&machine, &tasks, &Policy::default().pinned(true)).unwrap();
//! assert_eq!(assignment.tasks[3].addresses("gpu"), ["1"]);
//! assert_eq!(assignment.tasks[3].cpus, [3]);
//!
//! let misfit = assign(&machine, &vec![TaskRequest::new().amount("gpu", 1.0); 3], &Policy::default()).unwrap_err();
//! assert_eq!(
//!     misfit.to_string(),
//!     "3 tasks ask for 1 gpu each, and there are 2 (GPU-aa, GPU-bb): 2 tasks would fit"
//! );
//! ```
#![forbid(unsafe_code)]

mod allot;
mod assign;
mod assignment;
mod claim;
mod cpulist;
mod description;
mod directory;
mod discovery;
mod host;
mod inventory;
mod links;
mod misfit;
mod policy;
mod request;
mod visible;

pub(crate) use allot::allot_here;
pub use allot::{Allotment, allot};
pub use assign::assign;
pub use assignment::{Assigned, Assignment};
pub use claim::{Claim, Holding, Refusal, default_directory};
pub use description::Device;
pub use discovery::Discovery;
pub use host::{Host, Node};
pub use inventory::Inventory;
pub use links::{Link, Path};
pub use misfit::{Misfit, Shortage};
pub use policy::{Placement, Policy, Sharing};
pub use request::TaskRequest;
pub use visible::Entry;
