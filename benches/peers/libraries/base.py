"""What a library brings to the bench: what to install, what to build, and how its ranks are started."""

import os
from dataclasses import dataclass


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
    transports = ("tcp",)
    collectives = ("all_reduce", "reduce", "broadcast")
    # Limits are drawn dashed and compete with nobody.
    is_limit = False
    # Whether a turn over TCP has to show on the loopback interface.
    is_watched = True

    def build(self, place):
        """Makes what `command` starts, in a `Place`; cached there."""

    def command(self, place, turn):
        """The arguments and the environment of one turn."""
        raise NotImplementedError

    def version(self, place):
        return place.version_of(self.versioned or self.wheels[0])
