"""
A queue, workers of this very process that serve it, and the ways in which an attempt may be taken from them.

Handlers are local functions of the tests, so what their bodies did is kept in the tests' own lists. A crash is played
by `lose`: the pending entry is recovered from outside, as peers do, so that all the attempt still does is fenced.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any, Self

from redurable import Client, IntentFailed, Retry, events
from redurable.config import parse_url
from redurable.model import Entry, IntentInfo, Reason, Status
from redurable.runtime.calls import current
from redurable.runtime.handlers import HandlerSpec, handler, spec_of
from redurable.runtime.scope import mark_worker
from redurable.store.keeper import Keeper
from redurable.store.store import Store
from redurable.worker.worker import Settings, Worker

QUEUE = "q"
AT_ONCE = Retry(attempts=20, first=0, jitter=False)


class Again(Exception):
    """Raised by handlers that want to be replayed."""


def again(times: int = 1) -> None:
    """End this attempt by an error, unless it is a later one than the *times*-th."""
    if current().attempt <= times:
        raise Again


class World:
    """One namespace with a client, and workers on the running loop; to be entered, or started and closed."""

    def __init__(self, url: str, namespace: str, partitions: int = 1) -> None:
        self.url = url
        self.namespace = namespace
        self.client = Client(url, namespace=namespace)
        self.store = Store(parse_url(url), namespace, partitions=partitions)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._unsubscribe = events.subscribe(lambda name, fields: self.events.append((name, fields)))
        self._workers: dict[Worker, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self) -> None:
        self._thresholds = gc.get_threshold()  # a worker's are its own
        await self.store.start()

    async def close(self) -> None:
        try:
            for worker in list(self._workers):
                await self.stop(worker)
            failed = [f for name, f in self.events if name in ("task.failed", "loop.failed")]
            assert not failed, failed
        finally:
            self._unsubscribe()
            await self.client.close()
            await self.store.close()
            mark_worker(False)
            gc.set_threshold(*self._thresholds)

    # --- workers

    async def serve(self, function: Callable[..., Any], *, modules: tuple[Any, ...] = (), **options: Any) -> Worker:
        """Start a worker for *function*; options are those of `@handler`, attempts follow each other at once."""
        settings = {n: options.pop(n) for n in ("concurrency", "grace", "lease", "vault") if n in options}
        handler(queue=QUEUE, **{"retry": AT_ONCE, **options})(function)
        return await self.serve_specs(spec_of(function), modules=modules, **settings)

    async def serve_specs(self, *specs: HandlerSpec, modules: tuple[Any, ...] = (), **settings: Any) -> Worker:
        """Start a worker for *specs* and return when it has begun to take work."""
        worker = Worker(
            list(specs), parse_url(self.url), self.namespace, settings=Settings(**settings), modules=modules
        )
        self._workers[worker] = asyncio.create_task(worker.run())
        before = len(self.events)
        while not any(name == "worker.started" for name, _ in self.events[before:]):
            if self._workers[worker].done():
                self._workers.pop(worker).result()
            await asyncio.sleep(0.002)
        return worker

    async def stop(self, worker: Worker) -> None:
        """Drain *worker* and return when it is gone."""
        worker.stop()
        await asyncio.wait_for(self._workers.pop(worker), 60)

    async def lose(self, intent: str, *, counted: bool = False) -> str:
        """Take the intent from whoever holds it."""
        for partition in range(len(self.store.keys)):
            keeper = Keeper(self.store, partition, "outside")
            for stream in await keeper.all_streams():
                for entry in await keeper.pending(stream):
                    if await keeper._intent_at(entry) == intent:
                        return await keeper.recover(entry, counted=counted)
        return "NOBODY"

    # --- intents

    async def send(self, payload: Any = None, **options: Any) -> str:
        """Send an intent to the world's queue."""
        return await self.client.send(QUEUE, payload, **options)

    async def result(self, intent: str, of: Any = None) -> Any:
        """Wait for the intent's result."""
        return await self.client.wait_for(intent, 60, of=of)

    async def call(self, payload: Any = None, **options: Any) -> Any:
        """Send and wait for the result."""
        return await self.result(await self.send(payload, **options))

    async def failure(self, intent: str) -> IntentFailed:
        """Wait for the intent to end without a result, and return how."""
        try:
            value = await self.result(intent)
        except IntentFailed as error:
            return error
        raise AssertionError(f"the intent completed with {value!r}")

    async def get(self, intent: str) -> IntentInfo:
        """Return what is known of the intent."""
        return await self.client.get(intent)

    async def until(self, intent: str, status: Status, seconds: float = 30.0) -> IntentInfo:
        """Return once the intent has *status*."""
        async with asyncio.timeout(seconds):
            while (info := await self.get(intent)).status is not status:
                await asyncio.sleep(0.004)
        return info

    async def held(self, intent: str) -> str:
        """Return why the intent is held, once it is: with nothing lost, and no failure."""
        while (info := await self.until(intent, Status.WAITING)).reason is not Reason.HELD:
            pass
        assert (info.losses, info.error) == (0, None)
        return info.held or ""

    async def journal(self, intent: str) -> list[Entry]:
        """Return the intent's journal."""
        return [entry for _, entry in await self.client.history(intent)]

    async def entries(self, intent: str, kind: type[Any]) -> list[Any]:
        """Return the entries of one kind."""
        return [entry for entry in await self.journal(intent) if isinstance(entry, kind)]

    def seen(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of every event *name* so far."""
        return [fields for n, fields in self.events if n == name]

    async def event(self, name: str) -> dict[str, Any]:
        """Return the fields of the first event *name*, waiting for it."""
        async with asyncio.timeout(30):
            while not (found := self.seen(name)):
                await asyncio.sleep(0.004)
        return found[0]
