//! Views of tensors whose element type is known at run time only.

use super::{DType, Element};
use crate::error::{Error, Result};
use std::marker::PhantomData;

/// Where a tensor's memory lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// Ordinary memory of this process.
    #[default]
    Host,
    /// Memory of the CUDA device with this ordinal.
    Cuda(u32),
}

/// Extents. Of one, nothing is allocated.
#[derive(Debug, Clone)]
enum Shape {
    Flat([usize; 1]),
    Any(Vec<usize>),
}

impl Shape {
    fn as_slice(&self) -> &[usize] {
        match self {
            Shape::Flat(extent) => extent,
            Shape::Any(extents) => extents,
        }
    }
}

/// The layout that both kinds of view share.
#[derive(Debug, Clone)]
struct Layout {
    dtype: DType,
    shape: Shape,
    /// In elements; `None` is row-major and dense.
    strides: Option<Vec<isize>>,
    device: Device,
    count: usize,
}

impl Layout {
    fn new(dtype: DType, shape: &[usize], strides: Option<&[isize]>, device: Device) -> Result<Self> {
        let count = shape
            .iter()
            .try_fold(1usize, |count, &extent| count.checked_mul(extent))
            .filter(|count| count.checked_mul(dtype.size()).is_some_and(|bytes| bytes <= isize::MAX as usize))
            .ok_or_else(|| {
                Error::invalid(format!("a {dtype} tensor of shape {shape:?} does not fit in memory"))
            })?;
        if let Some(strides) = strides
            && strides.len() != shape.len()
        {
            return Err(Error::invalid(format!(
                "{} strides for a shape of {} extents",
                strides.len(),
                shape.len()
            )));
        }
        let shape = match *shape {
            [extent] => Shape::Flat([extent]),
            _ => Shape::Any(shape.to_vec()),
        };
        Ok(Layout { dtype, shape, strides: strides.map(<[isize]>::to_vec), device, count })
    }

    #[inline]
    fn flat(dtype: DType, count: usize) -> Self {
        Layout { dtype, shape: Shape::Flat([count]), strides: None, device: Device::Host, count }
    }

    /// Whether the elements stand one after another in row-major order.
    fn is_contiguous(&self) -> bool {
        let Some(strides) = &self.strides else { return true };
        let mut expected = 1isize;
        for (&extent, &stride) in self.shape.as_slice().iter().zip(strides).rev() {
            if extent > 1 && stride != expected {
                return self.count == 0;
            }
            expected = expected.saturating_mul(extent as isize);
        }
        true
    }

    /// Only dense host tensors are reduced today; anything else is refused before a byte is sent.
    fn check_dense_host(&self, role: &str) -> Result<()> {
        if self.device != Device::Host {
            return Err(Error::unsupported(format!(
                "the {role} is on {:?}, the backend works on the host",
                self.device
            ))
            .remedy("copy the tensor to host memory first"));
        }
        if !self.is_contiguous() {
            return Err(Error::unsupported(format!(
                "the {role} of shape {:?} has strides {:?}",
                self.shape.as_slice(),
                self.strides.as_deref().unwrap_or_default()
            ))
            .remedy("pass a contiguous tensor"));
        }
        Ok(())
    }
}

macro_rules! accessors {
    () => {
        /// The element type.
        pub fn dtype(&self) -> DType {
            self.layout.dtype
        }

        /// The extents, outermost first.
        pub fn shape(&self) -> &[usize] {
            self.layout.shape.as_slice()
        }

        /// The strides in elements; `None` where the tensor is dense and row-major by construction.
        pub fn strides(&self) -> Option<&[isize]> {
            self.layout.strides.as_deref()
        }

        /// Where the memory lives.
        pub fn device(&self) -> Device {
            self.layout.device
        }

        /// The number of elements.
        pub fn count(&self) -> usize {
            self.layout.count
        }

        /// Whether the elements stand one after another in row-major order.
        pub fn is_contiguous(&self) -> bool {
            self.layout.is_contiguous()
        }
    };
}

/// A tensor that is read. Borrows its memory.
///
/// ```
/// use ringfold::tensor::{DType, TensorRef};
/// let data = [1.0f32, 2.0, 3.0];
/// let view = TensorRef::from_slice(&data);
/// assert_eq!((view.dtype(), view.count()), (DType::F32, 3));
/// ```
#[derive(Debug, Clone)]
pub struct TensorRef<'a> {
    pointer: *const u8,
    layout: Layout,
    memory: PhantomData<&'a [u8]>,
}

/// A tensor that is written, or read and written. Borrows its memory exclusively.
#[derive(Debug)]
pub struct TensorMut<'a> {
    pointer: *mut u8,
    layout: Layout,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: a TensorRef stands for a `&[T]` of plain data, which is Send.
unsafe impl Send for TensorRef<'_> {}
// SAFETY: a TensorMut stands for a `&mut [T]` of plain data, which is Send.
unsafe impl Send for TensorMut<'_> {}

impl<'a> TensorRef<'a> {
    /// A one-dimensional view of a slice.
    pub fn from_slice<T: Element>(data: &'a [T]) -> Self {
        let layout = Layout::flat(T::DTYPE, data.len());
        TensorRef { pointer: data.as_ptr().cast(), layout, memory: PhantomData }
    }

    /// A view of memory that somebody else describes. `strides` are in elements; `None` is dense.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the shape overflows or shape and strides
    /// differ in length.
    ///
    /// # Safety
    /// For the life of `'a`, the memory that shape and strides reach from `pointer` must be initialised,
    /// readable on `device`, and written by nobody. `pointer` may be dangling where the tensor is empty. It need
    /// not be aligned.
    pub unsafe fn from_raw(
        pointer: *const u8,
        dtype: DType,
        shape: &[usize],
        strides: Option<&[isize]>,
        device: Device,
    ) -> Result<Self> {
        Ok(TensorRef { pointer, layout: Layout::new(dtype, shape, strides, device)?, memory: PhantomData })
    }

    /// A dense view of one dimension of host memory that somebody else describes. It checks nothing and allocates nothing.
    ///
    /// # Safety
    /// As [`from_raw`](Self::from_raw), and the elements are at most `isize::MAX` bytes.
    #[inline]
    pub unsafe fn from_raw_slice(pointer: *const u8, dtype: DType, count: usize) -> Self {
        TensorRef { pointer, layout: Layout::flat(dtype, count), memory: PhantomData }
    }

    /// A one-dimensional view of bytes as elements of a type that is known at run time; what is too short for an element at
    /// the end is left out. They need not be aligned.
    pub fn from_bytes(bytes: &'a [u8], dtype: DType) -> Self {
        let layout = Layout::flat(dtype, bytes.len() / dtype.size());
        TensorRef { pointer: bytes.as_ptr(), layout, memory: PhantomData }
    }

    accessors!();

    /// Nothing, of this type.
    pub(crate) fn empty(dtype: DType) -> Self {
        let pointer = std::ptr::NonNull::<u64>::dangling().as_ptr().cast_const().cast();
        TensorRef { pointer, layout: Layout::flat(dtype, 0), memory: PhantomData }
    }

    /// The address of the first element.
    pub fn pointer(&self) -> *const u8 {
        self.pointer
    }

    /// Fails unless a host backend can read it as it is.
    pub(crate) fn check_dense_host(&self) -> Result<()> {
        self.layout.check_dense_host("input")
    }
}

impl<'a> TensorMut<'a> {
    /// A one-dimensional view of a slice.
    pub fn from_slice<T: Element>(data: &'a mut [T]) -> Self {
        let layout = Layout::flat(T::DTYPE, data.len());
        TensorMut { pointer: data.as_mut_ptr().cast(), layout, memory: PhantomData }
    }

    /// A view of memory that somebody else describes. `strides` are in elements; `None` is dense.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where the shape overflows or shape and strides
    /// differ in length.
    ///
    /// # Safety
    /// For the life of `'a`, the memory that shape and strides reach from `pointer` must be initialised,
    /// readable and writable on `device`, and touched by nobody else. `pointer` may be dangling where the tensor is
    /// empty. It need not be aligned.
    pub unsafe fn from_raw(
        pointer: *mut u8,
        dtype: DType,
        shape: &[usize],
        strides: Option<&[isize]>,
        device: Device,
    ) -> Result<Self> {
        Ok(TensorMut { pointer, layout: Layout::new(dtype, shape, strides, device)?, memory: PhantomData })
    }

    /// A dense view of one dimension of host memory that somebody else describes. It checks nothing and allocates nothing.
    ///
    /// # Safety
    /// As [`from_raw`](Self::from_raw), and the elements are at most `isize::MAX` bytes.
    #[inline]
    pub unsafe fn from_raw_slice(pointer: *mut u8, dtype: DType, count: usize) -> Self {
        TensorMut { pointer, layout: Layout::flat(dtype, count), memory: PhantomData }
    }

    /// A one-dimensional view of bytes as elements of a type that is known at run time; what is too short for an element at
    /// the end is left out. They need not be aligned.
    ///
    /// ```
    /// use ringfold::tensor::{DType, TensorMut};
    /// let mut bytes = [0u8; 13];
    /// assert_eq!(TensorMut::from_bytes(&mut bytes, DType::F32).count(), 3);
    /// ```
    pub fn from_bytes(bytes: &'a mut [u8], dtype: DType) -> Self {
        let layout = Layout::flat(dtype, bytes.len() / dtype.size());
        TensorMut { pointer: bytes.as_mut_ptr(), layout, memory: PhantomData }
    }

    accessors!();

    /// The bytes of a dense host tensor.
    #[cfg(feature = "arrow")]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(self.check_dense_host().is_ok(), "only of those that have been checked");
        // SAFETY: the view borrows as many bytes exclusively, dense and in ordinary memory, as was just checked.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.layout.count * self.layout.dtype.size()) }
    }

    /// Nothing, of this type.
    pub(crate) fn empty(dtype: DType) -> Self {
        let pointer = std::ptr::NonNull::<u64>::dangling().as_ptr().cast();
        TensorMut { pointer, layout: Layout::flat(dtype, 0), memory: PhantomData }
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut { pointer: self.pointer, layout: self.layout.clone(), memory: PhantomData }
    }

    /// The address of the first element.
    pub fn pointer(&mut self) -> *mut u8 {
        self.pointer
    }

    /// Fails unless a host backend can write it as it is.
    pub(crate) fn check_dense_host(&self) -> Result<()> {
        self.layout.check_dense_host("output")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguity_follows_the_strides() {
        let data = [0u8; 24];
        let view = |shape: &[usize], strides: &[isize]| {
            // SAFETY: every layout below stays within the 24 bytes of `data`.
            unsafe { TensorRef::from_raw(data.as_ptr(), DType::U8, shape, Some(strides), Device::Host) }
                .unwrap()
        };
        assert!(view(&[2, 3, 4], &[12, 4, 1]).is_contiguous());
        assert!(!view(&[2, 3, 4], &[1, 2, 6]).is_contiguous());
        assert!(view(&[1, 3], &[99, 1]).is_contiguous(), "the stride of an extent of one does not matter");
        assert!(!view(&[3], &[2]).is_contiguous());
        assert!(view(&[0, 3], &[7, 2]).is_contiguous(), "nothing is contiguous");
        assert!(view(&[3], &[2]).check_dense_host().is_err());
    }

    #[test]
    fn impossible_shapes_are_refused() {
        // SAFETY: the constructor only looks at the shape here.
        let huge = unsafe {
            TensorRef::from_raw(std::ptr::null(), DType::F64, &[usize::MAX, 2], None, Device::Host)
        };
        assert!(huge.unwrap_err().to_string().contains("does not fit"));
        // SAFETY: as above.
        let odd =
            unsafe { TensorRef::from_raw(std::ptr::null(), DType::F64, &[1, 2], Some(&[1]), Device::Host) };
        assert!(odd.is_err());
    }
}
