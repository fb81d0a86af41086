"""`redurable bench`: the figures of this machine, each beside the raw floor of the same run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from redurable.cli.common import AsJson, Url
from redurable.cli.output import fields, note, print_json, table
from redurable.errors import ConfigurationError

if TYPE_CHECKING:
    from redurable.bench.suite import Report

__all__ = ["bench"]


def bench(
    url: Url = None,
    repeat: Annotated[
        int | None,
        typer.Option("--repeat", "-r", min=1, max=100, help="How often each is measured. Default: 5; --quick: 2."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Less of everything: a rough look in half a minute.")] = False,
    full: Annotated[
        bool,
        typer.Option("--full", help="As much as is promised: 100,000 parked intents, minutes of rest beside them."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Only these, with commas or repeated: floor steps noop one-step sequential send latency memory "
            "parked metrics two-processes recovery.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """
    Measure this machine: steps, intents, latency, memory, recovery.

    [bold]redurable bench[/bold]  all of it on a private server (append-only file, fsync every second), some minutes

    [bold]redurable bench --quick[/bold]  a rough look

    [bold]redurable bench --full --only parked[/bold]  what 100,000 parked intents cost, awake and at rest, some minutes

    [bold]redurable bench --only steps,noop --url redis://db:6379[/bold]  two scenarios on a server of yours

    Workers are real `redurable worker` processes. Every figure is the median of its repeats, and stands beside the
    floor measured right before each: the bare connection running a script with the commands and bytes of one step.
    Machines differ, so do their moods: read the ratio. On a server of yours everything lies in a namespace of its
    own and is removed at the end; other users of that server are in the figures.

    Exit code 0 whatever the figures are. JSON: machine, repeat, quick, took (s), rows by scenario: name, value, unit,
    runs, floor, ratio, target, reached (1 = all of the target), verdict (ok, below, null), detail.
    """
    from redurable.bench.run import FULL
    from redurable.bench.suite import chosen, measure

    if quick and full:
        raise ConfigurationError("--quick and --full exclude each other", hint="leave one of them out")
    names = chosen(only or ())
    times = repeat or (2 if quick else 5)
    report = measure(
        url, names, repeat=times, quick=quick, sizes=FULL if full else None, note=_quiet if as_json else note
    )
    if as_json:
        print_json(asdict(report))
    else:
        _show(report)


def _quiet(_: str) -> None:
    return None


def _show(report: Report) -> None:
    from redurable.bench.report import BELOW, COLUMNS

    rows = [row for found in report.rows.values() for row in found]
    fields([*report.machine.items(), ("repeat", report.repeat)])
    table(COLUMNS, [row.cells() for row in rows], "nothing was measured")
    below = [row for row in rows if row.verdict == BELOW]
    judged = sum(row.verdict is not None for row in rows)
    note(f"{judged - len(below)} of {judged} targets are reached")
    for row in below:
        note(f"below: {row.name}, {(row.reached or 0) * 100:.0f} % of its target")
