"""The plugin's fixtures, used as tests use them; this module's handlers are also served by processes."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redurable import Client, ConfigurationError, UsageError, lifespan, sleep, step, sync
from redurable.testing.serving import Serve, Server

alive: list[str] = []


@lifespan
async def life() -> AsyncIterator[None]:
    alive.append("up")
    yield
    alive.append("down")


@step
async def double(n: int) -> int:
    return 2 * n


async def handler(payload: int) -> int:
    first = await double(payload)
    await sleep(0.01)
    return first


async def slow(payload: int) -> int:
    first = await double(payload)
    await sleep(2.0)  # parked: another process may take it up
    return await double(first)


def test_a_handler_of_the_test_itself_is_served(redurable_worker: Serve, redurable_client: sync.Client) -> None:
    factor = 3

    async def local(payload: int) -> int:
        return factor * await double(payload)

    def plain(payload: int) -> int:
        return payload + 1

    redurable_worker(local, plain)
    assert redurable_client.call(local, 7, timeout=60) == 42
    assert redurable_client.call(plain, 7, timeout=60) == 8


def test_any_client_of_the_test_is_in_its_namespace(redurable_worker: Serve, redurable_client: sync.Client) -> None:
    redurable_worker(handler)

    async def main() -> Any:
        async with Client() as client:
            return await client.call(handler, 21, timeout=60)

    assert asyncio.run(main()) == 42
    with sync.Client() as client:
        assert [info.status for info in client.list()] == ["COMPLETED"]
    assert len(redurable_client.list()) == 1


def test_each_test_has_a_namespace_that_is_removed(redurable_server: Server) -> None:
    other = Server(redurable_server.url, f"{redurable_server.namespace}-other")
    for server in (redurable_server, other):
        with sync.Client(server.url, namespace=server.namespace) as client:
            client.send("q", 1)
    redurable_server.wipe()
    for server, left in ((redurable_server, 0), (other, 1)):
        with sync.Client(server.url, namespace=server.namespace) as client:
            assert len(client.list()) == left
    other.wipe()


def test_a_worker_in_a_thread_leaves_the_process_as_it_was(redurable_server: Server) -> None:
    before = gc.get_threshold()
    alive.clear()
    serve = Serve(redurable_server)
    worker = serve(handler)
    assert alive == ["up"]
    assert asyncio.run(double(2)) == 4, "outside of an intent a step is an ordinary call, worker or not"
    worker.stop()
    worker.stop()
    serve.close()
    assert alive == ["up", "down"]
    assert gc.get_threshold() == before


def test_processes_are_killed_and_others_carry_on(redurable_worker: Serve, redurable_client: sync.Client) -> None:
    worker = redurable_worker(f"{__name__}:slow")
    first = worker.pids()
    intent = redurable_client.send(slow, 10)
    until = time.monotonic() + 60
    while not redurable_client.history(intent) and time.monotonic() < until:
        time.sleep(0.01)
    worker.kill()
    assert redurable_client.wait_for(intent, 60) == 40
    assert worker.pids() not in ([], first)


def test_the_plugin_costs_other_projects_nothing() -> None:
    code = "import sys, redurable.testing.plugin; print({'redis', 'msgspec', 'anyio', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_does_not_start_says_why(redurable_worker: Serve) -> None:
    with pytest.raises(UsageError) as caught:
        redurable_worker(f"{__name__}:nothing")
    assert caught.value.code == "TEST_WORKER"
    assert "UNKNOWN_HANDLER" in caught.value.message
    with pytest.raises(ConfigurationError):
        redurable_worker(double)
    with pytest.raises(ConfigurationError):
        redurable_worker()
    with pytest.raises(ConfigurationError):
        redurable_worker("a:b", handler)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError) as taken:
        redurable_worker(handler, handler)
    assert taken.value.code == "QUEUE_TAKEN"
