//! Traces of real processes: written, aligned, merged, and there after a failure.

use nix::sys::signal::{Signal, raise};
use ringfold::config::environment;
use ringfold::observe::trace::{Trace, in_directory, merge, read};
use ringfold::{Communicator, ReduceOp};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");
const SCENE: &str = "RINGFOLD_TEST_TRACE_SCENE";

/// A directory of the test, gone at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        Directory(std::env::temp_dir().join(format!("ringfold-traces-{name}-{}", std::process::id())))
    }

    fn traces(&self) -> Vec<Trace> {
        in_directory(&self.0).unwrap().iter().map(|path| read(path).unwrap()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// `ringfold run --trace` with ranks that play a scene.
fn play(scene: &str, world: usize, directory: &Directory) -> Output {
    play_over("auto", scene, world, directory)
}

fn play_over(backend: &str, scene: &str, world: usize, directory: &Directory) -> Output {
    let me = std::env::current_exe().unwrap();
    output(
        Command::new(RINGFOLD)
            .args(["run", "-n", &world.to_string(), "--trace"])
            .arg(&directory.0)
            .arg("--")
            .arg(me)
            .args(["--exact", "rank", "--nocapture"])
            .env(SCENE, scene)
            .env(environment::BACKEND, backend),
    )
}

/// What the ranks do.
pub(crate) fn rank() {
    let Ok(scene) = std::env::var(SCENE) else { return };
    let comm = Communicator::from_env().unwrap();
    let mut data = vec![1.0f32; 5_000];
    match scene.as_str() {
        "steps" => {
            for step in 0..50 {
                comm.all_reduce(&mut data, ReduceOp::Mean).unwrap();
                if step % 10 == 0 {
                    comm.barrier().unwrap();
                }
            }
            let half = comm.split(Some(comm.rank() as u32 % 2), 0).unwrap().unwrap();
            half.broadcast(&mut data, 0).unwrap();
            comm.start_all_reduce(data, ReduceOp::Sum).unwrap().wait().unwrap();
        }
        "late" => {
            for _ in 0..8 {
                if comm.rank() == 1 {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                comm.all_reduce(&mut data, ReduceOp::Sum).unwrap();
            }
        }
        "killed" => {
            comm.barrier().unwrap();
            if comm.rank() == 2 {
                // The others are in their calls by then: one that is told before it calls has no operation to write of.
                std::thread::sleep(std::time::Duration::from_millis(500));
                raise(Signal::SIGKILL).unwrap();
            }
            comm.all_reduce(&mut data, ReduceOp::Sum).unwrap_err();
            // It must have been written by now: this leaves without dropping anything.
            std::process::exit(3);
        }
        other => panic!("{other}"),
    }
}

/// Begin and end of each collective of the world, in microseconds, by name and sequence number, then by rank.
type Slices = BTreeMap<(String, u64), BTreeMap<u64, (f64, f64)>>;

fn slices(events: &[Map<String, Value>]) -> Slices {
    let mut slices = Slices::new();
    for event in events.iter().filter(|event| event.get("cat").is_some_and(|cat| cat == "collective")) {
        if event["tid"] == 0 {
            let begun = event["ts"].as_f64().unwrap();
            let key =
                (event["name"].as_str().unwrap().to_owned(), event["args"]["sequence"].as_u64().unwrap());
            let slice = (begun, begun + event["dur"].as_f64().unwrap());
            let known = slices.entry(key).or_default().insert(event["pid"].as_u64().unwrap(), slice);
            assert_eq!(known, None, "each once");
        }
    }
    slices
}

/// Nobody ends an all_reduce or a barrier before all have begun it, but for so many microseconds.
fn assert_aligned(slices: &Slices, world: usize, error: f64) {
    let mut seen = 0;
    for ((name, sequence), ranks) in slices {
        if ["all_reduce", "barrier"].contains(&name.as_str()) {
            assert_eq!(ranks.len(), world, "{name} #{sequence}");
            let last = ranks.values().map(|slice| slice.0).fold(f64::MIN, f64::max);
            let first = ranks.values().map(|slice| slice.1).fold(f64::MAX, f64::min);
            assert!(first >= last - error, "{name} #{sequence}: ended {first}, begun {last}, error {error}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen} collectives");
}

fn merged_by_command(directory: &Directory) -> (String, Map<String, Value>) {
    let merged = directory.0.join("merged.json");
    let said =
        output(Command::new(RINGFOLD).args(["trace", "merge"]).arg(&directory.0).arg("-o").arg(&merged));
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8(said.stdout).unwrap();
    (text, serde_json::from_slice(&std::fs::read(&merged).unwrap()).unwrap())
}

#[test]
fn four_processes_are_one_trace_on_one_clock() {
    four_processes("shm");
}

#[test]
fn four_processes_are_one_trace_on_one_clock_over_tcp() {
    four_processes("tcp");
}

fn four_processes(backend: &str) {
    let directory = Directory::new(&format!("four_{backend}"));
    let said = play_over(backend, "steps", 4, &directory);
    assert!(said.status.success(), "{said:?}");
    let traces = directory.traces();
    let ranks: Vec<_> = traces.iter().map(|trace| trace.header.rank).collect();
    assert_eq!(ranks, [0, 1, 2, 3]);
    for trace in &traces {
        let own = slices(&trace.events);
        assert_eq!(own.keys().filter(|(name, _)| name == "all_reduce").count(), 51);
        let event = trace.events.iter().find(|event| event["name"] == "all_reduce").unwrap();
        let args = &event["args"];
        assert_eq!(
            (&args["bytes"], &args["dtype"], &args["op"]),
            (&20_000.into(), &"f32".into(), &"mean".into())
        );
        // In shared memory nobody sends, and everybody takes.
        let sends = backend == "tcp";
        assert!(args["received"].as_u64().unwrap() >= 10_000, "{args}");
        assert!(args["sent"].as_u64().unwrap() >= 10_000 || !sends, "{args}");
        let names: Vec<_> = trace.events.iter().filter(|event| event["ph"] == "M").collect();
        assert!(
            names[0]["args"]["name"]
                .as_str()
                .unwrap()
                .starts_with(&format!("rank {} on ", trace.header.rank))
        );
        // The group within has a track of its own.
        assert!(trace.events.iter().any(|event| event["name"] == "broadcast" && event["tid"] != 0));
        assert_eq!(trace.events.iter().any(|event| event["name"] == "first byte sent"), sends);
    }

    let (table, whole) = merged_by_command(&directory);
    let events: Vec<Map<String, Value>> = serde_json::from_value(whole["traceEvents"].clone()).unwrap();
    assert_eq!(events.len(), traces.iter().map(|trace| trace.events.len()).sum::<usize>());
    assert_aligned(&slices(&events), 4, 0.0);
    for line in ["all_reduce", "barrier", "broadcast"] {
        assert!(table.contains(line), "{table}");
    }

    // The same as if two ranks had run on another host, whose clock is 3 s ahead.
    let ahead = 3e9;
    let mut elsewhere = traces;
    for trace in &mut elsewhere[2..] {
        trace.header.clock = "another host".into();
        trace.shift(ahead);
    }
    let merged = merge(elsewhere).unwrap();
    for (rank, alignment) in merged.alignment.iter().enumerate() {
        let error = alignment.error.unwrap();
        let truth = if rank < 2 { 0.0 } else { -ahead };
        assert!((alignment.offset - truth).abs() <= error, "{alignment:?}");
    }
    let error = merged.alignment[2].error.unwrap() / 1e3;
    assert!(error > 0.0);
    assert_aligned(&slices(&merged.events), 4, error);
}

#[test]
fn whoever_comes_late_is_named() {
    let directory = Directory::new("late");
    assert!(play("late", 3, &directory).status.success());
    let (table, _) = merged_by_command(&directory);
    let line = table.lines().find(|line| line.contains("all_reduce")).unwrap();
    assert!(line.contains("rank 1: ") && line.contains("ms"), "{table}");
}

#[test]
fn the_trace_survives_the_death_of_a_peer() {
    let directory = Directory::new("killed");
    let said = play("killed", 3, &directory);
    assert!(!said.status.success());
    let traces = directory.traces();
    for trace in &traces {
        let last = trace.events.last().unwrap();
        if trace.header.rank == 2 {
            assert_eq!(slices(&trace.events).len(), 0, "it had no time to write");
            continue;
        }
        assert_eq!((&last["name"], &last["args"]["culprit"]), (&"failed: peer dead".into(), &2.into()));
        let failed = trace.events.iter().find(|event| event["name"] == "all_reduce").unwrap();
        assert_eq!(failed["args"]["error"], "peer dead");
    }
    let (table, _) = merged_by_command(&directory);
    assert!(table.contains("all_reduce"), "{table}");
    // Without the file of the dead, too.
    std::fs::remove_file(in_directory(&directory.0).unwrap().last().unwrap()).unwrap();
    let (table, _) = merged_by_command(&directory);
    assert!(table.contains("no trace of rank 2 (of 3)"), "{table}");
}

#[test]
fn perf_writes_traces_too() {
    let directory = Directory::new("perf");
    let arguments = ["perf", "all_reduce", "-n", "2", "-b", "8", "-e", "8", "--iters", "5", "--trace"];
    let said = output(Command::new(RINGFOLD).args(arguments).arg(&directory.0));
    assert!(said.status.success(), "{said:?}");
    assert_eq!(directory.traces().len(), 2);
}

#[test]
fn what_cannot_be_merged_is_refused_by_name() {
    let directory = Directory::new("refused");
    std::fs::create_dir_all(&directory.0).unwrap();
    let bad = directory.0.join("bad.json");
    std::fs::write(&bad, "{\"traceEvents\": [").unwrap();
    let none = directory.0.join("none.json");
    let refused = |file: &Path, says: &str| {
        let into = directory.0.join("merged.json");
        let said = output(Command::new(RINGFOLD).args(["trace", "merge"]).arg(file).arg("-o").arg(&into));
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.code() == Some(1) && text.contains(says), "{text}");
        assert!(text.contains(file.to_str().unwrap()), "{text}");
        assert!(!into.exists());
    };
    refused(&bad, "no trace of a rank");
    refused(&none, "reading");
    refused(&directory.0, "has no traces");
}

#[test]
fn the_configuration_is_told_with_who_said_it() {
    let directory = Directory::new("config");
    std::fs::create_dir_all(&directory.0).unwrap();
    let file = directory.0.join("it.toml");
    std::fs::write(&file, "deadline = \"90s\"\nalgorithm = \"ring\"\n").unwrap();
    let mut command = Command::new(RINGFOLD);
    command.arg("config").env("RINGFOLD_CONFIG", &file).env("RINGFOLD_ALGORITHM", "direct");
    let said = output(&mut command);
    let text = String::from_utf8(said.stdout).unwrap();
    let row =
        |key: &str| text.lines().find(|line| line.trim().starts_with(key)).unwrap_or_default().to_owned();
    assert!(row("deadline").contains("90s") && row("deadline").contains("the file"), "{text}");
    assert!(row("algorithm").contains("direct") && row("algorithm").contains("the environment"), "{text}");
    assert!(row("check").contains("nobody"), "{text}");
    std::fs::write(&file, "dead_line = 1\n").unwrap();
    let said = output(&mut command);
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(
        !said.status.success() && text.contains("\"dead_line\"") && text.contains("init_deadline"),
        "{text}"
    );
}

#[test]
fn the_command_logs_what_is_asked_for() {
    let arguments = ["perf", "barrier", "-n", "2", "--iters", "1", "--seconds", "0", "--backend", "tcp"];
    let mut quiet = Command::new(RINGFOLD);
    let said = output(quiet.args(arguments));
    assert_eq!(String::from_utf8_lossy(&said.stderr), "");
    let mut chatty = Command::new(RINGFOLD);
    let said = output(chatty.args(arguments).env("RINGFOLD_LOG", "warn,ringfold::transport::tcp=debug"));
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(text.contains("connects to a peer") && text.contains("peer="), "{text}");
    assert!(!text.contains("made a plan"), "{text}");
    let mut wrong = Command::new(RINGFOLD);
    let said = output(wrong.arg("info").env("RINGFOLD_LOG", "ringfold=loud"));
    assert!(String::from_utf8_lossy(&said.stderr).contains("RINGFOLD_LOG"));
    assert_eq!(said.status.code(), Some(1));
}
