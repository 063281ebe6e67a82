//! `ringfold perf diff` with real files: what `perf --json` writes, and rows written for the purpose.

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

/// A folder of one test's files, gone with it.
struct Files(PathBuf);

impl Files {
    fn new(test: &str) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Files(folder)
    }

    fn write(&self, name: &str, lines: &[Value]) -> PathBuf {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write_text(name, &text)
    }

    fn write_text(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn row(size: u64, in_place: bool, time: f64) -> Value {
    json!({
        "collective": "all_reduce", "backend": "tcp", "algorithm": "ring", "ranks": 2, "dtype": "f32", "op": "sum",
        "size_bytes": size, "count": size / 4, "in_place": in_place, "time_us": time, "algbw_gb_s": 1.0,
        "busbw_gb_s": 1.0, "wrong": 0,
    })
}

fn with(mut row: Value, field: &str, value: impl Into<Value>) -> Value {
    row[field] = value.into();
    row
}

fn diff(files: [&PathBuf; 2], more: &[&str]) -> Output {
    Command::new(RINGFOLD)
        .args(["perf", "diff"])
        .args(files)
        .args(more)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The lines of the table, as words.
fn table(output: &Output) -> Vec<Vec<&str>> {
    let out = text(&output.stdout);
    out.lines().filter(|line| !line.starts_with('#')).map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn what_perf_writes_is_compared_with_itself() {
    let files = Files::new("real");
    let measured = Command::new(RINGFOLD)
        .args(["perf", "all_reduce", "-n", "2", "-e", "2K", "--iters", "3", "--json"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(measured.status.success(), "{}", text(&measured.stderr));
    let file = files.write_text("a.json", text(&measured.stdout));
    let out = diff([&file, &file], &["--threshold", "1"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let table = table(&out);
    // 8, 32, ... 2048, each out of place and in place.
    assert_eq!(table.len(), 10);
    for line in &table {
        assert_eq!(line[..4], ["all_reduce", "2", "f32", "sum"]);
        assert!(line.contains(&"1.000"), "{line:?}");
    }
    assert!(!text(&out.stdout).contains("only in"));
}

#[test]
fn slower_is_marked_and_fails_only_beyond_the_threshold() {
    let files = Files::new("marks");
    let a = files.write("a.json", &[row(8, true, 10.0), row(64, true, 10.0), row(1024, true, 10.0)]);
    let b = files.write("b.json", &[row(8, true, 10.4), row(64, true, 12.0), row(1024, true, 5.0)]);
    let out = diff([&a, &b], &["--threshold", "1.05"]);
    assert_eq!(out.status.code(), Some(1));
    let marked = table(&out);
    assert_eq!(marked[0].last(), Some(&"1.000"));
    assert_eq!(marked[1].last(), Some(&"slower"));
    assert_eq!(marked[2].last(), Some(&"faster"));
    assert!(marked[1].contains(&"1.200") && marked[2].contains(&"0.500"));
    assert!(text(&out.stdout).contains("b is slower by more than 1.05 in 1 of them"));
    // Nobody's terminal: no colours.
    assert!(!out.stdout.contains(&0x1b));

    assert_eq!(diff([&a, &b], &["--threshold", "1.2"]).status.code(), Some(0));
    let unasked = diff([&a, &b], &[]);
    assert_eq!(unasked.status.code(), Some(0));
    assert!(!text(&unasked.stdout).contains("slower"));
}

#[test]
fn rows_are_the_same_by_what_was_measured_and_not_by_how() {
    let files = Files::new("join");
    // Another backend and algorithm, in another order: the same rows. Another type, placement or size: not.
    let a = files.write("a.json", &[row(8, true, 10.0), row(64, false, 20.0), row(256, true, 1.0)]);
    let other = |row| with(with(row, "backend", "shm"), "algorithm", "direct");
    let b = files.write(
        "b.json",
        &[other(row(64, false, 10.0)), other(row(8, true, 5.0)), with(row(256, true, 1.0), "dtype", "f64")],
    );
    let out = diff([&a, &b], &[]);
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert_eq!(table(&out).len(), 2, "{shown}");
    assert!(table(&out).iter().all(|line| line.contains(&"0.500")), "{shown}");
    let only: Vec<&str> = shown.lines().filter(|line| line.starts_with("# only in")).collect();
    assert_eq!(only.len(), 2, "{shown}");
    assert!(only.iter().any(|line| line.contains("a.json") && line.contains("f32 sum among 2, 256 B")));
    assert!(only.iter().any(|line| line.contains("b.json") && line.contains("f64 sum among 2, 256 B")));
}

#[test]
fn recordings_of_several_libraries_are_joined_by_library() {
    let files = Files::new("libraries");
    let of = |library: &str, time| with(row(8, true, time), "library", library);
    let about = json!({"about": {"machine": "any"}});
    let exchange = |algorithm: &str, time| {
        with(with(of("raw", time), "collective", "raw_exchange"), "algorithm", algorithm)
    };
    let missing =
        json!({"library": "mpich", "collective": "all_reduce", "size_bytes": 8, "not_measured": "no result"});
    let a = files.write(
        "a.jsonl",
        &[
            about.clone(),
            // What ringfold chose differs, and its row is the same all the same.
            with(of("ringfold", 10.0), "algorithm", "direct"),
            of("openmpi", 20.0),
            of("mpich", 30.0),
            exchange("reno", 4.0),
            exchange("bbr", 5.0),
        ],
    );
    let b = files.write(
        "b.jsonl",
        &[
            about,
            of("ringfold", 5.0),
            of("openmpi", 20.0),
            missing,
            exchange("bbr", 5.0),
            exchange("reno", 8.0),
        ],
    );
    let out = diff([&a, &b], &[]);
    let shown = text(&out.stdout);
    let ratios: Vec<(&str, &str)> = table(&out).iter().map(|line| (line[1], line[line.len() - 3])).collect();
    assert_eq!(ratios[..2], [("openmpi", "1.000"), ("ringfold", "0.500")], "{shown}");
    assert!(shown.contains("raw tcp reno") && shown.contains("raw tcp bbr"), "{shown}");
    assert!(shown.contains("not measured in") && shown.contains("no result"), "{shown}");

    // One library's rows against another's: nothing has to be told apart.
    let one = files.write("one.json", &[of("ringfold", 10.0)]);
    let other = files.write("other.json", &[of("openmpi", 20.0)]);
    let out = diff([&one, &other], &[]);
    assert!(table(&out)[0].contains(&"2.000"), "{}", text(&out.stdout));
    assert!(!text(&out.stdout).contains("only in"));
}

#[test]
fn what_was_measured_again_counts_by_its_median() {
    let files = Files::new("again");
    let a = files.write("a.json", &[row(8, true, 10.0)]);
    let b = files.write("b.json", &[row(8, true, 90.0), row(8, true, 20.0), row(8, true, 1.0)]);
    assert!(table(&diff([&a, &b], &[]))[0].contains(&"2.000"));
    let even = files.write("even.json", &[row(8, true, 40.0), row(8, true, 20.0)]);
    assert!(table(&diff([&a, &even], &[]))[0].contains(&"3.000"));
}

#[test]
fn wrong_results_fail() {
    let files = Files::new("wrong");
    let a = files.write("a.json", &[row(8, true, 10.0)]);
    let b = files.write("b.json", &[with(row(8, true, 10.0), "wrong", 3)]);
    let out = diff([&a, &b], &[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("3 WRONG"));
}

#[test]
fn bad_files_are_named_with_their_line() {
    let files = Files::new("bad");
    let good = files.write("good.json", &[row(8, true, 10.0)]);
    let first = row(8, true, 10.0).to_string();
    let mut short = row(64, true, 10.0);
    short.as_object_mut().unwrap().remove("time_us");
    for (name, content, telling) in [
        ("empty.json", String::new(), "no rows"),
        ("torn.json", format!("{first}\n\n{{\"collective\":"), "line 3: no JSON"),
        ("short.json", format!("{first}\n{short}\n"), "line 2: no row: missing field `time_us`"),
        ("below.json", row(8, true, -1.0).to_string(), "line 1: no row: a time"),
        (
            "words.json",
            with(row(8, true, 1.0), "size_bytes", "8").to_string(),
            "line 1: no row: invalid type",
        ),
        ("array.json", "[1, 2]".to_owned(), "line 1: no row"),
        ("number.json", "7".to_owned(), "line 1: no row"),
    ] {
        let bad = files.write_text(name, &content);
        for pair in [[&good, &bad], [&bad, &good]] {
            let out = diff(pair, &[]);
            let err = text(&out.stderr);
            assert_eq!(out.status.code(), Some(2), "{name}: {err}");
            assert!(err.contains(name) && err.contains(telling), "{name}: {err}");
        }
    }
    let none = files.0.join("none.json");
    let out = diff([&good, &none], &[]);
    assert_eq!(out.status.code(), Some(2));
    assert!(text(&out.stderr).contains("reading"), "{}", text(&out.stderr));
    for threshold in ["0.9", "nan", "inf", "-1", "x"] {
        let threshold = format!("--threshold={threshold}");
        assert_eq!(diff([&good, &good], &[&threshold]).status.code(), Some(2), "{threshold}");
    }
}

#[test]
fn the_word_does_not_stand_in_the_way_of_measuring() {
    for (words, telling) in [
        (&["perf"][..], "required"),
        (&["perf", "diff", "a.json"], "<B>"),
        (&["perf", "-n", "2", "diff", "a", "b"], ""),
        (&["perf", "different"], "no collective is called"),
    ] {
        let out = Command::new(RINGFOLD).args(words).stdin(Stdio::null()).output().unwrap();
        let err = text(&out.stderr);
        assert!(!out.status.success(), "{words:?}");
        assert!(err.contains(telling), "{words:?}: {err}");
    }
}
