//! One segment for the ranks of a host.
//!
//! In rounds that the store gathers, so that all ranks know at each step how it stands with everybody:
//!
//! 1. everybody says what it wants; the lowest rank has made the segment, listens on an abstract socket, and says where;
//! 2. everybody has connected, or says why not, and where a number lies in its memory;
//! 3. the lowest rank has handed over the descriptor, everybody has mapped it and taken a seat, and says where, and whether
//!    it can read all the numbers where they lie.
//!
//! Either side looks at who the other is: the descriptor goes to processes of the same user only. Where anything fails
//! on any rank, all ranks know it by the end of the round and what it was, and go by TCP.

use super::Peer;
use super::reading::{Landmark, Sight};
use crate::config::BackendChoice;
use crate::error::{Cause, CauseKind, Error, ErrorKind, Result};
use crate::memory::{Arena, Block, Segment};
use crate::transport::control::ControlLink;
use crate::transport::shm::{Ground, Sentinel, SentinelSetup, ShmSeat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, getsockopt,
    recvmsg, sendmsg, socket,
};
use serde::{Deserialize, Serialize};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory that all ranks share, as one of them holds it.
#[derive(Debug)]
pub struct Shared {
    /// This process's part.
    pub ground: Arc<Ground>,
    /// This rank's seat in the world's first group.
    pub seat: ShmSeat,
    /// Everybody's, in rank order.
    pub seats: Vec<u64>,
    /// Tells the group at once of processes that die; where the system has no such thing, their connections to the store tell
    /// of them later.
    pub sentinel: Option<Sentinel>,
    /// The ranks' processes, where each of them may read the memory of all.
    pub processes: Option<Arc<[i32]>>,
}

/// What a rank says in the first round.
#[derive(Debug, Serialize, Deserialize)]
struct Wish {
    backend: String,
    /// Of the lowest rank: where it listens, and how long the segment is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    segment: Option<(String, usize)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
}

/// What a rank says in the other rounds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Step {
    #[serde(default)]
    seat: u64,
    /// Where its life word is.
    #[serde(default)]
    life: u64,
    /// What others try to read in its memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sight: Option<Sight>,
    /// Whose memory it cannot read, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cannot_read: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
}

/// Shares memory among all ranks of the world. `Ok(Err(why))` where they go without, all of them alike.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) where a rank insists on shared memory, and as
/// [`ControlLink::all_gather`].
pub(super) fn share(
    link: &ControlLink,
    rank: usize,
    peers: &[Peer],
    backend: BackendChoice,
    until: Instant,
) -> Result<std::result::Result<Shared, String>> {
    if backend.is_mpi() {
        // So say all ranks: their records were compared.
        return Ok(Err("bytes go by MPI".to_owned()));
    }
    let several = peers.iter().find(|peer| peer.host_id != peers[0].host_id);
    let without = if let Some(other) = several {
        Some(format!("rank {} is on {} and rank 0 on {}", other.rank, other.host, peers[0].host))
    } else if peers.len() == 1 && backend != BackendChoice::Shm {
        Some("a group of one has nobody to share with".to_owned())
    } else {
        None
    };
    let ended = match without {
        Some(why) => Err(why),
        None => negotiate(link, rank, peers, backend, until)?,
    };
    match ended {
        Err(why) if backend == BackendChoice::Shm => Err(cannot(&why)),
        Err(why) => {
            tracing::info!(rank, %why, "no shared memory: bytes go by TCP");
            Ok(Err(why))
        }
        Ok(shared) => Ok(Ok(shared)),
    }
}

fn negotiate(
    link: &ControlLink,
    rank: usize,
    peers: &[Peer],
    backend: BackendChoice,
    until: Instant,
) -> Result<std::result::Result<Shared, String>> {
    let world = peers.len();
    let wants = backend != BackendChoice::Tcp;
    let host = if rank == 0 && wants { Some(Host::open(world)) } else { None };
    let (segment, why_not) = match &host {
        Some(Ok(host)) => (Some((host.name.clone(), host.segment.len())), None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    let wish = Wish { backend: backend.to_string(), segment, why_not };
    let wishes: Vec<Wish> = gather(link, &wish, until)?;
    let insisted = wishes.iter().any(|wish| wish.backend == BackendChoice::Shm.as_str());
    let ended = with_wishes(link, rank, peers, host, &wishes, until)?;
    match ended {
        // Where one of them refuses, none of them begins.
        Err(why) if insisted => Err(cannot(&why)),
        ended => Ok(ended),
    }
}

fn cannot(why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("shared memory cannot be had: {why}"))
        .remedy("mend that, or let the backend be auto or tcp")
}

/// The rounds after the first.
fn with_wishes(
    link: &ControlLink,
    rank: usize,
    peers: &[Peer],
    host: Option<Result<Host>>,
    wishes: &[Wish],
    until: Instant,
) -> Result<std::result::Result<Shared, String>> {
    let world = peers.len();
    if let Some(other) = wishes.iter().position(|wish| wish.backend == BackendChoice::Tcp.as_str()) {
        return Ok(Err(format!("rank {other} asks for TCP")));
    }
    let Some((name, len)) = &wishes[0].segment else {
        return Ok(Err(format!("on rank 0: {}", wishes[0].why_not.as_deref().unwrap_or("it says nothing"))));
    };

    let connected = if rank == 0 { Ok(None) } else { connect(name, rank, until).map(Some) };
    let why_not = connected.as_ref().err().map(Error::to_string);
    let landmark = Landmark::default();
    let step = Step { sight: Some(landmark.sight()), why_not, ..Step::default() };
    let steps: Vec<Step> = gather(link, &step, until)?;
    if let Some(why) = first_reason(&steps) {
        return Ok(Err(why));
    }
    let processes: Arc<[i32]> = peers.iter().map(|peer| peer.pid.cast_signed()).collect();
    let cannot_read = steps.iter().zip(peers).find_map(|(step, peer)| {
        let read = step.sight.map_or(Err("it tells of no place".to_owned()), |sight| sight.read(peer.pid));
        read.err().map(|why| format!("rank {rank} cannot read the memory of rank {}: {why}", peer.rank))
    });

    let segment = match (host, connected) {
        (Some(Ok(host)), _) => host.hand_over(world, until).map(|()| host.segment),
        (_, Ok(Some(stream))) => receive(&stream, *len, until),
        _ => Err(Error::invalid("neither host nor guest")),
    };
    let shared = segment.and_then(|segment| {
        let ground = Arc::new(Ground::new(Arena::new(Arc::new(segment), rank, world)));
        let life = ground.arena().take(Sentinel::WORD)?;
        ShmSeat::new(&ground, world).map(|seat| (ground, seat, life))
    });
    let step = match &shared {
        Ok((_, seat, life)) => {
            Step { seat: seat.offset(), life: life.offset() as u64, cannot_read, ..Step::default() }
        }
        Err(error) => Step { why_not: Some(error.to_string()), ..Step::default() },
    };
    let steps: Vec<Step> = gather(link, &step, until)?;
    // Until here others have read it.
    drop(landmark);
    let processes = match steps.iter().find_map(|step| step.cannot_read.as_ref()) {
        None => Some(processes),
        Some(why) => {
            tracing::info!(rank, %why, "ranks cannot read each other's memory: large blocks are copied twice");
            None
        }
    };
    let seats = steps.iter().map(|step| step.seat).collect();
    Ok(match (first_reason(&steps), shared) {
        (None, Ok((ground, seat, life))) => {
            let lives = steps.iter().map(|step| step.life).enumerate();
            let sentinel = watch(link, rank, peers, life, lives.filter(|(peer, _)| *peer != rank).collect());
            Ok(Shared { ground, seat, seats, sentinel, processes })
        }
        (Some(why), _) => Err(why),
        (None, Err(error)) => Err(error.to_string()),
    })
}

/// Watches over the processes of the other ranks, by their life words.
fn watch(
    link: &ControlLink,
    rank: usize,
    peers: &[Peer],
    own: Block,
    lives: Vec<(usize, u64)>,
) -> Option<Sentinel> {
    let generation = link.generation();
    let (reporter, host) = (link.reporter(), link.host_rank());
    let pids: Vec<u32> = peers.iter().map(|peer| peer.pid).collect();
    let died = move |peer: usize| {
        let cause = Cause {
            generation,
            sequence: Cause::NO_SEQUENCE,
            kind: CauseKind::PeerDead,
            culprit: peer,
            reporter: rank,
            detail: format!(
                "rank {peer} (pid {}) died: the kernel says that its process has ended",
                pids[peer]
            ),
        };
        // A store that ended with its process tells nobody.
        if host == Some(peer) {
            reporter.host_died(cause);
        } else {
            reporter.report(&cause);
        }
    };
    match Sentinel::start(SentinelSetup { own, peers: lives, died: Box::new(died) }) {
        Ok(sentinel) => Some(sentinel),
        Err(error) => {
            tracing::warn!(rank, %error, "deaths will be noticed later");
            None
        }
    }
}

fn first_reason(steps: &[Step]) -> Option<String> {
    let reason = |(rank, step): (usize, &Step)| Some(format!("on rank {rank}: {}", step.why_not.as_ref()?));
    steps.iter().enumerate().find_map(reason)
}

/// Gathers what everybody says, in rank order.
fn gather<T: Serialize + for<'a> Deserialize<'a>>(
    link: &ControlLink,
    say: &T,
    until: Instant,
) -> Result<Vec<T>> {
    // Numbers and strings: nothing that JSON could refuse.
    let message = serde_json::to_vec(say).unwrap_or_default();
    let messages = link.all_gather(&message, until.saturating_duration_since(Instant::now()))?;
    let read = |(rank, message): (usize, &Vec<u8>)| {
        serde_json::from_slice(message).map_err(|error| {
            let text = format!(
                "rank {rank} speaks of shared memory in a form that this version does not know: {error}"
            );
            Error::new(ErrorKind::Bootstrap, text).blame(rank).remedy("run the same version on every rank")
        })
    };
    messages.iter().enumerate().map(read).collect()
}

/// What the lowest rank has.
struct Host {
    segment: Segment,
    listener: UnixListener,
    name: String,
}

/// What a guest says of itself to whoever hands out the segment: its rank.
type Greeting = [u8; 4];

/// How long a stranger may keep the others waiting.
const GREETING: Duration = Duration::from_secs(1);

/// What goes with the descriptor.
const TOKEN: &[u8] = b"ringfold";

impl Host {
    fn open(world: usize) -> Result<Host> {
        let segment = segment_for(world)?;
        let name = format!("ringfold-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let listener = SocketAddr::from_abstract_name(&name)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map_err(|error| Error::io("listening for the ranks of this host", error))?;
        Ok(Host { segment, listener, name })
    }

    /// Gives the descriptor to every other rank, all of which have connected.
    fn hand_over(&self, world: usize, until: Instant) -> Result<()> {
        let doing = |error| Error::io("handing over shared memory", error);
        self.listener.set_nonblocking(true).map_err(doing)?;
        let mut served = vec![false; world];
        served[0] = true;
        // A world of strangers would have to come first; each costs one look.
        while let Some(missing) = served.iter().position(|served| !served) {
            let (stream, _) = self.listener.accept().map_err(|error| {
                Error::io(format!("handing over shared memory: rank {missing} is not there"), error)
            })?;
            let Ok(()) = same_user(&stream) else { continue };
            // It was written before anybody began to look.
            limit(&stream, until.min(Instant::now() + GREETING))?;
            let mut greeting = Greeting::default();
            if (&stream).read_exact(&mut greeting).is_err() {
                continue;
            }
            let rank = u32::from_le_bytes(greeting) as usize;
            if served.get(rank) != Some(&false) {
                continue;
            }
            let descriptors = [self.segment.descriptor().as_raw_fd()];
            let control = [ControlMessage::ScmRights(&descriptors)];
            sendmsg::<UnixAddr>(
                stream.as_raw_fd(),
                &[IoSlice::new(TOKEN)],
                &control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            )
            .map_err(|error| doing(error.into()))?;
            served[rank] = true;
        }
        Ok(())
    }
}

/// A segment with address space for four times the machine's memory, or as much as this process may have.
fn segment_for(world: usize) -> Result<Segment> {
    const LEAST: usize = 64 << 20;
    const MOST: usize = 1 << 46;
    let memory = nix::sys::sysinfo::sysinfo().map_or(1 << 34, |info| info.ram_total());
    // A limited address space is for other things, too.
    let space = getrlimit(Resource::RLIMIT_AS).map_or(u64::MAX, |(limit, _)| limit);
    let most = usize::try_from(space / 4).unwrap_or(MOST).min(MOST);
    let memory = usize::try_from(memory).unwrap_or(MOST);
    let each = (memory.saturating_mul(4) / world).max(1 << 30).min(most / world);
    let mut each = each.max(LEAST).next_multiple_of(2 << 20);
    loop {
        match Segment::create(each * world) {
            Err(_) if each / 2 >= LEAST => each = (each / 2).next_multiple_of(2 << 20),
            other => return other,
        }
    }
}

/// Connects to the lowest rank, which listens already.
fn connect(name: &str, rank: usize, until: Instant) -> Result<UnixStream> {
    let doing = |error: std::io::Error| Error::io("reaching rank 0 on this host", error);
    let address = UnixAddr::new_abstract(name.as_bytes()).map_err(|error| doing(error.into()))?;
    let stream = reach(&address).map_err(|error| doing(error.into()))?;
    same_user(&stream)?;
    limit(&stream, until)?;
    let greeting: Greeting = (rank as u32).to_le_bytes();
    (&stream).write_all(&greeting).map_err(doing)?;
    Ok(stream)
}

/// A connection, at once or not at all: a queue that strangers have filled is a reason to go by TCP.
fn reach(address: &UnixAddr) -> nix::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), address)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).map_err(|_| nix::errno::Errno::last())?;
    Ok(stream)
}

/// Receives the descriptor, and maps it.
fn receive(stream: &UnixStream, len: usize, until: Instant) -> Result<Segment> {
    let doing = |error: nix::errno::Errno| Error::io("receiving shared memory from rank 0", error);
    let mut token = [0; TOKEN.len()];
    let mut parts = [IoSliceMut::new(&mut token)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            // The time limit would begin anew.
            Err(nix::errno::Errno::EINTR) if Instant::now() < until => limit(stream, until)?,
            other => break other.map_err(doing)?,
        }
    };
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for control in message.cmsgs().map_err(doing)? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows of them.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    match (descriptors.pop(), message.bytes) {
        (Some(descriptor), bytes) if bytes == TOKEN.len() => Segment::open(descriptor, len),
        _ => Err(Error::io("receiving shared memory from rank 0", "it gave none")),
    }
}

/// Fails where the other end is another user's.
fn same_user(stream: &UnixStream) -> Result<()> {
    let other =
        getsockopt(stream, PeerCredentials).map_err(|error| Error::io("asking who is there", error))?;
    let own = nix::unistd::geteuid().as_raw();
    if other.uid() == own {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "process {} belongs to user {}, this one to user {own}",
        other.pid(),
        other.uid()
    )))
}

/// No read or write on it takes longer than until then.
fn limit(stream: &UnixStream, until: Instant) -> Result<()> {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream
        .set_read_timeout(Some(left))
        .and_then(|()| stream.set_write_timeout(Some(left)))
        .map_err(|error| Error::io("setting a time limit", error))
}
