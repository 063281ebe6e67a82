from .base import Library


class IntelMpi(Library):
    name = "intelmpi"
    title = "Intel MPI"
    wheels = ("impi-rt", "impi-devel")

    def build(self, place):
        place.compile("mpi.c", [place.bin("mpicc"), "-O2"], {"I_MPI_ROOT": place.venv})

    def command(self, place, turn):
        ways = {
            "tcp": {
                "I_MPI_FABRICS": "ofi",
                "FI_PROVIDER": "tcp",
                "FI_TCP_IFACE": "lo",
                # Without this it uses shared memory for small sizes.
                "I_MPI_COLL_INTRANODE": "pt2pt",
            },
            "shm": {"I_MPI_FABRICS": "shm"},
        }
        start = [place.bin("mpiexec.hydra"), "-n", str(turn.ranks)]
        return [*start, place.program("mpi.c"), *turn.arguments], {**place.intel(), **ways[turn.transport]}
