//! Groups in threads.

use ringfold::task::monitor::{Monitor, State};
use ringfold::task::{FailureKind, TaskContext, TaskGroup};
use ringfold::{Config, Error, ErrorKind, Order, ReduceOp};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Only detects a hang.
const HANG: Duration = Duration::from_secs(60);

/// A group whose calls end by themselves should a test be wrong.
fn group(tasks: usize) -> TaskGroup {
    TaskGroup::new(tasks)
        .config(Config::default().with_deadline(HANG))
        .backoff(Duration::ZERO, Duration::ZERO)
}

#[test]
fn results_come_by_partition_and_tasks_know_who_they_are() {
    for tasks in [1, 2, 3, 5, 8] {
        let results = group(tasks).property("user", "ann").max_attempts(4).run(|task| {
            assert_eq!((task.num_tasks(), task.attempt_number(), task.max_attempts()), (tasks, 0, 4));
            assert_eq!((task.local_property("user"), task.local_property("none")), (Some("ann"), None));
            assert_eq!(task.local_properties().len(), 1);
            let infos = task.task_infos();
            assert!(infos.iter().enumerate().all(|(at, info)| info.partition == at));
            assert_eq!((infos.len(), infos[0].process), (tasks, std::process::id()));
            assert!(!infos[0].host.is_empty() && task.devices().next().is_none());
            // Whoever is last in line ends first.
            std::thread::sleep(Duration::from_millis((tasks - task.partition_id()) as u64));
            Ok::<_, Error>(task.partition_id() * 10)
        });
        assert_eq!(results.unwrap(), (0..tasks).map(|task| task * 10).collect::<Vec<_>>());
    }
}

#[test]
fn nobody_passes_a_barrier_before_all_are_there() {
    let here = AtomicUsize::new(0);
    group(5)
        .run(|task| {
            for round in 1..=50 {
                here.fetch_add(1, Ordering::SeqCst);
                task.barrier()?;
                let count = here.load(Ordering::SeqCst);
                assert!(count >= round * 5, "{count} of {round} rounds");
                task.barrier()?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn messages_of_any_length_are_gathered_by_partition() {
    let message = |task: usize, length: usize| vec![task as u8 + 1; length];
    // None, short ones, the longest short one, one more, many; alike and not.
    let lengths: [fn(usize) -> usize; 6] = [
        |_| 0,
        |task| task,
        |_| 120,
        |_| 121,
        |task| task * 60_000,
        |task| if task == 1 { 1 << 20 } else { 0 },
    ];
    group(4)
        .run(|task| {
            for length in lengths {
                let mine = message(task.partition_id(), length(task.partition_id()));
                let all = task.all_gather_bytes(&mine)?;
                assert_eq!(all, (0..4).map(|other| message(other, length(other))).collect::<Vec<_>>());
            }
            assert_eq!(task.all_gather("é".repeat(task.partition_id()))?, ["", "é", "éé", "ééé"]);
            Ok::<_, Error>(())
        })
        .unwrap();
}

#[test]
fn bytes_that_are_no_text_are_told_to_be_none() {
    let error = group(2)
        .run(|task| match task.partition_id() {
            0 => task.all_gather("text").map(drop),
            _ => task.all_gather_bytes([0xff, 0xfe]).map(drop),
        })
        .unwrap_err();
    let failure = &error.failures()[0];
    assert_eq!(failure.kind, FailureKind::Error);
    assert!(failure.message.contains("task 1 gives is no text"), "{failure}");
}

#[test]
fn communicators_have_partitions_as_ranks_and_orders_of_their_own() {
    group(3)
        .run(|task| {
            let (one, other) = (task.communicator()?, task.communicator()?);
            assert_eq!((one.rank(), one.world_size()), (task.partition_id(), 3));
            std::thread::scope(|scope| {
                let besides = scope.spawn(move || {
                    let mut data = [1u64; 1000];
                    (0..20).try_for_each(|_| other.all_reduce(&mut data, ReduceOp::Max))
                });
                for _ in 0..20 {
                    task.barrier()?;
                    one.with(ringfold::Options::new().order(Order::Fixed))
                        .all_reduce(&mut [0.5f32], ReduceOp::Sum)?;
                }
                besides.join().unwrap()
            })
        })
        .unwrap();
}

/// Every task's error, where a group of four does this; the failure that counts.
fn errors(
    body: impl Fn(&TaskContext) -> ringfold::Result<()> + Sync,
) -> (Vec<Option<Error>>, ringfold::task::TaskFailure) {
    let told = Mutex::new(vec![None; 4]);
    let error = group(4)
        .run(|task| {
            let result = body(task);
            told.lock().unwrap()[task.partition_id()] = result.as_ref().err().cloned();
            result
        })
        .unwrap_err();
    assert_eq!(error.failures().len(), 1);
    (told.into_inner().unwrap(), error.failures()[0].clone())
}

#[test]
fn who_calls_something_else_is_named_to_all() {
    let (told, failure) = errors(|task| match task.partition_id() {
        2 => task.all_gather("who am I").map(drop),
        _ => task.barrier(),
    });
    assert_eq!((failure.partition, failure.kind), (2, FailureKind::Error));
    for (task, error) in told.iter().enumerate() {
        let error = error.as_ref().unwrap_or_else(|| panic!("task {task} has no error"));
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Mismatch, Some(2)), "{task}: {error}");
    }
}

#[test]
fn who_ends_without_calling_is_named_to_all() {
    let (told, failure) = errors(|task| match task.partition_id() {
        1 => Ok(()),
        _ => task.barrier(),
    });
    assert_eq!((failure.partition, failure.kind), (1, FailureKind::Error));
    assert!(failure.message.contains("it left the group"), "{failure}");
    for (task, error) in told.iter().enumerate().filter(|&(task, _)| task != 1) {
        let error = error.as_ref().unwrap_or_else(|| panic!("task {task} has no error"));
        assert_eq!((error.kind(), error.culprit()), (ErrorKind::Closed, Some(1)), "{task}: {error}");
    }
}

#[test]
fn a_failure_cancels_the_others_wherever_they_are() {
    let text = |error: Error| error.to_string();
    let error = group(4)
        .run(|task| {
            let comm = task.communicator().map_err(text)?;
            match task.partition_id() {
                0 => task.barrier().map_err(text),
                1 => comm.all_reduce(&mut [0f32; 100], ReduceOp::Sum).map_err(text),
                2 => {
                    assert!(task.cancellation().sleep(HANG), "it is told");
                    let reason = task.cancellation().reason().unwrap();
                    assert!(task.cancellation().is_cancelled());
                    assert_eq!(reason.culprit, 3, "{}", reason.detail);
                    assert!(reason.detail.contains("task 3 failed: the disk is full"), "{}", reason.detail);
                    Ok(())
                }
                _ => Err("the disk is full".to_owned()),
            }
        })
        .unwrap_err();
    let failure = &error.failures()[0];
    assert_eq!(error.kind(), ErrorKind::TaskFailed);
    assert_eq!((failure.partition, failure.kind), (3, FailureKind::Error), "{failure}");
    assert_eq!(failure.message, "the disk is full");
}

#[test]
fn causes_come_before_consequences() {
    // The others fail first, by errors that blame task 2, and task 2 is slow to say why.
    let error = group(3)
        .run(|task| match task.partition_id() {
            2 => {
                task.fail("the disk is full");
                std::thread::sleep(Duration::from_millis(50));
                Err(Error::invalid("of its own"))
            }
            _ => task.barrier(),
        })
        .unwrap_err();
    let failure = &error.failures()[0];
    assert_eq!((failure.partition, failure.kind), (2, FailureKind::Error), "{failure}");
    assert!(failure.message.contains("of its own"), "{failure}");
}

#[test]
fn the_cause_is_found_whatever_words_the_errors_have() {
    // All errors are texts, and the one who has failed ends last.
    let error = group(3)
        .run(|task| {
            if task.partition_id() == 1 {
                task.fail("the disk is full");
                std::thread::sleep(Duration::from_millis(50));
                return Err("cleaned up".to_owned());
            }
            task.barrier().map_err(|error| error.to_string())
        })
        .unwrap_err();
    assert_eq!((error.failures()[0].partition, error.failures()[0].message.as_str()), (1, "cleaned up"));
    // A group within a task, or any other one, has ranks of its own.
    let inner = |task: &TaskContext| match task.partition_id() {
        0 => {
            let of_eight = |inner: &TaskContext| match inner.partition_id() {
                7 => Err(Error::invalid("of another group")),
                _ => inner.barrier(),
            };
            group(8).run(of_eight).map(drop).map_err(Error::from)
        }
        _ => task.barrier(),
    };
    let error = group(2).run(inner).unwrap_err();
    assert_eq!(error.failures()[0].partition, 0, "{error}");
}

#[test]
fn a_failure_that_is_told_counts_though_all_return_well() {
    let error = group(2).run(|task| {
        if task.partition_id() == 1 {
            task.fail("the disk is full");
        }
        Ok::<_, Error>(())
    });
    let error = error.unwrap_err();
    let failure = &error.failures()[0];
    assert_eq!((failure.partition, failure.kind), (1, FailureKind::Error));
    assert!(failure.message.contains("the disk is full"), "{failure}");
}

#[test]
fn words_that_panic_are_a_panic() {
    #[derive(Debug)]
    struct Speechless;
    impl std::fmt::Display for Speechless {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("no words")
        }
    }
    impl std::error::Error for Speechless {}
    let error =
        group(2).run(|task| if task.partition_id() == 0 { Err(Speechless) } else { Ok(()) }).unwrap_err();
    assert_eq!(
        (error.failures()[0].kind, error.failures()[0].message.as_str()),
        (FailureKind::Panic, "no words")
    );
}

#[test]
fn panics_are_of_a_kind_of_their_own() {
    let seen = Mutex::new(Vec::new());
    let error = group(3)
        .run(|task| {
            if task.partition_id() == 1 {
                panic!("no such key: {}", "ann");
            }
            let error = task.barrier().unwrap_err();
            seen.lock().unwrap().push((error.kind(), error.culprit(), error.message().to_owned()));
            Err::<(), _>(error)
        })
        .unwrap_err();
    let failure = &error.failures()[0];
    assert_eq!((failure.partition, failure.kind), (1, FailureKind::Panic));
    assert_eq!(failure.message, "no such key: ann");
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 2);
    for (kind, culprit, message) in seen {
        assert_eq!((kind, culprit), (ErrorKind::UserPanic, Some(1)));
        assert!(message.contains("task 1 panicked: no such key: ann"), "{message}");
    }
}

#[test]
fn the_whole_group_is_tried_again_in_a_generation_of_its_own() {
    let seen = Mutex::new(Vec::new());
    let retries = std::sync::Arc::new(Mutex::new(Vec::new()));
    let of_group = std::sync::Arc::clone(&retries);
    let config = Config::default().with_generation(5).with_deadline(HANG);
    let results = group(3)
        .config(config)
        .max_attempts(3)
        .on_retry(move |failure, _| of_group.lock().unwrap().push((failure.attempt, failure.partition)))
        .run(|task| {
            task.barrier()?;
            seen.lock().unwrap().push((task.attempt_number(), task.generation(), task.partition_id()));
            if task.attempt_number() as usize == task.partition_id() && task.attempt_number() < 2 {
                return Err(Error::invalid("not yet"));
            }
            task.barrier()?;
            Ok(task.attempt_number())
        })
        .unwrap();
    assert_eq!(results, [2, 2, 2]);
    assert_eq!(*retries.lock().unwrap(), [(0, 0), (1, 1)]);
    let seen: BTreeSet<_> = seen.into_inner().unwrap().into_iter().collect();
    let all = (0..3).flat_map(|attempt| (0..3).map(move |task| (attempt, 5 + attempt, task)));
    assert_eq!(seen, all.collect());
}

#[test]
fn the_last_error_has_the_first_cause_of_every_attempt() {
    let error = group(2)
        .max_attempts(3)
        .run(|task| match (task.attempt_number(), task.partition_id()) {
            (0, 1) => Err(Error::invalid("nothing to read")),
            (1, 0) => panic!("out of range"),
            (2, 1) => Err(Error::invalid("nowhere to write")),
            _ => task.barrier(),
        })
        .unwrap_err();
    let told: Vec<_> =
        error.failures().iter().map(|failure| (failure.attempt, failure.partition, failure.kind)).collect();
    assert_eq!(told, [(0, 1, FailureKind::Error), (1, 0, FailureKind::Panic), (2, 1, FailureKind::Error)]);
    for word in ["3 times", "nothing to read", "out of range", "nowhere to write"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn time_that_is_up_ends_the_attempt_and_names_who_was_not_done() {
    let error = group(4)
        .timeout(Duration::from_millis(200))
        .run(|task| match task.partition_id() {
            0 | 1 => Ok(()),
            _ => {
                assert!(task.cancellation().sleep(HANG));
                Ok::<(), Error>(())
            }
        })
        .unwrap_err();
    let failure = &error.failures()[0];
    assert_eq!((failure.partition, failure.kind), (2, FailureKind::Timeout), "{failure}");
    assert!(failure.message.contains("tasks 2 and 3 are not done"), "{failure}");
}

#[test]
fn a_failure_is_not_hidden_by_the_end_of_the_time() {
    let error = group(2)
        .timeout(Duration::from_millis(100))
        .run(|task| match task.partition_id() {
            0 => Err("the disk is full"),
            _ => {
                std::thread::sleep(Duration::from_millis(300));
                Ok(())
            }
        })
        .unwrap_err();
    assert_eq!((error.failures()[0].partition, error.failures()[0].kind), (0, FailureKind::Error), "{error}");
}

#[test]
fn what_is_cancelled_is_no_success_and_its_clones_are_others() {
    let group = group(2);
    let handle = group.handle();
    let heeds = |task: &TaskContext| {
        if task.partition_id() == 0 {
            handle.signal(ringfold::launch::Signal::SIGTERM);
            handle.cancel("enough");
        }
        Ok::<_, Error>(task.cancellation().sleep(HANG))
    };
    let error = group.run(heeds).unwrap_err();
    assert!(error.is_cancelled() && error.to_string().contains("enough"), "{error}");
    assert!(group.clone().run(|_| Ok::<_, Error>(())).is_ok());
    assert!(group.run(|_| Ok::<_, Error>(())).unwrap_err().is_cancelled());
}

#[test]
fn waits_without_an_end_are_no_panic() {
    let group = group(1).max_attempts(2).backoff(Duration::MAX, Duration::MAX);
    let handle = group.handle();
    let group = group.on_retry(move |_, _| handle.cancel("enough"));
    assert!(group.run(|_| Err::<(), _>("no")).unwrap_err().is_cancelled());
}

#[test]
fn a_group_can_be_cancelled_from_outside_in_any_attempt() {
    let group = group(2).max_attempts(100).backoff(Duration::from_millis(1), Duration::from_millis(1));
    let handle = group.handle();
    let tried = AtomicUsize::new(0);
    let error = group
        .run(|task| {
            task.barrier()?;
            if task.partition_id() == 0 && tried.fetch_add(1, Ordering::SeqCst) == 3 {
                handle.cancel("it is late");
                assert!(task.cancellation().is_cancelled());
            }
            Err::<(), _>(Error::invalid("again"))
        })
        .unwrap_err();
    assert!(error.is_cancelled() && error.to_string().contains("it is late"), "{error}");
    assert_eq!((error.failures().len(), error.kind()), (3, ErrorKind::Aborted));
    // It stays cancelled.
    let again = group.run(|_| Ok::<(), Error>(())).unwrap_err();
    assert!(again.is_cancelled() && again.failures().is_empty());
}

#[test]
fn a_wait_between_attempts_ends_when_the_group_is_cancelled() {
    let group = group(1).max_attempts(2).backoff(HANG * 10, HANG * 10);
    let handle = group.handle();
    let error = group
        .on_retry(move |_, pause| {
            assert_eq!(pause, HANG * 10);
            let handle = handle.clone();
            std::thread::spawn(move || handle.cancel("enough"));
        })
        .run(|_| Err::<(), _>("no".to_owned()))
        .unwrap_err();
    assert!(error.is_cancelled());
    assert_eq!(error.failures().len(), 1);
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    for refused in [
        TaskGroup::new(0),
        TaskGroup::new(usize::MAX),
        group(2).monitor(&Monitor::new(3)),
        group(2).config(Config::default().with_algorithm("none such")),
        group(2).config(Config::default().with_table("none such")),
    ] {
        let error = refused.run(|_| -> Result<(), Error> { unreachable!("it has not begun") }).unwrap_err();
        assert!(error.failures().is_empty(), "{error}");
        assert!(
            matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Configuration),
            "{error} ({:?})",
            error.kind()
        );
    }
}

#[test]
fn a_monitor_is_told_of_every_attempt_and_in_the_end_of_the_last_state() {
    let monitor = Monitor::new(3);
    let changes = monitor.changes();
    let results = group(3).max_attempts(2).monitor(&monitor).run(|task| {
        for row in 1..=1000 {
            task.progress(row, 1000);
        }
        task.metric("attempt", f64::from(task.attempt_number()))?;
        task.barrier()?;
        let mut sum = [1u32];
        task.communicator()?.all_reduce(&mut sum, ReduceOp::Sum)?;
        if task.attempt_number() == 0 && task.partition_id() == 1 {
            return Err(Error::invalid("not yet"));
        }
        task.barrier()
    });
    assert!(results.is_ok());
    let end = monitor.snapshot();
    assert_eq!((end.attempt, end.count("succeeded"), end.fraction()), (1, 3, Some(1.0)));
    for task in &end.tasks {
        let (progress, metrics) = (task.report.progress().unwrap(), task.report.metrics());
        assert_eq!((progress.done, progress.total, metrics["attempt"]), (1000, 1000, 1.0));
        // The counters are those of all its communicators.
        let operations = &task.report.counters().unwrap().operations;
        assert_eq!(operations["all_reduce"].completed, 1);
        assert!(operations["barrier"].completed >= 2);
    }
    changes.close();
    let seen = changes.wait(HANG).unwrap();
    let failed = seen.iter().find(|view| view.attempt == 0 && matches!(view.state, State::Failed(_)));
    assert!(matches!(&failed.unwrap().state, State::Failed(why) if !why.is_empty()));
}

#[test]
fn what_is_left_of_an_older_attempt_does_not_tell_of_a_newer_one() {
    let monitor = Monitor::new(1);
    let kept = Mutex::new(None);
    let results = group(1).max_attempts(2).monitor(&monitor).run(|task| {
        if task.attempt_number() == 0 {
            *kept.lock().unwrap() = Some(task.reporter().clone());
            return Err(Error::invalid("not yet"));
        }
        task.progress(1, 2);
        std::thread::sleep(Duration::from_millis(120));
        kept.lock().unwrap().take().unwrap().progress(77, 77);
        Ok(())
    });
    assert!(results.is_ok());
    assert_eq!(monitor.snapshot().tasks[0].report.progress().unwrap().done, 1);
}

#[test]
fn groups_beside_each_other_do_not_disturb_each_other() {
    std::thread::scope(|scope| {
        for seed in 0..4usize {
            scope.spawn(move || {
                for round in 0..10usize {
                    let result = group(1 + (seed + round) % 4).run(|task| {
                        task.barrier()?;
                        if round % 3 == 0 && task.partition_id() == 0 {
                            return Err(Error::invalid("its turn"));
                        }
                        task.barrier()
                    });
                    assert_eq!(result.is_err(), round % 3 == 0);
                }
            });
        }
    });
}
