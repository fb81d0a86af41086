"""
The command line. `main` is its entry point; each command is a function of its own module.

Invariants: a wrong input is one line on stderr, `error: what was wrong [CODE]`, and a hint, never a traceback; exit
codes are 0 done, 1 it failed, 2 it was asked for wrongly, 130 Ctrl+C. A command is imported when it is called, or is
asked for its own help: `redurable --help` knows of each no more than its name and line.
"""

from __future__ import annotations

import errno
import importlib
import inspect
import os
import sys
from typing import Annotated, Any, TextIO

import typer
import typer.core

__all__ = ["app", "main"]

_HELP = {"help_option_names": ["-h", "--help"]}
# name -> where it is, and its line of help
_COMMANDS = {
    "worker": ("redurable.cli.worker:worker", "Run handlers until stopped."),
    "dev": ("redurable.cli.dev:dev", "Start a server for this project, and print its URL."),
    "send": ("redurable.cli.send:send", "Send an intent, and print its id."),
    "intents": ("redurable.cli.intents:app", "Look at intents, cancel them, retry them, move and remove them."),
    "sessions": ("redurable.cli.sessions:app", "Look at sessions; skip, cancel or retry the intent that holds one."),
    "schedules": ("redurable.cli.schedules:app", "Send by the clock: schedules put, paused, resumed, triggered."),
    "approvals": ("redurable.cli.approvals:app", "List what waits for people, and answer it."),
    "queues": (
        "redurable.cli.overview:queues",
        "List queues: how much waits, runs and is suspect; pause and resume them.",
    ),
    "limits": ("redurable.cli.limits:limits", "List limits in use: places, rates, who waits for them."),
    "workers": (
        "redurable.cli.overview:workers",
        "List worker processes: what they serve, and whether they live.",
    ),
    "deployments": (
        "redurable.cli.deployments:app",
        "List versions of workers' code; choose the one that fresh intents go to.",
    ),
    "demo": ("redurable.cli.demo:demo", "Watch a worker being killed in step 47 of 50, and another carrying on."),
    "doctor": ("redurable.cli.doctor:doctor", "Check the server: what would be lost, in which event, and what to do."),
    "bench": ("redurable.cli.bench:bench", "Measure this machine: steps, intents and latency beside the raw floor."),
}
_CANNOT_PRINT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EPIPE, errno.EBADF})


class _Lazily(typer.core.TyperGroup):
    """Puts the real command in the place of its line when it is called (or completed)."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in _COMMANDS:
            self.commands[args[0]] = _real(args[0])
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="redurable",
    cls=_Lazily,
    help="Durable execution on Redis: an intent survives kill -9 and carries on at the failing step.\n\n"
    "Start with [bold]redurable dev[/bold] (a server for this project), then [bold]redurable worker "
    "myapp:handler[/bold], then [bold]redurable send myapp.handler '{\"n\": 1}'[/bold].",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings=_HELP,
)


def _version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    return None


@app.command()
def version() -> None:
    """Print the version of redurable, Python and redis-py."""
    import platform
    from importlib.metadata import version as version_of

    print(f"redurable {version_of('redurable')} (Python {platform.python_version()}, redis-py {version_of('redis')})")


def _real(name: str) -> Any:
    module, _, attribute = _COMMANDS[name][0].partition(":")
    found: Any = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
        alone.command(name, context_settings=_HELP)(found)
        command = typer.main.get_command(alone)
    command.name = name
    for one in (command, *getattr(command, "commands", {}).values()):
        # paragraphs are broken where the terminal ends, not where the source does
        one.help = "\n\n".join(" ".join(part.split("\n")) for part in inspect.cleandoc(one.help or "").split("\n\n"))
    return command


for _name, (_, _line) in _COMMANDS.items():
    app.command(_name, help=_line)(lambda: None)


def main() -> None:
    """Run the command line and end the process."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: `>&-`
            setattr(sys, name, _nowhere())
    try:
        try:
            app(prog_name="redurable")
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from redurable.cli.output import complain
        from redurable.errors import RedurableError

        told = error if isinstance(error, RedurableError) else _told(error)
        if told is None:
            raise
        sys.exit(complain(told))


def _nowhere() -> TextIO:
    return os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def _told(error: Exception) -> Any:
    """Return what *error* says to a user whose output or words are at fault; None if it is our own fault."""
    from redurable.errors import ConfigurationError, RedurableError

    if isinstance(error, OSError) and error.errno in _CANNOT_PRINT:
        sys.stdout = _nowhere()  # Python would try again when it ends
        if error.errno == errno.EPIPE:
            sys.exit(1)  # `| head`: nobody is there any more
        return RedurableError(
            f"the output cannot be written: {error.strerror}",
            code="CANNOT_PRINT",
            hint="what was asked for may be done all the same; look before it is repeated",
        )
    if isinstance(error, UnicodeEncodeError) and not all(word.isprintable() for word in sys.argv):
        return ConfigurationError("the command line holds what is no UTF-8 text", hint="mind the terminal's encoding")
    return None
