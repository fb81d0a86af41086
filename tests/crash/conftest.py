"""What the crash tests share: a server of each test's own, and a fleet on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from redurable.store.server import PrivateServer
from tests.support.fleet import Fleet


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def shared_server() -> Iterator[PrivateServer]:
    """A server on TCP that tests leave as it is; soon an old one, whose workers need no grace after their start."""
    with PrivateServer(port=0) as server:
        yield server


@pytest.fixture
async def fleet(shared_server: PrivateServer, namespace: str) -> AsyncIterator[Fleet]:
    """Worker processes on `shared_server`, in a namespace of their own; what still runs afterwards is killed."""
    async with Fleet(shared_server, namespace) as fleet:
        yield fleet


@pytest.fixture
async def lone_fleet() -> AsyncIterator[Fleet]:
    """A fleet with a server of its own, its append-only file on, that the test may kill, freeze and restart."""
    with PrivateServer() as server:
        async with Fleet(server) as fleet:
            yield fleet
