//! Strided tensors, packed: every verb gives what it gives of dense ones, and touches nothing between the elements.

use crate::calls::group::connected;
use crate::calls::packed::{self, Packing, Strided};
use crate::run_all;
use half::bf16;
use ringfold::config::BackendChoice;
use ringfold::tensor::dlpack::{Exported, Imported};
use ringfold::tensor::{Device, TensorMut, TensorRef};
use ringfold::{Call as Verb, Communicator, DType, ErrorKind, Lent, LentMany, Options, ReduceOp};

const SUM: ReduceOp = ReduceOp::Sum;

#[test]
fn every_verb_gives_the_same_of_strided_tensors() {
    for world in 1..=4 {
        let calls = packed::calls(world);
        let mut group: Vec<Packing> = Communicator::local(world).into_iter().map(Packing::new).collect();
        if let Err(fault) = run_all(&mut group, world, &calls) {
            panic!("{world} ranks: {fault}");
        }
        for rank in group {
            assert!(rank.strided > calls.len() / 3, "only {} strided tensors", rank.strided);
        }
    }
}

#[test]
fn messages_are_packed_too() {
    std::thread::scope(|scope| {
        for comm in Communicator::local(3) {
            scope.spawn(move || {
                let content = |rank: usize| (0..12).map(|i| (rank * 50 + i) as u8).collect::<Vec<u8>>();
                let (next, previous) = ((comm.rank() + 1) % 3, (comm.rank() + 2) % 3);
                let with = comm.with(Options::new().pack(true));
                for kind in 0..36 {
                    let from = Strided::new(&content(comm.rank()), 2, kind);
                    let mut to = Strided::new(&[0; 12], 2, kind / 6);
                    let u16 = DType::U16;
                    with.send_recv_dyn(from.read(u16), next, to.write(u16), previous).unwrap();
                    assert_eq!(to.content(), content(previous));
                    let mut to = Strided::new(&[0; 12], 2, kind / 6);
                    if comm.rank() == 0 {
                        with.send_dyn(from.read(u16), 2).unwrap();
                    } else if comm.rank() == 2 {
                        with.recv_dyn(to.write(u16), 0).unwrap();
                        assert_eq!(to.content(), content(0));
                    }
                }
            });
        }
    });
}

#[test]
fn strided_tensors_of_other_frameworks_are_reduced_in_bf16() {
    std::thread::scope(|scope| {
        for comm in Communicator::local(3) {
            scope.spawn(move || {
                let mine: Vec<bf16> =
                    (0..12).map(|i| bf16::from_f32((i * (comm.rank() + 1)) as f32)).collect();
                let given = Exported::new(mine, &[3, 4]).unwrap().into_raw();
                // SAFETY: nobody else has it, and its two extents and strides are turned round: four columns.
                let mut tensor = unsafe {
                    let of = &mut (*given).dl_tensor;
                    of.shape.swap(of.shape.add(1));
                    of.strides.swap(of.strides.add(1));
                    Imported::from_raw(given).unwrap()
                };
                assert_eq!(
                    (tensor.view().shape(), tensor.view().strides()),
                    (&[4, 3][..], Some(&[1, 4][..]))
                );
                let error = comm.all_reduce_dyn(tensor.view_mut().unwrap(), SUM).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.what_to_do().unwrap().contains("Options::pack"), "{error}");
                let with = comm.with(Options::new().pack(true));
                with.all_reduce_dyn(tensor.view_mut().unwrap(), SUM).unwrap();
                // One rank's input is dense, and means the same elements in the same order.
                let mut sums = [bf16::ZERO; 12];
                with.broadcast_dyn((tensor.view(), TensorMut::from_slice(&mut sums)), 1).unwrap();
                let expected: Vec<f32> =
                    (0..4).flat_map(|c| (0..3).map(move |r| (r * 4 + c) as f32 * 6.0)).collect();
                assert_eq!(sums.map(bf16::to_f32), expected[..]);
            });
        }
    });
}

/// Over shared memory, where what is given out is still a shared tensor to its verb.
#[test]
fn shared_tensors_that_were_given_out_are_reduced_where_they_are() {
    std::thread::scope(|scope| {
        for comm in connected(2, BackendChoice::Shm) {
            scope.spawn(move || {
                let mut data = comm.allocate::<f32>(5000).unwrap();
                data.fill(comm.rank() as f32 + 1.0);
                let (shared, address) = (data.is_shared(), data.as_ptr().addr());
                assert!(shared);
                let given = Exported::new(data, &[50, 100]).unwrap().into_raw();
                // SAFETY: nobody else has it.
                let mut tensor = unsafe { Imported::from_raw(given) }.unwrap();
                comm.all_reduce_dyn(tensor.view_mut().unwrap(), SUM).unwrap();
                assert_eq!(tensor.view().addresses(), address..address + 20_000);
                let mut sums = [0f32; 5000];
                comm.broadcast_dyn((tensor.view(), TensorMut::from_slice(&mut sums)), 0).unwrap();
                assert_eq!(sums, [3.0; 5000]);
                drop(comm);
                drop(tensor);
            });
        }
    });
}

#[test]
fn a_broadcast_input_is_packed_and_an_output_that_overlaps_is_refused() {
    let comm = Communicator::local(1).remove(0);
    let with = comm.with(Options::new().pack(true));
    let one = [7i32];
    let many = || {
        let first = one.as_ptr().cast();
        // SAFETY: the one element is there.
        unsafe { TensorRef::from_raw(first, DType::I32, &[5], Some(&[0]), Device::Host) }.unwrap()
    };
    let mut output = [1i32; 5];
    with.all_reduce_dyn((many(), TensorMut::from_slice(&mut output)), SUM).unwrap();
    assert_eq!(output, [7; 5]);
    let mut data = [1i32, 2, 3];
    let mut overlapping = |strides: [isize; 2]| {
        // SAFETY: three elements are reached at most.
        let output = unsafe {
            TensorMut::from_raw(data.as_mut_ptr().cast(), DType::I32, &[2, 2], Some(&strides), Device::Host)
        };
        with.all_reduce_dyn(output.unwrap(), SUM).unwrap_err()
    };
    for strides in [[0, 1], [1, 1], [0, 0]] {
        let error = overlapping(strides);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.to_string().contains("share memory") && error.rank() == Some(0), "{error}");
    }
    assert_eq!(data, [1, 2, 3]);
}

#[test]
fn other_ways_to_call_say_what_to_do() {
    let comm = Communicator::local(1).remove(0);
    let with = comm.with(Options::new().pack(true));
    let mut data = [1i32, 2, 3, 4];
    let every_other = |data: &mut [i32; 4]| {
        // SAFETY: two elements, two apart, lie within four.
        unsafe { TensorMut::from_raw(data.as_mut_ptr().cast(), DType::I32, &[2], Some(&[2]), Device::Host) }
            .unwrap()
    };
    let sum = Verb::AllReduce(SUM.into());
    // SAFETY: the memory stays to the end of this test, and nothing is started.
    let lent = |data: &mut [i32; 4]| unsafe { Lent::new(every_other(data).into()) };
    // SAFETY: as above.
    let many = unsafe { LentMany::new(vec![every_other(&mut data)]) };
    let errors = [
        with.start(&sum, lent(&mut data)).unwrap_err(),
        with.prepare(&sum, lent(&mut data)).unwrap_err(),
        with.scope(|scope| scope.all_reduce(every_other(&mut data), SUM)).unwrap_err(),
        with.all_reduce_batch(&mut [every_other(&mut data)], SUM).unwrap_err(),
        with.start_all_reduce_lent(many, SUM).unwrap_err(),
        comm.with(Options::new().pack(false)).call(&sum, every_other(&mut data)).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.what_to_do().unwrap().contains("a blocking verb with Options::pack"), "{error}");
    }
    with.call(&sum, every_other(&mut data)).unwrap();
    assert_eq!(data, [1, 2, 3, 4]);
}

#[test]
fn what_is_refused_or_fails_leaves_outputs_as_they_were() {
    std::thread::scope(|scope| {
        for comm in Communicator::local(2) {
            scope.spawn(move || {
                let with = comm.with(Options::new().pack(true));
                let (input, mut output) = (Strided::new(&[1; 24], 4, 1), Strided::new(&[9; 24], 4, 5));
                let before = output.content();
                // Lengths that cannot be right.
                let error = with
                    .all_gather_dyn((input.read(DType::I32), output.write(DType::I32)), None)
                    .unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
                // Ranks that differ.
                let op = if comm.rank() == 0 { SUM } else { ReduceOp::Max };
                let error =
                    with.all_reduce_dyn((input.read(DType::I32), output.write(DType::I32)), op).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
                // A group that has failed.
                with.broadcast_dyn((input.read(DType::I32), output.write(DType::I32)), 0).unwrap_err();
                assert_eq!(output.content(), before);
            });
        }
    });
}
