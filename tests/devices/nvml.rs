//! NVIDIA's library, as the driver installs it: where there is none, and one that tells of a machine that does not exist.
//!
//! The library is found by the loader under its own name; so the process that looks is one of its own.

use super::claims::Directory;
use ringfold::device::{Discovery, Inventory, Path};
use std::path::Path as FilePath;
use std::process::{Command, Stdio};

/// Not a test of its own: looks, and says what was found as JSON.
#[test]
fn looks() {
    let Ok(where_to) = std::env::var("RINGFOLD_TEST_LOOK") else { return };
    let inventory = Inventory::discover(&Discovery::parse(&where_to).unwrap()).unwrap();
    println!("\nfound {}", serde_json::to_string(&inventory).unwrap());
}

fn look(directory: &FilePath, where_to: &str, visible: Option<&str>) -> Inventory {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["nvml::looks", "--exact", "--nocapture"]).stdin(Stdio::null());
    command
        .env("RINGFOLD_TEST_LOOK", where_to)
        .env("LD_LIBRARY_PATH", directory)
        .env_remove("CUDA_VISIBLE_DEVICES");
    command.envs(visible.map(|visible| ("CUDA_VISIBLE_DEVICES", visible)));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("found "));
    let line = line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(line).unwrap()
}

/// A library that tells of three GPUs and two slices of a fourth.
fn library(directory: &FilePath) {
    let source = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("tests/devices/nvml.c");
    let library = directory.join("libnvidia-ml.so.1");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .arg(source)
        .status();
    assert!(status.expect("a C compiler is needed").success());
}

fn seen(inventory: &Inventory) -> Vec<(String, String)> {
    inventory.devices().map(|device| (device.address.clone(), device.key())).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(address, uuid)| (address.to_owned(), uuid.to_owned())).collect()
}

#[test]
fn where_there_is_no_driver_there_are_no_devices_and_a_reason() {
    let directory = Directory::new("no-library");
    std::fs::write(directory.path().join("libnvidia-ml.so.1"), "no library").unwrap();
    let none = look(directory.path(), "auto", None);
    assert_eq!(none.devices().count(), 0);
    assert!(!none.hosts()[0].cpus().is_empty());
    let why = none.found().join("; ");
    assert!(why.contains("NVML: there is no NVIDIA driver") && why.contains("AMD: "), "{why}");
}

#[test]
fn what_the_library_tells_is_taken_over() {
    let directory = Directory::new("library");
    library(directory.path());
    let found = look(directory.path(), "auto", None);
    let all = [
        ("0", "GPU-00000000"),
        ("1", "GPU-11111111"),
        ("2", "GPU-22222222"),
        ("3:0", "MIG-a"),
        ("3:2", "MIG-b"),
    ];
    assert_eq!(seen(&found), pairs(&all));
    assert!(found.found()[0].contains("NVML: 5 by driver 999.1"), "{:?}", found.found());
    let devices: Vec<_> = found.devices().collect();
    assert_eq!(devices[0].name.as_deref(), Some("Invented GPU"));
    assert_eq!((devices[0].memory, devices[3].memory), (Some(80 << 30), Some(10 << 30)));
    assert_eq!(devices[1].pci.as_deref(), Some("0000:11:00.0"));
    assert_eq!(devices[3].parent.as_deref(), Some("GPU-33333333"));
    // 0 and 1 have two links with each other, 1 and 2 a PCIe switch in common; the slices have what they are of.
    assert_eq!(found.path("GPU-00000000", "GPU-11111111"), Some(Path::NvLink(2)));
    assert_eq!(found.path("GPU-11111111", "GPU-22222222"), Some(Path::Switch));
    assert_eq!(found.path("GPU-00000000", "GPU-22222222"), Some(Path::Host));
    assert_eq!(found.path("MIG-a", "MIG-b"), Some(Path::Switch));
    // A link that leads to no GPU leads to a switch.
    assert_eq!(devices[2].fabric.as_deref(), Some("nvswitch"));
    assert_eq!(devices[0].fabric, None);
    assert_eq!(seen(&look(directory.path(), "nvml", Some("0"))), pairs(&all), "all devices, visible or not");
    // By what a list that exists may call them, whatever addresses they have there.
    let entries: Vec<Option<&str>> = devices.iter().map(|device| device.entry.as_deref()).collect();
    assert_eq!(entries, [Some("0"), Some("1"), Some("2"), None, None]);
}

#[test]
fn ranks_of_a_group_see_what_the_library_and_the_list_agree_on() {
    let directory = Directory::new("ranks");
    library(directory.path());
    let run = |own: Option<&str>, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringfold"));
        command.args(["run", "-n", "1", "--gpus-per-task", "1"]).args(arguments);
        command.args(["--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]).stdin(Stdio::null());
        command.env("LD_LIBRARY_PATH", directory.path()).env("XDG_RUNTIME_DIR", directory.path());
        command.env_remove("CUDA_VISIBLE_DEVICES").envs(own.map(|own| ("CUDA_VISIBLE_DEVICES", own)));
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    };
    assert_eq!(run(None, &[]).unwrap(), "[0] GPU-00000000\n");
    assert_eq!(run(Some("2"), &[]).unwrap(), "[0] 2\n");
    assert_eq!(run(Some("2"), &["--env", "CUDA_VISIBLE_DEVICES=1"]).unwrap(), "[0] 1\n");
    // Of all devices the first is given, which the list does not have: what is there instead is not used.
    let refused = run(Some("2"), &["--devices", "nvml"]).unwrap_err();
    assert!(refused.contains("which does not have GPU-00000000"), "{refused}");
}

#[test]
fn what_is_visible_is_all_there_is() {
    let directory = Directory::new("visible");
    library(directory.path());
    let shown = |text: &str| seen(&look(directory.path(), "auto", Some(text)));
    assert_eq!(shown("2,0"), pairs(&[("1", "GPU-00000000"), ("0", "GPU-22222222")]));
    assert_eq!(shown("GPU-1"), pairs(&[("0", "GPU-11111111")]));
    assert_eq!(shown("MIG-b"), pairs(&[("0", "MIG-b")]));
    assert_eq!(shown(""), []);
    assert_eq!(shown("0,9,1"), pairs(&[("0", "GPU-00000000")]));
    let linked = look(directory.path(), "auto", Some("1,0"));
    assert_eq!(linked.path("GPU-00000000", "GPU-11111111"), Some(Path::NvLink(2)));
    // The same by a configured list, and by a script, whose addresses are indices into the list that exists.
    assert_eq!(seen(&look(directory.path(), "1", None)), pairs(&[("0", "GPU-11111111")]));
    let script = directory.path().join("discover.sh");
    std::fs::write(&script, "#!/bin/sh\necho '{\"name\": \"gpu\", \"addresses\": [\"0\"]}'\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let by_script = format!("script:{}", script.display());
    let found = look(directory.path(), &by_script, Some("2,1"));
    assert_eq!(seen(&found), pairs(&[("0", "GPU-22222222")]));
    assert_eq!(found.devices().next().unwrap().memory, Some(80 << 30));
}
