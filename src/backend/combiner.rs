//! What combines the elements of an operation: built-in kernels, or a function of the user's.

use super::Operation;
use crate::reduce::{CustomOp, Kernels, kernels};

/// What combines elements in the running operation.
pub(super) enum Combiner {
    None,
    Kernels(&'static Kernels),
    Custom(CustomOp),
}

impl Combiner {
    /// That of an operation.
    pub(super) fn of(operation: &Operation) -> Self {
        let request = operation.request();
        match (request.op, operation.custom()) {
            (_, Some(custom)) => Combiner::Custom(custom.clone()),
            (Some(op), None) => kernels(op, request.dtype).map_or(Combiner::None, Combiner::Kernels),
            (None, None) => Combiner::None,
        }
    }

    /// `into = local op received`, or `received op local` where what was received stands to the left.
    ///
    /// # Safety
    /// As [`Kernels::combine`].
    pub(super) unsafe fn combine(
        &self,
        into: *mut u8,
        local: *const u8,
        received: *const u8,
        count: usize,
        left: bool,
    ) -> Result<(), String> {
        // SAFETY: handed on to the caller.
        unsafe {
            match self {
                Combiner::Kernels(kernels) => kernels.combine(into, local, received, count),
                Combiner::Custom(custom) if left => custom.combine(into, received, local, count)?,
                Combiner::Custom(custom) => custom.combine(into, local, received, count)?,
                Combiner::None => unreachable!("only collectives that reduce receive and reduce"),
            }
        }
        Ok(())
    }

    /// `into` becomes the sources from left to right, or as a balanced tree, `len` bytes each, by way of `staging` where it must.
    ///
    /// # Safety
    /// As [`Kernels::fold`]; `staging` holds one element at least.
    pub(super) unsafe fn fold(
        &self,
        into: *mut u8,
        sources: &[*const u8],
        balanced: bool,
        len: usize,
        element: usize,
        staging: &mut [u8],
    ) -> Result<(), String> {
        let custom = match self {
            // SAFETY: handed on to the caller.
            Combiner::Kernels(kernels) => unsafe {
                match balanced {
                    true => kernels.fold_balanced(into, sources, len / element),
                    false => kernels.fold(into, sources, len / element),
                }
                return Ok(());
            },
            Combiner::Custom(custom) => custom,
            Combiner::None => unreachable!("only collectives that reduce fold"),
        };
        if balanced && sources.len() > 2 {
            // SAFETY: handed on to the caller.
            return unsafe { custom.fold_balanced(into, sources, len / element) };
        }
        let room = staging.len() - staging.len() % element;
        let staging = staging.as_mut_ptr();
        for at in (0..len).step_by(room) {
            let now = room.min(len - at);
            // SAFETY: all are `len` bytes long, says the caller, and `staging` is nobody else's.
            unsafe {
                std::ptr::copy_nonoverlapping(sources[0].wrapping_add(at), staging, now);
                for source in &sources[1..] {
                    custom.combine(staging, staging, source.wrapping_add(at), now / element)?;
                }
                std::ptr::copy_nonoverlapping(staging, into.wrapping_add(at), now);
            }
        }
        Ok(())
    }
}
