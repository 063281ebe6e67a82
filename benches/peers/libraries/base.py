"""What a library brings to the bench: what to install, what to build, and how its ranks are started."""

import os
from dataclasses import dataclass


COLLECTIVES = ("all_reduce", "reduce", "broadcast", "reduce_scatter", "all_gather", "all_to_all", "barrier")
# Where every rank has a block of the message.
BLOCKS = ("reduce_scatter", "all_gather", "all_to_all")
# Measured by all libraries out of place; of the others it is in place.
OUT_OF_PLACE = (*BLOCKS, "barrier")


@dataclass(frozen=True)
class Turn:
    """One measurement: a library at one size, by a group of processes of its own."""

    collective: str
    ranks: int
    size: int
    seconds: float
    transport: str
    fresh: bool = True

    @property
    def arguments(self):
        """As every program here takes them."""
        return [self.collective, str(self.size), str(self.seconds), self.transport, str(int(self.fresh))]

    @property
    def fits(self):
        """Whether every rank has a CPU."""
        return self.ranks <= len(os.sched_getaffinity(0))


class Library:
    """One line of the plot. A subclass a file, listed in `libraries/__init__.py`."""

    name = ""
    title = ""
    # What pip installs into this library's own virtual environment.
    wheels = ()
    # The wheel whose version is recorded.
    versioned = None
    transports = ("tcp", "shm")
    collectives = COLLECTIVES
    # The folder of the cache that holds it, where two share one; default: its name.
    home = None
    # The project's own, which the others are compared with.
    is_own = False
    # Limits are drawn dashed and compete with nobody.
    is_limit = False
    # Whether a turn over TCP has to show on the loopback interface, and one over shared memory must not.
    is_watched = True
    # Whether it can share memory: what cannot is measured beside, over TCP, where shared memory is asked for.
    shares_memory = True

    def build(self, place):
        """Makes what `command` starts, in a `Place`; cached there."""

    def command(self, place, turn):
        """The arguments and the environment of one turn."""
        raise NotImplementedError

    def watched(self, transport):
        return self.is_watched and (transport == "tcp" or self.shares_memory)

    def called(self, transport):
        return self.title if transport == "tcp" or self.shares_memory else f"{self.title}, TCP"

    def refused(self, why):
        """Whether a failure says that the library does not offer this at all, so that trying again is no use."""
        return False

    def version(self, place):
        return place.version_of(self.versioned or self.wheels[0])
