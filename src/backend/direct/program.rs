//! A plan in shared memory in the form that it is run in.

use super::super::cannot;
use super::exchange::Exchange;
use crate::collective::{Collective, Order, Request};
use crate::error::Result;
use crate::plan::select::Table;
use crate::plan::{Place, Plan, Region, SLOT, Span, Step};
use crate::reduce::{Kernels, kernels};
use crate::transport::shm::HostMemory;

/// Whose memory an operand lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Base {
    Input,
    Output,
    Scratch,
    Slot,
    Peer(usize, Region),
}

/// An operand: a memory, and the byte at which it begins there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operand {
    pub(super) base: Base,
    pub(super) offset: usize,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Copy {
        source: Operand,
        into: Operand,
        bytes: usize,
    },
    /// With the last touch in the same pass, where it follows.
    Fold {
        sources: Box<[Operand]>,
        into: Operand,
        bytes: usize,
        finish: bool,
    },
    Finish {
        range: Operand,
        bytes: usize,
    },
    Signal {
        flag: u32,
    },
    Wait {
        rank: usize,
        flag: u32,
        value: u32,
    },
}

/// A plan as it is run.
#[derive(Debug)]
pub(in crate::backend) struct Program {
    pub(super) actions: Box<[Action]>,
    pub(super) element: usize,
    pub(super) scratch_bytes: usize,
    pub(super) slot_bytes: usize,
    /// Where slots go in line: the most bytes that any rank shows, of which all know.
    pub(super) in_line: Option<usize>,
    /// The short form of what goes in line.
    pub(super) exchange: Option<Exchange>,
    /// Whether this rank shows anything.
    pub(super) shows: bool,
    /// The bytes of the rank's operands, as they are counted.
    pub(in crate::backend) bytes: u64,
    /// How many bytes are read of each rank's memory, and written to it.
    pub(in crate::backend) moved: Box<[(usize, usize)]>,
    /// Whether results go past the caches.
    pub(super) streams: bool,
    /// Whether every rank hears from all others.
    pub(super) hears_all: bool,
    /// Of its reduction.
    pub(super) kernels: Option<&'static Kernels>,
    /// Whether folds are balanced trees.
    balanced: bool,
}

/// What an operation may run by.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend) struct Programs<'p> {
    /// Whatever its operands are.
    pub(in crate::backend) base: &'p Program,
    /// Where all ranks' are shared tensors.
    pub(in crate::backend) shared: Option<&'p Program>,
}

impl Operand {
    /// Whether it lies where results go.
    pub(super) fn is_result(&self) -> bool {
        matches!(self.base, Base::Output | Base::Peer(_, Region::Output))
    }
}

/// From how many bytes of output on results go past the caches, which they would only fill.
const STREAMED: usize = 8 << 20;

impl Program {
    /// The program of a plan that was made with portions of so many elements of a block.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where it sends messages, or needs more flags or a longer slot than there
    /// are.
    pub(in crate::backend) fn new(plan: &Plan, slice: usize) -> Result<Program> {
        let request = &plan.request;
        let element = request.element_size();
        let mut actions = Vec::with_capacity(plan.steps.len());
        let mut raised = [0u32; HostMemory::FLAGS];
        for step in &plan.steps {
            let action = match step {
                Step::Copy { source, into } => Action::Copy {
                    source: operand(source, element),
                    into: operand(into, element),
                    bytes: into.len * element,
                },
                Step::Fold { sources, into } => Action::Fold {
                    sources: sources.iter().map(|source| operand(source, element)).collect(),
                    into: operand(into, element),
                    bytes: into.len * element,
                    finish: false,
                },
                Step::Finish { range } => {
                    let (range, len) = (operand(range, element), range.len * element);
                    if let Some(Action::Fold { into, bytes, finish, .. }) = actions.last_mut()
                        && (*into, *bytes) == (range, len)
                    {
                        *finish = true;
                        continue;
                    }
                    Action::Finish { range, bytes: len }
                }
                Step::Signal { flag } => {
                    let count = raised
                        .get_mut(*flag as usize)
                        .ok_or_else(|| cannot("direct", "raise so many flags"))?;
                    *count += 1;
                    if *count > HostMemory::MOST {
                        return Err(cannot("direct", "raise a flag so often"));
                    }
                    Action::Signal { flag: *flag }
                }
                Step::Wait { rank, flag, value } => Action::Wait { rank: *rank, flag: *flag, value: *value },
                Step::Send { .. } | Step::Recv { .. } | Step::RecvReduce { .. } => {
                    return Err(cannot("direct", "send messages"));
                }
            };
            actions.push(action);
        }
        let slot_bytes = plan.slot * element;
        if slot_bytes > SLOT {
            return Err(cannot("direct", &format!("show {slot_bytes} bytes at a time in slots of {SLOT}")));
        }
        let visits = actions.iter().any(|action| action.visits());
        let in_line = if visits { None } else { in_line(plan, slice, &actions) };
        let exchange = in_line.and_then(|_| Exchange::of(&actions, plan.rank, request.world, element));
        Ok(Program {
            in_line,
            exchange: match request.collective {
                Collective::Barrier => exchange.map(Exchange::without_bytes),
                _ => exchange,
            },
            shows: actions.iter().any(|action| matches!(action, Action::Signal { .. })),
            bytes: request.bytes(plan.rank) as u64,
            moved: moved(&actions, request.world),
            streams: !request.in_place && request.output_len(plan.rank) * element >= STREAMED,
            actions: actions.into(),
            element,
            scratch_bytes: plan.scratch * element,
            slot_bytes,
            hears_all: !request.collective.is_rooted(),
            kernels: request.op.and_then(|op| kernels(op, request.dtype)),
            balanced: request.order == Order::Fixed,
        })
    }

    /// Folds everybody's elements, in the order that is asked for.
    ///
    /// # Safety
    /// As [`Kernels::fold`].
    #[inline]
    pub(super) unsafe fn fold(&self, kernels: &Kernels, into: *mut u8, sources: &[*const u8], count: usize) {
        // SAFETY: handed on to the caller.
        unsafe {
            match self.balanced {
                true => kernels.fold_balanced(into, sources, count),
                false => kernels.fold(into, sources, count),
            }
        }
    }

    /// Whether it is over before anything but cache lines has moved.
    pub(in crate::backend) fn is_in_line(&self) -> bool {
        self.in_line.is_some()
    }
}

impl Action {
    fn operands(&self) -> impl Iterator<Item = &Operand> {
        let (several, one, other): (&[Operand], _, _) = match self {
            Action::Copy { source, into, .. } => (&[], Some(source), Some(into)),
            Action::Fold { sources, into, .. } => (sources, None, Some(into)),
            Action::Finish { range, .. } => (&[], None, Some(range)),
            Action::Signal { .. } | Action::Wait { .. } => (&[], None, None),
        };
        several.iter().chain(one).chain(other)
    }

    fn bytes(&self) -> usize {
        match self {
            Action::Copy { bytes, .. } | Action::Fold { bytes, .. } | Action::Finish { bytes, .. } => *bytes,
            Action::Signal { .. } | Action::Wait { .. } => 0,
        }
    }

    /// Whether it looks at another rank's operands.
    fn visits(&self) -> bool {
        self.operands().any(|operand| matches!(operand.base, Base::Peer(_, Region::Input | Region::Output)))
    }
}

/// The most bytes that any rank shows, where slots go in line. Whether they do must be the same on all ranks, so that it is said by
/// what all of them know.
fn in_line(plan: &Plan, slice: usize, actions: &[Action]) -> Option<usize> {
    let shown = shown(&plan.request);
    let signals = actions.iter().filter(|action| matches!(action, Action::Signal { .. })).count();
    let little = HostMemory::goes_in_line(Table::agreed_bytes(&plan.request))
        && plan.slot * plan.request.element_size() <= shown;
    (plan.algorithm == "flat" && little && signals <= 1 && !is_cut(&plan.request, slice)).then_some(shown)
}

/// Whether a block goes in several turns, since one of many ranks has so much more than the others, or portions are small: those who show
/// nothing see nothing of it in their own plans.
fn is_cut(request: &Request, slice: usize) -> bool {
    let longest = match request.collective {
        Collective::AllToAll => request.send_block(0, 0).len(),
        collective if collective.has_blocks() => {
            request.blocks().iter().map(ExactSizeIterator::len).max().unwrap_or(0)
        }
        _ => request.whole(),
    };
    longest > slice.max(1)
}

/// The most bytes that any rank shows: all that it has for others.
fn shown(request: &Request) -> usize {
    let elements = match request.collective {
        Collective::AllGather | Collective::Gather => {
            request.blocks().iter().map(ExactSizeIterator::len).max().unwrap_or(0)
        }
        Collective::ReduceScatter | Collective::Scatter => {
            request.blocks_end() - request.blocks().iter().map(ExactSizeIterator::len).min().unwrap_or(0)
        }
        Collective::AllToAll => (request.world - 1) * request.send_block(0, 0).len(),
        _ => request.whole(),
    };
    elements * request.element_size()
}

/// The bytes that are read of each rank's memory, and written to it.
fn moved(actions: &[Action], world: usize) -> Box<[(usize, usize)]> {
    let mut moved = vec![(0, 0); world];
    for action in actions {
        let (sources, into) = match action {
            Action::Copy { source, into, .. } => (std::slice::from_ref(source), into),
            Action::Fold { sources, into, .. } => (&**sources, into),
            _ => continue,
        };
        for source in sources {
            if let Base::Peer(rank, _) = source.base {
                moved[rank].0 += action.bytes();
            }
        }
        if let Base::Peer(rank, _) = into.base {
            moved[rank].1 += action.bytes();
        }
    }
    moved.into()
}

fn operand(span: &Span, element: usize) -> Operand {
    let base = match span.place {
        Place::Input => Base::Input,
        Place::Output => Base::Output,
        Place::Scratch => Base::Scratch,
        Place::Slot => Base::Slot,
        Place::Peer { rank, region } => Base::Peer(rank, region),
    };
    Operand { base, offset: span.start * element }
}
