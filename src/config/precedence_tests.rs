//! Who outdoes whom: the builder the environment, the environment the file, the file the default; for every key.

use super::*;
use std::ffi::OsString;

/// A key; what the file, the environment and the builder say of it, as it is shown.
type Row = (&'static str, &'static str, &'static str, &'static str, fn(Config) -> Config);

const ROWS: &[Row] = &[
    ("rank", "1", "2", "3", |c| c.with_rank(3)),
    ("world_size", "4", "5", "6", |c| c.with_world_size(6)),
    ("local_rank", "1", "2", "3", |c| c.with_local(3, 4)),
    ("local_world_size", "3", "4", "5", |c| c.with_local(0, 5)),
    ("store", "a:1", "b:2", "c:3", |c| c.with_store("c:3")),
    ("store_host", "launcher", "rank0", "launcher", |c| c.with_launcher_hosts_store(true)),
    ("port", "1", "2", "3", |c| c.with_port(3)),
    ("interface", "lo", "eth0", "eth1", |c| c.with_interface("eth1")),
    ("generation", "1", "2", "3", |c| c.with_generation(3)),
    ("attempt_id", "1", "2", "3", |c| c.with_attempt_id(3)),
    ("task", "{}", "{ }", "{  }", |c| c.with_task("{  }")),
    ("world_id", "0x1", "0x2", "0x3", |c| c.with_world_id(3)),
    ("deadline", "1s", "20ms", "3s", |c| c.with_deadline(Duration::from_secs(3))),
    ("init_deadline", "1s", "2s", "3s", |c| c.with_init_deadline(Duration::from_secs(3))),
    ("heartbeat", "1s", "2s", "3s", |c| c.with_heartbeat_deadline(Duration::from_secs(3))),
    ("algorithm", "ring", "direct", "pairwise", |c| c.with_algorithm("pairwise")),
    ("backend", "shm", "tcp", "auto", |c| c.with_backend(BackendChoice::Auto)),
    ("mpi_direct", "yes", "no", "yes", |c| c.with_mpi_direct(true)),
    ("mpi_blocking", "yes", "no", "yes", |c| c.with_mpi_blocking(true)),
    ("check", "auto", "normal", "strict", |c| c.with_check("strict")),
    ("table", "all_reduce: .. ring", "all_reduce: .. binomial_tree", "barrier: .. recursive_doubling", |c| {
        c.with_table("barrier: .. recursive_doubling")
    }),
    ("trace", "/a", "/b", "/c", |c| c.with_trace("/c")),
    ("devices", "auto", "none", "0,1", |c| c.with_devices("0,1")),
    ("device_claims", "/a", "/b", "/c", |c| c.with_device_claims("/c")),
    ("nccl", "/a", "/b", "/c", |c| c.with_nccl("/c")),
    ("cuda", "/a", "/b", "/c", |c| c.with_cuda("/c")),
    ("cuda_device", "1", "2", "3", |c| c.with_cuda_device(3)),
    ("log", "info", "debug", "trace", |c| c.with_log("trace")),
];

/// A file of the test, gone at its end.
struct File(PathBuf);

impl File {
    fn with(name: &str, text: &str) -> File {
        let path = std::env::temp_dir().join(format!("ringfold-{name}-{}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn read(file: Option<&File>, names: &[(&str, &str)]) -> Result<Config> {
    environment::read(|name| {
        if name == environment::CONFIG {
            return file.map(|file| file.0.clone().into_os_string());
        }
        names.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    })
}

#[test]
fn every_key_can_be_said_everywhere_and_the_nearest_wins() {
    for key in keys::KEYS {
        let row = ROWS.iter().find(|row| row.0 == key.name);
        let &(name, of_file, of_environment, of_builder, build) =
            row.unwrap_or_else(|| panic!("no row for {}", key.name));
        let file = File::with(name, &format!("{name} = \"{of_file}\"\n"));
        assert_ne!(key.show(&read(None, &[]).unwrap()).as_deref(), Some(of_file), "{name}");
        let from_file = read(Some(&file), &[]).unwrap();
        assert_eq!(key.show(&from_file).as_deref(), Some(of_file), "{name} in the file");

        // These belong together: a launcher's names without a rank and a number of ranks say nothing.
        let mut names = vec![(key.environment, of_environment)];
        let place = [environment::RANK, environment::WORLD_SIZE];
        if place.contains(&key.environment) || key.environment.contains("LOCAL") {
            names.extend([(environment::RANK, "4"), (environment::WORLD_SIZE, "9")]);
        }
        if name == "local_rank" {
            names.push((environment::LOCAL_WORLD_SIZE, "5"));
        }
        let from_both = read(Some(&file), &names).unwrap();
        assert_eq!(key.show(&from_both).as_deref(), Some(of_environment), "{name} in the environment");
        assert_eq!(key.show(&build(from_both)).as_deref(), Some(of_builder), "{name} by the builder");
    }
    assert_eq!(ROWS.len(), keys::KEYS.len());
}

#[test]
fn names_in_files_and_in_the_environment_go_by_one_rule() {
    for key in keys::KEYS {
        assert_eq!(key.environment, format!("RINGFOLD_{}", key.name.to_uppercase()));
    }
}

#[test]
fn a_launcher_outdoes_the_file_and_its_own_names_the_launcher() {
    let file = File::with("launcher", "world_size = 7\nrank = 6\nstore = \"a:1\"\ngeneration = 9\n");
    let torchrun = [
        ("RANK", "0"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "b"),
        ("MASTER_PORT", "2"),
        ("TORCHELASTIC_RESTART_COUNT", "4"),
    ];
    let config = read(Some(&file), &torchrun).unwrap();
    assert_eq!(config.place().unwrap(), (0, 2));
    assert_eq!((config.store.as_deref(), config.generation), (Some("b:3"), 4));
    let mut names = torchrun.to_vec();
    names.extend([(environment::STORE, "c:4"), (environment::GENERATION, "5")]);
    let config = read(Some(&file), &names).unwrap();
    assert_eq!((config.store.as_deref(), config.generation), (Some("c:4"), 5));
}

#[test]
fn numbers_in_files_may_go_without_quotes() {
    let mut config = Config::default();
    file::parse("rank = 1\nworld_size = 2\ndeadline = 1.5\nworld_id = \"0xff\"", "f", &mut config).unwrap();
    assert_eq!(config.place().unwrap(), (1, 2));
    assert_eq!((config.deadline, config.world_id), (Duration::from_millis(1500), 255));
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_what_is_allowed() {
    for (text, says) in [
        ("dead_line = 1", &["f.toml", "\"dead_line\"", "init_deadline", "world_size"][..]),
        ("rank = 1\n\ndeadline = ", &["f.toml, line 3"]),
        ("deadline = \"soon\"", &["deadline in f.toml", "\"soon\"", "500ms"]),
        ("deadline = true", &["f.toml", "deadline", "boolean"]),
        ("[transport]\nport = 1", &["f.toml", "\"transport\""]),
        ("rank = 1\nrank = 2", &["f.toml, line 2"]),
        ("store_host = \"me\"", &["store_host in f.toml", "launcher"]),
        ("check = \" \"", &["check in f.toml"]),
    ] {
        let error = file::parse(text, "f.toml", &mut Config::default()).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Configuration);
        for word in says {
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
    }
    let missing = Config::from_file("/nowhere/ringfold.toml").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::Configuration);
    assert!(missing.to_string().contains("/nowhere/ringfold.toml"), "{missing}");
}

#[test]
fn the_documentation_has_the_table_of_the_code() {
    let page = include_str!("keys.md");
    assert!(page.contains(&keys::markdown()), "src/config/keys.md should have:\n{}", keys::markdown());
}
