//! What there is of Arrow in a library without it: names, and an answer.

use crate::arrow::{Source, Target, Verb};
use crate::comm::rf_comm;
use crate::error::{Fault, Result};
use crate::options::rf_options;

/// Never looked at.
pub enum ArrowArray {}
/// Never looked at.
pub enum ArrowSchema {}
/// Never looked at.
pub enum ArrowArrayStream {}

/// # Safety
/// None is needed.
pub(crate) unsafe fn carry_out(
    _: *mut rf_comm,
    _: *const rf_options,
    _: &Verb,
    _: Source,
    _: Target,
) -> Result<()> {
    Err(Fault::unsupported(
        "this library was built without Arrow; to do: build ringfold-capi with its feature arrow, or ask \
         rf_supports(\"feature:arrow\") first",
    ))
}
