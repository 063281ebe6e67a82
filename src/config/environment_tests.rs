use super::*;
use crate::error::ErrorKind;

fn from(pairs: &[(&str, &str)]) -> Result<Config> {
    read(|name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
}

const OPEN_MPI: [(&str, &str); 6] = [
    ("OMPI_COMM_WORLD_RANK", "1"),
    ("OMPI_COMM_WORLD_SIZE", "2"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
    ("PMIX_NAMESPACE", "1223098369"),
    ("OMPI_MCA_orte_hnp_uri", "1223098368.0;tcp://192.0.2.2:43479"),
];

const TORCHRUN: [(&str, &str); 8] = [
    ("RANK", "3"),
    ("WORLD_SIZE", "4"),
    ("LOCAL_RANK", "1"),
    ("LOCAL_WORLD_SIZE", "2"),
    ("MASTER_ADDR", "node-0"),
    ("MASTER_PORT", "29500"),
    ("TORCHELASTIC_RESTART_COUNT", "2"),
    ("TORCHELASTIC_RUN_ID", "job-7"),
];

#[test]
fn nothing_is_rank_0_of_1() {
    let config = from(&[]).unwrap();
    assert_eq!(config.place().unwrap(), (0, 1));
    assert_eq!(config.launcher, Launcher::None);
    assert_eq!(config.deadline, Duration::from_secs(1800));
    assert_eq!(config.init_deadline, Duration::from_secs(120));
    assert_eq!(config.heartbeat_deadline, Duration::from_secs(2));
}

#[test]
fn ringfold_names_fill_everything() {
    let config = from(&[
        (RANK, "1"),
        (WORLD_SIZE, "4"),
        (LOCAL_RANK, "1"),
        (LOCAL_WORLD_SIZE, "2"),
        (STORE, "[::1]:4000"),
        (STORE_HOST, "launcher"),
        (INTERFACE, "eth0"),
        (GENERATION, "7"),
        (WORLD_ID, "0xfeed"),
        (DEADLINE, "1.5"),
        (INIT_DEADLINE, "2min"),
        (HEARTBEAT, " 250ms "),
        (PORT, "4001"),
        (ALGORITHM, "ring"),
        (CHECK, "strict"),
        (TABLE, " all_reduce: .. ring "),
    ])
    .unwrap();
    assert_eq!(config.table.as_deref(), Some("all_reduce: .. ring"));
    assert_eq!(config.place().unwrap(), (1, 4));
    assert_eq!((config.local_rank, config.local_size), (Some(1), Some(2)));
    assert_eq!(config.store.as_deref(), Some("[::1]:4000"));
    assert!(config.launcher_hosts_store);
    assert_eq!(config.interface.as_deref(), Some("eth0"));
    assert_eq!((config.generation, config.world_id), (7, 0xfeed));
    assert_eq!(config.deadline, Duration::from_millis(1500));
    assert_eq!(config.init_deadline, Duration::from_secs(120));
    assert_eq!(config.heartbeat_deadline, Duration::from_millis(250));
    assert_eq!(config.port, Some(4001));
    assert_eq!((config.algorithm.as_deref(), config.check.as_deref()), (Some("ring"), Some("strict")));
    assert_eq!(config.launcher, Launcher::Ringfold);
}

#[test]
fn torchrun_keeps_its_port() {
    let config = from(&TORCHRUN).unwrap();
    assert_eq!(config.place().unwrap(), (3, 4));
    assert_eq!(config.store.as_deref(), Some("node-0:29501"));
    assert_eq!(config.generation, 0, "agents of several hosts count restarts apart");
    assert_ne!(config.world_id, 0);
    assert_eq!(config.launcher, Launcher::Torchrun);
    let mut own_port = TORCHRUN.to_vec();
    own_port.push((PORT, "5000"));
    assert_eq!(from(&own_port).unwrap().store.as_deref(), Some("node-0:5000"));
}

#[test]
fn a_port_set_on_the_configuration_is_where_the_group_meets() {
    let place = |config: Config| config.meeting_place();
    assert_eq!(place(from(&TORCHRUN).unwrap()).as_deref(), Some("node-0:29501"));
    assert_eq!(place(from(&TORCHRUN).unwrap().with_port(5000)).as_deref(), Some("node-0:5000"));
    assert_eq!(place(slurm_with(&[]).unwrap().with_port(5000)).as_deref(), Some("node007:5000"));
    let portless =
        TORCHRUN.map(|(name, value)| if name == "MASTER_PORT" { ("UNUSED", value) } else { (name, value) });
    assert_eq!(place(from(&portless).unwrap().with_port(5000)).as_deref(), Some("node-0:5000"));
    // A store that somebody has set has its own.
    let mut own_store = TORCHRUN.to_vec();
    own_store.push((STORE, "other:1"));
    assert_eq!(place(from(&own_store).unwrap().with_port(5000)).as_deref(), Some("other:1"));
    let set = from(&TORCHRUN).unwrap().with_port(5000);
    assert_eq!(place(set.clone().with_store("node-0:29501")).as_deref(), Some("node-0:29501"));
    assert_eq!(place(Config { store: Some("other:1".into()), ..set }).as_deref(), Some("other:1"));
    assert_eq!(place(Config::default().with_port(5000)), None);
}

#[test]
fn a_restart_by_torchrun_on_one_host_is_a_new_generation() {
    let one_host =
        TORCHRUN.map(|(name, value)| if name == "LOCAL_WORLD_SIZE" { (name, "4") } else { (name, value) });
    assert_eq!(from(&one_host).unwrap().generation, 2);
    let mut own = one_host.to_vec();
    own.push((GENERATION, "9"));
    assert_eq!(from(&own).unwrap().generation, 9);
}

const SLURM: [(&str, &str); 9] = [
    ("SLURM_PROCID", "3"),
    ("SLURM_NTASKS", "4"),
    ("SLURM_STEP_NUM_TASKS", "4"),
    ("SLURM_LOCALID", "1"),
    ("SLURM_NODEID", "1"),
    ("SLURM_JOB_ID", "4711"),
    ("SLURM_STEP_ID", "0"),
    ("SLURM_STEP_NODELIST", "node[007-008]"),
    ("SLURM_STEP_TASKS_PER_NODE", "2(x2)"),
];

fn slurm_with(changes: &[(&str, Option<&str>)]) -> Result<Config> {
    let mut pairs: Vec<(&str, &str)> = SLURM.to_vec();
    for (name, value) in changes {
        pairs.retain(|(n, _)| n != name);
        pairs.extend(value.map(|value| (*name, value)));
    }
    from(&pairs)
}

#[test]
fn slurm_tells_everything() {
    let config = slurm_with(&[]).unwrap();
    assert_eq!((config.launcher, config.place().unwrap()), (Launcher::Slurm, (3, 4)));
    assert_eq!((config.local_rank, config.local_size), (Some(1), Some(2)));
    let store = config.store.clone().unwrap();
    let port: u16 = store.strip_prefix("node007:").unwrap().parse().unwrap();
    assert!((20_000..32_000).contains(&port));
    assert_ne!(config.world_id, 0);
    assert_eq!(slurm_with(&[("SLURM_PROCID", Some("0"))]).unwrap().store, config.store, "the same for all");
    let next = slurm_with(&[("SLURM_STEP_ID", Some("1"))]).unwrap();
    assert!(next.store != config.store && next.world_id != config.world_id, "steps are apart");
    for missing in ["SLURM_STEP_NUM_TASKS", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE"] {
        let config = slurm_with(&[(missing, None)]).unwrap();
        assert_eq!(
            (config.launcher, config.place().unwrap(), config.store),
            (Launcher::Slurm, (3, 4), Some(store.clone()))
        );
    }
    assert_eq!(slurm_with(&[(PORT, Some("5000"))]).unwrap().store.as_deref(), Some("node007:5000"));
    assert_eq!(slurm_with(&[(STORE, Some("other:1"))]).unwrap().store.as_deref(), Some("other:1"));
    assert_eq!(slurm_with(&[("SLURM_RESTART_COUNT", Some("2"))]).unwrap().generation, 2, "requeued twice");
    assert_eq!(slurm_with(&[("SLURM_HET_SIZE", Some("2"))]).unwrap().store, None);
}

#[test]
fn slurm_on_one_node_needs_no_port() {
    let config = slurm_with(&[("SLURM_STEP_NODELIST", Some("node007"))]).unwrap();
    assert_eq!((config.store, config.local_size), (None, Some(4)));
    assert_eq!(config.job, Some(Job::Name("slurm 4711.0".into())));
}

#[test]
fn only_tasks_of_a_step_are_slurms() {
    for own_step in ["4294967291", "4294967290"] {
        let config = slurm_with(&[("SLURM_STEP_ID", Some(own_step))]).unwrap();
        assert_eq!((config.launcher, config.place().unwrap()), (Launcher::None, (0, 1)), "a batch script");
    }
    let batch = slurm_with(&[("SLURM_STEP_ID", None), ("SLURM_STEP_NODELIST", None)]).unwrap();
    assert_eq!(batch.launcher, Launcher::None);
    let pmi = [("PMI_RANK", Some("3")), ("PMI_SIZE", Some("4")), ("PMI_FD", Some("6"))];
    assert_eq!(slurm_with(&pmi).unwrap().launcher, Launcher::Slurm, "srun --mpi=pmi2");
    let mut hydra = pmi.to_vec();
    hydra.extend([("MPI_LOCALRANKID", Some("1")), ("MPI_LOCALNRANKS", Some("2"))]);
    assert_eq!(slurm_with(&hydra).unwrap().launcher, Launcher::Mpich);
    for wrong in ["node[3", "node[9-1]", "a,,b"] {
        let error = slurm_with(&[("SLURM_STEP_NODELIST", Some(wrong))]).unwrap_err();
        assert!(
            error.to_string().contains("SLURM_STEP_NODELIST") && error.to_string().contains(wrong),
            "{error}"
        );
    }
    let error = slurm_with(&[("SLURM_PROCID", Some("4"))]).unwrap_err();
    assert!(error.to_string().contains("SLURM_PROCID 4 and SLURM_STEP_NUM_TASKS 4"), "{error}");
}

#[test]
fn an_indexed_job_knows_its_rank() {
    const INDEX: &str = "JOB_COMPLETION_INDEX";
    let config = from(&[(INDEX, "2"), (WORLD_SIZE, "3"), (STORE, "train-0.train:29400")]).unwrap();
    assert_eq!((config.launcher, config.place().unwrap()), (Launcher::Kubernetes, (2, 3)));
    assert_eq!(config.store.as_deref(), Some("train-0.train:29400"));
    let within = from(&[(INDEX, "2"), (WORLD_SIZE, "4"), (RANK, "1")]).unwrap();
    assert_eq!((within.launcher, within.place().unwrap()), (Launcher::Ringfold, (1, 4)));
    let error = from(&[(INDEX, "2")]).unwrap_err();
    assert!(
        error.to_string().contains("RINGFOLD_WORLD_SIZE") && error.to_string().contains(INDEX),
        "{error}"
    );
    let error = from(&[(INDEX, "3"), (WORLD_SIZE, "3")]).unwrap_err();
    assert!(error.to_string().contains("JOB_COMPLETION_INDEX 3"), "{error}");
}

#[test]
fn a_directory_is_a_store() {
    let place = [(RANK, "1"), (WORLD_SIZE, "2")];
    let with = |more: &[(&'static str, &'static str)]| from(&[&place[..], more].concat());
    assert_eq!(with(&[(STORE, "file:///a b/c:d")]).unwrap().store.as_deref(), Some("file:///a b/c:d"));
    assert!(with(&[(STORE, "file://host/x")]).unwrap_err().to_string().contains("file:///shared/job"));
    let error = with(&[(STORE, "file:///x"), (STORE_HOST, "launcher")]).unwrap_err();
    assert!(error.to_string().contains("RINGFOLD_STORE_HOST"), "{error}");
}

#[test]
fn names_that_nobody_reads_are_known_for_slips() {
    // None that has a constant may be missing from the keys.
    let source = include_str!("environment.rs");
    let constants = source.split(": &str = \"").skip(1).filter_map(|rest| rest.split('"').next());
    let names: Vec<&str> = constants.filter(|name| name.starts_with("RINGFOLD_")).collect();
    assert_eq!(names.len(), KEYS.len() + 1, "the keys and the file");
    assert!(!names.into_iter().any(is_unknown));
    assert!(is_unknown("RINGFOLD_DEADLNE") && is_unknown("RINGFOLD_"));
    assert!(!is_unknown(DEADLINE) && !is_unknown("RINGFOLD_TEST_MEMBER") && !is_unknown("OTHER"));
}

#[test]
fn mpi_launchers_are_known_and_name_their_job() {
    let config = from(&OPEN_MPI).unwrap();
    assert_eq!((config.launcher, config.place().unwrap()), (Launcher::OpenMpi, (1, 2)));
    assert!(matches!(&config.job, Some(Job::Name(name)) if name.starts_with("1223098369 ")));
    let without_pmix: Vec<_> = OPEN_MPI.iter().copied().filter(|(n, _)| *n != "PMIX_NAMESPACE").collect();
    assert_eq!(from(&without_pmix).unwrap().job, None, "a daemon's address alone is not a job");
    let mpich = [
        ("PMI_RANK", "0"),
        ("PMI_SIZE", "2"),
        ("MPI_LOCALRANKID", "0"),
        ("MPI_LOCALNRANKS", "2"),
        ("PMI_FD", "6"),
        ("HYDI_CONTROL_FD", "7"),
    ];
    let config = from(&mpich).unwrap();
    assert_eq!((config.launcher, config.local_size), (Launcher::Mpich, Some(2)));
    assert_eq!(config.job, Some(Job::Inherited { pmi: Some(6), control: Some(7) }));
}

#[test]
fn the_first_source_wins_as_a_whole() {
    let mut all = OPEN_MPI.to_vec();
    all.extend(TORCHRUN);
    assert_eq!(from(&all).unwrap().launcher, Launcher::Torchrun);
    all.extend([(RANK, "0"), (WORLD_SIZE, "1")]);
    let config = from(&all).unwrap();
    assert_eq!((config.launcher, config.place().unwrap()), (Launcher::Ringfold, (0, 1)));
    assert_eq!(config.local_size, None, "the local size of another launcher says nothing");
    assert_eq!(config.store, None);
}

#[test]
fn a_generic_name_alone_is_no_launcher() {
    assert_eq!(from(&[("RANK", "first")]).unwrap().launcher, Launcher::None);
}

#[test]
fn bad_values_name_variable_value_and_what_is_allowed() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        (&[(RANK, "4"), (WORLD_SIZE, "4")], &["RINGFOLD_RANK 4", "RINGFOLD_WORLD_SIZE 4", "0 to 3"]),
        (&[(RANK, "0"), (WORLD_SIZE, "0")], &["RINGFOLD_WORLD_SIZE 0", "at least 1"]),
        (&[(RANK, "-1"), (WORLD_SIZE, "4")], &["RINGFOLD_RANK", "\"-1\"", "whole number"]),
        (&[(RANK, "0"), (WORLD_SIZE, "four")], &["RINGFOLD_WORLD_SIZE", "\"four\""]),
        (&[(RANK, "0")], &["RINGFOLD_RANK is set", "RINGFOLD_WORLD_SIZE is not"]),
        (&[(WORLD_SIZE, "2")], &["RINGFOLD_WORLD_SIZE is set"]),
        (&[(STORE, "")], &["RINGFOLD_STORE", "\"\""]),
        (&[(STORE, "host")], &["RINGFOLD_STORE", "\"host\"", "host:port"]),
        (&[(STORE, ":1")], &["host:port"]),
        (&[(STORE, "fe80::1:2")], &["host:port"]),
        (&[(STORE, "a:0")], &["host:port"]),
        (&[(STORE, "a:65536")], &["host:port"]),
        (&[(STORE_HOST, "me")], &["RINGFOLD_STORE_HOST", "launcher"]),
        (&[(PORT, "0")], &["RINGFOLD_PORT", "1 to 65535"]),
        (&[(INTERFACE, "  ")], &["RINGFOLD_INTERFACE"]),
        (&[(GENERATION, "4294967296")], &["RINGFOLD_GENERATION", "4294967295"]),
        (&[(WORLD_ID, "0xg")], &["RINGFOLD_WORLD_ID", "0xg"]),
        (&[(DEADLINE, "soon")], &["RINGFOLD_DEADLINE", "soon", "500ms"]),
        (&[(DEADLINE, "0")], &["RINGFOLD_DEADLINE", "above zero"]),
        (&[(DEADLINE, "nan")], &["RINGFOLD_DEADLINE"]),
        (&[(HEARTBEAT, "-1s")], &["RINGFOLD_HEARTBEAT", "-1s"]),
        (&[(INIT_DEADLINE, "1e300")], &["RINGFOLD_INIT_DEADLINE", "a year"]),
        (
            &[("PMI_RANK", "0"), ("PMI_SIZE", "2"), ("MPI_LOCALRANKID", "2"), ("MPI_LOCALNRANKS", "2")],
            &["MPI_LOCALRANKID 2"],
        ),
        (
            &[("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "65535")],
            &["MASTER_PORT", "65535", "RINGFOLD_PORT"],
        ),
    ];
    for (pairs, says) in cases {
        let error = from(pairs).expect_err(&format!("{pairs:?}"));
        assert_eq!(error.kind(), ErrorKind::Configuration);
        for word in *says {
            assert!(error.to_string().contains(word), "{pairs:?}: {error}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let error = read(|name| (name == INTERFACE).then(|| OsString::from_vec(vec![0xff]))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains(INTERFACE));
}
