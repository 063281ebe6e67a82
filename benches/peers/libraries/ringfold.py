import subprocess

from .base import Library


class Ringfold(Library):
    name = "ringfold"
    title = "ringfold"
    is_own = True
    # What is said besides of the memory of the tensors.
    memory = ()

    def build(self, place):
        if place.ringfold is None:
            place.told(["cargo", "build", "--release", "--bin", "ringfold"], place.repository, own=True)

    def command(self, place, turn):
        binary = place.ringfold or place.repository / "target/release/ringfold"
        size = str(turn.size)
        fresh = ["--fresh"] if turn.fresh else []
        words = ["-n", str(turn.ranks), "-b", size, "-e", size, "--seconds", str(turn.seconds), *fresh, "--json"]
        return [str(binary), "perf", turn.collective, "--backend", turn.transport, *words, *self.memory], {}

    def refused(self, why):
        return "unsupported: " in why

    def version(self, place):
        words = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(words, cwd=place.repository, capture_output=True, text=True).stdout.strip()


class RingfoldShared(Ringfold):
    """Tensors in memory that the ranks share."""

    name = "ringfold-shared"
    title = "ringfold, shared tensors"
    home = Ringfold.name
    transports = ("shm",)
    memory = ("--shared",)
