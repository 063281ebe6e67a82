//! What tasks do that are processes: this binary, started again with a part to play.

use ringfold::collective::Request;
use ringfold::launch::{Input, Launch, Output};
use ringfold::task::TaskContext;
use ringfold::{Collective, DType, Error, ErrorKind, ReduceOp};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PART: &str = "RINGFOLD_TEST_PART";
const PLACE: &str = "RINGFOLD_TEST_PLACE";

/// Only detects a hang.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// A directory that tasks and their test share, gone at its end.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("ringfold-task-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Place(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What tasks have noted, a line each, in order of the lines.
    pub(crate) fn notes(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.join("notes")).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// This binary as a program, with this part.
    pub(crate) fn program(&self, tasks: usize, part: &str) -> Launch {
        Launch::new(tasks)
            .program(std::env::current_exe().unwrap())
            .args(["--exact", "programs::program", "--nocapture"])
            .env(PART, part)
            .env(PLACE, &self.0)
            .env("RINGFOLD_DEADLINE", "60s")
            .env("RINGFOLD_INIT_DEADLINE", "60s")
            .output(Output::Null)
            .input(Input::Null)
    }

    /// The same as a command, for launchers that are not ours.
    pub(crate) fn command(&self, launcher: &[&str], part: &str) -> Command {
        let mut command = Command::new(launcher[0]);
        command.args(&launcher[1..]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "programs::program", "--nocapture"]).env(PART, part).env(PLACE, &self.0);
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn shared(name: &str) -> PathBuf {
    Path::new(&std::env::var_os(PLACE).unwrap()).join(name)
}

fn note(text: String) {
    let mut file = OpenOptions::new().create(true).append(true).open(shared("notes")).unwrap();
    file.write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// Waits until others have made this file.
fn await_file(name: &str) -> String {
    let start = Instant::now();
    loop {
        match fs::read_to_string(shared(name)) {
            Ok(text) if text.ends_with('\n') => return text.trim_end().to_owned(),
            _ => assert!(start.elapsed() < HANG, "{name} never comes"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn program() {
    let Ok(part) = std::env::var(PART) else { return };
    if part == "stale" {
        return be_stale();
    }
    if part == "does not come" && std::env::var("RINGFOLD_RANK").unwrap() == "1" {
        std::process::exit(0);
    }
    // By its status alone the launcher sees how a program ends: this harness would make 101 of everything.
    let code = ringfold::task::main(|task| {
        play(&part, task).inspect_err(|error| {
            let culprit = error.culprit().map_or("nobody".to_owned(), |culprit| culprit.to_string());
            note(format!("{}: {:?} blames {culprit}", task.partition_id(), error.kind()));
        })
    });
    let failed = format!("{code:?}") != format!("{:?}", std::process::ExitCode::SUCCESS);
    std::process::exit(i32::from(failed));
}

fn play(part: &str, task: &TaskContext) -> ringfold::Result<()> {
    let (own, first) = (task.partition_id(), task.attempt_number() == 0);
    match part {
        "introduce" => {
            let infos = task.task_infos();
            let mut pids: Vec<u32> = infos.iter().map(|info| info.process).collect();
            pids.sort_unstable();
            pids.dedup();
            let named = task.all_gather(format!("task {own}"))?;
            let long = task.all_gather_bytes(vec![own as u8; 1000 * own])?;
            let comm = task.communicator()?;
            let mut sum = [own as u64 + 1];
            comm.all_reduce(&mut sum, ReduceOp::Sum)?;
            task.barrier()?;
            let right = named.iter().enumerate().all(|(at, name)| *name == format!("task {at}"))
                && long.iter().enumerate().all(|(at, bytes)| *bytes == vec![at as u8; 1000 * at])
                && infos.iter().enumerate().all(|(at, info)| info.partition == at)
                && infos[own].process == std::process::id();
            let property = task.local_property("user").unwrap_or("nobody");
            task.set_result(&format!("result of {own}"))?;
            note(format!(
                "{own} of {}: {} processes, sum {}, {property}, {right}",
                task.num_tasks(),
                pids.len(),
                sum[0]
            ));
            Ok(())
        }
        "resources" => {
            let status = fs::read_to_string("/proc/self/status").unwrap();
            let cpus =
                status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
            let sees = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
            let has = task.resources().addresses("gpu").join(",");
            note(format!("{own}: sees {sees}, has {has} of gpu, may use CPUs {cpus}"));
            task.barrier()
        }
        "hosts" => {
            let comm = task.communicator()?;
            let request = Request::new(Collective::AllReduce, comm.world_size(), DType::F32, 16 << 20);
            let chosen = comm.schedule(&request)?.algorithm.name();
            let mut data = vec![own as f32; 4 << 20];
            comm.all_reduce(&mut data, ReduceOp::Sum)?;
            let hosts: BTreeSet<&str> = task.task_infos().iter().map(|info| info.host.as_str()).collect();
            let right = data.iter().all(|&sum| sum == 6.0);
            let (host, backend) = (&task.task_infos()[own].host, comm.backend());
            note(format!("{own} on {host} of {} hosts: {backend}, {chosen}, {right}", hosts.len()));
            task.barrier()
        }
        // Something happens to task 2 in the first attempt, while the others wait for it.
        "killed" | "panic" | "exit" | "error" | "stopped" | "leaves" | "mismatch" if own == 2 && first => {
            task.barrier()?;
            match part {
                "killed" => nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap(),
                "stopped" => nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).unwrap(),
                "panic" => panic!("no such key"),
                "exit" => std::process::exit(3),
                "error" => return Err(Error::invalid("the disk is full")),
                "mismatch" => return task.all_gather("who am I").map(drop),
                _ => {}
            }
            Ok(())
        }
        "killed" | "panic" | "exit" | "error" | "stopped" | "leaves" | "mismatch" => {
            task.barrier()?;
            if first {
                task.barrier()?;
            }
            note(format!(
                "{own} is done in attempt {}, generation {}",
                task.attempt_number(),
                task.generation()
            ));
            Ok(())
        }
        "fails and returns well" => {
            if own == 1 {
                task.fail("the disk is full");
            }
            Ok(())
        }
        "does not come" => unreachable!("it has not formed"),
        "sleep" => {
            note(format!("{own} sleeps"));
            std::thread::sleep(HANG);
            Err(Error::new(ErrorKind::Deadline, "it has slept through"))
        }
        "anyone is killed" => {
            for step in 0.. {
                if own == 0 && step == 20 {
                    return task.barrier();
                }
                // All draw the same lots, so that they do not disagree but die.
                let victim = (u64::from(task.generation()) * 7 + step) as usize % (4 * task.num_tasks());
                if task.attempt_number() < 3 && victim == own {
                    nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
                }
                if step == 20 {
                    return task.barrier();
                }
                task.barrier()?;
            }
            Ok(())
        }
        "leave somebody behind" => {
            let zombie = first && own == 1;
            if zombie {
                // It leaves its session and keeps what the first attempt was told.
                let mut command = Command::new("setsid");
                // A process in between ends at once, so that nobody here has to wait for the one that stays.
                command.arg("--fork").arg(std::env::current_exe().unwrap());
                command.args(["--exact", "programs::program", "--nocapture"]).env(PART, "stale");
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
                await_file("stale is here");
                return Err(Error::invalid("it fails, and leaves somebody behind"));
            }
            if first {
                return task.barrier();
            }
            if own == 0 {
                let store = std::env::var("RINGFOLD_STORE").unwrap();
                let world = std::env::var("RINGFOLD_WORLD_ID").unwrap();
                fs::write(shared("store"), format!("{store} {world}\n")).unwrap();
            }
            await_file("stale is refused");
            task.barrier()?;
            note(format!("{own} is well"));
            Ok(())
        }
        _ => panic!("there is no part {part:?}"),
    }
}

/// What is left of a first attempt tries to come to the second one's store.
fn be_stale() {
    fs::write(shared("stale is here"), "\n").unwrap();
    let store = await_file("store");
    let mut config = ringfold::Config::from_env().unwrap();
    assert_eq!(config.generation, 0);
    // Whatever else it may have learnt, its generation is that of the first attempt.
    let (store, world) = store.split_once(' ').unwrap();
    config.set("world_id", world).unwrap();
    config = config.with_store(store).with_init_deadline(Duration::from_secs(5));
    let error = TaskContext::connect(&config).map(drop).unwrap_err();
    note(format!("stale: {:?}: {error}", error.kind()));
    fs::write(shared("stale is refused"), "\n").unwrap();
}
