"""
`redurable worker`, and the process that it spawns.

Everything that can be wrong with the target, the options and the server is found before any process is spawned. The
parent and its children log alike; the parent alone serves metrics and health, of what its children count in files.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redurable.cli.common import Accept, Namespace, Url
from redurable.cli.output import note
from redurable.errors import ConfigurationError, RedurableError

if TYPE_CHECKING:
    from redurable.runtime.handlers import HandlerSpec
    from redurable.worker.process import Options

__all__ = ["LogFormat", "load", "worker"]


class LogFormat(StrEnum):
    """How log lines look: console on a terminal and JSON elsewhere (auto), or always one of them."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


Target = Annotated[str, typer.Argument(metavar="TARGET", help="module:function, or module for every @handler in it.")]
Queue = Annotated[
    str | None, typer.Option("--queue", "-q", help="The queue to serve. Default: module.function, or @handler's.")
]
Concurrency = Annotated[
    int, typer.Option("--concurrency", "-c", min=1, max=10_000, help="Intents at a time in each process.")
]
Processes = Annotated[
    int, typer.Option("--processes", "-p", min=1, max=256, help="Processes; one that dies is replaced at once.")
]
MetricsPort = Annotated[
    int | None,
    typer.Option("--metrics-port", min=0, max=65_535, help="Serve /metrics and /health there (0: a free port)."),
]
Format = Annotated[LogFormat, typer.Option("--log-format", help="How log lines look.")]
Reload = Annotated[bool, typer.Option("--reload", help="Restart when a Python file changes (development).")]
Grace = Annotated[
    float,
    typer.Option("--grace", min=0.0, help="Seconds that steps in flight get at a stop; 10 s later they are killed."),
]
AppDir = Annotated[Path | None, typer.Option("--app-dir", help="Where the module is. Default: the current directory.")]
CodecOf = Annotated[
    str | None,
    typer.Option("--codec", metavar="MODULE:ATTR", help="The payload codec. Default: REDURABLE_CODEC, none."),
]
Version = Annotated[
    str | None,
    typer.Option(
        "--version", metavar="NAME", help="The deployment version of this code. Default: REDURABLE_VERSION, none."
    ),
]
Lease = Annotated[float, typer.Option("--lease", min=0.5, max=3600.0, help="Seconds of ownership without a renewal.")]
Stall = Annotated[
    float, typer.Option("--stall", min=1.0, help="Seconds without a turn of the event loop to give up after.")
]


def worker(
    target: Target,
    queue: Queue = None,
    concurrency: Concurrency = 100,
    processes: Processes = 1,
    url: Url = None,
    namespace: Namespace = None,
    metrics_port: MetricsPort = None,
    log_format: Format = LogFormat.AUTO,
    reload: Reload = False,
    grace: Grace = 30.0,
    app_dir: AppDir = None,
    codec: CodecOf = None,
    accept: Accept = None,
    version: Version = None,
    lease: Lease = 10.0,
    stall: Stall = 300.0,
) -> None:
    """
    Run handlers until stopped.

    [bold]redurable worker myapp:handler[/bold]  serves the queue myapp.handler

    [bold]redurable worker myapp[/bold]  serves every @handler of the module

    [bold]redurable worker myapp -p 4 -c 200 --metrics-port 9100[/bold]  four processes, 800 intents at a time

    Ctrl+C or SIGTERM drains: nothing more is taken, steps in flight end within --grace, the rest is handed back for
    another worker to carry on; a second Ctrl+C ends at once, and nothing is lost either.

    With --version, intents stay on the version that began them: see [bold]redurable deployments[/bold].

    It does not start on a server that would lose what it accepts, or that it cannot work on: see
    [bold]redurable doctor[/bold]. --accept overrides that for the checks it names.

    Log lines go to stderr, at the level in REDURABLE_LOG_LEVEL (info by default). Spans go where the OTEL_* variables
    of OpenTelemetry say (OTEL_EXPORTER_OTLP_ENDPOINT, ...), if one is set.
    """
    from redurable.config import version as version_of
    from redurable.telemetry import logs
    from redurable.worker.process import Options

    _check_platform(reload)
    directory = str(app_dir.resolve()) if app_dir is not None else None
    options = Options(
        target=target, queue=queue, concurrency=concurrency, processes=processes, url=url, namespace=namespace,
        metrics_port=metrics_port, log_format=log_format.value, reload=reload, grace=grace, app_dir=directory,
        codec=codec, accept=tuple(accept or ()), lease=lease, stall=stall, version=version_of(version),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        stack.callback(logs.start(log_format.value))
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # `worker.reloading` says it, with the files
        try:
            code = _run(stack, options)
        except KeyboardInterrupt:  # once it supervises, a signal is no exception any more
            note("stopped while it was starting; it had taken nothing")
            code = 130
    raise typer.Exit(code)


def _run(stack: contextlib.ExitStack, options: Options) -> int:
    from redurable.codecs.base import vault_of
    from redurable.worker.process import supervise

    handlers = load(options.target, options.queue, options.app_dir)
    vault_of(options.codec)  # what is wrong with it is said before any process is spawned
    if options.metrics_port is not None:
        _serve_metrics(stack, options.metrics_port, options, handlers)
    _announce(options, handlers)
    return supervise(options)


def load(target: str, queue: str | None, app_dir: str | None) -> list[HandlerSpec]:
    """
    Return the handlers that *target* names, their annotations resolved.

    Raises:
        ConfigurationError: UNKNOWN_MODULE, UNKNOWN_HANDLER, BAD_HANDLER; also for a module that fails to import.
    """
    from redurable.runtime.handlers import load_handlers

    module = target.partition(":")[0]
    if not module or target.endswith(":") or any(c.isspace() or c in "/\\" for c in target):
        raise ConfigurationError(
            f"{target!r} is not module:function or module", hint="for example: redurable worker myapp:handler"
        )
    try:
        handlers, _ = load_handlers(target, queue, app_dir)
        for handler in handlers:
            _ = handler.result  # resolves every annotation
    except RedurableError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"module {module!r} cannot be imported: {type(error).__name__}: {error}",
            code="BAD_HANDLER",
            hint=_place(error),
        ) from error
    return handlers


def _place(error: BaseException) -> str:
    """Return the line of the user's code that raised."""
    if isinstance(error, SyntaxError):
        return f"at {error.filename}, line {error.lineno}"
    theirs = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    last = theirs[-1] if theirs else None
    return f"at {last.filename}, line {last.lineno}: {last.line}" if last is not None else ""


def _check_platform(reload: bool) -> None:
    import importlib.util

    if sys.platform == "win32":
        raise ConfigurationError(
            "a worker does not run on Windows",
            code="UNSUPPORTED_PLATFORM",
            hint="run it on Linux, macOS or in WSL; clients work on Windows",
        )
    if reload and importlib.util.find_spec("watchfiles") is None:
        raise ConfigurationError(
            "--reload needs the package watchfiles", hint="install it: pip install 'redurable[reload]'"
        )


def _serve_metrics(stack: contextlib.ExitStack, port: int, options: Any, handlers: list[HandlerSpec]) -> None:
    from redurable.config import namespace
    from redurable.runtime.spec import steps_of
    from redurable.store.address import address_of
    from redurable.telemetry import endpoint, logs

    steps: dict[str, list[str]] = {}
    for spec in handlers:
        known = steps.setdefault(spec.queue, [])
        known += [name for name in steps_of(spec.function.__module__) if name not in known]
    given = (address_of(options.url), namespace(options.namespace), steps)
    port = stack.enter_context(endpoint.serving(port, options.lease, *given))
    logs.engine().info("metrics.serving", port=port, paths=list(endpoint.PATHS))


def _announce(options: Any, handlers: list[HandlerSpec]) -> None:
    from redurable.config import namespace
    from redurable.store.address import address_of
    from redurable.telemetry import logs

    logs.engine().info(
        "worker.starting",
        serves={handler.queue: handler.name for handler in handlers},
        url=address_of(options.url).display,
        namespace=namespace(options.namespace),
        processes=options.processes,
        version=options.version or None,
    )
