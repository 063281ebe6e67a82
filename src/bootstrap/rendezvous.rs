//! How ranks that `mpirun` started on one host find rank 0's store.
//!
//! The launcher tells ranks and sizes but offers no place to meet. Rank 0 therefore announces the store's address
//! on an abstract Unix socket, whose name follows from the user, the job and the generation; it leaves nothing
//! behind in any file system. Both ends check that the other belongs to the same user.

use crate::config::Job;
use crate::config::environment::fnv1a;
use crate::error::{Error, ErrorKind, Result};
use crate::observe;
use crate::transport::control::{Bell, readiness, wait};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{MsgFlags, getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MAGIC: [u8; 8] = *b"rfmeet01";
/// How long one conversation may take; it is a few bytes on one host.
const PATIENCE: Duration = Duration::from_millis(200);
const ADDRESS_LIMIT: usize = 64;

/// What rank 0 announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) address: SocketAddr,
    pub(super) world_id: u64,
}

/// Rank 0's side: a thread that answers until every other rank has asked, or until this is dropped.
#[derive(Debug)]
pub(super) struct Announcement {
    stop: Arc<(AtomicBool, Bell)>,
    thread: Option<JoinHandle<()>>,
}

impl Announcement {
    pub(super) fn start(
        job: &Job,
        generation: u32,
        world: usize,
        address: SocketAddr,
        world_id: u64,
        until: Instant,
    ) -> Result<Announcement> {
        let name = socket_name(job, generation)?;
        let unix =
            UnixAddr::from_abstract_name(&name).map_err(|e| Error::io("naming the meeting place", e))?;
        let listener = loop {
            match UnixListener::bind_addr(&unix) {
                Ok(listener) => break listener,
                // The group before this one may not have let go of the name yet.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => {
                    let text = format!("rank 0 cannot announce its store on this host: {error}");
                    return Err(Error::new(ErrorKind::Bootstrap, text).remedy("set RINGFOLD_STORE=host:port"));
                }
            }
        };
        listener.set_nonblocking(true).map_err(|e| Error::io("preparing the meeting place", e))?;
        let stop = Arc::new((AtomicBool::new(false), Bell::new()?));
        let told = Arc::clone(&stop);
        let found = Found { address, world_id };
        let thread =
            observe::thread::spawn("ringfold-meet", move || answer_all(&listener, &told, world, &found))
                .map_err(|e| Error::io("starting the thread of the meeting place", e))?;
        Ok(Announcement { stop, thread: Some(thread) })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        self.stop.0.store(true, Ordering::Release);
        self.stop.1.ring();
        if let Some(thread) = self.thread.take() {
            // One conversation at most is under way, and it is bounded.
            let _ = thread.join();
        }
    }
}

fn answer_all(listener: &UnixListener, stop: &(AtomicBool, Bell), world: usize, found: &Found) {
    let mut asked = BTreeSet::new();
    while asked.len() + 1 < world && !stop.0.load(Ordering::Acquire) {
        let mut fds = [
            PollFd::new(stop.1.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        wait(&mut fds, None);
        if !readiness(&fds[1]).0 {
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if let Ok(rank @ 1..) = answer(&stream, found)
                    && (rank as usize) < world
                {
                    asked.insert(rank);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// One conversation: magic and rank one way, magic, world id and address the other.
fn answer(mut stream: &UnixStream, found: &Found) -> io::Result<u32> {
    same_user(stream.as_fd())?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut question = [0u8; 12];
    stream.read_exact(&mut question)?;
    if question[..8] != MAGIC {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let address = found.address.to_string();
    let mut reply = MAGIC.to_vec();
    reply.extend_from_slice(&found.world_id.to_le_bytes());
    reply.push(address.len() as u8);
    reply.extend_from_slice(address.as_bytes());
    send(stream.as_fd(), &reply)?;
    Ok(u32::from_le_bytes([question[8], question[9], question[10], question[11]]))
}

/// The other ranks' side: asks until there is an answer, at most until `until`.
pub(super) fn find(job: &Job, generation: u32, rank: usize, until: Instant) -> Result<Found> {
    let name = socket_name(job, generation)?;
    let mut pause = Duration::from_millis(1);
    loop {
        let error = match ask(&name, rank) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let now = Instant::now();
        if now >= until {
            let text = format!("rank {rank} found no rank 0 of its launch on this host in time: {error}");
            return Err(Error::new(ErrorKind::Bootstrap, text)
                .blame(0)
                .remedy("see what became of rank 0, or set RINGFOLD_STORE=host:port on every rank"));
        }
        std::thread::sleep(pause.min(until - now));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn ask(name: &[u8], rank: usize) -> io::Result<Found> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Set first: connecting waits too, where many ask at once.
    socket.set_write_timeout(Some(PATIENCE * 5))?;
    socket.set_read_timeout(Some(PATIENCE * 5))?;
    let mut path = vec![0u8];
    path.extend_from_slice(name);
    socket.connect(&SockAddr::unix(std::path::Path::new(
        <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&path),
    ))?)?;
    same_user(socket.as_fd())?;
    let mut stream = UnixStream::from(socket);
    let mut question = MAGIC.to_vec();
    question.extend_from_slice(&u32::try_from(rank).unwrap_or(u32::MAX).to_le_bytes());
    send(stream.as_fd(), &question)?;
    let mut head = [0u8; 17];
    stream.read_exact(&mut head)?;
    let length = usize::from(head[16]);
    if head[..8] != MAGIC || length > ADDRESS_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer makes no sense"));
    }
    let mut text = [0u8; ADDRESS_LIMIT];
    stream.read_exact(&mut text[..length])?;
    let address = std::str::from_utf8(&text[..length])
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer has no address"))?;
    let world_id = head[8..16].iter().rev().fold(0, |id, &byte| id << 8 | u64::from(byte));
    Ok(Found { address, world_id })
}

/// Sends a few bytes, without the SIGPIPE that a write would raise where the other end is gone.
fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let sent = nix::sys::socket::send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

fn same_user(socket: BorrowedFd<'_>) -> io::Result<()> {
    let theirs = getsockopt(&socket, PeerCredentials)?.uid();
    let mine = nix::unistd::geteuid().as_raw();
    if theirs == mine {
        return Ok(());
    }
    let text = format!("the other end belongs to user {theirs}, and this process to user {mine}");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn socket_name(job: &Job, generation: u32) -> Result<Vec<u8>> {
    let key = match job {
        Job::Name(name) => name.clone(),
        Job::Inherited { pmi, control } => inherited_key(*pmi, *control).ok_or_else(|| {
            Error::new(
                ErrorKind::Configuration,
                "neither PMI_FD nor HYDI_CONTROL_FD is a socket of this process, so that its job has no name",
            )
            .remedy("set RINGFOLD_STORE=host:port on every rank")
        })?,
    };
    let user = nix::unistd::geteuid().as_raw();
    Ok(format!("ringfold-{user}-{generation}-{:016x}", fnv1a(key.as_bytes())).into_bytes())
}

/// A text that all local ranks of one MPICH launch agree on, and no other launch has while this one lives.
fn inherited_key(pmi: Option<i32>, control: Option<i32>) -> Option<String> {
    pmi.and_then(manager_behind).or_else(|| control.and_then(socket_inode))
}

/// The process manager at the other end of an inherited socket: its id, and when it started.
fn manager_behind(number: i32) -> Option<String> {
    socket_inode(number)?;
    // SAFETY: the link above shows that the number is open, nothing here closes it, and the borrow ends with this
    // function. Should another thread close it meanwhile, the call below fails or asks another socket.
    let socket = unsafe { BorrowedFd::borrow_raw(number) };
    let pid = getsockopt(&socket, PeerCredentials).ok()?.pid();
    if pid <= 0 {
        return None;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything; the start time is the 20th field after it.
    let start = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("manager {pid} started {start}"))
}

/// The kernel's name of an inherited socket, such as `socket:[13974]`; `None` where the number is no socket.
fn socket_inode(number: i32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?.display().to_string();
    (number >= 0 && link.starts_with("socket:")).then_some(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn job(test: &str) -> Job {
        Job::Name(format!("{test} {}", std::process::id()))
    }

    #[test]
    fn everybody_finds_rank_0_and_the_thread_ends_by_itself() {
        let job = job("all");
        let found = Found { address: "127.0.0.1:77".parse().unwrap(), world_id: u64::MAX - 9 };
        let asking: Vec<_> = (1..4)
            .map(|rank| {
                let job = job.clone();
                std::thread::spawn(move || find(&job, 0, rank, soon()).unwrap())
            })
            .collect();
        // The others may well come first.
        std::thread::sleep(Duration::from_millis(20));
        let mut announcement =
            Announcement::start(&job, 0, 4, found.address, found.world_id, soon()).unwrap();
        for thread in asking {
            assert_eq!(thread.join().unwrap(), found);
        }
        announcement.thread.take().unwrap().join().unwrap();
        let late = find(&job, 0, 1, Instant::now()).unwrap_err();
        assert_eq!((late.kind(), late.culprit()), (ErrorKind::Bootstrap, Some(0)));
    }

    #[test]
    fn an_announcement_that_nobody_hears_can_be_dropped_and_made_again() {
        let job = job("again");
        let address = "127.0.0.1:77".parse().unwrap();
        for _ in 0..3 {
            drop(Announcement::start(&job, 0, 2, address, 1, soon()).unwrap());
        }
        let held = Announcement::start(&job, 0, 2, address, 1, soon()).unwrap();
        assert!(Announcement::start(&job, 0, 2, address, 1, Instant::now()).is_err(), "the name is taken");
        drop(Announcement::start(&job, 1, 2, address, 1, Instant::now()).unwrap());
        drop(held);
    }

    #[test]
    fn garbage_and_silence_do_not_keep_others_away() {
        let job = job("garbage");
        let found = Found { address: "[::1]:77".parse().unwrap(), world_id: 3 };
        let _announcement = Announcement::start(&job, 0, 2, found.address, found.world_id, soon()).unwrap();
        let name = UnixAddr::from_abstract_name(socket_name(&job, 0).unwrap()).unwrap();
        let _silent = UnixStream::connect_addr(&name).unwrap();
        UnixStream::connect_addr(&name).unwrap().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(find(&job, 0, 1, soon()).unwrap(), found);
    }

    #[test]
    fn an_inherited_socket_names_the_process_behind_it() {
        let (mine, _theirs) = UnixStream::pair().unwrap();
        let number = mine.as_raw_fd();
        let key = inherited_key(Some(number), None).unwrap();
        assert!(key.starts_with(&format!("manager {} started ", std::process::id())), "{key}");
        assert!(inherited_key(None, Some(number)).unwrap().starts_with("socket:["));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(inherited_key(Some(file.as_raw_fd()), Some(-1)), None);
    }
}
