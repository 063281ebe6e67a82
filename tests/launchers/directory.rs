//! A shared directory as the store: real processes, and everything that may lie in it already.

use crate::{PERF, Rank, Variables, all_is_well, eventually, start_all};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// A directory of a test's own, gone when it is dropped.
struct Shared(PathBuf);

impl Shared {
    fn new(test: &str) -> Shared {
        let path = std::env::temp_dir().join(format!("ringfold {test} {}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Shared(path)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Where rank 0 of the first generation leaves its note.
    fn note(&self) -> PathBuf {
        self.0.join("ringfold-0000000000000000-0.store")
    }

    fn rank(&self, rank: usize, world: usize) -> Variables {
        variables(&self.0, rank, world)
    }

    /// As long as the group cannot form.
    fn impatient(&self, rank: usize, world: usize) -> Rank {
        let mut variables = self.rank(rank, world);
        variables.push(("RINGFOLD_INIT_DEADLINE", "3s".into()));
        Rank::start(&PERF, &variables)
    }

    /// A rank 0 that has left its note and waits for others.
    fn waiting_rank_0(&self, world: usize) -> Rank {
        let rank = Rank::start(&PERF, &self.rank(0, world));
        let pid = format!("\"pid\":{}", rank.pid());
        eventually("the note is there", || {
            fs::read_to_string(self.note()).is_ok_and(|note| note.contains(&pid))
        });
        rank
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn variables(directory: &Path, rank: usize, world: usize) -> Variables {
    vec![
        ("RINGFOLD_RANK", rank.to_string()),
        ("RINGFOLD_WORLD_SIZE", world.to_string()),
        ("RINGFOLD_STORE", format!("file://{}", directory.display())),
    ]
}

#[test]
fn a_group_meets_and_leaves_nothing() {
    let shared = Shared::new("meets");
    for _ in 0..2 {
        all_is_well(start_all(3, |rank| shared.rank(rank, 3)));
        assert!(shared.names().is_empty(), "{:?}", shared.names());
    }
}

#[test]
fn launches_and_attempts_share_a_directory() {
    let shared = Shared::new("shares");
    let groups = [("7", "0"), ("8", "0"), ("7", "1")].map(|(id, generation)| {
        start_all(2, |rank| {
            let mut variables = shared.rank(rank, 2);
            variables.push(("RINGFOLD_WORLD_ID", id.into()));
            variables.push(("RINGFOLD_GENERATION", generation.into()));
            variables
        })
    });
    groups.into_iter().for_each(all_is_well);
    assert!(shared.names().is_empty(), "{:?}", shared.names());
}

#[test]
fn a_missing_rank_is_named() {
    let shared = Shared::new("missing");
    let ranks = [0, 2].map(|rank| shared.impatient(rank, 3));
    for rank in ranks {
        let error = rank.error();
        assert!(error.contains("rank 1 never connected"), "{error}");
    }
    assert!(shared.names().is_empty(), "{:?}", shared.names());
}

#[test]
fn a_missing_rank_0_is_named() {
    let shared = Shared::new("no rank 0");
    let error = shared.impatient(1, 2).error();
    assert!(error.contains("rank 0 has left no note in") && error.contains("-0.store"), "{error}");
}

#[test]
fn the_second_with_one_rank_is_refused_and_the_group_forms() {
    let shared = Shared::new("twice");
    let zero = shared.waiting_rank_0(3);
    let error = Rank::start(&PERF, &shared.rank(0, 3)).error();
    assert!(error.contains(&format!("rank 0 of this launch is pid {}", zero.pid())), "{error}");
    // One of the two is refused, whichever comes second.
    let twins = [1, 1].map(|rank| Rank::start(&PERF, &shared.rank(rank, 3)));
    let mut twins = twins.into_iter().collect::<Vec<_>>();
    let mut refused = None;
    eventually("one is refused", || {
        refused = twins
            .iter()
            .position(|twin| Path::new(&format!("/proc/{}/stat", twin.pid())).exists() && is_over(twin));
        refused.is_some()
    });
    let error = twins.remove(refused.unwrap()).error();
    assert!(error.contains("connected already as rank 1"), "{error}");
    let two = Rank::start(&PERF, &shared.rank(2, 3));
    all_is_well(vec![zero, twins.remove(0), two]);
}

fn is_over(rank: &Rank) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", rank.pid())).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('Z')
}

#[test]
fn garbage_is_no_note() {
    let shared = Shared::new("garbage");
    fs::write(shared.note(), b"\xff{ \"version\": 1").unwrap();
    fs::write(shared.0.join("a file of somebody's"), "").unwrap();
    let early = shared.impatient(1, 2).error();
    assert!(early.contains("is no note of this version's rank 0"), "{early}");
    all_is_well(start_all(2, |rank| shared.rank(rank, 2)));
    assert_eq!(shared.names(), ["a file of somebody's"]);
}

#[test]
fn a_link_in_place_of_the_note_is_not_followed() {
    let shared = Shared::new("link");
    let elsewhere = Shared::new("link's end");
    let zero = elsewhere.waiting_rank_0(2);
    std::os::unix::fs::symlink(elsewhere.note(), shared.note()).unwrap();
    let error = shared.impatient(1, 2).error();
    assert!(error.contains("cannot read the note in the directory"), "{error}");
    all_is_well(vec![zero, Rank::start(&PERF, &elsewhere.rank(1, 2))]);
}

#[test]
fn a_note_that_was_left_behind_is_seen_through() {
    let shared = Shared::new("stale");
    let dead = shared.waiting_rank_0(2);
    let pid = dead.pid();
    eventually("what it wrote its note in is gone", || shared.names().len() == 1);
    dead.kill();
    assert_eq!(shared.names().len(), 1, "it could not take its note away");
    let error = shared.impatient(1, 2).error();
    assert!(
        error.contains("none of this group answers there") && error.contains(&format!("pid {pid}")),
        "{error}"
    );
    // The others come first, and wait for rank 0 to replace it.
    let one = Rank::start(&PERF, &shared.rank(1, 2));
    std::thread::sleep(std::time::Duration::from_millis(300));
    all_is_well(vec![Rank::start(&PERF, &shared.rank(0, 2)), one]);
    assert!(shared.names().is_empty(), "{:?}", shared.names());
}

#[test]
fn somebody_else_at_the_address_of_an_old_note_disturbs_nobody() {
    let shared = Shared::new("reused");
    shared.waiting_rank_0(2).kill();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let note = fs::read_to_string(shared.note()).unwrap();
    let (before, after) = note.split_once("\"address\":\"127.0.0.1:").unwrap();
    let port = silent.local_addr().unwrap().port();
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    fs::write(shared.note(), format!("{before}\"address\":\"127.0.0.1:{port}{after}")).unwrap();
    all_is_well(start_all(2, |rank| shared.rank(rank, 2)));
}

#[test]
fn a_note_from_another_host_that_cannot_be_followed_is_an_error() {
    let shared = Shared::new("loopback");
    shared.waiting_rank_0(2).kill();
    let note = fs::read_to_string(shared.note()).unwrap();
    fs::write(shared.note(), note.replace("\"host_id\":\"", "\"host_id\":\"elsewhere ")).unwrap();
    let error = Rank::start(&PERF, &shared.rank(1, 2)).error();
    assert!(error.contains("only its own host reaches") && error.contains("RINGFOLD_INTERFACE"), "{error}");
}

#[test]
fn what_is_no_directory_to_write_to_is_refused() {
    let shared = Shared::new("unusable");
    let file = shared.0.join("file");
    fs::write(&file, "").unwrap();
    for (path, ranks, says) in [
        (shared.0.join("missing"), &[0, 1][..], "No such file or directory"),
        (file, &[0, 1], "Not a directory"),
        // Nobody can make a file there, not even root.
        (PathBuf::from("/proc"), &[0], "rank 0 cannot leave a note in the directory /proc"),
    ] {
        for &rank in ranks {
            let error = Rank::start(&PERF, &variables(&path, rank, 2)).error();
            assert!(error.contains(says) && error.contains(path.to_str().unwrap()), "{error}");
            assert!(error.contains("give RINGFOLD_STORE=file:///path a directory"), "{error}");
        }
    }
}
