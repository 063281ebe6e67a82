//! Colours in the output, on a real terminal and elsewhere.

use crate::{RINGFOLD, run, said};
use std::process::Command;

const BOTH: &str = "echo out; echo err >&2";

#[test]
fn elsewhere_there_are_none_unless_they_are_asked_for() {
    let plain = said(&mut run(&["-n", "2"], BOTH));
    assert!(!plain.text().contains('\x1b') && !plain.err.contains('\x1b'), "{plain:?}");
    for asked in [
        said(run(&["-n", "2"], BOTH).env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR")),
        said(&mut run(&["-n", "2", "--color", "always"], BOTH)),
        said(run(&["--color=always", "-n", "2"], BOTH).env("NO_COLOR", "1")),
    ] {
        let mut errors: Vec<&str> = asked.err.lines().collect();
        errors.sort_unstable();
        assert_eq!(errors, ["\x1b[7;33m[1]\x1b[0m err", "\x1b[7;36m[0]\x1b[0m err"]);
        assert_eq!(asked.lines(), ["\x1b[33m[1]\x1b[0m out", "\x1b[36m[0]\x1b[0m out"]);
    }
    let failed = said(&mut run(&["-n", "1", "--color", "always"], "exit 3"));
    assert!(failed.err.starts_with("\x1b[1m\x1b[31mringfold:\x1b[0m rank 0"), "{failed:?}");
}

#[test]
fn the_ranks_own_colours_survive_and_end_with_the_line() {
    let own = r"printf '\033[1;31mred\nplain\n'";
    let shown = said(&mut run(&["-n", "1", "--color", "always"], own));
    assert_eq!(shown.text(), "\x1b[36m[0]\x1b[0m \x1b[1;31mred\x1b[0m\n\x1b[36m[0]\x1b[0m plain\n");
    let shown = said(&mut run(&["-n", "1", "--color", "never"], own));
    assert_eq!(shown.text(), "[0] \x1b[1;31mred\n[0] plain\n", "bytes are not taken away");
}

/// What a real terminal is shown, of both streams.
fn on_a_terminal(variables: &[(&str, &str)], options: &str) -> String {
    let line = format!("exec '{RINGFOLD}' run -n 1 {options} -- sh -c '{BOTH}'");
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null());
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm").envs(variables.iter().copied());
    let said = said(&mut command);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.text()
}

#[test]
fn a_terminal_is_shown_colours_unless_somebody_objects() {
    let shown = on_a_terminal(&[], "");
    assert!(shown.contains("\x1b[36m[0]\x1b[0m out"), "{shown:?}");
    assert!(shown.contains("\x1b[7;36m[0]\x1b[0m err"), "{shown:?}");
    for plain in [
        on_a_terminal(&[("NO_COLOR", "1")], ""),
        on_a_terminal(&[("TERM", "dumb")], ""),
        on_a_terminal(&[], "--color never"),
    ] {
        assert!(plain.contains("[0] out") && !plain.contains("\x1b[3"), "{plain:?}");
    }
}
