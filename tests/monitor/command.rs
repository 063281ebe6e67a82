//! `ringfold run` with whatever watches over its ranks.

use crate::support::LONG;
use ringfold::task::monitor::Reporter;
use ringfold::{Communicator, ReduceOp};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub(crate) const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

/// What a rank is to do.
pub(crate) const TASK: &str = "MONITOR_TEST_TASK";

/// The file for whose coming ranks wait.
const GATE: &str = "MONITOR_TEST_GATE";

/// What a rank does; nothing where no rank is asked for.
pub(crate) fn rank() {
    let Ok(task) = std::env::var(TASK) else { return };
    let comm = Communicator::from_env().unwrap();
    let reporter = Reporter::of(&comm);
    assert!(reporter.is_heard());
    match task.as_str() {
        // Five sums, then what it has done, then it waits.
        "sums" => {
            for step in 1..=5 {
                comm.all_reduce(&mut [1.0f32; 1000], ReduceOp::Sum).unwrap();
                reporter.progress(step, 10);
            }
            reporter.unit("steps");
            reporter.message("waits \"here\"\n");
            reporter.metric("loss", if comm.rank() == 0 { 0.25 } else { f64::NAN }).unwrap();
            reporter.metric("rank", comm.rank() as f64).unwrap();
            let gate = PathBuf::from(std::env::var_os(GATE).unwrap());
            let start = Instant::now();
            while !gate.exists() {
                assert!(start.elapsed() < LONG, "nobody opens the gate");
                std::thread::sleep(Duration::from_millis(5));
            }
            reporter.progress(10, 10);
        }
        "flood" => {
            let start = Instant::now();
            for step in 1..=1_000_000 {
                reporter.progress(step, 1_000_000);
            }
            println!("a million calls took {:?}", start.elapsed());
        }
        "fail" => {
            reporter.progress(1, 2);
            if comm.rank() == 1 {
                std::process::exit(3);
            }
            comm.barrier().unwrap_err();
        }
        // Lines and progress together, for bars.
        "talk" => {
            reporter.unit("rows");
            for step in 1..=40 {
                println!("line {step} of rank {}", comm.rank());
                eprintln!("error {step} of rank {}", comm.rank());
                reporter.progress(step, 40);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        _ => panic!("no such task: {task}"),
    }
}

/// `ringfold run` of this binary as ranks that do this.
pub(crate) fn run(ranks: usize, task: &str, options: &[&str]) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(RINGFOLD);
    command.args(["run", "-n", &ranks.to_string(), "--env", &format!("{TASK}={task}")]).args(options);
    command.arg("--").arg(own).args(["--exact", "rank", "--nocapture"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A command that runs, killed if the test fails before its end.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.spawn().unwrap())
    }

    /// Waits for its end, for what it has said since, and how it has ended.
    fn end(mut self) -> (String, String, ExitStatus) {
        let (mut out, mut err) = (String::new(), String::new());
        let stderr = self.0.stderr.take();
        let reader = std::thread::spawn(move || {
            stderr.map(|mut stream| stream.read_to_string(&mut err).unwrap());
            err
        });
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (out, reader.join().unwrap(), self.0.wait().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A path that nobody else uses, and nothing there.
fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("ringfold-monitor-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn scrape(address: &str, accept: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    body.to_owned()
}

/// The samples of an exposition in Prometheus' own format, read as strictly as its definition allows: a type ahead of each family, each
/// family once, no sample twice, names and labels in their alphabet.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    assert!(text.ends_with('\n'));
    let (mut families, mut samples, mut family) = (BTreeSet::new(), BTreeMap::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && ["gauge", "counter"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(families.insert(name.to_owned()), "twice: {line}");
            family = name.to_owned();
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
            assert_eq!(name, family, "{line}");
            for label in labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty()) {
                let (key, value) = label.split_once('=').unwrap();
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
                assert!(is_name(key) && is_name(&format!("_{value}")), "{line}");
            }
            assert!(samples.insert(sample.to_owned(), value.parse().unwrap()).is_none(), "twice: {line}");
        }
    }
    samples
}

/// Each line of a file as JSON, with the keys that the documentation promises.
fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let keys = [
        "attempt", "counters", "done", "error", "message", "metrics", "state", "task", "time", "total",
        "unit",
    ];
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        let mut has: Vec<&String> = line.as_object().unwrap().keys().collect();
        has.sort();
        assert_eq!(has, keys);
    }
    lines
}

fn of_task(lines: &[Value], task: usize) -> Vec<&Value> {
    lines.iter().filter(|line| line["task"] == task).collect()
}

#[test]
fn metrics_and_lines_have_what_ranks_tell_and_the_collectives_count() {
    let (gate, file) = (path("gate"), path("lines"));
    let mut command = run(2, "sums", &["--metrics", "127.0.0.1:0", "--metrics-json", file.to_str().unwrap()]);
    let mut running = Running::start(command.env(GATE, &gate));
    let mut stderr = BufReader::new(running.0.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("ringfold: metrics are at http://").unwrap();
    let address = address.strip_suffix("/metrics").unwrap();
    let start = Instant::now();
    let now = loop {
        let now = samples(&scrape(address, "*/*"));
        let of = |name: &str| [0, 1].map(|task| now.get(&format!("{name}{{task=\"{task}\"}}")).copied());
        if of("ringfold_metric_rank") == [Some(0.0), Some(1.0)] {
            break now;
        }
        assert!(start.elapsed() < LONG, "they do not tell: {now:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    for task in [0, 1] {
        let of = |name: &str| now[&format!("ringfold_{name}{{task=\"{task}\"}}")];
        let sums = |name: &str| {
            now[&format!("ringfold_collective_{name}{{task=\"{task}\",collective=\"all_reduce\"}}")]
        };
        assert_eq!((of("task_progress_done"), of("task_progress_goal")), (5.0, 10.0));
        assert_eq!((sums("operations_total"), sums("failures_total")), (5.0, 0.0));
        assert_eq!(sums("bytes_total"), 5.0 * 4000.0);
        assert!(sums("seconds_total") > 0.0 && of("sent_bytes_total") + of("received_bytes_total") > 0.0);
        assert!(of("task_report_timestamp_seconds") > 1.7e9);
        assert_eq!(now[&format!("ringfold_task_state{{task=\"{task}\",state=\"running\"}}")], 1.0);
    }
    assert_eq!(now["ringfold_metric_loss{task=\"0\"}"], 0.25);
    assert!(now["ringfold_metric_loss{task=\"1\"}"].is_nan());
    assert_eq!((now["ringfold_attempt"], now["ringfold_tasks{state=\"running\"}"]), (0.0, 2.0));
    let open = scrape(address, "application/openmetrics-text;version=1.0.0");
    assert!(open.ends_with("# EOF\n"), "{open}");
    std::fs::write(&gate, "").unwrap();
    let (_, _, status) = running.end();
    assert!(status.success());
    assert!(TcpStream::connect(address).is_err(), "it is offered no longer");

    let all = lines(&file);
    for task in [0, 1] {
        let lines = of_task(&all, task);
        let states: Vec<&str> = lines.iter().map(|line| line["state"].as_str().unwrap()).collect();
        let mut order = states.clone();
        order.dedup();
        assert_eq!(order, ["waiting", "running", "succeeded"]);
        assert!(lines.is_sorted_by_key(|line| line["time"].as_f64().unwrap()));
        assert!(lines.is_sorted_by_key(|line| line["done"].as_u64()));
        let last = lines.last().unwrap();
        assert_eq!((&last["done"], &last["total"]), (&10.into(), &10.into()));
        assert_eq!(
            (last["unit"].as_str(), last["message"].as_str()),
            (Some("steps"), Some("waits \"here\"?"))
        );
        assert_eq!(last["metrics"]["loss"], if task == 0 { Value::from(0.25) } else { "NaN".into() });
        assert_eq!(last["counters"]["operations"]["all_reduce"]["completed"], 5);
        assert_eq!((&last["error"], &last["attempt"]), (&Value::Null, &0.into()));
    }
    let _ = (std::fs::remove_file(&gate), std::fs::remove_file(&file));
}

#[test]
fn a_flood_of_progress_ends_with_the_last_value_and_makes_few_messages() {
    let file = path("flood");
    let start = Instant::now();
    let (out, err, status) =
        Running::start(&mut run(2, "flood", &["--metrics-json", file.to_str().unwrap()])).end();
    assert!(status.success(), "{out}{err}");
    for line in out.lines().filter(|line| line.contains("a million")) {
        println!("{line}");
    }
    let most = 4 + 10 * start.elapsed().as_secs_f64().ceil() as usize;
    let all = lines(&file);
    for task in [0, 1] {
        let lines = of_task(&all, task);
        assert_eq!(lines.last().unwrap()["done"], 1_000_000);
        assert!(lines.len() <= most, "{} lines, and {most} at most", lines.len());
    }
    let _ = std::fs::remove_file(&file);
}

#[test]
fn a_failure_is_told_with_its_reason() {
    let file = path("fail");
    let (_, err, status) =
        Running::start(&mut run(2, "fail", &["--metrics-json", file.to_str().unwrap()])).end();
    assert_eq!(status.code(), Some(3), "{err}");
    let all = lines(&file);
    let last = of_task(&all, 1).pop().unwrap().clone();
    assert_eq!(
        (last["state"].as_str(), last["error"].as_str()),
        (Some("failed"), Some("exited with status 3"))
    );
    assert!(of_task(&all, 0).last().unwrap()["state"] != "running");
    let _ = std::fs::remove_file(&file);
}

#[test]
fn what_cannot_be_offered_is_said_before_anything_starts() {
    let directory = std::env::temp_dir();
    let refused = |options: &[&str]| {
        let (out, err, status) = Running::start(&mut run(1, "talk", options)).end();
        assert!(!status.success() && out.is_empty(), "{out}{err}");
        err
    };
    let err = refused(&["--metrics", "0.0.0.0:0"]);
    assert!(err.contains("which other hosts may reach") && err.contains("--metrics-public"), "{err}");
    assert!(refused(&["--metrics-json", "-"]).contains("/dev/fd/3"));
    assert!(refused(&["--metrics-json", directory.to_str().unwrap()]).contains("cannot be written"));
    assert!(refused(&["--progress", "--no-prefix"]).contains("--no-prefix"));
    assert!(refused(&["--metrics", "here"]).contains("--metrics"));
}
