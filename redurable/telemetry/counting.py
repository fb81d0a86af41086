"""
From events to cells: what a worker process counts, and what its parent does.

Rare things are counted as they are told. Attempts, steps and round trips are gathered (`redurable.events`) and taken
into the cells every `_SOON` seconds, which costs a busy worker 3 % of its CPU a step and nothing that can be told from
the noise an intent (`redurable bench --only metrics`: paired drains); a process that is killed has not counted what
happened in the last of them.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redurable import events
from redurable.errors import JournalMismatchError
from redurable.model import Status
from redurable.tasks import later
from redurable.telemetry import catalogue as c
from redurable.telemetry.tally import MOST, Tally

__all__ = ["DIRECTORY", "OUTCOMES", "TAKEN", "count", "count_parent"]

DIRECTORY = "REDURABLE_METRICS"  # where processes count; set by the parent
_SOON = 0.02  # s; what a process that is killed may not have counted yet
OUTCOMES = tuple(s.value for s in Status if s.final)
TAKEN = {"OK": "resumed", "SUSPECT": "suspect", "FAILED": "failed"}
_Fields = dict[str, Any]


def count(worker: str) -> None:
    """Count what happens in this worker process from now on, as *worker*; its parent has made the place for it."""
    tally = Tally(Path(os.environ[DIRECTORY]), worker, c.PROCESS)
    _subscribe(tally, _OF_WORKERS)
    _Gathering(tally)


def count_parent(tally: Tally) -> Callable[[], None]:
    """Count what happens in the parent into *tally* from now on; return a function that ends it."""
    return _subscribe(tally, _OF_PARENTS)


# --- events -----------------------------------------------------------------------------------------------------------


def _recovered(tally: Tally, by: str, words: dict[str, int], seconds: float) -> None:
    for word, n in words.items():
        if word in TAKEN:
            tally.add(c.RECOVERIES, (by, TAKEN[word]), n)
            tally.observe(c.RECOVERY_SECONDS, seconds, (by,), n)


def _handler_failed(tally: Tally, f: _Fields) -> None:
    tally.add(c.HANDLER_FAILURES, (f["queue"], _retried(f)))


def _intent_held(tally: Tally, f: _Fields) -> None:
    if isinstance(f["error"], JournalMismatchError):
        tally.add(c.MISMATCHES, (f["queue"],))


def _retried(f: _Fields) -> str:
    return "no" if f["retry_in"] is None else "yes"


def _timers_fired(tally: Tally, f: _Fields) -> None:
    tally.extend(c.TIMER_LATE, list(f["late"]))


def _schedule_fired(tally: Tally, f: _Fields) -> None:
    if f["word"] != "PASSED":
        tally.add(c.TICKS, (f["schedule"], "skipped" if f["word"] == "SKIPPED" else "fired"))
        tally.observe(c.TICK_LATE, f["late"])
    if f["missed"]:
        tally.add(c.TICKS, (f["schedule"], "missed"), f["missed"])


def _renewed(tally: Tally, f: _Fields) -> None:
    tally.add(c.RENEWALS, ("ok",))
    tally.set(c.RENEWED, time.time())
    tally.set(c.FAILING, 0)


def _not_renewed(tally: Tally, f: _Fields) -> None:
    tally.add(c.RENEWALS, ("failed",))
    tally.set(c.FAILING, 1)


def _started(tally: Tally, f: _Fields) -> None:
    tally.set(c.CAPACITY, f["concurrency"])
    tally.set(c.STARTED, time.time())
    tally.set(c.SERVING, 1)


def _draining(tally: Tally, f: _Fields) -> None:
    tally.set(c.DRAINING, 1)
    tally.set(c.SERVING, 0)


def _process_ended(tally: Tally, f: _Fields) -> None:
    tally.add(c.PROCESSES, (), -1)
    if not f["told"]:
        tally.add(c.DIED)


_Counted = dict[str, Callable[[Tally, _Fields], None]]
_BOTH: _Counted = {
    "intent.ended": lambda t, f: t.add(c.INTENTS, (f["queue"], f["outcome"])),
    "worker.lost": lambda t, f: _recovered(t, f["by"], f["taken"], f["ms"] / 1000),
}
_OF_WORKERS: _Counted = _BOTH | {
    "attempt.fenced": lambda t, f: t.add(c.FENCED, (f["word"].partition(":")[0],)),
    "handler.failed": _handler_failed,
    "intent.held": _intent_held,
    "intent.unknown_type": lambda t, f: t.add(c.UNKNOWN, (f["queue"], f["type"])),
    "intents.mended": lambda t, f: t.add(c.MENDED, (), f["count"]),
    "intents.removed": lambda t, f: t.add(c.REMOVED, (), f["count"]),
    "lease.overdue": lambda t, f: _recovered(t, "lease", {f["word"]: 1}, f["seconds"]),
    "leases.renewed": _renewed,
    "loop.blocked": lambda t, f: t.add(c.BLOCKED),
    "loop.failed": lambda t, f: t.add(c.LOOPS, (f["loop"],)),
    "renewal.failed": _not_renewed,
    "schedule.fired": _schedule_fired,
    "step.code_changed": lambda t, f: t.add(c.CHANGED, (f["queue"], f["step"])),
    "step.failed": lambda t, f: t.add(c.STEP_FAILURES, (f["queue"], f["step"], _retried(f))),
    "store.disconnected": lambda t, f: t.add(c.DISCONNECTS),
    "store.held": lambda t, f: t.add(c.HELD, (f["reason"],)),
    "timers.fired": _timers_fired,
    "worker.draining": _draining,
    "worker.started": _started,
}
_OF_PARENTS: _Counted = _BOTH | {
    "process.ended": _process_ended,
    "process.started": lambda t, f: t.add(c.PROCESSES),
}


def _subscribe(tally: Tally, counted: _Counted) -> Callable[[], None]:
    """Add to *tally* what each of these events counts for, from now on; return a function that ends it."""
    return events.subscribe(lambda name, fields: counted[name](tally, fields), counted)


class _Gathering:
    """Takes what is gathered into *tally*, from the worker's loop, every `_SOON` seconds while there is something."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._steps = events.gather("step.seconds")
        self._attempts = events.gather("attempt.seconds")
        self._trips = events.gather("store.seconds")
        self._timer: asyncio.TimerHandle | None = None
        events.subscribe(self._begin, ["worker.started"])
        events.subscribe(self._end, ["worker.stopped"])

    def _begin(self, _: str, fields: _Fields) -> None:
        self._look(asyncio.get_running_loop())

    def _end(self, _: str, fields: _Fields) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.take()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = later(loop, _SOON if self.take() else _SOON * 5, self._look, loop)

    def take(self) -> bool:
        """Count what is there; whether there was anything."""
        found = False
        for queue, steps in list(self._steps.items()):
            for step, values in _taken(steps):
                found = True
                self._tally.extend(c.STEP_SECONDS, values, (queue, step))
        for queue, attempts in list(self._attempts.items()):
            for ended, values in _taken(attempts):
                found = True
                self._attempt(queue, ended, values)
        for _, values in [taken for trips in self._trips.values() for taken in _taken(trips)]:
            self._tally.extend(c.ROUND_TRIP, values)
        return found

    def _attempt(self, queue: str, ended: str, ages: list[float]) -> None:
        tally, n = self._tally, len(ages)
        if ended == "started":
            tally.add(c.IN_FLIGHT, (queue,), n)
            return
        tally.add(c.IN_FLIGHT, (queue,), -n)
        tally.add(c.ATTEMPTS, (queue, ended), n)
        if ended in OUTCOMES:
            tally.add(c.INTENTS, (queue, ended), n)
            tally.extend(c.INTENT_SECONDS, ages, (queue,))


def _taken(numbers: events.Numbers) -> Iterator[tuple[str, list[float]]]:
    """Give each list that has something, emptied; threads may go on appending."""
    for name, values in list(numbers.items()):
        if n := len(values):
            taken = values[:n]
            del values[:n]
            yield name, taken
    if len(numbers) > MOST:
        numbers.clear()  # names made up at run time; they are counted as one
