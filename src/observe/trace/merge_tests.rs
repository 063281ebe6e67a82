//! Traces that are made up, where it is known what is true.

use super::super::{Header, KEPT, Record, Tracer, read};
use super::*;
use crate::error::{Cause, CauseKind};

fn record(sequence: u64, begun: u64, ended: u64) -> Record {
    Record {
        communicator: 0,
        collective: "all_reduce",
        sequence,
        bytes: 8,
        dtype: "f32",
        op: "sum",
        algorithm: "ring",
        order: "default",
        submitted: begun,
        begun,
        ended,
        first_sent: Some(begun + 10),
        first_received: None,
        sent: 72,
        received: 72,
        waits: 1,
        waited: 20,
        longest_wait: Some((begun + 20, begun + 40, Some(1))),
        error: None,
    }
}

/// A directory of the test, gone at its end.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        Directory(std::env::temp_dir().join(format!("ringfold-{name}-{}", std::process::id())))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The trace of a rank that has written and read back these operations, by a clock of this name.
fn trace(directory: &Directory, rank: usize, clock: &str, records: &[(u64, u64)]) -> Trace {
    let tracer = Tracer::create(&directory.0, rank, 2, 7, 0, "host").unwrap();
    tracer.communicator(0, rank, 2);
    for (sequence, &(begun, ended)) in records.iter().enumerate() {
        tracer.record(record(sequence as u64, begun, ended));
    }
    tracer.save();
    let mut trace = read(tracer.path()).unwrap();
    trace.header.clock = clock.to_owned();
    trace
}

#[test]
fn clocks_of_different_hosts_are_brought_together_within_the_stated_error() {
    let directory = Directory::new("clocks");
    // Rank 1's clock is 5 s ahead and drifts by 50 millionths; operations take 30 to 90 us, with either rank late.
    let theirs = |time: u64| time + 5_000_000_000 + time / 20_000;
    let mut of_0 = Vec::new();
    let mut of_1 = Vec::new();
    for step in 0..4_000u64 {
        let start = 1_000_000_000 + step * 1_000_000;
        let (late_0, late_1) = if step % 3 == 0 { (0, 25_000) } else { (40_000, 3_000) };
        let end = start + late_0.max(late_1) + 30_000 + step * 7_919 % 20_000;
        of_0.push((start + late_0, end));
        of_1.push((theirs(start + late_1), theirs(end + 2_000)));
    }
    let merged =
        merge(vec![trace(&directory, 1, "other", &of_1), trace(&directory, 0, "own", &of_0)]).unwrap();
    assert_eq!((merged.alignment[0].offset, merged.alignment[0].error), (0.0, Some(0.0)));
    let error = merged.alignment[1].error.unwrap();
    assert!(error > 0.0 && error < 40_000.0, "{error}");
    let begun: Vec<f64> = merged
        .events
        .iter()
        .filter(|event| event["pid"] == 1 && event["name"] == "all_reduce")
        .map(|event| event["ts"].as_f64().unwrap() * 1e3)
        .collect();
    assert_eq!(begun.len(), of_1.len());
    for (step, at) in begun.iter().enumerate() {
        let truth = 1e9 + step as f64 * 1e6 + if step % 3 == 0 { 25_000.0 } else { 3_000.0 };
        assert!((at - truth).abs() <= error, "step {step}: {at} for {truth}, error {error}");
    }
    assert_eq!(merged.summary.len(), 1);
    let line = &merged.summary[0];
    assert_eq!((line.collective.as_str(), line.count, line.bytes), ("all_reduce", 4_000, 64_000));
}

#[test]
fn the_late_rank_is_told_where_clocks_are_one() {
    let directory = Directory::new("late");
    let of_0 = [(1_000, 9_000), (11_000, 19_000), (25_000, 29_000)];
    let of_1 = [(5_000, 9_100), (15_000, 19_000), (21_000, 29_500)];
    let merged = merge(vec![trace(&directory, 0, "own", &of_0), trace(&directory, 1, "own", &of_1)]).unwrap();
    let line = &merged.summary[0];
    assert_eq!((line.latest, line.late_by), (Some((1, 2)), 4_000.0));
    assert_eq!((line.median, line.max), (8_000.0, 8_500.0));
}

#[test]
fn without_common_operations_wall_clocks_are_trusted_and_nothing_is_promised() {
    let directory = Directory::new("wall");
    let mut other = trace(&directory, 1, "other", &[]);
    other.header.wall_origin = 5_000;
    let mut own = trace(&directory, 0, "own", &[(1_000, 2_000)]);
    own.header.wall_origin = 2_000;
    let merged = merge(vec![own, other]).unwrap();
    assert_eq!((merged.alignment[1].offset, merged.alignment[1].error), (3_000.0, None));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let directory = Directory::new("refused");
    let one = trace(&directory, 0, "own", &[(1, 2)]);
    let refused = |traces: Vec<Trace>, says: &str| {
        let error = merge(traces).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(says), "{error}");
    };
    refused(vec![], "no traces");
    refused(vec![one.clone(), one.clone()], "two traces of rank 0");
    let mut another = trace(&directory, 1, "own", &[(1, 2)]);
    another.header.world_id = "8".into();
    refused(vec![one.clone(), another], "different launches");
    let merged = merge(vec![one]).unwrap();
    assert_eq!((merged.world, merged.missing), (2, vec![1]));
}

#[test]
fn files_that_are_no_traces_are_refused_by_name() {
    let directory = Directory::new("files");
    std::fs::create_dir_all(&directory.0).unwrap();
    assert!(super::super::in_directory(&directory.0).unwrap_err().to_string().contains("has no traces"));
    let path = directory.0.join("ringfold-7-rank0.json");
    let header = |version| {
        let head = Header {
            version,
            rank: 0,
            world: 1,
            world_id: "7".into(),
            generation: 0,
            host: "h".into(),
            pid: 1,
            clock: "c".into(),
            wall_origin: 0,
            dropped: 0,
        };
        serde_json::to_value(head).unwrap()
    };
    for (text, says) in [
        ("{".to_owned(), "EOF"),
        ("[]".to_owned(), "no trace of a rank"),
        (json!({"traceEvents": []}).to_string(), "ringfold"),
        (json!({"ringfold": header(9), "traceEvents": []}).to_string(), "version is 9"),
        (json!({"ringfold": header(1), "traceEvents": [{"cat": "collective"}]}).to_string(), "event 0"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("ringfold-7-rank0.json"), "{error}");
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
    let missing = read(&directory.0.join("none")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Io);
}

#[test]
fn the_oldest_operations_give_way_and_a_failure_is_written_at_once() {
    let directory = Directory::new("bound");
    let tracer = Tracer::create(&directory.0, 0, 1, 7, 2, "host").unwrap();
    for sequence in 0..KEPT as u64 + 5 {
        tracer.record(record(sequence, sequence * 10, sequence * 10 + 5));
    }
    let cause = Cause {
        generation: 2,
        sequence: 1,
        kind: CauseKind::PeerDead,
        culprit: 3,
        reporter: 1,
        detail: "gone".into(),
    };
    tracer.failed(&cause);
    assert!(tracer.path().ends_with("ringfold-7.2-rank0.json"));
    let trace = read(tracer.path()).unwrap();
    assert_eq!((trace.operations.len(), trace.header.dropped), (KEPT, 5));
    assert_eq!(trace.operations[0].sequence, 5);
    let failure = trace.events.last().unwrap();
    assert_eq!((&failure["name"], &failure["args"]["culprit"]), (&json!("failed: peer dead"), &json!(3)));
}

#[test]
fn a_directory_that_cannot_be_made_is_a_typed_error() {
    let error = Tracer::create(Path::new("/proc/none/here"), 0, 1, 7, 0, "host").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("/proc/none/here"), "{error}");
}
