//! Slurm and Kubernetes: processes with the variables that `srun` and an indexed job set.

use crate::{PERF, RINGFOLD, Rank, Variables, all_is_well, free_port, start_all};
use std::process::Command;

/// The variables of a task, two a node.
fn task(rank: usize, world: usize, step: u32, nodes: &str) -> Variables {
    vec![
        ("SLURM_PROCID", rank.to_string()),
        ("SLURM_NTASKS", world.to_string()),
        ("SLURM_LOCALID", (rank % 2).to_string()),
        ("SLURM_NODEID", (rank / 2).to_string()),
        ("SLURM_JOB_ID", std::process::id().to_string()),
        ("SLURM_STEP_ID", step.to_string()),
        ("SLURM_STEP_NODELIST", nodes.to_owned()),
    ]
}

/// Two nodes, as far as addresses go.
const NODES: &str = "127.0.0.[1-2]";

#[test]
fn tasks_on_several_nodes_meet_on_the_first() {
    // Two steps of one job at a time: they do not mix.
    let steps = [10, 11].map(|step| start_all(4, |rank| task(rank, 4, step, NODES)));
    steps.into_iter().for_each(all_is_well);
}

#[test]
fn tasks_on_one_node_find_each_other() {
    let steps = [20, 21].map(|step| {
        start_all(2, |rank| {
            let mut variables = task(rank, 2, step, "whatever-it-is-called");
            variables.push(("SLURM_STEP_NUM_TASKS", "2".into()));
            variables.push(("SLURM_STEP_TASKS_PER_NODE", "2".into()));
            variables
        })
    });
    steps.into_iter().for_each(all_is_well);
}

#[test]
fn the_port_can_be_chosen() {
    let port = free_port();
    let with_port = |rank| {
        let mut variables = task(rank, 2, 30, NODES);
        variables.push(("RINGFOLD_PORT", port.to_string()));
        variables
    };
    let told = Command::new(RINGFOLD).arg("info").env_clear().envs(with_port(1)).output().unwrap();
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("Slurm") && told.contains("1 of 2"), "{told}");
    assert!(told.contains(&format!("127.0.0.1:{port}")), "{told}");
    all_is_well(start_all(2, with_port));
}

#[test]
fn a_task_that_does_not_come_is_named() {
    let ranks = [0, 2].map(|rank| {
        let mut variables = task(rank, 3, 40, NODES);
        variables.push(("RINGFOLD_INIT_DEADLINE", "3s".into()));
        Rank::start(&PERF, &variables)
    });
    for rank in ranks {
        let error = rank.error();
        assert!(error.contains("rank 1 never connected"), "{error}");
    }
}

fn pod(index: usize, world: usize, store: &str) -> Variables {
    vec![
        ("JOB_COMPLETION_INDEX", index.to_string()),
        ("RINGFOLD_WORLD_SIZE", world.to_string()),
        ("RINGFOLD_STORE", store.to_owned()),
        ("RINGFOLD_INTERFACE", "lo".to_owned()),
    ]
}

#[test]
fn pods_of_an_indexed_job_meet_at_the_first() {
    let store = format!("localhost:{}", free_port());
    all_is_well(start_all(3, |index| pod(index, 3, &store)));
}

#[test]
fn a_pod_without_the_number_of_pods_is_told() {
    let error = Rank::start(&PERF, &pod(1, 3, "localhost:1").into_iter().take(1).collect()).error();
    assert!(error.contains("JOB_COMPLETION_INDEX is set and RINGFOLD_WORLD_SIZE is not"), "{error}");
    let error = Rank::start(&PERF, &pod(1, 3, "localhost:1").into_iter().take(2).collect()).error();
    assert!(error.contains("set RINGFOLD_STORE"), "{error}");
}

/// The example says the same thing in several places.
#[test]
fn the_manifest_agrees_with_itself() {
    let text = include_str!("../../examples/kubernetes.yaml");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let after = |name: &str| {
        let at = lines.iter().position(|line| *line == format!("- name: {name}")).unwrap();
        lines[at + 1].strip_prefix("value: ").unwrap().trim_matches('"').to_owned()
    };
    let names: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("name: ")).collect();
    let [service, job] = names[..] else { panic!("{names:?}") };
    let world = after("RINGFOLD_WORLD_SIZE");
    for line in [
        format!("completions: {world}"),
        format!("parallelism: {world}"),
        format!("subdomain: {service}"),
        format!("job-name: {job}"),
        "completionMode: Indexed".to_owned(),
    ] {
        assert!(lines.contains(&line.as_str()), "{line}");
    }
    assert!(after("RINGFOLD_STORE").starts_with(&format!("{job}-0.{service}:")));
}
