//! Claims among real processes.

use super::machines::slices;
use ringfold::ErrorKind;
use ringfold::device::{
    Assignment, Claim, Device, Discovery, Host, Inventory, Policy, Refusal, Sharing, TaskRequest, allot,
    assign, default_directory,
};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything takes when all is well.
const LONG: Duration = Duration::from_secs(60);

/// A directory of the test, gone at its end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("ringfold-devices-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Directory(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn machine(gpus: usize) -> Inventory {
    let devices = (0..gpus).map(|at| Device::new("gpu", at.to_string()).with_uuid(format!("GPU-{at}")));
    Inventory::of([Host::new("a").with_devices(devices)]).unwrap()
}

fn of(inventory: &Inventory, gpus: f64) -> Assignment {
    assign(inventory, &[TaskRequest::new().amount("gpu", gpus)], &Policy::default()).unwrap()
}

fn held(refusal: Refusal) -> Vec<(String, Vec<u32>)> {
    match refusal {
        Refusal::Held(held) => held.into_iter().map(|one| (one.device, one.processes)).collect(),
        other => panic!("{other}"),
    }
}

/// Not a test of its own: what another process does. It takes so many devices, says so, and waits for its end.
#[test]
fn other() {
    let Ok(text) = std::env::var("RINGFOLD_TEST_CLAIM") else { return };
    let [directory, total, gpus, sharing] = &text.split(',').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let policy = if *sharing == "shared" { Policy::default().shared() } else { Policy::default() };
    let requests = [TaskRequest::new().amount("gpu", gpus.parse().unwrap())];
    let given = Discovery::Given(machine(total.parse().unwrap()));
    match allot(&given, Path::new(directory), &requests, &policy, LONG) {
        Ok(allotment) => {
            println!("has {}", allotment.claim.devices().join("+"));
            let _ = std::io::stdin().read(&mut [0]);
        }
        Err(refusal) => println!("has not: {refusal}"),
    }
}

struct Other {
    child: Child,
    said: String,
    /// Open, so that it can end in good order.
    _out: BufReader<ChildStdout>,
}

/// Starts such a process, which may not have said anything yet.
fn begin(directory: &Path, total: usize, gpus: usize, sharing: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["claims::other", "--exact", "--nocapture"]);
    command.env("RINGFOLD_TEST_CLAIM", format!("{},{total},{gpus},{sharing}", directory.display()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().unwrap()
}

fn listen(mut child: Child) -> Other {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = out.by_ref().lines();
    // The harness may have begun the line.
    let said = lines.find_map(|line| Some(line.unwrap().split_once("has")?.1.trim().to_owned()));
    Other { child, said: said.expect("it says something"), _out: out }
}

impl Other {
    fn start(directory: &Path, total: usize, gpus: usize, sharing: &str) -> Other {
        listen(begin(directory, total, gpus, sharing))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_another_process_has_is_named_and_free_when_it_is_killed() {
    let directory = Directory::new("killed");
    let machine = machine(3);
    let other = Other::start(directory.path(), 3, 2, "exclusive");
    assert_eq!(other.said, "GPU-0+GPU-1");
    let refusal = Claim::take(directory.path(), &of(&machine, 3.0), Sharing::Exclusive).unwrap_err();
    let expected = vec![other.child.id()];
    assert_eq!(held(refusal), [("GPU-0".to_owned(), expected.clone()), ("GPU-1".to_owned(), expected)]);
    let mut seen = machine.clone();
    Claim::mark(directory.path(), &mut seen, Sharing::Shared).unwrap();
    let free: Vec<String> = seen.devices().filter(|device| !device.held).map(Device::key).collect();
    assert_eq!(free, ["GPU-2"]);
    // What was refused holds nothing.
    let rest = Claim::take(directory.path(), &of(&seen, 1.0), Sharing::Exclusive).unwrap();
    assert_eq!(rest.devices(), ["GPU-2"]);
    drop(rest);
    // SIGKILL, then all at once.
    drop(other);
    let all = Claim::take(directory.path(), &of(&machine, 3.0), Sharing::Exclusive).unwrap();
    assert_eq!(all.devices(), ["GPU-0", "GPU-1", "GPU-2"]);
}

#[test]
fn a_forked_copy_of_a_claim_lets_go_of_nothing() {
    use nix::sys::wait::{WaitStatus, waitpid};
    let directory = Directory::new("forked");
    let assignment = of(&machine(1), 1.0);
    let claim = Claim::take(directory.path(), &assignment, Sharing::Exclusive).unwrap();
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    // SAFETY: the child drops a claim, counts its descriptors and ends; the allocator can be used after a fork.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            let before = descriptors();
            drop(claim);
            let closed = before - descriptors();
            // SAFETY: ends this process, and runs nothing of the test's that was copied with it.
            unsafe { nix::libc::_exit(if closed == 2 { 0 } else { 1 }) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0), "it is closed there");
        }
    }
    let refusal = Claim::take(directory.path(), &assignment, Sharing::Exclusive).unwrap_err();
    assert_eq!(held(refusal), [("GPU-0".to_owned(), vec![std::process::id()])]);
    drop(claim);
    Claim::take(directory.path(), &assignment, Sharing::Exclusive).unwrap();
}

#[test]
fn groups_that_share_have_the_same_devices_and_keep_out_who_does_not() {
    let directory = Directory::new("shared");
    let one = Other::start(directory.path(), 1, 1, "shared");
    let other = Other::start(directory.path(), 1, 1, "shared");
    assert_eq!((&*one.said, &*other.said), ("GPU-0", "GPU-0"));
    let alone = Other::start(directory.path(), 1, 1, "exclusive");
    assert!(
        alone.said.contains("none free (1 is held by another group): no task would fit"),
        "{}",
        alone.said
    );
    let refusal = Claim::take(directory.path(), &of(&machine(1), 1.0), Sharing::Exclusive).unwrap_err();
    let mut both = vec![one.child.id(), other.child.id()];
    both.sort_unstable();
    assert_eq!(held(refusal), [("GPU-0".to_owned(), both)]);
}

#[test]
fn groups_that_start_at_once_get_different_devices() {
    let directory = Directory::new("at-once");
    let started: Vec<Child> = (0..6).map(|_| begin(directory.path(), 8, 2, "exclusive")).collect();
    let others: Vec<Other> = started.into_iter().map(listen).collect();
    let mut got: Vec<&str> = others
        .iter()
        .filter(|other| !other.said.starts_with("not"))
        .flat_map(|other| other.said.split('+'))
        .collect();
    got.sort_unstable();
    let all: Vec<String> = (0..8).map(|at| format!("GPU-{at}")).collect();
    assert_eq!(got, all, "four of six groups have two each");
}

#[test]
fn threads_that_start_at_once_do_not_fail_in_vain() {
    let directory = Directory::new("threads");
    let given = Discovery::Given(machine(16));
    std::thread::scope(|scope| {
        let take = || {
            let request = [TaskRequest::new().amount("gpu", 1.0)];
            allot(&given, directory.path(), &request, &Policy::default(), LONG).unwrap()
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(take)).collect();
        let all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let mut devices: Vec<&str> =
            all.iter().flat_map(|one| one.claim.devices()).map(String::as_str).collect();
        devices.sort_unstable();
        devices.dedup();
        assert_eq!(devices.len(), 16);
    });
}

#[test]
fn a_device_that_is_lost_to_somebody_past_the_gate_is_not_waited_for_if_another_is_free() {
    let directory = Directory::new("past");
    let machine = machine(2);
    let lock = directory.path().join("GPU-0.lock");
    // Somebody who knows nothing of gates locks one device again and again.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let file =
                    fs::OpenOptions::new().write(true).create(true).truncate(false).open(&lock).unwrap();
                drop(nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock));
            }
        });
        let given = Discovery::Given(machine.clone());
        for _ in 0..200 {
            let request = [TaskRequest::new().amount("gpu", 1.0)];
            allot(&given, directory.path(), &request, &Policy::default(), LONG).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_stopped_process_in_the_gate_is_waited_for_and_named() {
    let directory = Directory::new("gate");
    let gate = fs::File::create(directory.path().join("gate.lock")).unwrap();
    let gate = nix::fcntl::Flock::lock(gate, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let begun = Instant::now();
    let request = [TaskRequest::new().amount("gpu", 1.0)];
    let take = |patience| {
        allot(&Discovery::Given(machine(1)), directory.path(), &request, &Policy::default(), patience)
    };
    let error = ringfold::Error::from(take(Duration::from_millis(100)).unwrap_err());
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.message().contains(&format!("held by process {}", std::process::id())), "{error}");
    drop(gate);
    take(LONG).unwrap();
}

#[test]
fn nobody_takes_a_gpu_beside_its_slices() {
    let directory = Directory::new("slices");
    let cut = slices();
    let slice = Claim::take(directory.path(), &of(&cut, 1.0), Sharing::Exclusive).unwrap();
    let mut others = cut.clone();
    Claim::mark(directory.path(), &mut others, Sharing::Exclusive).unwrap();
    assert_eq!(others.devices().filter(|device| device.held).count(), 1, "other slices are free");
    let whole =
        Inventory::of([Host::new("cut").with_devices([Device::new("gpu", "0").with_uuid("GPU-0")])]).unwrap();
    let refusal = Claim::take(directory.path(), &of(&whole, 1.0), Sharing::Exclusive).unwrap_err();
    assert_eq!(held(refusal)[0].0, "GPU-0");
    drop(slice);
    let whole = Claim::take(directory.path(), &of(&whole, 1.0), Sharing::Exclusive).unwrap();
    let refusal = Claim::take(directory.path(), &of(&cut, 1.0), Sharing::Exclusive).unwrap_err();
    assert_eq!(held(refusal)[0].0, "GPU-0");
    drop(whole);
}

#[test]
fn devices_without_a_uuid_are_held_by_host_and_entry() {
    let directory = Directory::new("no-uuid");
    let seen = |text: &str| Inventory::discover(&Discovery::Visible(text.to_owned())).unwrap();
    let take = |text: &str| Claim::take(directory.path(), &of(&seen(text), 1.0), Sharing::Exclusive);
    let one = take("4").unwrap();
    let _other = take("5").unwrap();
    assert!(matches!(take("4,5"), Err(Refusal::Held(_))), "the first of them is another's");
    drop(one);
    take("4,5").unwrap();
}

#[test]
fn a_directory_that_others_could_reach_is_refused() {
    let directory = Directory::new("unfit");
    let take = |path: &Path| match Claim::take(path, &of(&machine(1), 1.0), Sharing::Exclusive) {
        Err(Refusal::Error(error)) => error,
        other => panic!("{other:?}"),
    };
    let made = directory.path().join("a/b");
    Claim::take(&made, &of(&machine(1), 1.0), Sharing::Exclusive).unwrap();
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(&made, fs::Permissions::from_mode(0o750)).unwrap();
    let error = take(&made);
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.message().contains("its mode is 750"), "{error}");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(directory.path(), &link).unwrap();
    assert!(take(&link).message().contains("no directory of its own"));
    // In place of the lock of a device lies a way out.
    let lock = directory.path().join("GPU-0.lock");
    std::os::unix::fs::symlink("/tmp/ringfold-elsewhere", &lock).unwrap();
    assert_eq!(take(directory.path()).kind(), ErrorKind::Io);
    if nix::unistd::geteuid().is_root() {
        fs::set_permissions(&made, fs::Permissions::from_mode(0o700)).unwrap();
        nix::unistd::chown(&made, Some(nix::unistd::Uid::from_raw(12345)), None).unwrap();
        assert!(take(&made).message().contains("is user 12345's"));
    }
}

#[test]
fn who_asks_for_no_device_does_not_need_the_directory() {
    let directory = Directory::new("no-device");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let take = |request: TaskRequest| {
        allot(&Discovery::Given(machine(1)), directory.path(), &[request], &Policy::default(), LONG)
    };
    let allotment = take(TaskRequest::new().cpus(1.0).memory(1).amount("gpu", 0.0)).unwrap();
    assert!(allotment.claim.devices().is_empty());
    assert!(matches!(take(TaskRequest::new().cpus(1e9)), Err(Refusal::Misfit(_))));
    assert!(matches!(take(TaskRequest::new().amount("gpu", 1.0)), Err(Refusal::Error(_))));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// A copy of this test that every user may run, wherever this one lies.
fn for_everybody(directory: &Directory) -> PathBuf {
    let copy = directory.path().join("claims-of-another");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[test]
fn a_directory_right_below_everybodys_is_for_everybody_whatever_the_mask() {
    let home = Directory::new("everybodys");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    let claims = home.path().join("claims");
    let machine = machine(1);
    // A process whose mask takes everything from others, in whose stead a child of this one stands: masks are of processes.
    let masked = "umask 077; exec \"$0\" claims::other --exact --nocapture";
    let mut command = Command::new("sh");
    command.arg("-c").arg(masked).arg(std::env::current_exe().unwrap());
    command.env("RINGFOLD_TEST_CLAIM", format!("{},1,1,exclusive", claims.display()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let other = listen(command.spawn().unwrap());
    assert_eq!(other.said, "GPU-0");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&claims), mode(&claims.join("GPU-0.lock"))), (0o1777, 0o444));
    let refusal = Claim::take(&claims, &of(&machine, 1.0), Sharing::Exclusive).unwrap_err();
    assert_eq!(held(refusal), [("GPU-0".to_owned(), vec![other.child.id()])]);
    // What one who was killed between making it and opening it to others has left is mended by its user.
    drop(other);
    fs::set_permissions(claims.join("GPU-0.lock"), fs::Permissions::from_mode(0o400)).unwrap();
    Claim::take(&claims, &of(&machine, 1.0), Sharing::Exclusive).unwrap();
    assert_eq!(mode(&claims.join("GPU-0.lock")), 0o444);
    // A directory that somebody has closed to others stays so.
    let group = home.path().join("group");
    fs::DirBuilder::new().mode(0o1770).create(&group).unwrap();
    fs::set_permissions(&group, fs::Permissions::from_mode(0o1770)).unwrap();
    let refused = Claim::take(&group, &of(&machine, 1.0), Sharing::Exclusive).unwrap_err();
    assert!(refused.to_string().contains("its mode is 1770"), "{refused}");
    assert_eq!(mode(&group), 0o1770);
    // What its owner has closed is his alone.
    let own = home.path().join("own");
    fs::DirBuilder::new().mode(0o700).create(&own).unwrap();
    Claim::take(&own, &of(&machine, 1.0), Sharing::Exclusive).unwrap();
    assert_eq!(mode(&own), 0o700);
}

#[test]
fn what_cleans_up_sees_that_the_directory_is_in_use() {
    let directory = Directory::new("cleaning");
    let open = || fs::File::open(directory.path()).unwrap();
    let clean = || nix::fcntl::Flock::lock(open(), nix::fcntl::FlockArg::LockExclusiveNonblock);
    let claim = Claim::take(directory.path(), &of(&machine(1), 1.0), Sharing::Exclusive).unwrap();
    assert!(clean().is_err());
    drop(claim);
    let cleaning = clean().unwrap();
    // Who comes meanwhile waits, and says for whom.
    let request = [TaskRequest::new().amount("gpu", 1.0)];
    let take = |patience| {
        allot(&Discovery::Given(machine(1)), directory.path(), &request, &Policy::default(), patience)
    };
    let error = ringfold::Error::from(take(Duration::from_millis(50)).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.message().contains(&format!("held by process {}", std::process::id())), "{error}");
    drop(cleaning);
    take(LONG).unwrap();
}

/// Two users of a machine, where this one may be another as well.
#[test]
fn users_keep_out_of_each_others_devices() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        // Whoever cannot be two users sees the files of one at least as another would: readable, and no more.
        let home = Directory::new("one-user");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let claims = home.path().join("claims");
        let _held = Claim::take(&claims, &of(&machine(1), 1.0), Sharing::Exclusive).unwrap();
        let lock = fs::metadata(claims.join("GPU-0.lock")).unwrap();
        assert_eq!(lock.permissions().mode() & 0o777, 0o444);
        return;
    }
    let home = Directory::new("users");
    let program = for_everybody(&home);
    let claims = std::env::temp_dir().join(format!("ringfold-devices-of-users-{}", std::process::id()));
    let _ = fs::remove_dir_all(&claims);
    let start = |user: u32, sharing: &str| {
        let mut command = Command::new(&program);
        command.args(["claims::other", "--exact", "--nocapture"]).current_dir("/");
        command.env("RINGFOLD_TEST_CLAIM", format!("{},1,1,{sharing}", claims.display()));
        command.uid(user).gid(user).stdin(Stdio::piped()).stdout(Stdio::piped());
        listen(command.spawn().unwrap())
    };
    let taken = "none free (1 is held by another group)";
    // Whoever comes first makes the directory and the files, and the others use them: nobody, root, and a third.
    for (first, second) in [(65534, 0), (0, 65534), (65534, 12345)] {
        let one = start(first, "exclusive");
        assert_eq!(one.said, "GPU-0", "user {first}");
        let other = start(second, "exclusive");
        assert!(other.said.contains(taken), "user {second} after {first}: {}", other.said);
        drop((one, other));
        let sharing = (start(second, "shared"), start(first, "shared"));
        assert_eq!((&*sharing.0.said, &*sharing.1.said), ("GPU-0", "GPU-0"));
        assert!(start(first, "exclusive").said.contains(taken));
    }
    fs::remove_dir_all(&claims).unwrap();
    // What one user keeps for himself is told to another.
    fs::DirBuilder::new().mode(0o700).create(&claims).unwrap();
    let refused = start(65534, "exclusive").said.clone();
    assert!(refused.contains("ermission denied"), "{refused}");
    fs::remove_dir_all(&claims).unwrap();
}

#[test]
fn the_directory_is_one_for_all() {
    assert_eq!(default_directory(), Path::new("/tmp/ringfold-devices"));
}
