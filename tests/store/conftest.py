"""Servers and worlds for the tests of the store: each test runs on Redis and on Valkey, as far as they are here."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from redurable.store.store import Store
from tests.store.world import World
from tests.support.invariants import check_all
from tests.support.servers import Server, binaries

_counter = itertools.count(1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", params=["redis", "valkey"])
def real(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that tests share and leave as they found it."""
    found = binaries()
    if request.param not in found:
        pytest.skip(f"no {request.param}-server on this machine")
    with Server(found[request.param]) as server:
        yield server


@pytest.fixture
def space(real: Server) -> Iterator[str]:
    """A namespace of the test's own, removed afterwards."""
    name = f"t{next(_counter)}"
    yield name
    with real.client() as client:
        for key in client.scan_iter(f"{name}:*", count=1000):
            client.delete(key)


@pytest.fixture
async def world(real: Server, space: str) -> AsyncIterator[World]:
    """A world on a store of its own; what it left behind is checked for orphans."""
    store = Store(real.address, space, patience=5)
    await store.start()
    try:
        yield World(store)
        await check_all(store)
    finally:
        await store.close()


def answers(*rows: tuple[Any, ...]) -> Any:
    """Mark rows of (state, overrides, reply, state after) as cases named by their words."""
    ids = ["-".join([str(row[0]), *(f"{k}" for k in row[1]), "gives", str(row[2])]) for row in rows]
    return pytest.mark.parametrize(("state", "given", "reply", "after"), rows, ids=ids)
