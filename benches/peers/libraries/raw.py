from network import usable_congestion

from .base import Library


class Raw(Library):
    name = "raw"
    title = "limits"
    is_limit = True
    is_watched = False

    def build(self, place):
        place.compile("raw.c", ["cc", "-O2"])

    def command(self, place, turn):
        ways = {"tcp": usable_congestion()}
        program = place.program("raw.c")
        return [program, str(turn.ranks), str(turn.size), str(turn.seconds), *ways[turn.transport]], {}

    def version(self, place):
        return ""
