//! Deaths as the processes of one host hear of them through shared memory.
//!
//! Each test makes a segment and starts this binary again, once a rank; the ranks open it, watch each other, and tell
//! what they hear. Nothing here asserts how fast that is: it is printed.

mod support;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use ringfold::memory::{Arena, Segment};
use ringfold::transport::shm::{Sentinel, SentinelSetup};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;
use support::process::{Process, again, tell};

/// `scene segment rank world`
const PART: &str = "RINGFOLD_TEST_PART";

/// Only detects a hang, and is less than the time after which sentinels look at all words anyway: a wake-up that is lost fails here.
const HANG: Duration = Duration::from_secs(20);

/// Address space of a test's segment; memory is used by the page.
const LEN: usize = 1 << 30;

fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}

/// Where a rank's life word is: at the beginning of its part.
fn offset(segment: &Segment, rank: usize, world: usize) -> u64 {
    (rank * Arena::part_len(segment, world)) as u64
}

/// Begins to watch as this rank of the world.
fn watch(segment: &Arc<Segment>, rank: usize, world: usize, died: Box<dyn Fn(usize) + Send>) -> Sentinel {
    let own = Arena::new(Arc::clone(segment), rank, world).take(Sentinel::WORD).unwrap();
    assert_eq!(own.offset() as u64, offset(segment, rank, world));
    let peers = (0..world).filter(|peer| *peer != rank).map(|peer| (peer, offset(segment, peer, world)));
    Sentinel::start(SentinelSetup { own, peers: peers.collect(), died }).unwrap()
}

/// A process that plays a scene.
struct Rank(Process);

impl Rank {
    fn start(scene: &str, segment: &Segment, rank: usize, world: usize) -> Rank {
        let path = format!("/proc/{}/fd/{}", std::process::id(), segment.descriptor().as_raw_fd());
        Rank(Process::start(again("rank").env(PART, format!("{scene} {path} {rank} {world}"))))
    }

    fn line(&self) -> String {
        self.0.line_within(HANG).expect("a rank has ended")
    }

    /// Hears of the next death; how long after this moment that was.
    fn hears_of(&self, dead: usize, since: Duration) -> Duration {
        let line = self.line();
        let (peer, at) = line.strip_prefix("died ").and_then(|line| line.split_once(' ')).expect(&line);
        assert_eq!(peer.parse(), Ok(dead));
        Duration::from_nanos(at.parse().unwrap()).saturating_sub(since)
    }

    /// Kills it; the moment before.
    fn kill(&self) -> Duration {
        let at = now();
        self.0.signal(Signal::SIGKILL);
        at
    }

    /// Lets it leave, which it does without having heard of anything else.
    fn leave(mut self) {
        self.0.say("leave");
        assert_eq!(self.line(), "left");
        assert!(self.0.wait().success());
    }
}

/// A world whose ranks all watch.
fn world(size: usize) -> (Arc<Segment>, Vec<Rank>) {
    let segment = Arc::new(Segment::create(LEN).unwrap());
    let ranks: Vec<_> = (0..size).map(|rank| Rank::start("watch", &segment, rank, size)).collect();
    ranks.iter().for_each(|rank| assert_eq!(rank.line(), "watching"));
    (segment, ranks)
}

/// A rank's part; a test of its own name, which does nothing unless it is started as a rank.
#[test]
fn rank() {
    let Ok(part) = std::env::var(PART) else { return };
    let [scene, path, rank, world] = part.split(' ').collect::<Vec<_>>()[..] else { panic!("{part}") };
    if scene == "kills" {
        return kill_many();
    }
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let segment = Arc::new(Segment::open(file.into(), LEN).unwrap());
    let mut words = std::io::stdin().lines().map_while(Result::ok);
    if scene == "late" {
        tell("waiting");
        assert_eq!(words.next().as_deref(), Some("watch"));
    }
    let memory = if scene == "large" { vec![1u8; 1 << 30] } else { Vec::new() };
    let died = Box::new(|peer| tell(format!("died {peer} {}", now().as_nanos())));
    let sentinel = watch(&segment, rank.parse().unwrap(), world.parse().unwrap(), died);
    // Threads that come and go are nobody's death.
    (0..4).for_each(|_| std::thread::spawn(|| {}).join().unwrap());
    tell("watching");
    match words.next().as_deref() {
        Some("return") => std::mem::forget(sentinel),
        Some("exit") => std::process::exit(0),
        _ => {
            drop(sentinel);
            tell("left");
        }
    }
    drop(std::hint::black_box(memory));
}

#[test]
fn every_survivor_hears_of_every_death() {
    let (_segment, mut ranks) = world(4);
    for dead in [2, 0] {
        let rank = ranks.remove(dead);
        let at = rank.kill();
        // They are ranks 0, 1, 3, and then 1, 3.
        let heard: Vec<_> = ranks.iter().map(|survivor| survivor.hears_of(dead, at)).collect();
        println!("rank {dead} was killed; the others heard of it after {heard:?}");
    }
    ranks.into_iter().for_each(Rank::leave);
}

#[test]
fn two_deaths_at_once_are_two() {
    let (_segment, mut ranks) = world(6);
    let dead = ranks.split_off(3);
    for rank in &dead {
        rank.kill();
    }
    for survivor in ranks {
        let mut heard: Vec<_> = dead.iter().map(|_| survivor.line()).collect();
        heard.sort();
        for (line, dead) in heard.iter().zip(3..) {
            assert!(line.starts_with(&format!("died {dead} ")), "{line}");
        }
        survivor.leave();
    }
}

#[test]
fn who_leaves_in_good_order_has_not_died() {
    let (_segment, mut ranks) = world(4);
    ranks.remove(1).leave();
    let dead = ranks.remove(1);
    let at = dead.kill();
    // It would have been told of rank 1 first.
    for survivor in &ranks {
        survivor.hears_of(2, at);
    }
    ranks.into_iter().for_each(Rank::leave);
}

#[test]
fn who_ends_without_leaving_has_died() {
    let (_segment, mut ranks) = world(3);
    for (dead, word) in [(2, "exit"), (1, "return")] {
        ranks[dead].0.say(word);
        let rank = ranks.remove(dead);
        for survivor in &ranks {
            survivor.hears_of(dead, now());
        }
        drop(rank);
    }
    ranks.into_iter().for_each(Rank::leave);
}

#[test]
fn one_with_much_memory_is_heard_of_too() {
    let segment = Segment::create(LEN).unwrap();
    let ranks = ["watch", "watch", "large"].into_iter().enumerate();
    let mut ranks: Vec<_> = ranks.map(|(rank, scene)| Rank::start(scene, &segment, rank, 3)).collect();
    ranks.iter().for_each(|rank| assert_eq!(rank.line(), "watching"));
    let mut large = ranks.remove(2);
    let at = large.kill();
    let heard: Vec<_> = ranks.iter().map(|survivor| survivor.hears_of(2, at)).collect();
    large.0.wait();
    println!("1 GiB: the others heard of it after {heard:?}, the process was gone after {:?}", now() - at);
    ranks.into_iter().for_each(Rank::leave);
}

#[test]
fn one_may_begin_late() {
    let segment = Segment::create(LEN).unwrap();
    let ranks = ["watch", "watch", "late", "late"].into_iter().enumerate();
    let mut ranks: Vec<_> = ranks.map(|(rank, scene)| Rank::start(scene, &segment, rank, 4)).collect();
    for (rank, line) in ranks.iter().zip(["watching", "watching", "waiting", "waiting"]) {
        assert_eq!(rank.line(), line);
    }
    // Watched from before it begins, and killed then.
    ranks[2].0.say("watch");
    assert_eq!(ranks[2].line(), "watching");
    // Its input stays open until then: at the end of that it would leave.
    let dead = ranks.remove(2);
    let at = dead.kill();
    for survivor in &ranks[..2] {
        survivor.hears_of(2, at);
    }
    drop(dead);
    // Rank 3 begins after that death.
    ranks[2].0.say("watch");
    let late = &ranks[2];
    let mut lines = [late.line(), late.line()];
    lines.sort();
    assert!(lines[0].starts_with("died 2 ") && lines[1] == "watching", "{lines:?}");
    ranks.into_iter().for_each(Rank::leave);
}

#[test]
fn many_words_are_watched_where_the_system_cannot_wait_for_so_many() {
    const WORLD: usize = 200;
    let segment = Arc::new(Segment::create(LEN).unwrap());
    let (tell, told) = channel();
    let died = Box::new(move |peer| tell.send((peer, now())).unwrap());
    let sentinel = watch(&segment, 0, WORLD, died);
    let ranks: Vec<_> =
        [7, 150, 199].into_iter().map(|rank| (rank, Rank::start("watch", &segment, rank, WORLD))).collect();
    ranks.iter().for_each(|(_, rank)| assert_eq!(rank.line(), "watching"));
    for (number, rank) in ranks {
        let at = rank.kill();
        let (dead, heard) = told.recv_timeout(HANG).unwrap();
        assert_eq!(dead, number);
        println!("one of {WORLD} was killed; heard of after {:?}", heard - at);
    }
    drop(sentinel);
    assert!(told.recv().is_err(), "nobody else died");
}

/// In a process of its own, since it counts what the process has.
#[test]
fn many_deaths_leave_nothing() {
    let segment = Segment::create(LEN).unwrap();
    let mut rank = Rank::start("kills", &segment, 0, 1);
    println!("{}", rank.line());
    assert!(rank.0.wait().success());
}

/// What this process has: descriptors, threads, mappings of segments.
fn held() -> [usize; 3] {
    let count = |path| std::fs::read_dir(path).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let segments = maps.lines().filter(|line| line.contains("memfd:ringfold")).count();
    [count("/proc/self/fd"), count("/proc/self/task"), segments]
}

fn kill_many() {
    const DEATHS: usize = 200;
    let mut before = None;
    let mut latencies = Vec::new();
    for _ in 0..DEATHS {
        let segment = Arc::new(Segment::create(LEN).unwrap());
        let (tell, told) = channel();
        let died = Box::new(move |peer| tell.send((peer, now())).unwrap());
        let sentinel = watch(&segment, 0, 2, died);
        let mut rank = Rank::start("watch", &segment, 1, 2);
        assert_eq!(rank.line(), "watching");
        let at = rank.kill();
        let (dead, heard) = told.recv_timeout(HANG).unwrap();
        assert_eq!(dead, 1);
        latencies.push(heard - at);
        drop(sentinel);
        assert!(told.recv().is_err(), "one death is told once");
        rank.0.wait();
        assert_eq!(rank.0.line_within(HANG), None);
        drop((rank, segment));
        before.get_or_insert_with(settled);
    }
    assert_eq!(before, Some(settled()));
    latencies.sort();
    tell(format!(
        "{DEATHS} deaths, heard of after {:?} (median), {:?} (99 of 100), {:?} (longest)",
        latencies[DEATHS / 2],
        latencies[DEATHS * 99 / 100],
        latencies[DEATHS - 1]
    ));
}

/// The same when threads that are about to end have ended.
fn settled() -> [usize; 3] {
    let mut last = held();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(2));
        last = last.into_iter().zip(held()).map(|(a, b)| a.min(b)).collect::<Vec<_>>().try_into().unwrap();
    }
    last
}
