"""
What commands print: tables for people, plain columns where stdout is no terminal, JSON for machines.

Invariants: data go to stdout and everything else to stderr; JSON is one document, or one object a line where lines
come over time; texts of users are printed without control characters, so that a log cannot drive a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import typer

from redurable.clock import now_ms, to_datetime
from redurable.errors import RedurableError

__all__ = [
    "age",
    "clean",
    "clock",
    "complain",
    "duration",
    "fields",
    "iso",
    "moment",
    "note",
    "print_json",
    "print_line",
    "run",
    "table",
]

T = TypeVar("T")
_USAGE = 2
_LEAST = 10  # characters that a text is shortened to, before its column is left out
# what a status looks like to people; machines get the word alone
_COLOURS = {
    "COMPLETED": "green", "FAILED": "bold red", "CANCELED": "magenta", "TIMED_OUT": "red", "IN_PROGRESS": "cyan",
    "WAITING": "yellow", "yes": "green", "no": "bold red", "ok": "green", "warn": "yellow", "fail": "bold red",
}  # fmt: skip


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; Ctrl+C ends it with exit code 130."""
    import asyncio

    try:
        return asyncio.run(coroutine)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def complain(error: RedurableError) -> int:
    """Tell *error* on stderr and return the exit code that it means: 2 for what the user can put right, else 1."""
    from redurable.errors import ConfigurationError, PayloadTooLarge, SerialisationError

    print(f"error: {clean(error.message, lines=True)} [{error.code}]", file=sys.stderr)
    if error.hint:
        print(f"  {clean(error.hint, lines=True)}", file=sys.stderr)
    return _USAGE if isinstance(error, ConfigurationError | SerialisationError | PayloadTooLarge) else 1


def note(text: str) -> None:
    """Print a remark for people on stderr."""
    print(clean(text, lines=True), file=sys.stderr)


def clean(text: str, *, lines: bool = False) -> str:
    """Return *text* without control characters, in one line unless *lines*."""
    kept = text if lines else " ".join(text.splitlines())
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in kept)


# --- machines ---------------------------------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    """Print *value* as one JSON document in one line."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(value, enc_hook=str) + b"\n")
    sys.stdout.flush()


def iso(ms: int | None) -> str | None:
    """Return *ms* since 1970 as ISO 8601 in UTC, for JSON."""
    return None if ms is None else to_datetime(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- people -----------------------------------------------------------------------------------------------------------


def print_line(text: str) -> None:
    """Print one line of data, at once."""
    print(clean(text), flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str, spare: Sequence[str] = ()) -> None:
    """
    Print *rows* under *columns*: framed on a terminal, else in aligned columns; *empty* when there are none.

    Where a terminal is narrow the columns in *spare* give way, the first of them first: texts are shortened, then
    columns left out, those that hold nothing before others. All other cells stay whole, in one line. Without *spare*
    long cells go over several lines.
    """
    texts = [["" if cell is None else clean(str(cell)) for cell in row] for row in rows]
    if not texts:
        note(empty)
        return
    if not sys.stdout.isatty():
        widths = [max(len(row[i]) for row in (columns, *texts)) for i in range(len(columns))]
        for row in ([c.upper() for c in columns], *texts):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    numbers = {
        i for i in range(len(columns)) if all(row[i].replace(".", "", 1).isdigit() or not row[i] for row in texts)
    }
    shown = _fitted(columns, texts, spare, numbers, console.width)
    framed = Table(box=box.SIMPLE_HEAD, header_style="bold", show_edge=False, padding=(0, 1, 0, 0))
    for i, width in shown.items():
        justify: Any = "right" if i in numbers else "left"
        if spare:
            framed.add_column(columns[i], justify=justify, width=width, no_wrap=True, overflow="ellipsis")
        else:
            framed.add_column(columns[i], justify=justify, overflow="fold")
    for row in texts:
        framed.add_row(*(Text(row[i], style=_COLOURS.get(row[i].split(" ", 1)[0], "")) for i in shown))
    if spare:
        console.width = max(console.width, _total(shown))  # what must stay whole is left to the terminal to break
    console.print(framed)


def _fitted(
    columns: Sequence[str], texts: list[list[str]], spare: Sequence[str], numbers: set[int], room: int
) -> dict[int, int]:
    """Return the columns to show, by number, and how wide each is; see `table`."""
    from rich.cells import cell_len

    widths = {i: max(cell_len(row[i]) for row in (columns, *texts)) for i in range(len(columns))}
    spared = [columns.index(name) for name in spare if name in columns]
    order = sorted(spared, key=lambda i: any(row[i] not in ("", "0") for row in texts))
    least = {i: min(widths[i], max(_LEAST, len(columns[i]))) for i in order if i not in numbers}
    for i in order:
        if _total(widths | {k: least[k] for k in least if k in widths}) <= room:
            break
        del widths[i]
    for i in order:
        if i in widths and i in least:
            widths[i] = max(least[i], widths[i] - max(0, _total(widths) - room))
    return widths


def _total(widths: dict[int, int]) -> int:
    return sum(widths.values()) + 2 * len(widths) - 1  # a blank after each, and one between two


def fields(rows: Iterable[tuple[str, Any]]) -> None:
    """Print name and value, one pair a line; pairs without a value are left out."""
    shown = [(name, clean(str(value), lines=True)) for name, value in rows if value not in (None, "", (), {})]
    width = max((len(name) for name, _ in shown), default=0)
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for name, value in shown:
            grid.add_row(Text(name, style="bold"), Text(value, style=_COLOURS.get(value.split(" ", 1)[0], "")))
        Console().print(grid)
        return
    for name, value in shown:
        print(f"{name.ljust(width)}  {value}".replace("\n", "\n" + " " * (width + 2)))


def duration(seconds: float) -> str:
    """Return *seconds* as people say it: 350 ms, 4.2 s, 3 min 5 s, 2 h 10 min, 4 d 3 h."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for size, word, part, least in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {word}" + (f" {rest} {least}" if rest else "")
    return f"{whole} s"


def age(ms: int | None) -> str:
    """Return how long ago *ms* since 1970 was, or in how long it will be."""
    if ms is None:
        return ""
    seconds = (now_ms() - ms) / 1000
    return f"{duration(max(0.0, seconds))} ago" if seconds > -0.5 else f"in {duration(-seconds)}"


def clock(ms: int | None) -> str:
    """Return *ms* since 1970 as local time to the millisecond, with the date unless it is today's."""
    if not ms:
        return ""
    local = to_datetime(ms).astimezone()
    today = local.date() == datetime.now(UTC).astimezone().date()
    return f"{local:{'%H:%M:%S' if today else '%Y-%m-%d %H:%M:%S'}}.{local.microsecond // 1000:03}"


def moment(ms: int | None) -> str:
    """Return *ms* since 1970 as local time and age."""
    return f"{clock(ms).partition('.')[0]} ({age(ms)})" if ms else ""
