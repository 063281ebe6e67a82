//! One suite over every backend: what each collective gives, what it leaves alone, and what it refuses.
//!
//! Results are compared bit for bit with an oracle written from the definitions (`calls/oracle.rs`). A new backend is
//! one line in `calls/group.rs`. Every wait has a deadline, so that a fault is an error and not a hang.

#[path = "../calls/mod.rs"]
mod calls;

mod groups;
mod matrix;
mod messages;
mod mismatch;
mod order;
mod packed;
mod product;
mod refusals;

use calls::call::{Call, Tensors, prepare};
use calls::group::run_one;
use calls::memory::Memory;
use calls::suite::{Seeded, algorithms, run_all};
use ringfold::{Collective, Communicator, DType, ReduceOp};

/// One wrong byte in the output, the input, or beside them does not pass.
#[test]
fn the_checks_see_what_they_are_there_for() {
    let call = Call::new(Collective::AllReduce, DType::I32, 9);
    let (jobs, expected) = prepare(&call, 2, call.draw(), 1);
    let mut group = Communicator::local(2);
    let (job, result) = run_one(&mut group, jobs).swap_remove(0);
    result.unwrap();
    job.check(&expected[0]).unwrap();
    assert!(job.check(&expected[0][4..]).is_err());
    let spoilt = |spoil: fn(&mut Memory, &mut Memory)| {
        let mut job = job.clone();
        let Tensors::Two(input, output) = &mut job.tensors else { unreachable!("it is out of place") };
        spoil(input, output);
        job.check(&expected[0]).unwrap_err()
    };
    assert!(spoilt(|_, output| output.content_mut()[35] ^= 1).contains("element 8"));
    assert!(spoilt(|input, _| input.content_mut()[0] ^= 1).contains("must stay"));
    assert!(spoilt(|_, output| output.spoil_guard(0)).contains("beside"));
    assert!(spoilt(|input, _| input.spoil_guard(1)).contains("beside"));
    let mut wrong = call.clone();
    wrong.op = ReduceOp::Max;
    let inputs = call.inputs(2, call.draw(), 1);
    assert!(job.check(&calls::oracle::outputs(&wrong, &inputs)[0]).is_err());
}
