//! Record batches that go from rank to rank as they are.

use super::account::{Asked, Brings, Field, agree, settle, sized};
use super::column::{extension, joined};
use super::message::{Message, decode, decode_seen};
use super::output::Output;
use super::seen::{BLOCK, Seen};
use super::single::batch_of;
use crate::communicator::{Communicator, Options, Tensors, With};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::stream;
use crate::reduce::ReduceOp;
use crate::tensor::{DType, TensorRef};
use arrow_array::{Array, ArrayRef, ListArray, RecordBatch};
use arrow_buffer::{Buffer, OffsetBuffer};
use arrow_schema::{DataType, Schema};
use rustc_hash::FxHasher;
use std::hash::Hash;

/// From how many bytes on ranks make sure that all of them have the memory for what comes.
const SURE: u64 = 1 << 20;

impl Brings for Schema {
    fn digest(&self, hasher: &mut FxHasher) {
        for field in self.fields() {
            (field.name(), field.data_type(), field.is_nullable(), extension(field)).hash(hasher);
        }
    }

    fn has_nulls(&self) -> bool {
        false
    }

    fn fields(&self) -> Vec<Field> {
        let fields = self.fields().iter().map(|field| Field {
            path: format!("column {:?}", field.name()),
            kind: {
                let nullable = if field.is_nullable() { "" } else { " not null" };
                let extension =
                    extension(field).map_or_else(String::new, |extension| format!(" ({extension})"));
                format!("{}{nullable}{extension}", field.data_type())
            },
            len: None,
            layout: 0,
            nulls: 0,
        });
        fields.collect()
    }
}

/// How many bytes of each rank's message go at a time where they go by way of other memory.
const PORTION: usize = 64 * BLOCK;

/// From how many bytes on what comes goes past the caches, which cannot hold it.
const STREAMED: usize = 24 << 20;

/// What this rank sends of a table, to be agreed on before any of it goes.
struct Sent<'a> {
    schema: &'a Schema,
    messages: Vec<Message>,
}

impl<'a> Sent<'a> {
    fn one(batch: &'a RecordBatch) -> Result<Self> {
        Ok(Sent { schema: batch.schema_ref(), messages: vec![Message::of(batch)?] })
    }
}

impl With<'_> {
    /// Compares what this rank sends with what the others do; every rank calls it, also one that cannot take part.
    fn agree_to_send<'a>(&self, asked: &Asked, sent: Result<Sent<'a>>) -> Result<Sent<'a>> {
        let brings: Result<&dyn Brings> = match &sent {
            Ok(sent) => Ok(sent.schema),
            Err(error) => Err(error.clone()),
        };
        agree(self, asked, brings)?;
        sent
    }

    /// Memory for what comes. Where it is much, the ranks tell each other whether they have it.
    fn memory(&self, asked: &Asked, bytes: usize, most: u64) -> Result<Output> {
        self.settled(asked, Output::new(self.communicator(), bytes), most)
    }

    fn settled(&self, asked: &Asked, memory: Result<Output>, most: u64) -> Result<Output> {
        if most < SURE { memory } else { settle(self, asked, memory) }
    }

    /// How many bytes each rank sends, and where they begin where they follow one another.
    fn lengths(&self, own: usize) -> Result<(Vec<usize>, u64)> {
        let mut lengths = vec![0u64; self.communicator().world_size()];
        self.beside().all_gather(&[own as u64], &mut lengths)?;
        sized(&lengths)
    }

    pub(super) fn gather_all(&self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let comm = self.communicator();
        let asked = Asked::new("all_gather");
        let sent = self.agree_to_send(&asked, Sent::one(batch))?;
        let message = &sent.messages[0];
        let (mut lengths, total) = self.lengths(message.len())?;
        if comm.backend() == "shm" {
            // What a rank sends need not be where it receives.
            let others = total as usize - message.len();
            let portion = lengths.iter().map(|&len| len.min(PORTION)).sum();
            let mut memory = self.settled(&asked, Output::passage(comm, portion), total)?;
            let mut all = self.memory(&asked, others, total)?;
            let seen = self.gather_in_portions(message, &lengths, &mut memory, &mut all)?;
            lengths[comm.rank()] = 0;
            return self.read(all.into_buffer(), &lengths, Some(batch), &seen);
        }
        let mut all = self.memory(&asked, total as usize, total)?;
        let start: usize = lengths[..comm.rank()].iter().sum();
        message.write(&mut all[start..start + lengths[comm.rank()]]);
        self.over_own_memory().all_gather_dyn(all.tensor(DType::U8, total as usize), Some(&lengths))?;
        self.read(all.into_buffer(), &lengths, Some(batch), &[])
    }

    /// Gathers all others' messages, a portion of each at a time, by way of memory that stays in the caches: so each byte is read from
    /// where it was and written to where it stays, and what is between costs little.
    fn gather_in_portions(
        &self,
        message: &Message,
        lengths: &[usize],
        memory: &mut Output,
        all: &mut [u8],
    ) -> Result<Vec<Seen>> {
        let comm = self.communicator();
        let rank = comm.rank();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut seen: Vec<Seen> = lengths.iter().map(|_| Seen::default()).collect();
        let mut writer = message.writer();
        let streams = all.len() >= STREAMED;
        for from in (0..longest).step_by(PORTION) {
            let part = |len: usize| len.saturating_sub(from).min(PORTION);
            let counts: Vec<usize> = lengths.iter().map(|&len| part(len)).collect();
            let start: usize = counts[..rank].iter().sum();
            let total: usize = counts.iter().sum();
            writer.write(&mut memory[start..start + counts[rank]]);
            let even = counts.iter().all(|&count| count == PORTION);
            self.over_own_memory()
                .all_gather_dyn(memory.tensor(DType::U8, total), (!even).then_some(&counts[..]))?;
            let (mut parts, mut rest) = (&memory[..total], &mut *all);
            for (peer, (&len, &count)) in lengths.iter().zip(&counts).enumerate() {
                let part = parts.split_off(..count).expect("the parts are as long as was said");
                if peer != rank {
                    let into = rest.split_off_mut(..len).expect("there is room for all");
                    let into = &mut into[from.min(len)..][..count];
                    seen[peer].add(part);
                    if streams { stream::copy_slice(part, into) } else { into.copy_from_slice(part) }
                }
            }
        }
        Ok(seen)
    }

    fn gather_to(&self, batch: &RecordBatch, root: usize) -> Result<Option<Vec<RecordBatch>>> {
        let comm = self.communicator();
        let asked = Asked { root: Some(root), ..Asked::new("gather") };
        let sent = self.check_root(root).and_then(|()| Sent::one(batch));
        let sent = self.agree_to_send(&asked, sent)?;
        let message = &sent.messages[0];
        let (lengths, total) = self.lengths(message.len())?;
        let is_root = comm.rank() == root;
        let mut memory = self.memory(&asked, if is_root { total as usize } else { message.len() }, total)?;
        let start: usize = if is_root { lengths[..root].iter().sum() } else { 0 };
        message.write(&mut memory[start..start + message.len()]);
        let bytes = memory.len();
        self.over_own_memory().gather_dyn(memory.tensor(DType::U8, bytes), Some(&lengths), root)?;
        if is_root {
            Ok(Some(self.read(memory.into_buffer(), &lengths, Some(batch), &[])?))
        } else {
            Ok(None)
        }
    }

    fn broadcast_from(
        &self,
        batch: Option<&RecordBatch>,
        root: usize,
        what: Option<String>,
    ) -> Result<RecordBatch> {
        let comm = self.communicator();
        let asked = Asked { root: Some(root), more: what, ..Asked::new("broadcast") };
        let message = self.check_root(root).and_then(|()| match batch {
            _ if comm.rank() != root => Ok(None),
            Some(batch) => Ok(Some(Message::of(batch)?)),
            None => Err(Error::invalid("a broadcast of a record batch that the root does not have")
                .remedy("pass the batch on the root")),
        });
        let brings: Result<&dyn Brings> = match &message {
            Ok(_) => Ok(&()),
            Err(error) => Err(error.clone()),
        };
        agree(self, &asked, brings)?;
        let message = message?;
        let mut length = [message.as_ref().map_or(0, Message::len) as u64];
        self.beside().broadcast(&mut length, root)?;
        let [bytes] = length;
        let mut memory = self.memory(&asked, bytes as usize, bytes)?;
        if let Some(message) = &message {
            message.write(&mut memory);
        }
        self.over_own_memory().broadcast_dyn(memory.tensor(DType::U8, bytes as usize), root)?;
        match batch {
            Some(batch) if comm.rank() == root => Ok(batch.clone()),
            _ => decode(memory.into_buffer())
                .map_err(|error| comm.complete(error.blame(comm.world_rank_of(root)))),
        }
    }

    pub(super) fn exchange_all(
        &self,
        asked: &Asked,
        batches: Result<Vec<RecordBatch>>,
    ) -> Result<Vec<RecordBatch>> {
        let comm = self.communicator();
        let (world, rank) = (comm.world_size(), comm.rank());
        let sent = batches.as_ref().map_err(Error::clone).and_then(|batches| {
            if batches.len() != world {
                let text = format!("{} record batches for {world} ranks", batches.len());
                return Err(Error::invalid(text).remedy("pass one for each rank; empty ones have no rows"));
            }
            let schema = batches[0].schema_ref();
            if let Some(to) = batches.iter().position(|batch| batch.schema_ref().fields() != schema.fields())
            {
                let text = format!("the record batch for rank {to} has another schema than that for rank 0");
                return Err(Error::invalid(text).remedy("pass batches of one schema"));
            }
            Ok(Sent { schema, messages: batches.iter().map(Message::of).collect::<Result<_>>()? })
        });
        let sent = self.agree_to_send(asked, sent)?;
        // What a rank keeps for itself goes nowhere.
        let len = |(to, message): (usize, &Message)| if to == rank { 0 } else { message.len() };
        let send: Vec<usize> = sent.messages.iter().enumerate().map(len).collect();
        let sends: Vec<u64> = send.iter().map(|&len| len as u64).collect();
        let mut receives = vec![0u64; world];
        self.beside().all_to_all(&sends, &mut receives)?;
        let (receive, total) = sized(&receives)?;
        let mut most = [total.max(sends.iter().sum())];
        self.beside().all_reduce(&mut most, ReduceOp::Max)?;
        let (out, into) = (send.iter().sum::<usize>(), total as usize);
        let both = Output::new(comm, out).and_then(|out| Ok((out, Output::new(comm, into)?)));
        let (mut outgoing, mut incoming) = if most[0] >= SURE { settle(self, asked, both) } else { both }?;
        let mut rest = &mut outgoing[..];
        for (message, &len) in sent.messages.iter().zip(&send).filter(|(_, len)| **len > 0) {
            message.write(rest.split_off_mut(..len).expect("there is room for all"));
        }
        let outgoing = outgoing.into_buffer();
        let tensors = Tensors::Apart(TensorRef::from_slice(&outgoing), incoming.tensor(DType::U8, into));
        self.over_own_memory().all_to_all_dyn(tensors, Some((&send, &receive)))?;
        let batches = batches?;
        self.read(incoming.into_buffer(), &receive, Some(&batches[rank]), &[])
    }

    /// The batches of messages that follow one another; this rank's own is the one it has.
    fn read(
        &self,
        all: Buffer,
        lengths: &[usize],
        own: Option<&RecordBatch>,
        seen: &[Seen],
    ) -> Result<Vec<RecordBatch>> {
        let comm = self.communicator();
        let nothing = Seen::default();
        let mut start = 0;
        let parts = lengths.iter().enumerate().map(|(rank, &len)| {
            let message = all.slice_with_length(start, len);
            start += len;
            match own {
                Some(own) if rank == comm.rank() => Ok(own.clone()),
                _ => {
                    let seen = seen.get(rank).unwrap_or(&nothing);
                    let decoded = decode_seen(message, seen).and_then(|batch| expected(batch, own));
                    decoded.map_err(|error| comm.complete(error.blame(comm.world_rank_of(rank))))
                }
            }
        });
        parts.collect()
    }

    fn check_root(&self, root: usize) -> Result<()> {
        let world = self.communicator().world_size();
        if root < world {
            return Ok(());
        }
        Err(Error::invalid(format!("root {root} in a group of {world}"))
            .remedy(format!("pass a root below {world}")))
    }
}

/// The batch, if its columns are of the types that were agreed on.
fn expected(batch: RecordBatch, own: Option<&RecordBatch>) -> Result<RecordBatch> {
    let types = |batch: &RecordBatch| {
        batch.columns().iter().map(|column| column.data_type().clone()).collect::<Vec<_>>()
    };
    match own {
        Some(own) if types(own) != types(&batch) => {
            Err(Error::new(ErrorKind::Protocol, "a record batch of another schema than was agreed on"))
        }
        _ => Ok(batch),
    }
}

/// An array without a name as a batch.
fn one_column(array: &dyn Array, nullable: bool) -> Result<RecordBatch> {
    batch_of(array, &arrow_schema::Field::new("", array.data_type().clone(), nullable))
}

impl With<'_> {
    fn exchange_lists(&self, lists: &ListArray) -> Result<ListArray> {
        let world = self.communicator().world_size();
        let DataType::List(field) = lists.data_type() else {
            unreachable!("a list array has a type of lists")
        };
        let batches = if lists.len() == world {
            // The values of a list that is null are not there.
            let values =
                |to: usize| if lists.is_valid(to) { lists.value(to) } else { lists.values().slice(0, 0) };
            (0..world).map(|to| one_column(&values(to), field.is_nullable())).collect()
        } else {
            Err(Error::invalid(format!("{} lists for {world} ranks", lists.len()))
                .remedy("pass one for each rank"))
        };
        let asked = Asked { more: Some("lists".to_owned()), ..Asked::new("all_to_all") };
        let got = self.exchange_all(&asked, batches)?;
        let columns: Vec<&dyn Array> = got.iter().map(|batch| &**batch.column(0)).collect();
        let all = joined("the lists that came", || {
            let offsets = OffsetBuffer::<i32>::from_lengths(columns.iter().map(|column| column.len()));
            ListArray::try_new(field.clone(), offsets, arrow_select::concat::concat(&columns)?, None)
        });
        settle(self, &asked, all)
    }
}

macro_rules! verbs {
    ($($type:ty, |$this:ident| $with:expr;)*) => {$(
/// Tables: record batches of any length and of any types that Arrow IPC can say, strings, dictionaries and nested ones included. One
/// schema on all ranks, down to what may be null; lengths are each rank's own.
///
/// What a rank sends is copied once, into one message; what it gets is not copied again: the batches lie in one memory for all that came
/// in a call, which lives as long as any of them. What a rank would get from itself is the batch that it passed.
///
/// Bytes from other ranks are checked before they are a batch.
impl $type {
    /// The batches of all ranks, in rank order, on every rank.
    ///
    /// ```
    /// use ringfold::Communicator;
    /// use ringfold::arrow::array::record_batch;
    /// std::thread::scope(|scope| {
    ///     for comm in Communicator::local(2) {
    ///         scope.spawn(move || {
    ///             let words = ["a", "b", "c"];
    ///             let own = record_batch!(("word", Utf8, words[..=comm.rank()].to_vec())).unwrap();
    ///             let all = comm.all_gather_record_batch(&own).unwrap();
    ///             assert_eq!(all.iter().map(|batch| batch.num_rows()).collect::<Vec<_>>(), [1, 2]);
    ///         });
    ///     }
    /// });
    /// ```
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather); and, the same on every rank, where what the ranks bring does not go together, after
    /// which the group can go on.
    pub fn all_gather_record_batch(&self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let $this = self;
        let with = $with;
        with.gather_all(batch)
    }

    /// The batches of all ranks, in rank order, on the root; nothing on the others.
    ///
    /// # Errors
    /// As [`all_gather_record_batch`](Self::all_gather_record_batch).
    pub fn gather_record_batch(&self, batch: &RecordBatch, root: usize) -> Result<Option<Vec<RecordBatch>>> {
        let $this = self;
        let with = $with;
        with.gather_to(batch, root)
    }

    /// The root's batch, on every rank. What others pass is not looked at.
    ///
    /// ```
    /// use ringfold::Communicator;
    /// use ringfold::arrow::array::record_batch;
    /// let comm = Communicator::local(1).remove(0);
    /// let table = record_batch!(("word", Utf8, ["a", "b"])).unwrap();
    /// assert_eq!(comm.broadcast_record_batch(Some(&table), 0)?, table);
    /// # Ok::<(), ringfold::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`all_gather_record_batch`](Self::all_gather_record_batch).
    pub fn broadcast_record_batch(&self, batch: Option<&RecordBatch>, root: usize) -> Result<RecordBatch> {
        let $this = self;
        let with = $with;
        with.broadcast_from(batch, root, None)
    }

    /// Batch r of the result is what rank r passed for this rank: batch r of what is passed goes to rank r.
    ///
    /// # Errors
    /// As [`all_gather_record_batch`](Self::all_gather_record_batch).
    pub fn all_to_all_record_batches(&self, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
        let $this = self;
        let with = $with;
        with.exchange_all(&Asked::new("all_to_all"), Ok(batches.to_vec()))
    }

    /// [`all_gather_record_batch`](Self::all_gather_record_batch) of single arrays: lengths are each rank's own.
    ///
    /// # Errors
    /// As there.
    pub fn all_gather_array(&self, array: &dyn Array) -> Result<Vec<ArrayRef>> {
        let $this = self;
        let with = $with;
        Ok(with.gather_all(&one_column(array, true)?)?.iter().map(|batch| batch.column(0).clone()).collect())
    }

    /// [`broadcast_record_batch`](Self::broadcast_record_batch) of a single array.
    ///
    /// # Errors
    /// As there.
    pub fn broadcast_array(&self, array: Option<&dyn Array>, root: usize) -> Result<ArrayRef> {
        let $this = self;
        let with = $with;
        let batch = array.map(|array| one_column(array, true)).transpose()?;
        let told = with.broadcast_from(batch.as_ref(), root, Some("an array".to_owned()))?;
        told.columns().first().cloned().ok_or_else(|| Error::new(ErrorKind::Protocol, "a record batch of no columns for an array"))
    }

    /// [`all_to_all_record_batches`](Self::all_to_all_record_batches) of lists: list r goes to rank r, and list r of the result
    /// came from rank r. As many lists as there are ranks, of any lengths and types; a list that is null arrives as an empty one.
    ///
    /// ```
    /// use ringfold::Communicator;
    /// use ringfold::arrow::array::{ListArray, types::Int32Type};
    /// std::thread::scope(|scope| {
    ///     for comm in Communicator::local(2) {
    ///         scope.spawn(move || {
    ///             let lists: [[Vec<i32>; 2]; 2] = [[vec![1], vec![2, 3]], [vec![], vec![4]]];
    ///             let list = |values: &Vec<i32>| Some(values.iter().copied().map(Some).collect::<Vec<_>>());
    ///             let own = ListArray::from_iter_primitive::<Int32Type, _, _>(lists[comm.rank()].iter().map(list));
    ///             let got = comm.all_to_all_list(&own).unwrap();
    ///             let expected: Vec<_> = lists.iter().map(|from| list(&from[comm.rank()])).collect();
    ///             assert_eq!(got, ListArray::from_iter_primitive::<Int32Type, _, _>(expected));
    ///         });
    ///     }
    /// });
    /// ```
    ///
    /// # Errors
    /// As there.
    pub fn all_to_all_list(&self, lists: &ListArray) -> Result<ListArray> {
        let $this = self;
        let with = $with;
        with.exchange_lists(lists)
    }
}
    )*};
}

verbs! {
    With<'_>, |this| this;
    Communicator, |this| &this.with(Options::default());
}
