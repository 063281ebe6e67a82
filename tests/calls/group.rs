//! Groups of ranks on every backend, driven alike: each rank has a list of jobs and comes back with the results.

use super::address::unused_address;
use super::call::{Call, DEADLINE, Job, Shape, Tensors};
use super::hosts::communicators_on;
use super::memory::Memory;
use super::started::Starting;
use super::value::with_type;
use ringfold::backend::{Backend, Buffers, Operation, Planned, Progress, Ticket};
use ringfold::collective::Request;
use ringfold::config::BackendChoice;
use ringfold::error::Cause;
use ringfold::observe::{Poison, Time};
use ringfold::plan::select::Table;
use ringfold::plan::{Algorithm, Reach, Schedule, Topology};
use ringfold::tensor::{Device, Element, TensorMut, TensorRef};
use ringfold::transport::Transport;
use ringfold::transport::channel::channel_with;
use ringfold::transport::tcp::{Seat, TcpSetup, TcpTransport};
use ringfold::{Check, Collective, Communicator, Config, Options, Result};
use std::collections::VecDeque;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A job and what has become of it.
pub type Done = (Job, Result<()>);

/// Ranks that can be asked for a list of calls each.
pub trait Group {
    /// Lets every rank do its jobs, in order, to the end of the list whatever the results are. The ranks stay in the
    /// group after that.
    fn run(&mut self, jobs: Vec<Vec<Job>>) -> Vec<Vec<Done>>;
}

/// A way to form a group.
#[derive(Clone, Copy)]
pub struct Way {
    pub name: &'static str,
    /// What its ranks reach of each other.
    pub reach: Reach,
    /// Whether a library owns the schedules: there are no algorithms to choose from.
    pub of_library: bool,
    pub form: fn(usize) -> Box<dyn Group>,
}

const fn over_messages(name: &'static str, form: fn(usize) -> Box<dyn Group>) -> Way {
    Way { name, reach: Reach::Messages, of_library: false, form }
}

pub const THREADS: Way = over_messages("channel", |world| Box::new(Communicator::local(world)));
pub const TINY: Way =
    over_messages("channel with tiny queues, staging and slices, on three hosts", |world| {
        Box::new(tiny(world))
    });
pub const TCP: Way = over_messages("tcp", |world| Box::new(connected(world, BackendChoice::Tcp)));
pub const SMALL_TCP: Way =
    over_messages("tcp with small staging and slices, on hosts of two", |world| Box::new(tcp(world)));
pub const STARTED: Way =
    over_messages("channel, started", |world| Box::new(starting(Communicator::local(world))));
pub const SHM: Way = Way {
    name: "shm",
    reach: Reach::Memory,
    of_library: false,
    form: |world| Box::new(connected(world, BackendChoice::Shm)),
};
pub const SHM_STARTED: Way = Way {
    name: "shm, started",
    reach: Reach::Memory,
    of_library: false,
    form: |world| Box::new(starting(connected(world, BackendChoice::Shm))),
};

pub const HOSTS: Way =
    over_messages("hierarchical, hosts of two", |world| Box::new(on_hosts(world, |rank| rank / 2)));
pub const DEALT: Way =
    over_messages("hierarchical, dealt to two hosts", |world| Box::new(on_hosts(world, |rank| rank % 2)));
pub const HOSTS_STARTED: Way = over_messages("hierarchical, started, hosts of three", |world| {
    Box::new(starting(on_hosts(world, |rank| rank / 3)))
});

/// Every backend there is, in the ways in which it can be had.
pub const WAYS: &[Way] = &[THREADS, TINY, SHM, SHM_STARTED, TCP, SMALL_TCP, STARTED, HOSTS];

/// Runs one call on all ranks.
pub fn run_one(group: &mut dyn Group, jobs: Vec<Job>) -> Vec<Done> {
    let done = group.run(jobs.into_iter().map(|job| vec![job]).collect());
    done.into_iter().map(|mut done| done.remove(0)).collect()
}

/// A rank that is driven by a thread of its own.
pub trait Member: Send {
    fn call(&mut self, job: &mut Job) -> Result<()>;
}

impl<M: Member> Group for Vec<M> {
    fn run(&mut self, jobs: Vec<Vec<Job>>) -> Vec<Vec<Done>> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .iter_mut()
                .zip(jobs)
                .map(|(member, jobs)| {
                    scope.spawn(move || {
                        let each = |mut job: Job| {
                            let result = member.call(&mut job);
                            (job, result)
                        };
                        jobs.into_iter().map(each).collect()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
        })
    }
}

// Communicators, by their public verbs.

impl Member for Communicator {
    fn call(&mut self, job: &mut Job) -> Result<()> {
        let call = &job.call;
        let mut options = Options::new().deadline(call.deadline).check(call.check).order(call.order);
        if let Some(algorithm) = call.algorithm {
            options = options.algorithm(algorithm);
        }
        if call.offset == 0 {
            with_type!(call.dtype, T => typed::<T>(self, options, job))
        } else {
            untyped(self, options, job)
        }
    }
}

fn slice<T: Element>(memory: &Memory) -> &[T] {
    let content = memory.content();
    assert!(content.as_ptr().cast::<T>().is_aligned());
    // SAFETY: aligned as just checked, plain data of which any bits are a value, borrowed as long as the memory.
    unsafe { std::slice::from_raw_parts(content.as_ptr().cast(), content.len() / size_of::<T>()) }
}

fn slice_mut<T: Element>(memory: &mut Memory) -> &mut [T] {
    let content = memory.content_mut();
    assert!(content.as_ptr().cast::<T>().is_aligned());
    // SAFETY: as above, and borrowed exclusively.
    unsafe { std::slice::from_raw_parts_mut(content.as_mut_ptr().cast(), content.len() / size_of::<T>()) }
}

/// By the verbs that take slices, where there is one for the case.
fn typed<T: Element>(comm: &Communicator, options: Options, job: &mut Job) -> Result<()> {
    let with = comm.with(options.clone());
    let Call { op, root, .. } = job.call;
    let rank = comm.rank();
    match (job.call.collective, &job.call.shape, &mut job.tensors) {
        (Collective::Barrier, ..) => with.barrier(),
        (collective, shape, Tensors::One(data)) => {
            let data = slice_mut::<T>(data);
            match (collective, shape) {
                (Collective::AllReduce, _) => with.all_reduce(data, op),
                (Collective::Reduce, _) => with.reduce(data, op, root),
                (Collective::Broadcast, _) => with.broadcast(data, root),
                (Collective::ReduceScatter, Shape::Same(_)) => with.reduce_scatter_in_place(data, op),
                (Collective::AllGather, Shape::Same(_)) => with.all_gather_in_place(data),
                (Collective::AllToAll, Shape::Same(_)) => with.all_to_all_in_place(data),
                _ => untyped(comm, options, job),
            }
        }
        (collective, shape, Tensors::Two(input, output)) => {
            let (input, output) = (slice::<T>(input), slice_mut::<T>(output));
            match (collective, shape) {
                (Collective::AllReduce, _) => with.all_reduce_into(input, output, op),
                (Collective::Reduce, _) => with.reduce_into(input, output, op, root),
                (Collective::Broadcast, _) => with.broadcast_into(input, output, root),
                (Collective::ReduceScatter, Shape::Blocks(counts)) => {
                    with.reduce_scatter_v(input, output, counts, op)
                }
                (Collective::ReduceScatter, _) => with.reduce_scatter(input, output, op),
                (Collective::AllGather, Shape::Blocks(counts)) => with.all_gather_v(input, output, counts),
                (Collective::AllGather, _) => with.all_gather(input, output),
                (Collective::Gather, Shape::Blocks(counts)) => with.gather_v(input, output, counts, root),
                (Collective::Gather, _) => with.gather(input, output, root),
                (Collective::Scatter, Shape::Blocks(counts)) => with.scatter_v(input, output, counts, root),
                (Collective::Scatter, _) => with.scatter(input, output, root),
                (Collective::AllToAll, Shape::Pairs(counts)) => {
                    let receive: Vec<usize> = counts.iter().map(|to| to[rank]).collect();
                    with.all_to_all_v(input, &counts[rank], output, &receive)
                }
                (Collective::AllToAll, _) => with.all_to_all(input, output),
                (_, Shape::Message(Some((to, _)), None)) => with.send(input, *to),
                (_, Shape::Message(None, Some((from, _)))) => with.recv(output, *from),
                (_, Shape::Message(Some((to, _)), Some((from, _)))) => {
                    with.send_recv(input, *to, output, *from)
                }
                other => unreachable!("{other:?} has no verb"),
            }
        }
    }
}

/// By the verbs that take views.
fn untyped(comm: &Communicator, options: Options, job: &mut Job) -> Result<()> {
    let with = comm.with(options);
    let dtype = job.call.dtype;
    let size = dtype.size();
    let view = |memory: &mut Memory| {
        // SAFETY: the memory is the job's, which nobody touches before the call is over.
        unsafe { TensorMut::from_raw(memory.pointer(), dtype, &[memory.len() / size], None, Device::Host) }
    };
    let read = |memory: &mut Memory| {
        // SAFETY: as above.
        unsafe { TensorRef::from_raw(memory.pointer(), dtype, &[memory.len() / size], None, Device::Host) }
    };
    let tensors: ringfold::Tensors<'_> = match &mut job.tensors {
        Tensors::One(data) => view(data)?.into(),
        Tensors::Two(input, output) => (read(input)?, view(output)?).into(),
    };
    by_views(&with, comm.rank(), &job.call, tensors)
}

/// By the verb that takes views.
pub fn by_views(
    with: &ringfold::With<'_>,
    rank: usize,
    call: &Call,
    tensors: ringfold::Tensors<'_>,
) -> Result<()> {
    let Call { collective, op, root, .. } = *call;
    if let Shape::Message(send, receive) = &call.shape {
        let ringfold::Tensors::Apart(input, output) = tensors else { unreachable!("messages have two") };
        return match (send, receive) {
            (Some((to, _)), Some((from, _))) => with.send_recv_dyn(input, *to, output, *from),
            (Some((to, _)), None) => with.send_dyn(input, *to),
            (None, Some((from, _))) => with.recv_dyn(output, *from),
            (None, None) => Ok(()),
        };
    }
    let counts = match &call.shape {
        Shape::Blocks(counts) => Some(&counts[..]),
        _ => None,
    };
    match collective {
        Collective::AllReduce => with.all_reduce_dyn(tensors, op),
        Collective::Reduce => with.reduce_dyn(tensors, op, root),
        Collective::ReduceScatter => with.reduce_scatter_dyn(tensors, counts, op),
        Collective::AllGather => with.all_gather_dyn(tensors, counts),
        Collective::Broadcast => with.broadcast_dyn(tensors, root),
        Collective::Gather => with.gather_dyn(tensors, counts, root),
        Collective::Scatter => with.scatter_dyn(tensors, counts, root),
        Collective::AllToAll => match &call.shape {
            Shape::Pairs(counts) => {
                let receive: Vec<usize> = counts.iter().map(|to| to[rank]).collect();
                with.all_to_all_dyn(tensors, Some((&counts[rank], &receive)))
            }
            _ => with.all_to_all_dyn(tensors, None),
        },
        Collective::Barrier => with.barrier(),
        other => unreachable!("{other} is no collective"),
    }
}

// The planned backend over any transport, by operations.

/// One rank of the planned backend, with what a communicator would know.
pub struct PlannedRank<T: Transport> {
    pub backend: Planned<T>,
    rank: usize,
    world: usize,
    table: Table,
    /// Elements of a block at a time, where not the algorithm nor the table says it.
    slice: Option<usize>,
    sequence: u64,
}

impl<T: Transport> PlannedRank<T> {
    pub fn new(name: &'static str, transport: T, staging: usize, table: Table) -> Self {
        let (rank, world) = (transport.rank(), transport.world());
        let backend = Planned::new(name, transport, 0, 0, staging);
        PlannedRank { backend, rank, world, table, slice: None, sequence: 0 }
    }

    /// The same with so many elements of a block at a time, whatever the algorithm would take.
    pub fn in_slices(self, slice: usize) -> Self {
        PlannedRank { slice: Some(slice), ..self }
    }

    pub fn on(self, topology: Topology) -> Self {
        PlannedRank { backend: self.backend.on(topology), ..self }
    }

    fn schedule(&self, request: &Request, call: &Call) -> Result<Schedule> {
        match call.algorithm {
            _ if call.collective == Collective::SendRecv => {
                Ok(Schedule::whole(Algorithm::within(Reach::Messages).next().expect("there are algorithms")))
            }
            Some(algorithm) => {
                algorithm.check(request)?;
                Ok(self.table.schedule(request, algorithm))
            }
            None => self.table.select(request),
        }
    }

    /// Submits a job, whose memory must stay until it is done or this rank is dropped.
    pub fn submit(&mut self, job: &mut Job) -> Result<Ticket> {
        let request = job.call.request(self.world, self.rank);
        request.validate()?;
        let schedule = self.schedule(&request, &job.call)?;
        let schedule = Schedule { slice: self.slice.unwrap_or(schedule.slice), ..schedule };
        let shift = request.aliasing(self.rank);
        let size = request.dtype.size();
        let buffers = match &mut job.tensors {
            Tensors::Two(input, output) => Buffers { input: input.pointer(), output: output.pointer() },
            Tensors::One(memory) => {
                let shift = shift.unwrap_or(0);
                let pointer = memory.pointer();
                let at = |elements: isize| pointer.wrapping_add(elements.max(0) as usize * size);
                Buffers { input: at(shift), output: at(-shift) }
            }
        };
        let strict = job.call.check == Check::Strict;
        // SAFETY: the job was made for this request, so that its memory is as long as the request says; it is the
        // job's own, and the caller keeps it until the operation is done or dropped.
        let operation =
            unsafe { Operation::new(request, schedule, self.sequence, strict, job.call.deadline, buffers) };
        let ticket = self.backend.submit(operation)?;
        self.sequence += u64::from(job.call.collective != Collective::SendRecv);
        Ok(ticket)
    }
}

impl<T: Transport> Member for PlannedRank<T> {
    fn call(&mut self, job: &mut Job) -> Result<()> {
        let ticket = self.submit(job)?;
        loop {
            match self.backend.progress() {
                Progress::Done(done, result) => {
                    assert_eq!(done, ticket);
                    return result;
                }
                Progress::Advanced => {}
                Progress::Idle => self.backend.wait(Time::NEVER),
            }
        }
    }
}

/// Ranks that take turns on one thread: for queues so small that threads would do little but wake each other.
pub struct Turns<T: Transport>(pub Vec<PlannedRank<T>>);

impl<T: Transport> Group for Turns<T> {
    fn run(&mut self, jobs: Vec<Vec<Job>>) -> Vec<Vec<Done>> {
        let mut waiting: Vec<VecDeque<Job>> = jobs.into_iter().map(VecDeque::from).collect();
        let mut running: Vec<Option<Job>> = self.0.iter().map(|_| None).collect();
        let mut done: Vec<Vec<Done>> = self.0.iter().map(|_| Vec::new()).collect();
        let mut idle_turns = 0u32;
        loop {
            let (mut idle, mut over) = (true, true);
            for (rank, member) in self.0.iter_mut().enumerate() {
                if running[rank].is_none() {
                    let Some(mut job) = waiting[rank].pop_front() else { continue };
                    match member.submit(&mut job) {
                        Ok(_) => running[rank] = Some(job),
                        Err(error) => done[rank].push((job, Err(error))),
                    }
                }
                over = false;
                match member.backend.progress() {
                    // Says that it would wait, and does not.
                    Progress::Idle => member.backend.wait(Time::default()),
                    Progress::Advanced => idle = false,
                    Progress::Done(_, result) => {
                        done[rank].push((running[rank].take().expect("it is running"), result));
                        idle = false;
                    }
                }
            }
            if over {
                return done;
            }
            idle_turns = if idle { idle_turns + 1 } else { 0 };
            if idle_turns > 1000 {
                // Everybody waits for the clock.
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
}

fn starting(communicators: Vec<Communicator>) -> Vec<Starting> {
    communicators.into_iter().map(Starting::new).collect()
}

/// Threads' queues of a few bytes, staging buffers of a few elements, slices of a few elements; the ranks are dealt to
/// three hosts.
fn tiny(world: usize) -> Turns<impl Transport> {
    let ends = channel_with(world, 1 + world * 5 % 7);
    let hosts = Topology::of_hosts((0..world).map(|rank| rank % 3));
    Turns(
        ends.into_iter()
            .map(|end| {
                let staging = 8 + (end.rank() * 13 + world) % 56;
                let table = Table { slice_bytes: 40, ..Table::default() };
                PlannedRank::new("channel", end, staging, table).on(hosts.clone())
            })
            .collect(),
    )
}

/// Communicators as processes would have them.
pub fn connected(world: usize, backend: BackendChoice) -> Vec<Communicator> {
    let config = Config::default()
        .with_world_size(world)
        .with_backend(backend)
        .with_store(unused_address())
        .with_init_deadline(DEADLINE)
        .with_heartbeat_deadline(DEADLINE);
    std::thread::scope(|scope| {
        let join = |rank| {
            let config = config.clone().with_rank(rank);
            scope.spawn(move || Communicator::connect(&config).expect("all ranks are there"))
        };
        let threads: Vec<_> = (0..world).map(join).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

/// Communicators as processes of several hosts would have them.
pub fn on_hosts(world: usize, host: fn(usize) -> usize) -> Vec<Communicator> {
    let hosts: Vec<usize> = (0..world).map(host).collect();
    let config = |_| Config::default().with_init_deadline(DEADLINE).with_heartbeat_deadline(DEADLINE);
    let ranks = communicators_on(&hosts, BackendChoice::Auto, config);
    ranks.into_iter().map(|comm| comm.expect("all ranks are there")).collect()
}

/// The planned backend over loopback sockets, with a thread for each rank and two ranks a host.
fn tcp(world: usize) -> Vec<PlannedRank<TcpTransport>> {
    let table = Table { slice_bytes: 1000, ..Table::default() };
    let hosts = Topology::even(world, 2);
    let rank = |end| PlannedRank::new("tcp", end, 100, table.clone()).on(hosts.clone());
    tcp_transports(world).into_iter().map(rank).collect()
}

/// What a control plane does between processes: gathers reports for a moment, merges them, tells all ranks.
struct Hub {
    first: Mutex<Option<Cause>>,
    poisons: Vec<Arc<Poison>>,
}

impl Hub {
    const MOMENT: Duration = Duration::from_millis(10);

    fn report(self: &Arc<Self>, cause: Cause) {
        let mut first = self.first.lock().unwrap();
        *first = Some(match first.take() {
            Some(known) => known.merge(cause),
            None => {
                let hub = Arc::clone(self);
                std::thread::spawn(move || {
                    std::thread::sleep(Hub::MOMENT);
                    let verdict = hub.first.lock().unwrap().clone().expect("it was reported");
                    for poison in &hub.poisons {
                        poison.set(verdict.clone());
                    }
                });
                cause
            }
        });
    }
}

/// TCP ends of a world on loopback.
pub fn tcp_transports(world: usize) -> Vec<TcpTransport> {
    let listeners: Vec<_> =
        (0..world).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
    let peers: Vec<_> = listeners.iter().map(|l| l.local_addr().expect("it is bound")).collect();
    let poisons: Vec<_> = (0..world).map(|_| Arc::new(Poison::new())).collect();
    let hub = Arc::new(Hub { first: Mutex::new(None), poisons: poisons.clone() });
    let world_id = fastrand::u64(..);
    let setups = listeners.into_iter().zip(poisons).enumerate().map(|(rank, (listener, poison))| {
        let hub = Arc::clone(&hub);
        TcpSetup {
            rank,
            world,
            generation: 0,
            world_id,
            communicator: 0,
            seat: Seat::new(listener).expect("an eventfd can be had"),
            peers: peers.clone(),
            poison,
            report: Box::new(move |cause| hub.report(cause.clone())),
            spins: 0,
        }
    });
    setups.map(|setup| TcpTransport::new(setup).expect("sockets can be had")).collect()
}
