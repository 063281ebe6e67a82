#!/usr/bin/env python3
"""Convert scikit-learn's copy of the handwritten digits to an Arrow IPC file.

The script reads `sklearn/datasets/data/digits.csv.gz` out of the installed
scikit-learn package and writes `digits.arrow` beside itself. It fetches
nothing. Run it in a virtual environment:

    python3 -m venv /tmp/venv-digits
    /tmp/venv-digits/bin/pip install scikit-learn==1.9.1 pyarrow==26.0.1
    /tmp/venv-digits/bin/python examples/data/convert_digits.py

The same versions give the same bytes on every run. Another version of pyarrow
may lay the file out differently, so `--check` compares by content:

    /tmp/venv-digits/bin/python examples/data/convert_digits.py --check

It exits with 1 when the stored file differs from a fresh conversion in its
schema, its metadata, its record batches or their rows, or when the sha256 in
README.md is not that of the stored file.
"""

import argparse
import csv
import gzip
import hashlib
import importlib.resources
import io
import os
import sys
from pathlib import Path

import pyarrow as pa

HERE = Path(__file__).resolve().parent
DEFAULT_FILE = HERE / "digits.arrow"
README = HERE / "README.md"

ROWS = 1797
PIXELS = 64
PIXEL_MAX = 16
LABEL_MAX = 9
BATCH_ROWS = 256

METADATA = {
    "title": "Optical Recognition of Handwritten Digits (test set)",
    "creators": "E. Alpaydin, C. Kaynak",
    "year": "1998",
    "source": "UCI Machine Learning Repository, https://doi.org/10.24432/C50P49",
    "licence": "CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
    "obtained_from": "scikit-learn, sklearn/datasets/data/digits.csv.gz",
    "changes": "converted from CSV to Arrow IPC; values and row order unchanged",
}

SCHEMA = pa.schema(
    [
        pa.field(
            "pixels",
            pa.list_(pa.field("item", pa.uint8(), nullable=False), PIXELS),
            nullable=False,
        ),
        pa.field("label", pa.uint8(), nullable=False),
    ],
    metadata=METADATA,
)


def read_rows():
    """The packaged CSV as (pixels, label) pairs, every value checked."""
    packed = importlib.resources.files("sklearn").joinpath("datasets", "data", "digits.csv.gz")
    text = gzip.decompress(packed.read_bytes()).decode("ascii")
    rows = []
    for number, fields in enumerate(csv.reader(io.StringIO(text)), start=1):
        if len(fields) != PIXELS + 1:
            raise ValueError(f"line {number} has {len(fields)} fields, not {PIXELS + 1}")
        *pixels, label = map(int, fields)
        if not all(0 <= pixel <= PIXEL_MAX for pixel in pixels):
            raise ValueError(f"line {number} has a pixel outside 0..={PIXEL_MAX}")
        if not 0 <= label <= LABEL_MAX:
            raise ValueError(f"line {number} has the label {label}, outside 0..={LABEL_MAX}")
        rows.append((pixels, label))
    if len(rows) != ROWS:
        raise ValueError(f"the source has {len(rows)} rows, not {ROWS}")
    return rows


def to_batches(rows):
    """Record batches of at most BATCH_ROWS rows, in the source's order."""
    batches = []
    for start in range(0, len(rows), BATCH_ROWS):
        part = rows[start : start + BATCH_ROWS]
        flat = pa.array([pixel for pixels, _ in part for pixel in pixels], pa.uint8())
        pixels = pa.FixedSizeListArray.from_arrays(flat, type=SCHEMA.field("pixels").type)
        labels = pa.array([label for _, label in part], pa.uint8())
        batches.append(pa.record_batch([pixels, labels], schema=SCHEMA))
    return batches


def to_bytes(batches):
    """The batches as one uncompressed Arrow IPC file."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue()


def differences(path, fresh):
    """What separates the file at `path` from the batches `fresh`, as lines."""
    try:
        stored = path.read_bytes()
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    found = []
    try:
        with pa.ipc.open_file(stored) as reader:
            if not reader.schema.equals(SCHEMA, check_metadata=True):
                found.append(f"{path}: the schema or its metadata differs")
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate(full=True)
    except pa.ArrowException as error:
        return [f"{path}: not a readable Arrow IPC file: {error}"]
    if len(batches) != len(fresh):
        found.append(f"{path}: {len(batches)} record batches, not {len(fresh)}")
    for index, (have, want) in enumerate(zip(batches, fresh)):
        if not have.equals(want):
            found.append(f"{path}: record batch {index} differs")
    if path == DEFAULT_FILE:
        digest = hashlib.sha256(stored).hexdigest()
        if not README.exists() or digest not in README.read_text(encoding="utf-8"):
            found.append(f"{README}: does not state the file's sha256, {digest}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the file, write nothing")
    parser.add_argument("--file", type=Path, default=DEFAULT_FILE, help="the Arrow IPC file")
    options = parser.parse_args()
    path = options.file.resolve()

    batches = to_batches(read_rows())
    if options.check:
        found = differences(path, batches)
        for line in found:
            print(line, file=sys.stderr)
        if not found:
            print(f"{path}: same as a fresh conversion")
        return 1 if found else 0

    data = to_bytes(batches)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    print(f"{path}: {ROWS} rows in {len(batches)} record batches, {len(data)} bytes")
    print(f"sha256 {hashlib.sha256(data).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
