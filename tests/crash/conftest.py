"""What the crash tests share: a server of each test's own, and a fleet on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from redurable.store.server import PrivateServer
from tests.support.fleet import Fleet


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def own_server() -> Iterator[PrivateServer]:
    """A server with its append-only file on, that the test may kill, freeze and restart."""
    with PrivateServer() as server:
        yield server


@pytest.fixture
async def fleet(own_server: PrivateServer) -> AsyncIterator[Fleet]:
    """Worker processes on `own_server`; whatever still runs afterwards is killed."""
    async with Fleet(own_server) as fleet:
        yield fleet
        if fleet.events("task.failed") or fleet.events("loop.failed"):
            print(fleet.log()[-5000:])
