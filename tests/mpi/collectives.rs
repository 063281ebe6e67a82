//! What is special about the collectives of the MPI library.

use crate::calls::call::{Call, Job, Placement, Tensors, prepare};
use crate::calls::group::{Group, Member, Way};
use crate::calls::suite::{FLOATS, ROUGH, each_algorithm_and_world, every_call};
use crate::calls::value::Draw;
use crate::suites::{LONG, Own, form, world};
use ringfold::backend::mpi::{MpiCollectives, MpiSetup};
use ringfold::backend::{Backend, Buffers, Operation};
use ringfold::config::BackendChoice;
use ringfold::observe::Poison;
use ringfold::plan::{Algorithm, Reach, Schedule};
use ringfold::transport::Exchange;
use ringfold::transport::control::{ControlLink, Hello, LinkConfig, Server, ServerConfig};
use ringfold::transport::mpi::{Mpi, MpiExchange};
use ringfold::{Check, Collective, Communicator, Config, ErrorKind, Options, Order, ReduceOp, Result};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

/// What cannot be done, what to do instead, and the call.
type Refused = (&'static str, &'static str, fn(&Communicator) -> Result<()>);

/// What MPI's collectives cannot do.
#[rustfmt::skip]
const UNSUPPORTED: &[Refused] = &[
    ("the order of a reduction", "mpi-p2p", |comm| {
        comm.with(Options::new().order(Order::Fixed)).all_reduce(&mut [1.0f32], ReduceOp::Sum)
    }),
    ("the order of a reduction", "mpi-p2p", |comm| {
        comm.with(Options::new().order(Order::Fixed)).reduce(&mut [1.0f32], ReduceOp::Sum, 0)
    }),
    ("the order of a reduction", "mpi-p2p", |comm| {
        let input = vec![1.0f32; comm.world_size()];
        comm.with(Options::new().order(Order::Fixed)).reduce_scatter(&input, &mut [0.0], ReduceOp::Sum)
    }),
    ("what is not commutative", "mpi-p2p", |comm| {
        comm.all_reduce(&mut [1i32], ReduceOp::custom("minus", false, |a: i32, b: i32| a - b))
    }),
    ("algorithm ring", "leave it out", |comm| {
        let ring = Options::new().algorithm(Algorithm::named("ring").unwrap());
        comm.with(ring).all_reduce(&mut [1.0f32], ReduceOp::Sum)
    }),
];

pub(crate) fn unsupported() {
    let comm = form(BackendChoice::Mpi);
    for (what, remedy, call) in UNSUPPORTED {
        let error = call(&comm).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains(what), "{error}");
        assert!(error.what_to_do().is_some_and(|told| told.contains(remedy)), "{error}");
        // Nothing has happened.
        let mut sum = [1u32];
        comm.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
        assert_eq!(sum[0] as usize, comm.world_size());
    }
    // The order of a barrier, or of what is only moved, is nobody's business.
    comm.with(Options::new().order(Order::Fixed)).barrier().unwrap();
    comm.with(Options::new().order(Order::Fixed)).broadcast(&mut [1u8], 0).unwrap();
}

/// The same bits on every rank, and in every run.
pub(crate) fn bits() {
    let mpi = Mpi::world(LONG).unwrap();
    let world = mpi.size();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for _ in 0..2 {
        let member = form(BackendChoice::Mpi);
        let mut group = Own { rank: member.rank(), member };
        for (index, (dtype, op)) in FLOATS.into_iter().zip(ROUGH.into_iter().cycle()).enumerate() {
            for placement in [Placement::Out, Placement::Mixed] {
                let call = Call::new(Collective::AllReduce, dtype, 203).op(op).placement(placement);
                let (jobs, _) = prepare(&call, world, Draw::Rough, 99);
                let done = group.run(jobs.into_iter().map(|job| vec![job]).collect());
                let (job, result) = &done[mpi.rank()][0];
                result.clone().unwrap();
                let all = MpiExchange::over(mpi).all_gather(job.output(), LONG).unwrap();
                assert!(all.iter().all(|other| *other == all[0]), "{call:?}: ranks have different bits");
                match seen.get(index) {
                    None => seen.push(all[0].clone()),
                    Some(before) => assert_eq!(*before, all[0], "{call:?}: runs have different bits"),
                }
            }
        }
    }
}

/// The backend itself, with a limit of a few bytes where MPI's is 2^31.
struct Limited {
    backend: MpiCollectives,
    sequence: u64,
    world: usize,
    rank: usize,
    owned: bool,
    // After the backend.
    _link: ControlLink,
    _server: Option<Server>,
}

const LIMIT: usize = 1000;

fn limited() -> Limited {
    let mpi = Mpi::world(LONG).unwrap();
    let (rank, world) = (mpi.rank(), mpi.size());
    let mut exchange = MpiExchange::over(mpi);
    let heartbeat_deadline = Duration::from_secs(20);
    let server = (rank == 0).then(|| {
        let config = ServerConfig {
            world,
            world_id: 5,
            generation: 0,
            heartbeat_deadline,
            host_rank: Some(0),
            hear: None,
        };
        Server::start(TcpListener::bind("127.0.0.1:0").unwrap(), config).unwrap()
    });
    let address = server.as_ref().map_or(String::new(), |server| server.address().to_string());
    let told = exchange.all_gather(address.as_bytes(), LONG).unwrap().remove(0);
    let address = String::from_utf8(told).unwrap();
    let poison = Arc::new(Poison::new());
    let config = LinkConfig { heartbeat_deadline, timeout: LONG };
    let link =
        ControlLink::connect(address, Hello::new(rank, world, 5, 0), config, Arc::clone(&poison)).unwrap();
    let backend = MpiCollectives::new(MpiSetup {
        mpi: mpi.duplicate(LONG).unwrap(),
        generation: 0,
        communicator: 0,
        numbers: (0..world).collect(),
        poison,
        reporter: link.reporter(),
        shares_cpus: true,
        spins: 0,
        direct: false,
        blocking: Config::from_env().unwrap().mpi_blocking,
        limit: LIMIT,
        tracer: None,
    });
    Limited {
        backend: backend.unwrap(),
        sequence: 0,
        world,
        rank,
        owned: false,
        _link: link,
        _server: server,
    }
}

impl Member for Limited {
    fn call(&mut self, job: &mut Job) -> Result<()> {
        let request = job.call.request(self.world, self.rank);
        request.validate()?;
        let size = request.dtype.size();
        let shift = request.aliasing(self.rank).unwrap_or(0);
        let buffers = match &mut job.tensors {
            Tensors::Two(input, output) => Buffers { input: input.pointer(), output: output.pointer() },
            Tensors::One(memory) => {
                let pointer = memory.pointer();
                let at = |elements: isize| pointer.wrapping_add(elements.max(0) as usize * size);
                Buffers { input: at(shift), output: at(-shift) }
            }
        };
        let schedule = Schedule::whole(Algorithm::within(Reach::Messages).next().unwrap());
        let strict = job.call.check == Check::Strict;
        let (sequence, deadline) = (self.sequence, job.call.deadline);
        self.sequence += u64::from(job.call.collective != Collective::SendRecv);
        self.owned = !self.owned;
        // SAFETY: the job was made for this request, and its memory stays until the operation is over; should MPI keep it, the test has
        // failed, and the process ends.
        let operation = unsafe { Operation::new(request, schedule, sequence, strict, deadline, buffers) };
        let operation = match self.owned {
            // SAFETY: as above.
            true => unsafe { operation.owning() },
            false => operation,
        };
        self.backend.run(&mut Some(operation.blocking()))
    }
}

/// All calls cut into many, and described block by block.
pub(crate) fn limits() {
    let way = Way {
        name: "mpi with a limit of 1000 bytes",
        reach: Reach::Messages,
        of_library: true,
        form: |_| {
            let member = limited();
            Box::new(Own { rank: member.rank, member })
        },
    };
    each_algorithm_and_world(&way, &[world()], [521, 2003]);
    every_call(&way, &[world()]);
    crate::calls::messages::of_every_type(&way, world());
}

/// More than MPI's `int` counts, in a call that has one count and in one that has many.
pub(crate) fn large() {
    let comm = form(BackendChoice::Mpi);
    let (rank, world) = (comm.rank(), comm.world_size());
    let long = comm.with(Options::new().deadline(Duration::from_secs(600)));
    let count = (1usize << 31) + 77;
    let data = vec![rank as u8 + 1; count];
    let sum = (1..=world as u8).sum::<u8>();
    let data = long.start_all_reduce(data, ReduceOp::Sum).unwrap().wait().unwrap();
    assert!(data.iter().all(|&value| value == sum));
    drop(data);
    let half = (1usize << 30) + 5;
    let mut all = vec![0u8; half * world];
    all[rank * half..(rank + 1) * half].fill(rank as u8 + 1);
    let all = long.start_all_gather(all, None).unwrap().wait().unwrap();
    for (rank, block) in all.chunks(half).enumerate() {
        assert!(block.iter().all(|&value| value == rank as u8 + 1), "block {rank}");
    }
}
