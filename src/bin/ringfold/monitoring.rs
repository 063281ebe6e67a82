//! What the command shows and offers of a group while it runs: bars, lines of JSON, metrics.

use crate::conduct::say;
use crate::progress::Display;
use clap::Args;
use ringfold::launch::{Around, Beside};
use ringfold::task::TaskGroup;
use ringfold::task::monitor::{JsonLines, MetricsServer, Monitor, Reach};
use ringfold::{Error, ErrorKind, Result};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a group is to be watched.
#[derive(Debug, Args)]
pub(crate) struct MonitorArgs {
    /// Show how far the ranks are: bars on a terminal, elsewhere a line now and then (on standard error)
    #[arg(long, conflicts_with = "no_prefix")]
    progress: bool,
    /// Offer metrics for Prometheus at http://ADDRESS/metrics, such as 9090 or 127.0.0.1:9090; with port 0 at any that is free
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    metrics: Option<SocketAddr>,
    /// Let --metrics be an address that other hosts reach; there is neither encryption nor a password
    #[arg(long, requires = "metrics")]
    metrics_public: bool,
    /// Write what the ranks tell into this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    metrics_json: Option<PathBuf>,
}

/// Whatever watches over a group. Dropping it shows and writes the last state, which takes 2 s at most.
pub(crate) struct Watching {
    monitor: Monitor,
    asked: bool,
    display: Option<Display>,
    lines: Option<JsonLines>,
    server: Option<MetricsServer>,
}

impl Watching {
    /// Starts to watch over a group of so many tasks.
    ///
    /// # Errors
    /// Where a file cannot be made, or nobody can listen at an address.
    pub(crate) fn start(arguments: &MonitorArgs, tasks: usize) -> Result<Watching> {
        let monitor = Monitor::new(tasks);
        let server = match arguments.metrics {
            Some(address) => {
                let reach = if arguments.metrics_public { Reach::Anywhere } else { Reach::Loopback };
                let server =
                    MetricsServer::start(&monitor, address, reach).map_err(|error| match error.kind() {
                        ErrorKind::InvalidArgument => error.remedy("use 127.0.0.1, or add --metrics-public"),
                        _ => error,
                    })?;
                say(format_args!("metrics are at http://{}/metrics", server.address()));
                Some(server)
            }
            None => None,
        };
        let lines = match &arguments.metrics_json {
            Some(path) => Some(JsonLines::start(&monitor, create(path)?)?),
            None => None,
        };
        let display = if arguments.progress { Some(Display::start(&monitor)?) } else { None };
        let asked = server.is_some() || lines.is_some() || display.is_some();
        Ok(Watching { monitor, asked, display, lines, server })
    }

    /// What stands beside each launch of the group, so that the ranks' lines and the bars do not get mixed.
    pub(crate) fn beside(&self) -> Beside {
        match self.around() {
            Some(around) => Beside::default().around_lines(around),
            None => Beside::default(),
        }
    }

    /// Who steps aside for lines of others.
    pub(crate) fn around(&self) -> Option<Arc<Around>> {
        self.display.as_ref().map(Display::around)
    }

    /// Has a group tell the monitor, if anybody wants to know.
    pub(crate) fn watch(&self, group: TaskGroup) -> TaskGroup {
        if self.asked { group.monitor(&self.monitor) } else { group }
    }

    /// Ends the bars, before somebody else writes to the terminal. What else watches goes on.
    pub(crate) fn end_display(&mut self) {
        self.display = None;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.end_display();
        self.lines = None;
        self.server = None;
    }
}

/// Reads an address: a port of this host, or with what comes before it.
fn address(text: &str) -> std::result::Result<SocketAddr, String> {
    let text = text.strip_prefix("localhost").unwrap_or(text);
    let port = text.strip_prefix(':').unwrap_or(text);
    let at = if port.contains(':') { text.to_owned() } else { format!("127.0.0.1:{port}") };
    at.parse().map_err(|_| "write a port such as 9090, or an address such as 127.0.0.1:9090".to_owned())
}

fn create(path: &Path) -> Result<File> {
    if path.as_os_str() == "-" {
        return Err(Error::invalid("--metrics-json -: the standard output has the ranks' lines")
            .remedy("name a file, or a descriptor as /dev/fd/3"));
    }
    File::create(path).map_err(|error| {
        let text = format!("{} cannot be written: {error}", path.display());
        Error::new(ErrorKind::Configuration, text).remedy("name another file for --metrics-json")
    })
}
