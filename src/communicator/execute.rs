//! From a verb's tensors to its end: checked, made an operation, and run here or on the progress thread.

use super::batch::Ask;
use super::call::Call;
use super::completion::Completion;
use super::line::Handed;
use super::packed::Packed;
use super::recent::{Key, Known, Slot};
use super::sequencer::Course;
use super::site::Site;
use super::tensors::Tensors;
use super::{Communicator, Options, With};
use crate::backend::{Buffers, Operation};
use crate::collective::{Collective, Request};
use crate::error::{Error, Result};
use crate::reduce::CustomOp;
use std::sync::Arc;
use std::time::Duration;

/// A call that has been checked as far as one rank can, with the addresses of its memory.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) request: Request,
    /// Whether the call came with one tensor for input and output: the same on every rank, unlike the request's
    /// `in_place`, which a rank's part in a rooted collective may forbid.
    pub(super) one_tensor: bool,
    pub(super) buffers: Buffers,
    pub(super) custom: Option<CustomOp>,
    pub(super) site: Site,
}

impl With<'_> {
    /// Checks all that one rank can check.
    pub(super) fn check(&self, call: &Call<'_>, tensors: &mut Tensors<'_>) -> Result<Checked> {
        let line = &self.communicator.line;
        tensors.check_places(line).map_err(|error| line.complete(error))?;
        self.check_dense(call, tensors)
    }

    /// The same of tensors that may be where the backend does not reach.
    pub(super) fn check_dense(&self, call: &Call<'_>, tensors: &mut Tensors<'_>) -> Result<Checked> {
        let comm = self.communicator;
        let rank = comm.rank;
        let of_rank = |error: Error| comm.line.complete(error);
        tensors.check().map_err(of_rank)?;
        let lists = &mut comm.sequencer.borrow_mut().lists;
        let mut request = call.request(rank, comm.world, tensors, lists).map_err(of_rank)?;
        request.validate().map_err(of_rank)?;
        request.in_place = tensors.is_in_place() && request.in_place_shift(rank).is_some();
        if request.in_place {
            request.validate().map_err(of_rank)?;
        }
        // In elements of the tensors, which may be several to one of the request's.
        let each = request.element_size() / request.dtype.size();
        let (input, output) = (request.input_len(rank) * each, request.output_len(rank) * each);
        let (has_input, has_output) = tensors.lens();
        // A tensor that this rank's part does not use may have any length: the output of a rank that is not
        // the root of a reduce, for one.
        let expect = |role: &str, has: usize, needs: usize| {
            if has == needs || needs == 0 {
                return Ok(());
            }
            let text = format!("the {role} has {has} elements, this {} needs {needs}", request.collective);
            Err(of_rank(Error::invalid(text).remedy("pass buffers of the lengths that the counts say")))
        };
        if tensors.is_in_place() {
            expect("buffer", has_input, input.max(output))?;
        } else {
            expect("input", has_input, input)?;
            expect("output", has_output, output)?;
        }
        let buffers = tensors.buffers(offsets(&request, rank));
        let (one_tensor, site) = (tensors.is_in_place(), Site::of(tensors, &self.options));
        Ok(Checked { request, one_tensor, buffers, custom: call.custom().cloned(), site })
    }

    /// How a checked call is carried out; its request gets the order that the options demand.
    ///
    /// # Errors
    /// As [`Sequencer::course`](super::sequencer::Sequencer::course).
    pub(super) fn course(&self, request: &mut Request) -> Result<Course> {
        let course = self.communicator.sequencer.borrow().course(request, &self.options);
        course.map_err(|error| self.communicator.line.complete(error))
    }

    /// Makes a checked call the next operation in the order. What is refused here has not happened, and takes no place.
    ///
    /// # Safety
    /// Until the operation is complete, the memory of the tensors that were checked must be left to it: it is borrowed
    /// or owned for that long.
    pub(super) unsafe fn operation(&self, checked: &Checked) -> Result<Operation> {
        let mut request = checked.request.clone();
        let course = self.course(&mut request)?;
        // SAFETY: handed on to the caller.
        Ok(unsafe {
            self.communicator.next(&request, &course, checked.buffers, checked.custom.as_ref(), checked.site)
        })
    }

    /// Finds out what becomes of a call: what became of it before, where it repeats a recent one.
    #[inline]
    pub(super) fn recall(&self, call: &Call<'_>, tensors: &mut Tensors<'_>) -> Result<Slot> {
        let comm = self.communicator;
        let checked = tensors.check_places(&comm.line).and_then(|()| tensors.check());
        checked.map_err(|error| comm.line.complete(error))?;
        let key = call.key(tensors, &self.options);
        match key.as_ref().and_then(|key| comm.sequencer.borrow_mut().recent.find(key)) {
            Some(slot) => Ok(slot),
            None => self.learn(call, key, tensors),
        }
    }

    /// Checks a call that repeats none, and remembers what becomes of it.
    #[cold]
    fn learn(&self, call: &Call<'_>, key: Option<Key<'_>>, tensors: &mut Tensors<'_>) -> Result<Slot> {
        let Checked { mut request, .. } = self.check(call, tensors)?;
        let course = self.course(&mut request)?;
        let offsets = offsets(&request, self.communicator.rank);
        let known = Known { request, course, offsets };
        Ok(self.communicator.sequencer.borrow_mut().recent.put(key, known))
    }

    /// Carries out a call, and returns when it is complete.
    #[inline]
    pub(super) fn execute(&self, call: &Call<'_>, tensors: Tensors<'_>) -> Result<()> {
        if self.options.staging == Some(true) && !self.communicator.line.works_on_devices {
            return self.execute_staged(call, tensors);
        }
        self.execute_here(call, tensors)
    }

    /// The same of one whose tensors are used where they are.
    pub(super) fn execute_here(&self, call: &Call<'_>, mut tensors: Tensors<'_>) -> Result<()> {
        let slot = match self.recall(call, &mut tensors) {
            Ok(slot) => slot,
            Err(refusal) => return self.execute_packed(call, tensors, refusal),
        };
        // SAFETY: the tensors are borrowed until this returns, which is after the operation's end; where it unwinds
        // instead, the backend is never driven again.
        let mut operation = Some(unsafe { self.communicator.again(slot, call, &mut tensors, &self.options) });
        self.communicator.run(&mut operation)
    }

    /// Carries out a call that was refused, over packed tensors, where it was refused for its strides and the options say so.
    #[cold]
    fn execute_packed(&self, call: &Call<'_>, tensors: Tensors<'_>, refusal: Error) -> Result<()> {
        let comm = self.communicator;
        if self.options.pack != Some(true) || !tensors.can_be_packed() {
            return Err(refusal);
        }
        let mut packed = Packed::new(tensors).map_err(|error| comm.line.complete(error))?;
        let mut dense = packed.tensors();
        let slot = self.recall(call, &mut dense)?;
        // The output of a rank that gets nothing is not looked at.
        let writes = comm.sequencer.borrow().recent.get(slot).request.output_len(comm.rank) > 0;
        let options = Options { reused: true, ..self.options.clone() };
        // SAFETY: as in `execute`; the packed memory lives longer than the operation, too.
        let mut operation = Some(unsafe { comm.again(slot, call, &mut dense, &options) });
        comm.run(&mut operation)?;
        drop(dense);
        if writes {
            packed.unpack();
        }
        Ok(())
    }
}

#[cold]
fn place(operation: &mut Operation, site: Site) {
    if site.reused {
        operation.reuse();
    }
    if (Site { reused: false, ..site }) != Site::default() {
        operation.place_at(site.device, site.stream, site.staged);
    }
}

/// How many bytes into one tensor the input and the output of a request in place begin.
pub(super) fn offsets(request: &Request, rank: usize) -> (usize, usize) {
    let shift = request.in_place_shift(rank).unwrap_or(0);
    let bytes = shift.unsigned_abs() * request.element_size();
    // Input element i is output element i + shift.
    if shift >= 0 { (bytes, 0) } else { (0, bytes) }
}

impl Communicator {
    /// The next operation in the order.
    ///
    /// # Safety
    /// The buffers are as long as the validated request says: dense, two tensors apart, because the output is borrowed
    /// exclusively, and one laid out by the request's shift. Until the operation is complete, they must be left to it:
    /// they are borrowed or owned for that long.
    #[inline]
    pub(super) unsafe fn next(
        &self,
        request: &Request,
        course: &Course,
        buffers: Buffers,
        custom: Option<&CustomOp>,
        site: Site,
    ) -> Operation {
        // SAFETY: handed on to the caller.
        let mut operation = unsafe { self.sequencer.borrow_mut().operation(request, course, buffers) };
        self.equip(&mut operation, custom, site);
        operation
    }

    /// The next operation in the order: a call that has been [recalled](With::recall) just now.
    ///
    /// # Safety
    /// Call and tensors are those of that recall. Until the operation is complete, the memory of the tensors must be left
    /// to it: it is borrowed or owned for that long.
    #[inline(always)]
    pub(super) unsafe fn again(
        &self,
        slot: Slot,
        call: &Call<'_>,
        tensors: &mut Tensors<'_>,
        options: &Options,
    ) -> Operation {
        // SAFETY: the tensors are dense, and of the type and lengths that were checked when the call was made first,
        // since its key says so; else it has been checked just now. The rest is the caller's promise.
        let mut operation = unsafe { self.sequencer.borrow_mut().again(slot, tensors) };
        self.equip(&mut operation, call.custom(), Site::of(tensors, options));
        operation
    }

    /// Gives an operation what it may have besides its request and memory.
    #[inline]
    fn equip(&self, operation: &mut Operation, custom: Option<&CustomOp>, site: Site) {
        if let Some(custom) = custom {
            operation.reduce_by(custom.clone());
        }
        if site != Site::default() {
            place(operation, site);
        }
        self.tell(operation);
    }

    /// Runs an operation, which it takes from where it is, to its end, in its turn.
    #[inline]
    pub(super) fn run(&self, operation: &mut Option<Operation>) -> Result<()> {
        self.check_origin()?;
        if let Some(operation) = operation {
            operation.block();
        }
        if self.line.is_busy() {
            if !self.line.holds_up() {
                return self.run_behind(operation);
            }
            self.let_others_end();
        }
        let is_message =
            operation.as_ref().is_some_and(|one| one.request().collective == Collective::SendRecv);
        let result = self.line.run(operation);
        if result.is_err() {
            self.sequencer.borrow_mut().settle(is_message, &result);
        }
        result
    }

    /// Returns when nothing is outstanding. All of that has deadlines, and nobody else adds to it.
    #[cold]
    fn let_others_end(&self) {
        let awaiting = self.progress.awaiting();
        let mut pause = Duration::from_micros(1);
        while self.line.is_busy() {
            std::thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_micros(500));
        }
        drop(awaiting);
    }

    /// Runs an operation to its end behind what is outstanding.
    #[cold]
    fn run_behind(&self, operation: &mut Option<Operation>) -> Result<()> {
        let completion = self.hand_over(1, operation.take().into_iter());
        let awaiting = self.progress.awaiting();
        completion.wait(None);
        drop(awaiting);
        completion.result()
    }

    /// Runs several operations, which are all under way at once, to their ends.
    pub(super) fn run_all(&self, asks: &mut Vec<Ask>) -> Result<()> {
        self.check_origin()?;
        if self.line.is_busy() {
            let completion = self.hand_over(asks.len(), asks.drain(..).map(|ask| ask.operation));
            let awaiting = self.progress.awaiting();
            completion.wait(None);
            drop(awaiting);
            return completion.result();
        }
        let messages: Vec<bool> = asks.iter().map(|ask| ask.is_message).collect();
        let (result, refused) = self.line.run_all(asks.drain(..).map(|ask| ask.operation));
        for is_message in &messages[messages.len() - refused..] {
            self.sequencer.borrow_mut().settle(*is_message, &result);
        }
        result
    }

    /// Gives operations to the progress thread, which must be [there](super::progress::ProgressThread::make).
    pub(super) fn hand_over(
        &self,
        count: usize,
        operations: impl Iterator<Item = Operation>,
    ) -> Arc<Completion> {
        let completion = self.completions.borrow_mut().take(count);
        let handed = operations.map(|operation| Handed { operation, completion: Arc::clone(&completion) });
        self.progress.hand_over(&self.line, handed);
        completion
    }
}
