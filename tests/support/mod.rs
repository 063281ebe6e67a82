//! What several tests need: ranks as threads, groups of them, and clients that do not play by the rules.
#![allow(dead_code)]

mod address;
pub(crate) mod member;
pub(crate) mod process;

pub(crate) use address::unused_address;

use ringfold::bootstrap::{Joined, host_for_launch, join};
use ringfold::config::{BackendChoice, Config};
use ringfold::error::Cause;
use ringfold::observe::Poison;
use ringfold::transport::control::frame::{self, Frame};
use ringfold::transport::control::{Hello, Server};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; nothing waits that long when all is well.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A configuration with deadlines for tests.
pub(crate) fn config(rank: usize, world: usize) -> Config {
    Config::default()
        .with_rank(rank)
        .with_world_size(world)
        .with_world_id(7)
        .with_generation(3)
        .with_init_deadline(LONG)
        .with_heartbeat_deadline(Duration::from_secs(2))
}

/// Runs a function on a thread per rank, and gives the results in rank order.
pub(crate) fn on_ranks<T: Send>(world: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..world).map(|rank| scope.spawn(move || body(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A store as a launcher hosts it, for the groups of [`config`].
pub(crate) fn launcher(world: usize, heartbeat: Duration) -> Server {
    host_for_launch(world, 7, 3, heartbeat).unwrap()
}

/// Joins some of the ranks of a launcher's group.
pub(crate) fn join_ranks(server: &Server, world: usize, ranks: &[usize], heartbeat: Duration) -> Vec<Joined> {
    let store = server.address().to_string();
    on_ranks(ranks.len(), |index| {
        let config = config(ranks[index], world).with_store(&*store).with_launcher_hosts_store(true);
        join(&config.with_heartbeat_deadline(heartbeat)).unwrap()
    })
}

/// A whole group under a launcher.
pub(crate) fn group(world: usize, heartbeat: Duration) -> (Server, Vec<Joined>) {
    let server = launcher(world, heartbeat);
    let ranks: Vec<usize> = (0..world).collect();
    let joined = join_ranks(&server, world, &ranks, heartbeat);
    (server, joined)
}

/// Waits for the poison, and says how long that took.
pub(crate) fn poisoned(poison: &Poison) -> (Cause, Duration) {
    let start = Instant::now();
    loop {
        if let Some(cause) = poison.cause() {
            return (cause.clone(), start.elapsed());
        }
        assert!(start.elapsed() < LONG, "no verdict");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The hello of a rank of [`config`]'s group.
pub(crate) fn hello(rank: usize, world: usize) -> Hello {
    Hello::new(rank, world, 7, 3)
}

/// A client by hand.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    pub(crate) bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Raw {
        Raw::new(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn new(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(LONG)).unwrap();
        Raw { stream, bytes: Vec::new() }
    }

    /// Connects and says this hello.
    pub(crate) fn hello(address: SocketAddr, hello: &Hello) -> Raw {
        let mut raw = Raw::connect(address);
        raw.write(&hello.encode());
        raw
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn say(&mut self, frame: &Frame) {
        self.write(&frame::encode(frame));
    }

    /// The next frame that is no heartbeat; `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = frame::decode(&self.bytes).unwrap() {
                self.bytes.drain(..length);
                if frame != Frame::Heartbeat {
                    return Some(frame);
                }
                continue;
            }
            let mut more = [0u8; 4096];
            match self.stream.read(&mut more) {
                Ok(0) => return None,
                Ok(count) => self.bytes.extend_from_slice(&more[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Says hello and is welcome.
    pub(crate) fn rank(address: SocketAddr, rank: usize, world: usize) -> Raw {
        let mut raw = Raw::hello(address, &hello(rank, world));
        assert!(matches!(raw.next(), Some(Frame::Welcome { .. })));
        raw
    }
}

/// Communicators as processes would have them, over shared memory.
pub(crate) fn communicators(world: usize) -> Vec<ringfold::Communicator> {
    communicators_over(world, BackendChoice::Shm)
}

/// The same over TCP.
pub(crate) fn over_sockets(world: usize) -> Vec<ringfold::Communicator> {
    communicators_over(world, BackendChoice::Tcp)
}

fn communicators_over(world: usize, backend: BackendChoice) -> Vec<ringfold::Communicator> {
    let store = unused_address();
    on_ranks(world, |rank| {
        let config = config(rank, world).with_store(&*store).with_backend(backend);
        let comm = ringfold::Communicator::connect(&config).unwrap();
        assert_eq!(comm.backend(), backend.as_str());
        comm
    })
}

/// Runs this binary's tests again with a variable set, but for the one that asks for it.
pub(crate) fn everything_again(name: &str, value: &str, but: &str) {
    if std::env::var_os(name).is_some() {
        return;
    }
    let me = std::env::current_exe().unwrap();
    let tests = std::process::Command::new(me).env(name, value).args(["--skip", but]).output().unwrap();
    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stdout));
    assert!(String::from_utf8_lossy(&tests.stdout).contains(" passed"));
}
