//! Starting the ranks of a group as processes of this host, and ending them.
//!
//! - [`Launch`] says what to start and how; [`Launch::start`] starts it;
//! - [`Running`] is the group while it lives: wait for it, signal it, drop it;
//! - [`Outcome`] is what became of it: who failed first, and how every rank ended.
//!
//! A launch hosts the store of its group, and tells every process by its environment which rank it is. One thread
//! starts the processes and watches over them; where output is prefixed another one carries it.
//!
//! # All or none
//! What can be wrong with a launch by itself (a program that is not there, a CPU that may not be used) is found before
//! anything is started. Then every rank's process is made, prepared, and held at a gate, and only where all of them stand
//! there it opens for all at once: where one cannot be made, none has executed anything. A process that then cannot
//! execute its program after all (it has just been removed, or this rank's variables are too long) ends the others at once.
//!
//! # When a rank fails
//! A rank fails by a status other than 0 or by a signal. The store then tells the others, which get
//! [`PeerDead`](crate::ErrorKind::PeerDead) from whatever they are doing and have 250 ms to say so and to end by
//! themselves. Those that are still there get `SIGTERM`, and 2 s later `SIGKILL`. What counts is the first failure:
//! that of the rank which the group itself blames, if it failed without help, else the one that was seen first.
//!
//! # When somebody asks it to end
//! [`Signaller::signal`] passes a signal on, as a terminal does, and kills nobody: a rank that saves its state after `SIGTERM` may
//! take its time, as it may under mpirun or a service manager, until another rank has ended; then it has 10 s.
//! [`Signaller::end`] is for whoever wants the end itself: `SIGTERM`, and 2 s later `SIGKILL`.
//!
//! # What is left behind
//! Nothing. Each rank has a process group of its own, and signals go to the whole group. When the last rank has
//! ended, what it started has a second to end too; what is then left of the groups is killed. Where the launching
//! process itself is killed, the kernel kills the ranks, and a guard process (a shell that does nothing else) kills
//! their groups. What leaves its process group on purpose (`setsid`) has left the launch.
//!
//! # What a program that launches must not do
//! How a rank has ended is known from its process, which waits to be asked. A program that launches must not ask for the ends of
//! children that are not its own (`waitpid(-1)`), nor have children forgotten (`SIGCHLD` ignored, `SA_NOCLDWAIT`), which it may have
//! inherited: [`restore_sigchld`] undoes that. From Linux 6.15 on ends are known nevertheless; before, such a rank counts as failed, its
//! status [`Status::Unknown`], and a signal may reach a stranger that has been given the number of its process.
//!
//! # Terminals
//! Ranks are never in the foreground process group of a terminal: they write to it and cannot read from it. The
//! first rank can read this process's standard input where that is a file or a pipe, see [`Input`].

mod beside;
mod child;
mod group;
mod guard;
mod lines;
mod newborn;
mod order;
pub(crate) mod outcome;
mod program;
mod pump;
mod running;
mod spawn;
mod supervisor;

pub use beside::{Around, Beside, Ended};
pub use child::restore_sigchld;
pub(crate) use outcome::name;
pub use outcome::{Failure, Outcome, Status};
pub use running::{Running, Signaller};

/// A signal, as [`Signaller::signal`] sends it.
pub use nix::sys::signal::Signal;

use crate::error::Error;
use crate::transport::control::{Ear, Hear};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Duration;

/// Where the ranks' output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Output {
    /// To this process's own standard output and standard error, line by line, each after the rank: `[2] loss 0.3`.
    ///
    /// Lines are never mixed; those longer than 64 KiB are cut. Bytes are passed on as they are. A progress bar that
    /// returns to the beginning of its line is shown as a line, at most once a second, and in its final state.
    #[default]
    Prefixed,
    /// The ranks have this process's standard output and standard error, and write there themselves.
    Inherit,
    /// Nowhere.
    Null,
}

/// What the ranks read as standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Input {
    /// Nothing.
    #[default]
    Null,
    /// Rank 0 reads this process's standard input, unless that is a terminal; the others nothing.
    FirstRank,
}

/// What to start: one program, as every rank of a group.
///
/// ```no_run
/// use ringfold::launch::Launch;
/// let outcome = Launch::new(4).program("./train").arg("--fast").start()?.wait();
/// if let Some(failure) = &outcome.first_failure {
///     eprintln!("{failure}"); // rank 2 (pid 4711) was killed by signal 9 (SIGKILL)
/// }
/// # Ok::<(), ringfold::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Launch {
    ranks: usize,
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    /// Of one rank alone.
    environment_of: Vec<(usize, OsString, OsString)>,
    /// Those to which ranks are bound.
    cpus: BTreeMap<usize, Vec<usize>>,
    output: Output,
    /// On standard output, and on standard error.
    colours: (bool, bool),
    input: Input,
    heartbeat: Option<Duration>,
    timeout: Option<Duration>,
    generation: u32,
    hear: Option<Ear>,
    beside: Beside,
}

impl Launch {
    /// A launch of this many ranks, of a program that is yet to be said.
    pub fn new(ranks: usize) -> Self {
        Launch {
            ranks,
            program: OsString::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            environment_of: Vec::new(),
            cpus: BTreeMap::new(),
            output: Output::default(),
            colours: (false, false),
            input: Input::default(),
            heartbeat: None,
            timeout: None,
            generation: 0,
            hear: None,
            beside: Beside::default(),
        }
    }

    /// The program: a path, or a name that is looked for in the `PATH` that the rank is given.
    pub fn program(mut self, program: impl AsRef<OsStr>) -> Self {
        self.program = program.as_ref().to_owned();
        self
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// A variable of the ranks' environment, beside those of this process and those that say who is which rank,
    /// which it does not override.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// A variable of one rank alone. It outdoes those of [`env`](Launch::env), and not those that say who is which rank.
    ///
    /// ```no_run
    /// # use ringfold::launch::Launch;
    /// let launch = Launch::new(2).program("./train").env_of(0, "CUDA_VISIBLE_DEVICES", "0");
    /// let running = launch.env_of(1, "CUDA_VISIBLE_DEVICES", "1").start()?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn env_of(mut self, rank: usize, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment_of.push((rank, name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Binds a rank to these CPUs, as the system numbers them (up to 1023), before it executes its program; what it starts
    /// inherits that. The last call for a rank counts. Default: the CPUs of the thread that starts the launch.
    ///
    /// ```no_run
    /// # use ringfold::launch::Launch;
    /// let launch = Launch::new(2).program("./train").pin(0, 0..4).pin(1, [4, 5, 6, 7]);
    /// # launch.start()?;
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn pin(mut self, rank: usize, cpus: impl IntoIterator<Item = usize>) -> Self {
        self.cpus.insert(rank, cpus.into_iter().collect());
        self
    }

    /// Where the output goes. Default: [`Output::Prefixed`].
    pub fn output(mut self, output: Output) -> Self {
        self.output = output;
        self
    }

    /// Whether prefixes have their ranks' colours, on standard output and on standard error, where they are reversed.
    /// Only terminals understand them. Default: none.
    pub fn colours(mut self, stdout: bool, stderr: bool) -> Self {
        self.colours = (stdout, stderr);
        self
    }

    /// What the ranks read. Default: [`Input::Null`].
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// How long a rank may be silent before the group takes it for unresponsive. Default: 2 s.
    pub fn heartbeat(mut self, deadline: Duration) -> Self {
        self.heartbeat = Some(deadline);
        self
    }

    /// How long the whole may take. When it has passed, the ranks are ended. Default: no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Which attempt this is. Default: 0.
    pub fn generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Whom to tell what ranks tell of their work: the rank, and its message. Called on the store's thread, which watches
    /// over the group meanwhile, so it must not block; see [`Ear`]. Default: nobody.
    pub fn hear(mut self, hear: Arc<Hear>) -> Self {
        self.hear = None;
        self.also_hear(hear)
    }

    /// Whom else to tell what ranks tell, after those who are.
    pub(crate) fn also_hear(mut self, hear: Arc<Hear>) -> Self {
        let ear = Ear::new(hear);
        self.hear = Some(match self.hear.take() {
            Some(first) => first.and(ear),
            None => ear,
        });
        self
    }

    /// Who stands beside the launch while it lives: who is told of each rank's end, and who steps aside for lines.
    /// Default: nobody.
    pub fn beside(mut self, beside: Beside) -> Self {
        self.beside = beside;
        self
    }

    /// Who is told of each rank's end, besides whoever else stands beside the launch.
    pub(crate) fn told_of_ends(mut self, ended: Arc<Ended>) -> Self {
        self.beside = self.beside.also_ended(ended);
        self
    }

    /// How many ranks it starts.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Starts all ranks: when this returns, either all of them run or none. No rank executes anything before there is a
    /// process for each.
    ///
    /// Blocks until all have executed the program, which takes some milliseconds, and two minutes at most.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for no ranks or no program, for a rank that there is not, a
    /// CPU that this process may not use, and texts that no process can be given, such as an argument or a variable of 128 KiB; [`Io`](crate::ErrorKind::Io) where the
    /// system refuses a process or the program; [`Deadline`](crate::ErrorKind::Deadline) where a program cannot be executed
    /// for a minute. [`StartError`] says more where it is the program that could not be started.
    pub fn start(self) -> std::result::Result<Running, StartError> {
        order::check(&self)?;
        let programs = order::programs(&self)?;
        Running::start(self, programs)
    }

    /// What it says of a variable of all ranks.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        let given = self.environment.iter().rev().find(|(given, _)| given == name);
        given.map(|(_, value)| value.as_os_str())
    }
}

/// Why a launch has not begun.
#[derive(Debug, Clone)]
pub struct StartError {
    error: Error,
    reason: Option<std::io::ErrorKind>,
    transient: bool,
}

impl StartError {
    /// What the system said of the program, where it is the program that could not be started:
    /// [`NotFound`](std::io::ErrorKind::NotFound), [`PermissionDenied`](std::io::ErrorKind::PermissionDenied).
    pub fn program(&self) -> Option<std::io::ErrorKind> {
        self.reason
    }

    /// Whether the same launch may well begin a little later: a rank was killed before it could execute or came too late, the system
    /// was short of processes, memory or files, or somebody is still writing the program. No rank has executed anything, or those
    /// that have were ended. False for what is wrong with the launch itself.
    ///
    /// ```
    /// use ringfold::launch::Launch;
    /// let missing = Launch::new(2).program("/no/such/program").start().unwrap_err();
    /// assert!(!missing.is_transient());
    /// ```
    pub fn is_transient(&self) -> bool {
        self.transient
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for StartError {}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        StartError { error, reason: None, transient: false }
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        error.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn who_comes_later_is_told_besides() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let note = |name: &'static str| {
            let heard = Arc::clone(&heard);
            move |rank: usize| heard.lock().unwrap().push((name, rank))
        };
        let hear = |name| -> Arc<Hear> {
            let note = note(name);
            Arc::new(move |rank, _: &[u8]| note(rank))
        };
        let ended = |name| -> Arc<Ended> {
            let note = note(name);
            Arc::new(move |rank, _| note(rank))
        };
        let launch = Launch::new(1).hear(hear("replaced")).hear(hear("user")).also_hear(hear("monitor"));
        launch.hear.unwrap().hear(4, b"");
        assert_eq!(heard.lock().unwrap().split_off(0), [("user", 4), ("monitor", 4)]);

        let beside = Beside::default().ended(ended("user"));
        let panics: Arc<Ended> = Arc::new(|_, _| panic!("on purpose"));
        let launch = Launch::new(1).beside(beside).told_of_ends(panics).told_of_ends(ended("monitor"));
        launch.beside.tell_end(5, Status::Exited(0));
        assert_eq!(heard.lock().unwrap().split_off(0), [("user", 5), ("monitor", 5)]);
    }
}
