//! `ringfold run`: a program as the ranks of a group on this host.

use crate::conduct::{conduct_group, say};
use crate::monitoring::{MonitorArgs, Watching};
use crate::sizes;
use clap::Args;
use ringfold::config::environment::{self, parse_duration};
use ringfold::device::{Discovery, Placement, Policy};
use ringfold::launch::{Input, Launch, Output};
use ringfold::task::TaskGroup;
use ringfold::{Config, Result};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  ringfold run -n 4 -- ./train --epochs 3          four ranks; lines of rank 2 begin with [2]
  ringfold run -n 2 --env OMP_NUM_THREADS=1 -- ./train
  ringfold run -n 8 --timeout 30min -- python train.py
  ringfold run -n 1 --no-prefix -- ./train         for bars of its own, and debuggers
  ringfold run -n 4 --progress --metrics 127.0.0.1:9090 -- ./train

Each rank finds in its environment who it is (RINGFOLD_RANK, RINGFOLD_WORLD_SIZE, ...) and where the group meets
(RINGFOLD_STORE); programs for torchrun find RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
Rank 0 reads the standard input, unless that is a terminal or there may be a second attempt.
On a terminal each rank has a colour, reversed on the standard error (--color, NO_COLOR, CLICOLOR_FORCE).

When a rank fails, the others get an error that names it from whatever collective they are in. They have 250 ms to
end, then SIGTERM, and 2 s later SIGKILL. The exit status is that of the rank that failed first; 128 and the signal
where it was killed by one; 124 after --timeout; 127 where the program is not found, 126 where it cannot be run.
Interrupting once passes SIGINT on to the ranks; twice kills them.";

/// What to run, and how.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// How many ranks to start
    #[arg(short = 'n', long = "ranks", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ranks: u32,
    /// Let the ranks write to the terminal themselves, without their number in front of every line
    #[arg(long)]
    no_prefix: bool,
    /// End an attempt after this time: 90, 1.5s, 30min
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// A variable for the environment of every rank; may be given several times
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    environment: Vec<(String, String)>,
    #[command(flatten)]
    group: GroupArgs,
    /// Let every rank write a trace into this directory; `ringfold trace merge` makes one of them
    #[arg(long, value_name = "DIR")]
    trace: Option<PathBuf>,
    #[command(flatten)]
    monitor: MonitorArgs,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    program: Vec<OsString>,
}

/// What the ranks are as a barrier task group.
#[derive(Debug, Args)]
#[command(next_help_heading = "Barrier task group")]
struct GroupArgs {
    /// How often to try: where a rank fails, all are ended and started anew
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    max_attempts: u32,
    /// How long to wait before the second attempt; each later wait is twice as long, up to 10 s
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "50ms")]
    backoff: Duration,
    /// GPUs for each rank; 0.5 lets two ranks share one
    #[arg(long, value_name = "AMOUNT")]
    gpus_per_task: Option<f64>,
    /// CPUs for each rank, counted against those that this process may use
    #[arg(long, value_name = "AMOUNT")]
    cpus_per_task: Option<f64>,
    /// Memory for each rank, counted against what is to be had: 512M, 4G
    #[arg(long, value_name = "BYTES", value_parser = sizes::parse)]
    memory_per_task: Option<usize>,
    /// Any other resource for each rank; may be given several times
    #[arg(long = "resource", value_name = "NAME=AMOUNT", value_parser = amount)]
    resources: Vec<(String, f64)>,
    /// Where devices are looked for: auto, none, nvml, amd, script:/path, file:/path, or a list such as 0,1
    #[arg(long, value_name = "WHERE")]
    devices: Option<String>,
    /// Where ranks go: pack (few devices), spread (many), linked (devices that are linked best)
    #[arg(long, value_name = "POLICY", default_value_t)]
    placement: Placement,
    /// Let other groups of this machine that say the same use the same devices
    #[arg(long)]
    share_devices: bool,
    /// Pin each rank to CPUs near its devices
    #[arg(long)]
    pin: bool,
    /// Something that every task can read; may be given several times
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = variable)]
    properties: Vec<(String, String)>,
}

impl GroupArgs {
    fn group(&self, tasks: usize) -> Result<TaskGroup> {
        // Whatever else may be wrong with this environment, the ranks get another one, and complain themselves.
        let environment = Config::from_env().unwrap_or_default();
        let discovery = match &self.devices {
            Some(text) => Discovery::parse(text)?,
            None => Discovery::of(&environment)?,
        };
        let mut config = Config::default();
        config.device_claims = environment.device_claims;
        let mut policy = Policy::new(self.placement).pinned(self.pin);
        if self.share_devices {
            policy = policy.shared();
        }
        let mut group = TaskGroup::new(tasks)
            .max_attempts(self.max_attempts)
            .backoff(self.backoff, LONGEST_BACKOFF.max(self.backoff))
            .config(config)
            .policy(policy)
            .discovery(discovery)
            .cpus_per_task(self.cpus_per_task.unwrap_or(0.0))
            .memory_per_task(self.memory_per_task.unwrap_or(0) as u64)
            .gpus_per_task(self.gpus_per_task.unwrap_or(0.0));
        for (resource, amount) in &self.resources {
            group = group.resource_per_task(resource, *amount);
        }
        for (name, value) in &self.properties {
            group = group.property(name, value);
        }
        let of_no_device = self.gpus_per_task.is_none() && self.resources.is_empty();
        for (given, option) in
            [(self.devices.is_some(), "--devices"), (self.share_devices, "--share-devices")]
        {
            if given && of_no_device {
                say(format!("{option} alone gives no rank any: say how many, as in --gpus-per-task 1"));
            }
        }
        if self.pin && of_no_device && self.cpus_per_task.is_none() {
            say("--pin alone pins no rank: say how many CPUs or devices each has, as in --cpus-per-task 1");
        }
        Ok(group)
    }
}

/// How long a wait between attempts becomes, unless the first one is longer.
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

fn amount(text: &str) -> std::result::Result<(String, f64), String> {
    let (name, amount) = variable(text).map_err(|_| "write NAME=AMOUNT")?;
    amount.parse().map(|amount| (name, amount)).map_err(|_| format!("{amount:?} is no number"))
}

fn variable(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Whether a stream is to have colours: as `--color` says, else a terminal's, unless NO_COLOR or its kin object.
fn coloured(stream: &impl anstream::stream::RawStream) -> bool {
    anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never
}

/// Runs it. The exit status is that of the first failure.
pub(crate) fn command(arguments: &RunArgs) -> ExitCode {
    let mut launch = Launch::new(arguments.ranks as usize)
        .program(&arguments.program[0])
        .args(&arguments.program[1..])
        .output(if arguments.no_prefix { Output::Inherit } else { Output::Prefixed })
        .colours(coloured(&io::stdout()), coloured(&io::stderr()))
        // What one attempt has read is not there for the next.
        .input(if arguments.group.max_attempts > 1 { Input::Null } else { Input::FirstRank });
    for (name, value) in &arguments.environment {
        launch = launch.env(name, value);
    }
    if let Some(directory) = &arguments.trace {
        // Ranks may go elsewhere before they join.
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.clone());
        launch = launch.env(environment::TRACE, directory);
    }
    if let Some(timeout) = arguments.timeout {
        launch = launch.timeout(timeout);
    }
    // Whatever else may be wrong with this environment, the ranks get another one, and complain themselves.
    if let Ok(config) = Config::from_env() {
        launch = launch.heartbeat(config.heartbeat_deadline);
    }
    let tasks = arguments.ranks as usize;
    let prepared = (arguments.group.group(tasks))
        .and_then(|group| Ok((group, Watching::start(&arguments.monitor, tasks)?)));
    let (group, mut watching) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            say(error);
            return ExitCode::FAILURE;
        }
    };
    let group = watching.watch(group);
    let around = watching.around();
    conduct_group(group, &launch.beside(watching.beside()), around, || watching.end_display())
}
