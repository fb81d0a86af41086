"""`redurable dev`: this project's own server."""

from __future__ import annotations

from typing import Annotated

import typer

from redurable.cli.common import AsJson
from redurable.cli.output import fields, note, print_json

__all__ = ["dev"]


def dev(
    stop: Annotated[bool, typer.Option("--stop", help="End it, its data on disk.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only tell whether it runs (exit code 0 or 1).")] = False,
    as_json: AsJson = False,
) -> None:
    """
    Start a server for this project, and print its URL.

    [bold]redurable dev[/bold]  starts it, if it does not run

    [bold]redurable dev --status[/bold]  tells whether it runs

    [bold]redurable dev --stop[/bold]  ends it; what it holds is there again at the next start

    It needs valkey-server or redis-server on PATH, or redurable\\[embedded]. It runs in the background and writes
    every change to .redurable/ in the project's directory. Workers and clients in that directory find it by
    themselves as long as neither --url nor REDURABLE_URL nor REDIS_URL is set.

    JSON: running, url, pid, directory.
    """
    from redurable.store import server

    if stop and status:
        raise typer.BadParameter("--stop and --status exclude each other")
    if stop:
        ended = server.stop()
        if as_json:
            print_json({"running": False, "ended": ended})
        else:
            note("the server has ended" if ended else "no server ran")
        return
    found = server.find() if status else server.start()
    if found is None and (mute := server.silent()) is not None:
        raise mute
    if found is None:
        if as_json:
            print_json({"running": False, "url": None, "pid": None, "directory": None})
        else:
            note(f"no server runs for {server.project_directory()}; start it with: redurable dev")
        raise typer.Exit(1)
    if as_json:
        print_json({"running": True, "url": found.url, "pid": found.pid, "directory": str(found.directory)})
        return
    fields([("url", found.url), ("pid", found.pid), ("data", found.directory)])
    if not status:
        note("workers and clients of this project find it by themselves; end it with: redurable dev --stop")
