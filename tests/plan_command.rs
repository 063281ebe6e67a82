//! `ringfold plan simulate`, `table`, `footprint`, `probe` and `predict`, and tables that differ between ranks.

use serde_json::Value;
use std::process::{Command, Output, Stdio};

const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

fn plan(words: &[&str]) -> Output {
    Command::new(RINGFOLD).arg("plan").args(words).stdin(Stdio::null()).output().unwrap()
}

#[track_caller]
fn said(output: Output) -> String {
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}\n{out}\n{err}", output.status);
    out
}

fn json(output: Output) -> Vec<Value> {
    said(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_example_of_the_contract_simulates_every_algorithm() {
    let words = ["simulate", "-n", "1024", "--bytes", "100M", "--latency", "20us", "--bandwidth", "10Gbit"];
    let text = said(plan(&words));
    for name in ["ring", "recursive_doubling", "halving_doubling", "binomial_tree", "direct"] {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
    assert_eq!(text.matches("chosen by default").count(), 1, "{text}");
    let rows = json(plan(&[&words[..], &["--json"]].concat()));
    let ring = rows.iter().find(|row| row["algorithm"] == "ring").unwrap();
    // 2 (n - 1) n-ths of the message, at 1.25 GB/s at the very least.
    assert!(ring["time_us"].as_f64().unwrap() > 2.0 * 1023.0 / 1024.0 * 104_857_600.0 / 1250.0);
    assert_eq!(ring["most_messages_sent"], 2046);
    assert_eq!(ring["collective"], "all_reduce");
    assert!(rows.windows(2).all(|pair| pair[0]["time_us"].as_f64() <= pair[1]["time_us"].as_f64()));
}

#[test]
fn hosts_racks_and_stragglers_change_what_it_takes() {
    let time = |more: &[&str]| {
        let words = ["simulate", "-n", "64", "--bytes", "4M", "--algorithm", "recursive_doubling", "--json"];
        json(plan(&[&words[..], more].concat()))[0]["time_us"].as_f64().unwrap()
    };
    let plain = time(&[]);
    assert!(time(&["--ranks-per-host", "8"]) > plain, "eight ranks share a network card");
    let racks = ["--hosts-per-rack", "16", "--rack-bandwidth", "10Gbit", "--rack-latency", "1ms"];
    assert!(time(&racks) > 2.0 * plain);
    assert!(time(&["--straggler", "17=5"]) > 1.5 * plain);
    assert!(time(&["--bandwidth", "1Gbit"]) > 5.0 * plain);
    assert!(time(&["--cpus-per-host", "1", "--ranks-per-host", "4", "--reduce", "1GB/s"]) > 1.5 * plain);
}

#[test]
fn one_algorithm_is_shown_with_its_critical_path() {
    let text = said(plan(&["simulate", "-n", "8", "--bytes", "1M", "--algorithm", "ring"]));
    for telling in ["critical path, ", "send scratch", "recv", "same rack", "median"] {
        assert!(text.contains(telling), "{telling} is missing:\n{text}");
    }
}

#[test]
fn a_dead_rank_is_named_with_those_who_wait() {
    let text = said(plan(&["simulate", "-n", "16", "--dead", "5"]));
    assert!(text.contains("Every rank names rank 5"), "{text}");
    assert!(text.contains("15 hang"), "{text}");
    assert!(text.contains("> 5"), "a chain of waiting ends at it:\n{text}");
}

#[test]
fn what_hangs_has_no_time_and_is_not_drawn() {
    let file = std::env::temp_dir().join(format!("ringfold-hanging-{}.svg", std::process::id()));
    let words = ["simulate", "-n", "16", "--bytes", "1K", "--dead", "5", "--svg", file.to_str().unwrap()];
    // The leaf of a tree: a few bytes for it keep nobody else waiting.
    let rows = json(plan(&[&words[..], &["--collective", "broadcast", "--json"]].concat()));
    let picture = std::fs::read_to_string(&file).unwrap();
    assert!(!rows[0]["time_us"].is_null() && rows.last().unwrap()["time_us"].is_null(), "{rows:?}");
    for row in &rows {
        assert_eq!(row["time_us"].is_null(), row["hanging"] != 0, "{row}");
        let drawn = picture.contains(row["algorithm"].as_str().unwrap());
        assert_eq!(drawn, !row["time_us"].is_null(), "{row}");
    }
    // Nobody gets a sum: there is a picture without a line.
    let text = said(plan(&words));
    let picture = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(text.contains("15 hang") && !picture.contains("halving_doubling"), "{text}");
    let one = said(plan(&["simulate", "-n", "16", "--dead", "5", "--algorithm", "ring"]));
    assert!(one.contains("16 ranks, ring: 15 hang"), "{one}");
    let refused = plan(&["table", "--cost", "-n", "4", "--dead", "1"]);
    let err = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && err.contains("rank 1 is dead"), "{err}");
}

#[test]
fn time_against_ranks_is_drawn() {
    let file = std::env::temp_dir().join(format!("ringfold-chart-{}.svg", std::process::id()));
    let path = file.to_str().unwrap();
    let text = said(plan(&["simulate", "-n", "64..10000", "--bytes", "64K", "--svg", path]));
    let picture = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(text.contains("drawn into"), "{text}");
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
    for telling in ["halving_doubling", "ranks", "us", "64 KiB"] {
        assert!(picture.contains(telling), "{telling} is missing in the picture");
    }
    assert!(picture.matches("<polyline").count() >= 5);
}

#[test]
fn plans_for_shared_memory_are_shown_step_by_step() {
    let show = ["show", "--collective", "all_reduce", "--algorithm", "flat", "-n", "3"];
    let text = said(plan(&show));
    for telling in ["proved", "rank 0, ", "signal flag 0", "wait until rank 2's flag 0 is 1", "rank 1's slot"]
    {
        assert!(text.contains(telling), "{telling} is missing:\n{text}");
    }
    assert!(said(plan(&[&show[..], &["--rank", "2"]].concat())).contains("rank 2, "));
}

#[test]
fn nonsense_is_refused_with_a_reason() {
    for (words, telling) in [
        (&["simulate", "-n", "0"][..], "no number of ranks"),
        (&["simulate", "-n", "9..3"], "ends before it begins"),
        (&["simulate", "--latency", "20"], "no time"),
        (&["simulate", "--bandwidth", "10"], "no rate"),
        (&["simulate", "-n", "4", "--straggler", "4=2"], "rank 4 of 4"),
        (&["simulate", "-n", "4", "--straggler", "4"], "no straggler"),
        (&["simulate", "-n", "4", "--dead", "4"], "rank 4"),
        (&["simulate", "-n", "4", "--ranks-per-host", "0"], "a host without ranks"),
        (&["simulate", "--algorithm", "pairwise"], "does not do all_reduce"),
        (&["simulate", "--network", "no-such-file"], "no-such-file"),
        (&["simulate", "--collective", "reduce", "-n", "4", "--root", "4"], "root 4"),
        (&["probe", "-n", "1"], "2 or more"),
        (&["probe", "-n", "2", "--seconds", "0"], "--seconds"),
        (&["footprint", "--measure", "--collective", "broadcast"], "only the footprint of all_reduce"),
        (&["footprint", "--algorithm", "flat"], "makes no connections"),
        (&["simulate", "--algorithm", "flat"], "plans for shared memory are not simulated"),
    ] {
        let out = plan(words);
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && err.contains(telling), "{words:?}: {err}");
        assert!(!err.contains("panicked"), "{words:?}: {err}");
    }
}

#[test]
fn the_table_is_printed_overridden_and_made_of_costs() {
    let default = said(plan(&["table"]));
    assert!(
        default.contains("all_reduce: .. ..2 ranks flat") && default.contains(" ..32K recursive_doubling"),
        "{default}"
    );
    let again = Command::new(RINGFOLD).args(["plan", "table"]).env("RINGFOLD_TABLE", default.trim()).output();
    assert_eq!(said(again.unwrap()), default);
    let mine = Command::new(RINGFOLD)
        .args(["plan", "table"])
        .env("RINGFOLD_TABLE", "broadcast: .. pipeline")
        .output();
    assert!(said(mine.unwrap()).contains("\nbroadcast: .. pipeline;"));
    let wrong =
        Command::new(RINGFOLD).args(["plan", "table"]).env("RINGFOLD_TABLE", "all_reduce: .. rinse").output();
    let err = String::from_utf8(wrong.unwrap().stderr).unwrap();
    assert!(err.contains("character 13") && err.contains("rinse"), "{err}");
    let made = said(plan(&["table", "--cost", "-n", "4", "--latency", "1ms", "--bandwidth", "100Gbit"]));
    assert!(made.starts_with("all_reduce: "), "{made}");
}

/// Runs a program of two ranks that all-reduce, each with an environment of its own.
fn perf_with_tables(tables: &str) -> Output {
    let script = format!(
        "case $RINGFOLD_RANK in {tables} esac; exec {RINGFOLD} perf all_reduce -b 8 -e 64 --iters 3 --json"
    );
    Command::new(RINGFOLD)
        .args(["run", "-n", "3", "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn ranks_choose_by_the_table_they_are_given_and_refuse_to_differ() {
    let same = perf_with_tables("*) export RINGFOLD_TABLE='all_reduce: .. direct';;");
    let out = said(same);
    assert!(out.contains("\"algorithm\":\"direct\""), "{out}");
    let odd = perf_with_tables("2) export RINGFOLD_TABLE='all_reduce: .. direct';;");
    let err = String::from_utf8_lossy(&odd.stderr);
    assert!(!odd.status.success());
    assert!(err.contains("rank 2 on "), "{err}");
    assert!(err.contains("all_reduce is `.. direct` there, and `.. ..2 ranks flat"), "{err}");
    for rank in 0..3 {
        let line = err
            .lines()
            .find(|line| line.contains(&format!("rank {rank}: ")) && line.contains("another table"));
        assert!(line.is_some(), "rank {rank} is not told:\n{err}");
    }
}

#[test]
fn probes_are_read_by_simulations_and_held_against_measurements() {
    let probed = said(plan(&["probe", "-n", "3", "--seconds", "0.2", "--json"]));
    let network: Value = serde_json::from_str(&probed).unwrap();
    assert_eq!(network["ranks_per_host"], 3);
    assert!(network["host"]["alpha"].as_f64().unwrap() + network["host"]["overhead"].as_f64().unwrap() > 0.0);
    let file = std::env::temp_dir().join(format!("ringfold-network-{}.json", std::process::id()));
    std::fs::write(&file, &probed).unwrap();
    let rows =
        json(plan(&["simulate", "-n", "3", "--bytes", "1M", "--json", "--network", file.to_str().unwrap()]));
    std::fs::remove_file(&file).unwrap();
    assert!(rows.iter().all(|row| row["time_us"].as_f64().unwrap() > 0.0));
    let words = ["predict", "-n", "2", "--seconds", "0.2", "-b", "64", "-e", "64K", "-f", "1024", "--json"];
    let rows = json(plan(&words));
    assert!(rows.len() >= 10);
    for row in rows {
        assert!(row["predicted_us"].as_f64().unwrap() > 0.0 && row["measured_us"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn footprints_are_computed_and_counted() {
    let text = said(plan(&["footprint", "-n", "1000"]));
    let row = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
    let cells = |name: &str| row(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // Sends to, receives from, and how many connections these are.
    assert_eq!(cells("ring")[1..4], ["1", "1", "2"]);
    assert_eq!(cells("direct")[1..4], ["999", "999", "999"]);
    let counted =
        said(plan(&["footprint", "-n", "5", "--measure", "--algorithm", "direct", "--bytes", "4K"]));
    assert!(counted.contains("among 5 processes by direct"), "{counted}");
    let sockets = counted.lines().find(|line| line.contains("sockets of a rank, most")).unwrap();
    let figures: Vec<usize> = sockets.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // Both ways share a connection.
    assert_eq!(figures[2], 4, "one link to each of the others:\n{counted}");
    assert_eq!(figures[1] - figures[0], 4, "{counted}");
}

#[test]
fn it_ends_quietly_with_whoever_reads_it() {
    let command = format!("{RINGFOLD} plan show --collective all_reduce --algorithm ring -n 40 | head -n 1");
    let out = Command::new("bash").args(["-c", &format!("set -o pipefail; {command}")]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    assert_eq!(out.status.code(), Some(128 + 13), "far more than a pipe takes is shown");
}
