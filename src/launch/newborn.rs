//! What a rank's process does between fork and exec.
//!
//! It has the launcher's memory and none of its threads, which may have held any lock. So it makes system calls on what
//! was laid ready before, and nothing else.

use nix::errno::Errno;
use nix::libc::{self, c_char};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getppid, write};
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};

/// What runs a file that has execute permission and is no program, as `execvp` has it.
pub(super) const SHELL: &CStr = c"/bin/sh";

/// What a process was about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// To be made: by the launcher.
    Fork,
    /// To be made the leader of a process group: by the launcher.
    Group,
    /// To be bound to CPUs: by the launcher.
    Cpus,
    Streams,
    ParentDeath,
    Signals,
    /// To wait at the gate. Nothing is wrong.
    Gate,
    Execute,
}

/// Those that a process tells of.
pub(super) const TOLD: [Step; 5] =
    [Step::Streams, Step::ParentDeath, Step::Signals, Step::Gate, Step::Execute];

/// A NULL-terminated list, which refers to these strings.
pub(super) fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// What a process says of itself. Less than a pipe takes as a whole.
pub(super) struct Report {
    pub(super) number: u32,
    /// Which of [`TOLD`].
    pub(super) step: u32,
    pub(super) errno: i32,
}

impl Report {
    pub(super) const BYTES: usize = 12;

    fn bytes(&self) -> [u8; Report::BYTES] {
        let ([a, b, c, d], [e, f, g, h]) = (self.number.to_ne_bytes(), self.step.to_ne_bytes());
        let [i, j, k, l] = self.errno.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    pub(super) fn read(bytes: &[u8]) -> Report {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        Report { number: word(0), step: word(4), errno: word(8) as i32 }
    }
}

/// All that a process has between fork and exec.
pub(super) struct Newborn<'a> {
    pub(super) number: u32,
    pub(super) launcher: Pid,
    /// What becomes descriptors 0, 1 and 2, where they are not to stay as they are.
    pub(super) streams: [Option<BorrowedFd<'a>>; 3],
    pub(super) gate: BorrowedFd<'a>,
    pub(super) opener: BorrowedFd<'a>,
    pub(super) reports: BorrowedFd<'a>,
    /// The signals that the launcher's thread blocks: the program inherits them.
    pub(super) mask: SigSet,
    pub(super) program: &'a CStr,
    pub(super) arguments: Vec<*const c_char>,
    pub(super) environment: Vec<*const c_char>,
    /// The arguments of a shell that runs the program.
    pub(super) shell: Vec<*const c_char>,
}

/// Safe after a fork: none of these functions allocates, locks or panics, or calls any that does.
impl Newborn<'_> {
    /// What the child does, all of it.
    pub(super) fn live(&self) -> ! {
        let (step, errno) = match self.prepare() {
            Ok(()) => {
                self.tell(Step::Gate, 0);
                self.wait_at_gate();
                (Step::Execute, self.execute())
            }
            Err(setback) => setback,
        };
        self.tell(step, errno as i32);
        leave()
    }

    fn prepare(&self) -> Result<(), (Step, Errno)> {
        // SAFETY: this is the child's own copy of the descriptor, which nothing in it uses. With it open, the gate would
        // not end where the launcher does.
        unsafe { libc::close(self.opener.as_raw_fd()) };
        let with = |step| move |errno| (step, errno);
        set_pdeathsig(Signal::SIGKILL).map_err(with(Step::ParentDeath))?;
        if getppid() != self.launcher {
            // The launcher died before the line above: nobody will tell this process.
            leave();
        }
        let [stdin, stdout, stderr] = self.streams;
        stdin.map_or(Ok(()), dup2_stdin).map_err(with(Step::Streams))?;
        stdout.map_or(Ok(()), dup2_stdout).map_err(with(Step::Streams))?;
        stderr.map_or(Ok(()), dup2_stderr).map_err(with(Step::Streams))?;
        set_signals().map_err(with(Step::Signals))
    }

    /// Returns when the gate is open. Where it never will be, because the launch has failed or the launcher is gone, this
    /// process ends.
    fn wait_at_gate(&self) {
        loop {
            let mut fds = [PollFd::new(self.gate, PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Ok(_) if fds.iter().any(|fd| fd.revents().is_some_and(|e| e.contains(PollFlags::POLLIN))) => {
                    return;
                }
                _ => leave(),
            }
        }
    }

    /// Returns where it cannot.
    fn execute(&self) -> Errno {
        if let Err(errno) = self.mask.thread_set_mask() {
            return errno;
        }
        let (arguments, environment) = (self.arguments.as_ptr(), self.environment.as_ptr());
        // SAFETY: a string, and two lists of strings that end with NULL, all of which were made before the fork.
        unsafe { libc::execve(self.program.as_ptr(), arguments, environment) };
        let errno = Errno::last();
        if errno == Errno::ENOEXEC {
            // SAFETY: as above.
            unsafe { libc::execve(SHELL.as_ptr(), self.shell.as_ptr(), environment) };
        }
        errno
    }

    fn tell(&self, step: Step, errno: i32) {
        let step = TOLD.iter().position(|&told| told == step).unwrap_or(TOLD.len()) as u32;
        // Where nobody listens the launcher is gone, and so will this process be.
        let _ = write(self.reports, &Report { number: self.number, step, errno }.bytes());
    }
}

/// Ends this process, and runs nothing that the launcher runs at its end.
fn leave() -> ! {
    // SAFETY: it only ends the process.
    unsafe { libc::_exit(127) }
}

/// What signals do to the program from its beginning on: what they do by default, or nothing where the launcher ignores
/// them.
fn set_signals() -> nix::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: a structure of integers and pointers, which may be 0.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: it only asks, and writes where there is room. Numbers that are the C library's own are refused.
        let known = unsafe { libc::sigaction(number, std::ptr::null(), &raw mut action) } == 0;
        if known && ![libc::SIG_DFL, libc::SIG_IGN].contains(&action.sa_sigaction) {
            // Until it executes, so that what comes at the gate is not handled by a copy of the launcher's handler.
            // SAFETY: a default runs no handler.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }
    // As a program expects it that was started by anything but a Rust program.
    // SAFETY: as above.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    // In the background of a terminal, let reading fail instead of stopping the rank, and let writing be.
    for background in [Signal::SIGTTIN, Signal::SIGTTOU] {
        // SAFETY: ignoring a signal runs no handler.
        unsafe { signal(background, SigHandler::SigIgn) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_are_written() {
        let report = Report { number: 70_000, step: 4, errno: 7 };
        let read = Report::read(&report.bytes());
        assert_eq!((read.number, read.step, read.errno), (70_000, 4, 7));
    }
}
