//! Ranks of the backend, as threads drive them, by operations.

use super::calls::call::{Job, Tensors};
use super::calls::group::Member;
use super::calls::memory::Memory;
use ringfold::backend::nccl::{Library, NcclBackend, NcclSetup};
use ringfold::backend::{Backend, Buffers, Operation, Ticket};
use ringfold::collective::Request;
use ringfold::cuda::{Context, DeviceMemory};
use ringfold::error::Cause;
use ringfold::observe::Poison;
use ringfold::plan::{Algorithm, Reach, Schedule};
use ringfold::tensor::Device;
use ringfold::{Check, Collective, Result};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where the libraries come from.
pub(crate) trait Source: Sync {
    fn library(&self) -> Library;
    fn context(&self, ordinal: u32) -> Arc<Context>;
}

/// Where a rank's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the host, with leave to be staged.
    Host,
    OnDevice,
    /// On the device, with leave to be staged.
    StagedOnDevice,
    /// On the host for ranks with an even number, on their devices for the others.
    Mixed,
}

/// What a store would be: it takes what it hears for the verdict, at once.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) poisons: Vec<Arc<Poison>>,
    pub(crate) heard: Mutex<Vec<Cause>>,
}

pub(crate) struct Rank {
    pub(crate) backend: NcclBackend,
    pub(crate) context: Arc<Context>,
    pub(crate) rank: usize,
    pub(crate) world: usize,
    place: Place,
    sequence: u64,
}

/// A schedule, which means nothing to NCCL.
pub(crate) fn any_schedule() -> Schedule {
    Schedule::whole(Algorithm::within(Reach::Messages).next().expect("there are algorithms"))
}

/// What a rank is made of.
pub(crate) fn setup(source: &dyn Source, store: &Arc<Store>, rank: usize, portion: usize) -> NcclSetup {
    let world = store.poisons.len();
    let report = Arc::clone(store);
    NcclSetup {
        rank,
        numbers: (0..world).collect(),
        generation: 3,
        communicator: 0,
        library: source.library(),
        context: source.context(rank as u32),
        poison: Arc::clone(&store.poisons[rank]),
        report: Arc::new(move |cause: &Cause| {
            report.heard.lock().unwrap().push(cause.clone());
            for poison in &report.poisons {
                poison.set(cause.clone());
            }
        }),
        spins: 10,
        portion,
        tracer: None,
        ledger: None,
    }
}

pub(crate) fn store(world: usize) -> Arc<Store> {
    let poisons = (0..world).map(|_| Arc::new(Poison::new())).collect();
    Arc::new(Store { poisons, heard: Mutex::default() })
}

/// A group whose ranks are told of failures by this store.
pub(crate) fn ranks_with(
    source: &dyn Source,
    store: &Arc<Store>,
    place: Place,
    portion: usize,
    timeout: Duration,
) -> Vec<Result<Rank>> {
    let (world, id) = (store.poisons.len(), source.library().unique_id().unwrap());
    let make = &|rank| {
        let setup = setup(source, store, rank, portion);
        let context = Arc::clone(&setup.context);
        let backend = NcclBackend::new(setup, id, timeout)?;
        Ok(Rank { backend, context, rank, world, place, sequence: 0 })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..world).map(|rank| scope.spawn(move || make(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

pub(crate) fn ranks(source: &dyn Source, world: usize, place: Place, portion: usize) -> Vec<Rank> {
    let made = ranks_with(source, &store(world), place, portion, Duration::from_secs(20));
    made.into_iter().map(Result::unwrap).collect()
}

/// Memory of a device with a copy of memory of the host.
pub(crate) fn upload(context: &Arc<Context>, from: &[u8]) -> DeviceMemory {
    let mut memory = DeviceMemory::new(context, from.len()).unwrap();
    memory.write(from).unwrap();
    memory
}

impl Rank {
    /// An operation over this memory.
    pub(crate) fn operation(&mut self, request: Request, buffers: Buffers, deadline: Duration) -> Operation {
        let sequence = self.sequence;
        self.sequence += u64::from(request.collective != Collective::SendRecv);
        // SAFETY: each test keeps the memory, which is as long as the request says, until the operation is done.
        let operation =
            unsafe { Operation::new(request, any_schedule(), sequence, false, deadline, buffers) };
        let operation = if self.place == Place::OnDevice { operation } else { operation.staged() };
        if self.is_on_host() { operation } else { operation.on_device(Device::Cuda(self.rank as u32)) }
    }

    fn is_on_host(&self) -> bool {
        self.place == Place::Host || (self.place == Place::Mixed && self.rank.is_multiple_of(2))
    }

    /// Drives what was submitted to its end.
    pub(crate) fn drive(&mut self, ticket: Ticket) -> Result<()> {
        self.backend.drive(ticket)
    }

    fn run(&mut self, job: &Job, buffers: Buffers) -> Result<()> {
        let request = job.call.request(self.world, self.rank);
        request.validate()?;
        assert_eq!(job.call.check, Check::Normal);
        let operation = self.operation(request, buffers, job.call.deadline);
        self.backend.run(&mut Some(operation))
    }
}

/// Where input and output begin, whose memory is at these addresses.
fn buffers(job: &Job, world: usize, rank: usize, input: *mut u8, output: *mut u8) -> Buffers {
    let request = job.call.request(world, rank);
    let shift = if matches!(job.tensors, Tensors::One(_)) { request.aliasing(rank).unwrap_or(0) } else { 0 };
    let at = |pointer: *mut u8, elements: isize| {
        pointer.wrapping_add(elements.max(0) as usize * request.dtype.size())
    };
    Buffers { input: at(input, shift), output: at(output, -shift) }
}

impl Member for Rank {
    fn call(&mut self, job: &mut Job) -> Result<()> {
        let (world, rank) = (self.world, self.rank);
        if self.is_on_host() {
            let pointers = match &mut job.tensors {
                Tensors::One(memory) => [memory.pointer(); 2],
                Tensors::Two(input, output) => [input.pointer(), output.pointer()],
            };
            let buffers = buffers(job, world, rank, pointers[0], pointers[1]);
            return self.run(job, buffers);
        }
        let context = Arc::clone(&self.context);
        let up = |memory: &Memory| upload(&context, memory.content());
        let memories = match &job.tensors {
            Tensors::One(memory) => vec![up(memory)],
            Tensors::Two(input, output) => vec![up(input), up(output)],
        };
        let address =
            |memory: &DeviceMemory| std::ptr::without_provenance_mut::<u8>(memory.address() as usize);
        let buffers =
            buffers(job, world, rank, address(&memories[0]), address(&memories[memories.len() - 1]));
        self.run(job, buffers)?;
        match &mut job.tensors {
            Tensors::One(memory) => memories[0].read(memory.content_mut()),
            Tensors::Two(input, output) => {
                memories[0].read(input.content_mut())?;
                memories[1].read(output.content_mut())
            }
        }
    }
}
