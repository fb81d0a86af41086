"""
Log lines: what the engine tells (`redurable.events`) and what user code says inside handlers.

Invariants: a line of user code logged in a handler names its intent, attempt and step, and is dropped while the
handler is being brought back to where it was, since it was written then; the engine's own lines never are. Nothing is
configured by importing this: only `start`, which the command line calls, touches the root logger. Payloads, results
and passwords are not part of any event, so they are in no line; tracebacks show code, never the values of variables.

In a program of your own: put `IntentFilter()` on a handler of `logging`, or `add_intent` among structlog's processors.
"""

from __future__ import annotations

import logging
import re
import signal
import sys
import warnings
from collections.abc import Callable, MutableMapping
from typing import IO, Any, Literal

import structlog

from redurable import events, spans
from redurable.clock import monotonic
from redurable.config import log_level
from redurable.errors import ConfigurationError, JournalMismatchError, RedurableError
from redurable.journal.cursor import INSIDE
from redurable.runtime.scope import Scope, scope_var

__all__ = ["LEVELS", "IntentFilter", "add_intent", "engine", "level_of", "replaying", "start"]

Format = Literal["auto", "console", "json"]
_REPEATING = frozenset({"store.unreachable", "store.disconnected", "renewal.failed", "loop.failed", "store.held"})
_EVERY = 5.0  # s between two lines of the same
_told_at: dict[str, float] = {}
_ENGINE = "redurable"
_DEBUG, _INFO, _WARNING = logging.DEBUG, logging.INFO, logging.WARNING
_ERROR, _CRITICAL = logging.ERROR, logging.CRITICAL

# Every event and its level. Those at the rate of the work are DEBUG, and not even subscribed to above that level.
LEVELS: dict[str, int] = {
    "approval.escalated": _WARNING,
    "approval.reminded": _INFO,
    "attempt.ended": _DEBUG,
    "attempt.fenced": _WARNING,
    "attempt.started": _DEBUG,
    "attempt.store_error": _WARNING,
    "compensation.failed": _ERROR,
    "compensation.timed_out": _ERROR,
    "entries.returned": _INFO,
    "handler.abandoned": _WARNING,
    "handler.failed": _WARNING,  # ERROR when nothing follows
    "handler.foreign_wait": _WARNING,
    "intent.continued": _DEBUG,
    "intent.ended": _INFO,
    "intent.held": _WARNING,
    "intent.unknown_type": _WARNING,
    "intents.mended": _WARNING,
    "intents.removed": _DEBUG,
    "journal.long": _WARNING,
    "lease.overdue": _WARNING,
    "leases.renewed": _DEBUG,
    "loop.blocked": _WARNING,
    "loop.failed": _ERROR,
    "process.ended": _DEBUG,
    "process.started": _DEBUG,
    "queues.turned": _INFO,
    "recovery.failed": _WARNING,
    "renewal.failed": _WARNING,
    "server.doubtful": _WARNING,
    "promise.refused": _WARNING,
    "schedule.failed": _WARNING,
    "schedule.fired": _DEBUG,  # WARNING when ticks were missed
    "step.code_changed": _WARNING,
    "step.failed": _WARNING,  # ERROR when nothing follows
    "step.started": _DEBUG,
    "store.connected": _INFO,  # DEBUG at the first connect
    "store.disconnected": _WARNING,
    "store.held": _WARNING,
    "store.unreachable": _WARNING,
    "streams.reopened": _WARNING,
    "task.failed": _ERROR,
    "timer.failed": _WARNING,
    "timers.fired": _DEBUG,
    "worker.draining": _INFO,
    "worker.lost": _WARNING,
    "worker.orphaned": _WARNING,
    "worker.reloading": _INFO,
    "worker.stalled": _CRITICAL,
    "worker.started": _INFO,
    "worker.stopped": _INFO,
    "worker.stopping": _DEBUG,
}


def level_of(name: str, fields: MutableMapping[str, Any]) -> int:
    """Return the level of one event; what is tried again is a warning, what is not an error."""
    if name in ("step.failed", "handler.failed") and fields.get("retry_in") is None:
        return _ERROR
    if name == "store.connected" and fields.get("connects") == 1:
        return _DEBUG
    if name == "schedule.fired" and fields.get("missed"):
        return _WARNING
    return LEVELS.get(name, _INFO)


# --- lines of user code -----------------------------------------------------------------------------------------------


def replaying(scope: Scope) -> bool:
    """Return whether code of *scope* runs again that ran before this attempt; a step's body never does."""
    return not scope.inside and scope.attempt.conductor.cursor.replaying


def _context(scope: Scope | None) -> dict[str, Any]:
    """Return what lines said here bear: of the intent in a handler or step, of the trace if there is one."""
    found = {} if spans.observer is None else dict[str, Any](spans.observer.ids())
    if scope is None:
        return found
    found |= {"intent": scope.attempt.lease.id, "attempt": scope.attempt.lease.attempt}
    if scope.step is not None:
        found["step"] = "/".join(filter(None, (scope.path, f"{scope.step[0]}#{scope.step[1]}")))
    elif INSIDE in scope.path:  # a branch that a step's body has started
        found["step"] = scope.path.rpartition(INSIDE)[0]
    return found


def _is_engine(name: str) -> bool:
    return name == _ENGINE or name.startswith(_ENGINE + ".")


def add_intent(logger: Any, _: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor of structlog: add intent, attempt, step, trace_id, span_id; drop what a replay says again."""
    scope = scope_var.get()
    if scope is not None:
        record = event.get("_record")
        name = record.name if record is not None else getattr(logger, "name", None) or ""
        if not _is_engine(name) and replaying(scope):
            raise structlog.DropEvent
    for key, value in _context(scope).items():
        event.setdefault(key, value)
    return event


class IntentFilter(logging.Filter):
    """
    Filter of `logging`, for a handler: drop what a replay says again, complete the rest.

    Each record gets `intent`, `attempt`, `step`, `trace_id` and `span_id`, "" where there is none.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is to be logged, and complete it."""
        scope = scope_var.get()
        found = _context(scope)
        for key in ("intent", "attempt", "step", "trace_id", "span_id"):
            if not hasattr(record, key):
                setattr(record, key, found.get(key, ""))
        return scope is None or _is_engine(record.name) or not replaying(scope)


# --- the engine's lines -----------------------------------------------------------------------------------------------


def _told(name: str, fields: dict[str, Any]) -> None:
    """Subscriber of events: one event, one line."""
    level = level_of(name, fields)
    logger = logging.getLogger(_ENGINE)
    if not logger.isEnabledFor(level) or _repeated(name):
        return
    line: dict[str, Any] = {}
    for key, value in _for_operators(name, fields).items():
        if isinstance(value, BaseException):
            line[key] = _in_words(value)
            if level >= _ERROR and not isinstance(value, RedurableError):
                line["exc_info"] = value  # where the fault is; our own errors say so in words
        elif value is not None:
            line[key] = round(value, 3) if isinstance(value, float) else value
    if "step" in line and "n" in line:
        line["step"] = f"{line['step']}#{line.pop('n')}"
    engine().log(level, name, **line)


# what scripts answer, in the words of somebody who has never read one
_TAKEN = {"OK": "recovered", "SUSPECT": "to_run_alone", "FAILED": "failed_for_good"}
_OVERDUE = {
    "OK": "recovered", "SUSPECT": "to be run alone", "FAILED": "failed for good", "ALIVE": "its owner lives after all",
    "GONE": "another process was faster", "STALE": "the intent had moved on",
}  # fmt: skip
_FENCED = {
    "FENCED": "another worker owns it now", "LOST": "its lease was taken away", "NOT_FOUND": "it was removed",
    "WRONG_STATE": "it is not in progress any more", "REGRESSED": "the server has lost the end of its journal",
}  # fmt: skip


def _for_operators(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Say in words what the engine says in codes."""
    if name == "worker.lost":
        counts = {_TAKEN[word]: n for word, n in fields["taken"].items() if word in _TAKEN}
        told = {key: value for key, value in fields.items() if key not in ("taken", "code")}
        return told | {"died": _death(fields.get("code"))} | {"recovered": 0} | counts
    told, word = {key: value for key, value in fields.items() if key != "word"}, fields.get("word", "")
    if name == "lease.overdue":
        told["result"] = _OVERDUE.get(word, word)
    elif name == "attempt.fenced":
        told["reason"] = _FENCED.get(word, word)
    return told


def _death(code: int | None) -> str | None:
    if code is None:
        return None
    known = {-s.value: f"killed by {s.name}" for s in signal.Signals}
    return known.get(code, f"exit code {code}")


def _repeated(name: str) -> bool:
    """Whether *name* is one that comes many times a second while the server is away, and was just told."""
    if name not in _REPEATING:
        return False
    now = monotonic()
    if now - _told_at.get(name, float("-inf")) < _EVERY:
        return True
    _told_at[name] = now
    return False


def _in_words(error: BaseException) -> str:
    if isinstance(error, RedurableError | JournalMismatchError):
        return f"{error.message} [{error.code}]"
    return f"{type(error).__name__}: {error}"


def engine() -> Any:
    """Return the logger of the engine's own lines."""
    return structlog.wrap_logger(
        logging.getLogger(_ENGINE),
        processors=[
            structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )  # fmt: skip


def _shared() -> list[Any]:
    return [add_intent, structlog.processors.TimeStamper(fmt="iso", utc=True)]


_FORGOTTEN = re.compile(r"coroutine '(.+)' was never awaited")


def _warned(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """What Python's warnings say is a line too; above all that a step's `await` was forgotten, so it did not run."""
    place = f"{filename}:{lineno}"
    forgotten = _FORGOTTEN.match(str(message))
    if forgotten is None:
        logging.getLogger("py.warnings").warning("%s: %s: %s", place, category.__name__, message)
        return
    name = forgotten[1].rpartition(".")[2]
    engine().warning("coroutine.not_awaited", name=forgotten[1], at=place, hint=f"it did not run: await {name}(...)")


# --- the command line's set-up ----------------------------------------------------------------------------------------


def start(format: str = "auto", *, level: str | None = None, stream: IO[str] | None = None) -> Callable[[], None]:
    """
    Log to *stream* (stderr): lines of the engine, of `logging` and of structlog alike; return a function that ends it.

    Args:
        format: "console", "json", or "auto": console on a terminal.
        level: From this level on; REDURABLE_LOG_LEVEL by default, else info.

    Raises:
        ConfigurationError: There is no such format or level.
    """
    least = logging.getLevelNamesMapping()[log_level(level)]
    target = stream or sys.stderr
    if format not in ("auto", "console", "json"):
        raise ConfigurationError(f"--log-format is auto, console or json, not {format!r}")
    terminal = target.isatty()
    handler = logging.StreamHandler(target)
    handler.addFilter(IntentFilter())
    handler.setFormatter(_formatter(format == "console" or (format == "auto" and terminal), terminal))
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    showing, warnings.showwarning = warnings.showwarning, _warned
    root.handlers[:] = [handler]
    root.setLevel(least)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level, structlog.contextvars.merge_contextvars,
            structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name,
            structlog.stdlib.PositionalArgumentsFormatter(), *_shared(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )  # fmt: skip
    unsubscribe = events.subscribe(_told, [name for name, given in LEVELS.items() if max(given, _floor(name)) >= least])

    def end() -> None:
        unsubscribe()
        warnings.showwarning = showing
        structlog.reset_defaults()
        root.setLevel(before[0])
        root.handlers[:] = before[1]

    return end


def _floor(name: str) -> int:
    """Return the highest level that *name* may have."""
    return _ERROR if name in ("step.failed", "handler.failed") else 0


def _formatter(console: bool, colours: bool) -> logging.Formatter:
    last: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if console:
        plain = structlog.dev.plain_traceback  # rich's would show the values of variables
        last += [_short_time, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    else:
        last += [structlog.processors.format_exc_info, _in_order, structlog.processors.JSONRenderer()]
    foreign = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, *_shared()]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=foreign, processors=last)


def _in_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What every line has comes first."""
    first = [key for key in ("timestamp", "level", "logger", "event", "intent", "attempt", "step") if key in event]
    return {key: event[key] for key in (*first, *(key for key in event if key not in first))}


def _short_time(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """On a terminal the time of day, in local time, is enough."""
    from datetime import datetime

    stamp = event.get("timestamp")
    if isinstance(stamp, str):
        event["timestamp"] = datetime.fromisoformat(stamp).astimezone().strftime("%H:%M:%S.%f")[:-3]
    return event
