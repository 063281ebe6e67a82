//! From Arrow's structures to the library's and back. What is given is borrowed until the call has succeeded.

use crate::arrow::{Source, Target, Verb};
use crate::collective::Begun;
use crate::comm::rf_comm;
use crate::error::{Fault, Result};
use crate::guard::needed;
use crate::options::{How, Way, rf_options};
use crate::types::rf_op;
use core::arrow::array::{Array, ArrayRef, RecordBatch, new_empty_array};
use core::arrow::c_data::{self, Chunks, Exported, Lease, Structure, to_batch};
use core::arrow::schema::{DataType, Field, SchemaRef};
use core::arrow::select::concat::concat;
use core::arrow::{array_of, batch_of};
use core::reduce::Reduction;
use core::{Communicator, Error, With};

pub use core::arrow::c_data::{ArrowArray, ArrowArrayStream, ArrowSchema};

/// A result whose error every rank can be told.
type Known<T> = core::Result<T>;

/// What goes through a call, in or out.
enum Table {
    Batch(RecordBatch),
    Array(ArrayRef, Field),
}

impl Table {
    fn new(array: ArrayRef, field: Field) -> Known<Self> {
        match field.data_type() {
            DataType::Struct(_) => to_batch(&array, &field).map(Table::Batch),
            _ => Ok(Table::Array(array, field)),
        }
    }

    /// Itself, or a batch of a single column whose name and nullability do not matter.
    fn as_batch(&self) -> Known<RecordBatch> {
        match self {
            Table::Batch(batch) => Ok(batch.clone()),
            Table::Array(array, _) => batch_of(array, &Field::new("", array.data_type().clone(), true)),
        }
    }

    /// The same with its name.
    fn named(&self) -> Known<RecordBatch> {
        match self {
            Table::Batch(batch) => Ok(batch.clone()),
            Table::Array(array, field) => batch_of(array, field),
        }
    }

    /// Tables of many ranks: arrays where this is one, under its name.
    fn many(&self, batches: Vec<RecordBatch>) -> Made {
        match self {
            Table::Batch(own) => Made::Batches(own.schema(), batches),
            Table::Array(_, field) => {
                let arrays: Vec<ArrayRef> = batches.iter().map(|batch| batch.column(0).clone()).collect();
                let field = widened(field, &arrays);
                Made::Arrays(field, arrays)
            }
        }
    }

    fn all_reduce(&self, with: &With<'_>, op: Reduction) -> Known<Made> {
        Ok(Made::One(match self {
            Table::Batch(batch) => Table::Batch(with.all_reduce_record_batch(batch, op)?),
            Table::Array(array, field) => Table::Array(with.all_reduce_array(array, op)?, field.clone()),
        }))
    }

    fn reduce(&self, with: &With<'_>, op: Reduction, root: usize) -> Known<Made> {
        let made = match self {
            Table::Batch(batch) => with.reduce_record_batch(batch, op, root)?.map(Table::Batch),
            Table::Array(array, field) => {
                with.reduce_array(array, op, root)?.map(|array| Table::Array(array, field.clone()))
            }
        };
        Ok(made.map_or(Made::Nothing, Made::One))
    }

    fn reduce_scatter(&self, with: &With<'_>, op: Reduction) -> Known<Made> {
        Ok(Made::One(match self {
            Table::Batch(batch) => Table::Batch(with.reduce_scatter_record_batch(batch, op)?),
            Table::Array(array, field) => Table::Array(with.reduce_scatter_array(array, op)?, field.clone()),
        }))
    }

    /// # Errors
    /// Where it has a name with a zero byte, or no place for its nulls.
    fn export(&self) -> Known<(Exported<ArrowArray>, Exported<ArrowSchema>)> {
        match self {
            Table::Batch(batch) => c_data::export_batch(batch),
            Table::Array(array, field) => c_data::export(array, &widened(field, std::slice::from_ref(array))),
        }
    }
}

/// The field of arrays, with a place for their nulls.
fn widened(field: &Field, arrays: &[ArrayRef]) -> Field {
    let nullable = field.is_nullable() || arrays.iter().any(|array| array.null_count() > 0);
    field.clone().with_nullable(nullable)
}

/// What comes of a call.
enum Made {
    Nothing,
    One(Table),
    Batches(SchemaRef, Vec<RecordBatch>),
    Arrays(Field, Vec<ArrayRef>),
}

/// The same in the structures of C.
#[derive(Default)]
struct Results {
    array: Option<Exported<ArrowArray>>,
    schema: Option<Exported<ArrowSchema>>,
    stream: Option<Exported<ArrowArrayStream>>,
}

impl Made {
    fn export(self) -> Known<Results> {
        Ok(match self {
            Made::Nothing => Results::default(),
            Made::One(table) => {
                let (array, schema) = table.export()?;
                Results { array: Some(array), schema: Some(schema), stream: None }
            }
            Made::Batches(schema, batches) => {
                let stream = c_data::export_stream(schema, batches.into_iter().map(Ok));
                Results { stream: Some(stream), ..Results::default() }
            }
            Made::Arrays(field, arrays) => {
                let stream = c_data::export_chunks(field, arrays.into_iter().map(Ok));
                Results { stream: Some(stream), ..Results::default() }
            }
        })
    }
}

/// What the caller passes, looked at. Dropping it leaves the caller with what it has passed.
enum Given {
    Nothing,
    /// The array goes before the lease.
    Array(Table, Lease),
    Stream(Vec<Table>, Reading),
}

impl Given {
    /// # Safety
    /// The structures are as every description says.
    unsafe fn look(source: Source, verb: &Verb, begun: &Begun<'_>) -> Known<Given> {
        match source {
            Source::Array(..) if matches!(verb, Verb::Broadcast(root) if *root != begun.rank as i64) => {
                Ok(Given::Nothing)
            }
            Source::Array(schema, array) => {
                // SAFETY: the caller's promise.
                let lent = unsafe { c_data::lend(array, schema) }?;
                let (array, field, lease) = (lent.array, lent.field, lent.lease);
                Ok(Given::Array(Table::new(array, field)?, lease))
            }
            Source::Stream(stream) => {
                let most = if matches!(verb, Verb::AllToAll) { begun.world } else { usize::MAX };
                // SAFETY: the caller's promise.
                let reading = unsafe { Reading::new(stream, most) }?;
                let tables = match verb {
                    Verb::AllToAll => reading.each()?,
                    _ => vec![reading.joined()?],
                };
                Ok(Given::Stream(tables, reading))
            }
        }
    }

    fn tables(&self) -> &[Table] {
        match self {
            Given::Nothing => &[],
            Given::Array(table, _) => std::slice::from_ref(table),
            Given::Stream(tables, _) => tables,
        }
    }

    /// Takes it over.
    fn take(self) -> Known<()> {
        match self {
            Given::Nothing => Ok(()),
            Given::Array(_, lease) => lease.take(),
            Given::Stream(_, mut reading) => {
                reading.rest = None;
                Ok(())
            }
        }
    }
}

/// A stream that was read. Where it is not taken over the caller gets another in its place, which gives the same once more.
struct Reading {
    place: *mut ArrowArrayStream,
    field: Field,
    read: Vec<ArrayRef>,
    failed: Option<Error>,
    /// None where the stream was taken over.
    rest: Option<Chunks>,
}

impl Reading {
    /// Reads a stream, and `most` arrays of it and one more.
    ///
    /// # Safety
    /// The stream is as every description says, and its structure can be written as long as this lives.
    unsafe fn new(stream: *mut ArrowArrayStream, most: usize) -> Known<Self> {
        // SAFETY: the caller's promise.
        let mut chunks = unsafe { c_data::import_chunks(stream) }?;
        let (mut read, mut failed) = (Vec::new(), None);
        while read.len() <= most {
            match chunks.next() {
                Some(Ok(array)) => read.push(array),
                Some(Err(error)) => {
                    failed = Some(error);
                    break;
                }
                None => break,
            }
        }
        let field = widened(chunks.field(), &read);
        Ok(Reading { place: stream, field, read, failed, rest: Some(chunks) })
    }

    fn all(&self) -> Known<&[ArrayRef]> {
        self.failed.clone().map_or(Ok(&self.read), Err)
    }

    fn each(&self) -> Known<Vec<Table>> {
        self.all()?.iter().map(|array| Table::new(array.clone(), self.field.clone())).collect()
    }

    /// All of it as one, which is copied where it comes in several.
    fn joined(&self) -> Known<Table> {
        let array = match self.all()? {
            [] => new_empty_array(self.field.data_type()),
            [one] => one.clone(),
            many => {
                let many: Vec<&dyn Array> = many.iter().map(|array| &**array).collect();
                concat(&many).map_err(|error| Error::invalid(format!("the arrays of the stream: {error}")))?
            }
        };
        Table::new(array, self.field.clone())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let Some(rest) = self.rest.take() else { return };
        let read = std::mem::take(&mut self.read).into_iter().map(Ok);
        let again = read.chain(self.failed.take().map(Err)).chain(rest);
        let stream = c_data::export_chunks(self.field.clone(), again).into_raw();
        // SAFETY: by the promise at its making the structure can be written; the stream that it was has been moved out of it.
        unsafe { self.place.write(stream) };
    }
}

/// A call that only the group can still let fail.
type Ready<'a> = Box<dyn FnOnce(&With<'_>) -> Known<Made> + 'a>;

/// Makes a call of what was asked and given. What can go wrong on one rank alone goes wrong here.
///
/// # Safety
/// Texts are as every description says.
unsafe fn ready<'a>(verb: &'a Verb, given: &'a Given, begun: &Begun<'_>) -> Known<Ready<'a>> {
    let reduction = |op: rf_op| begun.reduction(op).map_err(Fault::into_error);
    let root = |root: i64| begun.is_root(root).map(|(root, _)| root).map_err(Fault::into_error);
    let table = given.tables().first();
    let one = || table.ok_or_else(|| Error::invalid("nothing was passed"));
    Ok(match *verb {
        Verb::AllReduce(op) => {
            let (table, op) = (one()?, reduction(op)?);
            Box::new(move |with| table.all_reduce(with, op))
        }
        Verb::Reduce(op, to) => {
            let (table, op, root) = (one()?, reduction(op)?, root(to)?);
            Box::new(move |with| table.reduce(with, op, root))
        }
        Verb::ReduceScatter(op) => {
            let (table, op) = (one()?, reduction(op)?);
            Box::new(move |with| table.reduce_scatter(with, op))
        }
        Verb::Broadcast(from) => {
            let (batch, root) = (table.map(Table::named).transpose()?, root(from)?);
            Box::new(move |with| {
                let batch = with.broadcast_record_batch(batch.as_ref(), root)?;
                let array = array_of(&batch).map(|(array, field)| Table::Array(array, field));
                Ok(Made::One(array.unwrap_or(Table::Batch(batch))))
            })
        }
        Verb::Shuffle(key) => {
            // SAFETY: the caller's promise.
            let key = unsafe { needed("the key", key) }.map_err(Fault::into_error)?;
            let batch = match one()? {
                Table::Batch(batch) => batch.clone(),
                // It is none, and this says why.
                Table::Array(array, field) => to_batch(array, field)?,
            };
            Box::new(move |with| with.shuffle(&batch, key).map(Table::Batch).map(Made::One))
        }
        Verb::AllGather => {
            let table = one()?;
            let batch = table.as_batch()?;
            Box::new(move |with| Ok(table.many(with.all_gather_record_batch(&batch)?)))
        }
        Verb::Gather(to) => {
            let (table, root) = (one()?, root(to)?);
            let batch = table.as_batch()?;
            Box::new(move |with| {
                let all = with.gather_record_batch(&batch, root)?;
                Ok(all.map_or(Made::Nothing, |all| table.many(all)))
            })
        }
        Verb::AllToAll => {
            let tables = given.tables();
            if tables.len() != begun.world {
                let more = if tables.len() > begun.world { "more than " } else { "" };
                let (have, world) = (tables.len().min(begun.world), begun.world);
                return Err(Error::invalid(format!("a stream of {more}{have} arrays for {world} ranks"))
                    .remedy("pass one for each rank; empty ones have no rows"));
            }
            let batches = tables.iter().map(Table::as_batch).collect::<Known<Vec<_>>>()?;
            Box::new(move |with| Ok(tables[0].many(with.all_to_all_record_batches(&batches)?)))
        }
    })
}

impl Target {
    /// Fails where a result has nowhere to go.
    fn check(&self, verb: &Verb, source: &Source, rank: usize) -> Known<()> {
        let needs = match *verb {
            Verb::Reduce(_, root) | Verb::Gather(root) => root == rank as i64,
            _ => true,
        };
        let missing = match *self {
            Target::Array(_, array) => array.is_null(),
            Target::Stream(stream) => stream.is_null(),
        };
        if needs && missing {
            return Err(Error::invalid("the output is NULL").remedy("pass the address of a structure"));
        }
        match (self, source) {
            (&Target::Array(schema, _), &Source::Array(given, _))
                if !schema.is_null() && schema.cast_const() == given =>
            {
                Err(Error::invalid("the schema of the input is that of the output, too")
                    .remedy("pass another structure, since a schema is only read and stays its owner's"))
            }
            _ => Ok(()),
        }
    }

    /// Gives a result to the caller; what the caller does not want is released.
    ///
    /// # Safety
    /// What is not NULL can be written.
    unsafe fn put(self, result: Results) {
        /// # Safety
        /// As above.
        unsafe fn put<T: Structure>(place: *mut T, value: Option<Exported<T>>) {
            if !place.is_null() {
                // SAFETY: the caller's promise; what was there is not looked at.
                unsafe { place.write(value.map_or_else(T::released, Exported::into_raw)) };
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Target::Array(to_schema, to_array) => {
                    put(to_array, result.array);
                    put(to_schema, result.schema);
                }
                Target::Stream(to) => put(to, result.stream),
            }
        }
    }
}

/// Carries out a call: looks at what was given, tells the others where that is nothing to work with, and takes it over when all
/// went well.
///
/// # Safety
/// Communicator, options, structures and texts are as every description says.
pub(crate) unsafe fn carry_out(
    comm: *mut rf_comm,
    options: *const rf_options,
    verb: &Verb,
    source: Source,
    target: Target,
) -> Result<()> {
    // SAFETY: the caller's promises.
    let begun = unsafe { Begun::new(comm, options) }?;
    let How { options, way, .. } = begun.how()?;
    if !matches!(way, Way::Now) {
        return Err(Fault::unsupported(
            "calls of Arrow data are neither started nor prepared; to do: leave request and prepared NULL, and use a thread with a \
             communicator of its own (rf_comm_duplicate) for what is to go on beside",
        ));
    }
    begun.comm.group().call(|comm| {
        let with = comm.with(options);
        // SAFETY: the caller's promises.
        unsafe { take_part(&with, comm, &begun, verb, source, target) }.map_err(|error| told(error, comm))
    })
}

/// # Safety
/// As [`carry_out`].
unsafe fn take_part(
    with: &With<'_>,
    comm: &Communicator,
    begun: &Begun<'_>,
    verb: &Verb,
    source: Source,
    target: Target,
) -> Known<()> {
    // A child that was forked has nobody to tell.
    comm.check_process()?;
    let refuse = |error: Error| with.refuse_array(verb.name(), error);
    target.check(verb, &source, begun.rank).map_err(refuse)?;
    // SAFETY: the caller's promise.
    let given = unsafe { Given::look(source, verb, begun) }.map_err(refuse)?;
    // SAFETY: as above.
    let call = unsafe { ready(verb, &given, begun) }.map_err(refuse)?;
    let results = call(with)?.export()?;
    given.take()?;
    // SAFETY: the caller's promise.
    unsafe { target.put(results) };
    Ok(())
}

/// The error of a call. Where ranks do not agree on what their data are, nothing has happened, and the group goes on.
fn told(error: Error, comm: &Communicator) -> Fault {
    let fault = Fault::from(error);
    if comm.failure().is_none() { fault.of_a_sound_group() } else { fault }
}
