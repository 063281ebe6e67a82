//! From addresses and counts to tensors.

use crate::error::{Fault, Result};
use crate::handle::missing;
use core::tensor::{TensorMut, TensorRef};
use core::{DType, Tensors};
use std::ffi::c_void;
use std::ptr::NonNull;

/// The memory of a call, as the caller gives it.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) input: *const c_void,
    pub(crate) output: *mut c_void,
    pub(crate) dtype: DType,
}

/// What this rank's part in a call needs of it, in elements.
#[derive(Clone, Copy, Default)]
pub(crate) struct Need {
    pub(crate) input: usize,
    pub(crate) output: usize,
    /// Where the input would lie in the output, in place.
    pub(crate) input_at: usize,
    /// Where the output would lie in the input, in place.
    pub(crate) output_at: usize,
}

impl Need {
    /// As much out as in.
    pub(crate) fn same(count: usize) -> Self {
        Need { input: count, output: count, ..Need::default() }
    }

    pub(crate) fn input_only(count: usize) -> Self {
        Need { input: count, ..Need::default() }
    }

    pub(crate) fn output_only(count: usize) -> Self {
        Need { output: count, ..Need::default() }
    }
}

/// Memory that has been looked at: what can be known of it without looking into it is right.
#[derive(Clone, Copy)]
pub(crate) struct Laid {
    /// None where input and output are one tensor.
    input: Option<(*const u8, usize)>,
    output: (*mut u8, usize),
    dtype: DType,
}

impl Operands {
    /// Looks at the memory of a call.
    ///
    /// # Errors
    /// RF_INVALID_ARGUMENT where something is missing, overlaps or cannot be so large.
    #[inline]
    pub(crate) fn laid(self, need: Need) -> Result<Laid> {
        let Operands { input, output, dtype } = self;
        let bytes = |count: usize| {
            let bytes = count.checked_mul(dtype.size()).filter(|&bytes| bytes <= isize::MAX as usize);
            bytes.ok_or_else(|| too_large(count, dtype))
        };
        let (input_bytes, output_bytes) = (bytes(need.input)?, bytes(need.output)?);
        if input.is_null() && input_bytes > 0 {
            return Err(missing("the input"));
        }
        if output.is_null() && output_bytes > 0 {
            return Err(missing("the output"));
        }
        let (from, to) = (input.addr(), output.addr());
        if input_bytes > 0 && output_bytes > 0 {
            let (input_at, output_at) = (need.input_at * dtype.size(), need.output_at * dtype.size());
            if from.wrapping_sub(input_at) == to.wrapping_sub(output_at) {
                let base = output.wrapping_byte_sub(output_at).cast::<u8>();
                return Ok(Laid { input: None, output: (base, need.input.max(need.output)), dtype });
            }
            if from < to.saturating_add(output_bytes) && to < from.saturating_add(input_bytes) {
                return Err(overlap(need));
            }
        }
        let nothing = NonNull::<u64>::dangling().as_ptr();
        let input = if input_bytes == 0 { nothing.cast_const().cast() } else { input.cast::<u8>() };
        let output = if output_bytes == 0 { nothing.cast() } else { output.cast::<u8>() };
        Ok(Laid { input: Some((input, need.input)), output: (output, need.output), dtype })
    }
}

impl Laid {
    /// Whether there is one tensor, and not one for each.
    pub(crate) fn is_in_place(&self) -> bool {
        self.input.is_none()
    }

    /// The tensors. They are large, and best made where they are used.
    ///
    /// # Safety
    /// The operands have as many elements as were needed, which are initialised, and which nobody else writes, or reads where
    /// they are written, as long as `'a` lives. They need not be aligned.
    #[inline(always)]
    pub(crate) unsafe fn tensors<'a>(self) -> Tensors<'a> {
        // SAFETY: the caller's promise; in place, the larger of the two begins there and holds the smaller, else they lie apart.
        unsafe {
            match self.input {
                None => Tensors::InPlace(self.output()),
                Some((input, count)) => {
                    Tensors::Apart(TensorRef::from_raw_slice(input, self.dtype, count), self.output())
                }
            }
        }
    }

    /// The output, or the one tensor.
    ///
    /// # Safety
    /// As [`tensors`](Laid::tensors).
    #[inline(always)]
    pub(crate) unsafe fn output<'a>(self) -> TensorMut<'a> {
        // SAFETY: handed on to the caller.
        unsafe { TensorMut::from_raw_slice(self.output.0, self.dtype, self.output.1) }
    }
}

#[cold]
fn too_large(count: usize, dtype: DType) -> Fault {
    Fault::invalid(format!("{count} elements of {dtype} do not fit in memory"))
}

#[cold]
fn overlap(need: Need) -> Fault {
    let place = match need {
        Need { input_at: 0, output_at: 0, .. } => "pass the same address for both".to_owned(),
        Need { output_at: 0, input_at, .. } => {
            format!("let the input begin {input_at} elements into the output")
        }
        Need { output_at, .. } => format!("let the output begin {output_at} elements into the input"),
    };
    Fault::invalid(format!(
        "input and output overlap; to do: for a call in place, {place}; else keep them apart"
    ))
}

/// A list of counts of the caller's, one a rank.
///
/// # Safety
/// It is NULL, or has so many numbers as long as `'a` lives.
pub(crate) unsafe fn counts<'a>(what: &str, counts: *const u64, world: usize) -> Result<&'a [usize]> {
    if counts.is_null() {
        return Err(missing(what));
    }
    // SAFETY: the caller's promise; a count of 64 bits is a usize here.
    Ok(unsafe { std::slice::from_raw_parts(counts.cast(), world) })
}

/// The sum of counts.
pub(crate) fn sum(counts: &[usize]) -> Result<usize> {
    let sum = counts.iter().try_fold(0usize, |sum, &count| sum.checked_add(count));
    sum.ok_or_else(|| Fault::invalid("the counts do not fit in memory together"))
}

/// So many blocks of a length.
pub(crate) fn blocks(count: usize, world: usize) -> Result<usize> {
    count
        .checked_mul(world)
        .ok_or_else(|| Fault::invalid(format!("{world} blocks of {count} elements do not fit in memory")))
}
