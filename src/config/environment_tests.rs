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
    ])
    .unwrap();
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
    assert_eq!(config.generation, 2, "a restart is a new generation");
    assert_ne!(config.world_id, 0);
    assert_eq!(config.launcher, Launcher::Torchrun);
    let mut own_port = TORCHRUN.to_vec();
    own_port.push((PORT, "5000"));
    assert_eq!(from(&own_port).unwrap().store.as_deref(), Some("node-0:5000"));
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
