"""
Cells: what one process counts, in a file that outlives it, and the sum over all processes of a worker.

A process adds to doubles in memory that is mapped from its own file, so a count is safe from `kill -9` the moment it
is made, and costs well under a microsecond; its parent reads the files when somebody asks. Two files a process:
NAME.cells, the doubles, and NAME.names, one line for each new label set (metric, labels, first cell). Invariants: a
name is written before its cells are used; cells are never given to others; label sets beyond `MOST` of a metric are
counted under `OTHER`, so labels that come from outside cannot fill a disk or a Prometheus. When a process has ended,
its counters go into the parent's sum and its gauges vanish.
"""

from __future__ import annotations

import json
import mmap
import struct
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["MOST", "OTHER", "Labels", "Metric", "Sum", "Tally"]

MOST = 300  # label sets of a metric in one process
OTHER = "(other)"
_CELLS = 1 << 17  # the file is sparse: what is not used takes no room
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """
    One metric: its name in Prometheus, what it is, its labels, what it means.

    Attributes:
        bounds: The upper bounds of a histogram's buckets, rising; `+Inf` is added.
        join: How processes' gauges become one.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str
    bounds: tuple[float, ...] = ()
    join: Literal["sum", "max"] = "sum"

    @property
    def width(self) -> int:
        """How many cells a label set takes: one; for a histogram its buckets and the sum of all values."""
        return len(self.bounds) + 2 if self.bounds else 1


class Tally:
    """
    The cells of this process, in *directory* under *name*; any thread may count.

    Args:
        metrics: Everything that can be counted.
    """

    def __init__(self, directory: Path, name: str, metrics: Iterable[Metric]) -> None:
        with open(directory / f"{name}.cells", "w+b") as file:
            file.truncate(_CELLS * 8)
            self._map = mmap.mmap(file.fileno(), _CELLS * 8)
        self._cells = memoryview(self._map).cast("d")
        self._names = open(directory / f"{name}.names", "ab", buffering=0)  # noqa: SIM115  open while the process lives
        self._at: dict[Metric, dict[Labels, int]] = {metric: {} for metric in metrics}
        self._next = 0
        self._lock = threading.Lock()

    def add(self, metric: Metric, labels: Labels = (), amount: float = 1.0) -> None:
        """Add *amount* to a counter or gauge; 0 makes the label set known."""
        with self._lock:
            at = self._at[metric].get(labels)
            self._cells[self._place(metric, labels) if at is None else at] += amount

    def set(self, metric: Metric, value: float, labels: Labels = ()) -> None:
        """Let a gauge be *value*."""
        with self._lock:
            self._cells[self._place(metric, labels)] = value

    def observe(self, metric: Metric, value: float, labels: Labels = (), count: int = 1) -> None:
        """Put *value* into a histogram *count* times; 0 makes the label set known."""
        cells, bounds = self._cells, metric.bounds
        with self._lock:
            at = self._at[metric].get(labels)
            if at is None:
                at = self._place(metric, labels)
            cells[at + bisect_left(bounds, value)] += count
            cells[at + len(bounds) + 1] += value * count

    def extend(self, metric: Metric, values: list[float], labels: Labels = ()) -> None:
        """Put each of *values* into a histogram; they are sorted here."""
        values.sort()
        with self._lock:
            at, below = self._place(metric, labels), 0
            for bucket, bound in enumerate(metric.bounds):
                through = bisect_right(values, bound, below)
                if through != below:
                    self._cells[at + bucket] += through - below
                    below = through
                    if below == len(values):
                        break
            self._cells[at + len(metric.bounds)] += len(values) - below
            self._cells[at + len(metric.bounds) + 1] += sum(values)

    def close(self) -> None:
        """Let go of the files; what was counted stays in them."""
        self._names.close()
        self._cells.release()
        self._map.close()

    def _place(self, metric: Metric, labels: Labels) -> int:
        known = self._at[metric]
        at = known.get(labels)
        if at is not None:
            return at
        if len(known) >= MOST:
            labels = (OTHER,) * len(metric.labels)
            if labels in known:
                return known[labels]
        at, self._next = self._next, self._next + metric.width
        self._names.write(json.dumps([metric.name, labels, at]).encode() + b"\n")
        known[labels] = at
        return at


Values = dict[tuple[Metric, Labels], list[float]]


class Sum:
    """What the processes that count into *directory* have counted together; any thread may ask."""

    def __init__(self, directory: Path, metrics: Iterable[Metric]) -> None:
        self._directory = directory
        self._metrics = {metric.name: metric for metric in metrics}
        self._ended: Values = {}
        self._lock = threading.Lock()

    def bury(self, name: str) -> None:
        """The process *name* has ended: keep its counts, forget its gauges and its files."""
        with self._lock:
            for (metric, labels), cells in self._read(name).items():
                if metric.kind != "gauge":
                    _join(self._ended, metric, labels, cells)
            for suffix in (".names", ".cells"):
                (self._directory / (name + suffix)).unlink(missing_ok=True)

    def living(self) -> dict[str, Values]:
        """Return the cells of every process that has not been buried, by its name."""
        with self._lock:
            return {path.stem: self._read(path.stem) for path in sorted(self._directory.glob("*.names"))}

    def total(self) -> Values:
        """Return the sum of all, the ended ones' counters included."""
        with self._lock:
            total = {key: list(cells) for key, cells in self._ended.items()}
            for path in sorted(self._directory.glob("*.names")):
                for (metric, labels), cells in self._read(path.stem).items():
                    _join(total, metric, labels, cells)
        return total

    def _read(self, name: str) -> Values:
        try:
            lines = (self._directory / f"{name}.names").read_bytes().split(b"\n")[:-1]  # the last may be half written
            with (
                open(self._directory / f"{name}.cells", "rb") as file,
                mmap.mmap(file.fileno(), _CELLS * 8, access=mmap.ACCESS_READ) as mapped,
            ):
                found: Values = {}
                for line in lines:
                    metric_name, labels, at = json.loads(line)
                    metric = self._metrics[metric_name]
                    cells = struct.unpack_from(f"{metric.width}d", mapped, at * 8)
                    found[metric, tuple(labels)] = list(cells)
                return found
        except (FileNotFoundError, ValueError):
            return {}  # it has just begun, or was just buried


def _join(total: Values, metric: Metric, labels: Labels, cells: list[float]) -> None:
    before = total.get((metric, labels))
    if before is None:
        total[metric, labels] = cells
    elif metric.join == "max":
        total[metric, labels] = [max(a, b) for a, b in zip(before, cells, strict=True)]
    else:
        total[metric, labels] = [a + b for a, b in zip(before, cells, strict=True)]
