"""
The renewal thread: keeps leases and proves liveness from connections of its own.

A handler that blocks the event loop does not lose its work: this thread does not need the loop. But a loop that has
not turned for `stall` seconds ends it: renewal stops, stacks are dumped, the process exits. It also names a handler
that blocks the loop, with its stack, within a second. Invariant: it ends with the worker, not by an error.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from redurable.clock import boottime, monotonic
from redurable.errors import StoreUnavailable
from redurable.events import emit
from redurable.store.vigil import Vigil
from redurable.tasks import background
from redurable.worker.registry import describe

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt
    from redurable.worker.worker import Worker

__all__ = ["STALLED", "Renewer"]

STALLED = 70  # exit code of a process that gave itself up
_BLOCKED = 0.6
_TICK = 0.2


class Renewer:
    """The thread of *worker*; its loop is *loop*."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._loop = loop
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redurable-renew", daemon=True)
        self._vigil = Vigil(worker.store, worker.id)
        self._blocked = False

    def start(self) -> None:
        """Register the process and begin; a store that is away is no reason not to."""
        try:
            self._vigil.prove()
            self._renew()
        except StoreUnavailable as error:
            self._forget(error)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; leases are not renewed any more."""
        self._stop.set()
        self._thread.join(2.0)
        self._vigil.close()

    def _run(self) -> None:
        period = self._worker.settings.lease / 4
        due = monotonic() + period
        while True:
            slept = monotonic()
            if self._stop.wait(_TICK):
                return
            if monotonic() - slept > _TICK + _BLOCKED:
                self._worker.heartbeat = monotonic()  # the whole process stood still: the loop is not to blame
            try:
                self._look_at_loop()
                self._vigil.prove()
                if monotonic() >= due:
                    self._renew()
                    # who holds nothing has nothing to keep: it only says that it lives
                    due = monotonic() + (period * 2 if self._worker.idle() else period)
            except StoreUnavailable as error:
                self._forget(error)  # the next tick tries again
                due = 0.0
            except Exception as error:  # this thread must not end while the worker lives
                emit("loop.failed", worker=self._worker.id, loop="renew", error=error)
                self._vigil.close()
                due = 0.0

    def _renew(self) -> None:
        worker = self._worker
        self._vigil.register(describe(worker))
        by_partition: dict[int, list[Attempt]] = {}
        for attempt in list(worker.attempts.values()):
            if not attempt.ended:
                by_partition.setdefault(attempt.lease.partition, []).append(attempt)
        for held in by_partition.values():
            asked = boottime()
            words = self._vigil.renew([a.lease for a in held])
            for attempt, word in zip(held, words, strict=True):
                if word != b"LOST":
                    attempt.lease.until = asked + attempt.lease.term
                if attempt.conductor.over:
                    continue
                if word == b"LOST":
                    self._loop.call_soon_threadsafe(self._deny, attempt)
                elif word == b"NEWS":  # the hint was lost, or is on its way
                    self._loop.call_soon_threadsafe(attempt.hint)
                elif word == b"PAUSED":
                    self._loop.call_soon_threadsafe(attempt.conductor.drain)
        emit("leases.renewed", worker=worker.id, count=len(worker.attempts))

    def _deny(self, attempt: Attempt) -> None:
        background(self._worker.deny(attempt), "deny")

    def _forget(self, error: StoreUnavailable) -> None:
        emit("renewal.failed", worker=self._worker.id, error=error)
        self._vigil.close()

    def _look_at_loop(self) -> None:
        worker = self._worker
        silent = monotonic() - worker.heartbeat
        if silent < _BLOCKED:
            self._blocked = False
            return
        frame = sys._current_frames().get(worker.loop_thread)
        stack = "".join(traceback.format_stack(frame, limit=12)) if frame is not None else ""
        if not self._blocked:
            self._blocked = True
            task = asyncio.current_task(self._loop)
            attempt = next((a for a in list(worker.attempts.values()) if a.task is task), None)
            handler, intent, n = (
                (attempt.spec.name, attempt.lease.id, attempt.lease.attempt) if attempt else (None,) * 3
            )
            emit("loop.blocked", worker=worker.id, seconds=round(silent, 2), stack=stack, handler=handler,
                 intent=intent, attempt=n)  # fmt: skip
        if silent > worker.settings.stall:
            emit("worker.stalled", worker=worker.id, seconds=round(silent, 1), stack=stack)
            faulthandler.dump_traceback(all_threads=True)
            os._exit(STALLED)
