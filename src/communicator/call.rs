//! What a verb asks for, apart from its tensors: the one place where verbs become requests, and those who have verbs as
//! data call them.

use super::buffer::Buffer;
use super::recent::Key;
use super::tensors::Tensors;
use super::{Communicator, Options, Pending, Prepared, With};
use crate::collective::{Collective, Counts, Order, Request};
use crate::error::{Error, Result};
use crate::reduce::{CustomOp, Reduction};
use crate::tensor::DType;
use std::borrow::Cow;
use std::sync::Arc;

/// Counts as a caller gives them: `None` where every block is as long as this rank's.
type BlockCounts<'a> = Option<&'a [usize]>;

/// A verb with its arguments, as data: for bindings to other languages, which describe what they want at run time.
/// [`Communicator::call`] carries it out, [`start`](Communicator::start) starts it, [`prepare`](Communicator::prepare)
/// prepares it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Call<'a> {
    /// [`all_reduce`](Communicator::all_reduce).
    AllReduce(Reduction),
    /// [`reduce`](Communicator::reduce) to a root.
    Reduce(Reduction, usize),
    /// [`reduce_scatter`](Communicator::reduce_scatter), or [`reduce_scatter_v`](Communicator::reduce_scatter_v).
    ReduceScatter(Option<&'a [usize]>, Reduction),
    /// [`all_gather`](Communicator::all_gather), or [`all_gather_v`](Communicator::all_gather_v).
    AllGather(Option<&'a [usize]>),
    /// [`broadcast`](Communicator::broadcast) from a root.
    Broadcast(usize),
    /// [`gather`](Communicator::gather), or [`gather_v`](Communicator::gather_v), to a root.
    Gather(Option<&'a [usize]>, usize),
    /// [`scatter`](Communicator::scatter), or [`scatter_v`](Communicator::scatter_v), from a root.
    Scatter(Option<&'a [usize]>, usize),
    /// [`all_to_all`](Communicator::all_to_all), or [`all_to_all_v`](Communicator::all_to_all_v) with what is sent to and
    /// received from each rank.
    AllToAll(Option<(&'a [usize], &'a [usize])>),
    /// [`barrier`](Communicator::barrier), which wants an input and an output of one `u8` each.
    Barrier,
    /// [`send`](Communicator::send), [`recv`](Communicator::recv), or both at once. The input is sent, the output received;
    /// who does one of them only passes an empty tensor for the other.
    Messages {
        /// Whom the input is sent to.
        to: Option<usize>,
        /// Whom the output comes from.
        from: Option<usize>,
    },
}

/// The lists of counts that were used lately, so that using one again allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<Arc<[usize]>>);

/// How many lists are remembered.
const REMEMBERED: usize = 16;

impl Lists {
    fn shared(&mut self, list: &[usize]) -> Arc<[usize]> {
        if let Some(known) = self.0.iter().position(|known| known[..] == *list) {
            return Arc::clone(&self.0[known]);
        }
        if self.0.len() == REMEMBERED {
            self.0.remove(0);
        }
        let list: Arc<[usize]> = list.into();
        self.0.push(Arc::clone(&list));
        list
    }
}

impl Call<'_> {
    fn collective(&self) -> Collective {
        match self {
            Call::AllReduce(_) => Collective::AllReduce,
            Call::Reduce(..) => Collective::Reduce,
            Call::ReduceScatter(..) => Collective::ReduceScatter,
            Call::AllGather(_) => Collective::AllGather,
            Call::Broadcast(_) => Collective::Broadcast,
            Call::Gather(..) => Collective::Gather,
            Call::Scatter(..) => Collective::Scatter,
            Call::AllToAll(_) => Collective::AllToAll,
            Call::Barrier => Collective::Barrier,
            Call::Messages { .. } => Collective::SendRecv,
        }
    }

    /// The reduction, of verbs that have one.
    pub(super) fn reduction(&self) -> Option<&Reduction> {
        match self {
            Call::AllReduce(op) | Call::Reduce(op, _) | Call::ReduceScatter(_, op) => Some(op),
            _ => None,
        }
    }

    /// The user's reduction, where it is one.
    pub(super) fn custom(&self) -> Option<&CustomOp> {
        match self.reduction() {
            Some(Reduction::Custom(custom)) => Some(custom),
            _ => None,
        }
    }

    /// What it is known by when it comes again, where it can be remembered.
    #[inline]
    pub(super) fn key<'k>(&'k self, tensors: &Tensors<'_>, options: &'k Options) -> Option<Key<'k>> {
        let (op, custom) = match self.reduction() {
            None => (None, None),
            Some(Reduction::Named(op)) => (Some(*op), None),
            Some(Reduction::Custom(custom)) if custom.dtype() == tensors.dtype() => {
                (None, Some(custom.signature()))
            }
            Some(Reduction::Custom(_)) => return None,
        };
        let (root, peers, counts) = match self {
            Call::AllReduce(_) | Call::AllToAll(None) | Call::Barrier => (0, (None, None), None),
            Call::ReduceScatter(counts, _) | Call::AllGather(counts) => (0, (None, None), *counts),
            Call::Reduce(_, root) | Call::Broadcast(root) => (*root, (None, None), None),
            Call::Gather(counts, root) | Call::Scatter(counts, root) => (*root, (None, None), *counts),
            Call::Messages { to, from } => (0, (*to, *from), None),
            Call::AllToAll(Some(_)) => return None,
        };
        Some(Key {
            lens: tensors.lens(),
            collective: self.collective(),
            dtype: tensors.dtype(),
            op,
            custom,
            one_tensor: tensors.is_in_place(),
            root,
            peers,
            counts: counts.map(Cow::Borrowed),
            options: Cow::Borrowed(options),
        })
    }

    /// The request that it makes of these tensors on this rank; not yet validated.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) where lengths cannot be right.
    pub(super) fn request(
        &self,
        rank: usize,
        world: usize,
        tensors: &Tensors<'_>,
        lists: &mut Lists,
    ) -> Result<Request> {
        let collective = self.collective();
        let dtype = tensors.dtype();
        let in_place = tensors.is_in_place();
        let (mut input, mut output) = tensors.lens();
        if let Some(custom) = self.custom() {
            (input, output) = (values(custom, dtype, input)?, values(custom, dtype, output)?);
        }
        let custom = self.custom();
        let mut blocks = |counts: &BlockCounts<'_>, whole: bool, len: usize| {
            Ok(match (counts, custom) {
                // Counts are elements; the request's are values.
                (Some(counts), Some(custom)) => {
                    let counts: Result<Vec<usize>> =
                        counts.iter().map(|&count| values(custom, dtype, count)).collect();
                    per_rank(&counts?, world, lists)
                }
                (Some(counts), None) => per_rank(counts, world, lists),
                (None, _) if whole && !len.is_multiple_of(world) => {
                    let text = format!("{len} elements are no {world} blocks of one length");
                    return Err(Error::invalid(text).remedy(format!(
                        "pass a multiple of {world} elements, or {collective}_v with one count a rank"
                    )));
                }
                (None, _) if whole => Counts::Same(len / world),
                (None, _) => Counts::Same(len),
            })
        };
        let (root, counts) = match self {
            Call::AllReduce(_) => (0, Counts::Same(input)),
            Call::Reduce(_, root) => (*root, Counts::Same(input)),
            Call::ReduceScatter(counts, _) => (0, blocks(counts, in_place, output)?),
            Call::AllGather(counts) => (0, blocks(counts, in_place, input)?),
            Call::Broadcast(root) => (*root, Counts::Same(output)),
            Call::Gather(counts, root) => (*root, blocks(counts, in_place && rank == *root, input)?),
            Call::Scatter(counts, root) => (*root, blocks(counts, in_place && rank == *root, output)?),
            Call::AllToAll(None) => (0, blocks(&None, true, input)?),
            Call::AllToAll(Some((send, receive))) => {
                let (send, receive) = (lists.shared(send), lists.shared(receive));
                (0, Counts::Pairwise { rank, send, receive })
            }
            Call::Barrier => return Ok(Request::new(Collective::Barrier, world, DType::U8, 1)),
            Call::Messages { to, from } => {
                let send = to.map(|to| (to, input));
                let receive = from.map(|from| (from, output));
                (0, Counts::Messages { rank, send, receive })
            }
        };
        let mut request = Request::new(collective, world, dtype, 0);
        request.root = root;
        request.counts = counts;
        match self.reduction() {
            Some(Reduction::Named(op)) => request.op = Some(*op),
            Some(Reduction::Custom(custom)) => {
                (request.op, request.custom) = (None, Some(custom.signature()));
                if !custom.signature().commutative {
                    request.order = Order::Fixed;
                }
            }
            None => {}
        }
        Ok(request)
    }
}

/// The counts of a list: one for all where they are all one, which is the same call.
fn per_rank(counts: &[usize], world: usize, lists: &mut Lists) -> Counts {
    match counts {
        [first, rest @ ..] if counts.len() == world && rest.iter().all(|count| count == first) => {
            Counts::Same(*first)
        }
        _ => Counts::PerRank(lists.shared(counts)),
    }
}

/// How many values of the user's reduction a tensor's elements are.
fn values(custom: &CustomOp, dtype: DType, elements: usize) -> Result<usize> {
    let name = custom.name();
    if custom.dtype() != dtype {
        let text = format!("the reduction {name:?} is of {}, the tensor of {dtype}", custom.dtype());
        return Err(Error::invalid(text).remedy("pass a tensor of the type that the reduction was made for"));
    }
    let width = custom.signature().width as usize / dtype.size();
    if elements.is_multiple_of(width) {
        return Ok(elements / width);
    }
    Err(Error::invalid(format!("{elements} elements are no whole values of {width} elements of {name:?}"))
        .remedy("pass tensors and counts that are multiples of the values' width"))
}

/// Verbs as data.
impl With<'_> {
    /// Carries out a call; returns when it is complete. See [`Communicator::call`].
    ///
    /// # Errors
    /// As there.
    pub fn call<'t>(&self, call: &Call<'_>, tensors: impl Into<Tensors<'t>>) -> Result<()> {
        self.execute(call, tensors.into())
    }
}

/// Verbs as data.
impl Communicator {
    /// Carries out a call; returns when it is complete.
    ///
    /// ```
    /// use ringfold::{Call, Communicator, ReduceOp};
    /// let comm = Communicator::local(1).remove(0);
    /// let (mut sums, mut seed) = ([1.0f32, 2.0], [7u64]);
    /// comm.call(&Call::AllReduce(ReduceOp::Sum.into()), &mut sums)?;
    /// comm.call(&Call::Broadcast(0), &mut seed)?;
    /// comm.call(&Call::Barrier, (&[0u8][..], &mut [0u8][..]))?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As the verb of the same name.
    pub fn call<'t>(&self, call: &Call<'_>, tensors: impl Into<Tensors<'t>>) -> Result<()> {
        With { communicator: self, options: Options::default() }.execute(call, tensors.into())
    }

    /// Starts a call, as [`start_all_reduce`](Self::start_all_reduce) starts an all_reduce.
    ///
    /// ```
    /// use ringfold::{Call, Communicator};
    /// let comm = Communicator::local(1).remove(0);
    /// let pending = comm.start(&Call::Broadcast(0), vec![7u64])?;
    /// assert_eq!(pending.wait()?, [7]);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As there.
    pub fn start<B: Buffer>(&self, call: &Call<'_>, buffer: B) -> Result<Pending<B>> {
        With { communicator: self, options: Options::default() }.start(call, buffer)
    }

    /// Prepares a call, as [`prepare_all_reduce`](Self::prepare_all_reduce) prepares an all_reduce.
    ///
    /// # Errors
    /// As there.
    pub fn prepare<B: Buffer>(&self, call: &Call<'_>, buffer: B) -> Result<Prepared<'_, B>> {
        self.with(Options::default()).prepare(call, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_shared_and_old_ones_forgotten() {
        let mut lists = Lists::default();
        let first = lists.shared(&[1, 2]);
        assert!(Arc::ptr_eq(&first, &lists.shared(&[1, 2])));
        for other in 0..REMEMBERED {
            lists.shared(&[other]);
        }
        assert!(!Arc::ptr_eq(&first, &lists.shared(&[1, 2])));
        assert_eq!(lists.0.len(), REMEMBERED);
    }
}
