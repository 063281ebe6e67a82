//! The ranks as processes: forked one after another, held at a gate until all of them exist, and let go at once.
//!
//! What starts one process, such as [`std::process::Command`], returns when that one executes its program. The first
//! rank would then be at work while it is not known whether there can be a last one. So here
//!
//! 1. each process is forked, prepares itself, says so, and waits at the gate;
//! 2. where anything fails, the gate stays shut and nothing has been executed: its end is what they wait for, too;
//! 3. one byte in the gate opens it for all, and each executes. One that cannot says why.
//!
//! What a process does until then is [`newborn`](super::newborn)'s.

use super::child::{Rank, open_end};
use super::group::{Group, has_executed};
use super::newborn::{Newborn, Report, SHELL, Step, TOLD, pointers};
use super::{Input, Output, Status};
use crate::transport::control::{after, readiness, wait};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, fork, getpid, pipe2, read, setpgid, write};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the ranks may take to come to the gate, and then to execute. Only a program on a file system that does not
/// answer, or a machine that stands still, takes this long.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// How often to look for what nobody tells: a process that was killed before it had said anything, say.
const LOOK: Duration = Duration::from_millis(100);

/// What one process is to execute, and where. Made before any is forked.
pub(super) struct Order {
    /// A path.
    pub(super) program: CString,
    /// From the program's name on.
    pub(super) arguments: Vec<CString>,
    /// All of it, as `NAME=VALUE`.
    pub(super) environment: Vec<CString>,
    /// All that this process has, where there is nothing else to say.
    pub(super) cpus: Option<CpuSet>,
}

/// Why not all ranks execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setback {
    /// The system has refused a step.
    Refused { rank: usize, step: Step, errno: Errno },
    /// The process has ended before it could execute.
    Ended { rank: usize, status: Status },
    /// It has not come as far in [`PATIENCE`].
    Late { rank: usize, step: Step },
}

/// The ranks of a launch until the gate opens. Where this is dropped before, none of them executes.
pub(super) struct Gang {
    launcher: Pid,
    /// While this process has both ends, writing to one raises no signal.
    gate: Pipe,
    reporter: OwnedFd,
    reports: Reports,
    nothing: OwnedFd,
}

/// What the processes say of themselves.
pub(super) struct Reports {
    pipe: OwnedFd,
    heard: Vec<u8>,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// One that ends where something is executed, and is none of the standard three descriptors, which are about to be
    /// replaced.
    fn new() -> nix::Result<Pipe> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Pipe { read: aside(read)?, write: aside(write)? })
    }
}

fn aside(fd: OwnedFd) -> nix::Result<OwnedFd> {
    if fd.as_raw_fd() > libc::STDERR_FILENO {
        return Ok(fd);
    }
    // The standard library's clones are beyond the standard three.
    fd.try_clone().map_err(|error| error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))
}

impl Gang {
    /// One of nobody yet. The processes die with the thread that calls this and [`fork`](Gang::fork).
    pub(super) fn new() -> nix::Result<Gang> {
        let nothing = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        let (gate, Pipe { read, write: reporter }) = (Pipe::new()?, Pipe::new()?);
        let reports = Reports { pipe: read, heard: Vec::new() };
        Ok(Gang { launcher: getpid(), gate, reporter, reports, nothing: aside(nothing)? })
    }

    /// Makes one more process, which comes as far as the gate.
    pub(super) fn fork(&self, number: usize, order: &Order, io: (Input, Output)) -> nix::Result<Rank> {
        let (input, output) = io;
        let pipe = || (output == Output::Prefixed).then(Pipe::new).transpose();
        let (out, err) = (pipe()?, pipe()?);
        let nothing = self.nothing.as_fd();
        let stdin = match input {
            Input::FirstRank if number == 0 && !std::io::stdin().is_terminal() => None,
            _ => Some(nothing),
        };
        let shell = [SHELL.as_ptr(), order.program.as_ptr()];
        let mut newborn = Newborn {
            number: number as u32,
            launcher: self.launcher,
            streams: [stdin, written(output, &out, nothing), written(output, &err, nothing)],
            gate: self.gate.read.as_fd(),
            opener: self.gate.write.as_fd(),
            reports: self.reporter.as_fd(),
            mask: SigSet::empty(),
            program: &order.program,
            arguments: pointers(&order.arguments),
            environment: pointers(&order.environment),
            shell: shell.into_iter().chain(pointers(&order.arguments).into_iter().skip(1)).collect(),
        };
        // No handler of this process runs in the child, which shares with it whatever the handler would write to.
        newborn.mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the child does what `live` does, which is safe after a fork of a process with threads.
        let child = match unsafe { fork() } {
            Ok(ForkResult::Child) => newborn.live(),
            Ok(ForkResult::Parent { child }) => Ok(child),
            Err(errno) => Err(errno),
        };
        // A mask that was there before is not refused.
        let _ = newborn.mask.thread_set_mask();
        let child = child?;
        let (stdout, stderr) = (out.map(|pipe| pipe.read), err.map(|pipe| pipe.read));
        Ok(Rank { group: Group::led_by(child), end: open_end(child), status: None, stdout, stderr })
    }

    /// Makes a process that waits at the gate the leader of its group, and binds it to its CPUs.
    pub(super) fn place(&self, number: usize, rank: &Rank, order: &Order) -> Result<(), Setback> {
        let refused = |step| move |errno| Setback::Refused { rank: number, step, errno };
        let pid = rank.group.leader();
        setpgid(pid, pid).map_err(refused(Step::Group))?;
        match &order.cpus {
            Some(cpus) => sched_setaffinity(pid, cpus).map_err(refused(Step::Cpus)),
            None => Ok(()),
        }
    }

    /// Waits until all of them stand at the gate, alive.
    pub(super) fn gather(&mut self, ranks: &mut [Rank]) -> Result<(), Setback> {
        let until = after(PATIENCE);
        let mut missing: BTreeSet<usize> = (0..ranks.len()).collect();
        while let Some(&rank) = missing.first() {
            let told = self.reports.hear(until, |number| {
                missing.remove(&number);
            })?;
            if told != Told::Something {
                all_alive(ranks)?;
                if Instant::now() >= until {
                    return Err(Setback::Late { rank, step: Step::Gate });
                }
            }
        }
        all_alive(ranks)
    }

    /// Opens the gate.
    pub(super) fn open(self) -> Result<Reports, Setback> {
        // Nobody takes the byte, so that all see it, at once.
        let opened = write(&self.gate.write, b"!");
        opened.map_err(|errno| Setback::Refused { rank: 0, step: Step::Gate, errno })?;
        Ok(self.reports)
    }
}

fn all_alive(ranks: &mut [Rank]) -> Result<(), Setback> {
    for (rank, process) in ranks.iter_mut().enumerate() {
        if let Some(status) = process.look() {
            return Err(Setback::Ended { rank, status });
        }
    }
    Ok(())
}

/// What is to be a process's output.
fn written<'a>(output: Output, pipe: &'a Option<Pipe>, nothing: BorrowedFd<'a>) -> Option<BorrowedFd<'a>> {
    match output {
        Output::Prefixed => pipe.as_ref().map(|pipe| pipe.write.as_fd()),
        Output::Inherit => None,
        Output::Null => Some(nothing),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Something,
    /// For a while.
    Nothing,
    /// And nobody will tell any more.
    End,
}

impl Reports {
    /// Waits until all of them have executed their programs, or ended.
    pub(super) fn await_execution(mut self, ranks: &[Rank]) -> Result<(), Setback> {
        let until = after(PATIENCE);
        loop {
            match self.hear(until, |_| {})? {
                // The last process that had neither executed nor ended has.
                Told::End => return Ok(()),
                Told::Something => {}
                // Somebody else may have forked in the meantime, and hold the pipe open.
                Told::Nothing => {
                    let waits = |rank: &Rank| !has_executed(rank.group.leader());
                    let Some(rank) = ranks.iter().position(waits) else { return Ok(()) };
                    if Instant::now() >= until {
                        return Err(Setback::Late { rank, step: Step::Execute });
                    }
                }
            }
        }
    }

    /// Hears what processes say, who has come to the gate among it, or waits in vain until it is time to look.
    fn hear(&mut self, until: Instant, mut at_gate: impl FnMut(usize)) -> Result<Told, Setback> {
        let refused = |errno| Setback::Refused { rank: 0, step: Step::Gate, errno };
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        wait(&mut fds, Some(until.min(after(LOOK))));
        if !readiness(&fds[0]).0 {
            return Ok(Told::Nothing);
        }
        let mut buffer = [0; 4096];
        match read(&self.pipe, &mut buffer) {
            Ok(0) => return Ok(Told::End),
            Ok(length) => self.heard.extend_from_slice(&buffer[..length]),
            Err(Errno::EINTR) => return Ok(Told::Nothing),
            Err(errno) => return Err(refused(errno)),
        }
        let whole = self.heard.len() / Report::BYTES * Report::BYTES;
        for bytes in self.heard.drain(..whole).as_slice().chunks_exact(Report::BYTES) {
            let Report { number, step, errno } = Report::read(bytes);
            let (rank, errno) = (number as usize, Errno::from_raw(errno));
            match TOLD.get(step as usize) {
                Some(Step::Gate) => at_gate(rank),
                Some(&step) => return Err(Setback::Refused { rank, step, errno }),
                None => {}
            }
        }
        Ok(Told::Something)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::waitpid;
    use nix::unistd::pause;
    use std::path::PathBuf;

    /// What leaves a file, and the file.
    fn order(name: &str) -> (Order, PathBuf) {
        let file = std::env::temp_dir().join(format!("ringfold-spawn-{name}-{}", std::process::id()));
        let string = |text: &str| CString::new(text).unwrap();
        let arguments = vec![string("touch"), string(file.to_str().unwrap())];
        (Order { program: string("/usr/bin/touch"), arguments, environment: Vec::new(), cpus: None }, file)
    }

    /// So many processes that stand at the gate.
    fn at_gate(gang: &mut Gang, count: usize, order: &Order) -> Vec<Rank> {
        let fork = |number| {
            let rank = gang.fork(number, order, (Input::Null, Output::Null)).unwrap();
            gang.place(number, &rank, order).unwrap();
            rank
        };
        let mut ranks: Vec<Rank> = (0..count).map(fork).collect();
        gang.gather(&mut ranks).unwrap();
        ranks
    }

    fn ends(ranks: Vec<Rank>) -> Vec<i32> {
        let end = |rank: Rank| match waitpid(rank.group.leader(), None).unwrap() {
            nix::sys::wait::WaitStatus::Exited(_, status) => status,
            other => panic!("{other:?}"),
        };
        ranks.into_iter().map(end).collect()
    }

    #[test]
    fn a_gate_that_is_not_opened_lets_nobody_execute() {
        let (order, file) = order("shut");
        let mut gang = Gang::new().unwrap();
        let ranks = at_gate(&mut gang, 3, &order);
        assert!(ranks.iter().all(|rank| !has_executed(rank.group.leader())));
        drop(gang);
        assert_eq!(ends(ranks), [127; 3], "they end by themselves");
        assert!(!file.exists());
    }

    #[test]
    fn a_stranger_that_holds_the_pipe_open_does_not_hold_up_a_launch() {
        let (order, file) = order("open");
        let mut gang = Gang::new().unwrap();
        let ranks = at_gate(&mut gang, 2, &order);
        // SAFETY: the child only waits to be killed.
        let stranger = match unsafe { fork() }.unwrap() {
            ForkResult::Child => loop {
                pause();
            },
            ForkResult::Parent { child } => child,
        };
        gang.open().unwrap().await_execution(&ranks).unwrap();
        assert_eq!(ends(ranks), [0; 2]);
        assert!(file.exists());
        kill(stranger, Signal::SIGKILL).unwrap();
        waitpid(stranger, None).unwrap();
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn who_ends_at_the_gate_or_before_is_named() {
        let (order, _) = order("ended");
        let mut gang = Gang::new().unwrap();
        let mut ranks = at_gate(&mut gang, 2, &order);
        let third = gang.fork(2, &order, (Input::Null, Output::Null)).unwrap();
        kill(third.group.leader(), Signal::SIGKILL).unwrap();
        ranks.push(third);
        // It may have said that it is there before it was killed; the others have.
        let setback = gang.gather(&mut ranks).unwrap_err();
        assert_eq!(setback, Setback::Ended { rank: 2, status: Status::Killed(9) });
        drop(gang);
        for rank in ranks {
            waitpid(rank.group.leader(), None).unwrap();
        }
    }
}
