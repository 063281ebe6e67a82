//! A transport that is counted, and timed where a trace is written.

use super::super::{Meter, Operation};
use crate::error::Error;
use crate::observe::trace::Record;
use crate::observe::{Time, Waker};
use crate::transport::shm::HostMemory;
use crate::transport::{Channel, Direction, Interest, LinkFault, Links, Transport};
use std::io::IoSlice;
use std::sync::Arc;

/// The transport of a [`Planned`](super::Planned), with its counters.
pub(super) struct Watched<T> {
    pub(super) inner: T,
    pub(super) meter: Arc<Meter>,
    /// Of the running operation, where somebody writes it down.
    moments: Option<Moments>,
}

/// What a trace tells of an operation besides its request.
#[derive(Default)]
struct Moments {
    /// Where the tracer's clock is when the transport's is at its origin, in ns.
    origin: u64,
    begun: Time,
    first_sent: Option<Time>,
    first_received: Option<Time>,
    sent: u64,
    received: u64,
    waits: u32,
    waited: u64,
    /// Begin and end of the longest wait, and the rank that was waited for.
    longest: Option<(Time, Time, Option<usize>)>,
}

impl<T: Transport> Watched<T> {
    pub(super) fn new(inner: T) -> Self {
        let meter = Arc::new(Meter::new(inner.world()));
        Watched { inner, meter, moments: None }
    }

    /// Begins to write operations down.
    pub(super) fn trace(&mut self, meter: Meter) {
        if let Some(tracer) = &meter.tracer {
            let origin = tracer.now().saturating_sub(self.inner.now().as_nanos());
            self.moments = Some(Moments { origin, ..Moments::default() });
        }
        self.meter = Arc::new(meter);
    }

    /// An operation begins to run.
    pub(super) fn begin(&mut self) {
        if let Some(moments) = &mut self.moments {
            *moments = Moments { origin: moments.origin, begun: self.inner.now(), ..Moments::default() };
        }
    }

    /// So many bytes have come from a peer.
    #[inline]
    fn has_received(&mut self, from: usize, bytes: usize) {
        if bytes > 0 {
            self.meter.received(from, bytes);
            if let Some(moments) = &mut self.moments {
                moments.received += bytes as u64;
                moments.first_received.get_or_insert_with(|| self.inner.now());
            }
        }
    }

    /// Waits, and takes note of it: for a peer, where one is known.
    fn timed(&mut self, peer: Option<usize>, wait: impl FnOnce(&mut T)) {
        let from = self.inner.now();
        wait(&mut self.inner);
        let to = self.inner.now();
        let nanos = to.since(from).as_nanos() as u64;
        self.meter.waits.add(1);
        self.meter.waiting_nanos.add(nanos);
        if let Some(moments) = &mut self.moments {
            moments.waits += 1;
            moments.waited += nanos;
            if moments.longest.is_none_or(|(from, to, _)| nanos > to.since(from).as_nanos() as u64) {
                moments.longest = Some((from, to, peer));
            }
        }
    }

    /// So many bytes have been read of a peer's memory, and written to it.
    #[inline]
    pub(super) fn moved(&mut self, peer: usize, read: usize, written: usize) {
        self.meter.received(peer, read);
        self.meter.sent(peer, written);
        if let Some(moments) = &mut self.moments {
            moments.received += read as u64;
            moments.sent += written as u64;
        }
    }

    /// The running operation has ended.
    pub(super) fn end(
        &mut self,
        communicator: u32,
        operation: &Operation,
        submitted: Time,
        result: &crate::error::Result<()>,
    ) {
        let now = self.inner.now();
        let request = operation.request();
        let bytes = request.bytes(self.inner.rank()) as u64;
        self.meter.ended(request.collective, bytes, now.since(submitted), result.is_ok());
        let Links { made, lost } = self.inner.links();
        self.meter.connections_made.set(made);
        self.meter.connections_lost.set(lost);
        let (Some(moments), Some(tracer)) = (&self.moments, &self.meter.tracer) else { return };
        let at = |time: Time| moments.origin + time.as_nanos();
        tracer.record(Record {
            communicator,
            collective: request.collective.as_str(),
            sequence: operation.sequence(),
            bytes,
            dtype: request.dtype.as_str(),
            op: operation.op_name(),
            algorithm: operation.algorithm_name(),
            order: request.order.as_str(),
            submitted: at(submitted),
            begun: at(moments.begun),
            ended: at(now),
            first_sent: moments.first_sent.map(at),
            first_received: moments.first_received.map(at),
            sent: moments.sent,
            received: moments.received,
            waits: moments.waits,
            waited: moments.waited,
            longest_wait: moments.longest.map(|(from, to, peer)| (at(from), at(to), peer)),
            error: result.as_ref().err().map(Error::kind),
        });
    }
}

impl<T: Transport> Transport for Watched<T> {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn world(&self) -> usize {
        self.inner.world()
    }

    #[inline]
    fn try_send(&mut self, to: usize, channel: Channel, data: &[IoSlice<'_>]) -> Result<usize, LinkFault> {
        let sent = self.inner.try_send(to, channel, data)?;
        if sent > 0 {
            self.meter.sent(to, sent);
            if let Some(moments) = &mut self.moments {
                moments.sent += sent as u64;
                moments.first_sent.get_or_insert_with(|| self.inner.now());
            }
        }
        Ok(sent)
    }

    #[inline]
    fn try_recv(&mut self, from: usize, channel: Channel, into: &mut [u8]) -> Result<usize, LinkFault> {
        let received = self.inner.try_recv(from, channel, into)?;
        self.has_received(from, received);
        Ok(received)
    }

    #[inline]
    fn peek(&mut self, from: usize, channel: Channel) -> Result<Option<(*const u8, usize)>, LinkFault> {
        self.inner.peek(from, channel)
    }

    #[inline]
    fn consume(&mut self, from: usize, channel: Channel, bytes: usize) {
        self.inner.consume(from, channel, bytes);
        self.has_received(from, bytes);
    }

    fn wait(&mut self, interests: &[Interest], until: Time) {
        let peer = interests.iter().find(|interest| interest.direction == Direction::Receive);
        let peer = peer.or(interests.first()).map(|interest| interest.peer);
        self.timed(peer, |inner| inner.wait(interests, until));
    }

    fn host_memory(&mut self) -> Option<&mut HostMemory> {
        self.inner.host_memory()
    }

    fn wait_for(&mut self, look: &mut dyn FnMut(&mut HostMemory) -> bool, until: Time) {
        self.timed(None, |inner| inner.wait_for(look, until));
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn now(&self) -> Time {
        self.inner.now()
    }

    fn spins(&self) -> u32 {
        self.inner.spins()
    }

    fn shares_cpus(&self) -> bool {
        self.inner.shares_cpus()
    }

    fn report(&mut self, cause: &crate::error::Cause) {
        self.inner.report(cause);
    }

    fn verdict(&self) -> Option<crate::error::Cause> {
        self.inner.verdict()
    }

    fn links(&self) -> Links {
        self.inner.links()
    }
}
