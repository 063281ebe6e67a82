//! What shells and `man` are told of the command.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

fn script(shell: &str) -> String {
    let output = Command::new(RINGFOLD).args(["completions", shell]).output().unwrap();
    assert!(output.status.success(), "{shell}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs lines in a bash that has read the completions.
fn bash(lines: &str) -> String {
    let mut command = Command::new("bash");
    let mut shell = command
        .args(["--norc", "--noprofile"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(format!("{}\n{lines}", script("bash")).as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What bash offers after these words.
fn offered(words: &[&str]) -> Vec<String> {
    let line = format!(
        "COMP_WORDS=({}); COMP_CWORD={}; _ringfold ringfold '{}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
        words[words.len() - 1],
        words[words.len() - 2],
    );
    bash(&line).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_and_options() {
    assert!(bash("complete -p ringfold").contains("_ringfold"));
    assert_eq!(offered(&["ringfold", "pl"]), ["plan"]);
    for command in ["run", "perf", "plan", "info", "completions", "man"] {
        assert!(offered(&["ringfold", ""]).contains(&command.to_owned()), "{command}");
    }
    assert!(offered(&["ringfold", "plan", ""]).contains(&"verify".to_owned()));
    assert_eq!(offered(&["ringfold", "run", "--no-p"]), ["--no-prefix"]);
    assert_eq!(offered(&["ringfold", "run", "--color", "a"]), ["auto", "always"]);
}

#[test]
fn every_shell_has_its_script() {
    for (shell, tells) in
        [("bash", "complete -F"), ("zsh", "#compdef ringfold"), ("fish", "complete -c ringfold")]
    {
        assert!(script(shell).contains(tells), "{shell}");
    }
    assert!(!Command::new(RINGFOLD).args(["completions", "no-shell"]).output().unwrap().status.success());
}

#[test]
fn manual_pages_are_written() {
    let directory = std::env::temp_dir().join(format!("ringfold-man-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    let output = Command::new(RINGFOLD).arg("man").arg(&directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for page in ["ringfold.1", "ringfold-run.1", "ringfold-plan-verify.1"] {
        assert!(fs::read_to_string(directory.join(page)).unwrap().contains(".TH ringfold"), "{page}");
    }
    fs::remove_dir_all(&directory).unwrap();
    let output = Command::new(RINGFOLD).arg("man").arg(&directory).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("a directory that exists"));
}
