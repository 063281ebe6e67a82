"""A real producer of DLPack: PyTorch's tensors, bfloat16 above all, by ctypes, with the results held to what PyTorch computes itself.

    LIBRINGFOLD=libringfold.so ringfold run -n 3 -- python3 torch_tensors.py
"""
import ctypes as c
import sys
from pathlib import Path

import torch
from torch.utils.dlpack import to_dlpack

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from ringfold_ctypes import MAX, MEAN, SUM, Communicator, Error, call  # noqa: E402

READ_ONLY = 1
INVALID_ARGUMENT, UNSUPPORTED = 1, 2


class Tensor(c.Structure):
    """DLTensor, which is the same in all versions of DLPack."""
    _fields_ = [("data", c.c_void_p), ("device", c.c_int32 * 2), ("ndim", c.c_int32), ("dtype", c.c_uint32),
                ("shape", c.c_void_p), ("strides", c.c_void_p), ("byte_offset", c.c_uint64)]


class Versioned(c.Structure):
    """DLManagedTensorVersioned. Old versions of PyTorch give the structure before it, so this is filled in from that."""
    _fields_ = [("major", c.c_uint32), ("minor", c.c_uint32), ("context", c.c_void_p), ("deleter", c.c_void_p),
                ("flags", c.c_uint64), ("tensor", Tensor)]


class Options(c.Structure):
    _fields_ = [("size", c.c_uint32), ("order", c.c_int32), ("check", c.c_int32), ("pack", c.c_uint32),
                ("deadline_ns", c.c_int64), ("pointers", c.c_void_p * 5), ("nulls", c.c_int32), ("reserved", c.c_uint32)]


def described(tensor, flags=0):
    """A tensor as DLPack describes it. Its shape is the capsule's, which therefore goes along."""
    get = c.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = c.c_void_p, [c.py_object, c.c_char_p]
    capsule = to_dlpack(tensor)
    versioned = Versioned(1, 0, None, None, flags, Tensor.from_address(get(capsule, b"dltensor")))
    versioned.capsule = capsule
    return c.byref(versioned)


def ours(rank, *shape):
    """Small whole numbers, whose sums are exact in bfloat16 in any order."""
    return (torch.arange(torch.Size(shape).numel()).reshape(shape) * (rank + 1) % 13 - 6).to(torch.bfloat16)


def refused(status, words, *arguments):
    try:
        call(*arguments)
    except Error as error:
        assert error.status == status and words in str(error), error
    else:
        raise AssertionError(f"{words} was not refused")


comm = Communicator()
rank, size = comm.rank, comm.size
everybodys = [ours(of, 64, 33) for of in range(size)]
total = sum(everybodys)
assert total.dtype is torch.bfloat16

# Into another tensor, and in place.
mine, out = everybodys[rank].clone(), torch.full((64, 33), -1.0, dtype=torch.bfloat16)
call("rf_all_reduce_dlpack", comm.handle, described(mine), described(out), SUM, None)
assert torch.equal(out, total) and torch.equal(mine, everybodys[rank])
both = described(mine)
call("rf_all_reduce_dlpack", comm.handle, both, both, MAX, None)
assert torch.equal(mine, torch.stack(everybodys).amax(0))

# The mean is PyTorch's too, where the division is rounded once.
mean = torch.full((64, 33), 0.0, dtype=torch.bfloat16)
call("rf_all_reduce_dlpack", comm.handle, described(everybodys[rank]), described(mean), MEAN, None)
assert torch.equal(mean, (total.float() / size).to(torch.bfloat16)), (mean, total)

# From one, and from all to all.
sent = everybodys[rank].clone()
call("rf_broadcast_dlpack", comm.handle, described(sent), described(out), c.c_int64(size - 1), None)
assert torch.equal(out, everybodys[-1])
gathered = torch.zeros((size, 64, 33), dtype=torch.bfloat16)
call("rf_all_gather_dlpack", comm.handle, described(sent), described(gathered), None)
assert torch.equal(gathered, torch.stack(everybodys))

# Strides: refused, and packed where that is asked for. An offset into a larger tensor needs nothing.
turned = everybodys[rank].clone().t()
wide = torch.full((33, 64), -1.0, dtype=torch.bfloat16)
refused(UNSUPPORTED, "contiguous", "rf_all_reduce_dlpack", comm.handle, described(turned), described(wide), SUM, None)
packing = c.byref(Options(size=c.sizeof(Options), pack=1))
call("rf_all_reduce_dlpack", comm.handle, described(turned), described(wide), SUM, packing)
assert torch.equal(wide, total.t())
rows = torch.full((70, 33), 9.0, dtype=torch.bfloat16)
call("rf_all_reduce_dlpack", comm.handle, described(everybodys[rank]), described(rows[3:67]), SUM, None)
assert torch.equal(rows[3:67], total) and bool((rows[:3] == 9).all()) and bool((rows[67:] == 9).all())

# What may only be read is not written.
fixed = described(out, READ_ONLY)
before = out.clone()
refused(INVALID_ARGUMENT, "read", "rf_all_reduce_dlpack", comm.handle, described(sent), fixed, SUM, None)
assert torch.equal(out, before)

comm.barrier()
comm.close()
print(f"rank {rank} of {size}: as PyTorch {torch.__version__} has it")
