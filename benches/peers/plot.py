"""Draws a recording: size against time and against bus bandwidth, one line a library, limits dashed.

argv: ROWS PICTURE. Runs in an environment that has matplotlib.
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update(
    {"svg.hashsalt": "ringfold", "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif"}
)

from matplotlib import pyplot
from report import Recording
from turns import human

# Told apart by people who see colours differently (Okabe and Ito).
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#8C6D31", "#7F7F7F")
MARKS = "osD^vPX*h"


def draw(recording, path):
    in_place, placement = recording.drawn()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 5))
    for number, name in enumerate(recording.libraries):
        rows = [row for size in recording.sizes if (row := recording.row(name, size, in_place))]
        if not rows:
            continue
        line = {
            "color": COLOURS[number % 9],
            "marker": MARKS[number % 9],
            "markersize": 4,
            "label": recording.title(name),
        }
        line |= {"linewidth": 2.5, "zorder": 3} if name in recording.own else {"linewidth": 1.2}
        sizes, times = [row["size_bytes"] for row in rows], [row["time_us"] for row in rows]
        spread = [
            [row["time_us"] - row["time_us_min"] for row in rows],
            [row["time_us_max"] - row["time_us"] for row in rows],
        ]
        left.errorbar(sizes, times, yerr=spread, elinewidth=0.8, **line)
        right.plot(sizes, [row["busbw_gb_s"] for row in rows], **line)
    tallest = right.get_ylim()[1]
    for (kind, label), style in zip(recording.limits, ("--", (0, (2, 4)))):
        rows = [row for size in recording.sizes if (row := recording.limit(kind, size))]
        if not rows:
            continue
        line = {"color": "#555555", "linestyle": style, "linewidth": 1.4, "label": f"limit: {label}"}
        sizes = [row["size_bytes"] for row in rows]
        left.plot(sizes, [row["time_us"] for row in rows], **line)
        if kind != "flag_exchange":
            right.plot(sizes, [row["busbw_gb_s"] for row in rows], **line)
        if kind == "raw_exchange":
            tallest = max(tallest, *(row["busbw_gb_s"] * 1.05 for row in rows))
    # memcpy in cache is an order of magnitude above: the libraries keep the room.
    right.set_ylim(0, tallest)
    fastest = min((row["time_us"] for row in recording.rows if row["collective"] != "memcpy"), default=1)
    if recording.about["transport"] != "tcp":
        # Bandwidth in cache is of another kind than that of memory: both are to be seen.
        right.set_yscale("log")
        right.set_ylim(tallest / 2000, tallest * 4)
    left.set(ylabel="time (us), bars: least to most", yscale="log")
    left.set_ylim(bottom=fastest / 2)
    right.set(ylabel="bus bandwidth (GB/s)")
    for axes in (left, right):
        axes.set(xlabel="size of the message", xscale="log")
        axes.set_xticks(recording.sizes, [human(size) for size in recording.sizes], rotation=45)
        axes.minorticks_off()
        axes.grid(True, color="#dddddd", linewidth=0.6)
    left.legend(fontsize=8)
    about = recording.about
    where = placement.lower()
    way = f"over {about['transport']}" + (f" ({about['congestion']})" if "congestion" in about else "")
    figure.suptitle(
        f"{recording.collective} of f32, {about['ranks']} ranks {way}, {where}, "
        f"fresh operands; {about['label']}, {about['date']}",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


with open(sys.argv[1]) as lines:
    draw(Recording([json.loads(line) for line in lines]), sys.argv[2])
