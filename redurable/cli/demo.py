"""`redurable demo`: options, the way it is shown, and the exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from redurable.cli.common import AsJson
from redurable.cli.output import print_json
from redurable.errors import ConfigurationError

__all__ = ["demo"]


def demo(
    kill_at: Annotated[int, typer.Option("--kill-at", metavar="N", min=1, max=50, help="The step to kill in.")] = 47,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Chooses the moment within the step. Default: by chance.")
    ] = None,
    processes: Annotated[
        int,
        typer.Option(
            "--processes", "-p", min=1, max=8,
            help="1: two workers, and a whole one is killed; 2: one worker of two processes, and one of those is.",
        ),
    ] = 1,
    pace: Annotated[float, typer.Option("--pace", min=0.02, max=5.0, help="Seconds that a step takes.")] = 0.15,
    url: Annotated[
        str | None, typer.Option("--url", "-u", metavar="URL", help="Use this server. Default: one of its own.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep databases, ledgers and logs there.")
    ] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """
    Watch a worker being killed in step 47 of 50, and another carrying on at that step.

    A pipeline over 28,000 airports runs on real worker processes. The one that runs the step is killed with SIGKILL,
    from outside, at a moment that it cannot know. At the end a ledger kept outside of redurable tells how often each
    step ran, and the database is compared with that of an undisturbed run. Exit code 0 only if all of it is as it
    should be.

    [bold]redurable demo --kill-at 12 --seed 7[/bold]

    [bold]redurable demo --processes 2[/bold]  kills one child of a worker; its parent notices

    JSON: ok, kill_at, seed, processes, steps, intent, status, attempts, recovery_ms, kill, took_over, runs, result,
    database, reference, seconds, directory.
    """
    from redurable.cli.demo_view import Live, Plain, Silent, verdict
    from redurable.demo.play import Options, play

    if sys.platform == "win32":
        raise ConfigurationError(
            "the demo does not run on Windows", code="UNSUPPORTED_PLATFORM", hint="run it on Linux, macOS or in WSL"
        )
    options = Options(kill_at=kill_at, seed=seed, processes=processes, url=url, pace=pace, keep=keep)
    view = Silent() if as_json else Live() if sys.stdout.isatty() else Plain()
    with view:
        report = play(options, view)
    if as_json:
        print_json(report)
    else:
        verdict(report)
    raise typer.Exit(0 if report.ok else 1)
