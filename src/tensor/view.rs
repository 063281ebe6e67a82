//! Views of tensors whose element type is known at run time only.

use super::layout::Layout;
use super::{DType, Element, packing};
use crate::error::Result;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

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

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Host => f.write_str("the host's memory"),
            Device::Cuda(ordinal) => write!(f, "memory of CUDA device {ordinal}"),
        }
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
            self.layout.shape()
        }

        /// The strides in elements; `None` where the tensor is dense and row-major by construction.
        pub fn strides(&self) -> Option<&[isize]> {
            self.layout.strides()
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

        /// The addresses that the elements reach: from the first byte of the lowest one to behind the last byte of the
        /// highest. Between strided elements lies what is none of them.
        pub fn addresses(&self) -> Range<usize> {
            let (before, behind) = self.layout.reached();
            let first = self.pointer.addr();
            first.wrapping_sub(before)..first.wrapping_add(behind)
        }

        /// Whether it is on the host and has to be packed before an operation can use it.
        pub(crate) fn is_strided_host(&self) -> bool {
            self.layout.is_strided_host()
        }

        /// The bytes of all elements together.
        pub(crate) fn bytes(&self) -> usize {
            self.layout.bytes()
        }

        /// Copies the elements, which are on the host, to where they stand one after another.
        ///
        /// # Panics
        /// Where there is no room for exactly these.
        pub(crate) fn pack(&self, into: &mut [u8]) {
            assert!(self.device() == Device::Host && into.len() == self.bytes());
            // SAFETY: the elements can be read for as long as this lives, says whoever made it; there is room for them,
            // borrowed exclusively.
            unsafe { packing::pack(&self.layout, self.pointer, into.as_mut_ptr()) }
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

    /// A view of memory that somebody else describes. `strides` are in elements and may be negative; `None` is dense.
    /// `pointer` is the address of the element whose indices are all 0.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where shape and strides differ in length or reach what no
    /// memory holds.
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

    /// A view of memory that is laid out so.
    ///
    /// # Safety
    /// As [`from_raw`](Self::from_raw).
    pub(super) unsafe fn laid(pointer: *const u8, layout: Layout) -> Self {
        TensorRef { pointer, layout, memory: PhantomData }
    }

    /// The address of the first element.
    pub fn pointer(&self) -> *const u8 {
        self.pointer
    }

    /// Fails unless its elements stand one after another.
    #[inline]
    pub(crate) fn check_dense(&self) -> Result<()> {
        self.layout.check_dense("input")
    }
}

impl<'a> TensorMut<'a> {
    /// A one-dimensional view of a slice.
    pub fn from_slice<T: Element>(data: &'a mut [T]) -> Self {
        let layout = Layout::flat(T::DTYPE, data.len());
        TensorMut { pointer: data.as_mut_ptr().cast(), layout, memory: PhantomData }
    }

    /// A view of memory that somebody else describes. `strides` are in elements and may be negative; `None` is dense.
    /// `pointer` is the address of the element whose indices are all 0.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where shape and strides differ in length or reach what no
    /// memory holds.
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
        assert!(
            self.device() == Device::Host && self.is_contiguous(),
            "only of those that have been checked"
        );
        // SAFETY: the view borrows as many bytes exclusively, dense and in ordinary memory, as was just checked.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.layout.count * self.layout.dtype.size()) }
    }

    /// Nothing, of this type.
    pub(crate) fn empty(dtype: DType) -> Self {
        let pointer = std::ptr::NonNull::<u64>::dangling().as_ptr().cast();
        TensorMut { pointer, layout: Layout::flat(dtype, 0), memory: PhantomData }
    }

    /// A view of memory that is laid out so.
    ///
    /// # Safety
    /// As [`from_raw`](Self::from_raw).
    pub(super) unsafe fn laid(pointer: *mut u8, layout: Layout) -> Self {
        TensorMut { pointer, layout, memory: PhantomData }
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut { pointer: self.pointer, layout: self.layout.clone(), memory: PhantomData }
    }

    /// The address of the first element.
    pub fn pointer(&mut self) -> *mut u8 {
        self.pointer
    }

    /// Fails unless its elements stand one after another.
    #[inline]
    pub(crate) fn check_dense(&self) -> Result<()> {
        self.layout.check_dense("output")
    }

    /// Fails where two of its elements share memory.
    pub(crate) fn check_apart(&self) -> Result<()> {
        self.layout.check_apart("output")
    }

    /// Copies elements that stand one after another to where they belong, on the host. What lies between them is not touched.
    ///
    /// # Panics
    /// Where these are not exactly its elements.
    pub(crate) fn unpack(&mut self, from: &[u8]) {
        assert!(self.device() == Device::Host && from.len() == self.bytes());
        // SAFETY: the elements can be written for as long as this lives, says whoever made it, and nobody else touches
        // them: what is read is borrowed and lies apart.
        unsafe { packing::unpack(&self.layout, from.as_ptr(), self.pointer) }
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
        assert!(view(&[3], &[2]).check_dense().is_err());
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
