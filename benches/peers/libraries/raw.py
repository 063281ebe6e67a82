from network import usable_congestion

from .base import Library


class Raw(Library):
    name = "raw"
    title = "limits"
    is_limit = True
    is_watched = False

    def build(self, place):
        for source in ("raw.c", "memory.c"):
            place.compile(source, ["cc", "-O2"])

    def command(self, place, turn):
        ways = {"tcp": ("raw.c", usable_congestion()), "shm": ("memory.c", [])}
        source, more = ways[turn.transport]
        return [place.program(source), str(turn.ranks), str(turn.size), str(turn.seconds), *more], {}

    def version(self, place):
        return ""
