"""bench.h for peers that are used from Python: the same operands, samples, checks and line of JSON.

`main(setup, body)` forks the ranks, so that a heavy module is imported once; `body` gets rank, ranks and what `setup`
returned, and makes a `Library`.
"""

import json
import os
import sys
import time
import traceback

import numpy as np

WARM_UPS, FEWEST, MOST, SMALL, BACK_TO_BACK, LONGEST_US = 3, 7, 4000, 4096, 200, 100_000
# Where every rank has a block: these are measured out of place only.
BLOCKS = ("reduce_scatter", "all_gather", "all_to_all")


class Library:
    """What a peer brings. Buffers are numpy arrays; `tensor` makes of one what the peer works on, once."""

    rank = 0
    ranks = 1
    collectives = ("all_reduce",)

    def tensor(self, array):
        return array

    def run(self, collective, source, target):
        """One operation; in place where both are the same."""
        raise NotImplementedError

    def barrier(self):
        raise NotImplementedError

    def all_reduce(self, array, op):
        """`sum` or `max` of all ranks' doubles, in place and off the clock."""
        raise NotImplementedError


class Bench:
    def __init__(self, library, collective, count, fresh):
        self.library, self.collective, self.count, self.fresh = library, collective, count, fresh
        self.period = min(max(256 // library.ranks, 2), 7)
        self.block = count // library.ranks
        if collective in BLOCKS and self.block * library.ranks != count:
            raise SystemExit(f"{count} floats cannot be cut into {library.ranks} blocks")
        own = self.block * library.rank
        self.first = own if collective == "all_gather" else 0
        self.input = np.zeros(self.block if collective == "all_gather" else count, np.float32)
        self.output = np.zeros(self.block if collective == "reduce_scatter" else count, np.float32)
        self.own, self.tensors = own, (library.tensor(self.input), library.tensor(self.output))

    def pattern(self, rank, sample, first=0):
        return ((np.arange(self.period) + first + 3 * rank + sample) % self.period).astype(np.float32)

    def fill(self, in_place, sample):
        into = self.output if in_place else self.input
        pattern = self.pattern(self.library.rank, sample, self.first)
        whole = into.size // self.period * self.period
        into[:whole].reshape(-1, self.period)[:] = pattern
        into[whole:] = pattern[: into.size - whole]

    def operate(self, in_place):
        source, target = self.tensors
        self.library.run(self.collective, target if in_place else source, target)

    def expected(self, sample):
        """Ranges of the output, and what repeats in them."""
        ranks, block = range(self.library.ranks), self.block
        if self.collective == "broadcast":
            return [(0, self.count, self.pattern(0, sample))]
        if self.collective == "all_gather":
            return [(rank * block, block, self.pattern(rank, sample, rank * block)) for rank in ranks]
        if self.collective == "all_to_all":
            return [(rank * block, block, self.pattern(rank, sample, self.own)) for rank in ranks]
        first = self.own if self.collective == "reduce_scatter" else 0
        return [(0, self.output.size, sum(self.pattern(rank, sample, first) for rank in ranks))]

    def wrong(self, sample):
        if self.collective == "barrier" or (self.collective == "reduce" and self.library.rank != 0):
            return 0
        return sum(
            int(np.count_nonzero(self.output[at : at + length] != np.resize(pattern, length)))
            for at, length, pattern in self.expected(sample)
        )

    def check(self, in_place, sample):
        self.output[:] = 101
        self.fill(in_place, sample)
        self.operate(in_place)
        total = np.array([self.wrong(sample)], np.float64)
        self.library.all_reduce(total, "sum")
        return int(total[0])

    def agree(self, number):
        own = np.array([number if self.library.rank == 0 else 0], np.float64)
        self.library.all_reduce(own, "sum")
        return int(own[0])

    def sample(self, in_place, sample, operations):
        if self.fresh:
            self.fill(in_place, sample)
            self.library.barrier()
            self.library.barrier()
        begin = time.perf_counter_ns()
        for _ in range(operations):
            self.operate(in_place)
        return (time.perf_counter_ns() - begin) / 1e3 / operations

    def measure(self, in_place, seconds):
        """The time in microseconds, the operations of a sample, and the wrong elements of all ranks."""
        wrong = self.check(in_place, 1)
        operations = BACK_TO_BACK if self.fresh and self.count * 4 < SMALL else 1
        if operations > 1:
            warm = min(self.sample(in_place, 3 + i, 1) for i in range(WARM_UPS))
            operations = self.agree(min(operations, int(LONGEST_US / warm) + 1))
        warm = min(self.sample(in_place, 3 + i, operations) for i in range(WARM_UPS))
        times, number, end = [], 2 + WARM_UPS, time.monotonic() + seconds
        while True:
            more = min(max(int(50_000 / (warm * operations)), FEWEST), 500, MOST - len(times))
            if len(times) >= FEWEST and time.monotonic() >= end:
                more = 0
            more = self.agree(more)
            if more == 0:
                break
            for _ in range(more):
                number += 1
                times.append(self.sample(in_place, number, operations))
        slowest = np.array(times)
        self.library.all_reduce(slowest, "max")
        return float(np.median(slowest)), operations, wrong + self.check(in_place, 2)


def measure(library, arguments):
    collective, size, seconds, transport, fresh = arguments
    if collective not in library.collectives:
        raise SystemExit(f"{collective} is not measured with this library")
    bench = Bench(library, collective, int(size) // 4, fresh == "1")
    for in_place in (False, True):
        if in_place != (collective == "broadcast") and collective in ("broadcast", "barrier", *BLOCKS):
            continue
        micros, operations, wrong = bench.measure(in_place, float(seconds))
        if library.rank != 0:
            continue
        bandwidth = bench.count * 4 / micros / 1e3
        share = (library.ranks - 1) / library.ranks
        factor = 2 * share if collective == "all_reduce" else share if collective in BLOCKS else 1
        row = {
            "collective": collective,
            "backend": transport,
            "algorithm": "own",
            "ranks": library.ranks,
            "dtype": "f32",
            "op": "sum" if "reduce" in collective else "none",
            "size_bytes": bench.count * 4,
            "count": bench.count,
            "in_place": in_place,
            "time_us": round(micros, 3),
            "algbw_gb_s": round(bandwidth, 6),
            "busbw_gb_s": round(bandwidth * factor, 6),
            "operations": operations,
            "wrong": wrong,
        }
        print(json.dumps(row, separators=(",", ":")), flush=True)


def main(setup, body):
    """argv: RANKS COLLECTIVE BYTES SECONDS TRANSPORT FRESH. `setup(ranks)` runs in the parent, after the forks."""
    ranks = int(sys.argv[1])
    pipes, children = [], []
    for rank in range(ranks):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write)
            status = 1
            try:
                with os.fdopen(read) as told:
                    found = json.loads(told.readline())
                body(rank, ranks, found, lambda library: measure(library, sys.argv[2:7]))
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        os.close(read)
        pipes.append(write)
        children.append(child)
    found = setup(ranks)
    for pipe in pipes:
        os.write(pipe, (json.dumps(found) + "\n").encode())
        os.close(pipe)
    bad = sum(os.waitpid(child, 0)[1] != 0 for child in children)
    sys.stdout.flush()
    os._exit(1 if bad else 0)
