//! From the name of an interface to an address to listen on.

use crate::error::{Error, ErrorKind, Result};
use std::net::IpAddr;

/// The address of an interface that is named, or that has the address given. IPv4 comes first; addresses that hold
/// on one link only are passed over.
///
/// # Errors
/// [`Configuration`](ErrorKind::Configuration), listing the interfaces there are.
pub(super) fn find(wanted: &str) -> Result<IpAddr> {
    let all = if_addrs::get_if_addrs().map_err(|error| Error::io("listing the network interfaces", error))?;
    if let Ok(ip) = wanted.parse::<IpAddr>() {
        if ip.is_unspecified() {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!("RINGFOLD_INTERFACE is {wanted}, which is every interface"),
            )
            .remedy("name the one that the other ranks reach"));
        }
        // All of 127.0.0.0/8 is this host's, though only one of it is listed.
        if ip.is_loopback() || all.iter().any(|i| i.ip() == ip) {
            return Ok(ip);
        }
    }
    let mut named: Vec<IpAddr> = all
        .iter()
        .filter(|i| i.name == wanted && !(i.is_link_local() && i.ip().is_ipv6()))
        .map(|i| i.ip())
        .collect();
    named.sort_by_key(IpAddr::is_ipv6);
    named.first().copied().ok_or_else(|| {
        let there: Vec<String> = all.iter().map(|i| format!("{} ({})", i.name, i.ip())).collect();
        let text = format!("this host has no interface {wanted:?} with an address to listen on");
        Error::new(ErrorKind::Configuration, text)
            .remedy(format!("set RINGFOLD_INTERFACE to one of {}", there.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_by_name_and_by_address() {
        assert!(find("lo").unwrap().is_loopback());
        assert_eq!(find("127.0.0.1").unwrap().to_string(), "127.0.0.1");
    }

    #[test]
    fn unknown_and_boundless_interfaces_are_refused_with_what_there_is() {
        let error = find("no-such-0").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("lo (127.0.0.1)"), "{error}");
        assert!(find("0.0.0.0").is_err());
        assert!(find("203.0.113.77").is_err(), "an address of another host");
    }
}
