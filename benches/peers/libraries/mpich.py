from .base import Library


class Mpich(Library):
    name = "mpich"
    title = "MPICH"
    wheels = ("mpich>=5,<6",)

    def build(self, place):
        place.compile("mpi.c", [place.bin("mpicc"), "-O2"])

    def command(self, place, turn):
        ways = {
            "tcp": {
                "MPIR_CVAR_NOLOCAL": "1",
                "MPIR_CVAR_CH4_NETMOD": "ofi",
                "FI_PROVIDER": "tcp",
                "FI_TCP_IFACE": "lo",
            },
            "shm": {},
        }
        where = ["-bind-to", "core"] if turn.fits else []
        start = [place.bin("mpiexec"), *where, "-n", str(turn.ranks)]
        return [*start, place.program("mpi.c"), *turn.arguments], ways[turn.transport]
