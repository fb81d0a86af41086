"""
Reading the ledger: the file in which the bodies of steps note each run, outside of redurable.

It is the demo's witness. Times are of the monotonic clock, which all processes of a machine share, in ns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

__all__ = ["Ledger", "Line", "runs"]


class Line(msgspec.Struct, frozen=True):
    """A body began ("start") or ended ("end"), in the process *pid*."""

    step: int
    name: str
    event: str
    pid: int
    parent: int
    at: int


class Ledger:
    """A ledger while it is being written: each line is read once, `lines` has all read so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self._offset = 0
        self._decode = msgspec.json.Decoder(Line).decode

    def news(self) -> Iterator[Line]:
        """Yield the lines written since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        for raw in complete.splitlines():
            line = self._decode(raw)
            self.lines.append(line)
            yield line


def runs(lines: Iterable[Line]) -> dict[int, int]:
    """Return how often the body of each step began."""
    found: dict[int, int] = {}
    for line in lines:
        if line.event == "start":
            found[line.step] = found.get(line.step, 0) + 1
    return found
