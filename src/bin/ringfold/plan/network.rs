//! A network, described on the command line.

use crate::sizes;
use clap::Args;
use ringfold::plan::cost::{GRANULE, Link, Network, parse_rate, parse_seconds};
use ringfold::{Error, Result};
use std::fs;
use std::path::PathBuf;

/// What the links and hosts are like.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The network")]
pub(super) struct NetworkArgs {
    /// A file that `ringfold plan probe --json` has written, instead of all that follows
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// From a message's leaving a host to its arrival at another
    #[arg(long, value_name = "TIME", default_value = "20us", value_parser = parse_seconds)]
    latency: f64,
    /// Of a host's network card, each way
    #[arg(long, value_name = "RATE", default_value = "10Gbit", value_parser = parse_rate)]
    bandwidth: f64,
    /// Of the processor, at each end of a message
    #[arg(long, value_name = "TIME", default_value = "1us", value_parser = parse_seconds)]
    overhead: f64,
    /// How fast a processor takes bytes from the network or gives them to it [default: at no cost]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    copy: Option<f64>,
    /// How fast a rank reduces bytes in memory
    #[arg(long, value_name = "RATE", default_value = "10GB/s", value_parser = parse_rate)]
    reduce: f64,
    /// The bytes of a message that are passed on together; 0 for whole messages
    #[arg(long, value_name = "SIZE", value_parser = sizes::parse)]
    granule: Option<usize>,
    /// Ranks on each host
    #[arg(long, value_name = "N", default_value_t = 1)]
    ranks_per_host: usize,
    /// Processors of each host, which its ranks share [default: one a rank]
    #[arg(long, value_name = "N", default_value_t = 0)]
    cpus_per_host: usize,
    /// Between ranks of one host
    #[arg(long, value_name = "TIME", default_value = "1us", value_parser = parse_seconds)]
    host_latency: f64,
    /// Between ranks of one host
    #[arg(long, value_name = "RATE", default_value = "10GB/s", value_parser = parse_rate)]
    host_bandwidth: f64,
    /// Hosts in each rack [default: all in one]
    #[arg(long, value_name = "N", default_value_t = 0)]
    hosts_per_rack: usize,
    /// Between racks [default: as between hosts]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    rack_latency: Option<f64>,
    /// Of each rack's link to the others, which its hosts share [default: enough for all of them at once]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    rack_bandwidth: Option<f64>,
    /// A rank that takes so many times as long for everything; may be said several times
    #[arg(long, value_name = "RANK=FACTOR", value_parser = straggler)]
    straggler: Vec<(usize, f64)>,
    /// A rank that does nothing
    #[arg(long, value_name = "RANK")]
    dead: Option<usize>,
}

fn straggler(text: &str) -> std::result::Result<(usize, f64), String> {
    text.split_once('=')
        .and_then(|(rank, factor)| Some((rank.parse().ok()?, factor.parse().ok()?)))
        .ok_or_else(|| format!("{text:?} is no straggler: write 17=3.5"))
}

impl NetworkArgs {
    pub(super) fn network(&self) -> Result<Network> {
        let link = |alpha: f64, beta: f64| Link {
            alpha,
            beta,
            overhead: self.overhead,
            copy: self.copy.unwrap_or(0.0),
        };
        let mut network = match &self.network {
            Some(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|error| Error::io(format_args!("reading {}", path.display()), error))?;
                serde_json::from_str(&text).map_err(|error| {
                    Error::invalid(format!("{} describes no network: {error}", path.display()))
                        .remedy("see what `ringfold plan probe --json` writes")
                })?
            }
            None => Network {
                ranks_per_host: self.ranks_per_host,
                hosts_per_rack: self.hosts_per_rack,
                cpus_per_host: self.cpus_per_host,
                host: link(self.host_latency, self.host_bandwidth),
                rack: link(self.latency, self.bandwidth),
                core: link(
                    self.rack_latency.unwrap_or(self.latency),
                    self.rack_bandwidth.unwrap_or(self.bandwidth / self.hosts_per_rack.max(1) as f64),
                ),
                gamma: self.reduce,
                granule: GRANULE,
                stragglers: Vec::new(),
                dead: None,
            },
        };
        match self.granule {
            Some(0) => network.granule = usize::MAX,
            Some(bytes) => network.granule = bytes,
            None => {}
        }
        network.stragglers.extend(self.straggler.iter().copied());
        network.dead = self.dead.or(network.dead);
        Ok(network)
    }
}

/// A network in a line.
pub(super) fn describe(network: &Network) -> String {
    let link = |link: &Link| format!("{} and {}", time(link.alpha), rate(link.beta));
    let mut parts = Vec::new();
    if network.ranks_per_host > 1 {
        parts.push(format!("{} ranks a host ({})", network.ranks_per_host, link(&network.host)));
    }
    parts.push(format!("{} between hosts", link(&network.rack)));
    if network.hosts_per_rack > 0 {
        parts.push(format!(
            "{} hosts a rack ({} between racks)",
            network.hosts_per_rack,
            link(&network.core)
        ));
    }
    if network.cpus_per_host > 0 {
        parts.push(format!("{} CPUs a host", network.cpus_per_host));
    }
    parts.push(format!("{} a message", time(network.rack.overhead)));
    parts.push(format!("reducing {}", rate(network.gamma)));
    for (rank, factor) in &network.stragglers {
        parts.push(format!("rank {rank} {factor} times slower"));
    }
    if let Some(dead) = network.dead {
        parts.push(format!("rank {dead} dead"));
    }
    parts.join(", ")
}

/// A time with a unit that suits it.
pub(super) fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s if s >= 1e-6 => (s * 1e6, "us"),
        s => (s * 1e9, "ns"),
    };
    format!("{} {unit}", digits(value))
}

/// A rate, of seconds a byte.
fn rate(seconds: f64) -> String {
    if seconds > 0.0 { format!("{} GB/s", digits(1e-9 / seconds)) } else { "any rate".to_owned() }
}

/// Three digits that count, without zeros that do not.
fn digits(value: f64) -> String {
    let text = match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Bytes with a unit of powers of 1024.
pub(super) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", digits(value), units[unit])
}
