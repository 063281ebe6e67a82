//! Verbs that block by MPI's blocking collectives: what is refused, and what is told of calls that do not come back.

use crate::mpirun::{SCENE, tell};
use crate::suites::form;
use mpi_sys as raw;
use ringfold::config::BackendChoice;
use ringfold::transport::mpi::Mpi;
use ringfold::{Communicator, Config, ErrorKind, Options, ReduceOp};
use std::ffi::{c_int, c_void};
use std::fmt::Debug;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// Tells whoever launched this process what the library warns of.
struct Warnings;

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if *event.metadata().level() == Level::WARN {
            tell(format!("warned: {}", message.0));
        }
    }
}

fn listen() {
    assert!(std::env::var_os(SCENE).is_some(), "for processes of their own only");
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Warnings)).unwrap();
}

fn short() -> Options {
    Options::new().deadline(Duration::from_millis(300))
}

/// The last rank comes when the deadline of the others has passed: their results are there, and the log has told.
pub(crate) fn overdue() {
    listen();
    let comm = form(BackendChoice::Mpi);
    let (rank, last) = (comm.rank(), comm.world_size() - 1);
    for round in 0..2 {
        if rank == last {
            std::thread::sleep(Duration::from_millis(2000));
        }
        let mut data = [rank as u64 + round; 5];
        comm.with(short()).all_reduce(&mut data, ReduceOp::Sum).unwrap();
        let all = (0..=last as u64).map(|rank| rank + round).sum::<u64>();
        assert_eq!(data, [all; 5]);
    }
    comm.barrier().unwrap();
}

/// One rank starts what the others wait for: whoever can return does, and the others' logs say that they cannot.
pub(crate) fn mixed() {
    listen();
    let comm = form(BackendChoice::Mpi);
    let data = vec![1.0f32; 100];
    if comm.rank() == 0 {
        let error = comm.start_all_reduce(data, ReduceOp::Sum).unwrap().wait().unwrap_err();
        tell(format!("{}: {}", error.kind(), error.message()));
        // Until the others have written what they have to say.
        std::thread::sleep(Duration::from_secs(2));
        // SAFETY: it ends the process, which has nothing to tidy up.
        unsafe { nix::libc::_exit(3) };
    }
    let mut data = data;
    let result = comm.all_reduce(&mut data, ReduceOp::Sum);
    tell(format!("returned {result:?}"));
}

/// The group fails while MPI is at work, which then ends well.
pub(crate) fn spoilt() {
    let comm = form(BackendChoice::Mpi);
    let handle = comm.abort_handle();
    let sums = ReduceOp::custom("sums that abort", true, move |a: u64, b: u64| {
        handle.abort("enough");
        std::thread::sleep(Duration::from_millis(500));
        a + b
    });
    let error = comm.all_reduce(&mut [1u64], &sums).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Aborted, "{error}");
    assert!(error.to_string().contains("enough") && !error.keeps_memory(), "{error}");
    assert_eq!(comm.barrier().unwrap_err().kind(), ErrorKind::Aborted);
}

/// Behind what is outstanding on one rank only.
pub(crate) fn behind() {
    let comm = form(BackendChoice::Mpi);
    let (rank, world) = (comm.rank() as u64, comm.world_size() as u64);
    let all = (0..world).sum::<u64>();
    for round in 0..50usize {
        let pending = comm.start_all_reduce(vec![rank; 3000], ReduceOp::Sum).unwrap();
        let early = (round + comm.rank()).is_multiple_of(2);
        let result = if early { Err(pending) } else { Ok(pending.wait().unwrap()) };
        let mut data = [rank; 7];
        comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [all; 7]);
        let started = result.unwrap_or_else(|pending| pending.wait().unwrap());
        assert_eq!(started, vec![all; 3000]);
    }
}

/// Behind something outstanding in one group, while another group has something to be driven: two groups whose calls overlap do not
/// wait for each other's.
pub(crate) fn overlapping() {
    let comm = form(BackendChoice::Mpi);
    let other = comm.duplicate().unwrap();
    let (rank, world) = (comm.rank() as u64, comm.world_size() as u64);
    let all = (0..world).sum::<u64>();
    for _ in 0..20 {
        let first = comm.start_all_reduce(vec![rank; 3000], ReduceOp::Sum).unwrap();
        let [second, third] = [(); 2].map(|()| other.start_all_reduce(vec![rank; 5], ReduceOp::Sum).unwrap());
        let mut data = [rank; 7];
        if rank == 0 {
            comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        }
        for pending in [second, third] {
            assert_eq!(pending.wait().unwrap(), vec![all; 5]);
        }
        assert_eq!(first.wait().unwrap(), vec![all; 3000]);
        if rank != 0 {
            comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        }
        assert_eq!(data, [all; 7]);
    }
}

/// Tells whoever launched this process that MPI is being ended: what belongs to its own communicator goes first then.
unsafe extern "C" fn ending(_: raw::MPI_Comm, _: c_int, _: *mut c_void, _: *mut c_void) -> c_int {
    tell("ending");
    raw::MPI_SUCCESS as c_int
}

unsafe extern "C" fn no_copy(
    _: raw::MPI_Comm,
    _: c_int,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    flag: *mut c_int,
) -> c_int {
    // SAFETY: MPI gives the place for the answer.
    unsafe { *flag = 0 };
    raw::MPI_SUCCESS as c_int
}

/// All processes but the last come to their ends while a thread of theirs is still in a call.
pub(crate) fn leaving() {
    let comm = form(BackendChoice::Mpi);
    let mut key = 0;
    // SAFETY: MPI runs, and both functions are there until the process ends.
    unsafe {
        let none = std::ptr::null_mut();
        assert_eq!(raw::MPI_Comm_create_keyval(Some(no_copy), Some(ending), &mut key, none), 0);
        assert_eq!(raw::MPI_Comm_set_attr(raw::RSMPI_COMM_SELF, key, none), 0);
    }
    if comm.rank() + 1 < comm.world_size() {
        let call = move || comm.all_reduce(&mut [1u64], ReduceOp::Sum).unwrap();
        std::thread::spawn(call);
        // Until it is in its call.
        std::thread::sleep(Duration::from_millis(300));
        return;
    }
    std::thread::sleep(Duration::from_millis(1500));
    comm.all_reduce(&mut [1u64], ReduceOp::Sum).unwrap();
}

/// One rank has the key, and the others have not.
pub(crate) fn unlike() {
    let config = Config::from_env().unwrap().with_backend(BackendChoice::Mpi);
    let rank = config.rank.unwrap();
    let error = Communicator::connect(&config.with_mpi_blocking(rank == 1)).unwrap_err();
    assert_eq!((error.kind(), error.culprit()), (ErrorKind::Configuration, Some(1)), "{error}");
    assert!(error.to_string().contains("rank 0 has mpi_blocking no, and rank 1 yes"), "{error}");
}

/// A program that has begun MPI with calls by one thread at a time.
pub(crate) fn serialized() {
    let (none, mut provided) = (std::ptr::null_mut(), 0);
    // SAFETY: a constant.
    let level = unsafe { raw::RSMPI_THREAD_SERIALIZED };
    // SAFETY: nobody has begun MPI in this process.
    unsafe { raw::MPI_Init_thread(none, none.cast(), level, &mut provided) };
    assert_eq!(provided, level);
    let mpi = Mpi::world(Duration::from_secs(60)).unwrap();
    let config = Config::from_env().unwrap().with_backend(BackendChoice::Mpi);
    let error = Communicator::with_mpi(mpi, &config.clone().with_mpi_blocking(true)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("MPI_THREAD_MULTIPLE") && error.what_to_do().is_some(), "{error}");
    // The group can be had without.
    Communicator::with_mpi(mpi, &config.with_mpi_blocking(false)).unwrap().barrier().unwrap();
    // SAFETY: MPI runs, and everything that uses it has been dropped.
    assert_eq!(unsafe { raw::MPI_Finalize() }, 0);
}
