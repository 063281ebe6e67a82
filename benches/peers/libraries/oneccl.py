from .base import Library


class OneCcl(Library):
    name = "oneccl"
    title = "oneCCL"
    wheels = ("oneccl", "oneccl-devel", "impi-devel")

    def build(self, place):
        lib = place.lib()
        paths = [f"-I{place.venv}/include", f"-L{lib}", f"-Wl,-rpath-link,{lib}"]
        # Version 1 of the library holds the C++ interface; it opens version 2 itself.
        place.compile("oneccl.cpp", ["c++", "-O2", *paths], libraries=["-l:libccl.so.1", "-lmpi"])

    def command(self, place, turn):
        ways = {
            "tcp": {
                "CCL_ATL_TRANSPORT": "ofi",
                "CCL_ATL_SHM": "0",
                # In a network namespace that has nothing else it finds no address by itself.
                "CCL_KVS_IFACE": "lo",
                "FI_PROVIDER": "tcp",
                "FI_TCP_IFACE": "lo",
            },
            "shm": {"CCL_ATL_TRANSPORT": "mpi", "I_MPI_FABRICS": "shm", "CCL_KVS_IFACE": "lo"},
        }
        start = [place.bin("mpiexec.hydra"), "-n", str(turn.ranks)]
        environment = {**place.intel(), "CCL_CONFIGURATION": "cpu", **ways[turn.transport]}
        return [*start, place.program("oneccl.cpp"), *turn.arguments], environment
