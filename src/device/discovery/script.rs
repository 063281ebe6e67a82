//! Discovery scripts as Spark has them.

use crate::error::{Error, ErrorKind, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustc_hash::FxHashSet;
use serde::Deserialize;
use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a script may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much it may say, in bytes.
const MOST: u64 = 1 << 20;
/// How much of what it says on standard error is passed on, in bytes.
const QUOTED: usize = 600;

/// What a script says, in the form that Spark's `ResourceInformation.parseJson` takes.
#[derive(Deserialize)]
struct Said {
    name: String,
    addresses: Vec<String>,
}

/// The addresses of a resource, as a script tells.
pub(super) fn addresses(resource: &str, path: &Path) -> Result<Vec<String>> {
    within(resource, path, PATIENCE)
}

fn within(resource: &str, path: &Path, patience: Duration) -> Result<Vec<String>> {
    let script = path.display();
    let said = run(path, patience)?;
    let told = |text: String| {
        Error::new(
            ErrorKind::Configuration,
            format!("the discovery script {script} {text}{}", said.complaint()),
        )
        .remedy(format!("let it print {{\"name\": \"{resource}\", \"addresses\": [\"0\", \"1\"]}}"))
    };
    match said.status {
        status if status.success() => {}
        status => {
            let how = status.code().map_or_else(
                || format!("was killed by signal {}", status.signal().unwrap_or_default()),
                |code| format!("failed with status {code}"),
            );
            return Err(told(how));
        }
    }
    let text = String::from_utf8_lossy(&said.out);
    let read: Said = serde_json::from_str(text.trim())
        .map_err(|error| told(format!("printed {:?}: {error}", shortened(text.trim()))))?;
    if read.name != resource {
        return Err(told(format!("told of {:?}, and was asked for {resource:?}", read.name)));
    }
    let mut seen = FxHashSet::default();
    for address in &read.addresses {
        if address.trim().is_empty() {
            return Err(told("has an address without a name".to_owned()));
        }
        if !seen.insert(address) {
            return Err(told(format!("has the address {address:?} twice")));
        }
    }
    Ok(read.addresses)
}

/// What became of a script.
struct Run {
    status: ExitStatus,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Run {
    fn complaint(&self) -> String {
        let text = String::from_utf8_lossy(&self.err);
        if text.trim().is_empty() { String::new() } else { format!("; it said {:?}", shortened(text.trim())) }
    }
}

fn shortened(text: &str) -> &str {
    let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
    &text[..ends.take_while(|&end| end <= QUOTED).last().unwrap_or(0)]
}

/// A script that runs, in a process group of its own; killed with all that it has started when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Its number is taken as long as it has not been waited for; its group's, as long as somebody is in it.
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn run(path: &Path, patience: Duration) -> Result<Run> {
    let script = path.display();
    let cannot = |error: io::Error| {
        Error::new(ErrorKind::Configuration, format!("the discovery script {script} cannot be run: {error}"))
            .remedy("check the path, that it may be executed, and the interpreter in its first line")
    };
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let until = Instant::now() + patience;
    let mut running = Running(command.spawn().map_err(cannot)?);
    let out = running.0.stdout.take().map(read).ok_or_else(|| cannot(io::ErrorKind::BrokenPipe.into()))?;
    let err = running.0.stderr.take().map(read).ok_or_else(|| cannot(io::ErrorKind::BrokenPipe.into()))?;
    let late = |what: &str| {
        Error::new(ErrorKind::Deadline, format!("the discovery script {script} {what} after {patience:?}"))
            .remedy("make it quicker: it is run before every start of a group")
    };
    let get =
        |from: &Receiver<Vec<u8>>| match from.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(bytes) => Ok(bytes),
            Err(RecvTimeoutError::Timeout) => Err(late("had not ended")),
            Err(RecvTimeoutError::Disconnected) => Ok(Vec::new()),
        };
    // The end of its output comes with its own, and with that of all that it has started.
    let (out, err) = (get(&out)?, get(&err)?);
    loop {
        match running.0.try_wait().map_err(cannot)? {
            Some(status) => return Ok(Run { status, out, err }),
            None if Instant::now() >= until => return Err(late("had not ended")),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Reads until the end, on a thread that ends with the other side's.
fn read(from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (done, bytes) = channel();
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut from = from;
        // What it says beyond that is not kept, but read, so that it can go on.
        let _ = from.by_ref().take(MOST).read_to_end(&mut all);
        let _ = io::copy(&mut from, &mut io::sink());
        let _ = done.send(all);
    });
    bytes
}
