"""A binding in an afternoon: ringfold by ctypes, for anything that has the buffer protocol.

    LIBRINGFOLD=/usr/local/lib/libringfold.so ringfold run -n 2 -- python3 ringfold_ctypes.py
"""
import array
import ctypes as c
import os
from struct import calcsize

lib = c.CDLL(os.environ.get("LIBRINGFOLD", "libringfold.so"))


class DType(c.Structure):
    _fields_ = [("code", c.c_uint8), ("bits", c.c_uint8), ("lanes", c.c_uint16)]


class Failure(c.Structure):
    _fields_ = [("size", c.c_uint32), ("status", c.c_int32), ("kind", c.c_int32), ("reserved", c.c_int32),
                ("rank", c.c_int64), ("peer", c.c_int64), ("sequence", c.c_int64), ("generation", c.c_int64),
                ("host", c.c_char * 256), ("collective", c.c_char * 32), ("text", c.c_char * 1024)]


class Error(Exception):
    def __init__(self, failure):
        super().__init__(failure.text.decode())
        self.status, self.kind, self.peer = failure.status, failure.kind, failure.peer


SUM, PROD, MIN, MAX, MEAN = range(1, 6)
TYPES = {letter: DType(code, 8 * calcsize(letter), 1)
         for code, letters in enumerate(["bhiq", "BHIQ", "fd"]) for letter in letters}
lib.rf_comm_rank.restype = lib.rf_comm_size.restype = c.c_int64
lib.rf_comm_rank.argtypes = lib.rf_comm_size.argtypes = lib.rf_comm_release.argtypes = [c.c_void_p]


def call(function, *arguments):
    failure = Failure(c.sizeof(Failure))
    if getattr(lib, function)(*arguments, c.byref(failure)) != 0:
        raise Error(failure)


class Communicator:
    def __init__(self):
        self.handle = c.c_void_p()
        call("rf_comm_create", None, c.byref(self.handle))
        self.rank, self.size = lib.rf_comm_rank(self.handle), lib.rf_comm_size(self.handle)

    def all_reduce(self, data, op=SUM):
        view = memoryview(data)
        at = (c.c_char * view.nbytes).from_buffer(view)
        call("rf_all_reduce", self.handle, at, at, c.c_uint64(view.nbytes // view.itemsize), TYPES[view.format], op, None)

    def barrier(self):
        call("rf_barrier", self.handle, None)

    def close(self):
        lib.rf_comm_release(self.handle)


if __name__ == "__main__":
    comm = Communicator()
    gradients = array.array("d", [comm.rank + 1.0] * 1000)
    comm.all_reduce(gradients, MEAN)
    try:
        comm.all_reduce(gradients, 99)
    except Error as error:
        print(f"rank {comm.rank} of {comm.size}: {gradients[-1]}; {error}")
    comm.close()
