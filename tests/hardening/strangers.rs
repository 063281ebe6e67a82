//! Those who come to a group's doors and do not belong to it.

use nix::libc;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Strangers at one door, until this is dropped: some scan, some are silent, some send what makes no sense.
pub(crate) struct Crowd {
    visits: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
}

impl Crowd {
    pub(crate) fn at(address: SocketAddr) -> Crowd {
        let (visits, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let crowd = Crowd { visits: Arc::clone(&visits), over: Arc::clone(&over) };
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            // The largest lengths that fields may hold, and other noise.
            let huge = [&b"rfct\x01\x00"[..], &[0xff; 122]].concat();
            let noise: Vec<Vec<u8>> =
                vec![vec![0xff; 4096], huge, b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 1]];
            for round in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                    visits.fetch_add(1, Ordering::Relaxed);
                    match round % 6 {
                        // A scan.
                        0 => {}
                        1 if silent.len() < 8 => silent.push(stream),
                        kind => {
                            let _ = stream.write_all(&noise[kind % noise.len()]);
                            let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
                            let _ = stream.read(&mut [0; 64]);
                        }
                    }
                }
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        crowd
    }

    pub(crate) fn visits(&self) -> usize {
        self.visits.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The inodes of a process's sockets.
fn sockets_of(pid: i32) -> Vec<String> {
    let Ok(files) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect()
}

/// (local port, state, inode) of the TCP sockets of this network namespace.
fn table() -> Vec<(u16, u8, String)> {
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.map(|row| {
        let port = u16::from_str_radix(row[1].rsplit(':').next().unwrap(), 16).unwrap();
        (port, u8::from_str_radix(row[3], 16).unwrap(), row[9].to_owned())
    })
    .collect()
}

const ESTABLISHED: u8 = 1;
const LISTENS: u8 = 10;

/// Where these processes listen, once `count` of them do.
pub(crate) fn doors_of(pids: &[i32], count: usize) -> Vec<SocketAddr> {
    until(|| {
        let mine: Vec<String> = pids.iter().flat_map(|&pid| sockets_of(pid)).collect();
        let listening =
            table().into_iter().filter(|(_, state, inode)| *state == LISTENS && mine.contains(inode));
        let doors: Vec<_> = listening.map(|(port, ..)| SocketAddr::from(([127, 0, 0, 1], port))).collect();
        (doors.len() >= count).then_some(doors)
    })
}

/// Waits until a process has so many connections.
pub(crate) fn wait_for_connections(pid: i32, count: usize) {
    until(|| {
        let mine = sockets_of(pid);
        let connected =
            table().into_iter().filter(|(_, state, inode)| *state == ESTABLISHED && mine.contains(inode));
        (connected.count() >= count).then_some(())
    });
}

fn until<T>(look: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + crate::support::process::HANG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Interrupts whatever each thread of a process is doing.
pub(crate) fn interrupt_all_threads(pid: i32) {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for task in tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse::<libc::c_long>().ok()) {
        // SAFETY: the call takes numbers only. A thread that has gone meanwhile is none.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::c_long::from(pid), task, libc::c_long::from(libc::SIGUSR1))
        };
    }
}
