"""PyTorch's Gloo, as `torch.distributed` offers it. What reduces or broadcasts does so in place only: out of place is a copy
and then that, on the clock. What moves blocks does so out of place only."""

import datetime
import os
import tempfile

import torch
import torch.distributed as dist
from bench import Library, main


# Out of place by themselves.
MOVERS = {
    "reduce_scatter": dist.reduce_scatter_tensor,
    "all_gather": dist.all_gather_into_tensor,
    "all_to_all": dist.all_to_all_single,
}


class Gloo(Library):
    collectives = ("all_reduce", "reduce", "broadcast", "reduce_scatter", "all_gather", "all_to_all", "barrier")

    def __init__(self, rank, ranks):
        self.rank, self.ranks = rank, ranks

    def tensor(self, array):
        return torch.from_numpy(array)

    def run(self, collective, source, target):
        if collective in MOVERS:
            MOVERS[collective](target, source)
            return
        if collective == "barrier":
            dist.barrier()
            return
        if source is not target:
            target.copy_(source)
        if collective == "all_reduce":
            dist.all_reduce(target)
        elif collective == "reduce":
            dist.reduce(target, 0)
        else:
            dist.broadcast(target, 0)

    def barrier(self):
        dist.barrier()

    def all_reduce(self, array, op):
        dist.all_reduce(torch.from_numpy(array), dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)


def setup(_ranks):
    return os.path.join(tempfile.mkdtemp(), "store")


def body(rank, ranks, store, measure):
    # As torchrun does for ranks that share a host.
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks, timeout=wait)
    measure(Gloo(rank, ranks))
    dist.destroy_process_group()


main(setup, body)
