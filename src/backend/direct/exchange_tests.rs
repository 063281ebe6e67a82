use super::super::program::{Action, Base, Operand, Program};
use super::Exchange;
use crate::collective::{Collective, Counts, Order, Request};
use crate::plan::select::Table;
use crate::plan::{Plan, Reach, Region, Schedule};
use crate::reduce::{ReduceOp, kernels};
use crate::tensor::DType;

/// What the ranks of a group have, as bytes.
struct Memory {
    input: Vec<Vec<u8>>,
    output: Vec<Vec<u8>>,
    slot: Vec<Vec<u8>>,
}

fn add(sources: &[&[u8]]) -> Vec<u8> {
    let mut sum = vec![0u8; sources[0].len()];
    let sources: Vec<*const u8> = sources.iter().map(|source| source.as_ptr()).collect();
    let add = kernels(ReduceOp::Sum, DType::U16).unwrap();
    // SAFETY: all are as long as the sum, which is apart from them.
    unsafe { add.fold(sum.as_mut_ptr(), &sources, sum.len() / 2) };
    sum
}

impl Memory {
    fn new(request: &Request) -> Memory {
        let bytes = |elements| elements * request.element_size();
        let mut next = 0u32;
        let mut filled = |len: usize| {
            (0..len)
                .map(|_| {
                    next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (next >> 24) as u8
                })
                .collect::<Vec<u8>>()
        };
        let ranks = 0..request.world;
        Memory {
            input: ranks.clone().map(|rank| filled(bytes(request.input_len(rank)))).collect(),
            output: ranks.clone().map(|rank| vec![0xee; bytes(request.output_len(rank))]).collect(),
            slot: ranks.map(|_| vec![0xdd; 4096]).collect(),
        }
    }

    fn read(&self, rank: usize, operand: &Operand, bytes: usize) -> Vec<u8> {
        let from = match operand.base {
            Base::Input => &self.input[rank],
            Base::Output => &self.output[rank],
            Base::Slot => &self.slot[rank],
            Base::Peer(peer, Region::Slot) => &self.slot[peer],
            other => panic!("{other:?} in line"),
        };
        from[operand.offset..operand.offset + bytes].to_vec()
    }

    fn write(&mut self, rank: usize, operand: &Operand, bytes: &[u8]) {
        let into = match operand.base {
            Base::Output => &mut self.output[rank],
            Base::Slot => &mut self.slot[rank],
            other => panic!("{other:?} is written"),
        };
        into[operand.offset..operand.offset + bytes.len()].copy_from_slice(bytes);
    }

    /// A rank's actions, those that show or those that take.
    fn act(&mut self, rank: usize, actions: &[Action], shows: bool) {
        for action in actions {
            match action {
                Action::Copy { source, into, bytes } if (into.base == Base::Slot) == shows => {
                    let read = self.read(rank, source, *bytes);
                    self.write(rank, into, &read);
                }
                Action::Fold { sources, into, bytes, .. } if !shows => {
                    let read: Vec<_> = sources.iter().map(|source| self.read(rank, source, *bytes)).collect();
                    let read: Vec<&[u8]> = read.iter().map(Vec::as_slice).collect();
                    self.write(rank, into, &add(&read));
                }
                _ => {}
            }
        }
    }

    /// The same in the short form.
    fn exchange(&mut self, rank: usize, exchange: &Exchange, shows: bool) {
        let at = |base, offset| Operand { base, offset };
        let of = |peer| if peer == rank { Base::Input } else { Base::Peer(peer, Region::Slot) };
        let parts = if shows { &exchange.shows } else { &exchange.takes };
        for part in parts {
            let read = self.read(rank, &at(of(part.rank), part.from), part.bytes);
            self.write(rank, &at(if shows { Base::Slot } else { Base::Output }, part.into), &read);
        }
        if let (Some(fold), false) = (&exchange.fold, shows) {
            let bytes = fold.count * 2;
            let read = fold.from.iter().enumerate();
            let read: Vec<_> =
                read.map(|(peer, &from)| self.read(rank, &at(of(peer), from), bytes)).collect();
            let read: Vec<&[u8]> = read.iter().map(Vec::as_slice).collect();
            self.write(rank, &at(Base::Output, fold.into), &add(&read));
        }
    }
}

fn requests() -> Vec<Request> {
    let mut requests = Vec::new();
    for collective in Collective::ALL {
        for world in [2, 3, 5] {
            for count in [0, 1, 3, 40] {
                let mut request = Request::new(collective, world, DType::U16, count);
                request.root = if collective.is_rooted() { world - 1 } else { 0 };
                if collective.has_blocks() {
                    let counts = (0..world).map(|rank| (rank * 7 + count) % 11).collect();
                    requests.push(Request { counts: Counts::PerRank(counts), ..request.clone() });
                }
                requests.push(request);
            }
        }
    }
    requests
}

fn programs(request: &Request) -> Vec<Program> {
    by(request, Table::default().select_within(Reach::Slots, request).unwrap())
}

fn by(request: &Request, schedule: Schedule) -> Vec<Program> {
    let plan = |rank| Plan::generate(request, rank, schedule).unwrap();
    (0..request.world).map(|rank| Program::new(&plan(rank), schedule.slice).unwrap()).collect()
}

#[test]
fn the_short_form_of_every_collective_does_what_its_plan_does() {
    for request in requests() {
        let programs = programs(&request);
        let (mut long, mut short) = (Memory::new(&request), Memory::new(&request));
        for shows in [true, false] {
            for (rank, program) in programs.iter().enumerate() {
                let exchange = program.exchange.as_ref().unwrap_or_else(|| panic!("none of {request:?}"));
                long.act(rank, &program.actions, shows);
                short.exchange(rank, exchange, shows);
            }
        }
        if request.collective != Collective::Barrier {
            assert_eq!(long.output, short.output, "{request:?}");
            assert_eq!(long.slot, short.slot, "{request:?}");
        }
    }
}

#[test]
fn whoever_is_waited_for_shows_and_all_agree_where() {
    for request in requests() {
        let programs = programs(&request);
        for (rank, program) in programs.iter().enumerate() {
            let exchange = program.exchange.as_ref().unwrap();
            assert_eq!(program.in_line, programs[0].in_line, "{request:?}");
            assert_eq!(exchange.tells, program.shows);
            assert!(exchange.hears.iter().all(|peer| *peer != rank && programs[*peer].shows), "{request:?}");
            let waits = |action: &&Action| matches!(action, Action::Wait { .. });
            assert_eq!(exchange.hears.len(), program.actions.iter().filter(waits).count());
            let end = exchange.shows.iter().map(|part| part.into + part.bytes).max().unwrap_or(0);
            assert!(end <= program.in_line.unwrap(), "{request:?}");
        }
    }
}

#[test]
fn all_agree_that_nothing_goes_in_line_where_a_block_is_cut() {
    let world = 100;
    let mut request = Request::new(Collective::Scatter, world, DType::U16, 0);
    request.counts = Counts::PerRank((0..world).map(|rank| if rank == 7 { 1000 } else { 0 }).collect());
    assert!(programs(&request).iter().all(|program| program.in_line.is_none()));
}

#[test]
fn all_agree_where_slices_are_given_by_hand() {
    for request in requests() {
        let chosen = Table::default().select_within(Reach::Slots, &request).unwrap();
        for slice in [0, 1, 2, 3, 10, 40, usize::MAX] {
            let programs = by(&request, Schedule { slice, ..chosen });
            let in_line = |program: &Program| (program.in_line, program.exchange.is_some());
            assert!(
                programs.iter().all(|one| in_line(one) == in_line(&programs[0])),
                "{slice} of {request:?}"
            );
        }
    }
}

#[test]
fn fixed_order_folds_a_tree_in_the_short_form_too() {
    // From left to right the great ones cancel each other before the last 1 comes; in the tree they take both.
    for (order, wanted) in [(Order::Fixed, 2.0), (Order::Default, 3.0)] {
        let request = Request { order, ..Request::new(Collective::AllReduce, 5, DType::F32, 1) };
        for program in programs(&request) {
            assert!(program.exchange.as_ref().is_some_and(|exchange| exchange.fold.is_some()));
            let values = [1.0f32, 1e8, -1e8, 1.0, 2.0];
            let sources = values.each_ref().map(|value| std::ptr::from_ref(value).cast());
            let mut sum = 0f32;
            // SAFETY: each source is one f32, and `sum` is apart from them.
            unsafe { program.fold(program.kernels.unwrap(), (&raw mut sum).cast(), &sources, 1) };
            assert_eq!(sum, wanted, "{order:?}");
        }
    }
}

#[test]
fn few_bytes_are_copied_whole_and_none_beside_them() {
    for bytes in 0..200usize {
        let from: Vec<u8> = (0..bytes).map(|byte| byte as u8 + 1).collect();
        let mut into = vec![0; bytes + 2];
        // SAFETY: the source is so long, and the target longer by one at each end.
        unsafe { super::copy(from.as_ptr(), into.as_mut_ptr().add(1), bytes) };
        assert_eq!(into[1..=bytes], from);
        assert_eq!((into[0], into[bytes + 1]), (0, 0));
    }
}
