//! Strided tensors that stand densely for the time of a call.

use super::tensors::Tensors;
use crate::error::Result;
use crate::memory::Pages;
use crate::tensor::{DType, TensorMut, TensorRef};

/// The tensors of a call, and dense memory in the place of those that are strided.
pub(super) struct Packed<'t> {
    given: Tensors<'t>,
    input: Option<Room>,
    /// Of one tensor, that of both.
    output: Option<Room>,
}

impl<'t> Packed<'t> {
    /// Makes room, and packs what is read. Nothing of what was given is written.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for an output whose elements share memory,
    /// [`Io`](crate::ErrorKind::Io) where there is no memory.
    pub(super) fn new(given: Tensors<'t>) -> Result<Self> {
        let (mut input, mut output) = (None, None);
        match &given {
            Tensors::InPlace(tensor) => {
                tensor.check_apart()?;
                tensor.pack(output.insert(Room::new(tensor.bytes())?).bytes());
            }
            Tensors::Apart(from, to) => {
                to.check_apart()?;
                if from.is_strided_host() {
                    from.pack(input.insert(Room::new(from.bytes())?).bytes());
                }
                if to.is_strided_host() {
                    output = Some(Room::new(to.bytes())?);
                }
            }
        }
        Ok(Packed { given, input, output })
    }

    /// The tensors to work with, all dense.
    pub(super) fn tensors(&mut self) -> Tensors<'_> {
        match &mut self.given {
            Tensors::InPlace(tensor) => Tensors::InPlace(match &mut self.output {
                Some(room) => room.write(tensor.dtype()),
                None => tensor.reborrow(),
            }),
            Tensors::Apart(from, to) => {
                let input = match &self.input {
                    Some(room) => room.read(from.dtype()),
                    None => from.clone(),
                };
                let output = match &mut self.output {
                    Some(room) => room.write(to.dtype()),
                    None => to.reborrow(),
                };
                Tensors::Apart(input, output)
            }
        }
    }

    /// Puts the output, which is complete, where it belongs.
    pub(super) fn unpack(&mut self) {
        let (Tensors::InPlace(to) | Tensors::Apart(_, to)) = &mut self.given;
        if let Some(room) = &mut self.output {
            to.unpack(room.bytes());
        }
    }
}

/// Memory for the elements of one tensor.
struct Room {
    pages: Pages,
    bytes: usize,
}

impl Room {
    fn new(bytes: usize) -> Result<Self> {
        Ok(Room { pages: Pages::zeroed(bytes)?, bytes })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the pages are this one's own, zeroed at first, and have so many bytes; they are borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pages.address(), self.bytes) }
    }

    fn read(&self, dtype: DType) -> TensorRef<'_> {
        // SAFETY: as above, and nobody writes them while this is borrowed.
        unsafe { TensorRef::from_raw_slice(self.pages.address(), dtype, self.bytes / dtype.size()) }
    }

    fn write(&mut self, dtype: DType) -> TensorMut<'_> {
        // SAFETY: as in `bytes`.
        unsafe { TensorMut::from_raw_slice(self.pages.address(), dtype, self.bytes / dtype.size()) }
    }
}
