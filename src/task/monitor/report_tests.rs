use super::*;
use crate::collective::Collective;
use crate::communicator::Communicator;

fn full() -> Report {
    let mut report = Report::new();
    report.set_progress(u64::MAX, u64::MAX);
    report.set_unit(&"\"".repeat(100));
    report.set_message(&"\\\"".repeat(500));
    for index in 0..LIMITS.metrics {
        let name = format!("{}{index:02}", "m".repeat(LIMITS.name - 2));
        report.set_metric(&name, -f64::MIN_POSITIVE / 3.0).unwrap();
    }
    let mut totals = Totals { waiting_seconds: f64::MAX, bytes_sent: u64::MAX, ..Totals::default() };
    for collective in Collective::ALL.into_iter().chain([Collective::SendRecv]) {
        let most = u64::MAX;
        let all = super::super::totals::OperationTotals {
            completed: most,
            failed: most,
            bytes: most,
            seconds: f64::MIN_POSITIVE,
        };
        totals.operations.insert(collective.as_str().to_owned(), all);
    }
    report.set_counters(totals);
    report
}

#[test]
fn the_fullest_report_fits_a_message_and_comes_back() {
    let report = full();
    let bytes = report.encode();
    assert!(bytes.len() <= TELL_LIMIT, "{} bytes", bytes.len());
    assert_eq!(Report::decode(&bytes).unwrap(), report);
    assert_eq!(Report::decode(&Report::new().encode()).unwrap(), Report::new());
}

#[test]
fn a_loss_that_is_no_number_any_more_is_told_as_such() {
    let mut report = Report::new();
    for (name, value) in [("a", f64::NAN), ("b", f64::INFINITY), ("c", f64::NEG_INFINITY), ("d", -0.0)] {
        report.set_metric(name, value).unwrap();
    }
    let read = Report::decode(&report.encode()).unwrap();
    let bits = |report: &Report| report.metrics().values().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&read), bits(&report));
}

#[test]
fn names_are_those_that_prometheus_allows() {
    let mut report = Report::new();
    for fine in ["a", "_", "Loss_2", "x9"] {
        report.set_metric(fine, 1.0).unwrap();
    }
    for wrong in ["", "9a", "a b", "a-b", "a:b", "ä", "a\n", &"a".repeat(65)] {
        let error = report.set_metric(wrong, 1.0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{wrong}");
        assert!(error.what_to_do().is_some());
    }
    assert_eq!(report.metrics().len(), 4);
    let mut many = full();
    assert_eq!(many.set_metric("one_more", 1.0).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let known = many.metrics().keys().next().unwrap().clone();
    many.set_metric(&known, 2.0).unwrap();
}

#[test]
fn texts_are_cut_between_characters_and_move_no_cursor() {
    let mut report = Report::new();
    report.set_message(&format!("\x1b[2J{}", "é".repeat(300)));
    assert!(report.message().starts_with("?[2Jé") && report.message().len() <= 256);
    report.set_unit("rows per very long unit");
    assert_eq!(report.progress().unwrap().unit, "rows per very lo");
}

#[test]
fn what_strangers_send_is_an_error_and_no_panic() {
    let refused = |bytes: &[u8]| Report::decode(bytes).unwrap_err();
    for bytes in [
        &b""[..],
        b"{",
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe",
        br#"{"v":1,"progress":{"done":-1}}"#,
        br#"{"v":1,"metrics":{"a b":1}}"#,
        br#"{"v":1,"metrics":{"a":"one"}}"#,
        br#"{"v":1,"metrics":{"a":1e999}}"#,
        br#"{"v":-1}"#,
    ] {
        assert_eq!(refused(bytes).kind(), ErrorKind::Protocol, "{}", String::from_utf8_lossy(bytes));
    }
    assert!(refused(br#"{"v":2,"progress":"in another form"}"#).message().contains("version 2"));
    assert_eq!(refused(&vec![b' '; TELL_LIMIT + 1]).kind(), ErrorKind::Protocol);
    let deep = "[".repeat(TELL_LIMIT - 20);
    assert_eq!(refused(format!(r#"{{"v":1,"x":{deep}"#).as_bytes()).kind(), ErrorKind::Protocol);
    let crowd: Vec<String> = (0..65).map(|index| format!(r#""m{index}":1"#)).collect();
    assert!(
        refused(format!(r#"{{"v":1,"metrics":{{{}}}}}"#, crowd.join(",")).as_bytes())
            .message()
            .contains("64")
    );
}

#[test]
fn fields_of_later_times_are_passed_over_and_wild_counters_are_tamed() {
    let bytes = br#"{"v":1,"later":[1,{}],"progress":{"done":1,"total":2,"eta":3},
        "counters":{"waiting_seconds":-5,"operations":{"all_reduce":{"completed":3,"seconds":-1},"x\"\n":{}}}}"#;
    let report = Report::decode(bytes).unwrap();
    assert_eq!(report.progress().unwrap().fraction(), Some(0.5));
    let counters = report.counters().unwrap();
    assert_eq!(counters.waiting_seconds, 0.0);
    assert_eq!(counters.operations.keys().collect::<Vec<_>>(), ["all_reduce"]);
    assert_eq!(
        (counters.operations["all_reduce"].completed, counters.operations["all_reduce"].seconds),
        (3, 0.0)
    );
}

#[test]
fn mutated_reports_never_panic() {
    let mut random = fastrand::Rng::with_seed(3);
    let good = full().encode();
    let mut read = 0;
    for _ in 0..2_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
        }
        read += usize::from(Report::decode(&bytes).is_ok());
    }
    assert!(read > 100, "only {read} were reports: the test looks at nothing");
}

#[test]
fn counters_are_those_of_the_communicator() {
    let comm = Communicator::local(1).remove(0);
    comm.barrier().unwrap();
    let mut report = Report::new();
    report.set_counters(&comm.counters());
    assert_eq!(report.counters().unwrap().operations["barrier"].completed, 1);
}
