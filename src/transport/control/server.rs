//! The store's handle: starting it, asking it, ending it.

use super::ear::Ear;
use super::notice::Bell;
use super::server_loop::Engine;
use crate::error::{Cause, Error, Result};
use crate::observe;
use crate::transport::prompt;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a [`Server`] has to know.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The number of ranks, at least 1.
    pub world: usize,
    /// The launch; a rank of another one is refused.
    pub world_id: u64,
    /// The generation of the group; a rank of another one is refused.
    pub generation: u32,
    /// A rank that sends nothing for this long is unresponsive.
    pub heartbeat_deadline: Duration,
    /// The rank in whose process the store lives; `None` for a launcher, which is no rank.
    pub host_rank: Option<usize>,
    /// Whom to tell what ranks tell of their work; `None` where nobody wants to know.
    pub hear: Option<Ear>,
}

/// What the handle and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) bell: Bell,
    pub(super) stop: AtomicBool,
    pub(super) detached: AtomicBool,
    pub(super) reports: Mutex<Vec<Cause>>,
    /// The ranks whose processes have ended well, as the host has seen.
    pub(super) ended: Mutex<Vec<usize>>,
    pub(super) verdict: OnceLock<Cause>,
}

/// The store of a group: one thread that forms it and watches over it. Send and Sync.
///
/// The thread ends when every rank has left or is gone. Dropping the handle ends it at once where a launcher hosts
/// it; where a rank does, it lives on until the others have left too, since they still need it.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
    hosted_by_rank: bool,
    pid: u32,
}

impl Server {
    /// Starts the thread on a listener that is bound already.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) for a world of 0 ranks or a heartbeat deadline below
    /// 10 ms; [`Io`](crate::ErrorKind::Io) where the system has no descriptor or thread to give.
    pub fn start(listener: TcpListener, config: ServerConfig) -> Result<Server> {
        if config.world == 0 || u32::try_from(config.world).is_err() {
            return Err(Error::invalid(format!("a store for {} ranks", config.world)));
        }
        if config.host_rank.is_some_and(|host| host >= config.world) {
            return Err(Error::invalid("the store's host is no rank of the group"));
        }
        check_heartbeat(config.heartbeat_deadline)?;
        let address = listener.local_addr().map_err(|e| Error::io("asking the store's address", e))?;
        listener.set_nonblocking(true).map_err(|e| Error::io("preparing the store's listener", e))?;
        let shared = Arc::new(Shared {
            bell: Bell::new()?,
            stop: AtomicBool::new(false),
            detached: AtomicBool::new(false),
            reports: Mutex::default(),
            ended: Mutex::default(),
            verdict: OnceLock::new(),
        });
        let hosted_by_rank = config.host_rank.is_some();
        let engine = Engine::new(listener, config, Arc::clone(&shared));
        let run = move || {
            prompt::ask();
            engine.run();
        };
        let thread = observe::thread::spawn("ringfold-store", run)
            .map_err(|e| Error::io("starting the store's thread", e))?;
        Ok(Server { shared, address, thread: Some(thread), hosted_by_rank, pid: std::process::id() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells of a failure that the host has noticed, such as a child that was killed by a signal. Does not block;
    /// without effect once the verdict is given.
    pub fn report(&self, cause: Cause) {
        let mut reports = self.shared.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() < 64 {
            reports.push(cause);
        }
        drop(reports);
        self.shared.bell.ring();
    }

    /// Tells that the process of a rank has ended, and well, as the host has seen: where it never joined, and others wait for it to, they
    /// are told. Does not block.
    pub fn ended(&self, rank: usize) {
        self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner).push(rank);
        self.shared.bell.ring();
    }

    /// The verdict, once it has been given.
    pub fn verdict(&self) -> Option<&Cause> {
        self.shared.verdict.get()
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return; // a fork's copy: the thread is the parent's
        }
        let flag = if self.hosted_by_rank { &self.shared.detached } else { &self.shared.stop };
        flag.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take()
            && !self.hosted_by_rank
        {
            // The thread never blocks but in its poll, which the bell has ended.
            let _ = thread.join();
        }
    }
}

pub(super) fn check_heartbeat(deadline: Duration) -> Result<()> {
    if deadline < Duration::from_millis(10) || deadline > Duration::from_secs(86_400) {
        return Err(Error::invalid(format!("a heartbeat deadline of {deadline:?}"))
            .remedy("choose one between 10 ms and a day"));
    }
    Ok(())
}
