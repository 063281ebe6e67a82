//! Every collective, from its definition: the inputs of all ranks in, the outputs of all ranks out.

use super::call::{Call, Shape};
use super::value::{Value, bytes_of, values_of, with_type};
use ringfold::{Collective, Order, ReduceOp};

/// The outputs of all ranks. A rank without one has an empty one.
pub fn outputs(call: &Call, inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    with_type!(call.dtype, T => {
        let inputs: Vec<Vec<T>> = inputs.iter().map(|bytes| values_of(bytes)).collect();
        typed(call, &inputs).iter().map(|values| bytes_of(values).to_vec()).collect()
    })
}

/// As [`outputs`], of values.
pub fn typed<T: Value>(call: &Call, inputs: &[Vec<T>]) -> Vec<Vec<T>> {
    let world = inputs.len();
    let only_root = |output: Vec<T>| {
        (0..world).map(|rank| if rank == call.root { output.clone() } else { Vec::new() }).collect()
    };
    match call.collective {
        Collective::Barrier => vec![Vec::new(); world],
        Collective::AllReduce => vec![reduced(call, inputs); world],
        Collective::Reduce => only_root(reduced(call, inputs)),
        Collective::ReduceScatter => cut(&reduced(call, inputs), &block_lens(call, world)),
        Collective::AllGather => vec![inputs.concat(); world],
        Collective::Gather => only_root(inputs.concat()),
        Collective::Broadcast => vec![inputs[call.root].clone(); world],
        Collective::Scatter => cut(&inputs[call.root], &block_lens(call, world)),
        Collective::AllToAll => {
            let blocks: Vec<Vec<Vec<T>>> =
                (0..world).map(|from| cut(&inputs[from], &pair_lens(call, world)[from])).collect();
            (0..world).map(|to| (0..world).flat_map(|from| blocks[from][to].clone()).collect()).collect()
        }
        other => unreachable!("{other} is no collective of the whole group"),
    }
}

/// The lengths of the blocks of all ranks.
pub fn block_lens(call: &Call, world: usize) -> Vec<usize> {
    match &call.shape {
        Shape::Same(count) => vec![*count; world],
        Shape::Blocks(counts) => counts.clone(),
        other => unreachable!("{other:?} has no blocks"),
    }
}

/// What each rank sends to each.
fn pair_lens(call: &Call, world: usize) -> Vec<Vec<usize>> {
    match &call.shape {
        Shape::Same(count) => vec![vec![*count; world]; world],
        Shape::Pairs(counts) => counts.clone(),
        other => unreachable!("{other:?} is not between pairs"),
    }
}

fn cut<T: Value>(whole: &[T], lens: &[usize]) -> Vec<Vec<T>> {
    let mut rest = whole;
    lens.iter()
        .map(|&len| {
            let (block, after) = rest.split_at(len);
            rest = after;
            block.to_vec()
        })
        .collect()
}

fn reduced<T: Value>(call: &Call, inputs: &[Vec<T>]) -> Vec<T> {
    (0..inputs[0].len())
        .map(|i| {
            let column: Vec<T> = inputs.iter().map(|input| input[i]).collect();
            if call.order == Order::Fixed { balanced(call.op, &column) } else { folded(call.op, &column) }
        })
        .collect()
}

/// In rank order. For values that are exact in any order.
fn folded<T: Value>(op: ReduceOp, column: &[T]) -> T {
    let sum = column[1..].iter().fold(column[0], |sum, &value| T::apply(op, sum, value));
    if op == ReduceOp::Mean { sum.divide(column.len()) } else { sum }
}

/// The balanced binary tree over rank order: aligned groups of powers of two.
fn balanced<T: Value>(op: ReduceOp, column: &[T]) -> T {
    use ringfold::reduce::oracle;
    fn tree<T: Value>(op: ReduceOp, column: &[T]) -> T {
        if let [one] = column {
            return *one;
        }
        let (low, high) = column.split_at(column.len().next_power_of_two() / 2);
        oracle::combine(op, tree(op, low), tree(op, high))
    }
    oracle::finish(op, tree(op, column), column.len())
}
