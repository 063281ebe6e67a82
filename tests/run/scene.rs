//! A process of its own that launches something: for limits and filters that hold for a whole process, and for counting
//! what it has left.

use crate::{LONG, Said, children, marked, said};
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use ringfold::Error;
use ringfold::launch::{Launch, Output, StartError, Status};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const SCENE: &str = "RUN_TEST_SCENE";
const PLACE: &str = "RUN_TEST_PLACE";

/// More ranks than any of the limits below allows.
pub(crate) const RANKS: usize = 32;

/// A directory in which each rank that executes leaves a file, removed in the end.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("ringfold-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        // For ranks of other users, too.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        Place(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn files(&self) -> usize {
        count(&self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn count(place: &Path) -> usize {
    std::fs::read_dir(place).unwrap().count()
}

/// A rank that leaves a file as the first thing that it does, and would then go on.
pub(crate) const LEAVE_A_FILE: &str = ": > \"$PLACE/$RANK\"; sleep 300 & wait";

/// This binary as a process that plays a scene. Its processes have `mark` in their environment.
pub(crate) fn play(scene: &str, place: &Place, mark: &str) -> Said {
    let (name, value) = mark.split_once('=').unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "launcher", "--nocapture", "--test-threads=1"]);
    command.env(SCENE, scene).env(PLACE, place.path()).env(name, value);
    said(&mut command)
}

/// Plays it, and returns what [`say`] has said.
pub(crate) fn told(scene: &str, place: &Place, mark: &str) -> String {
    let said = play(scene, place, mark);
    assert_eq!(said.code, Some(0), "{said:?}");
    let text = said.text();
    let (_, told) = text.split_once("told: ").unwrap_or_else(|| panic!("it says nothing: {said:?}"));
    told.lines().next().unwrap().to_owned()
}

/// Says what is to be known.
pub(crate) fn say(what: impl std::fmt::Display) {
    println!("told: {what}");
}

/// The launcher's part; nothing where none is asked for.
pub(crate) fn launcher() {
    let Ok(scene) = std::env::var(SCENE) else { return };
    let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
    let launch = Launch::new(RANKS).program("sh").args(["-c", LEAVE_A_FILE]).env("PLACE", &place);
    match scene.as_str() {
        "few processes" => {
            allow_processes(12);
            refused(launch.output(Output::Null), &place);
        }
        "no processes" => {
            allow_processes(0);
            // Not by directories that only somebody else may look into: then it is not known to be missing.
            refused(Launch::new(2).program("no-such-program").env("PATH", "/bin:/usr/bin"), &place);
        }
        "few files" => {
            let files = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 + 30;
            setrlimit(Resource::RLIMIT_NOFILE, files, files).unwrap();
            refused(launch, &place);
        }
        "no CPUs" => {
            // Of other processes: this one may ask what it may use.
            refuse(libc::SYS_sched_setaffinity, 0, false);
            refused(launch.output(Output::Null).pin(20, [a_cpu()]), &place);
        }
        "no signal" => {
            refuse(libc::SYS_prctl, libc::PR_SET_PDEATHSIG as u32, true);
            refused(launch.output(Output::Null), &place);
        }
        "no standard input" => {
            // What is opened next gets the number 0.
            // SAFETY: nobody in this process reads it.
            unsafe { libc::close(0) };
            let script = "read line; echo \"$RANK $line end\" > \"$PLACE/$RANK\"; echo seen; echo too >&2";
            let launch = Launch::new(2).program("sh").args(["-c", script]).env("PLACE", &place);
            let outcome = launch.start().unwrap().wait();
            say(format_args!("{:?} {}", outcome.statuses, count(&place)));
        }
        "outer" => {
            let inner = Launch::new(1).program(std::env::current_exe().unwrap()).output(Output::Inherit);
            let inner =
                inner.args(["--exact", "launcher", "--nocapture", "--test-threads=1"]).env(SCENE, "inner");
            let inner = inner.env("RINGFOLD_TASK", "{}").env("RINGFOLD_ATTEMPT_ID", "9");
            let outcome = inner.env("TORCHELASTIC_USE_AGENT_STORE", "True").start().unwrap().wait();
            assert!(outcome.success(), "{outcome:?}");
        }
        "inner" => {
            assert_eq!(std::env::var("RINGFOLD_ATTEMPT_ID").unwrap(), "9");
            let script = "echo ${RINGFOLD_TASK-no} ${RINGFOLD_ATTEMPT_ID-no} ${TORCHELASTIC_USE_AGENT_STORE-no} \
                          $RINGFOLD_RANK > \"$PLACE/$RANK\"";
            let launch = Launch::new(3).program("sh").args(["-c", script]).env("PLACE", &place);
            let launch = launch.env_of(1, "RINGFOLD_TASK", "its").env_of(2, "RINGFOLD_ATTEMPT_ID", "8");
            assert!(launch.start().unwrap().wait().success());
            let said = |rank: usize| std::fs::read_to_string(place.join(rank.to_string())).unwrap();
            say([0, 1, 2].map(said).concat().replace('\n', ", "));
        }
        "forgotten children" | "remembered children" => {
            // SAFETY: ignoring a signal runs no handler.
            unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.unwrap();
            if scene == "remembered children" {
                ringfold::launch::restore_sigchld();
            }
            say(format_args!("{:?}", statuses()));
        }
        "reaped children" => {
            let done = AtomicBool::new(false);
            let reap = || {
                while !done.load(Ordering::Relaxed) {
                    let _ = waitpid(None, Some(WaitPidFlag::WNOHANG));
                    std::thread::yield_now();
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(reap);
                let all: Vec<_> = (0..10).map(|_| statuses()).collect();
                done.store(true, Ordering::Relaxed);
                say(format_args!("{:?}", all.concat()));
            });
        }
        "kills" => crate::kills::kill_launchers(),
        "groups" => crate::kills::launch_groups(),
        _ => panic!("no such scene: {scene}"),
    }
}

/// How three launches of one rank end, the last of which is killed.
fn statuses() -> Vec<Status> {
    let one = |script| {
        let launch = Launch::new(1).program("sh").args(["-c", script]).output(Output::Null);
        launch.start().unwrap().wait().statuses[0]
    };
    ["exit 0", "exit 3", "kill -9 $$"].into_iter().map(one).collect()
}

/// A launch of which one rank cannot be executed: its variables are too much together, whatever the limit of the stack.
pub(crate) fn too_much_for(rank: usize, launch: Launch) -> Launch {
    (0..70).fold(launch, |launch, number| launch.env_of(rank, format!("LONG_{number}"), "x".repeat(100_000)))
}

/// A CPU that this process may use.
pub(crate) fn a_cpu() -> usize {
    let cpus = nix::sched::sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..1024).find(|&cpu| cpus.is_set(cpu).unwrap()).unwrap()
}

/// Launches what cannot be launched, and says why, once nothing of it is left.
fn refused(launch: Launch, place: &Path) {
    let error: StartError = launch.start().unwrap_err();
    let (program, transient) = (error.program(), error.is_transient());
    let error = Error::from(error);
    assert_eq!(count(place), 0, "a rank has executed: {error}");
    assert!(children(std::process::id()).is_empty(), "something is left: {error}");
    let told = format!("{:?} {program:?} transient: {transient} {error}", error.kind());
    say(told.replace('\n', " "));
}

/// Lets this process have so many more processes and threads, and no rights to exceed that.
fn allow_processes(count: u64) {
    /// Nobody's number.
    const SOMEBODY: u32 = 54_321;
    let of_user = |uid: u32| -> u64 {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let of_one = |entry: std::fs::DirEntry| -> Option<u64> {
            let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
            let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            let own = field("Uid:")?.split_whitespace().next()? == uid.to_string();
            if own { field("Threads:")?.parse().ok() } else { None }
        };
        processes.filter_map(of_one).sum()
    };
    if nix::unistd::geteuid().is_root() {
        nix::unistd::setgid(SOMEBODY.into()).unwrap();
        nix::unistd::setuid(SOMEBODY.into()).unwrap();
    }
    let limit = of_user(nix::unistd::getuid().as_raw()) + count;
    setrlimit(Resource::RLIMIT_NPROC, limit, limit).unwrap();
}

/// Has the system refuse a call of this thread and of those that it makes from now on, where its first argument is this or
/// where it is not.
fn refuse(call: i64, first: u32, equal: bool) {
    // By the fields of `seccomp_data`: the call's number, and the lower half of its first argument.
    let (number_at, first_at) = (0, 16);
    let load = |at| (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let compare = |with, yes, no| (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, with);
    let answer = |with| (libc::BPF_RET | libc::BPF_K, 0, 0, with);
    let (yes, no) = if equal { (1, 0) } else { (0, 1) };
    let filter = [
        load(number_at),
        compare(call as u32, 0, 2),
        load(first_at),
        compare(first, yes, no),
        answer(libc::SECCOMP_RET_ALLOW),
        answer(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    let mut filter = filter.map(|(code, jt, jf, k)| libc::sock_filter { code: code as u16, jt, jf, k });
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: integers, and a program that outlives the call.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Takes the ends of all children of this process, whoever had them before. Whatever survives is a failure.
pub(crate) fn reap_all(what: &str) {
    let begun = Instant::now();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(nix::errno::Errno::ECHILD) => return,
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) => continue,
            Err(error) => panic!("{what}: {error}"),
        }
        let left = || children(std::process::id());
        assert!(begun.elapsed() < LONG, "{what}: {:?} survive", left());
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
}

/// That nothing with this mark is alive.
pub(crate) fn nothing_is_left(mark: &str) {
    assert_eq!(marked(mark), [0; 0]);
}
