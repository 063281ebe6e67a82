//! A log of a communicator's own: what its calls and its threads tell goes to a function of the caller's.

use crate::context::Context;
use crate::error::{Fault, RF_CONFIGURATION, Result};
use crate::types::{RF_LEVEL_DEBUG, RF_LEVEL_ERROR, RF_LEVEL_INFO, RF_LEVEL_TRACE, RF_LEVEL_WARN};
use std::ffi::{CString, c_char, c_void};
use std::fmt::{self, Write as _};
use tracing::field::{Field, Visit};
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Event, Level, Subscriber, dispatcher};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{self, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

type Tell = unsafe extern "C" fn(*mut c_void, i32, *const c_char, *const c_char);

/// A caller's function with its context.
pub(crate) struct Caller {
    tell: Tell,
    context: Context,
}

/// Where a communicator's log goes.
#[derive(Clone)]
pub(crate) struct Log(Dispatch);

impl Log {
    /// Runs something of which the log is told.
    pub(crate) fn hear<T>(&self, body: impl FnOnce() -> T) -> T {
        dispatcher::with_default(&self.0, body)
    }
}

/// Runs something of a caller's own, of which no log is told.
pub(crate) fn unheard<T>(body: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(NoSubscriber::default(), body)
}

impl Caller {
    pub(crate) fn new(tell: Tell, context: Context) -> Self {
        Caller { tell, context }
    }

    pub(crate) fn install(self, filter: &str) -> Result<Log> {
        let filter: Targets = filter.parse().map_err(|error| {
            Fault::new(
                RF_CONFIGURATION,
                format!(
                    "configuration: the log filter {filter:?} cannot be read: {error}; to do: write levels and targets, \
                     such as info,ringfold::transport=debug"
                ),
            )
        })?;
        Ok(Log(Dispatch::new(Registry::default().with(self.with_filter(filter)))))
    }
}

impl<S: Subscriber> Layer<S> for Caller {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => RF_LEVEL_ERROR,
            Level::WARN => RF_LEVEL_WARN,
            Level::INFO => RF_LEVEL_INFO,
            Level::DEBUG => RF_LEVEL_DEBUG,
            Level::TRACE => RF_LEVEL_TRACE,
        };
        let mut line = Line(String::new());
        event.record(&mut line);
        let c = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
        let (target, text) = (c(event.metadata().target()), c(&line.0));
        // SAFETY: both texts live until it returns, and the context has not been given back.
        unsafe { (self.tell)(self.context.pointer(), level, target.as_ptr(), text.as_ptr()) };
    }
}

/// The message, and the fields behind it.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let rest = std::mem::replace(&mut self.0, format!("{value:?}"));
            self.0.push_str(&rest);
        } else {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}
