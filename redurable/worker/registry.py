"""
What a worker process says of itself in the registry, and what it asks of the others there.

Two different functions on one queue, type and version would take turns at the same intents: the second process refuses
to start.
"""

from __future__ import annotations

import os
import platform
import socket
from typing import TYPE_CHECKING

import msgspec

from redurable.clock import now_ms
from redurable.errors import ConfigurationError
from redurable.runtime.handlers import HandlerSpec
from redurable.runtime.limit import Limit
from redurable.runtime.scheduling import declarations, plan_of
from redurable.runtime.spec import known_steps
from redurable.schedules import declare
from redurable.store.inspection import WorkerInfo, workers
from redurable.store.schedules import Plan

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["RELEASE", "by_queue", "check_queues", "declared", "describe"]

RELEASE = "0.1.0"


def by_queue(handlers: list[HandlerSpec]) -> dict[str, dict[str, HandlerSpec]]:
    """Return *handlers* by queue and type; ConfigurationError QUEUE_TAKEN, BAD_LIMIT when two disagree."""
    queues: dict[str, dict[str, HandlerSpec]] = {}
    for spec in handlers:
        types = queues.setdefault(spec.queue, {})
        if spec.type in types:
            raise ConfigurationError(
                f"queue {spec.queue!r} has two handlers{f' of type {spec.type!r}' if spec.type else ''}: "
                f"{types[spec.type].name} and {spec.name}",
                code="QUEUE_TAKEN",
                hint="give them different queues or types: @handler(type=...)",
            )
        types[spec.type] = spec
    _check_limits(handlers)
    return queues


def _check_limits(handlers: list[HandlerSpec]) -> None:
    """Two numbers for what one name shares would take turns: whoever asks last is right."""
    said: dict[str, tuple[Limit, str]] = {}
    declared = [(limit, spec.queue, f"handler {spec.name}") for spec in handlers for limit in spec.limits]
    # a step that is made in a function may be made again, with other numbers
    steps = (spec for spec in known_steps() if "<locals>" not in spec.function.__qualname__)
    declared += [(limit, "", f"step {spec.name}") for spec in steps for limit in spec.limits if limit.name]
    for limit, default, by in declared:
        name = f"{limit.name or default}{':' if limit.key is not None else ''}"
        other, other_by = said.setdefault(name, (limit, by))
        if (other.concurrency, other.rate, other.per) != (limit.concurrency, limit.rate, limit.per):
            raise ConfigurationError(
                f"limit {name.rstrip(':')!r} is one thing for {other_by} and another for {by}", code="BAD_LIMIT",
                hint="share one Limit object, or give them different names",
            )  # fmt: skip


def _types(worker: Worker) -> dict[str, str]:
    return {f"{queue}:{t}": s.name for queue, types in worker.handlers.items() for t, s in types.items()}


def describe(worker: Worker) -> bytes:
    """Return the entry of *worker*, packed; any thread may ask."""
    info = WorkerInfo(
        id=worker.id,
        queues=tuple(worker.handlers),
        host=socket.gethostname(),
        pid=os.getpid(),
        concurrency=worker.settings.concurrency,
        running=worker.running,
        started=worker.started_at,
        renewed=now_ms(),
        python=platform.python_version(),
        release=RELEASE,
        version=worker.settings.version,
        types=tuple(f"{name}={function}" for name, function in _types(worker).items()),
    )
    return msgspec.msgpack.encode(info)


async def check_queues(worker: Worker) -> None:
    """Raise ConfigurationError QUEUE_TAKEN when another function serves what *worker* would serve."""
    mine = _types(worker)
    for other in await workers(worker.store):
        if other.version != worker.settings.version:
            continue
        for served in other.types:
            name, function = served.split("=")
            if other.alive and other.id != worker.id and mine.get(name, function) != function:
                raise ConfigurationError(
                    f"queue {name.split(':')[0]!r} is served by {function} on worker {other.id}; "
                    f"this worker would serve it by {mine[name]}",
                    code="QUEUE_TAKEN",
                    hint="give one of them another --queue, or stop the other worker",
                )


class Declared:
    """
    The schedules that the handlers of *worker* declare, as *plans*: (queue, name, plan).

    They are put by who serves the queue's current version alone: once when it starts, or when its version becomes that.
    """

    def __init__(self, worker: Worker, plans: list[tuple[str, str, Plan]]) -> None:
        self._worker = worker
        self._plans = plans
        self._current: frozenset[str] = frozenset()

    async def put(self) -> None:
        """Put those of queues that have come to this worker's version; what is there as it stands stays."""
        gates = self._worker.gates
        before, self._current = self._current, frozenset(self._worker.handlers) - gates.foreign
        for queue, name, plan in self._plans:
            if queue in self._current - before:
                await declare(self._worker.store, name, plan)


async def declared(worker: Worker) -> Declared:
    """Return what the handlers of *worker* declare; ConfigurationError or SerialisationError if it cannot be."""
    plans = []
    for spec in [spec for types in worker.handlers.values() for spec in types.values()]:
        for said in declarations(spec.function):
            plan = await plan_of(
                spec, said.payload, limit=worker.limit, vault=worker.settings.vault, declared=spec.name, **said.options
            )
            plans.append((spec.queue, said.name, plan))
    return Declared(worker, plans)
