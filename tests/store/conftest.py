"""Servers and worlds for the tests of the store: each test runs on Redis and on Valkey, as far as they are here."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from redurable.config import parse_url
from redurable.store.binary import installed
from redurable.store.server import PrivateServer
from redurable.store.store import Store
from tests.store.world import World
from tests.support.invariants import check_all

_counter = itertools.count(1)


def plain(server: PrivateServer, **options: Any) -> redis.Redis:
    """Return a client of redis-py beside the code under test."""
    return redis.Redis(unix_socket_path=server.socket, protocol=2, **options)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", params=["redis", "valkey"])
def binary(request: pytest.FixtureRequest) -> str:
    """The path of each server program of this machine in turn."""
    for found in installed():
        if found.name == request.param:
            return found.path
    pytest.skip(f"no {request.param}-server on this machine")


@pytest.fixture(scope="session")
def real(binary: str) -> Iterator[PrivateServer]:
    """A server that tests share and leave as they found it."""
    with PrivateServer(port=0, appendfsync="no", binary=binary) as server:
        yield server


@pytest.fixture
def space(real: PrivateServer) -> Iterator[str]:
    """A namespace of the test's own, removed afterwards."""
    name = f"t{next(_counter)}"
    yield name
    with plain(real) as client:
        for key in client.scan_iter(f"{name}:*", count=1000):
            client.delete(key)


@pytest.fixture
async def world(real: PrivateServer, space: str) -> AsyncIterator[World]:
    """A world on a store of its own; what it left behind is checked for orphans."""
    store = Store(parse_url(real.url), space, patience=5)
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
