//! A small HTTP server for one text: what a scraper of metrics asks for and no more.
//!
//! One thread, one poll over all sockets, nothing that blocks. Requests are read by a well-kept parser; there is no body to
//! read, nothing is kept between requests, and each connection carries one.

use super::board::Monitor;
use super::prometheus::{Form, exposition};
use crate::error::{Error, ErrorKind, Result};
use crate::observe;
use crate::transport::control::{Bell, readiness, wait};
use nix::poll::{PollFd, PollFlags};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many connections there are at once. One more takes the place of the oldest.
const CONNECTIONS: usize = 32;

/// How long a connection may take from beginning to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may take to hang up after its answer, so that this arrives.
const PARTING: Duration = Duration::from_millis(500);

/// The longest request in bytes.
const REQUEST: usize = 8 * 1024;

/// The most headers of a request.
const HEADERS: usize = 64;

/// How long to let the listener be when the process has no descriptor left.
const NO_DESCRIPTORS: Duration = Duration::from_millis(100);

/// From where the metrics can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Reach {
    /// From this host alone: another address than a loopback one is refused.
    #[default]
    Loopback,
    /// From wherever the address can be reached. There is neither encryption nor a password: whoever reaches it reads
    /// everything.
    Anywhere,
}

/// Metrics of a group for Prometheus, at `http://ADDRESS/metrics`, until this is dropped. Send and Sync.
///
/// The text is in Prometheus' own format, or in OpenMetrics where the client asks for it. Its names:
///
/// - `ringfold_attempt`, `ringfold_tasks{state}`;
/// - `ringfold_task_state{task, state}`, `ringfold_task_progress_done{task}`, `ringfold_task_progress_goal{task}`,
///   `ringfold_task_report_timestamp_seconds{task}`;
/// - `ringfold_metric_NAME{task}` for the tasks' own numbers;
/// - `ringfold_collective_operations_total{task, collective}` and likewise `_failures_`, `_bytes_` and `_seconds_`;
/// - `ringfold_sent_bytes_total{task}` and what else [`Totals`](super::Totals) has.
///
/// A client that is slow or says nothing is let go after 5 s, sooner where others come.
#[derive(Debug)]
pub struct MetricsServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
    pid: u32,
}

#[derive(Debug)]
struct Shared {
    bell: Bell,
    stop: AtomicBool,
}

impl MetricsServer {
    /// Listens at this address, where port 0 is any that is free, and starts a thread that answers.
    ///
    /// # Errors
    /// [`InvalidArgument`](ErrorKind::InvalidArgument) for an address that others could reach, unless `reach` says that
    /// they may; [`Configuration`](ErrorKind::Configuration) where nobody can listen there; [`Io`](ErrorKind::Io) where the
    /// system has no descriptor or thread to give.
    ///
    /// ```
    /// use ringfold::task::monitor::{MetricsServer, Monitor, Reach};
    /// use std::io::{Read, Write};
    /// let server = MetricsServer::start(&Monitor::new(3), "127.0.0.1:0".parse().unwrap(), Reach::Loopback)?;
    /// let mut client = std::net::TcpStream::connect(server.address()).unwrap();
    /// client.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
    /// let mut answer = String::new();
    /// client.read_to_string(&mut answer).unwrap();
    /// assert!(answer.contains("ringfold_tasks{state=\"waiting\"} 3"));
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    pub fn start(monitor: &Monitor, address: SocketAddr, reach: Reach) -> Result<MetricsServer> {
        if reach == Reach::Loopback && !address.ip().to_canonical().is_loopback() {
            let text = format!("metrics at {address}, which other hosts may reach");
            return Err(Error::invalid(text).remedy(
                "use 127.0.0.1, or say that the metrics are for everybody who reaches this address",
            ));
        }
        let listener = TcpListener::bind(address).map_err(|error| {
            Error::new(ErrorKind::Configuration, format!("metrics cannot be offered at {address}: {error}"))
                .remedy("choose another address or port; port 0 is any that is free")
        })?;
        let preparing = |error| Error::io("preparing the listener for metrics", error);
        let address = listener.local_addr().map_err(preparing)?;
        listener.set_nonblocking(true).map_err(preparing)?;
        let shared = Arc::new(Shared { bell: Bell::new()?, stop: AtomicBool::new(false) });
        let engine = Engine {
            listener,
            shared: Arc::clone(&shared),
            monitor: monitor.clone(),
            connections: Vec::new(),
            accept_after: None,
        };
        let thread = observe::thread::spawn("ringfold-metrics", move || engine.run())
            .map_err(|error| Error::io("starting the thread for metrics", error))?;
        Ok(MetricsServer { shared, address, thread: Some(thread), pid: std::process::id() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return; // a fork's copy: the thread is the parent's
        }
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        if let Some(thread) = self.thread.take() {
            // It never blocks but in its poll, which the bell has ended.
            let _ = thread.join();
        }
    }
}

/// Where a connection is.
enum Stage {
    /// The request, as far as it has come.
    Request(Vec<u8>),
    /// The answer, and how much of it has gone.
    Answer(Vec<u8>, usize),
    /// The client has everything, and is to hang up.
    Parting,
}

struct Connection {
    stream: TcpStream,
    until: Instant,
    stage: Stage,
}

struct Engine {
    listener: TcpListener,
    shared: Arc<Shared>,
    monitor: Monitor,
    /// The oldest first.
    connections: Vec<Connection>,
    accept_after: Option<Instant>,
}

impl Engine {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Acquire) {
            let (listener, ready) = self.poll();
            let now = Instant::now();
            let (monitor, mut ready) = (&self.monitor, ready.into_iter());
            self.connections.retain_mut(|connection| {
                let goes_on = !ready.next().unwrap_or(false) || connection.serve(monitor, now).is_ok();
                goes_on && now < connection.until
            });
            if listener {
                self.accept(now);
            }
            self.accept_after = self.accept_after.filter(|&at| now < at);
        }
    }

    /// Waits until something can be done: for the listener, and for each connection.
    fn poll(&self) -> (bool, Vec<bool>) {
        let until = self.connections.iter().map(|connection| connection.until).chain(self.accept_after).min();
        let events = |connection: &Connection| match connection.stage {
            Stage::Answer(..) => PollFlags::POLLOUT,
            _ => PollFlags::POLLIN,
        };
        let listens = if self.accept_after.is_none() { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = vec![
            PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), listens),
        ];
        fds.extend(self.connections.iter().map(|c| PollFd::new(c.stream.as_fd(), events(c))));
        wait(&mut fds, until);
        let ready = |fd: &PollFd<'_>| readiness(fd).0 || readiness(fd).1;
        (readiness(&fds[1]).0, fds[2..].iter().map(ready).collect())
    }

    fn accept(&mut self, now: Instant) {
        // A bounded number at a time: those that are there have their turn.
        for _ in 0..CONNECTIONS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    if self.connections.len() == CONNECTIONS {
                        self.connections.remove(0);
                    }
                    let stage = Stage::Request(Vec::new());
                    self.connections.push(Connection { stream, until: now + PATIENCE, stage });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connections for metrics can be accepted now");
                    self.accept_after = Some(now + NO_DESCRIPTORS);
                    return;
                }
            }
        }
    }
}

impl Connection {
    /// Goes on as far as the socket allows. An error is the connection's end.
    fn serve(&mut self, monitor: &Monitor, now: Instant) -> io::Result<()> {
        let served = match &mut self.stage {
            Stage::Request(_) => self.read(monitor).and_then(|()| self.write(now)),
            Stage::Answer(..) => self.write(now),
            // What else the client says is read and dropped, a little at a time; its end is the end.
            Stage::Parting => match self.stream.read(&mut [0; 4096])? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            },
        };
        match served {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(())
            }
            served => served,
        }
    }

    fn read(&mut self, monitor: &Monitor) -> io::Result<()> {
        let Stage::Request(request) = &mut self.stage else { return Ok(()) };
        let mut more = [0; 4096];
        loop {
            let count = self.stream.read(&mut more)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            request.extend_from_slice(&more[..count]);
            if let Some(answer) = answer(request, monitor) {
                self.stage = Stage::Answer(answer, 0);
                return Ok(());
            }
        }
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        let Stage::Answer(answer, sent) = &mut self.stage else { return Ok(()) };
        while *sent < answer.len() {
            match self.stream.write(&answer[*sent..])? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => *sent += count,
            }
        }
        self.stream.shutdown(Shutdown::Write)?;
        self.stage = Stage::Parting;
        self.until = self.until.min(now + PARTING);
        Ok(())
    }
}

const TEXT: &str = "text/plain; charset=utf-8";

/// The answer to a request, once it is known; `None` while more of it has to come.
fn answer(request: &[u8], monitor: &Monitor) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) if request.len() < REQUEST => return None,
        Ok(httparse::Status::Complete(_)) if request.len() < REQUEST => {}
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Some(response(
                "431 Request Header Fields Too Large",
                TEXT,
                "the request is too long\n",
                true,
            ));
        }
        Err(_) => return Some(response("400 Bad Request", TEXT, "this is no request\n", true)),
    }
    let body = match parsed.method {
        Some("GET") => true,
        Some("HEAD") => false,
        _ => return Some(response("405 Method Not Allowed", TEXT, "GET is all that there is\n", true)),
    };
    let path = parsed.path.unwrap_or_default().split('?').next().unwrap_or_default();
    Some(match path {
        "/metrics" => {
            let form = form(parsed.headers);
            response("200 OK", form.content_type(), &exposition(monitor.snapshot(), form), body)
        }
        "/" => response("200 OK", TEXT, "ringfold: the metrics of this group are at /metrics\n", body),
        _ => response("404 Not Found", TEXT, "the metrics are at /metrics\n", body),
    })
}

/// The form that a client asks for.
fn form(headers: &[httparse::Header<'_>]) -> Form {
    let accepts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("accept"));
    let open = accepts.filter_map(|header| std::str::from_utf8(header.value).ok());
    if open.into_iter().any(|value| value.contains("application/openmetrics-text")) {
        Form::OpenMetrics
    } else {
        Form::Plain
    }
}

fn response(status: &str, content_type: &str, text: &str, body: bool) -> Vec<u8> {
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        text.len()
    );
    let mut bytes = head.into_bytes();
    if body {
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
