//! What the room for Arrow data may know of a communicator and of a call's options, besides what everybody may.

use super::{Call, Communicator, Options, Tensors, With};
use crate::error::{Error, Result};
use crate::memory::Recycler;
use crate::reduce::NullPolicy;

impl Communicator {
    /// The memory that results come from.
    pub(crate) fn recycler(&self) -> &Recycler {
        &self.recycler
    }

    /// The number of the next operation.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequencer.borrow().place()
    }

    /// An error with this rank, and the culprit's host where it is known.
    pub(crate) fn complete(&self, error: Error) -> Error {
        self.line.complete(error)
    }
}

impl<'a> With<'a> {
    /// The communicator that it calls.
    pub(crate) fn communicator(&self) -> &'a Communicator {
        self.communicator
    }

    /// The same with options that hold for any operation: for those that a call needs besides its own.
    pub(crate) fn beside(&self) -> With<'a> {
        let options = Options { deadline: self.options.deadline, reused: true, ..Options::default() };
        With { communicator: self.communicator, options }
    }

    /// The same for calls whose tensors are the library's own, all or some: no other library may keep them after the call.
    pub(crate) fn over_own_memory(&self) -> With<'a> {
        With { communicator: self.communicator, options: Options { reused: true, ..self.options.clone() } }
    }

    /// Fails where a call with these tensors would be refused before it is sent; with others of its kind as pieces of one operation, where
    /// it is not alone.
    pub(crate) fn check_call(&self, call: &Call<'_>, mut tensors: Tensors<'_>, alone: bool) -> Result<()> {
        let mut request = self.check(call, &mut tensors)?.request;
        let course = if alone {
            self.course(&mut request)
        } else {
            self.communicator.sequencer.borrow().course_of_pieces(&mut request, &self.options)
        };
        course.map(drop)
    }

    /// What becomes of nulls.
    pub(crate) fn null_policy(&self) -> NullPolicy {
        self.options.nulls.unwrap_or_default()
    }
}
