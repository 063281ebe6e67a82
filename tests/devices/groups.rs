//! That the ranks of a group use the devices that the group holds, whatever lists there are.

use super::claims::Directory;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

const RINGFOLD: &str = env!("CARGO_BIN_EXE_ringfold");

/// `ringfold run` where this is visible, with claims in a directory of the test's own.
fn run(runtime: &Directory, visible: Option<&str>, arguments: &[&str], script: &str) -> Output {
    let mut command = Command::new(RINGFOLD);
    command.arg("run").args(arguments).args(["--", "sh", "-c", script]).stdin(Stdio::null());
    command.env("RINGFOLD_DEVICE_CLAIMS", runtime.path().join("claims")).env("RINGFOLD", RINGFOLD);
    command.env_remove("CUDA_VISIBLE_DEVICES");
    command.envs(visible.map(|visible| ("CUDA_VISIBLE_DEVICES", visible)));
    command.output().unwrap()
}

/// What a rank says: what it sees, and why another group may not have each of these devices.
const SCRIPT: &str = r#"
    for own in $(echo "$CUDA_VISIBLE_DEVICES" | tr , " "); do
        if said=$("$RINGFOLD" run -n 1 --devices "$own" --gpus-per-task 1 -- true 2>&1); then
            echo "uses $own, which nobody holds"
        else
            case "$said" in
                *"held by another group"*) echo "uses and holds $own" ;;
                *) echo "uses $own: $said" ;;
            esac
        fi
    done"#;

/// The lines of ranks that have done well, in order.
fn lines(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn refused(output: &Output, why: &str) {
    assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
}

#[test]
fn ranks_use_the_devices_that_are_held() {
    let runtime = Directory::new("used");
    let two = ["[0] uses and holds 2", "[1] uses and holds 3"];
    let of = |devices| ["-n", "2", "--devices", devices, "--gpus-per-task", "1"];
    assert_eq!(lines(&run(&runtime, None, &of("2,3"), SCRIPT)), two);
    assert_eq!(lines(&run(&runtime, Some("3,2"), &of("2,3"), SCRIPT)), two);
    // What is not in the list that exists is refused, and nothing of it at its place there is used instead.
    refused(&run(&runtime, Some("0,1"), &of("2,3"), "echo started"), "does not have 2");
    refused(&run(&runtime, Some("2,3"), &of("0,1,2,3"), "echo started"), "does not have 0");
    // A script tells of places in the list.
    let script = runtime.path().join("discover.sh");
    // Written by another process: what somebody has open for writing cannot be run, and a test that forks meanwhile would have it open.
    let write = r#"echo '#!/bin/sh
        echo "{\"name\": \"gpu\", \"addresses\": [\"0\", \"1\"]}"' > "$0"; chmod 755 "$0""#;
    assert!(Command::new("sh").args(["-c", write]).arg(&script).status().unwrap().success());
    let by_script = format!("script:{}", script.display());
    assert_eq!(lines(&run(&runtime, Some("2,3"), &of(&by_script), SCRIPT)), two);
}

#[test]
fn a_described_host_that_a_group_starts_on_is_this_one() {
    let runtime = Directory::new("described");
    let file = runtime.path().join("machine.json");
    let text = r#"{"hosts": [{"name": "elsewhere", "nodes": [{"id": 0, "cpus": "0"}], "devices": [{"address": "2"}]}]}"#;
    fs::write(&file, text).unwrap();
    let described = format!("file:{}", file.display());
    let arguments = ["-n", "1", "--devices", &described, "--gpus-per-task", "1"];
    assert_eq!(lines(&run(&runtime, None, &arguments, SCRIPT)), ["[0] uses and holds 2"]);
}

#[test]
fn the_list_that_a_launch_says_is_the_one_that_exists() {
    let runtime = Directory::new("launch");
    let file = runtime.path().join("machine.json");
    fs::write(&file, r#"{"hosts": [{"name": "a", "devices": [{"address": "0"}, {"address": "1"}]}]}"#)
        .unwrap();
    let described = format!("file:{}", file.display());
    let own = ["-n", "2", "--env", "CUDA_VISIBLE_DEVICES=2,3", "--gpus-per-task", "1", "--devices"];
    let run_with = |devices| run(&runtime, Some("6,7"), &[&own[..], &[devices]].concat(), SCRIPT);
    let two = ["[0] uses and holds 2", "[1] uses and holds 3"];
    assert_eq!(lines(&run_with(&described)), two);
    assert_eq!(lines(&run_with("2,3")), two);
    refused(&run_with("6,7"), "does not have 6");
}

#[test]
fn groups_that_ask_for_cpus_alone_need_no_directory() {
    let runtime = Directory::new("cpus");
    let claims = runtime.path().join("claims");
    fs::create_dir(&claims).unwrap();
    fs::set_permissions(&claims, fs::Permissions::from_mode(0o755)).unwrap();
    let cpus = run(&runtime, None, &["-n", "1", "--cpus-per-task", "1"], "echo started");
    assert_eq!(lines(&cpus), ["[0] started"]);
    let gpus = ["-n", "1", "--devices", "0", "--gpus-per-task", "1"];
    refused(&run(&runtime, None, &gpus, "echo started"), "its mode is 755");
}
