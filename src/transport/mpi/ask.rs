//! MPI's own collectives: begun, or carried out to their ends.

use super::call::{Checked, Comm, Request, check};
use super::collective::{InPlace, Lists, Op, Type};
use super::library::Turn;
use mpi_sys as raw;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

/// A collective of MPI's. `input` is none where it lies in the output, as that collective has it.
pub(crate) enum Ask {
    Barrier,
    AllReduce {
        input: Option<*const u8>,
        output: *mut u8,
        count: usize,
        each: Type,
        op: Op,
    },
    Reduce {
        input: Option<*const u8>,
        output: *mut u8,
        count: usize,
        each: Type,
        op: Op,
        root: usize,
    },
    /// With the counts of the lists.
    ReduceScatter {
        input: *const u8,
        output: *mut u8,
        each: Type,
        op: Op,
    },
    Broadcast {
        data: *mut u8,
        bytes: usize,
        root: usize,
    },
    /// Blocks of bytes; with the counts and places of the lists where there is no count.
    AllGather {
        input: Option<*const u8>,
        own: usize,
        output: *mut u8,
        count: Option<usize>,
    },
    Gather {
        input: Option<*const u8>,
        own: usize,
        output: *mut u8,
        count: Option<usize>,
        root: usize,
    },
    Scatter {
        input: *const u8,
        output: Option<*mut u8>,
        own: usize,
        count: Option<usize>,
        root: usize,
    },
    AllToAll {
        input: *const u8,
        output: *mut u8,
        count: usize,
    },
    /// With all of the lists.
    AllToAllW {
        input: *const u8,
        output: *mut u8,
    },
}

/// Calls the function of this list that an [`Ask`] is for; its name, and the code that it returns. All of them have the same arguments, and
/// those that only begin a collective the place of its request behind them.
macro_rules! call {
    ($comm:expr, $ask:expr, $lists:expr, $in_place:expr, ($($place:expr)?),
        $barrier:ident $all_reduce:ident $reduce:ident $reduce_scatter:ident $broadcast:ident
        $all_gather:ident $all_gather_v:ident $gather:ident $gather_v:ident $scatter:ident $scatter_v:ident
        $all_to_all:ident $all_to_all_w:ident) => {{
        let (comm, lists) = ($comm, $lists);
        let here = |input: Option<*const u8>| match (input, $in_place) {
            (Some(input), _) => input.cast::<c_void>(),
            (None, Some(InPlace(here))) => here,
            (None, None) => std::ptr::null(),
        };
        let byte = raw::RSMPI_UINT8_T;
        let (counts, places) = (lists.counts.as_ptr(), lists.places.as_ptr());
        match *$ask {
            Ask::Barrier => (stringify!($barrier), raw::$barrier(comm $(, $place)?)),
            Ask::AllReduce { input, output, count, each, op } => {
                let count = count as c_int;
                let code = raw::$all_reduce(here(input), output.cast(), count, each.0, op.0, comm $(, $place)?);
                (stringify!($all_reduce), code)
            }
            Ask::Reduce { input, output, count, each, op, root } => {
                let (count, root) = (count as c_int, root as c_int);
                let code = raw::$reduce(here(input), output.cast(), count, each.0, op.0, root, comm $(, $place)?);
                (stringify!($reduce), code)
            }
            Ask::ReduceScatter { input, output, each, op } => {
                let code =
                    raw::$reduce_scatter(input.cast(), output.cast(), counts, each.0, op.0, comm $(, $place)?);
                (stringify!($reduce_scatter), code)
            }
            Ask::Broadcast { data, bytes, root } => {
                let code = raw::$broadcast(data.cast(), bytes as c_int, byte, root as c_int, comm $(, $place)?);
                (stringify!($broadcast), code)
            }
            Ask::AllGather { input, own, output, count: Some(count) } => {
                let (own, count) = (own as c_int, count as c_int);
                let code =
                    raw::$all_gather(here(input), own, byte, output.cast(), count, byte, comm $(, $place)?);
                (stringify!($all_gather), code)
            }
            Ask::AllGather { input, own, output, count: None } => {
                let (own, output) = (own as c_int, output.cast());
                let code =
                    raw::$all_gather_v(here(input), own, byte, output, counts, places, byte, comm $(, $place)?);
                (stringify!($all_gather_v), code)
            }
            Ask::Gather { input, own, output, count: Some(count), root } => {
                let (own, count, root) = (own as c_int, count as c_int, root as c_int);
                let code =
                    raw::$gather(here(input), own, byte, output.cast(), count, byte, root, comm $(, $place)?);
                (stringify!($gather), code)
            }
            Ask::Gather { input, own, output, count: None, root } => {
                let (own, output, root) = (own as c_int, output.cast(), root as c_int);
                let code =
                    raw::$gather_v(here(input), own, byte, output, counts, places, byte, root, comm $(, $place)?);
                (stringify!($gather_v), code)
            }
            Ask::Scatter { input, output, own, count: Some(count), root } => {
                let (own, count, root) = (own as c_int, count as c_int, root as c_int);
                let output = here(output.map(<*mut u8>::cast_const)).cast_mut();
                let code = raw::$scatter(input.cast(), count, byte, output, own, byte, root, comm $(, $place)?);
                (stringify!($scatter), code)
            }
            Ask::Scatter { input, output, own, count: None, root } => {
                let (own, root) = (own as c_int, root as c_int);
                let output = here(output.map(<*mut u8>::cast_const)).cast_mut();
                let code =
                    raw::$scatter_v(input.cast(), counts, places, byte, output, own, byte, root, comm $(, $place)?);
                (stringify!($scatter_v), code)
            }
            Ask::AllToAll { input, output, count } => {
                let count = count as c_int;
                let code =
                    raw::$all_to_all(input.cast(), count, byte, output.cast(), count, byte, comm $(, $place)?);
                (stringify!($all_to_all), code)
            }
            Ask::AllToAllW { input, output } => {
                let (types, counts_in, places_in) =
                    (lists.types.as_ptr(), lists.counts_in.as_ptr(), lists.places_in.as_ptr());
                let (input, output, types_in) = (input.cast(), output.cast(), lists.types_in.as_ptr());
                let code = raw::$all_to_all_w(
                    input, counts, places, types, output, counts_in, places_in, types_in, comm $(, $place)?
                );
                (stringify!($all_to_all_w), code)
            }
        }
    }};
}

impl Comm {
    /// Begins a collective. Each rank of the communicator begins the same ones in the same order.
    ///
    /// # Safety
    /// Until the request is done: the memory must be as long as the counts say, what is read must stay as it is, what is written must be
    /// touched by nobody, and the lists must stay where they are, with one entry a rank where the collective uses them. `in_place` is
    /// what this MPI takes for an input that is none.
    pub(crate) unsafe fn begin(
        self,
        ask: &Ask,
        lists: &Lists,
        in_place: Option<InPlace>,
        _: &Turn,
    ) -> Checked<Request> {
        let mut request = MaybeUninit::uninit();
        let place = request.as_mut_ptr();
        // SAFETY: the caller vouches for the memory and the lists; counts fit, since they are below `LIMIT`.
        let (name, code) = unsafe {
            call!(self.0, ask, lists, in_place, (place),
                MPI_Ibarrier MPI_Iallreduce MPI_Ireduce MPI_Ireduce_scatter MPI_Ibcast
                MPI_Iallgather MPI_Iallgatherv MPI_Igather MPI_Igatherv MPI_Iscatter MPI_Iscatterv
                MPI_Ialltoall MPI_Ialltoallw)
        };
        check(name, code)?;
        // SAFETY: a call that succeeds has written it.
        Ok(Request::of(unsafe { request.assume_init() }))
    }

    /// Carries a collective out, as all ranks of the communicator do: this does not match one that another rank [begins](Comm::begin).
    /// Blocks until MPI is done with this rank's part, for which nothing can make it hurry. Others may have their turns meanwhile.
    ///
    /// # Safety
    /// As [`begin`](Comm::begin), until this returns; where it fails, for ever. MPI allows calls at the same time.
    #[inline]
    pub(crate) unsafe fn carry_out(
        self,
        ask: &Ask,
        lists: &Lists,
        in_place: Option<InPlace>,
        turn: &mut Turn,
    ) -> Checked<()> {
        let call = || {
            // SAFETY: as in `begin`; the caller vouches for the level of threads.
            unsafe {
                call!(self.0, ask, lists, in_place, (),
                    MPI_Barrier MPI_Allreduce MPI_Reduce MPI_Reduce_scatter MPI_Bcast
                    MPI_Allgather MPI_Allgatherv MPI_Gather MPI_Gatherv MPI_Scatter MPI_Scatterv
                    MPI_Alltoall MPI_Alltoallw)
            }
        };
        let (name, code) = turn.aside(call);
        check(name, code)
    }
}
