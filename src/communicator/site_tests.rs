use super::super::start::alone;
use super::super::{Call, Communicator, Lent, Options};
use crate::backend::{Backend, Meter, Operation, Planned, Progress, STAGING, Ticket};
use crate::error::{Cause, Result};
use crate::observe::{Time, Waker};
use crate::tensor::{DType, Device, Stream, TensorMut, TensorRef};
use crate::transport::channel::{ChannelTransport, channel};
use crate::{ErrorKind, ReduceOp};
use std::sync::{Arc, Mutex};

/// Where an operation was said to be, its stream, whether it may be staged, and whether it is a batch.
type Told = (Device, Option<Stream>, bool, bool);

/// A backend of devices which notes what it is told and touches nothing.
struct Listener {
    inner: Planned<ChannelTransport>,
    told: Arc<Mutex<Vec<Told>>>,
    done: Vec<Ticket>,
}

impl Backend for Listener {
    fn name(&self) -> &'static str {
        "listener"
    }

    fn works_on_devices(&self) -> bool {
        true
    }

    fn submit(&mut self, operation: Operation) -> Result<Ticket> {
        let told =
            (operation.device(), operation.stream(), operation.may_be_staged(), operation.pieces().is_some());
        let mut all = self.told.lock().unwrap();
        all.push(told);
        let ticket = Ticket(all.len() as u64);
        self.done.push(ticket);
        Ok(ticket)
    }

    fn progress(&mut self) -> Progress {
        match self.done.is_empty() {
            true => Progress::Idle,
            false => Progress::Done(self.done.remove(0), Ok(())),
        }
    }

    fn wait(&mut self, _: Time) {}

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn meter(&self) -> Arc<Meter> {
        self.inner.meter()
    }

    fn spins(&self) -> u32 {
        0
    }

    fn now(&self) -> Time {
        self.inner.now()
    }

    fn failure(&self) -> Option<Cause> {
        None
    }
}

fn listening() -> (Communicator, Arc<Mutex<Vec<Told>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let inner = Planned::new("channel", channel(1).remove(0), 0, 0, STAGING);
    (alone(Box::new(Listener { inner, told: Arc::clone(&told), done: Vec::new() })), told)
}

/// A tensor that is said to be on a device.
fn there(data: &mut [f32], device: u32) -> TensorMut<'_> {
    let pointer = data.as_mut_ptr().cast();
    // SAFETY: the backend touches nothing.
    unsafe { TensorMut::from_raw(pointer, DType::F32, &[data.len()], None, Device::Cuda(device)) }.unwrap()
}

#[test]
fn backends_of_devices_are_told_where_memory_is_which_stream_it_follows_and_whether_it_may_be_staged() {
    let (comm, told) = listening();
    let stream = Stream::from_raw(0x40 as *mut _);
    // SAFETY: nobody uses it.
    let follow = unsafe { Options::new().stream(stream) };
    let (mut data, mut other) = ([1.0f32; 8], [1.0f32; 8]);
    let sum = ReduceOp::Sum;
    let call = Call::AllReduce(sum.into());
    comm.all_reduce(&mut data, sum).unwrap();
    comm.all_reduce_dyn(there(&mut data, 3), sum).unwrap();
    // The same call again, which is not checked again, over memory elsewhere.
    comm.all_reduce_dyn(there(&mut data, 4), sum).unwrap();
    comm.with(follow.clone()).all_reduce_dyn(there(&mut data, 3), sum).unwrap();
    comm.with(Options::new().staging(true)).all_reduce(&mut data, sum).unwrap();
    let with = comm.with(follow.staging(true));
    // SAFETY: the memory stays until the operation is complete.
    with.start(&call, unsafe { Lent::new(there(&mut data, 2).into()) }).unwrap().wait().unwrap();
    // SAFETY: as above.
    with.prepare(&call, unsafe { Lent::new(there(&mut data, 2).into()) }).unwrap().run().unwrap();
    with.scope(|scope| scope.all_reduce(there(&mut data, 1), sum)).unwrap();
    comm.all_reduce_batch(&mut [there(&mut data, 1), there(&mut other, 1)], sum).unwrap();
    let cuda = Device::Cuda;
    let expected = [
        (Device::Host, None, false, false),
        (cuda(3), None, false, false),
        (cuda(4), None, false, false),
        (cuda(3), Some(stream), false, false),
        (Device::Host, None, true, false),
        (cuda(2), Some(stream), true, false),
        (cuda(2), Some(stream), true, false),
        (cuda(1), Some(stream), true, false),
        (cuda(1), None, false, true),
    ];
    assert_eq!(*told.lock().unwrap(), expected);
}

#[test]
fn memory_of_several_devices_in_one_call_is_refused() {
    let (comm, told) = listening();
    let (mut data, mut other, host) = ([1.0f32; 8], [1.0f32; 8], [1.0f32; 8]);
    let refused = |result: Result<()>, says: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(says), "{error}");
    };
    let mixed = comm.all_reduce_dyn((TensorRef::from_slice(&host), there(&mut data, 1)), ReduceOp::Sum);
    refused(mixed, "the input is in the host's memory and the output in memory of CUDA device 1");
    let batch = comm.all_reduce_batch(&mut [there(&mut data, 1), there(&mut other, 2)], ReduceOp::Sum);
    refused(batch, "CUDA device 2");
    assert!(told.lock().unwrap().is_empty());
}
