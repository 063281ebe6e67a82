//! Threads that tell what they do to whoever listens where they were made.

use std::io;
use std::thread::{Builder, JoinHandle};
use tracing::Dispatch;
use tracing::dispatcher::{get_default, with_default};
use tracing::subscriber::NoSubscriber;

/// Makes a thread of this name. What it tells by `tracing` goes where the caller's goes now: a program that listens to one
/// group by [`with_default`] hears that group's threads, too.
///
/// # Errors
/// Where the system refuses a thread.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let listener = get_default(Dispatch::clone);
    Builder::new().name(name.into()).spawn(move || match listener.is::<NoSubscriber>() {
        true => body(),
        false => with_default(&listener, body),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, Registry};

    struct Names(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Names {
        fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            self.0.lock().unwrap().push(event.metadata().name().into());
        }
    }

    #[test]
    fn a_thread_tells_whom_its_maker_tells() {
        let heard = Arc::default();
        let listener = Registry::default().with(Names(Arc::clone(&heard)));
        let thread = tracing::subscriber::with_default(listener, || {
            super::spawn("teller", || tracing::warn!(name: "told", "hear me")).unwrap()
        });
        thread.join().unwrap();
        assert_eq!(*heard.lock().unwrap(), ["told"]);
        super::spawn("silent", || tracing::warn!(name: "untold", "nobody hears")).unwrap().join().unwrap();
        assert_eq!(heard.lock().unwrap().len(), 1);
    }
}
