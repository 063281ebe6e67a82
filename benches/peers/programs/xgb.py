"""XGBoost's collective, by its C functions: the Python ones copy their operand first. In place only; out of place is a
copy and then that, on the clock. It has no barrier: an all_reduce of one number stands in."""

import ctypes

import numpy as np
from bench import Library, main
from xgboost import collective
from xgboost.core import _LIB, _check_call
from xgboost.tracker import RabitTracker

TYPES = {np.dtype("float32"): 1, np.dtype("float64"): 2}
trackers = []


class XGBoost(Library):
    collectives = ("all_reduce", "broadcast")

    def __init__(self, rank, ranks):
        self.rank, self.ranks = rank, ranks
        self.one = self.tensor(np.zeros(1, np.float32))

    def tensor(self, array):
        return array, ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.size), TYPES[array.dtype]

    def run(self, what, source, target):
        array, data, size, dtype = target
        if source is not target:
            np.copyto(array, source[0])
        if what == "broadcast":
            _check_call(_LIB.XGCommunicatorBroadcast(data, ctypes.c_size_t(array.nbytes), 0))
        else:
            _check_call(_LIB.XGCommunicatorAllreduce(data, size, dtype, int(collective.Op.SUM)))

    def barrier(self):
        self.run("all_reduce", self.one, self.one)

    def all_reduce(self, array, op):
        _array, data, size, dtype = self.tensor(array)
        kind = collective.Op.SUM if op == "sum" else collective.Op.MAX
        _check_call(_LIB.XGCommunicatorAllreduce(data, size, dtype, int(kind)))


def setup(ranks):
    tracker = RabitTracker(host_ip="127.0.0.1", n_workers=ranks, sortby="task")
    tracker.start()
    trackers.append(tracker)
    return tracker.worker_args()


def body(rank, ranks, arguments, measure):
    with collective.CommunicatorContext(**arguments, dmlc_task_id=str(rank), dmlc_timeout=60):
        measure(XGBoost(collective.get_rank(), ranks))


main(setup, body)
