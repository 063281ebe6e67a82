//! What a task reports to whoever monitors it: the decoder must not panic, and what it accepts stays within its limits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfold::task::monitor::{LIMITS, Monitor, Report};
use ringfold::transport::control::TELL_LIMIT;

fuzz_target!(|bytes: &[u8]| {
    Monitor::new(1).told(0, bytes);
    let Ok(report) = Report::decode(bytes) else { return };
    assert!(report.metrics().len() <= LIMITS.metrics && report.message().len() <= LIMITS.message);
    assert!(!report.message().contains(char::is_control));
    let encoded = report.encode();
    assert!(encoded.len() <= TELL_LIMIT);
    let again = Report::decode(&encoded).expect("a report encodes to a report");
    assert_eq!((again.message(), again.progress()), (report.message(), report.progress()));
    assert!(again.metrics().keys().eq(report.metrics().keys()));
});
