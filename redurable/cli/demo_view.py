"""What people see of the demo: a live picture on a terminal, plain lines elsewhere, and the verdict at the end."""

from __future__ import annotations

from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from redurable.cli.output import clean
from redurable.demo.ledger import Line
from redurable.demo.play import Report

__all__ = ["Live", "Plain", "Silent", "verdict"]

_PER_ROW = 10
_COLOURS = ("green", "cyan", "magenta", "blue", "yellow")
_TARGETS = {1: 250, 2: 100}  # ms: another worker notices; the parent does


def _line(text: str) -> None:
    print(clean(text, lines=True), flush=True)


class Silent:
    """Shows nothing: JSON follows."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, text: str) -> None:
        """See `View`."""

    def begin(self, report: Report, phases: dict[int, str]) -> None:
        """See `View`."""

    def step(self, line: Line, who: str) -> None:
        """See `View`."""

    def killed(self, step: int, who: str, pid: int, after_ms: float) -> None:
        """See `View`."""

    def recovered(self, step: int, who: str, ms: float) -> None:
        """See `View`."""


class Plain(Silent):
    """One line an event, for logs and pipes."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def say(self, text: str) -> None:
        """Print it."""
        _line(text)

    def begin(self, report: Report, phases: dict[int, str]) -> None:
        """Print what was sent."""
        _line(f"sent {report.intent}: {len(phases)} steps; the kill comes in step {report.kill_at}")

    def step(self, line: Line, who: str) -> None:
        """Print a step that has ended."""
        if line.event == "start":
            self._begun[line.step] = line.at
            return
        ms = (line.at - self._begun.get(line.step, line.at)) / 1e6
        _line(f"  step {line.step:2}  {line.name:<11}  {who:<9}  pid {line.pid:<7}  {ms:4.0f} ms")

    def killed(self, step: int, who: str, pid: int, after_ms: float) -> None:
        """Print the kill."""
        _line(f"  step {step:2}  KILLED: SIGKILL to {who}, pid {pid}, {after_ms:.0f} ms into the step")

    def recovered(self, step: int, who: str, ms: float) -> None:
        """Print who carries on."""
        _line(f"  step {step:2}  RECOVERED: {who} runs it again {ms:.0f} ms after the kill")


class Live(Silent):
    """The picture: a field a step, coloured by who ran it."""

    def __init__(self) -> None:
        self._console = Console()
        self._live = RichLive(Text(""), console=self._console, refresh_per_second=20)
        self._phases: dict[int, str] = {}
        self._report: Report | None = None
        self._fields: dict[int, tuple[str, str]] = {}
        self._crew: dict[str, str] = {}
        self._remarks: list[Text] = []

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(self._picture())
        self._live.stop()

    def say(self, text: str) -> None:
        """Print it above the picture."""
        self._live.console.print(Text(text, style="dim"))

    def begin(self, report: Report, phases: dict[int, str]) -> None:
        """Draw the empty fields."""
        self._report, self._phases = report, phases
        self._fields = {n: ("dim", f"{n:2} ") for n in phases}
        self._live.update(self._picture())

    def step(self, line: Line, who: str) -> None:
        """Colour a field."""
        self._crew.setdefault(who, f"pid {line.pid}")
        colour = _COLOURS[list(self._crew).index(who) % len(_COLOURS)]
        if line.event == "start":
            self._fields[line.step] = (f"bold black on {colour}", f"{line.step:2}\N{HORIZONTAL ELLIPSIS}")
        else:
            again = self._report is not None and line.step == self._report.kill_at
            self._fields[line.step] = (f"bold {colour}", f"{line.step:2}" + ("²" if again else "\N{CHECK MARK}"))
        self._live.update(self._picture())

    def killed(self, step: int, who: str, pid: int, after_ms: float) -> None:
        """Mark the field and the worker."""
        self._crew[who] = f"pid {pid}, killed"
        self._fields[step] = ("bold white on red", f"{step:2}\N{MULTIPLICATION SIGN}")
        self._remark(f"SIGKILL to {who}, pid {pid}, {after_ms:.0f} ms into step {step}", "bold red")

    def recovered(self, step: int, who: str, ms: float) -> None:
        """Say who carries on."""
        self._remark(f"{who} runs step {step} again, {ms:.0f} ms after the kill", "bold green")

    def _remark(self, text: str, style: str) -> None:
        self._remarks.append(Text(text, style=style))
        self._live.update(self._picture())

    def _picture(self) -> Any:
        if not self._fields:
            return Text("")
        grid = Table.grid(padding=(0, 1))
        numbers = sorted(self._fields)
        for start in range(0, len(numbers), _PER_ROW):
            row = numbers[start : start + _PER_ROW]
            names = list(dict.fromkeys(self._phases[n] for n in row))
            cells = [Text(self._fields[n][1], style=self._fields[n][0]) for n in row]
            grid.add_row(*cells, *[Text("")] * (_PER_ROW - len(cells)), Text(", ".join(names), style="dim"))
        crew = Text("  ")
        for index, (who, state) in enumerate(self._crew.items()):
            crew.append(f"{who} ({state})   ", style=_COLOURS[index % len(_COLOURS)])
        return Group(Text(""), grid, Text(""), crew, *self._remarks)


# --- the verdict ------------------------------------------------------------------------------------------------------


def verdict(report: Report) -> None:
    """Print the proof, and whether it holds."""
    rows = [(what, found, expected, found == expected) for what, found, expected in _facts(report)]
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("from the ledger and the databases", "found", "expected", ""):
        table.add_column(column, overflow="fold")
    for what, found, expected, right in rows:
        mark = Text("ok", style="green") if right else Text("WRONG", style="bold red")
        table.add_row(what, found, expected, mark)
    console.print()
    console.print(table)
    console.print()
    if report.recovery_ms is not None:
        target = _TARGETS.get(report.processes, 100)
        console.print(
            f"recovery: {report.recovery_ms:.0f} ms from the kill to step {report.kill_at} running again"
            f" (to be below {target} ms), in attempt {report.attempts}"
        )
    last = "every step once, the killed one twice, the database identical" if report.ok else "something is not right"
    console.print(Text(last, style="bold green" if report.ok else "bold red"))
    again = f"redurable demo --kill-at {report.kill_at} --seed {report.seed} --processes {report.processes}"
    console.print(f"{report.seconds:.1f} s in all; the same again: {again}")
    if report.directory:
        console.print(f"kept in {report.directory}")


def _facts(report: Report) -> list[tuple[str, str, str]]:
    """Return what was found and what should be, in words."""
    k, last = report.kill_at, report.steps
    ranges = [(1, k - 1), (k, k), (k + 1, last)]
    facts = [
        (_steps(a, b), _times({report.runs.get(n, 0) for n in range(a, b + 1)}), _times({report.expected(a)}))
        for a, b in ranges
        if a <= b
    ]
    rows = (f"{d['rows']:,} rows, {d['sha256'][:12]}" if d else "" for d in (report.database, report.reference))
    return [
        *facts,
        ("the intent", report.status, "COMPLETED"),
        ("its result", "as undisturbed" if report.result == report.reference_result else "different", "as undisturbed"),
        ("rows and hash of the database", next(rows), next(rows)),
    ]


def _steps(a: int, b: int) -> str:
    return f"step {a} ran" if a == b else f"steps {a} to {b} ran"


def _times(counts: set[int]) -> str:
    words = {0: "never", 1: "once", 2: "twice"}
    return " or ".join(words.get(n, f"{n} times") for n in sorted(counts))
