//! A subscriber that writes to the standard error, for programs that have none. Only with the feature `log`.

use crate::error::{Error, ErrorKind, Result};
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Writes what passes the filter to the standard error, one line each, from now on and for the whole process. The filter
/// is a list of `target=level`, such as `info,ringfold::transport=debug`, as
/// [`EnvFilter`] reads it.
///
/// ```
/// let config = ringfold::Config::from_env()?;
/// if let Some(filter) = &config.log {
///     ringfold::observe::log::install(filter)?;
/// }
/// # Ok::<(), ringfold::Error>(())
/// ```
///
/// # Errors
/// [`Configuration`](ErrorKind::Configuration) where the filter cannot be read, and where the process has a subscriber
/// already, which stays.
pub fn install(filter: &str) -> Result<()> {
    let read = EnvFilter::builder().parse(filter).map_err(|error| {
        Error::new(ErrorKind::Configuration, format!("the log filter {filter:?} cannot be read: {error}"))
            .remedy("write levels and targets, such as info,ringfold::transport=debug, in RINGFOLD_LOG")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(read)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .finish()
        .try_init()
        .map_err(|error| {
            Error::new(ErrorKind::Configuration, format!("the log cannot be installed: {error}"))
                .remedy("let one place of the program install a subscriber")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_a_typed_error() {
        let error = install("ringfold=loud").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains("ringfold=loud"), "{error}");
    }
}
