"""
What the conformance tests share: one server and two worker processes for all of them, and a client a test.

A test keeps out of the others' way by its own intents and session keys. Who ill-treats processes or the server takes
`lone` instead, which has a server, a namespace and workers of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from redurable.client import Client
from redurable.errors import IntentFailed
from redurable.model import Entry, IntentInfo, Status
from redurable.store.server import PrivateServer
from tests.support.fleet import Fleet, Line, until

APP = "tests.conformance.app"
PATIENCE = 60.0  # s; what is waited for takes milliseconds


class Site:
    """A fleet that serves `tests.conformance.app`, and a client."""

    def __init__(self, fleet: Fleet, client: Client) -> None:
        self.fleet = fleet
        self.client = client

    async def send(self, to: str, payload: Any = None, **options: Any) -> str:
        return await self.client.send(f"cf.{to}", payload, **options)

    async def result(self, intent: str) -> Any:
        return await self.client.wait_for(intent, PATIENCE)

    async def call(self, to: str, payload: Any = None, **options: Any) -> Any:
        return await self.result(await self.send(to, payload, **options))

    async def failure(self, intent: str) -> IntentFailed:
        """Return how the intent ended, which has no result."""
        try:
            value = await self.result(intent)
        except IntentFailed as error:
            return error
        raise AssertionError(f"the intent completed with {value!r}")

    async def until(self, intent: str, status: Status = Status.WAITING) -> IntentInfo:
        """Return once the intent has *status*."""

        async def look() -> IntentInfo | None:
            info = await self.client.get(intent)
            return info if info.status is status else None

        return await until(look, PATIENCE)

    async def asked(self, intent: str, key: str) -> None:
        """Return once the handler waits for the promise *key* (name#index)."""
        store = await self.client._store()

        async def look() -> bool:
            state = await store.mux.command("HGET", store.keys_of(intent).arrivals(intent), key)
            return bool(state) and state[:1] == b"?"

        await until(look, PATIENCE)

    async def line(self, intent: str, name: str, count: int = 1) -> Line:
        """Return the *count*-th ledger line *name* of the intent, waiting for it."""
        return await self.fleet.line(intent, name, count, PATIENCE)

    def lines(self, intent: str | None = None) -> list[str]:
        """Return the names of the bodies that began."""
        return [line.step for line in self.fleet.ledger(intent)]

    async def journal(self, intent: str, kind: type[Any] | None = None) -> list[Any]:
        """Return the journal, or the entries of one kind."""
        found: list[Entry] = [entry for _, entry in await self.client.history(intent)]
        return [entry for entry in found if kind is None or isinstance(entry, kind)]

    async def children(self, parent: str) -> list[IntentInfo]:
        """Return what is known of those that *parent* has called."""
        return [await self.client.get(entry.child) for entry in await self.journal(parent) if hasattr(entry, "child")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def workers() -> Iterator[Fleet]:
    """Two worker processes on a server of their own, for tests that leave both as they are."""
    with PrivateServer(appendfsync="no") as server:
        fleet = Fleet(server, "cf")
        try:
            asyncio.run(_started(fleet))
            yield fleet
        finally:
            asyncio.run(fleet.__aexit__())


async def _started(fleet: Fleet) -> None:
    await fleet.start(2, target=APP)


@pytest.fixture
async def s(workers: Fleet) -> AsyncIterator[Site]:
    """The shared fleet, and a client of the test's own."""
    async with Client(workers.url, namespace=workers.namespace) as client:
        yield Site(workers, client)


@pytest.fixture
async def lone() -> AsyncIterator[Site]:
    """A fleet of the test's own whose processes, and whose server, it may stop and kill."""
    with PrivateServer() as server:
        async with Fleet(server) as fleet, Client(server.url, namespace=fleet.namespace, patience=60) as client:
            await fleet.start(2, target=APP)
            yield Site(fleet, client)
