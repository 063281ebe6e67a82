//! Groups of processes that play a scene, with a proxy before each rank where there is one to be.

use crate::proxy::{self, Weather};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringfold::bootstrap::{CallbackExchange, host_for_launch};
use ringfold::config::environment;
use ringfold::transport::control::Server;
use ringfold::{Communicator, Config, Error};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const SCENE: &str = "RINGFOLD_TEST_SCENE";
const BY_CALLBACK: &str = "RINGFOLD_TEST_BY_CALLBACK";

/// Only detects a hang.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// Nothing here depends on how soon silence is noticed.
pub(crate) const PATIENT: Duration = Duration::from_secs(20);

/// What a rank tells of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) kind: String,
    pub(crate) culprit: Option<usize>,
    pub(crate) text: String,
}

pub(crate) struct Group {
    children: Vec<Child>,
    lines: Vec<Receiver<String>>,
    _store: Option<Server>,
}

impl Group {
    /// Ranks that find each other by a store in this process, as under a launcher, whose address is told.
    pub(crate) fn begin(world: usize) -> (Group, SocketAddr) {
        let store = host_for_launch(world, 99, 0, PATIENT).unwrap();
        let address = store.address();
        (Group { children: Vec::new(), lines: Vec::new(), _store: Some(store) }, address)
    }

    /// Starts a rank of [`begin`](Group::begin)'s group.
    pub(crate) fn add(&mut self, scene: &str, rank: usize, world: usize, store: SocketAddr) {
        let mut command = rank_command(scene, rank, world);
        command.env(environment::STORE, store.to_string()).env(environment::STORE_HOST, "launcher");
        self.spawn(command);
    }

    /// Ranks whose store is in rank 0's process, of which not all need be there.
    pub(crate) fn alone(
        scene: &str,
        world: usize,
        ranks: impl Iterator<Item = usize>,
        init: Duration,
    ) -> Group {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut group = Group { children: Vec::new(), lines: Vec::new(), _store: None };
        for rank in ranks {
            let mut command = rank_command(scene, rank, world);
            command.env(environment::STORE, address.to_string());
            command.env(environment::INIT_DEADLINE, format!("{}ms", init.as_millis()));
            group.spawn(command);
        }
        group
    }

    /// Ranks with a proxy before each; they find each other by a callback that tells everybody the proxies' addresses.
    pub(crate) fn behind_proxies(scene: &str, weather: &[Weather]) -> Group {
        let world = weather.len();
        let mut group = Group { children: Vec::new(), lines: Vec::new(), _store: None };
        for rank in 0..world {
            let mut command = rank_command(scene, rank, world);
            // What is before a rank is before its sockets.
            command.env(BY_CALLBACK, "1").env(environment::BACKEND, "tcp");
            group.spawn(command);
        }
        let records: Vec<serde_json::Value> = (0..world)
            .map(|rank| serde_json::from_str(group.line(rank).strip_prefix("record ").unwrap()).unwrap())
            .collect();
        let disguised: Vec<serde_json::Value> = (records.iter().zip(weather))
            .map(|(record, weather)| {
                let mut record = record.clone();
                let address: SocketAddr = record["address"].as_str().unwrap().parse().unwrap();
                record["address"] = proxy::before(address, *weather).to_string().into();
                record
            })
            .collect();
        for rank in 0..world {
            let mut all = disguised.clone();
            all[rank] = records[rank].clone();
            group.say(rank, &serde_json::to_string(&all).unwrap());
        }
        group
    }

    fn spawn(&mut self, mut command: Command) {
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (say, hear) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some((_, told)) = line.split_once("told: ") {
                    let _ = say.send(told.to_owned());
                }
            }
        });
        self.children.push(child);
        self.lines.push(hear);
    }

    pub(crate) fn line(&self, rank: usize) -> String {
        self.lines[rank].recv_timeout(HANG).unwrap_or_else(|_| panic!("rank {rank} says nothing"))
    }

    /// Says a line to a rank's scene.
    pub(crate) fn say(&mut self, rank: usize, line: &str) {
        let input = self.children[rank].stdin.as_mut().unwrap();
        writeln!(input, "{line}").and_then(|()| input.flush()).unwrap();
    }

    pub(crate) fn pid(&self, rank: usize) -> i32 {
        self.children[rank].id() as i32
    }

    pub(crate) fn signal(&self, rank: usize, signal: Signal) {
        kill(Pid::from_raw(self.pid(rank)), signal).unwrap();
    }

    /// What a rank's last call returned.
    pub(crate) fn end(&self, rank: usize) -> Told {
        let line = self.line(rank);
        let mut parts = line.splitn(3, '|').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let kind = next();
        Told { kind, culprit: next().parse().ok(), text: next() }
    }

    /// All ranks end well.
    pub(crate) fn all_fine(&self) {
        for rank in 0..self.children.len() {
            let told = self.end(rank);
            assert_eq!(told.kind, "fine", "rank {rank}: {}", told.text);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn rank_command(scene: &str, rank: usize, world: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "rank", "--nocapture"])
        .env(SCENE, scene)
        .env(environment::RANK, rank.to_string())
        .env(environment::WORLD_SIZE, world.to_string())
        .env(environment::WORLD_ID, "99")
        .env(environment::HEARTBEAT, format!("{}ms", PATIENT.as_millis()))
        .env(environment::INIT_DEADLINE, "30s")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

pub(crate) fn tell(text: &str) {
    println!("told: {text}");
}

pub(crate) fn tell_end(result: Result<(), Error>) {
    match result {
        Ok(()) => tell("fine||"),
        Err(error) => {
            let culprit = error.culprit().map_or(String::new(), |culprit| culprit.to_string());
            tell(&format!("{}|{culprit}|{error}", error.kind()));
        }
    }
}

pub(crate) fn hear() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// A rank's part, where this process is started as one: the scene, and its communicator unless it could not be had.
pub(crate) fn as_rank() -> Option<(String, Communicator)> {
    let scene = std::env::var(SCENE).ok()?;
    crate::prepare(&scene);
    let config = Config::from_env().unwrap();
    let comm = if std::env::var_os(BY_CALLBACK).is_some() {
        let (rank, world) = config.place().unwrap();
        let gather = |mine: &[u8]| {
            tell(&format!("record {}", std::str::from_utf8(mine)?));
            let all: Vec<serde_json::Value> = serde_json::from_str(&hear())?;
            let mut all: Vec<Vec<u8>> = all.iter().map(serde_json::to_vec).collect::<Result<_, _>>()?;
            // A record that was read and written again may have its fields in another order.
            all[rank] = mine.to_vec();
            Ok(all)
        };
        Communicator::with_exchange(&mut CallbackExchange::new(rank, world, gather), &config)
    } else {
        Communicator::connect(&config)
    };
    match comm {
        Ok(comm) => Some((scene, comm)),
        Err(error) => {
            tell_end(Err(error));
            None
        }
    }
}
