//! Discovery scripts as real processes, and what else devices are found by.

use super::claims::Directory;
use ringfold::device::{Device, Discovery, Inventory};
use ringfold::{Config, Error, ErrorKind, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn script(directory: &Directory, text: &str) -> PathBuf {
    let path = directory.path().join("discover.sh");
    // Written beside its place: a file that is open for writing cannot be run.
    let draft = directory.path().join("draft");
    fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&draft, &path).unwrap();
    path
}

/// Runs it, once more where another test was just forking with the script still open for writing.
fn discover(discovery: &Discovery) -> Result<Inventory> {
    loop {
        match Inventory::discover(discovery) {
            Err(error) if error.message().contains("Text file busy") => {
                std::thread::sleep(Duration::from_millis(5))
            }
            done => return done,
        }
    }
}

fn said(directory: &Directory, text: &str) -> Result<Inventory> {
    discover(&Discovery::Script(script(directory, text)))
}

fn refused(directory: &Directory, text: &str) -> Error {
    said(directory, text).unwrap_err()
}

#[test]
fn a_script_of_sparks_kind_tells_the_addresses() {
    let directory = Directory::new("script");
    let found =
        said(&directory, r#"echo "note" >&2; echo '{"name": "gpu", "addresses": ["0","1"]}'"#).unwrap();
    let addresses: Vec<&str> = found.devices().map(|device| device.address.as_str()).collect();
    assert_eq!(addresses, ["0", "1"]);
    assert!(found.found()[0].contains("2 gpu"), "{:?}", found.found());
    let host = &found.hosts()[0];
    assert!(!host.cpus().is_empty() && host.memory.is_some());
    let none = said(&directory, r#"echo '{"name": "gpu", "addresses": []}'"#).unwrap();
    assert_eq!(none.devices().count(), 0);
    let fpga = script(&directory, r#"echo '{"name": "fpga", "addresses": ["f1", "f2"]}'"#);
    let found = discover(&Discovery::Scripts(vec![("fpga".to_owned(), fpga)])).unwrap();
    assert_eq!(found.devices().map(|device| &*device.resource).collect::<Vec<_>>(), ["fpga", "fpga"]);
}

#[test]
fn what_spark_would_not_take_is_refused_with_the_scripts_own_words() {
    let directory = Directory::new("wrong");
    for (text, why) in [
        (r#"echo '{"name": "npu", "addresses": ["0"]}'"#, "told of \"npu\", and was asked for \"gpu\""),
        (r#"echo '{"name": "gpu", "addresses": ["0", "1", "0"]}'"#, "the address \"0\" twice"),
        (r#"echo '{"name": "gpu", "addresses": ["0", ""]}'"#, "an address without a name"),
        (r#"echo '{"name": "gpu", "addresses": [0, 1]}'"#, "invalid type: integer"),
        (r#"echo '{"addresses": ["0"]}'"#, "missing field `name`"),
        ("true", "printed \"\""),
        ("echo 'no GPU today' >&2; exit 3", "failed with status 3; it said \"no GPU today\""),
        ("echo oh >&2; kill -9 $$", "was killed by signal 9; it said \"oh\""),
    ] {
        let error = refused(&directory, text);
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.message().contains(why), "{error}");
    }
    let error = discover(&Discovery::Script("/no/such/script".into())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.message().contains("/no/such/script cannot be run"), "{error}");
    // Much on standard error does not stop it, and is not passed on as a whole.
    let error = refused(&directory, "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1");
    assert!(error.message().len() < 1000 && error.message().contains("xxx"));
}

#[test]
fn a_script_that_does_not_end_is_killed_with_all_that_it_started() {
    let directory = Directory::new("endless");
    let pid = directory.path().join("pid");
    let begun = Instant::now();
    let error = refused(&directory, &format!("sleep 1000 & echo $! > {}; sleep 1000", pid.display()));
    assert_eq!(error.kind(), ErrorKind::Deadline);
    assert!(error.message().contains("had not ended after 5s"), "{error}");
    assert!(begun.elapsed() >= Duration::from_secs(5));
    let child = fs::read_to_string(pid).unwrap();
    let path = PathBuf::from(format!("/proc/{}", child.trim()));
    let until = Instant::now() + Duration::from_secs(60);
    // Gone, or dead and not yet waited for by whoever has inherited it.
    let is_dead = |path: &Path| {
        fs::read_to_string(path.join("stat"))
            .map_or(true, |stat| stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
    };
    while !is_dead(&path) {
        assert!(Instant::now() < until, "what it started still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_configuration_says_where_to_look() {
    let of = |text: &str| Discovery::of(&Config::default().with_devices(text));
    assert_eq!(Discovery::of(&Config::default()).unwrap(), Discovery::Auto);
    assert_eq!(of("none").unwrap(), Discovery::None);
    assert_eq!(of("nvml").unwrap(), Discovery::Nvml);
    assert_eq!(of("amd").unwrap(), Discovery::Amd);
    assert_eq!(of(" GPU-8932f937 ").unwrap(), Discovery::Visible("GPU-8932f937".to_owned()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/data/dgx.json");
    let Discovery::Given(dgx) = of(&format!("file:{}", path.display())).unwrap() else {
        panic!("a file is read")
    };
    assert_eq!(dgx.devices().count(), 8);
    for wrong in ["all", "script:", "file:", "file:/no/such/file", "-1"] {
        assert_eq!(of(wrong).unwrap_err().kind(), ErrorKind::Configuration, "{wrong}");
    }
}

#[test]
fn what_is_given_gets_this_hosts_cpus_where_it_tells_of_none() {
    let here = Inventory::discover(&Discovery::None).unwrap();
    let listed =
        Inventory::of([ringfold::device::Host::new("x").with_devices([Device::new("gpu", "0")])]).unwrap();
    let found = Inventory::discover(&Discovery::Given(listed)).unwrap();
    assert_eq!(found.hosts()[0].nodes, here.hosts()[0].nodes);
    assert_eq!(found.hosts()[0].name, "x");
    let dgx = super::machines::described("dgx.json");
    assert_eq!(Inventory::discover(&Discovery::Given(dgx.clone())).unwrap(), dgx);
}
