//! What tasks are given: devices, CPUs, memory; and what becomes of groups that ask for more than there is.

use crate::joined::joined_with;
use crate::programs::Place;
use ringfold::device::{Device, Discovery, Host, Inventory, Node, Placement, Policy, TaskRequest, assign};
use ringfold::task::{GroupError, TaskDescription, TaskGroup};
use ringfold::{Error, ErrorKind};
use std::sync::Barrier;

/// A machine with so many GPUs that only this test has.
fn machine(test: &str, gpus: usize) -> Discovery {
    let gpu = |at: usize| {
        Device::new("gpu", at.to_string()).with_uuid(format!("GPU-{test}-{}-{at}", std::process::id()))
    };
    Discovery::Given(Inventory::of([Host::here().with_devices((0..gpus).map(gpu))]).unwrap())
}

fn addresses(group: &TaskGroup) -> Result<Vec<Vec<String>>, GroupError> {
    group.run(|task| {
        task.barrier()?;
        let own = task.resources().addresses("gpu").into_iter().map(str::to_owned).collect();
        assert_eq!(task.devices().count(), task.resources().devices.len());
        // Everybody knows what everybody has.
        for info in task.task_infos() {
            assert_eq!(info.resources.devices.len(), task.devices().count());
        }
        let mut ring = task.ring();
        ring.sort_unstable();
        assert_eq!(ring, (0..task.num_tasks()).collect::<Vec<_>>());
        Ok::<_, Error>(own)
    })
}

#[test]
fn each_task_has_devices_of_its_own_or_its_share() {
    let group = |tasks: usize| TaskGroup::new(tasks).discovery(machine("own", 4));
    assert_eq!(addresses(&group(4).gpus_per_task(1.0)).unwrap(), [["0"], ["1"], ["2"], ["3"]]);
    assert_eq!(addresses(&group(2).gpus_per_task(2.0)).unwrap(), [["0", "1"], ["2", "3"]]);
    assert_eq!(addresses(&group(4).gpus_per_task(0.5)).unwrap(), [["0"], ["0"], ["1"], ["1"]]);
    let spread = group(2).gpus_per_task(0.5).policy(Policy::new(Placement::Spread));
    let spread = addresses(&spread).unwrap();
    assert_ne!(spread[0], spread[1]);
}

#[test]
fn a_group_that_does_not_fit_says_what_would() {
    let group = TaskGroup::new(4).discovery(machine("misfit", 3)).max_attempts(5);
    let error = addresses(&group.clone().gpus_per_task(1.0)).unwrap_err();
    assert_eq!((error.kind(), error.failures().len()), (ErrorKind::Unavailable, 0));
    for words in ["4 tasks ask for 1 gpu each", "there are 3", "3 tasks would fit"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    let many = addresses(&group.clone().cpus_per_task(1e6)).unwrap_err();
    assert_eq!(many.kind(), ErrorKind::Unavailable, "{many}");
    let much = addresses(&group.clone().memory_per_task(1 << 60)).unwrap_err();
    assert_eq!(much.kind(), ErrorKind::Unavailable, "{much}");
    let other = addresses(&group.clone().resource_per_task("fpga", 1.0)).unwrap_err();
    assert!(other.to_string().contains("fpga"), "{other}");
    for amount in [-1.0, 1.5, f64::NAN] {
        let wrong = addresses(&group.clone().gpus_per_task(amount)).unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::InvalidArgument, "{wrong}");
    }
    // The same of processes, none of which runs.
    let place = Place::new("misfit");
    let error = group.gpus_per_task(1.0).run_program(&place.program(4, "introduce")).unwrap_err();
    assert_eq!((error.kind(), place.notes().len()), (ErrorKind::Unavailable, 0));
}

#[test]
fn a_group_that_asks_for_nothing_is_not_refused_and_nobody_looks() {
    let broken = Discovery::Script("/nowhere/discovery.sh".into());
    let group = TaskGroup::new(3).discovery(broken);
    assert_eq!(addresses(&group.clone().gpus_per_task(0.0)).unwrap(), [[""; 0]; 3]);
    let error = addresses(&group.gpus_per_task(1.0)).unwrap_err();
    assert!(error.to_string().contains("/nowhere/discovery.sh"), "{error}");
}

#[test]
fn groups_do_not_take_each_others_devices() {
    let group = TaskGroup::new(2).discovery(machine("held", 2)).gpus_per_task(1.0);
    let (taken, over) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            group.run(|task| {
                if task.partition_id() == 0 {
                    taken.wait();
                    over.wait();
                }
                task.barrier()
            })
        });
        taken.wait();
        let error = addresses(&group.clone()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("held by other groups"), "{error}");
        over.wait();
    });
    assert_eq!(addresses(&group).unwrap(), [["0"], ["1"]]);
}

#[test]
fn groups_that_share_have_devices_at_the_same_time() {
    let group = TaskGroup::new(1).discovery(machine("shared", 1)).gpus_per_task(1.0);
    let group = group.policy(Policy::default().shared());
    let results = group.run(|_| addresses(&group)).unwrap();
    assert_eq!(results, [[["0"]]]);
}

#[test]
fn processes_find_their_devices_in_their_environment_and_run_where_they_are_pinned() {
    let place = Place::new("visible");
    let here = Host::here();
    let cpu = here.cpus()[0];
    let gpus = [0, 1].map(|at| {
        Device::new("gpu", at.to_string())
            .with_uuid(format!("GPU-{at}{at}-{}", std::process::id()))
            .with_numa(0)
    });
    let host = here.with_nodes([Node::new(0, [cpu])]).with_devices(gpus.clone());
    let group = TaskGroup::new(2)
        .discovery(Discovery::Given(Inventory::of([host]).unwrap()))
        .gpus_per_task(1.0)
        .policy(Policy::default().pinned(true));
    group.run_program(&place.program(2, "resources")).unwrap();
    let expected: Vec<String> = (0..2)
        .map(|task| {
            let uuid = gpus[task].uuid.as_ref().unwrap();
            format!("{task}: sees {uuid}, has {task} of gpu, may use CPUs {cpu}")
        })
        .collect();
    assert_eq!(place.notes(), expected);
}

#[test]
fn tasks_that_are_given_more_than_there_is_of_a_device_are_told_alike() {
    let gpu = Device::new("gpu", "0").with_uuid("GPU-twice");
    let inventory = Inventory::of([Host::new("a").with_devices([gpu])]).unwrap();
    let description = |amount: f64| {
        let request = [TaskRequest::new().amount("gpu", amount)];
        let mut description = TaskDescription::new(0);
        description.resources = assign(&inventory, &request, &Policy::default()).unwrap().tasks.remove(0);
        description
    };
    for error in joined_with(2, |_| description(1.0), |task| task.map(drop).unwrap_err()) {
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Configuration, Some(1)), "{error}");
        assert!(error.to_string().contains("GPU-twice is given to task 0 (1), task 1 (1)"), "{error}");
    }
    let halves = joined_with(2, |_| description(0.5), |task| task.unwrap().resources().devices[0].1);
    assert_eq!(halves, [0.5, 0.5]);
}
