//! Every call that NCCL has, held against the oracle.

use super::calls::call::{Call, Placement, Shape, prepare};
use super::calls::group::{Done, Group};
use super::calls::value::Draw;
use super::rank::{Place, Rank};
use ringfold::{Collective, DType, ReduceOp};

const OPS: [ReduceOp; 5] = [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Min, ReduceOp::Max, ReduceOp::Mean];

/// The types that NCCL reduces.
const TYPES: [DType; 10] = [
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::F64,
    DType::I8,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U32,
    DType::U64,
];

/// One call on all ranks, whose results are as the oracle says.
pub(crate) fn run(group: &mut Vec<Rank>, call: &Call, seed: u64) -> Vec<Done> {
    let world = group.len();
    let draw = match call.op {
        // Whether NaN goes through is NCCL's affair.
        ReduceOp::Min | ReduceOp::Max if call.collective.reduces() => Draw::Exact(ReduceOp::Sum),
        _ => call.draw(),
    };
    let (jobs, expected) = prepare(call, world, draw, seed);
    let done = group.run(jobs.into_iter().map(|job| vec![job]).collect());
    let done: Vec<Done> = done.into_iter().map(|mut done| done.remove(0)).collect();
    for (rank, (job, result)) in done.iter().enumerate() {
        let checked = result.clone().map_err(|error| error.to_string());
        if let Err(fault) = checked.and_then(|()| job.check(&expected[rank])) {
            panic!("rank {rank} of {world}: {fault}\nin {call:?}, seed {seed}");
        }
    }
    done
}

/// Every collective, type, reduction, shape and placement.
pub(crate) fn every_call(group: &mut Vec<Rank>, place: Place) {
    let world = group.len();
    let mut seed = 0;
    let uneven: Vec<usize> = (0..world).map(|rank| (rank * 29 + 5) % 37 * (rank % 3)).collect();
    let pairs: Vec<Vec<usize>> =
        (0..world).map(|from| (0..world).map(|to| (from * 7 + to * 5) % 19).collect()).collect();
    for collective in Collective::ALL {
        let mut shapes = vec![Shape::Same(0), Shape::Same(1), Shape::Same(37)];
        if collective.has_blocks() {
            shapes.push(Shape::Blocks(uneven.clone()));
        }
        if collective == Collective::AllToAll {
            shapes.push(Shape::Pairs(pairs.clone()));
        }
        if collective == Collective::Barrier {
            shapes = vec![Shape::Same(1)];
        }
        let dtypes = match collective {
            Collective::Barrier => vec![DType::U8],
            _ if collective.reduces() => TYPES.to_vec(),
            _ => DType::ALL.to_vec(),
        };
        for dtype in dtypes {
            let ops = OPS.into_iter().filter(|op| op.supports(dtype) && collective.combines());
            let ops: Vec<ReduceOp> = if collective.combines() { ops.collect() } else { vec![ReduceOp::Sum] };
            for op in ops {
                for shape in &shapes {
                    for placement in [Placement::Out, Placement::Mixed, Placement::In] {
                        let in_place = placement != Placement::Out;
                        if place == Place::OnDevice && collective == Collective::AllToAll && in_place {
                            continue;
                        }
                        seed += 1;
                        let call = Call::new(collective, dtype, 0)
                            .shape(shape.clone())
                            .op(op)
                            .root(seed as usize % world)
                            .placement(placement);
                        // Where it is not NCCL that looks at it, memory may lie anywhere.
                        let offset = if place == Place::Host { seed as usize % 4 } else { 0 };
                        run(group, &call.offset(offset), seed);
                    }
                }
            }
        }
    }
    assert!(seed > 1000, "only {seed} calls");
}
