"""Real producers: pyarrow's arrays, batches, chunks and Parquet files through every function that ends in _arrow, by ctypes, with the
results held to what pyarrow computes itself.

    LIBRINGFOLD=libringfold.so ringfold run -n 3 -- python3 pyarrow_tables.py DIRECTORY
"""
import ctypes as c
import gc
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from ringfold_ctypes import MAX, MEAN, SUM, Communicator, Error, call  # noqa: E402

REJECT, SKIP = 1, 2
INVALID_ARGUMENT, UNSUPPORTED, MISMATCH = 1, 2, 6
REFUSED = 1


class Schema(c.Structure):
    _fields_ = [("fields", c.c_int64 * 7), ("release", c.c_void_p), ("private_data", c.c_void_p)]


class Array(c.Structure):
    _fields_ = [("fields", c.c_int64 * 8), ("release", c.c_void_p), ("private_data", c.c_void_p)]


class Stream(c.Structure):
    _fields_ = [("callbacks", c.c_void_p * 3), ("release", c.c_void_p), ("private_data", c.c_void_p)]


class Options(c.Structure):
    _fields_ = [("size", c.c_uint32), ("order", c.c_int32), ("check", c.c_int32), ("pack", c.c_uint32),
                ("deadline_ns", c.c_int64), ("pointers", c.c_void_p * 5), ("nulls", c.c_int32), ("staging", c.c_uint32)]


def at(structure):
    return c.byref(structure)


def address(structure):
    return c.addressof(structure)


def options(nulls=0):
    return at(Options(size=c.sizeof(Options), nulls=nulls))


def exported(data):
    """An array or a batch in the structures of C."""
    schema, array = Schema(), Array()
    data._export_to_c(address(array), address(schema))
    return schema, array


def release(structure, kind):
    c.CFUNCTYPE(None, c.c_void_p)(structure.release)(address(structure))
    assert not structure.release, kind


def arrow(function, data, *arguments, nulls=0, stream=False):
    """Calls a function with an array or a batch. What was passed is moved on success only."""
    schema, array = exported(data)
    out_schema, out = Schema(), Array()
    out_stream = Stream()
    results = [at(out_stream)] if stream else [at(out_schema), at(out)]
    try:
        call(function, comm.handle, at(schema), at(array), *results, *arguments, options(nulls))
    except Error:
        # Still this program's, and as it was.
        assert array.release and not out.release and not out_stream.release
        same = type(data)._import_from_c(address(array), address(schema))
        assert same.equals(data)
        raise
    assert not array.release, "it was not moved"
    release(schema, "a schema is only read")
    if stream:
        return imported_stream(out_stream)
    if not out.release:
        assert not out_schema.release
        return None
    return type(data)._import_from_c(address(out), address(out_schema))


class Exported:
    """A stream of C as Python's protocol has it."""

    def __init__(self, stream):
        new = c.pythonapi.PyCapsule_New
        new.restype, new.argtypes = c.py_object, [c.c_void_p, c.c_char_p, c.c_void_p]
        self.capsule = new(address(stream), b"arrow_array_stream", None)

    def __arrow_c_stream__(self, requested_schema=None):
        return self.capsule


def imported_stream(stream):
    """The chunks of a stream, of arrays or of batches."""
    schema = Schema()
    get_schema = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p)(stream.callbacks[0])
    assert get_schema(address(stream), address(schema)) == 0
    field = pa.Field._import_from_c(address(schema))
    if pa.types.is_struct(field.type):
        return list(pa.RecordBatchReader._import_from_c(address(stream)))
    return pa.chunked_array(Exported(stream)).chunks


def stream_of(data):
    """A chunked array or a reader by the capsule of its stream, moved into a structure of this program's."""
    capsule = data.__arrow_c_stream__()
    get = c.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = c.c_void_p, [c.py_object, c.c_char_p]
    theirs = Stream.from_address(get(capsule, b"arrow_array_stream"))
    ours = Stream.from_buffer_copy(theirs)
    theirs.release = None
    return ours


def all_to_all(batches):
    stream, out = stream_of(pa.RecordBatchReader.from_batches(batches[0].schema, batches)), Stream()
    call("rf_all_to_all_arrow", comm.handle, at(stream), at(out), options())
    assert not stream.release
    return imported_stream(out)


def refused(status, words, body, *arguments, **named):
    try:
        body(*arguments, **named)
    except Error as error:
        assert error.status == status and error.kind == REFUSED, error
        for word in words:
            assert word in str(error), error
    else:
        raise AssertionError(f"{words} was not refused")


def of(rank):
    """What any rank brings, which all can compute: numbers, text, dictionaries, lists, nulls."""
    random = np.random.default_rng(rank)
    rows = 200 + 10 * rank
    key = random.integers(0, 12, rows)
    words = np.array(["", "ann", "bob", "päivi", "何", "a much longer word than the others", "x", "y", "z", "q", "r", "s"])[key]
    gone = random.random(rows) < 0.1
    return pa.record_batch({
        "key": pa.array(key, pa.int64()),
        "word": pa.array(words, pa.string(), mask=key == 6),
        "kind": pa.array(words, pa.string()).dictionary_encode(),
        "value": pa.array(random.integers(0, 1000, rows), pa.int64(), mask=gone),
        "weights": pa.array([[float(n), n / 2] for n in key], pa.list_(pa.float32())),
    })


def one_batch(table):
    """A table as one batch, which it has also where it has no rows."""
    return pa.record_batch([column.combine_chunks() for column in table.columns], schema=table.schema)


def everybody():
    return pa.Table.from_batches([of(rank) for rank in range(comm.size)])


def arrays():
    for type in [pa.int8(), pa.int32(), pa.int64(), pa.uint16(), pa.float16(), pa.float32(), pa.float64()]:
        own = pa.array(np.arange(30) + comm.rank).cast(type)
        sums = arrow("rf_all_reduce_arrow", own, SUM)
        expected = pa.array(np.arange(30) * comm.size + sum(range(comm.size))).cast(type)
        assert sums.equals(expected), (type, sums)
    # A slice, whose buffers begin before it.
    own = pa.array(np.arange(100, dtype=np.float64))[17:63]
    assert arrow("rf_all_reduce_arrow", own, MEAN).equals(own)
    # Lists of one length, and lists of any, as Spark has its vectors.
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(12.0)), 3)
    lists = pa.array([[1.0, 2.0], [], [3.5]], pa.list_(pa.float32()))
    assert arrow("rf_all_reduce_arrow", fixed, MAX).equals(fixed)
    assert arrow("rf_all_reduce_arrow", lists, MEAN).equals(lists)
    others = pa.array([[1.0] * (1 + comm.rank)], pa.list_(pa.float32()))
    refused(MISMATCH, ["lists"], arrow, "rf_all_reduce_arrow", others, SUM)
    block = arrow("rf_reduce_scatter_arrow", pa.array(range(7)), SUM)
    parts = np.array_split(np.arange(7) * comm.size, comm.size)
    assert block.to_pylist() == list(parts[comm.rank])
    got = arrow("rf_reduce_arrow", pa.array([comm.rank, 5]), MAX, c.c_int64(1))
    assert (got is None) == (comm.rank != 1) and (got is None or got.to_pylist() == [comm.size - 1, 5])
    strings = pa.array(["a"] * comm.rank + [None, "böse"])
    assert arrow("rf_all_gather_arrow", strings, stream=True) == [
        pa.array(["a"] * rank + [None, "böse"]) for rank in range(comm.size)]
    words = pa.array(["a", "b", "a"]).dictionary_encode() if comm.rank == 0 else pa.array([0])
    schema, array = exported(words)
    out_schema, out = Schema(), Array()
    call("rf_broadcast_arrow", comm.handle, at(schema), at(array), at(out_schema), at(out), c.c_int64(0), None)
    assert bool(array.release) == (comm.rank != 0)
    if array.release:
        release(array, "it is not looked at")
    release(schema, "as well")
    assert pa.Array._import_from_c(address(out), address(out_schema)).to_pylist() == ["a", "b", "a"]


def by_protocol():
    """The capsules of __arrow_c_array__, which stay their owners'."""
    schema, array = pa.array([1.5, 2.5]).__arrow_c_array__()
    get = c.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = c.c_void_p, [c.py_object, c.c_char_p]
    out_schema, out = Schema(), Array()
    call("rf_all_reduce_arrow", comm.handle, c.c_void_p(get(schema, b"arrow_schema")), c.c_void_p(get(array, b"arrow_array")),
         at(out_schema), at(out), SUM, None)
    assert not Array.from_address(get(array, b"arrow_array")).release
    del schema, array  # whose destructors find nothing to release, and a schema
    assert pa.Array._import_from_c(address(out), address(out_schema)).to_pylist() == [1.5 * comm.size, 2.5 * comm.size]


def nulls():
    own = pa.array([None, 1, comm.rank, None if comm.rank == 0 else 3], pa.int32())
    sums = arrow("rf_all_reduce_arrow", own, SUM, nulls=SKIP)
    assert sums.to_pylist() == [None, comm.size, sum(range(comm.size)), 3 * (comm.size - 1) or None]
    means = arrow("rf_all_reduce_arrow", own.cast(pa.float64()), MEAN, nulls=SKIP).to_pylist()
    assert means[0] is None and means[1] == 1 and means[3] == 3
    for policy in [0, REJECT]:
        refused(INVALID_ARGUMENT, ["2 nulls on rank 0"], arrow, "rf_all_reduce_arrow", own, SUM, nulls=policy)
    batch = pa.record_batch({"a": pa.array([1, 2]), "b": pa.array([1.0, None if comm.rank == 1 else 2.0])})
    refused(INVALID_ARGUMENT, ['column "b" has 1 null on rank 1'], arrow, "rf_all_reduce_arrow", batch, SUM)
    sums = arrow("rf_all_reduce_arrow", batch, SUM, nulls=SKIP)
    assert sums.to_pydict() == {"a": [comm.size, 2 * comm.size], "b": [comm.size, 2.0 * (comm.size - 1)]}


def chunks():
    """A chunked array, cut elsewhere on each rank; a table of several batches."""
    values = np.arange(100.0)
    cut = 10 + 20 * comm.rank
    for data in [pa.chunked_array([values[:cut], values[cut:cut], values[cut:]]), pa.chunked_array([values])]:
        stream, schema, out = stream_of(data), Schema(), Array()
        call("rf_all_reduce_arrow_stream", comm.handle, at(stream), at(schema), at(out), SUM, options())
        assert not stream.release
        assert pa.Array._import_from_c(address(out), address(schema)).equals(pa.array(values * comm.size))
    table = pa.table({"x": values, "n": np.arange(100)}).to_batches(max_chunksize=7 + comm.rank)
    stream, schema, out = stream_of(pa.Table.from_batches(table)), Schema(), Array()
    call("rf_all_reduce_arrow_stream", comm.handle, at(stream), at(schema), at(out), MAX, options())
    got = pa.RecordBatch._import_from_c(address(out), address(schema))
    assert got.equals(pa.Table.from_batches(table).combine_chunks().to_batches()[0])
    # After an error a stream gives the same once more.
    stream = stream_of(pa.chunked_array([[1, None], [3]]))
    refused(INVALID_ARGUMENT, ["1 null"], call, "rf_all_reduce_arrow_stream", comm.handle, at(stream), at(schema), at(out), SUM,
            options())
    assert pa.chunked_array(Exported(stream)).to_pylist() == [1, None, 3]


def tables(room):
    """Batches of a Parquet file that each rank writes, gathered, exchanged and shuffled."""
    path = room / f"rank{comm.rank}.parquet"
    pq.write_table(pa.Table.from_batches([of(comm.rank)]), path, row_group_size=64)
    batch = one_batch(pq.ParquetFile(path).read(use_threads=False))
    plain = batch.drop_columns(["kind"])
    every = everybody().drop_columns(["kind"])
    got = arrow("rf_all_gather_arrow", plain, stream=True)
    assert pa.Table.from_batches(got).equals(every)
    assert got[comm.rank].equals(plain)
    got = arrow("rf_all_gather_arrow", of(comm.rank), stream=True)
    assert [part.to_pylist() for part in got] == [of(rank).to_pylist() for rank in range(comm.size)]
    schema, array = exported(plain)
    out = Stream()
    call("rf_gather_arrow", comm.handle, at(schema), at(array), at(out) if comm.rank == 2 else None, c.c_int64(2), None)
    release(schema, "a schema is only read")
    assert comm.rank != 2 or pa.Table.from_batches(imported_stream(out)).equals(every)
    parts = all_to_all([plain.slice(rank, rank + 1) for rank in range(comm.size)])
    assert [part.num_rows for part in parts] == [comm.rank + 1] * comm.size
    assert parts[0].equals(of(0).drop_columns(["kind"]).slice(comm.rank, comm.rank + 1))
    stream = stream_of(pa.RecordBatchReader.from_batches(plain.schema, [plain]))
    refused(INVALID_ARGUMENT, ["1 arrays for 3 ranks"], call, "rf_all_to_all_arrow", comm.handle, at(stream), at(Stream()), options())
    assert pa.RecordBatchReader._import_from_c(address(stream)).read_all().equals(pa.Table.from_batches([plain]))


def shuffles():
    """Sums of each key, made where the shuffle has brought it, are what pyarrow makes of all rows at once."""
    for key in ["key", "word", "kind"]:
        own = of(comm.rank)
        mine = pa.Table.from_batches([arrow("rf_shuffle_arrow", own, key.encode())])
        assert mine.schema.names == own.schema.names and mine.schema.field("kind").type == own.schema.field("kind").type
        text = lambda table: table.set_column(2, "kind", table["kind"].cast(pa.string()))
        grouped = lambda table: text(table).group_by(key).aggregate([("value", "sum"), ("value", "count")])
        got = pa.Table.from_batches(arrow("rf_all_gather_arrow", one_batch(grouped(mine)), stream=True))
        order = [(key, "ascending")]
        assert got.sort_by(order).equals(grouped(everybody()).sort_by(order)), key
        assert len(got) == len(pc.unique(got[key])), "a key was on two ranks"
        # Nothing of a row was lost on the way.
        parts = arrow("rf_all_gather_arrow", one_batch(mine), stream=True)
        assert sum(part.num_rows for part in parts) == len(everybody())
        for row in mine.to_pylist()[:50]:
            assert row["weights"] == [float(row["key"]), row["key"] / 2]
    refused(INVALID_ARGUMENT, ['no column is called "no such"'], arrow, "rf_shuffle_arrow", of(0), b"no such")
    refused(UNSUPPORTED, ["weights"], arrow, "rf_shuffle_arrow", of(0), b"weights")
    refused(MISMATCH, ["rank 0"], arrow, "rf_shuffle_arrow", of(0) if comm.rank == 0 else of(0).drop_columns(["value"]), b"key")


def tensors():
    """Arrays of numpy by DLPack, dense, strided, and in place."""
    get = c.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = c.c_void_p, [c.py_object, c.c_char_p]
    grid = np.arange(12, dtype=np.float32).reshape(3, 4) + comm.rank
    expected = np.arange(12, dtype=np.float32).reshape(3, 4) * comm.size + sum(range(comm.size))
    sums = np.zeros((3, 4), np.float32)
    capsules = [array.__dlpack__(max_version=(1, 0)) for array in [grid, sums, grid.T]]
    dense, out, turned = [c.c_void_p(get(capsule, b"dltensor_versioned")) for capsule in capsules]
    call("rf_all_reduce_dlpack", comm.handle, dense, out, SUM, None)
    assert (sums == expected).all()
    refused(UNSUPPORTED, ["pack"], call, "rf_all_reduce_dlpack", comm.handle, turned, out, SUM, None)
    call("rf_all_reduce_dlpack", comm.handle, turned, out, SUM, at(Options(size=c.sizeof(Options), pack=1)))
    assert (sums.ravel() == expected.T.ravel()).all()
    call("rf_all_reduce_dlpack", comm.handle, dense, dense, SUM, None)
    assert (grid == expected).all()


def columns():
    """Columns of Spark's kind: vectors as lists of floats beside numbers; what cannot be reduced is named."""
    batch = pa.record_batch({
        "gradient": pa.array([[0.5 * comm.rank, 1.0], [2.0, 3.0]], pa.list_(pa.float32())),
        "loss": pa.array([1.0, 2.0 + comm.rank]),
    })
    mean = arrow("rf_all_reduce_arrow", batch, MEAN)
    assert mean.schema.equals(batch.schema)
    assert mean.to_pydict() == {"gradient": [[(comm.size - 1) / 4, 1.0], [2.0, 3.0]], "loss": [1.0, 2 + (comm.size - 1) / 2]}
    refused(UNSUPPORTED, ['column "word"'], arrow, "rf_all_reduce_arrow", of(0).select(["word"]), SUM)
    one = pa.array([1]) if comm.rank == 2 else pa.array([1.0])
    refused(MISMATCH, ["Int64 on rank 2"], arrow, "rf_all_reduce_arrow", one, SUM)


comm = Communicator()
room = Path(sys.argv[1])
before = pa.total_allocated_bytes()
arrays()
by_protocol()
nulls()
chunks()
tables(room)
shuffles()
columns()
tensors()
gc.collect()
assert pa.total_allocated_bytes() == before, f"{pa.total_allocated_bytes() - before} bytes of pyarrow's were not given back"
comm.barrier()
comm.close()
print(f"rank {comm.rank} of {comm.size}: as pyarrow has it", flush=True)
