"""From the rows of a recording to its table. Everything is read from the rows, so a recording can be rendered again."""

from statistics import median

from turns import human

PLACEMENTS = ((True, "In place"), (False, "Out of place"))
# What is measured in between of a transport alone: the kinds of rows, and what they are called.
LIMITS = {
    "tcp": (("raw_exchange", "bare sockets"), ("memcpy", "memcpy")),
    "shm": (("flag_exchange", "flag exchange"), ("memcpy", "memcpy")),
}


CONGESTION = "- congestion control of the network: {}; bare sockets may choose among {}"
SHARED_MEMORY = (
    "",
    "The limits: in a flag exchange every rank writes a number into a cache line of its own and waits to see it in the others';",
    '"memcpy" copies that many bytes in every rank at once. "1.20x" against the limit means 1.20 times the time of the slower of',
    "the two. Gloo and XGBoost have no shared memory: they go over TCP on the same host.",
)


class Recording:
    def __init__(self, objects):
        self.about = next(thing["about"] for thing in objects if "about" in thing)
        self.rows = [thing for thing in objects if "time_us" in thing]
        self.missing = [thing for thing in objects if "not_measured" in thing]
        self.collective = self.about["collective"]
        self.libraries = [
            name for name in self.about["libraries"] if not self.about["libraries"][name]["is_limit"]
        ]
        self.own = [
            name for name in self.libraries if self.about["libraries"][name].get("is_own", name == "ringfold")
        ]
        self.limits = LIMITS[self.about["transport"]]
        self.sizes = sorted({thing["size_bytes"] for thing in objects if "size_bytes" in thing})

    def title(self, name):
        return self.about["libraries"][name]["title"]

    def row(self, library, size, in_place):
        wanted = (library, self.collective, size, in_place)
        keys = ("library", "collective", "size_bytes", "in_place")
        return next((row for row in self.rows if tuple(row[key] for key in keys) == wanted), None)

    def limit(self, kind, size):
        """The fastest of the rows of a limit: of sockets, the fastest congestion control at hand."""
        rows = [row for row in self.rows if row["collective"] == kind and row["size_bytes"] == size]
        return min(rows, key=lambda row: row["time_us"], default=None)

    def held_against(self, size):
        """What an operation of that size cannot be quicker than: the name of a limit and its row. Over TCP it is bare sockets,
        in shared memory the slower of the two, since memory is copied and the others are heard from."""
        rows = [(label, self.limit(kind, size)) for kind, label in self.limits]
        rows = [pair for pair in rows if pair[1]]
        if self.about["transport"] == "tcp":
            rows = rows[:1] if rows and rows[0][0] == self.limits[0][1] else []
        return max(rows, key=lambda pair: pair[1]["time_us"], default=(None, None))

    def placements(self):
        return [
            pair
            for pair in PLACEMENTS
            if any(self.row(name, size, pair[0]) for name in self.own for size in self.sizes)
        ] or [
            pair
            for pair in PLACEMENTS
            if any(row["in_place"] == pair[0] for row in self.rows if row["library"] in self.libraries)
        ]

    def drawn(self):
        """The placement of the plot: the one in which most rows are, else in place."""
        rows = [row["in_place"] for row in self.rows if row["library"] in self.libraries]
        in_place, name = max(self.placements() or PLACEMENTS, key=lambda pair: rows.count(pair[0]))
        return in_place, name

    def best_peer(self, size, in_place):
        rows = [self.row(name, size, in_place) for name in self.libraries if name not in self.own]
        return min((row for row in rows if row), key=lambda row: row["time_us"], default=None)


def ratio(above, below):
    """The median over repetitions of one time over the other; of repetitions, because only neighbours compare."""
    if above is None or below is None:
        return None
    pairs = [(a, b) for a, b in zip(above["times_us"], below["times_us"]) if a and b]
    return median(a / b for a, b in pairs) if pairs else above["time_us"] / below["time_us"]


def micros(value):
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def table(head, lines):
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]


def limits_in(recording, size):
    return [recording.limit(kind, size) for kind, _ in recording.limits]


def times(recording, in_place):
    measured = [
        name for name in recording.own if any(recording.row(name, size, in_place) for size in recording.sizes)
    ] or recording.own[:1]
    over = "against bare sockets" if recording.about["transport"] == "tcp" else "against the limit"
    head = ["size", *map(recording.title, recording.libraries), *(label for _, label in recording.limits)]
    for name in measured:
        title = "" if name == recording.own[0] else f"{recording.title(name)}: "
        head += [f"{title or 'ringfold '}against the best peer", f"{title}{over}"]
    lines = []
    for size in recording.sizes:
        cells = {name: recording.row(name, size, in_place) for name in recording.libraries}
        fastest = min((row["time_us"] for row in cells.values() if row), default=None)
        shown = []
        for row in cells.values():
            if row is None:
                shown.append("not measured")
            elif row["time_us"] == fastest:
                shown.append(f"**{micros(row['time_us'])}**")
            else:
                shown.append(micros(row["time_us"]))
        shown += [micros(row["time_us"]) if row else "not measured" for row in limits_in(recording, size)]
        peer = recording.best_peer(size, in_place)
        label, limit = recording.held_against(size)
        for name in measured:
            against = ratio(peer, cells[name])
            shown.append(f"{against:.2f}x ({recording.title(peer['library'])})" if against else "-")
            held = ratio(cells[name], limit)
            which = "" if recording.about["transport"] == "tcp" else f" ({label})"
            shown.append(f"{held:.2f}x{which}" if held else "-")
        lines.append([human(size), *shown])
    return table(head, lines)


def bandwidths(recording, in_place):
    moving = [(kind, label) for kind, label in recording.limits if kind != "flag_exchange"]
    lines = []
    for size in recording.sizes:
        rows = [recording.row(name, size, in_place) for name in recording.libraries]
        rows += [recording.limit(kind, size) for kind, _ in moving]
        lines.append([human(size), *(f"{row['busbw_gb_s']:.3f}" if row else "not measured" for row in rows)])
    return table(["size", *map(recording.title, recording.libraries), *(label for _, label in moving)], lines)


def spreads(recording, in_place):
    shown = recording.limits[:1] if recording.about["transport"] == "tcp" else recording.limits
    lines = []
    for size in recording.sizes:
        rows = [recording.row(name, size, in_place) for name in recording.libraries]
        rows += [recording.limit(kind, size) for kind, _ in shown]
        span = [
            f"{micros(row['time_us_min'])} to {micros(row['time_us_max'])}" if row else "not measured"
            for row in rows
        ]
        lines.append([human(size), *span])
    return table(["size", *map(recording.title, recording.libraries), *(label for _, label in shown)], lines)


def losses(recording):
    found, compared = [], False
    for in_place, placement in recording.placements():
        for name in recording.own:
            which = "" if name == recording.own[0] else f", {recording.title(name)}"
            for size in recording.sizes:
                peer = recording.best_peer(size, in_place)
                against = ratio(peer, recording.row(name, size, in_place))
                compared |= against is not None
                if against is not None and against < 1:
                    found.append(
                        f"- {human(size)}, {placement.lower()}{which}: {1 / against:.2f}x the time of {recording.title(peer['library'])}"
                    )
    if not compared:
        return ["Nothing was compared: ringfold, or every peer, was not measured."]
    return found or ["None: ringfold has the shortest time wherever it was compared."]


def missing(recording):
    """What has no figure, and what has one from fewer repetitions."""
    whys = {}
    for thing in recording.missing:
        whys.setdefault((thing["library"], thing["not_measured"]), []).append(thing["size_bytes"])
    lines = []
    for (library, why), sizes in whys.items():
        which = (
            "every size"
            if set(sizes) >= set(recording.sizes)
            else ", ".join(human(size) for size in sorted(set(sizes)))
        )
        lines.append(f"- {recording.title(library)}, {which}: not measured: {why}")
    failed = {(row["library"], row["size_bytes"]): row["failures"] for row in recording.rows if row["failures"]}
    for (library, size), whys in failed.items():
        lines.append(f"- {recording.title(library)}, {human(size)}: {len(whys)} repetitions failed: {whys[-1]}")
    return lines


def markdown(recording, picture):
    about = recording.about
    over_tcp = about["transport"] == "tcp"
    way = f"over tcp, {about['congestion']}" if over_tcp else "through shared memory"
    versions = [f"{one['title']} {one['version']}" for one in about["libraries"].values() if one["version"]]
    text = [
        f"# {recording.collective} of f32 among {about['ranks']} ranks {way}: {about['label']}, {about['date']}",
        "",
        f"- machine: {about['machine']}",
        f"- load before and after: {about['load_before']}; {about['load_after']}",
        *([CONGESTION.format(about["congestion"], ", ".join(about["raw_congestion"]))] if over_tcp else []),
        f"- versions: {'; '.join(versions)}",
        f"- {about['repetitions']} repetitions of {about['seconds']} s each, every library in turn at every size; fresh operands",
        f"- command: `{about['command']}`",
        "",
        "Times are microseconds: the median over repetitions of what each run calls its time, the median over samples of the",
        'slowest rank. "1.20x" against the best peer means that the peer takes 1.20 times as long. Gloo and XGBoost reduce in',
        "place only: their figures out of place are a copy and then that.",
        *([] if over_tcp else SHARED_MEMORY),
    ]
    if picture:
        text += ["", f"![size against time and bus bandwidth]({picture})"]
    for in_place, name in recording.placements():
        text += ["", f"## {name}: time (us)", "", *times(recording, in_place)]
        text += ["", f"## {name}: bus bandwidth (GB/s)", "", *bandwidths(recording, in_place)]
        text += ["", f"## {name}: least and most of the repetitions (us)", "", *spreads(recording, in_place)]
    text += ["", "## Losses", "", *losses(recording)]
    if gaps := missing(recording):
        text += ["", "## Not measured", "", *gaps]
    return "\n".join(text) + "\n"
