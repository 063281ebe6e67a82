//! Processes that play a part in a test: this test's binary, started again for one test of it alone.
//!
//! They tell what is to be known of them by lines on their standard output ([`tell`]), and may hear lines on their standard
//! input ([`hear`]).

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfold::Error;
use ringfold::bootstrap::host_for_launch;
use ringfold::config::environment;
use ringfold::transport::control::{Server, ServerConfig};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Only detects a hang.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// What lines begin with that are told, among whatever the harness of tests prints.
pub(crate) const MARK: &str = "told: ";

/// This test's binary, to run one of its tests and no other.
pub(crate) fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Set where this process is on the first of several hosts: its address there, and a process on each of the others.
const HOSTS: &str = "RINGFOLD_TEST_HOSTS";

/// The address of this host, where there are others.
pub(crate) fn own_address() -> Option<IpAddr> {
    let hosts = std::env::var(HOSTS).ok()?;
    hosts.split(' ').next()?.parse().ok()
}

/// This test's binary, to run one of its tests on the host of a rank: ranks are dealt to the hosts.
fn again_on_host_of(rank: usize, test: &str) -> Command {
    let hosts = std::env::var(HOSTS).unwrap_or_default();
    let others: Vec<&str> = hosts.split_whitespace().skip(1).collect();
    let here = again(test);
    let Some(other) = (rank % (others.len() + 1)).checked_sub(1) else { return here };
    let mut there = Command::new("nsenter");
    there.args(["--target", others[other], "--net", "--uts"]).arg(here.get_program()).args(here.get_args());
    there.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    there
}

/// Runs this binary's tests again on the first of so many hosts, with ranks on all of them.
pub(crate) fn everything_again_on_hosts(number: usize) {
    // Within such a run, or one over something else.
    if own_address().is_some() || std::env::var_os(environment::BACKEND).is_some() {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/hosts.sh");
    // Namespaces of one's own are root's to make, or anybody's who is root in one of users.
    let root = nix::unistd::geteuid().is_root();
    let mut command = Command::new("unshare");
    command.args(["--net", "--uts"].into_iter().chain((!root).then_some("--map-root-user")));
    command.args(["sh", script]).arg(number.to_string()).arg(std::env::current_exe().unwrap());
    let tests = command.args(["--skip", "everything_again"]).output().unwrap();
    let said = String::from_utf8_lossy(&tests.stdout) + String::from_utf8_lossy(&tests.stderr);
    assert!(tests.status.success() && said.contains(" passed"), "{said}");
}

/// The same for a rank of a group with a store at this address. The test is called `rank`, and does nothing unless it finds
/// in its environment what it is to play.
pub(crate) fn rank(rank: usize, world: usize, store: impl ToString) -> Command {
    let mut command = rank_without_store(rank, world);
    command.env(environment::STORE, store.to_string());
    command
}

/// The same of one that finds the others otherwise.
pub(crate) fn rank_without_store(rank: usize, world: usize) -> Command {
    let mut command = again_on_host_of(rank, "rank");
    command
        .env(environment::RANK, rank.to_string())
        .env(environment::WORLD_SIZE, world.to_string())
        .env(environment::WORLD_ID, WORLD_ID.to_string())
        .env(environment::INIT_DEADLINE, "30s");
    command
}

const WORLD_ID: u64 = 99;

/// Runs a test in a process that is all its own, for what holds for a whole process: whether this is that process. Elsewhere
/// it is started, and has to be content.
pub(crate) fn alone(test: &str) -> bool {
    const ALONE: &str = "RINGFOLD_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let ended = again(test).env(ALONE, "1").stdin(Stdio::null()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("1 passed"), "{}: {said}", ended.status);
    false
}

/// Tells whoever started this process.
pub(crate) fn tell(text: impl AsRef<str>) {
    println!("{MARK}{}", text.as_ref());
}

/// Tells what the last call returned.
pub(crate) fn tell_end(result: Result<(), Error>) {
    match result {
        Ok(()) => tell("fine||"),
        Err(error) => {
            let culprit = error.culprit().map_or(String::new(), |culprit| culprit.to_string());
            tell(format!("{}|{culprit}|{error}", error.kind()));
        }
    }
}

/// The next line that is said to this process; an empty one where nothing more will be.
pub(crate) fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// What a process tells of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) kind: String,
    pub(crate) culprit: Option<usize>,
    pub(crate) text: String,
}

impl Told {
    /// As [`tell_end`] has written it.
    pub(crate) fn read(line: &str) -> Told {
        let mut parts = line.splitn(3, '|').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let kind = next();
        Told { kind, culprit: next().parse().ok(), text: next() }
    }

    /// Whether it blames this rank with such an error.
    pub(crate) fn blames(&self, kind: &str, culprit: usize) -> bool {
        // Of two ranks of a host that differ nobody can tell which is the odd one before others have compared.
        let names = kind == "mismatch"
            && own_address().is_some()
            && self.text.contains(&format!("on rank {culprit}"));
        self.kind == kind && (self.culprit == Some(culprit) || names)
    }
}

/// A process that plays a part. It is killed where it has not ended when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Process {
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (say, lines) = channel();
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some((_, told)) = line.split_once(MARK) {
                    let _ = say.send(told.trim().to_owned());
                }
            }
        });
        Process { child, lines, reader: Some(reader) }
    }

    /// The next thing that it tells; none where it has ended.
    pub(crate) fn next_line(&self) -> Option<String> {
        self.line_within(HANG)
    }

    /// The same with another limit, beyond which it hangs.
    pub(crate) fn line_within(&self, limit: Duration) -> Option<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("process {} says nothing", self.id()),
        }
    }

    /// The same of one that does not end before.
    pub(crate) fn line(&self) -> String {
        self.next_line().unwrap_or_else(|| panic!("process {} has ended without a word", self.id()))
    }

    /// What it has told already, if anything.
    pub(crate) fn line_already(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// What its last call returned.
    pub(crate) fn end(&self) -> Told {
        Told::read(&self.line())
    }

    /// The same where it may end without telling anything.
    pub(crate) fn end_if_any(&self) -> Option<Told> {
        self.next_line().map(|line| Told::read(&line))
    }

    /// Says a line to it.
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{line}").and_then(|()| input.flush()).unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id() as i32), signal).unwrap();
    }

    /// Says nothing more to it.
    pub(crate) fn hang_up(&mut self) {
        drop(self.child.stdin.take());
    }

    /// The same, and waits until it has ended.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.hang_up();
        let until = Instant::now() + HANG;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < until, "process {} does not end", self.id()),
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Nobody else writes there, so that it is at the end; and then nothing of this is left.
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

/// Processes that are ranks of a group, in the order in which they were started.
pub(crate) struct Group {
    pub(crate) ranks: Vec<Process>,
    store: Option<Server>,
}

impl Group {
    /// One with a store in this process, as under a launcher, and with nobody in it.
    pub(crate) fn begin(world: usize, heartbeat: Duration) -> Group {
        let store = match own_address() {
            None => host_for_launch(world, WORLD_ID, 0, heartbeat),
            Some(address) => Server::start(
                TcpListener::bind((address, 0)).unwrap(),
                ServerConfig {
                    world,
                    world_id: WORLD_ID,
                    generation: 0,
                    heartbeat_deadline: heartbeat,
                    host_rank: None,
                    hear: None,
                },
            ),
        };
        Group { ranks: Vec::new(), store: Some(store.unwrap()) }
    }

    /// One whose store is in the process of its rank 0, and with nobody in it.
    pub(crate) fn without_store() -> Group {
        Group { ranks: Vec::new(), store: None }
    }

    /// A whole group with a store in this process; the processes with what `prepare` makes of the commands.
    pub(crate) fn start(world: usize, heartbeat: Duration, prepare: impl Fn(&mut Command)) -> Group {
        let mut group = Group::begin(world, heartbeat);
        for rank in 0..world {
            group.add(rank, world, &prepare);
        }
        group
    }

    /// Where the store of this process is.
    pub(crate) fn store(&self) -> SocketAddr {
        self.store.as_ref().expect("it has one").address()
    }

    /// Starts a rank by the store of this process.
    pub(crate) fn add(&mut self, rank: usize, world: usize, prepare: impl FnOnce(&mut Command)) {
        let mut command = self::rank(rank, world, self.store());
        command.env(environment::STORE_HOST, "launcher");
        prepare(&mut command);
        self.ranks.push(Process::start(&mut command));
    }

    /// Waits until every rank has told that it works.
    pub(crate) fn all_at_work(&self) {
        for (rank, process) in self.ranks.iter().enumerate() {
            assert_eq!(process.line(), "at work", "rank {rank}");
        }
    }

    /// All of these tell of the same kind and culprit.
    pub(crate) fn all_blame(
        &self,
        ranks: impl IntoIterator<Item = usize>,
        kind: &str,
        culprit: usize,
    ) -> Vec<Told> {
        let of = |rank: usize| {
            let told = self.ranks[rank].end();
            assert!(told.blames(kind, culprit), "rank {rank}: {told:?}, not {kind} of {culprit}");
            assert!(told.text.starts_with(&format!("rank {rank}: ")), "{}", told.text);
            told
        };
        ranks.into_iter().map(of).collect()
    }

    /// All end well.
    pub(crate) fn all_fine(&self) {
        for (rank, process) in self.ranks.iter().enumerate() {
            let told = process.end();
            assert_eq!(told.kind, "fine", "rank {rank}: {}", told.text);
        }
    }
}
