"""Running one turn: a group of processes that ends, by itself or not."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import network

MARK = "RINGFOLD_PEERS_TURN"
# Nothing else of the caller's environment reaches a library: its variables steer these libraries too.
KEPT = ("PATH", "HOME", "USER", "LOGNAME")


# From this size on it shows on the loopback interface where a message did not go through shared memory.
TELLING = 1 << 20


def stop(process, mark):
    """Ends a turn's processes, those that left its group included."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        if number == signal.SIGTERM:
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                pass
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
        except OSError:
            pass
    process.wait()


def reason_in(text):
    lines = [line.strip() for line in text.splitlines() if line.strip(" -=*")]
    telling = [
        line for line in lines if any(word in line.lower() for word in ("error", "fail", "abort", "cannot"))
    ]
    return (telling or lines[-1:] or ["it said nothing"])[0][:300]


def late(seconds):
    return f"no result after {seconds:.0f} s"


def execute(words, environment, seconds):
    """The rows that a command prints, and why there are none."""
    scratch = tempfile.mkdtemp(prefix="rf")
    mark = f"{MARK}={uuid.uuid4().hex}"
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    own = {"LC_ALL": "C.UTF-8", "TMPDIR": scratch, MARK: mark.partition("=")[2]}
    try:
        with open(os.path.join(scratch, "stderr"), "w+", errors="replace") as said:
            try:
                process = subprocess.Popen(
                    words,
                    env={**kept, **own, **environment},
                    cwd=scratch,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                )
            except OSError as error:
                return [], f"{words[0]} does not start: {error.strerror}"
            is_late = False
            try:
                out, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                is_late, out = True, ""
            except BaseException:
                stop(process, mark)
                raise
            if is_late or process.returncode != 0:
                stop(process, mark)
            said.seek(0)
            heard = said.read() + "\n" + "\n".join(line for line in out.splitlines() if not line.startswith("{"))
        if is_late:
            return [], late(seconds)
        if process.returncode != 0:
            return [], f"exit status {process.returncode}: {reason_in(heard)}"
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return rows, None if rows else f"no rows: {reason_in(heard)}"
    except ValueError as error:
        return [], f"rows that are no JSON: {error}"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def take(library, place, turn, limit):
    """One turn of a library: its rows, or why there are none."""
    words, environment = library.command(place, turn)
    bytes_before, packets_before = network.loopback()
    rows, why = execute(words, environment, limit)
    if why:
        return [], why
    wrong = sum(row["wrong"] for row in rows)
    if wrong:
        return [], f"{wrong} wrong elements"
    other = [row["backend"] for row in rows if not library.is_limit and row["backend"] != turn.transport]
    if other:
        return [], f"not over {turn.transport}: its backend is {other[0]}"
    if library.watched(turn.transport):
        bytes_after, packets_after = network.loopback()
        sent, packets = bytes_after - bytes_before, packets_after - packets_before
        least, fewest = network.least_traffic(turn, rows)
        if turn.transport == "tcp" and (sent < least or packets < fewest):
            return (
                [],
                f"not over TCP: {sent} bytes in {packets} packets on the loopback interface, {least} in {fewest} at least",
            )
        # Of small messages, the words in which ranks are started are as much.
        if turn.transport == "shm" and turn.size >= TELLING and sent >= least:
            return [], f"not over shared memory: {sent} bytes on the loopback interface"
    return rows, None


def human(size):
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} B"


def clock(seconds):
    return time.strftime("%M:%S", time.gmtime(seconds))
