"""
What the records say: medians, ratios, ties, two tables.

A ratio says how many times better ours is, whatever the unit: of rates ours / theirs, of times theirs / ours; it is
the median over the turns that both took. Between 1 / TIE and TIE it is a tie. Where a peer did not come back in the
time that was watched, the ratio is a bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from redurable.bench.report import figure
from tests.benchmarks.peers import OURS, Kind

__all__ = ["MEASURES", "TIE", "Cell", "Measure", "cells", "markdown", "told"]

TIE = 1.4


@dataclass(frozen=True, slots=True)
class Measure:
    """A column: the *key* of the records named *record*, in *unit*; *more* is better, or less."""

    title: str
    unit: str
    record: str
    key: str = "value"
    more: bool = True


MEASURES: dict[Kind, tuple[Measure, ...]] = {
    "queues": (
        Measure("send, one by one", "/s", "send"),
        Measure("send, in bulk", "/s", "bulk"),
        Measure("drain, 1 worker", "/s", "drain"),
        Measure("drain, 2 workers", "/s", "drain 2"),
        Measure("send to result, p50", "ms", "idle", "p50", more=False),
        Measure("send to result, p99", "ms", "idle", "p99", more=False),
        Measure("taken over after kill -9", "s", "kill", more=False),
    ),
    "steps": (
        Measure("one step after another", "ms", "sequential", more=False),
        Measure("steps, 100 intents at once", "/s", "steps"),
        Measure("the same, fsync always", "/s", "steps, always"),
        Measure("intents of one step", "/s", "starts"),
        Measure("send to result, p50", "ms", "idle", "p50", more=False),
        Measure("send to result, p99", "ms", "idle", "p99", more=False),
        Measure("taken over after kill -9", "s", "kill", more=False),
    ),
}
TITLES: dict[Kind, str] = {"queues": "Queues on Redis", "steps": "Durable execution"}


@dataclass(frozen=True, slots=True)
class Cell:
    """
    One side's figure.

    Attributes:
        value: The median; None: it never came, in the *watched* seconds, or there is a *reason*.
        ratio: How many times better ours is; None for ours, or where there is nothing to compare.
        bound: The ratio is at least that.
    """

    value: float | None = None
    watched: float | None = None
    reason: str | None = None
    ratio: float | None = None
    bound: bool = False

    @property
    def verdict(self) -> str:
        """The ratio in words."""
        if self.ratio is None:
            return ""
        if 1 / TIE < self.ratio < TIE:
            return "tie"
        return f"{'> ' if self.bound else ''}{_times(self.ratio)}x"

    @property
    def text(self) -> str:
        """The cell for people."""
        if self.reason is not None:
            return self.reason
        shown = f"not in {self.watched:g} s" if self.value is None else figure(self.value)
        return f"{shown} ({self.verdict})" if self.verdict else shown


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"


def cells(report: dict[str, Any], kind: Kind) -> dict[str, list[Cell]]:
    """Return a row of cells for every side of *kind*, ours first."""
    names = sorted(report["sides"][kind], key=lambda name: name != OURS)
    ours = [_seen(report, kind, measure, OURS) for measure in MEASURES[kind]]
    rows = {}
    for name in names:
        if "missing" in report["sides"][kind][name]:
            continue
        rows[name] = [
            _cell(measure, mine, _seen(report, kind, measure, name), name != OURS)
            for measure, mine in zip(MEASURES[kind], ours, strict=True)
        ]
    return rows


def missing(report: dict[str, Any], kind: Kind) -> dict[str, str]:
    """Return who was not measured, and why."""
    sides = report["sides"][kind]
    return {name: side["missing"] for name, side in sides.items() if "missing" in side}


def _seen(report: dict[str, Any], kind: Kind, measure: Measure, side: str) -> dict[int, dict[str, Any]]:
    return {
        r["turn"]: r for r in report["records"] if (r["kind"], r["measure"], r["side"]) == (kind, measure.record, side)
    }


def _cell(measure: Measure, ours: dict[int, Any], theirs: dict[int, Any], compared: bool) -> Cell:
    if not theirs:
        return Cell(reason="-")
    for record in theirs.values():
        if "reason" in record:
            return Cell(reason=record["reason"])
    theirs = {turn: r for turn, r in theirs.items() if "error" not in r}
    if not theirs:
        return Cell(reason="failed")
    values = {turn: r[measure.key] for turn, r in theirs.items()}
    mine = {turn: r[measure.key] for turn, r in ours.items() if r.get(measure.key) is not None}
    watched = max((r.get("watched") or 0 for r in theirs.values()), default=0) or None
    if any(v is None for v in values.values()):
        ratio = watched / median(mine.values()) if compared and mine and watched else None
        return Cell(watched=watched, ratio=ratio, bound=True)
    ratio = None
    if compared and mine:
        both = sorted(set(mine) & set(values)) if len(mine) == len(values) else []
        pairs = [(mine[t], values[t]) for t in both] or [(median(mine.values()), median(values.values()))]
        ratio = median(a / b if measure.more else b / a for a, b in pairs)
    return Cell(value=median(values.values()), watched=watched, ratio=ratio)


def best(report: dict[str, Any], kind: Kind) -> list[Cell]:
    """Return the cells of the best peer of each measure: the one that ours is least ahead of."""
    rows = cells(report, kind)
    peers = [row for name, row in rows.items() if name != OURS]
    chosen = []
    for column in range(len(MEASURES[kind])):
        known = [row[column] for row in peers if row[column].ratio is not None]
        chosen.append(min(known, key=lambda cell: cell.ratio or 0.0) if known else Cell(reason="-"))
    return chosen


def floor(report: dict[str, Any], fsync: str = "everysec") -> tuple[float, float]:
    """Return the raw floor of the run: calls/s by 100 tasks, and ms of one awaited call."""
    found = [f for f in report["floors"] if f["fsync"] == fsync]
    return median(f["rate"] for f in found), median(f["ms"] for f in found)


def markdown(report: dict[str, Any]) -> str:
    """Return both tables, what they stand on, and who is missing."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: dict[str, Any]) -> Iterator[str]:
    for kind, title in TITLES.items():
        rows = cells(report, kind)
        if not rows:
            continue
        yield f"### {title}"
        yield ""
        yield f"| | {' | '.join(f'{m.title}, {m.unit}' for m in MEASURES[kind])} |"
        yield f"|---|{'---|' * len(MEASURES[kind])}"
        for name, row in rows.items():
            yield f"| {f'**{name}**' if name == OURS else name} | {' | '.join(cell.text for cell in row)} |"
        if len(rows) > 1:
            yield f"| *ours to the best of them* | {' | '.join(c.verdict or '-' for c in best(report, kind))} |"
        yield ""
        if even := list(_even(report, kind)):
            yield f"- **Not ahead of:** {'; '.join(even)}."
        for name, why in missing(report, kind).items():
            yield f"- {name} was not measured: {why}"
        for name, column in _failures(report, kind):
            yield f"- {name}, {column}"
        yield ""
    yield from _footer(report)


def _even(report: dict[str, Any], kind: Kind) -> Iterator[str]:
    """Yield each measure in which ours is not ahead, with whom it ties and who is ahead of it."""
    rows = cells(report, kind)
    for column, measure in enumerate(MEASURES[kind]):
        found = {name: row[column] for name, row in rows.items() if (row[column].ratio or TIE) < TIE}
        if found:
            told = (f"{name} ({'tie' if c.verdict == 'tie' else f'{c.verdict} of it'})" for name, c in found.items())
            yield f"{measure.title}: {', '.join(told)}"


def _failures(report: dict[str, Any], kind: Kind) -> Iterator[tuple[str, str]]:
    for record in report["records"]:
        if record["kind"] == kind and "error" in record:
            said = record["error"].strip().splitlines()[0][:160]
            yield record["side"], f"{record['measure']}, turn {record['turn'] + 1}: {said}"


def _footer(report: dict[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    for fsync in ("everysec", "always"):
        if any(f["fsync"] == fsync for f in report["floors"]):
            rate, ms = floor(report, fsync)
            many, alone = f"{figure(rate)} calls/s by 100 tasks", f"{figure(ms)} ms a call"
            yield f"- Raw floor of the run, appendfsync {fsync}: {many}, {alone}."
    stepped = _seen(report, "steps", MEASURES["steps"][0], OURS).values()
    if by_turns := [(r["bare"], r["value"] / r["bare"]) for r in stepped if "bare" in r]:
        ms, ratio = (median(column) for column in zip(*by_turns, strict=True))
        yield f"- Ours, one step after another: {ratio:.2f} times the bare call by turns with it, {figure(ms)} ms."
    way = "TCP" if report["tcp"] else "their unix sockets (Restate dials its handlers by TCP)"
    yield f"- All servers were on this machine and dialed by {way}."
    turns = report["repeat"]
    amount = "" if report["scale"] == 1 else f", {report['scale']:g} of the usual amount of work"
    told = [machine["server"], machine["postgres"], machine["restate"], f"Python {machine['python']}"]
    yield f"- {report['date']}, {machine['cores']} cores, {machine['system']}, {', '.join(t for t in told if t)}."
    minutes = f"{report['seconds'] / 60:.0f} minutes in all"
    yield (
        f"- Medians of {turns} turn{'s' * (turns > 1)}{amount}, all sides in turn, {minutes}; "
        f"the machine's load before it was {machine['load']:g}."
    )


def told(report: dict[str, Any]) -> str:
    """Return every side's versions and settings, with the page of each."""
    lines = []
    for kind, title in TITLES.items():
        for name, side in report["sides"][kind].items():
            if "missing" in side:
                continue
            versions = ", ".join(f"{package} {number}" for package, number in side["versions"].items())
            lines.append(f"- **{name}** ({title}, {side['loop']}): {versions}")
            lines += [f"  - {what}: {page}" for what, page in side["settings"]]
    return "\n".join(lines) + "\n"
