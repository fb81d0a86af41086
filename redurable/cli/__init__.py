"""
The command line. `main` is its entry point; each command is a function of its own module.

Invariants: a wrong input is one line on stderr, `error: what was wrong [CODE]`, and a hint, never a traceback; exit
codes are 0 done, 1 it failed, 2 it was asked for wrongly, 130 Ctrl+C. What a command needs is imported when it runs:
`redurable --help` loads no client, no server, no demo.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from redurable.cli import dev, intents, overview, send, worker
from redurable.cli.output import complain
from redurable.errors import RedurableError

__all__ = ["app", "main"]

app = typer.Typer(
    name="redurable",
    help="Durable execution on Redis: an intent survives kill -9 and carries on at the failing step.\n\n"
    "Start with [bold]redurable dev[/bold] (a server for this project), then [bold]redurable worker "
    "myapp:handler[/bold], then [bold]redurable send myapp.handler '{\"n\": 1}'[/bold].",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# name -> where it is, and its line of help: these are imported when they are called
_ELSEWHERE = {
    "demo": ("redurable.cli.demo:demo", "Watch a worker being killed in step 47 of 50, and another carrying on."),
    "doctor": ("redurable.cli.doctor:doctor", "Check the server: what would be lost, in which event, and what to do."),
    "bench": ("redurable.cli.bench:bench", "Measure this machine: steps, intents and latency beside the raw floor."),
}


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


def _register() -> None:
    app.command("worker")(worker.worker)
    app.command("worker-process", hidden=True)(worker.worker_process)
    app.command("dev")(dev.dev)
    app.command("send")(send.send)
    app.add_typer(intents.app, name="intents")
    app.command("queues")(overview.queues)
    app.command("workers")(overview.workers)
    for name, (place, text) in _ELSEWHERE.items():
        options = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, help=text, add_help_option=False, context_settings=options)(_elsewhere(name, place))


def _elsewhere(name: str, place: str) -> Callable[[typer.Context], None]:
    """Return a command that imports the real one and hands it its words."""

    def command(context: typer.Context) -> None:
        module, _, attribute = place.partition(":")
        real: Any = getattr(importlib.import_module(module), attribute)
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command(name, context_settings={"help_option_names": ["-h", "--help"]})(real)
        alone(context.args, prog_name=f"redurable {name}")

    return command


_register()


def main() -> None:
    """Run the command line and end the process."""
    try:
        app(prog_name="redurable")
    except RedurableError as error:
        sys.exit(complain(error))
    except KeyboardInterrupt:
        sys.exit(130)
