//! A proxy that stands before a rank's door and does to its connections what networks do.

use nix::libc;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What happens to the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// They arrive.
    Fair,
    /// They are read and written one at a time.
    Drizzle,
    /// The connection that has carried so many payload bytes one way, first of all, is reset on both sides.
    ResetAfter(usize),
    /// The same, and is closed in good order on the receiver's side; the sender's hears nothing more.
    CloseAfter(usize),
    /// From so many on, nobody reads.
    StuckAfter(usize),
}

/// Bytes that a limit lets pass, over all connections of a proxy.
struct Toll {
    left: AtomicUsize,
}

impl Toll {
    /// Takes up to `wanted`; tells how many may pass.
    fn take(&self, wanted: usize) -> usize {
        let mut taken = 0;
        let _ = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            taken = wanted.min(left);
            Some(left - taken)
        });
        taken
    }
}

/// Stands before an address; gives its own.
pub(crate) fn before(address: SocketAddr, weather: Weather) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap();
    let limit = match weather {
        Weather::Fair | Weather::Drizzle => usize::MAX,
        Weather::ResetAfter(limit) | Weather::CloseAfter(limit) | Weather::StuckAfter(limit) => limit,
    };
    let toll = Arc::new(Toll { left: AtomicUsize::new(limit) });
    // Threads end with the test's process; they hold nothing but sockets.
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(address) else { continue };
            for socket in [&client, &server] {
                socket.set_nodelay(true).unwrap();
            }
            if let Weather::StuckAfter(_) = weather {
                // So that little is under way once nobody reads.
                SockRef::from(&client).set_recv_buffer_size(4096).unwrap();
            }
            let (forth, back) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let toll = Arc::clone(&toll);
            std::thread::spawn(move || carry(forth, server, weather, Some(&toll)));
            std::thread::spawn(move || carry(back, client, weather, None));
        }
    });
    own
}

fn carry(mut from: TcpStream, mut to: TcpStream, weather: Weather, toll: Option<&Toll>) {
    let mut buffer = vec![0; if weather == Weather::Drizzle { 1 } else { 64 << 10 }];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(count) => count,
            Err(_) => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        };
        let passes = toll.map_or(count, |toll| toll.take(count));
        if to.write_all(&buffer[..passes]).is_err() {
            let _ = from.shutdown(Shutdown::Both);
            return;
        }
        if passes < count {
            match weather {
                Weather::ResetAfter(_) => {
                    reset(&from);
                    reset(&to);
                }
                Weather::CloseAfter(_) => {
                    let _ = to.shutdown(Shutdown::Write);
                    // What the sender sends from here on goes nowhere.
                    while from.read(&mut buffer).is_ok_and(|count| count > 0) {}
                }
                _ => std::thread::sleep(Duration::from_secs(3600)),
            }
            return;
        }
    }
}

/// Sends a RST, although other threads have the socket too.
fn reset(socket: &TcpStream) {
    use std::os::fd::AsRawFd;
    // Connecting a stream socket to "nothing" resets its connection at once, whoever else holds it.
    let nothing = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
    let size = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the address is a whole one that outlives the call.
    let _ = unsafe { libc::connect(socket.as_raw_fd(), &nothing, size) };
}
