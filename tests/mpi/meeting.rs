//! How ranks meet, and what is refused.

use crate::mpirun::tell;
use mpi_sys as raw;
use ringfold::config::BackendChoice;
use ringfold::transport::Exchange;
use ringfold::transport::mpi::{Mpi, MpiExchange, version};
use ringfold::{Communicator, Config, ErrorKind, ReduceOp};
use std::fs;
use std::path::Path;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn check(comm: &Communicator, backend: &str, world: usize) {
    assert_eq!((comm.backend(), comm.world_size()), (backend, world));
    let mut data = vec![comm.rank() as u64; 10_001];
    comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
    assert_eq!(data, vec![(0..world as u64).sum::<u64>(); 10_001]);
}

pub(crate) fn exchange() {
    let mut exchange = MpiExchange::world().unwrap();
    let (rank, world) = (exchange.rank(), exchange.world());
    for length in [0, 1, 1000, 64 << 10] {
        // Each rank's is of another length.
        let message = |rank: usize| vec![rank as u8; length.min(length / 2 + rank)];
        let all = exchange.all_gather(&message(rank), LONG).unwrap();
        assert_eq!(all, (0..world).map(message).collect::<Vec<_>>());
    }
    let long = vec![0; (64 << 10) + usize::from(rank + 1 == world)];
    let error = exchange.all_gather(&long, LONG).unwrap_err();
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::InvalidArgument, Some(world - 1)));
    for (backend, word) in [BackendChoice::Tcp, BackendChoice::Shm, BackendChoice::MpiP2p, BackendChoice::Mpi]
        .map(|b| (b, b.as_str()))
    {
        let config = Config::from_env().unwrap().with_backend(backend);
        check(&Communicator::with_exchange(&mut exchange, &config).unwrap(), word, world);
    }
}

/// One rank does not come in time.
pub(crate) fn late() {
    let mut exchange = MpiExchange::world().unwrap();
    if exchange.rank() == 0 {
        let error = exchange.all_gather(b"here", Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bootstrap);
        assert!(error.to_string().contains("200ms passed") && error.to_string().contains("kept"), "{error}");
        tell("passed");
    }
    // mpirun may end all when the first has gone.
    std::thread::sleep(Duration::from_secs(1));
}

/// By the store, as under any launcher.
pub(crate) fn store() {
    for word in ["mpi-p2p", "mpi"] {
        let config = Config::from_env().unwrap().with_backend(word.parse().unwrap());
        let world = config.world_size.unwrap();
        check(&Communicator::connect(&config).unwrap(), word, world);
        // Where nothing tells where the store is, MPI does.
        let mut blind = config.clone();
        blind.job = None;
        check(&Communicator::connect(&blind).unwrap(), word, world);
        let (rank, size) = (Mpi::world(LONG).unwrap().rank(), Mpi::world(LONG).unwrap().size());
        assert_eq!((rank, size), (config.rank.unwrap(), world));
    }
}

/// The addresses at which this process listens.
fn doors() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let own: Vec<_> = entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    let is_own = |inode: &str| own.iter().any(|link| *link == Path::new(&format!("socket:[{inode}]")));
    let mut doors = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Number, own address, the peer's, state (of which 0A is listening), ...
            if words[3] == "0A" && is_own(words[9]) {
                doors.push(words[1].to_owned());
            }
        }
    }
    doors
}

/// Ranks over MPI listen where those over TCP do: at an address of one interface, if at all.
pub(crate) fn listening() {
    let mpi = Mpi::world(LONG).unwrap();
    let before = doors();
    for backend in [BackendChoice::MpiP2p, BackendChoice::Mpi] {
        let config = Config::from_env().unwrap().with_backend(backend);
        let comm = Communicator::with_mpi(mpi, &config).unwrap();
        check(&comm, backend.as_str(), mpi.size());
        let new: Vec<String> = doors().into_iter().filter(|door| !before.contains(door)).collect();
        let boundless = |door: &String| door.split(':').next().unwrap().bytes().all(|digit| digit == b'0');
        assert!(!new.iter().any(boundless), "{backend}: {new:?}");
        assert!(comm.rank() > 0 || !new.is_empty(), "{backend}: the store listens");
        comm.barrier().unwrap();
    }
}

/// One rank asks for MPI's collectives, the others for messages of MPI's.
pub(crate) fn unlike_mpis() {
    let config = Config::from_env().unwrap();
    let rank = config.rank.unwrap();
    let backend = if rank == 1 { BackendChoice::Mpi } else { BackendChoice::MpiP2p };
    let error = Communicator::connect(&config.with_backend(backend)).unwrap_err();
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Configuration, Some(1)), "{error}");
    assert!(error.to_string().contains("rank 0 asks for the backend mpi-p2p, and rank 1 for mpi"), "{error}");
}

pub(crate) fn unlike() {
    let config = Config::from_env().unwrap();
    let rank = config.rank.unwrap();
    let config = if rank == 1 { config } else { config.with_backend(BackendChoice::MpiP2p) };
    let error = Communicator::connect(&config).unwrap_err();
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Configuration, Some(1)), "{error}");
    assert!(
        error.to_string().contains("rank 0 asks for the backend mpi-p2p, and rank 1 for another"),
        "{error}"
    );
}

fn begin(level: i32) {
    let (none, mut provided) = (std::ptr::null_mut(), 0);
    // SAFETY: nobody has begun MPI in this process.
    unsafe { raw::MPI_Init_thread(none, none.cast(), level, &mut provided) };
    assert_eq!(provided, level);
}

fn finalize() {
    // SAFETY: MPI runs, and everything that uses it has been dropped.
    assert_eq!(unsafe { raw::MPI_Finalize() }, 0);
}

/// A program that begins and ends MPI, and has communicators of its own.
pub(crate) fn own() {
    // SAFETY: a constant.
    begin(unsafe { raw::RSMPI_THREAD_MULTIPLE });
    let mpi = Mpi::world(LONG).unwrap();
    let (rank, world) = (mpi.rank(), mpi.size());
    // SAFETY: constants, and places for what MPI writes.
    let (half, none) = unsafe {
        let mut half = raw::RSMPI_COMM_NULL;
        assert_eq!(raw::MPI_Comm_split(raw::RSMPI_COMM_WORLD, rank as i32 % 2, -(rank as i32), &mut half), 0);
        (half, raw::RSMPI_COMM_NULL)
    };
    // SAFETY: it is null, which is looked at.
    assert_eq!(unsafe { Mpi::of(none, LONG) }.unwrap_err().kind(), ErrorKind::InvalidArgument);
    // SAFETY: it was just made.
    let half = unsafe { Mpi::of(half, LONG) }.unwrap();
    let members = (0..world).filter(|other| other % 2 == rank % 2).count();
    assert_eq!(half.size(), members);
    // Ranks are what this communicator says, not what the launcher does.
    for backend in [BackendChoice::MpiP2p, BackendChoice::Mpi, BackendChoice::Tcp] {
        let config = Config::default().with_backend(backend).with_init_deadline(LONG);
        let comm = Communicator::with_mpi(half, &config).unwrap();
        assert_eq!(comm.rank(), half.rank());
        check(&comm, backend.as_str(), members);
    }
    let config = Config::default().with_backend(BackendChoice::MpiP2p).with_init_deadline(LONG);
    let comm = Communicator::with_mpi(mpi, &config).unwrap();
    check(&comm, "mpi-p2p", world);
    // Ranks that are not in MPI's order.
    let by_key = -(mpi.rank() as i64);
    let config = config.with_backend(BackendChoice::Mpi);
    let comm = Communicator::with_mpi(mpi, &config).unwrap();
    let turned = comm.split(Some(0), by_key).unwrap().unwrap();
    assert_eq!(turned.rank(), world - 1 - rank);
    check(&turned, "mpi", world);
    let mut roots = [turned.rank() as u32];
    turned.broadcast(&mut roots, 0).unwrap();
    assert_eq!(roots, [0]);
    drop((comm, turned));
    finalize();
    let error = Mpi::world(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("finalised"), "{error}");
}

pub(crate) fn single() {
    // SAFETY: a constant.
    begin(unsafe { raw::RSMPI_THREAD_SINGLE });
    let error = Mpi::world(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("MPI_THREAD_SINGLE") && error.what_to_do().is_some(), "{error}");
    finalize();
}

/// Under the launcher of another MPI.
pub(crate) fn wrong() {
    let config = Config::from_env().unwrap().with_backend(BackendChoice::MpiP2p);
    let by_store = Communicator::connect(&config).unwrap_err();
    for error in [by_store, Mpi::world(LONG).unwrap_err(), MpiExchange::world().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
        let text = error.to_string();
        assert!(text.contains("has started 2 processes") && text.contains(&version()), "{text}");
        assert!(
            error.what_to_do().is_some_and(|remedy| remedy.contains("start it by the mpirun of")),
            "{text}"
        );
    }
}
