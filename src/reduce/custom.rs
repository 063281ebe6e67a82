//! Reductions that users write.

use super::ReduceOp;
use super::balanced::{self, BETWEEN, Buffers, Nodes};
use crate::error::{Error, Result};
use crate::tensor::{DType, Element};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// The most bytes that one value of a user's reduction may have.
pub const WIDEST: usize = 64 << 10;

/// What all ranks must have alike of a user's reduction, and what a schedule depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// A hash of the reduction's name.
    pub name: u64,
    /// The bytes of one value.
    pub width: u32,
    /// Whether the two operands may be exchanged.
    pub commutative: bool,
}

impl Signature {
    /// All of it in one number, for ranks to compare.
    pub fn hash(&self) -> u64 {
        let rest = u64::from(self.width) << 1 | u64::from(self.commutative);
        (self.name ^ rest.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A reduction that a user has written: made by [`ReduceOp::custom`] and [`ReduceOp::custom_bytes`].
///
/// Send, Sync and cheap to clone. All ranks must use one name, width and commutativity, which are compared, and one
/// function, which cannot be. In a [scope](crate::Communicator::scope), too, calls with reductions of one name are taken
/// to have one function. The function must be associative; where it is declared not commutative, the values are
/// combined in rank order (by [`Order::Fixed`](crate::Order::Fixed)).
#[derive(Clone)]
pub struct CustomOp {
    name: Arc<str>,
    signature: Signature,
    dtype: DType,
    apply: Arc<Apply>,
}

/// (left, right, into): whole values, one after another; `into` holds one of the operands already, and lies apart from
/// the other. All are of one length.
type Apply = dyn Fn(Operand<'_>, &mut [u8]) + Send + Sync;

/// The operand that does not lie where the result goes.
#[derive(Debug, Clone, Copy)]
enum Operand<'a> {
    Left(&'a [u8]),
    Right(&'a [u8]),
}

impl ReduceOp {
    /// A reduction of elements by a function of the user's, called `combine(left, right)`.
    ///
    /// `name` is what ranks compare and errors tell. The function must be associative, as far as the user cares; it may
    /// be run on any thread of the library, and should not block. Where it panics, the group fails with
    /// [`UserPanic`](crate::ErrorKind::UserPanic) on every rank, which names this rank and the reduction.
    ///
    /// ```
    /// use ringfold::{Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let hypot = ReduceOp::custom("hypot", true, |a: f64, b: f64| a.hypot(b));
    /// let mut norms = [3.0f64, 4.0];
    /// comm.all_reduce(&mut norms, &hypot)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn custom<T: Element>(
        name: &str,
        commutative: bool,
        combine: impl Fn(T, T) -> T + Send + Sync + 'static,
    ) -> CustomOp {
        let size = size_of::<T>();
        let read = |bytes: &[u8]| {
            assert_eq!(bytes.len(), size_of::<T>());
            // SAFETY: there are as many bytes as the type has, and any of them are a value of an Element.
            unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
        };
        let apply = move |operand: Operand<'_>, into: &mut [u8]| {
            let (Operand::Left(other) | Operand::Right(other)) = operand;
            for (into, other) in into.chunks_exact_mut(size).zip(other.chunks_exact(size)) {
                let result = match operand {
                    Operand::Left(_) => combine(read(other), read(into)),
                    Operand::Right(_) => combine(read(into), read(other)),
                };
                // SAFETY: `into` is one value's bytes, and nobody else's now.
                unsafe { into.as_mut_ptr().cast::<T>().write_unaligned(result) }
            }
        };
        CustomOp::new(name, size, commutative, T::DTYPE, Arc::new(apply))
    }

    /// A reduction of values of `width` bytes each, whatever they are: tensors of them are `u8` tensors whose length
    /// is a multiple of `width`. `combine(left, right, into)` gets one value at a time, at any alignment; `into` holds
    /// zeros.
    ///
    /// ```
    /// use ringfold::{Communicator, ReduceOp};
    /// // The largest value and the rank that has it: (f32, u32).
    /// let argmax = ReduceOp::custom_bytes("argmax", 8, true, |left, right, into| {
    ///     let value = |bytes: &[u8]| f32::from_ne_bytes(bytes[..4].try_into().unwrap());
    ///     into.copy_from_slice(if value(left) >= value(right) { left } else { right });
    /// })?;
    /// let comm = Communicator::local(1).remove(0);
    /// let mut best = [0u8; 8];
    /// best[..4].copy_from_slice(&0.5f32.to_ne_bytes());
    /// best[4..].copy_from_slice(&(comm.rank() as u32).to_ne_bytes());
    /// comm.all_reduce(&mut best, &argmax)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where `width` is 0 or above 64 KiB.
    pub fn custom_bytes(
        name: &str,
        width: usize,
        commutative: bool,
        combine: impl Fn(&[u8], &[u8], &mut [u8]) + Send + Sync + 'static,
    ) -> Result<CustomOp> {
        if width == 0 || width > WIDEST {
            let text = format!("the reduction {name:?} of values of {width} bytes");
            return Err(Error::invalid(text).remedy(format!("use values of 1 to {WIDEST} bytes")));
        }
        let apply = move |operand: Operand<'_>, into: &mut [u8]| {
            let (Operand::Left(other) | Operand::Right(other)) = operand;
            // Values of common sizes need no memory of their own.
            let (mut small, mut large) = ([0u8; 256], Vec::new());
            let result = match small.get_mut(..width) {
                Some(small) => small,
                None => {
                    large.resize(width, 0);
                    &mut large[..]
                }
            };
            for (into, other) in into.chunks_exact_mut(width).zip(other.chunks_exact(width)) {
                result.fill(0);
                match operand {
                    Operand::Left(_) => combine(other, into, result),
                    Operand::Right(_) => combine(into, other, result),
                }
                into.copy_from_slice(result);
            }
        };
        Ok(CustomOp::new(name, width, commutative, DType::U8, Arc::new(apply)))
    }
}

impl CustomOp {
    /// A reduction by a function that takes many values at once: for bindings to other languages, where each call costs.
    /// `combine(left, right, into, count)` makes `into[i] = left[i] op right[i]` for `count` values of `width` bytes each, at
    /// any alignment; `into` is either `left` or `right`. Where it returns a text, the group fails as after a panic, and the
    /// text says why.
    ///
    /// ```
    /// use ringfold::{Communicator, CustomOp, DType};
    /// let xor = CustomOp::blocks("xor", DType::U8, 1, true, |left, right, into, count| {
    ///     // SAFETY: each of the three has `count` bytes, and the one that is written is read at the same place only.
    ///     (0..count).for_each(|i| unsafe { *into.add(i) = *left.add(i) ^ *right.add(i) });
    ///     Ok(())
    /// })?;
    /// let comm = Communicator::local(1).remove(0);
    /// comm.all_reduce(&mut [1u8, 2], &xor)?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where `width` is 0, above 64 KiB or no multiple of an
    /// element's size.
    pub fn blocks(
        name: &str,
        dtype: DType,
        width: usize,
        commutative: bool,
        combine: impl Fn(*const u8, *const u8, *mut u8, usize) -> std::result::Result<(), String>
        + Send
        + Sync
        + 'static,
    ) -> Result<CustomOp> {
        if width == 0 || width > WIDEST || !width.is_multiple_of(dtype.size()) {
            let text = format!("the reduction {name:?} of {dtype} by values of {width} bytes");
            return Err(Error::invalid(text)
                .remedy(format!("use values of whole elements, of at most {WIDEST} bytes")));
        }
        let apply = move |operand: Operand<'_>, into: &mut [u8]| {
            let (count, into) = (into.len() / width, into.as_mut_ptr());
            let done = match operand {
                Operand::Left(other) => combine(other.as_ptr(), into, into, count),
                Operand::Right(other) => combine(into, other.as_ptr(), into, count),
            };
            if let Err(why) = done {
                // As a panic would, without its report on the standard error.
                resume_unwind(Box::new(why));
            }
        };
        Ok(CustomOp::new(name, width, commutative, dtype, Arc::new(apply)))
    }

    fn new(name: &str, width: usize, commutative: bool, dtype: DType, apply: Arc<Apply>) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        CustomOp {
            name: name.into(),
            signature: Signature { name: hash, width: width as u32, commutative },
            dtype,
            apply,
        }
    }

    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What ranks compare.
    pub fn signature(&self) -> Signature {
        self.signature
    }

    /// The element type of its tensors.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// `into` becomes the balanced tree over the sources, `count` values; else as [`combine`](Self::combine).
    ///
    /// # Safety
    /// As for [`Kernels::fold`](super::Kernels::fold), by values of the signature's width; there are two sources or more.
    pub(crate) unsafe fn fold_balanced(
        &self,
        into: *mut u8,
        sources: &[*const u8],
        count: usize,
    ) -> std::result::Result<(), String> {
        let element = self.signature.width as usize;
        let portion = (BETWEEN / element).clamp(1, count.max(1));
        let each = (portion * element).next_multiple_of(align_of::<u64>());
        let mut between = vec![0u64; Buffers::needed(sources.len()) * each / size_of::<u64>()];
        let buffers = Buffers { at: between.as_mut_ptr().cast(), each };
        for first in (0..count).step_by(portion) {
            let (at, now) = (first * element, portion.min(count - first));
            balanced::tree(sources, at, into.wrapping_add(at), buffers, &mut Calls { op: self, count: now })?;
        }
        Ok(())
    }

    /// `into = a op b`, `count` values; the message of the panic where the user's function panics, and `into` is then
    /// unspecified.
    ///
    /// # Safety
    /// As for [`Kernels::combine`](super::Kernels::combine), by values of the signature's width.
    pub(crate) unsafe fn combine(
        &self,
        into: *mut u8,
        a: *const u8,
        b: *const u8,
        count: usize,
    ) -> std::result::Result<(), String> {
        let len = count * self.signature.width as usize;
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise; both operands in one place make one operand, which is read in full before.
        unsafe {
            if std::ptr::eq(into, b) && std::ptr::eq(into, a) {
                let twice = std::slice::from_raw_parts(a, len).to_vec();
                return self.call(Operand::Left(&twice), std::slice::from_raw_parts_mut(into, len));
            }
            if std::ptr::eq(into, b) {
                let left = std::slice::from_raw_parts(a, len);
                return self.call(Operand::Left(left), std::slice::from_raw_parts_mut(into, len));
            }
            if !std::ptr::eq(into, a) {
                std::ptr::copy_nonoverlapping(a, into, len);
            }
            let right = std::slice::from_raw_parts(b, len);
            self.call(Operand::Right(right), std::slice::from_raw_parts_mut(into, len))
        }
    }

    fn call(&self, operand: Operand<'_>, into: &mut [u8]) -> std::result::Result<(), String> {
        // What a panic leaves behind is the user's own state, and a result that nobody will look at.
        catch_unwind(AssertUnwindSafe(|| (self.apply)(operand, into))).map_err(|panic| self.told(&*panic))
    }

    fn told(&self, panic: &(dyn Any + Send)) -> String {
        let message = (panic.downcast_ref::<&str>().copied())
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("without a message");
        format!("the reduction {:?} panicked: {message}", self.name)
    }
}

/// The nodes of a tree over so many values each.
struct Calls<'a> {
    op: &'a CustomOp,
    count: usize,
}

impl Nodes for Calls<'_> {
    type Error = String;

    fn two(&mut self, into: *mut u8, a: *const u8, b: *const u8) -> std::result::Result<(), String> {
        // SAFETY: the operands are sources, of which the tree's maker says that they have these values, or buffers, which have room for
        // as many and were written before; the target is a buffer or the fold's, and an operand or apart from them.
        unsafe { self.op.combine(into, a, b, self.count) }
    }
}

impl fmt::Debug for CustomOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomOp").field("name", &self.name).field("signature", &self.signature).finish()
    }
}

/// A reduction as verbs take it: one that the library has, or one of the user's.
#[derive(Debug, Clone)]
pub enum Reduction {
    /// One that the library has.
    Named(ReduceOp),
    /// One of the user's.
    Custom(CustomOp),
}

impl From<ReduceOp> for Reduction {
    fn from(op: ReduceOp) -> Self {
        Reduction::Named(op)
    }
}

impl From<CustomOp> for Reduction {
    fn from(op: CustomOp) -> Self {
        Reduction::Custom(op)
    }
}

impl From<&CustomOp> for Reduction {
    fn from(op: &CustomOp) -> Self {
        Reduction::Custom(op.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(op: &CustomOp, a: &[i32], b: &[i32], place: usize) -> std::result::Result<Vec<i32>, String> {
        let (mut a, mut b, mut apart) = (a.to_vec(), b.to_vec(), vec![0; a.len()]);
        let count = a.len();
        let into = [apart.as_mut_ptr(), a.as_mut_ptr(), b.as_mut_ptr()][place].cast::<u8>();
        // SAFETY: three arrays of `count` elements; `into` is one of them.
        unsafe { op.combine(into, a.as_ptr().cast(), b.as_ptr().cast(), count) }?;
        Ok(vec![apart, a, b].swap_remove(place))
    }

    #[test]
    fn left_stays_left_wherever_the_result_goes() {
        let minus = ReduceOp::custom("minus", false, |a: i32, b: i32| a - b);
        let bytes = ReduceOp::custom_bytes("minus", 4, false, |a, b, into| {
            let value = |bytes: &[u8]| i32::from_ne_bytes(bytes.try_into().unwrap());
            into.copy_from_slice(&(value(a) - value(b)).to_ne_bytes());
        });
        let blocks = CustomOp::blocks("minus", DType::I32, 4, false, |a, b, into, count| {
            for i in 0..count {
                // SAFETY: each has `count` values.
                unsafe { *into.cast::<i32>().add(i) = *a.cast::<i32>().add(i) - *b.cast::<i32>().add(i) };
            }
            Ok(())
        });
        for op in [minus, bytes.unwrap(), blocks.unwrap()] {
            for place in 0..3 {
                assert_eq!(run(&op, &[5, 7, 9], &[1, 2, 3], place), Ok(vec![4, 5, 6]));
            }
        }
    }

    #[test]
    fn panics_become_words() {
        let angry = ReduceOp::custom("angry", true, |_: i32, b: i32| -> i32 { panic!("no {b}") });
        assert_eq!(run(&angry, &[1], &[2], 0), Err("the reduction \"angry\" panicked: no 2".into()));
        let failing = CustomOp::blocks("failing", DType::I32, 4, true, |_, _, _, _| Err("code 7".into()));
        let said = run(&failing.unwrap(), &[1], &[2], 0);
        assert_eq!(said, Err("the reduction \"failing\" panicked: code 7".into()));
        for width in [0, 6, WIDEST + 4] {
            assert!(CustomOp::blocks("odd", DType::I32, width, true, |_, _, _, _| Ok(())).is_err());
        }
    }

    #[test]
    fn signatures_tell_names_widths_and_commutativity_apart() {
        let op = |name, commutative| ReduceOp::custom(name, commutative, |a: i32, _: i32| a).signature();
        assert_eq!(op("a", true), op("a", true));
        assert_ne!(op("a", true).hash(), op("b", true).hash());
        assert_ne!(op("a", true).hash(), op("a", false).hash());
        assert!(ReduceOp::custom_bytes("none", 0, true, |_, _, _| {}).is_err());
        assert!(ReduceOp::custom_bytes("wide", WIDEST + 1, true, |_, _, _| {}).is_err());
    }
}
