//! Spans and events as a subscriber hears them.

use crate::support::{self, communicators, on_ranks, over_sockets};
use ringfold::{Algorithm, Communicator, Options, Order, ReduceOp};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// The fields of a span or an event, as text.
#[derive(Debug, Clone, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

impl Fields {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// Something heard.
#[derive(Debug, Clone)]
struct Heard {
    target: String,
    level: Level,
    name: &'static str,
    parent: Option<u64>,
    id: u64,
    fields: Fields,
    /// How often a span was entered.
    entered: usize,
}

/// Writes down what it hears.
#[derive(Clone, Default)]
struct Listener(Arc<Mutex<Vec<Heard>>>);

impl Listener {
    fn hears<T>(&self, body: impl FnOnce() -> T) -> T {
        let subscriber = tracing_subscriber::registry().with(self.clone());
        tracing::subscriber::with_default(subscriber, body)
    }

    fn spans(&self) -> Vec<Heard> {
        let heard = self.0.lock().unwrap();
        heard.iter().filter(|heard| heard.name == "collective").cloned().collect()
    }

    fn events(&self, message: &str) -> Vec<Heard> {
        let heard = self.0.lock().unwrap();
        heard.iter().filter(|heard| heard.fields.get("message") == message).cloned().collect()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Listener {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let meta = attributes.metadata();
        let parent = context.span(id).and_then(|span| span.parent().map(|parent| parent.id().into_u64()));
        self.0.lock().unwrap().push(Heard {
            target: meta.target().to_owned(),
            level: *meta.level(),
            name: meta.name(),
            parent,
            id: id.into_u64(),
            fields,
            entered: 0,
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        for heard in self.0.lock().unwrap().iter_mut().filter(|heard| heard.id == id.into_u64()) {
            values.record(&mut heard.fields);
        }
    }

    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        for heard in self.0.lock().unwrap().iter_mut().filter(|heard| heard.id == id.into_u64()) {
            heard.entered += 1;
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.lock().unwrap().push(Heard {
            target: event.metadata().target().to_owned(),
            level: *event.metadata().level(),
            name: "event",
            parent: context.event_span(event).map(|span| span.id().into_u64()),
            id: 0,
            fields,
            entered: 0,
        });
    }
}

/// What a subscriber of its own hears on each rank.
fn on_each(group: Vec<Communicator>, body: impl Fn(&Communicator) + Sync) -> Vec<Listener> {
    let world = group.len();
    let group = Mutex::new(group.into_iter().map(Some).collect::<Vec<_>>());
    on_ranks(world, |rank| {
        let comm = group.lock().unwrap()[rank].take().unwrap();
        let listener = Listener::default();
        listener.hears(|| body(&comm));
        listener
    })
}

#[test]
fn each_call_is_a_span_that_says_what_it_is() {
    let heard = on_each(communicators(3), |comm| {
        let outer = tracing::info_span!(target: "program", "step");
        let _entered = outer.enter();
        comm.all_reduce(&mut [1.0f32; 10], ReduceOp::Max).unwrap();
        comm.with(Options::new().order(Order::Fixed)).all_reduce(&mut [1.0f64; 2], ReduceOp::Sum).unwrap();
        comm.broadcast(&mut [1u8; 7], 1).unwrap();
    });
    for (rank, listener) in heard.iter().enumerate() {
        let spans = listener.spans();
        assert_eq!(spans.len(), 3);
        let expected = [
            ("all_reduce", "40", "f32", "max", "default"),
            ("all_reduce", "16", "f64", "sum", "fixed"),
            ("broadcast", "7", "u8", "none", "default"),
        ];
        for (sequence, (span, expected)) in spans.iter().zip(expected).enumerate() {
            assert_eq!((span.target.as_str(), span.level), ("ringfold", Level::DEBUG));
            let get = |name| span.fields.get(name);
            assert_eq!((get("collective"), get("bytes"), get("dtype"), get("op"), get("order")), expected);
            assert_eq!((get("rank"), get("world"), get("communicator")), (&*rank.to_string(), "3", "0"));
            assert_eq!((get("sequence"), get("backend")), (&*sequence.to_string(), "shm"));
            assert!(Algorithm::named(get("algorithm")).is_ok(), "{span:?}");
            assert_eq!(get("error"), "");
            assert!(span.parent.is_some() && span.entered == 1, "{span:?}");
        }
        // What happens within a call belongs to it.
        let made = listener.events("made a plan");
        assert_eq!(made.len(), 3);
        assert_eq!(made[0].parent, Some(spans[0].id));
        assert_eq!(made[0].fields.get("algorithm"), spans[0].fields.get("algorithm"));
    }
}

#[test]
fn a_message_is_told_with_its_peers_and_a_collective_without() {
    let heard = on_each(Communicator::local(3), |comm| {
        let rank = comm.rank();
        comm.send_recv(&[rank as u8], (rank + 1) % 3, &mut [0u8], (rank + 2) % 3).unwrap();
        match rank {
            0 => comm.send(&[1u16], 2).unwrap(),
            2 => comm.recv(&mut [0u16], 0).unwrap(),
            _ => {}
        }
        comm.barrier().unwrap();
    });
    let peers = |rank: usize| -> Vec<String> {
        heard[rank].spans().iter().map(|span| span.fields.get("peer").to_owned()).collect()
    };
    assert_eq!(peers(0), ["to 1, from 2", "to 2", ""]);
    assert_eq!(peers(1), ["to 2, from 0", ""]);
    assert_eq!(peers(2), ["to 0, from 1", "from 0", ""]);
}

#[test]
fn a_started_call_has_its_span_on_the_thread_that_drives_it() {
    let heard = on_each(Communicator::local(2), |comm| {
        comm.start_all_reduce(vec![1.0f32; 100_000], ReduceOp::Sum).unwrap().wait().unwrap();
    });
    for listener in heard {
        let spans = listener.spans();
        assert_eq!((spans.len(), spans[0].fields.get("bytes")), (1, "400000"));
        assert!(spans[0].entered > 0);
    }
}

#[test]
fn connections_are_told_with_peer_and_address() {
    let heard = on_each(over_sockets(2), |comm| comm.barrier().unwrap());
    for message in ["connects to a peer", "a peer has connected"] {
        let mut told = 0;
        for (rank, listener) in heard.iter().enumerate() {
            for event in listener.events(message) {
                let get = |name| event.fields.get(name);
                assert_eq!((get("rank"), get("peer")), (&*rank.to_string(), &*(1 - rank).to_string()));
                assert!(get("address").starts_with("127.0.0.1:"), "{message}: {}", get("address"));
                assert_eq!(event.target, "ringfold::transport::tcp");
                told += 1;
            }
        }
        // Two ranks that begin at once make two.
        assert!((1..=2).contains(&told), "{told}: {message}");
    }
}

#[test]
fn a_failure_is_told_as_it_is_noticed_and_as_the_group_settles_on_it() {
    let heard = on_each(communicators(3), |comm| {
        let root = if comm.rank() == 2 { 1 } else { 0 };
        let error = comm.broadcast(&mut vec![0u8; 100_000], root).unwrap_err();
        assert_eq!(error.culprit(), Some(2));
        comm.barrier().unwrap_err();
    });
    let noticed: usize = heard.iter().map(|listener| listener.events("noticed a failure").len()).sum();
    assert!(noticed > 0);
    for listener in heard {
        let verdicts = listener.events("the group has failed");
        assert_eq!(verdicts.len(), 1, "once, however many calls fail");
        assert_eq!((verdicts[0].level, verdicts[0].fields.get("culprit")), (Level::WARN, "2"));
        let spans = listener.spans();
        assert!(spans[0].fields.get("error").contains("mismatch"), "{:?}", spans[0]);
        assert!(!spans[1].fields.get("error").is_empty());
    }
}

#[test]
fn what_a_call_says_outdoes_what_the_configuration_says() {
    let store = support::unused_address();
    let heard = on_ranks(2, |rank| {
        let config = support::config(rank, 2).with_store(&*store).with_algorithm("ring").with_check("normal");
        let listener = Listener::default();
        listener.hears(|| {
            let comm = Communicator::connect(&config).unwrap();
            comm.all_reduce(&mut [1i32], ReduceOp::Sum).unwrap();
            let algorithm = Algorithm::named("recursive_doubling").unwrap();
            let with = Options::new().algorithm(algorithm);
            comm.with(with).all_reduce(&mut [1i32], ReduceOp::Sum).unwrap();
        });
        listener
    });
    for listener in heard {
        let algorithms: Vec<_> =
            listener.spans().iter().map(|span| span.fields.get("algorithm").to_owned()).collect();
        assert_eq!(algorithms, ["ring", "recursive_doubling"]);
    }
}
