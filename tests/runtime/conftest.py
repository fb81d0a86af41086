"""Worlds for the tests of the runtime: each test runs on asyncio's loop and on uvloop's."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redurable.runtime.loops import new_event_loop
from tests.runtime.world import World


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": functools.partial(new_event_loop, request.param)}


@pytest.fixture
async def w(redis_url: str, namespace: str, anyio_backend: Any) -> AsyncIterator[World]:
    """A namespace of the test's own."""
    async with World(redis_url, namespace) as world:
        yield world
