//! Processors and ports, and when they are free: what messages cost is decided here and nowhere else.

use crate::plan::cost::{Class, Network};

/// When something begins to happen and when it is done: its bytes are done evenly in between. Seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Interval {
    pub(super) first: f64,
    pub(super) last: f64,
}

impl Interval {
    /// When the given fraction is done.
    pub(super) fn at(&self, fraction: f64) -> f64 {
        self.first + fraction * (self.last - self.first)
    }

    pub(super) fn extend(&mut self, other: Interval) {
        self.first = self.first.max(other.first);
        self.last = self.last.max(other.last);
    }
}

/// What a dependency allows: the producer's bytes before `begin` are not needed by the first byte of the dependent, and
/// those after `end` by none of it. Fractions of the producer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Need {
    pub(super) begin: f64,
    pub(super) end: f64,
}

impl Need {
    pub(super) const ALL: Need = Need { begin: 1.0, end: 1.0 };

    /// When a dependent may do its first and its last byte. `granule` is a fraction of the producer.
    pub(super) fn allows(self, producer: Interval, granule: f64) -> Interval {
        let begin = (self.begin + granule).min(self.end);
        Interval { first: producer.at(begin), last: producer.at(self.end) }
    }
}

/// What has passed through one link class.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Traffic {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// A resource that serves one at a time. It remembers its longest pauses, for those who were ready then and ask later: so
/// that it matters little in which order they are looked at.
#[derive(Debug, Clone, Copy, Default)]
struct Server {
    free: f64,
    busy: f64,
    pauses: [(f64, f64); PAUSES],
}

/// How many pauses are remembered.
const PAUSES: usize = 4;

impl Server {
    /// When it could begin with something, and in which pause that is.
    fn begins(&self, ready: f64, seconds: f64) -> (f64, Option<usize>) {
        let at_end = (ready.max(self.free), None);
        if ready >= self.free {
            return at_end;
        }
        let fits = |(place, &(pause, resume)): (usize, &(f64, f64))| {
            let within = ready.max(pause);
            (within + seconds <= resume).then_some((within, Some(place)))
        };
        let within = self.pauses.iter().enumerate().filter_map(fits).min_by(|a, b| a.0.total_cmp(&b.0));
        within.unwrap_or(at_end)
    }

    /// Serves whoever is ready for so long; returns when that begins.
    fn serve(&mut self, ready: f64, seconds: f64) -> f64 {
        self.busy += seconds;
        let (begin, within) = self.begins(ready, seconds);
        match within {
            Some(place) => {
                let (pause, resume) = std::mem::take(&mut self.pauses[place]);
                self.pause(pause, begin);
                self.pause(begin + seconds, resume);
            }
            None => {
                self.pause(self.free, begin);
                self.free = begin + seconds;
            }
        }
        begin
    }

    /// Remembers a pause, if it is longer than the shortest that is remembered.
    fn pause(&mut self, from: f64, to: f64) {
        if to <= from {
            return;
        }
        let length = |pause: &(f64, f64)| pause.1 - pause.0;
        let shortest = self.pauses.iter_mut().min_by(|a, b| length(a).total_cmp(&length(b)));
        let shortest = shortest.expect("some pauses are remembered");
        if to - from > length(shortest) {
            *shortest = (from, to);
        }
    }
}

/// The state of a network while a collective runs.
pub(super) struct Fabric<'a> {
    network: &'a Network,
    /// The ranks that there are; those beyond stand for the one so many places before.
    period: usize,
    granule: f64,
    slowness: Vec<f64>,
    cpus: Vec<Server>,
    /// Of hosts whose ranks share processors, those of one host side by side.
    shared_cpus: Vec<Server>,
    out: Vec<Server>,
    into: Vec<Server>,
    host_out: Vec<Server>,
    host_into: Vec<Server>,
    rack_out: Vec<Server>,
    rack_into: Vec<Server>,
    pub(super) traffic: [Traffic; 3],
}

impl<'a> Fabric<'a> {
    pub(super) fn new(network: &'a Network, period: usize) -> Self {
        let hosts = period.div_ceil(network.ranks_per_host);
        let racks = network.rack_of(period - 1) + 1;
        let (shares_nic, has_racks) = (network.ranks_per_host > 1, network.hosts_per_rack > 0);
        let shares_cpus = (1..network.ranks_per_host).contains(&network.cpus_per_host);
        let servers = |count: usize, there: bool| vec![Server::default(); if there { count } else { 0 }];
        let mut slowness = vec![1.0; period];
        for &(rank, factor) in &network.stragglers {
            slowness[rank] *= factor;
        }
        Fabric {
            network,
            period,
            granule: network.granule as f64,
            slowness,
            cpus: servers(period, true),
            shared_cpus: servers(hosts * network.cpus_per_host, shares_cpus),
            out: servers(period, true),
            into: servers(period, true),
            host_out: servers(hosts, shares_nic),
            host_into: servers(hosts, shares_nic),
            rack_out: servers(racks, has_racks),
            rack_into: servers(racks, has_racks),
            traffic: [Traffic::default(); 3],
        }
    }

    /// The part of a message that is passed on together, as a fraction.
    pub(super) fn granule_of(&self, bytes: f64) -> f64 {
        self.granule / bytes
    }

    /// A rank's processor works; returns when it begins.
    fn work(&mut self, rank: usize, ready: f64, seconds: f64) -> f64 {
        if self.shared_cpus.is_empty() {
            return self.cpus[rank].serve(ready, seconds);
        }
        let (host, count) = (self.network.host_of(rank), self.network.cpus_per_host);
        let (ready, _) = self.cpus[rank].begins(ready, seconds);
        let here = &mut self.shared_cpus[host * count..(host + 1) * count];
        let soonest =
            here.iter_mut().min_by(|a, b| a.begins(ready, seconds).0.total_cmp(&b.begins(ready, seconds).0));
        let start = soonest.expect("a host has processors").serve(ready, seconds);
        self.cpus[rank].serve(start, seconds)
    }

    /// When a rank could begin with something: when its processor, and to send its own port, is free.
    pub(super) fn free(&self, rank: usize, sends: bool) -> f64 {
        let (mut cpu, port) = (self.cpus[rank].free, self.out[rank].free);
        if !self.shared_cpus.is_empty() {
            let (host, count) = (self.network.host_of(rank), self.network.cpus_per_host);
            let here = &self.shared_cpus[host * count..(host + 1) * count];
            cpu = cpu.max(here.iter().map(|cpu| cpu.free).fold(f64::INFINITY, f64::min));
        }
        if sends { cpu.max(port) } else { cpu }
    }

    /// A message leaves. Returns when its sender does its bytes, and when they arrive.
    pub(super) fn send(
        &mut self,
        from: usize,
        to: usize,
        bytes: f64,
        ready: Interval,
    ) -> (Interval, Interval) {
        let class = self.network.class(from, to);
        let to = if to < self.period { to } else { to % self.period };
        let link = *self.network.link(class);
        let (slow, slow_there) = (self.slowness[from], self.slowness[to]);
        let traffic = &mut self.traffic[class as usize];
        traffic.messages += 1;
        traffic.bytes += bytes as u64;
        let work = (link.overhead + link.copy * bytes) * slow;
        let begin = self.work(from, ready.first, work);
        let first = begin + link.overhead * slow;
        let (mut at, mut last) = (first, begin + work);
        // Within a host the only ports are the ranks' own; the host's are as fast as the rack's links.
        let own = link.beta.max(if class == Class::Host { 0.0 } else { self.network.rack.beta });
        let mut pass = |port: &mut Server, beta: f64| {
            at = port.serve(at, beta * bytes);
            last = last.max(at + beta * bytes);
        };
        pass(&mut self.out[from], own * slow);
        if class != Class::Host {
            let beta = self.network.rack.beta;
            if !self.host_out.is_empty() {
                pass(&mut self.host_out[self.network.host_of(from)], beta);
            }
            if class == Class::Core {
                pass(&mut self.rack_out[self.network.rack_of(from)], link.beta);
                pass(&mut self.rack_into[self.network.rack_of(to)], link.beta);
            }
            if !self.host_into.is_empty() {
                pass(&mut self.host_into[self.network.host_of(to)], beta);
            }
        }
        pass(&mut self.into[to], own * slow_there);
        let tail = bytes.min(self.granule) * (link.beta * slow.max(slow_there) + link.copy * slow);
        let last = last.max(ready.last + tail);
        let arrival = Interval { first: at + link.alpha, last: last + link.alpha };
        (Interval { first: at.min(last), last }, arrival)
    }

    /// A message is received, and reduced `reductions` times a byte (0 or 1).
    pub(super) fn receive(
        &mut self,
        from: usize,
        to: usize,
        bytes: f64,
        reductions: f64,
        arrival: Interval,
        ready: Interval,
    ) -> Interval {
        let link = self.network.link(self.network.class(from, to));
        let (slow, overhead) = (self.slowness[to], link.overhead);
        let a_byte = link.copy + self.network.gamma * reductions;
        let work = (overhead + a_byte * bytes) * slow;
        let tail = (overhead + a_byte * bytes.min(self.granule)) * slow;
        let begin = self.work(to, arrival.first.max(ready.first), work);
        let last = (begin + work).max(arrival.last.max(ready.last) + tail);
        Interval { first: begin + overhead * slow, last }
    }

    /// A rank reduces or copies in its own memory, `times` a byte.
    pub(super) fn compute(&mut self, rank: usize, bytes: f64, times: f64, ready: Interval) -> Interval {
        let a_byte = self.network.gamma * times * self.slowness[rank];
        let begin = self.work(rank, ready.first, a_byte * bytes);
        let last = (begin + a_byte * bytes).max(ready.last + a_byte * bytes.min(self.granule));
        Interval { first: begin, last }
    }

    /// The largest part of `time` that any of these resources was busy: processors, ranks' ports, hosts' ports, racks'
    /// ports.
    pub(super) fn utilisation(&self, time: f64) -> [f64; 4] {
        let most = |groups: &[&[Server]]| {
            let busiest =
                groups.iter().flat_map(|group| group.iter()).map(|server| server.busy).fold(0.0, f64::max);
            if time > 0.0 { busiest / time } else { 0.0 }
        };
        let cpus = if self.shared_cpus.is_empty() { &self.cpus } else { &self.shared_cpus };
        [
            most(&[cpus]),
            most(&[&self.out, &self.into]),
            most(&[&self.host_out, &self.host_into]),
            most(&[&self.rack_out, &self.rack_into]),
        ]
    }
}
