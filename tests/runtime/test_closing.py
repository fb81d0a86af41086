"""A client that is closed, and one whose rights change, while somebody waits: nobody waits for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
import redis

from redurable import Client, ConfigurationError, IntentFailed, NotFound, StoreUnavailable
from redurable.store.private import PrivateServer

pytestmark = pytest.mark.anyio
Wait = Callable[[Client, str], Awaitable[Any]]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    with PrivateServer(appendfsync="no") as server:
        yield server


async def _observed(client: Client, intent: str) -> None:
    async for _ in client.observe(intent):
        pass


async def _heard(client: Client) -> None:
    async with asyncio.timeout(30):
        while client._connected is None or not client._connected.results._heard:
            await asyncio.sleep(0.01)


WAITS: dict[str, Wait] = {
    "wait_for": lambda client, intent: client.wait_for(intent),
    "call": lambda client, _: client.call("nobody"),
    "observe": _observed,
}


@pytest.mark.parametrize("kind", WAITS)
async def test_closing_a_client_ends_the_waits_at_once(server: PrivateServer, kind: str) -> None:
    async with Client(server.url) as other:
        client = Client(server.url)
        intent = await other.send("nobody")
        wait = asyncio.ensure_future(WAITS[kind](client, intent))
        await _heard(client)
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(wait, 8)  # less than the safety net's ten seconds


async def test_who_may_not_listen_any_more_is_told_and_who_may_again_hears(server: PrivateServer) -> None:
    admin: Any = redis.Redis(unix_socket_path=server.socket, protocol=2)
    admin.execute_command("ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all")
    url = f"unix://ann:pw@{server.socket}"
    async with Client(url) as client, Client(server.url) as other:
        intent = await client.send("nobody")
        wait = asyncio.ensure_future(client.wait_for(intent))
        await _heard(client)
        admin.execute_command("ACL", "SETUSER", "ann", "-subscribe")
        admin.client_kill_filter(_type="pubsub")
        async with asyncio.timeout(30):
            with pytest.raises(StoreUnavailable):
                while True:  # until the connection is made anew
                    with contextlib.suppress(TimeoutError):
                        await client.wait_for(intent, timeout=0.05)
        for _ in range(5):
            with pytest.raises(StoreUnavailable) as told:
                await client.call("nobody", timeout=1)
            assert told.value.code == "AUTH_FAILED"
        assert [c["user"] for c in admin.client_list()].count("ann") <= 3
        admin.execute_command("ACL", "SETUSER", "ann", "+subscribe")
        with pytest.raises(TimeoutError):
            await client.wait_for(await other.send("nobody"), timeout=0.05)
        await other.kill(intent)
        with pytest.raises(IntentFailed):  # who waited all the time is told by a message again, or looks
            await asyncio.wait_for(wait, 30)


async def test_a_client_is_closed_where_it_is_not_open(server: PrivateServer) -> None:
    client = Client(server.url)
    intent = await client.send("nobody")

    def elsewhere() -> None:
        for _ in range(2):
            asyncio.run(client.close())

    await asyncio.to_thread(elsewhere)
    assert (await client.get(intent)).id == intent  # left alone
    used = Client(server.url)
    await asyncio.to_thread(lambda: asyncio.run(cast(Any, used.get(intent))))
    await used.close()  # its loop is no more
    assert (await used.get(intent)).id == intent
    await used.close()
    await client.close()


async def test_a_child_that_closes_what_it_was_forked_with_leaves_its_parent_the_connection(
    server: PrivateServer,
) -> None:
    async with Client(server.url) as client:
        intent = await client.send("nobody")
        if (child := os.fork()) == 0:
            done: list[bool] = []
            try:
                closing = threading.Thread(target=lambda: done.append(asyncio.run(client.close()) is None))
                closing.start()
                closing.join()
            finally:
                os._exit(0 if done == [True] else 1)
        assert os.waitpid(child, 0)[1] == 0
        async with asyncio.timeout(30):
            for _ in range(20):
                assert (await client.get(intent)).id == intent
        assert client._connected is not None
        assert client._connected.store.mux.connects == 1


async def test_a_client_that_cannot_open_leaves_no_connection(server: PrivateServer) -> None:
    """However often it is asked: a program that goes on trying would take all that the server has."""
    with redis.Redis(unix_socket_path=server.socket) as plain:
        plain.hset("later:meta", mapping={"format": 99, "partitions": 1})
        before = len(plain.client_list())
        client = Client(server.url, namespace="later")
        for _ in range(5):
            with pytest.raises(ConfigurationError, match="newer"):
                await client.send("nobody")
        async with asyncio.timeout(5):
            while len(plain.client_list()) > before:
                await asyncio.sleep(0.01)


async def test_a_wait_that_ends_while_it_subscribes_leaves_nothing(
    server: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Client(server.url) as sender, Client(server.url) as client:
        intent = await sender.send("nobody")
        await asyncio.wait({asyncio.ensure_future(client.wait_for(intent, 0.2))})
        assert client._connected is not None
        results = client._connected.results
        monkeypatch.setattr(results._subscriber, "subscribe", lambda channel: asyncio.sleep(60))
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await client.wait_for(intent, 0.05)
        assert not results._watched


async def test_a_wait_that_ends_early_names_its_intent_and_no_wait_gives_what_is_there(
    server: PrivateServer,
) -> None:
    async with Client(server.url) as client:
        intent = await client.send("nobody")
        for limit in (0, 0.05):
            with pytest.raises(TimeoutError, match=f"{intent} has not ended"):
                await client.wait_for(intent, limit)
        with pytest.raises(TimeoutError, match=r"has not ended after 0\.05 s"):
            await client.call("nobody", timeout=0.05)
        with pytest.raises(NotFound):
            await client.wait_for(intent[:-12] + "0" * 12, 0)
        await client.kill(intent)
        with pytest.raises(IntentFailed, match="KILLED"):
            await client.wait_for(intent, 0)
