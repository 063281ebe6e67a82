//! One segment for the ranks of a host.
//!
//! In rounds that the store gathers, so that all ranks know at each step how it stands with everybody, and all hosts at once:
//!
//! 1. the lowest rank of the host has made the segment, listens on an abstract socket, and says where; where there are several hosts
//!    every rank listens for those that stand across from it, too, and says where;
//! 2. everybody has connected, or says why not, and where a number lies in its memory;
//! 3. the lowest rank has handed over the descriptor, everybody has mapped it and taken a seat, and says where, and whether
//!    it can read all the numbers where they lie.
//!
//! Either side looks at who the other is: the descriptor goes to processes of the same user only. Where anything fails
//! on any rank, all ranks know it by the end of the round and what it was. The ranks of that host then go without; the world goes
//! by TCP where no host is left that shares memory.

use super::Peer;
use super::reading::{Landmark, Sight};
use crate::backend::choose::{Agreed, cannot};
use crate::config::BackendChoice;
use crate::error::{Cause, CauseKind, Error, ErrorKind, Result};
use crate::memory::{Arena, Block, Segment};
use crate::plan::Topology;
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
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixName, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory that the ranks of a host share, as one of them holds it.
#[derive(Debug)]
pub struct Shared {
    /// This process's part.
    pub ground: Arc<Ground>,
    /// This rank's seat in the world's first group.
    pub seat: ShmSeat,
    /// Everybody's on this host, in rank order.
    pub seats: Vec<u64>,
    /// Who they are.
    pub ranks: Arc<[usize]>,
    /// Tells the group at once of processes that die; where the system has no such thing, their connections to the store tell
    /// of them later.
    pub sentinel: Option<Sentinel>,
    /// The processes of the world's ranks, where each of this host may read the memory of all of them.
    pub processes: Option<Arc<[i32]>>,
}

/// What a rank says in the first round.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Opening {
    /// Of the lowest rank of a host: where it listens, and how long the segment is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    segment: Option<(String, usize)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why_not: Option<String>,
    /// Where it listens for those across, where there are several hosts; or why it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    across: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deaf: Option<String>,
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

/// Why there is no shared memory, and which rank's reason it is.
type WhyNot = (usize, String);

/// A world of several hosts, of which one at least shares memory among its ranks, as one rank holds it.
#[derive(Debug)]
pub struct Hosts {
    /// Which ranks share memory: all of a host, or each is alone.
    pub topology: Topology,
    /// Where this rank listens for those that stand across from it.
    pub listener: TcpListener,
    /// Where each rank does.
    pub addresses: Vec<SocketAddr>,
}

/// What has become of sharing memory.
#[derive(Debug)]
pub(super) struct Sharing {
    /// The memory of this host's ranks, or why they have none.
    pub(super) shared: std::result::Result<Shared, String>,
    /// The hosts, or why the group does not go by them.
    pub(super) hosts: std::result::Result<Hosts, String>,
}

impl Sharing {
    fn none(shared: String, hosts: String) -> Sharing {
        Sharing { shared: Err(shared), hosts: Err(hosts) }
    }
}

/// Shares memory among the ranks of each host, unless something else is agreed on. Where one host of several cannot, its ranks go
/// alone and the others share theirs; all ranks know of it.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) on every rank where one insists on what cannot be had, and as
/// [`ControlLink::all_gather`].
pub(super) fn share(
    link: &ControlLink,
    rank: usize,
    peers: &[Peer],
    agreed: Agreed,
    until: Instant,
) -> Result<Sharing> {
    let (choice, world) = (agreed.choice, peers.len());
    if !matches!(choice, BackendChoice::Auto | BackendChoice::Shm | BackendChoice::Hierarchical) {
        let why = format!("rank {} asks for {choice}", agreed.by.unwrap_or_default());
        tracing::info!(rank, %why, "no shared memory is tried");
        return Ok(Sharing::none(why.clone(), why));
    }
    let by_host = Topology::of_hosts(peers.iter().map(|peer| &peer.host_id));
    let hosts = by_host.hosts(world);
    let elsewhere = peers.iter().find(|peer| peer.host_id != peers[0].host_id).map(|other| {
        (other.rank, format!("rank {} is on {} and rank 0 on {}", other.rank, other.host, peers[0].host))
    });
    let one_level = match (hosts.len(), world) {
        (1, _) => Some("all ranks are on one host".to_owned()),
        (hosts, ranks) if hosts == ranks => Some("no host has several ranks".to_owned()),
        _ => None,
    };
    if let (BackendChoice::Shm, Some((culprit, why))) = (choice, &elsewhere) {
        return Err(cannot(choice, why).blame(*culprit));
    }
    if let (BackendChoice::Hierarchical, Some(why)) = (choice, &one_level) {
        return Err(cannot(choice, why));
    }
    let alone = (world == 1 && choice == BackendChoice::Auto)
        .then(|| (rank, "a group of one has nobody to share with".to_owned()));
    let without = match (alone, elsewhere, one_level) {
        (Some((_, why)), _, Some(levels)) | (_, Some((_, why)), Some(levels)) => {
            tracing::info!(rank, %why, "no shared memory: bytes go by TCP");
            return Ok(Sharing::none(why, levels));
        }
        (_, elsewhere, one_level) => (elsewhere, one_level),
    };
    let Tried { whys, shared, across } = negotiate(link, rank, peers, &hosts, until)?;
    let refusal = whys.iter().flatten().next().cloned();
    if let (BackendChoice::Shm | BackendChoice::Hierarchical, Some((culprit, why))) = (choice, &refusal) {
        // Where one of them refuses, none of them begins.
        return Err(cannot(choice, why).blame(*culprit));
    }
    let sharing = |host: usize| hosts[host].len() > 1 && whys[host].is_none();
    let any = (0..hosts.len()).any(sharing);
    Ok(match (without, shared, across) {
        ((None, one_level), Some(shared), _) => {
            Sharing { shared: Ok(shared), hosts: Err(one_level.unwrap_or_default()) }
        }
        ((Some((_, elsewhere)), _), shared, Some((listener, addresses))) if any => {
            if let Some((_, why)) = &refusal {
                tracing::warn!(rank, %why, "the ranks of that host share no memory: each goes alone");
            }
            // Who shares none is a host of its own.
            let places = (0..world).map(|one| {
                let host = by_host.host(one);
                (host, if sharing(host) { 0 } else { one + 1 })
            });
            let topology = Topology::of_hosts(places);
            Sharing { shared: shared.ok_or(elsewhere), hosts: Ok(Hosts { topology, listener, addresses }) }
        }
        ((elsewhere, one_level), ..) => {
            let why = refusal.map_or_else(|| "it was not tried".to_owned(), |(_, why)| why);
            tracing::info!(rank, %why, "no shared memory: bytes go by TCP");
            let shared = elsewhere.map_or_else(|| why.clone(), |(_, elsewhere)| elsewhere);
            Sharing::none(shared, one_level.unwrap_or(why))
        }
    })
}

/// What has come of trying.
struct Tried {
    /// Of each host, why its ranks share no memory, where they have tried.
    whys: Vec<Option<WhyNot>>,
    /// The memory of this host's ranks.
    shared: Option<Shared>,
    /// Where this rank listens for those across, and where everybody does; where there are several hosts.
    across: Option<(TcpListener, Vec<SocketAddr>)>,
}

fn negotiate(
    link: &ControlLink,
    rank: usize,
    peers: &[Peer],
    hosts: &[Vec<usize>],
    until: Instant,
) -> Result<Tried> {
    let several = hosts.len() > 1;
    let own = hosts.iter().position(|ranks| ranks.contains(&rank)).unwrap_or_default();
    let mine = &hosts[own];
    let (first, tries) = (mine[0], mine.len() > 1 || !several);
    let host = (rank == first && tries).then(|| Host::open(mine.len()));
    let listener = several.then(|| {
        let ip = peers[rank].address.ip();
        let doing = |error| Error::io(format!("listening on {ip} for those across"), error);
        let listener = TcpListener::bind((ip, 0)).map_err(doing)?;
        let address = listener.local_addr().map_err(doing)?;
        Ok((listener, address))
    });
    let (listener, deaf): (Option<(TcpListener, SocketAddr)>, Option<Error>) = match listener.transpose() {
        Ok(listener) => (listener, None),
        Err(error) => (None, Some(error)),
    };
    let across = listener.as_ref().map(|(_, address)| *address);
    let deaf = deaf.map(|error| error.to_string());
    let opening = match &host {
        Some(Ok(host)) => {
            let segment = Some((host.name.clone(), host.segment.len()));
            Opening { segment, across, deaf, ..Opening::default() }
        }
        Some(Err(error)) => Opening { why_not: Some(error.to_string()), across, deaf, ..Opening::default() },
        None => Opening { across, deaf, ..Opening::default() },
    };
    let openings: Vec<Opening> = gather(link, &opening, until)?;
    let opened = |ranks: &Vec<usize>| {
        if ranks.len() < 2 && several {
            return None;
        }
        let deaf =
            openings.iter().enumerate().find_map(|(one, opening)| Some((one, opening.deaf.as_deref()?)));
        let first = ranks[0];
        match (deaf, &openings[first]) {
            (Some((one, why)), _) => Some((one, format!("on rank {one}: {why}"))),
            (None, Opening { segment: Some(_), .. }) => None,
            (None, Opening { why_not, .. }) => {
                let why = why_not.as_deref().unwrap_or("it says nothing");
                Some((first, format!("on rank {first}: {why}")))
            }
        }
    };
    let mut whys: Vec<Option<WhyNot>> = hosts.iter().map(opened).collect();
    let addresses: Option<Vec<SocketAddr>> = openings.iter().map(|opening| opening.across).collect();
    let across = listener.map(|(listener, _)| listener).zip(addresses);
    let hopeless = |whys: &[Option<WhyNot>]| {
        hosts.iter().zip(whys).all(|(ranks, why)| why.is_some() || (several && ranks.len() < 2))
    };
    let none = |whys, across| Ok(Tried { whys, shared: None, across });
    if hopeless(&whys) {
        return none(whys, across);
    }

    let joins = tries && whys[own].is_none();
    let connected = match &openings[first].segment {
        Some((name, len)) if joins && rank != first => {
            connect(name, first, rank, until).map(|stream| Some((stream, *len)))
        }
        _ => Ok(None),
    };
    let why_not = connected.as_ref().err().map(Error::to_string);
    let landmark = Landmark::default();
    let step = Step { sight: Some(landmark.sight()), why_not, ..Step::default() };
    let steps: Vec<Step> = gather(link, &step, until)?;
    take_reasons(&mut whys, hosts, &steps);
    if hopeless(&whys) {
        return none(whys, across);
    }
    let joins = tries && whys[own].is_none();
    let processes: Arc<[i32]> = peers.iter().map(|peer| peer.pid.cast_signed()).collect();
    let cannot_read = mine.iter().filter(|_| joins).find_map(|&peer| {
        let Step { sight, .. } = &steps[peer];
        let read = sight.map_or(Err("it tells of no place".to_owned()), |sight| sight.read(peers[peer].pid));
        read.err().map(|why| format!("rank {rank} cannot read the memory of rank {peer}: {why}"))
    });

    let place = mine.iter().position(|&one| one == rank).unwrap_or_default();
    let shared = joins.then(|| {
        let segment = match (host, connected) {
            (Some(Ok(host)), _) => host.hand_over(mine, until).map(|()| host.segment),
            (_, Ok(Some((stream, len)))) => receive(&stream, first, len, until),
            _ => Err(Error::invalid("neither host nor guest")),
        };
        segment.and_then(|segment| {
            let ground = Arc::new(Ground::new(Arena::new(Arc::new(segment), place, mine.len())));
            let life = ground.arena().take(Sentinel::WORD)?;
            ShmSeat::new(&ground, mine.len()).map(|seat| (ground, seat, life))
        })
    });
    let step = match &shared {
        Some(Ok((_, seat, life))) => {
            Step { seat: seat.offset(), life: life.offset() as u64, cannot_read, ..Step::default() }
        }
        Some(Err(error)) => Step { why_not: Some(error.to_string()), ..Step::default() },
        None => Step::default(),
    };
    let steps: Vec<Step> = gather(link, &step, until)?;
    // Until here others have read it.
    drop(landmark);
    take_reasons(&mut whys, hosts, &steps);
    let Some(Ok((ground, seat, life))) = shared.filter(|_| whys[own].is_none()) else {
        return none(whys, across);
    };
    let processes = match mine.iter().find_map(|&one| steps[one].cannot_read.as_ref()) {
        None => Some(processes),
        Some(why) => {
            tracing::info!(rank, %why, "ranks cannot read each other's memory: large blocks are copied twice");
            None
        }
    };
    let seats = mine.iter().map(|&one| steps[one].seat).collect();
    let lives = mine.iter().filter(|&&one| one != rank).map(|&one| (one, steps[one].life)).collect();
    let sentinel = watch(link, rank, peers, life, lives);
    let shared = Shared { ground, seat, seats, ranks: mine.as_slice().into(), sentinel, processes };
    Ok(Tried { whys, shared: Some(shared), across })
}

/// Of each host that has no reason yet, the first that one of its ranks gives.
fn take_reasons(whys: &mut [Option<WhyNot>], hosts: &[Vec<usize>], steps: &[Step]) {
    for (why, ranks) in whys.iter_mut().zip(hosts).filter(|(why, _)| why.is_none()) {
        let reason = |&one: &usize| Some((one, format!("on rank {one}: {}", steps[one].why_not.as_ref()?)));
        *why = ranks.iter().find_map(reason);
    }
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

/// What a guest says of itself to whoever hands out the segment: its rank in the world.
type Greeting = [u8; 4];

/// How long a stranger may keep the others waiting.
const GREETING: Duration = Duration::from_secs(1);

/// What goes with the descriptor.
const TOKEN: &[u8] = b"ringfold";

impl Host {
    fn open(world: usize) -> Result<Host> {
        let segment = segment_for(world)?;
        let name = format!("ringfold-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let listener = UnixName::from_abstract_name(&name)
            .and_then(|address| UnixListener::bind_addr(&address))
            .map_err(|error| Error::io("listening for the ranks of this host", error))?;
        Ok(Host { segment, listener, name })
    }

    /// Gives the descriptor to every other rank of the host, all of which have connected.
    fn hand_over(&self, ranks: &[usize], until: Instant) -> Result<()> {
        let doing = |error| Error::io("handing over shared memory", error);
        self.listener.set_nonblocking(true).map_err(doing)?;
        let mut waiting = ranks[1..].to_vec();
        // A world of strangers would have to come first; each costs one look.
        while let Some(missing) = waiting.first() {
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
            let Some(place) = waiting.iter().position(|&one| one == rank) else { continue };
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
            waiting.remove(place);
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
fn connect(name: &str, first: usize, rank: usize, until: Instant) -> Result<UnixStream> {
    let doing = |error: std::io::Error| Error::io(format!("reaching rank {first} on this host"), error);
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
fn receive(stream: &UnixStream, first: usize, len: usize, until: Instant) -> Result<Segment> {
    let receiving = format!("receiving shared memory from rank {first}");
    let doing = |error: nix::errno::Errno| Error::io(&*receiving, error);
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
        _ => Err(Error::io(receiving, "it gave none")),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, ChildStdout, Command, Stdio};

    /// Set where this binary is started again as another user's process: what it is to play, and by which name they meet.
    const STRANGER: &str = "RINGFOLD_TEST_STRANGER";
    /// A user who is nobody's.
    const NOBODY: u32 = 65534;
    /// Only detects a hang.
    const HANG: Duration = Duration::from_secs(60);
    /// What a line begins with that the stranger says, among whatever the harness prints.
    const MARK: &str = "stranger: ";

    /// A process of another user, which is killed where it has not ended when this is dropped.
    struct Stranger {
        child: Child,
        says: BufReader<ChildStdout>,
    }

    impl Stranger {
        /// None where this process cannot become another user, which is said.
        fn start(role: &str, name: &str) -> Option<Stranger> {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "bootstrap::host::tests::stranger", "--nocapture"]);
            command.env(STRANGER, format!("{role} {name}")).stdin(Stdio::null()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let says = BufReader::new(child.stdout.take().unwrap());
            let mut stranger = Stranger { child, says };
            let first = stranger.line();
            if first == "here" {
                return Some(stranger);
            }
            // Past the harness, which keeps what tests print that pass.
            writeln!(std::io::stderr(), "NOT TRIED: no process of another user can be had: {first}").unwrap();
            None
        }

        fn line(&mut self) -> String {
            let mut lines = (&mut self.says).lines().map_while(std::io::Result::ok);
            let said = lines.find_map(|line| Some(line.split_once(MARK)?.1.to_owned()));
            said.expect("the stranger ended without a word")
        }
    }

    impl Drop for Stranger {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Another user's part; a test of its own name, which does nothing unless it is started as such.
    #[test]
    fn stranger() {
        let Ok(told) = std::env::var(STRANGER) else { return };
        let (role, name) = told.split_once(' ').unwrap();
        let (user, group) = (nix::unistd::Uid::from_raw(NOBODY), nix::unistd::Gid::from_raw(NOBODY));
        if let Err(error) = nix::unistd::setgid(group).and_then(|()| nix::unistd::setuid(user)) {
            return println!("{MARK}{error}");
        }
        assert_eq!(nix::unistd::geteuid(), user);
        println!("{MARK}here");
        let address = UnixName::from_abstract_name(name).unwrap();
        if role == "guest" {
            let stream = UnixStream::connect_addr(&address).unwrap();
            limit(&stream, Instant::now() + HANG).unwrap();
            (&stream).write_all(&1u32.to_le_bytes()).unwrap();
            println!("{MARK}greeted as rank 1");
            println!("{MARK}{}", what_comes(&stream));
        } else {
            let listener = UnixListener::bind_addr(&address).unwrap();
            println!("{MARK}listens");
            let (stream, _) = listener.accept().unwrap();
            limit(&stream, Instant::now() + HANG).unwrap();
            let mut heard = Vec::new();
            (&stream).read_to_end(&mut heard).unwrap();
            println!("{MARK}heard {heard:?}");
        }
    }

    /// What a host sends before it hangs up.
    fn what_comes(stream: &UnixStream) -> String {
        let mut bytes = [0; 64];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 4]);
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<UnixAddr>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            // So does a connection end whose other end has left the greeting unread.
            Err(nix::errno::Errno::ECONNRESET) => "nothing".to_owned(),
            Ok(message) if message.bytes == 0 && message.cmsgs().unwrap().count() == 0 => {
                "nothing".to_owned()
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_guest_of_another_user_gets_nothing_and_the_right_one_is_served() {
        let host = Host::open(2).unwrap();
        let Some(mut stranger) = Stranger::start("guest", &host.name) else { return };
        // It is before the right guest, and says that it is that.
        assert_eq!(stranger.line(), "greeted as rank 1");
        let until = Instant::now() + HANG;
        let guest = connect(&host.name, 0, 1, until).unwrap();
        let handed_over = host.hand_over(&[0, 1], until);
        assert_eq!(stranger.line(), "nothing");
        handed_over.unwrap();
        let segment = receive(&guest, 0, host.segment.len(), until).unwrap();
        assert_eq!(segment.len(), host.segment.len());
    }

    #[test]
    fn a_host_of_another_user_is_told_nothing() {
        let name = format!("ringfold-test-{:016x}", fastrand::u64(..));
        let Some(mut stranger) = Stranger::start("host", &name) else { return };
        assert_eq!(stranger.line(), "listens");
        let error = connect(&name, 0, 1, Instant::now() + HANG).unwrap_err().to_string();
        assert!(error.contains("belongs to user 65534"), "{error}");
        assert_eq!(stranger.line(), "heard []");
    }
}
