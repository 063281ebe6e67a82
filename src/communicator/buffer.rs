//! Memory that an operation owns while it is under way.

use super::shared::SharedTensor;
use super::tensors::Tensors;
use crate::tensor::{Element, TensorMut, TensorRef};

mod sealed {
    pub trait Sealed {}
}

/// What an operation owns while it is under way, and gives back at its end. Sealed.
pub trait Owner: sealed::Sealed + Send + Sized + 'static {
    /// What comes back when the operation is complete.
    type Output;

    /// Whether the memory goes with it: it can be left to a library for ever.
    #[doc(hidden)]
    const OWNS: bool = true;

    /// What comes back.
    #[doc(hidden)]
    fn into_output(self) -> Self::Output;
}

/// Memory that can be given to an operation which outlives the call that starts it: a vector or a [`SharedTensor`] that is
/// input and output at once, or two of a kind, `(input, output)`. A rank that has no input or no output passes an empty one. Sealed.
///
/// It is owned and not borrowed, because the handle of a started operation can be forgotten, and a borrow would then
/// end while bytes still arrive.
pub trait Buffer: Owner {
    /// Its elements: a slice, or one of the input and one of the output.
    type Slices<'a>;

    /// Its tensors. Their memory does not move when the buffer is moved.
    #[doc(hidden)]
    fn tensors(&mut self) -> Tensors<'_>;

    /// Its elements.
    #[doc(hidden)]
    fn slices(&mut self) -> Self::Slices<'_>;
}

/// Tensors that are one operation. Their memory does not move when this is moved.
pub(super) trait Batch: Owner {
    fn each(&mut self) -> Vec<TensorMut<'_>>;
}

macro_rules! both_ways {
    ($memory:ident) => {
        impl<T: Element> sealed::Sealed for $memory<T> {}

        impl<T: Element> Owner for $memory<T> {
            type Output = Self;

            fn into_output(self) -> Self {
                self
            }
        }

        impl<T: Element> Buffer for $memory<T> {
            type Slices<'a> = &'a mut [T];

            fn slices(&mut self) -> &mut [T] {
                self
            }

            fn tensors(&mut self) -> Tensors<'_> {
                Tensors::InPlace(TensorMut::from_slice(self))
            }
        }

        impl<T: Element> sealed::Sealed for ($memory<T>, $memory<T>) {}

        impl<T: Element> Owner for ($memory<T>, $memory<T>) {
            type Output = Self;

            fn into_output(self) -> Self {
                self
            }
        }

        impl<T: Element> Buffer for ($memory<T>, $memory<T>) {
            type Slices<'a> = (&'a mut [T], &'a mut [T]);

            fn slices(&mut self) -> (&mut [T], &mut [T]) {
                (&mut self.0, &mut self.1)
            }

            fn tensors(&mut self) -> Tensors<'_> {
                Tensors::Apart(TensorRef::from_slice(&self.0), TensorMut::from_slice(&mut self.1))
            }
        }
    };
}

both_ways!(Vec);
both_ways!(SharedTensor);

macro_rules! one_way {
    ($($(#[$doc:meta])* $name:ident: |$this:ident| $tensors:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<T>(pub(super) Vec<T>);

        impl<T: Element> sealed::Sealed for $name<T> {}

        impl<T: Element> Owner for $name<T> {
            type Output = Vec<T>;

            fn into_output(self) -> Vec<T> {
                self.0
            }
        }

        impl<T: Element> Buffer for $name<T> {
            type Slices<'a> = &'a mut [T];

            fn slices(&mut self) -> &mut [T] {
                &mut self.0
            }

            fn tensors(&mut self) -> Tensors<'_> {
                let $this = self;
                $tensors
            }
        }
    )*};
}

one_way! {
    /// The memory of a message that is sent.
    Outgoing: |this| Tensors::Apart(TensorRef::from_slice(&this.0), TensorMut::empty(T::DTYPE));
    /// The memory of a message that is received.
    Incoming: |this| Tensors::Apart(TensorRef::empty(T::DTYPE), TensorMut::from_slice(&mut this.0));
}

/// Memory that somebody else owns and describes by its address: for bindings to other languages. An operation that has it
/// holds on to nothing, so that its lender must see to it.
#[derive(Debug)]
pub struct Lent(Tensors<'static>);

impl Lent {
    /// Lends the memory of these tensors.
    ///
    /// # Safety
    /// Until the operation that gets it is complete, or for as long as it is prepared, the memory is where it is, and nobody
    /// else reads what is written or writes what is read. Where the operation's handle is dropped, nobody tells when that
    /// is.
    pub unsafe fn new(tensors: Tensors<'_>) -> Self {
        // SAFETY: only the lifetime changes, and the caller promises one that is long enough.
        Lent(unsafe { std::mem::transmute::<Tensors<'_>, Tensors<'static>>(tensors) })
    }
}

impl sealed::Sealed for Lent {}

impl Owner for Lent {
    type Output = ();
    const OWNS: bool = false;

    fn into_output(self) {}
}

impl Buffer for Lent {
    type Slices<'a> = ();

    fn slices(&mut self) {}

    fn tensors(&mut self) -> Tensors<'_> {
        match &mut self.0 {
            Tensors::InPlace(tensor) => Tensors::InPlace(tensor.reborrow()),
            Tensors::Apart(input, output) => Tensors::Apart(input.clone(), output.reborrow()),
        }
    }
}

/// The tensors of a batch that somebody else owns. See [`Lent`].
#[derive(Debug)]
pub struct LentMany(pub(super) Vec<TensorMut<'static>>);

impl LentMany {
    /// Lends the memory of these tensors, which lie apart.
    ///
    /// # Safety
    /// As [`Lent::new`], for each.
    pub unsafe fn new(tensors: Vec<TensorMut<'_>>) -> Self {
        // SAFETY: only the lifetime changes, and the caller promises one that is long enough.
        LentMany(unsafe { std::mem::transmute::<Vec<TensorMut<'_>>, Vec<TensorMut<'static>>>(tensors) })
    }
}

impl sealed::Sealed for LentMany {}

impl Owner for LentMany {
    type Output = ();
    const OWNS: bool = false;

    fn into_output(self) {}
}

/// The memory of a barrier, which nobody has to look at.
#[derive(Debug)]
pub struct Nothing(Vec<u8>, Vec<u8>);

impl Default for Nothing {
    fn default() -> Self {
        Nothing::new()
    }
}

impl Nothing {
    /// What [`Call::Barrier`](crate::Call::Barrier) is started and prepared with.
    pub fn new() -> Self {
        Nothing(vec![1], vec![0])
    }
}

impl sealed::Sealed for Nothing {}

impl Owner for Nothing {
    type Output = ();

    fn into_output(self) {}
}

impl Buffer for Nothing {
    type Slices<'a> = ();

    fn slices(&mut self) {}

    fn tensors(&mut self) -> Tensors<'_> {
        Tensors::Apart(TensorRef::from_slice(&self.0), TensorMut::from_slice(&mut self.1))
    }
}

/// The tensors of a batch.
#[derive(Debug)]
pub struct Many<T>(pub(super) Vec<Vec<T>>);

impl<T: Element> sealed::Sealed for Many<T> {}

impl<T: Element> Batch for Many<T> {
    fn each(&mut self) -> Vec<TensorMut<'_>> {
        self.0.iter_mut().map(|one| TensorMut::from_slice(one)).collect()
    }
}

impl Batch for LentMany {
    fn each(&mut self) -> Vec<TensorMut<'_>> {
        self.0.iter_mut().map(TensorMut::reborrow).collect()
    }
}

impl<T: Element> Owner for Many<T> {
    type Output = Vec<Vec<T>>;

    fn into_output(self) -> Vec<Vec<T>> {
        self.0
    }
}
