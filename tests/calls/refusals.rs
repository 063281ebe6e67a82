//! Arguments that cannot be right, and the calls that they are passed to.

use ringfold::ErrorKind::{InvalidArgument, Unsupported};
use ringfold::plan::Algorithm;
use ringfold::tensor::{Device, TensorMut, TensorRef};
use ringfold::{Communicator, DType, ErrorKind, Options, Order, ReduceOp, Result};

/// How many ranks these calls are wrong for.
pub const WORLD: usize = 3;

/// A call that is wrong, on these tensors, and what kind of error it is.
type Wrong = (&'static str, ErrorKind, fn(&Communicator, &[f32; 6], &mut [f32; 6]) -> Result<()>);

fn algorithm(name: &str) -> Options {
    Options::new().algorithm(Algorithm::named(name).unwrap())
}

const SUM: ReduceOp = ReduceOp::Sum;

#[rustfmt::skip]
const WRONG: &[Wrong] = &[
    ("output too short", InvalidArgument, |c, i, o| c.all_reduce_into(i, &mut o[..5], SUM)),
    ("output too long", InvalidArgument, |c, i, o| c.all_reduce_into(&i[..4], o, SUM)),
    ("output of the root too short", InvalidArgument, |c, i, o| c.reduce_into(i, &mut o[..2], SUM, 1)),
    ("input of the root too long", InvalidArgument, |c, i, o| c.broadcast_into(i, &mut o[..2], 1)),
    ("input that is no three blocks", InvalidArgument, |c, i, o| c.reduce_scatter(&i[..5], &mut o[..2], SUM)),
    ("output that is no three blocks", InvalidArgument, |c, i, o| c.all_gather(&i[..2], &mut o[..5])),
    ("blocks that do not divide", InvalidArgument, |c, _, o| c.all_gather_in_place(&mut o[..4])),
    ("blocks that do not divide, scattered", InvalidArgument, |c, _, o| c.reduce_scatter_in_place(&mut o[..5], SUM)),
    ("blocks that do not divide, to all", InvalidArgument, |c, i, o| c.all_to_all(&i[..5], &mut o[..5])),
    ("output shorter than input, to all", InvalidArgument, |c, i, o| c.all_to_all(i, &mut o[..3])),
    ("gathered into too little", InvalidArgument, |c, i, o| c.gather(&i[..2], &mut o[..4], 1)),
    ("scattered from too little", InvalidArgument, |c, i, o| c.scatter(&i[..3], &mut o[..2], 1)),
    ("root that is no rank: reduce", InvalidArgument, |c, i, o| c.reduce_into(i, o, SUM, WORLD)),
    ("root that is no rank: broadcast", InvalidArgument, |c, _, o| c.broadcast(o, 17)),
    ("root that is no rank: gather", InvalidArgument, |c, i, o| c.gather(&i[..2], o, usize::MAX)),
    ("root that is no rank: scatter", InvalidArgument, |c, i, o| c.scatter(i, &mut o[..2], WORLD)),
    ("bitwise on floats", Unsupported, |c, i, o| c.all_reduce_into(i, o, ReduceOp::BitOr)),
    ("bitwise on floats, rooted", Unsupported, |c, i, o| c.reduce_into(i, o, ReduceOp::BitXor, 0)),
    ("bitwise on floats, scattered", Unsupported, |c, i, o| c.reduce_scatter(i, &mut o[..2], ReduceOp::BitAnd)),
    ("mean of integers", Unsupported, |c, _, _| c.all_reduce(&mut [1i32, 2], ReduceOp::Mean)),
    ("two counts: reduce_scatter", InvalidArgument, |c, i, o| c.reduce_scatter_v(i, &mut o[..3], &[3, 3], SUM)),
    ("four counts: all_gather", InvalidArgument, |c, i, o| c.all_gather_v(&i[..2], o, &[2, 2, 1, 1])),
    ("no counts: gather", InvalidArgument, |c, i, o| c.gather_v(&i[..2], o, &[], 1)),
    ("two counts: scatter", InvalidArgument, |c, i, o| c.scatter_v(i, &mut o[..2], &[2, 4], 1)),
    ("two counts: all_to_all", InvalidArgument, |c, i, o| c.all_to_all_v(i, &[3, 3], o, &[2, 2, 2])),
    ("counts that are not the input's", InvalidArgument, |c, i, o| c.all_gather_v(i, o, &[2, 2, 2])),
    ("counts that are not the output's", InvalidArgument, |c, i, o| c.all_gather_v(&i[..1], &mut o[..5], &[2, 1, 3])),
    ("counts that overflow", InvalidArgument, |c, i, o| c.all_gather_v(i, o, &[usize::MAX, 6, 2])),
    ("sends itself what it does not receive", InvalidArgument, |c, i, o| {
        c.all_to_all_v(i, &[2, 2, 2], &mut o[..5], &[2, 1, 2])
    }),
    ("in place with unlike counts", InvalidArgument, |c, _, o| {
        c.all_to_all_dyn(&mut o[..], Some((&[1, 2, 3], &[3, 2, 1])))
    }),
    ("strided input", Unsupported, |c, i, o| {
        // SAFETY: three elements, two apart, lie within six.
        let view = unsafe { TensorRef::from_raw(i.as_ptr().cast(), DType::F32, &[3], Some(&[2]), Device::Host) }?;
        c.all_reduce_dyn((view, TensorMut::from_slice(&mut o[..3])), SUM)
    }),
    ("transposed output", Unsupported, |c, i, o| {
        // SAFETY: two columns of three lie within six.
        let view = unsafe {
            TensorMut::from_raw(o.as_mut_ptr().cast(), DType::F32, &[2, 3], Some(&[1, 2]), Device::Host)
        }?;
        c.all_reduce_dyn((TensorRef::from_slice(i), view), SUM)
    }),
    ("memory of a device", Unsupported, |c, _, o| {
        // SAFETY: the memory is there; that it is said to be elsewhere is what is tried.
        let view = unsafe { TensorMut::from_raw(o.as_mut_ptr().cast(), DType::F32, &[6], None, Device::Cuda(0)) }?;
        c.all_reduce_dyn(view, SUM)
    }),
    ("input of one type, output of another", InvalidArgument, |c, i, _| {
        let mut output = [7u32; 6];
        let result = c.all_reduce_dyn((TensorRef::from_slice(i), TensorMut::from_slice(&mut output)), SUM);
        assert_eq!(output, [7; 6]);
        result
    }),
    ("a message of one type for one of another", InvalidArgument, |c, i, _| {
        c.send_recv_dyn(TensorRef::from_slice(i), 0, TensorMut::from_slice(&mut [0u64; 6]), 2)
    }),
    ("an algorithm for something else", Unsupported, |c, _, o| c.with(algorithm("pairwise")).all_reduce(o, SUM)),
    ("an algorithm for something else, to all", Unsupported, |c, _, o| {
        c.with(algorithm("ring")).all_to_all_in_place(o)
    }),
    ("a ring in the fixed order", Unsupported, |c, _, o| {
        c.with(algorithm("ring").order(Order::Fixed)).all_reduce(o, SUM)
    }),
    ("bruck for blocks of different lengths", Unsupported, |c, i, o| {
        c.with(algorithm("bruck")).all_to_all_v(i, &[1, 2, 3], o, &[1, 2, 3])
    }),
    ("a message to nobody", InvalidArgument, |c, i, _| c.send(i, WORLD)),
    ("a message from nobody", InvalidArgument, |c, _, o| c.recv(o, WORLD)),
    ("a message to itself that nobody receives", InvalidArgument, |c, i, _| c.send(i, 1)),
    ("a message from itself that nobody sent", InvalidArgument, |c, _, o| c.recv(o, 1)),
    ("a message to itself of another length", InvalidArgument, |c, i, o| c.send_recv(i, 1, &mut o[..5], 1)),
];

/// One rank's part: rank 1 makes each call, which is refused, and all reduce something after it.
pub fn refuse(comm: &Communicator) {
    for (what, kind, call) in WRONG {
        if comm.rank() == 1 {
            let (input, mut output) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [9.0; 6]);
            let before = input;
            let error = call(comm, &input, &mut output).expect_err(what);
            assert_eq!(error.kind(), *kind, "{what}: {error}");
            assert_eq!(error.rank(), Some(1), "{what}: {error}");
            assert_eq!((input, output), (before, [9.0; 6]), "{what}");
            assert!(comm.failure().is_none(), "{what}");
        }
        let mut sum = [comm.rank() as i64, 1];
        comm.all_reduce(&mut sum, SUM).unwrap_or_else(|error| panic!("after {what}: {error}"));
        assert_eq!(sum, [3, 3], "after {what}");
    }
}
