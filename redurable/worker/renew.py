"""
The renewal thread: keeps leases and proves liveness from connections of its own.

A handler that blocks the event loop does not lose its work: this thread does not need the loop. But a loop that has
not turned for `stall` seconds ends it: renewal stops, stacks are dumped, the process exits. It also names a handler
that blocks the loop, with its stack, within a second.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import NoScriptError

from redurable.clock import monotonic
from redurable.events import emit
from redurable.store.keeper import renewal
from redurable.store.scripts import load
from redurable.tasks import background
from redurable.worker.registry import describe

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt
    from redurable.worker.worker import Worker

__all__ = ["STALLED", "Renewer"]

STALLED = 70  # exit code of a process that gave itself up
_BLOCKED = 0.6
_TICK = 0.2
_CHUNK = 25


class Renewer:
    """The thread of *worker*; its loop is *loop*."""

    def __init__(self, worker: Worker, loop: asyncio.AbstractEventLoop) -> None:
        self._worker = worker
        self._loop = loop
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="redurable-renew", daemon=True)
        self._client: redis.Redis | None = None
        self._liveness: Any = None
        self._blocked = False

    def start(self) -> None:
        """Register the process and begin; a store that is away is no reason not to."""
        try:
            self._renew()
        except redis.RedisError as error:
            self._forget(error)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; leases are not renewed any more."""
        self._stop.set()
        self._thread.join(2.0)
        self._forget(None)

    def _run(self) -> None:
        period = self._worker.settings.lease / 4
        due = monotonic() + period
        while True:
            slept = monotonic()
            if self._stop.wait(_TICK):
                return
            if monotonic() - slept > _TICK + _BLOCKED:
                self._worker.heartbeat = monotonic()  # the whole process stood still: the loop is not to blame
            self._look_at_loop()
            try:
                self._prove_life()
                if monotonic() >= due:
                    self._renew()
                    due = monotonic() + period
            except (redis.RedisError, OSError) as error:
                self._forget(error)  # the next tick tries again
                due = 0.0

    def _prove_life(self) -> None:
        """Be subscribed to the liveness channel; a lost connection is noticed here within a tick."""
        if self._liveness is not None:
            try:
                while self._liveness.get_message(timeout=0) is not None:
                    pass  # confirmations; nobody publishes here
                return
            except (redis.RedisError, OSError):
                pass
        worker = self._worker
        if self._client is None:
            self._client = worker.store.topology.blocking_client(timeout=5.0)
        # the new one is there before the old one goes: in between nobody may find us gone
        before: Any = self._liveness
        fresh: Any = self._client.pubsub()  # type: ignore[no-untyped-call]  # redis-py has no type for it
        fresh.subscribe(worker.store.keys[0].liveness(worker.id))
        if fresh.get_message(timeout=5.0) is None:
            raise redis.ConnectionError("no answer to a subscription")
        self._liveness = fresh
        if before is not None:
            before.close()

    def _renew(self) -> None:
        worker = self._worker
        if self._client is None or self._liveness is None:
            self._prove_life()
        client, keys = self._client, worker.store.keys
        assert client is not None
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hset(key.workers, worker.id, describe(worker))
        pipeline.pubsub_numsub(keys[0].liveness(worker.id))
        if pipeline.execute()[-1][0][1] < 1:
            raise redis.ConnectionError("the server does not see that we live")
        self._renew_leases(client)
        emit("leases.renewed", worker=worker.id, count=len(worker.attempts))

    def _renew_leases(self, client: redis.Redis) -> None:
        by_partition: dict[int, list[Attempt]] = {}
        for attempt in list(self._worker.attempts.values()):
            if not attempt.ended:
                by_partition.setdefault(attempt.lease.partition, []).append(attempt)
        for held in by_partition.values():
            for start in range(0, len(held), _CHUNK):
                part = held[start : start + _CHUNK]
                words = self._call(client, renewal([a.lease for a in part], self._worker.id))
                for attempt, word in zip(part, words, strict=True):
                    if word == b"LOST" and not attempt.conductor.over:
                        self._loop.call_soon_threadsafe(self._deny, attempt)

    def _call(self, client: Any, words: tuple[Any, ...]) -> Any:
        try:
            return client.execute_command(*words)
        except NoScriptError:  # its scripts were flushed
            client.script_load(load("renew").source)
            return client.execute_command(*words)

    def _deny(self, attempt: Attempt) -> None:
        background(self._worker.deny(attempt), "deny")

    def _forget(self, error: BaseException | None) -> None:
        if error is not None:
            emit("renewal.failed", worker=self._worker.id, error=error)
        client, self._client, self._liveness = self._client, None, None
        if client is not None:
            client.close()

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
            handler, intent = (attempt.spec.name, attempt.lease.id) if attempt else (None, None)
            emit("loop.blocked", worker=worker.id, seconds=round(silent, 2), stack=stack, handler=handler,
                 intent=intent)  # fmt: skip
        if silent > worker.settings.stall:
            emit("worker.stalled", worker=worker.id, seconds=round(silent, 1), stack=stack)
            faulthandler.dump_traceback(all_threads=True)
            os._exit(STALLED)
