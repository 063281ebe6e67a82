//! The tensors of one call.

use crate::backend::Buffers;
use crate::error::{Error, Result};
use crate::tensor::{DType, Element, TensorMut, TensorRef};

/// The tensors of one call: one that is both input and output, or one for each.
///
/// In place, the input lies within the output (or the output within the input) where it would stand in the
/// concatenation of all blocks: rank r's block of an all_gather is block r of the buffer that receives all.
#[derive(Debug)]
pub enum Tensors<'a> {
    /// Input and output are one.
    InPlace(TensorMut<'a>),
    /// Input and output lie apart.
    Apart(TensorRef<'a>, TensorMut<'a>),
}

impl<'a> From<TensorMut<'a>> for Tensors<'a> {
    fn from(tensor: TensorMut<'a>) -> Self {
        Tensors::InPlace(tensor)
    }
}

impl<'a> From<(TensorRef<'a>, TensorMut<'a>)> for Tensors<'a> {
    fn from((input, output): (TensorRef<'a>, TensorMut<'a>)) -> Self {
        Tensors::Apart(input, output)
    }
}

impl<'a, T: Element> From<&'a mut [T]> for Tensors<'a> {
    fn from(data: &'a mut [T]) -> Self {
        Tensors::InPlace(TensorMut::from_slice(data))
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for Tensors<'a> {
    fn from(data: &'a mut Vec<T>) -> Self {
        Tensors::InPlace(TensorMut::from_slice(data))
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for Tensors<'a> {
    fn from(data: &'a mut [T; N]) -> Self {
        Tensors::InPlace(TensorMut::from_slice(data))
    }
}

impl<'a, T: Element> From<(&'a [T], &'a mut [T])> for Tensors<'a> {
    fn from((input, output): (&'a [T], &'a mut [T])) -> Self {
        Tensors::Apart(TensorRef::from_slice(input), TensorMut::from_slice(output))
    }
}

impl Tensors<'_> {
    pub(super) fn dtype(&self) -> DType {
        match self {
            Tensors::InPlace(tensor) => tensor.dtype(),
            Tensors::Apart(_, output) => output.dtype(),
        }
    }

    /// The lengths of input and output; of one tensor, its length twice.
    pub(super) fn lens(&self) -> (usize, usize) {
        match self {
            Tensors::InPlace(tensor) => (tensor.count(), tensor.count()),
            Tensors::Apart(input, output) => (input.count(), output.count()),
        }
    }

    pub(super) fn is_in_place(&self) -> bool {
        matches!(self, Tensors::InPlace(_))
    }

    /// The memory, where input and output begin so many bytes into one tensor.
    pub(super) fn buffers(&mut self, (input_at, output_at): (usize, usize)) -> Buffers {
        match self {
            Tensors::Apart(from, to) => Buffers { input: from.pointer(), output: to.pointer() },
            Tensors::InPlace(tensor) => {
                let pointer = tensor.pointer();
                Buffers { input: pointer.wrapping_add(input_at), output: pointer.wrapping_add(output_at) }
            }
        }
    }

    /// Whether one of them is on the host and would be dense but for its strides.
    pub(super) fn can_be_packed(&self) -> bool {
        match self {
            Tensors::InPlace(tensor) => tensor.is_strided_host(),
            Tensors::Apart(input, output) => input.is_strided_host() || output.is_strided_host(),
        }
    }

    /// Fails unless both are dense and of one element type.
    #[inline]
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Tensors::InPlace(tensor) => tensor.check_dense(),
            Tensors::Apart(input, output) => {
                input.check_dense()?;
                output.check_dense()?;
                if input.dtype() == output.dtype() {
                    return Ok(());
                }
                Err(Error::invalid(format!("the input is {}, the output {}", input.dtype(), output.dtype())))
            }
        }
    }
}
