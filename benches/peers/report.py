"""From the rows of a recording to its table. Everything is read from the rows, so a recording can be rendered again."""

from statistics import median

from turns import human

PLACEMENTS = ((True, "In place"), (False, "Out of place"))


class Recording:
    def __init__(self, objects):
        self.about = next(thing["about"] for thing in objects if "about" in thing)
        self.rows = [thing for thing in objects if "time_us" in thing]
        self.missing = [thing for thing in objects if "not_measured" in thing]
        self.collective = self.about["collective"]
        self.libraries = [
            name for name in self.about["libraries"] if not self.about["libraries"][name]["is_limit"]
        ]
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

    def placements(self):
        return [
            pair for pair in PLACEMENTS if any(self.row("ringfold", size, pair[0]) for size in self.sizes)
        ] or [
            pair
            for pair in PLACEMENTS
            if any(row["in_place"] == pair[0] for row in self.rows if row["library"] in self.libraries)
        ]

    def best_peer(self, size, in_place):
        rows = [self.row(name, size, in_place) for name in self.libraries if name != "ringfold"]
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


def times(recording, in_place):
    head = [
        "size",
        *map(recording.title, recording.libraries),
        "bare sockets",
        "memcpy",
        "ringfold against the best peer",
        "against bare sockets",
    ]
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
        limits = [recording.limit(kind, size) for kind in ("raw_exchange", "memcpy")]
        shown += [micros(row["time_us"]) if row else "not measured" for row in limits]
        own, peer = cells.get("ringfold"), recording.best_peer(size, in_place)
        against = ratio(peer, own)
        shown.append(f"{against:.2f}x ({recording.title(peer['library'])})" if against else "-")
        held = ratio(own, limits[0])
        shown.append(f"{held:.2f}x" if held else "-")
        lines.append([human(size), *shown])
    return table(head, lines)


def bandwidths(recording, in_place):
    lines = []
    for size in recording.sizes:
        rows = [recording.row(name, size, in_place) for name in recording.libraries]
        rows += [recording.limit(kind, size) for kind in ("raw_exchange", "memcpy")]
        lines.append([human(size), *(f"{row['busbw_gb_s']:.3f}" if row else "not measured" for row in rows)])
    return table(["size", *map(recording.title, recording.libraries), "bare sockets", "memcpy"], lines)


def spreads(recording, in_place):
    lines = []
    for size in recording.sizes:
        rows = [recording.row(name, size, in_place) for name in recording.libraries]
        rows += [recording.limit("raw_exchange", size)]
        span = [
            f"{micros(row['time_us_min'])} to {micros(row['time_us_max'])}" if row else "not measured"
            for row in rows
        ]
        lines.append([human(size), *span])
    return table(["size", *map(recording.title, recording.libraries), "bare sockets"], lines)


def losses(recording):
    found, compared = [], False
    for in_place, name in recording.placements():
        for size in recording.sizes:
            peer = recording.best_peer(size, in_place)
            against = ratio(peer, recording.row("ringfold", size, in_place))
            compared |= against is not None
            if against is not None and against < 1:
                found.append(
                    f"- {human(size)}, {name.lower()}: {1 / against:.2f}x the time of {recording.title(peer['library'])}"
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
    versions = [f"{one['title']} {one['version']}" for one in about["libraries"].values() if one["version"]]
    text = [
        f"# {recording.collective} of f32 among {about['ranks']} ranks over {about['transport']}, {about['congestion']}: {about['label']}, {about['date']}",
        "",
        f"- machine: {about['machine']}",
        f"- load before and after: {about['load_before']}; {about['load_after']}",
        f"- congestion control of the network: {about['congestion']}; bare sockets may choose among {', '.join(about['raw_congestion'])}",
        f"- versions: {'; '.join(versions)}",
        f"- {about['repetitions']} repetitions of {about['seconds']} s each, every library in turn at every size; fresh operands",
        f"- command: `{about['command']}`",
        "",
        "Times are microseconds: the median over repetitions of what each run calls its time, the median over samples of the",
        'slowest rank. "1.20x" against the best peer means that the peer takes 1.20 times as long. Gloo and XGBoost reduce in',
        "place only: their figures out of place are a copy and then that.",
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
