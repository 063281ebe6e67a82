#!/usr/bin/env python3
"""Measures ringfold beside its peers: installs them, runs all of them in turn, writes rows, table and plot.

    python3 benches/peers/run.py two-cores                      over TCP, under the machine's own congestion control
    python3 benches/peers/run.py two-cores --congestion reno    in a network namespace under reno
    python3 benches/peers/run.py two-cores --over shm           through shared memory
    python3 benches/peers/run.py try --quick --out /tmp         three sizes, two repetitions: does everything work?

README.md beside this file says what is compared and how.
"""

import sys

# Before the imports: nothing is left beside the sources.
sys.dont_write_bytecode = True

import argparse
import datetime
import json
import os
import platform
import shlex
import time
from pathlib import Path
from statistics import median

import network
from libraries import ALL
from libraries.base import BLOCKS, COLLECTIVES, OUT_OF_PLACE, Turn
from place import HERE, Failed, Place, cache_folder
from report import Recording, markdown
from turns import clock, human, late, take

SIZES = {"tcp": "8,64,256,1K,4K,16K,64K,256K,1M,4M,16M", "shm": "8,64,256,1K,4K,16K,64K,256K,1M,4M,16M,64M,256M"}
# Of collectives where every rank has a block; through shared memory, of all but all_reduce.
FEW_SIZES = "64,64K,16M"
MINUTES = {"tcp": 12, "shm": 60}
# The buffers of a size that a rank may have at a time: input, output, and what the library takes for itself.
BUFFERS = 3
# After this many failures a library is left alone: at that size, or altogether where it never gave a row; after so many
# turns that took too long, at larger sizes too.
PATIENCE = 2


def size(text):
    units = {"K": 10, "M": 20, "G": 30}
    unit = text[-1:].upper()
    number = int(text[:-1]) << units[unit] if unit in units else int(text)
    if number < 4 or number % 4:
        raise argparse.ArgumentTypeError(f"{text}: sizes are whole floats")
    return number


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "label", nargs="?", default=platform.node() or "here", help="what the machine is called in the record"
    )
    parser.add_argument("--collective", default="all_reduce", choices=COLLECTIVES)
    parser.add_argument("-n", "--ranks", type=int, default=2)
    parser.add_argument(
        "--transport",
        "--over",
        default="tcp",
        choices=sorted({way for one in ALL for way in one.transports}),
        help="tcp (the default) or shm: shared memory",
    )
    parser.add_argument(
        "--congestion",
        default="default",
        metavar="NAME",
        help="default, or reno, bbr, ... in a namespace of its own (needs unshare)",
    )
    parser.add_argument("--sizes", default=None, metavar="LIST", help="default: 8 B to 16 MiB over tcp, to 256 MiB over shm")
    parser.add_argument("--repetitions", type=int, default=None, help="default: 5")
    parser.add_argument(
        "--seconds", type=float, default=None, help="of samples, a turn and placement; default: 0.1"
    )
    parser.add_argument("--quick", action="store_true", help="three sizes, two short repetitions")
    parser.add_argument("--only", default=None, metavar="LIST", help=f"of: {','.join(one.name for one in ALL)}")
    parser.add_argument(
        "--minutes",
        type=float,
        default=None,
        help="begin no repetition that would end after these; default: 12 over tcp, 60 over shm",
    )
    parser.add_argument("--timeout", type=float, default=60, help="seconds a turn may take; default: 60")
    parser.add_argument("--cache", default=None, metavar="FOLDER", help="default: XDG_CACHE_HOME, else ~/.cache")
    parser.add_argument(
        "--out", default=str(HERE.parent / "record"), metavar="FOLDER", help="default: benches/record"
    )
    parser.add_argument(
        "--ringfold",
        type=Path,
        default=None,
        metavar="FILE",
        help="a binary to measure; default: build this checkout's",
    )
    parser.add_argument("--setup-only", action="store_true", help="install and compile, measure nothing")
    parser.add_argument("--render", default=None, metavar="ROWS", help="write table and plot of a recording again")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ranks < 2:
        parser.error("-n takes 2 ranks or more")
    try:
        few = args.collective in BLOCKS or (args.transport == "shm" and args.collective != "all_reduce")
        usual = FEW_SIZES if few else SIZES[args.transport]
        chosen = args.sizes or ("64,64K,1M" if args.quick and args.collective in BLOCKS else "8,64K,1M" if args.quick else usual)
        args.sizes = sorted({size(text) for text in chosen.split(",")})
    except (argparse.ArgumentTypeError, ValueError) as error:
        parser.error(f"--sizes: {error}")
    if args.collective == "barrier":
        args.sizes = [0]
    if args.collective in BLOCKS and (uneven := [each for each in args.sizes if each % (4 * args.ranks)]):
        parser.error(f"--sizes: {args.ranks} ranks cannot have equal blocks of {uneven[0]} bytes of f32")
    if args.transport != "tcp" and args.congestion != "default":
        parser.error(f"--congestion: nothing over {args.transport} is controlled so")
    args.minutes = args.minutes or MINUTES[args.transport]
    args.repetitions = args.repetitions or (2 if args.quick else 5)
    args.seconds = args.seconds or (0.05 if args.quick else 0.1)
    names = args.only.split(",") if args.only else [one.name for one in ALL if args.transport in one.transports]
    unknown = set(names) - {one.name for one in ALL}
    if unknown:
        parser.error(f"--only: nothing is called {', '.join(sorted(unknown))}")
    args.libraries = [one for one in ALL if one.name in names]
    args.ringfold = args.ringfold and args.ringfold.resolve()
    if args.ringfold and not os.access(args.ringfold, os.X_OK):
        parser.error(f"--ringfold: {args.ringfold} is no program")
    return args


def say(text):
    print(text, file=sys.stderr, flush=True)


def set_up(args, cache):
    """A place for every library, and why some have none."""
    places, why_not = {}, {}
    for library in args.libraries:
        place = places[library.name] = Place(cache, library.home or library.name, args.ringfold)
        if args.transport not in library.transports:
            why_not[library.name] = f"not over {args.transport}"
        elif args.collective not in library.collectives:
            why_not[library.name] = f"no {args.collective}"
        if library.name in why_not:
            continue
        if not args.inside:
            say(f"set-up: {library.title}{': ' + ', '.join(library.wheels) if library.wheels else ''}")
        try:
            place.install(library.wheels)
            library.build(place)
        except (Failed, OSError) as error:
            why_not[library.name] = f"set-up: {error}"
            say(f"set-up: {library.title} failed: {error}")
    return places, why_not


def leave_out_what_does_not_fit(args, why_not):
    """A group whose buffers are more than the memory there is would not be refused but ended, and others with it."""
    lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    there = next(int(words[1]) << 10 for words in lines if words[0] == "MemAvailable:")
    for each in args.sizes:
        if (needed := BUFFERS * args.ranks * each) > there:
            why = f"{human(needed >> 20 << 20)} of memory are needed, {human(there >> 20 << 20)} are there"
            say(f"{human(each)} is left out: {why}")
            why_not.update({(library.name, each): why for library in args.libraries})


def set_up_plot(cache):
    place = Place(cache, "plot")
    place.install(("matplotlib",))
    return place


def measure(args, places, why_not):
    """Every library in turn, at every size, again and again. Rows by what they measure, one time a repetition."""
    measured, failures, times_late = {}, {}, {}
    gave_rows = set()
    begin, done, turns = time.monotonic(), 0, args.repetitions * len(args.sizes)
    for repetition in range(args.repetitions):
        spent = time.monotonic() - begin
        if repetition and spent / repetition * (repetition + 1) > args.minutes * 60:
            say(f"{repetition} repetitions: another would not end within {args.minutes:g} minutes")
            break
        for at, bytes_ in enumerate(args.sizes):
            turn = Turn(args.collective, args.ranks, bytes_, args.seconds, args.transport)
            # Nobody always follows the same.
            first = (repetition + at) % len(args.libraries)
            told = []
            for library in args.libraries[first:] + args.libraries[:first]:
                name = library.name
                if name in why_not or (name, bytes_) in why_not:
                    continue
                rows, why = take(library, places[name], turn, args.timeout)
                if why and name not in gave_rows and library.refused(why):
                    why_not[name] = why
                    told.append(f"{name} refuses: {why}")
                elif why:
                    here = failures.setdefault((name, bytes_), [])
                    here.append(why)
                    everywhere = sum(len(whys) for (of, _), whys in failures.items() if of == name)
                    if len(here) >= PATIENCE:
                        why_not[name, bytes_] = why
                    if everywhere >= PATIENCE and name not in gave_rows:
                        why_not[name] = why
                    if why == late(args.timeout):
                        times_late[name] = times_late.get(name, 0) + 1
                    if times_late.get(name, 0) >= PATIENCE:
                        for larger in args.sizes[at + 1 :]:
                            why_not.setdefault((name, larger), f"left out: {why} at {human(bytes_)}")
                    told.append(f"{name} FAILED ({why})")
                for row in rows:
                    # A barrier has no memory that it could be in place of.
                    if row["collective"] == "barrier" and row["in_place"]:
                        continue
                    gave_rows.add(name)
                    key = (name, row["collective"], row["algorithm"], row["size_bytes"], row["in_place"])
                    times = measured.setdefault(key, (row, [None] * args.repetitions))[1]
                    times[repetition] = row["time_us"]
                    if row["in_place"] == (args.collective not in OUT_OF_PLACE) and not library.is_limit:
                        told.append(f"{name} {row['time_us']:.4g}")
            done += 1
            left = (time.monotonic() - begin) / done * (turns - done)
            say(f"[{done}/{turns}, {clock(left)} left] {human(bytes_)}: {', '.join(told)}")
    return measured, failures


def written_rows(args, measured, failures, why_not):
    rows = []
    for (name, *_), (row, times) in measured.items():
        taken = [value for value in times if value is not None]
        middle = median(taken)
        scale = row["time_us"] / middle
        rows.append(
            row
            | {
                "time_us": round(middle, 3),
                "algbw_gb_s": round(row["algbw_gb_s"] * scale, 6),
                "busbw_gb_s": round(row["busbw_gb_s"] * scale, 6),
                "library": name,
                "repetitions": len(taken),
                "time_us_min": min(taken),
                "time_us_max": max(taken),
                "times_us": times,
                "failures": failures.get((name, row["size_bytes"]), []),
            }
        )
    for library in args.libraries:
        for bytes_ in args.sizes:
            here = failures.get((library.name, bytes_), [None])
            why = why_not.get((library.name, bytes_)) or here[-1] or why_not.get(library.name)
            if why and not any(row["library"] == library.name and row["size_bytes"] == bytes_ for row in rows):
                what = {"collective": args.collective, "backend": args.transport, "ranks": args.ranks}
                rows.append({"library": library.name, **what, "size_bytes": bytes_, "not_measured": why})
    return rows


def machine():
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = models[0].partition(":")[2].strip() if models else platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{cpu}, {len(os.sched_getaffinity(0))} CPUs, {memory:.0f} GiB, Linux {platform.release()}"


def load():
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def told(words):
    """The words of the command that make a difference to what is measured: not where things are kept, of a binary its name only."""
    left = iter(words)
    for word in left:
        if word == "--cache":
            next(left, None)
        elif word.partition("=")[0] == "--ringfold":
            yield from ("--ringfold", Path(word.partition("=")[2] or next(left)).name)
        elif word != "--inside" and not word.startswith("--cache="):
            yield word


def render(rows_file, cache):
    """The table and the plot beside the rows. A plot that fails is told and is no reason to lose the table."""
    recording = Recording([json.loads(line) for line in rows_file.read_text().splitlines()])
    picture = rows_file.with_suffix(".svg")
    try:
        place = set_up_plot(cache)
        place.told([place.bin("python"), "-B", HERE / "plot.py", rows_file, picture])
    except (Failed, OSError) as error:
        say(f"no plot: {error}")
        picture = None
    rows_file.with_suffix(".md").write_text(markdown(recording, picture and picture.name))
    return [rows_file, rows_file.with_suffix(".md"), *([picture] if picture else [])]


def main():
    args = read_arguments()
    cache = cache_folder(args.cache)
    if args.render:
        say("written: " + ", ".join(str(path) for path in render(Path(args.render), cache)))
        return
    if args.inside:
        network.prepare_namespace(args.congestion)
    places, why_not = set_up(args, cache)
    if not args.inside:
        try:
            set_up_plot(cache)
        except (Failed, OSError) as error:
            say(f"set-up: no plot: {error}")
    if args.setup_only:
        sys.exit(1 if why_not else 0)
    if args.congestion != "default" and not args.inside:
        network.enter_namespace([*sys.argv, "--inside"])
    leave_out_what_does_not_fit(args, why_not)
    began, load_before = datetime.date.today().isoformat(), load()
    measured, failures = measure(args, places, why_not)
    rows = written_rows(args, measured, failures, why_not)
    described = {}
    for library in args.libraries:
        try:
            version = library.version(places[library.name]) if library.name not in why_not else ""
        except OSError:
            version = ""
        described[library.name] = {
            "title": library.called(args.transport),
            "version": version,
            "is_limit": library.is_limit,
            "is_own": library.is_own,
        }
    about = {
        "label": args.label,
        "date": began,
        "machine": machine(),
        "load_before": load_before,
        "load_after": load(),
        "collective": args.collective,
        "ranks": args.ranks,
        "transport": args.transport,
        **(
            {"congestion": network.congestion(), "raw_congestion": network.usable_congestion()}
            if args.transport == "tcp"
            else {}
        ),
        "repetitions": max((row.get("repetitions", 0) for row in rows), default=0),
        "seconds": args.seconds,
        "command": shlex.join(["python3", "benches/peers/run.py", *told(sys.argv[1:])]),
        "libraries": described,
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    which = "" if args.collective == "all_reduce" else f"-{args.collective}"
    way = "-".join([args.transport, *([about["congestion"]] if "congestion" in about else [])])
    rows_file = out / f"{began}-{args.label}-peers-{way}-{args.ranks}{which}.jsonl"
    lines = [{"about": about}, *rows]
    rows_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    say("written: " + ", ".join(str(path) for path in render(rows_file, cache)))
    sys.exit(0 if measured else 1)


try:
    main()
except KeyboardInterrupt:
    sys.exit("interrupted: nothing is written")
