"""The loopback interface: its congestion control, a network namespace of its own, and what has gone over it."""

import fcntl
import os
import shutil
import socket
import struct
import sys
from pathlib import Path

SETTINGS = Path("/proc/sys/net/ipv4")


def congestion():
    return (SETTINGS / "tcp_congestion_control").read_text().strip()


def usable_congestion():
    """What a socket here may choose."""
    names = ["tcp_available_congestion_control"] + (["tcp_allowed_congestion_control"] if os.geteuid() else [])
    lists = [set((SETTINGS / name).read_text().split()) for name in names if (SETTINGS / name).exists()]
    return sorted(set.intersection(*lists) if lists else {congestion()})


def enter_namespace(arguments):
    """Runs this command again, in a network namespace of its own. Does not return."""
    if shutil.which("unshare") is None:
        sys.exit("unshare (util-linux) is not installed; without it only --congestion default works")
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    os.execvp("unshare", ["unshare", *as_root, "--net", "--", sys.executable, *arguments])


def prepare_namespace(wanted):
    """Brings loopback up in a fresh namespace and sets its congestion control."""
    up = 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", up))  # SIOCSIFFLAGS
    try:
        (SETTINGS / "tcp_congestion_control").write_text(wanted)
    except OSError as error:
        sys.exit(f"this kernel does not give {wanted}: {error}; it has {', '.join(usable_congestion())}")


def loopback():
    """Bytes and packets sent over loopback so far, in this process's namespace."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == "lo":
            numbers = counters.split()
            return int(numbers[8]), int(numbers[9])
    return 0, 0


def least_traffic(turn, rows):
    """Bytes and packets that `rows` cannot have been measured without, over TCP. Half of what theory says."""
    small = turn.size < 4096 and turn.fresh
    operations = sum(row.get("operations", 200 if small else 1) for row in rows) * (3 + 7)
    moved = (2 if turn.collective == "all_reduce" else 1) * (turn.ranks - 1) * turn.size
    return operations * moved // 2, operations * (turn.ranks - 1) // 2 if small else 0
