//! Where a store that is yet to come may listen.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// An address that nobody listens on, and that is given to no other test of this process: below the ports that the system
/// deals out, where one that is free now may be somebody's in a moment.
pub(crate) fn unused_address() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that are started one after another begin far apart.
    let first = std::process::id().wrapping_mul(101) % 20_000;
    loop {
        let port = 12_000 + (first + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 20_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port as u16)) {
            return listener.local_addr().expect("it has an address").to_string();
        }
    }
}
