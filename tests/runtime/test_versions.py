"""What a handler does under deployment versions: children, turns, forks, retries; who takes them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redurable import TerminalError, call, continue_as_new, current, handler, promise, run
from redurable.model import Status
from redurable.runtime.handlers import spec_of
from redurable.store import deployments
from redurable.worker.worker import Worker
from tests.runtime.world import QUEUE, World

pytestmark = pytest.mark.anyio


async def _version() -> str | None:
    return current().version


async def main(payload: dict[str, Any]) -> Any:
    began = await run("began", _version)
    said = await promise("go", str)
    if said == "fail" and not payload.get("mended"):
        raise TerminalError("as it was told")
    if said == "turn":
        continue_as_new({"turns": 1})
    child = await call("child", None) if said == "child" else None
    return [began, current().version, child]


async def child(payload: Any) -> Any:
    return current().version


handler(queue=QUEUE)(main)
handler(queue="child")(child)


async def _serve(w: World, version: str) -> Worker:
    return await w.serve_specs(spec_of(main), spec_of(child), version=version)


async def _upgraded(w: World) -> tuple[str, Worker]:
    """Return an intent that began on v1 and waits, and that worker; one of v2 is current."""
    old = await _serve(w, "v1")
    intent = await w.send({})
    await w.until(intent, Status.WAITING)
    await _serve(w, "v2")
    return intent, old


async def test_a_child_begins_on_the_current_version_of_its_queue(w: World) -> None:
    intent, _ = await _upgraded(w)
    await w.client.resolve(intent, "go", "child")
    assert await w.result(intent) == ["v1", "v1", "v2"]
    assert (await w.get(intent)).version == "v1"


async def test_the_next_turn_moves_to_the_current_version(w: World) -> None:
    intent, _ = await _upgraded(w)
    await w.client.resolve(intent, "go", "turn")
    while (await w.get(intent)).turn != 2:
        await asyncio.sleep(0.01)
    await w.client.resolve(intent, "go", "on")
    assert await w.result(intent) == ["v2", "v2", None]


async def test_a_retry_stays_and_waits_for_its_version(w: World) -> None:
    intent, old = await _upgraded(w)
    await w.client.resolve(intent, "go", "fail")
    assert (await w.failure(intent)).status == "FAILED"
    await w.stop(old)
    await w.client.retry(intent)
    rows = {d.version: d for d in await w.client.deployments.list()}
    assert (rows["v1"].intents, rows["v1"].workers, rows["v1"].why) == (1, 0, "has work and no worker")
    assert (await w.get(intent)).status is Status.SUBMITTED
    await _serve(w, "v1")
    assert (await w.failure(intent)).status == "FAILED", "it is told the same again"


async def test_a_fork_begins_on_the_current_version(w: World) -> None:
    intent, _ = await _upgraded(w)
    await w.client.resolve(intent, "go", "fail")
    await w.failure(intent)
    fork = await w.client.fork(intent, "go", payload={"mended": True})
    await w.until(fork, Status.WAITING)
    await w.client.resolve(fork, "go", "on")
    assert await w.result(fork) == ["v1", "v2", None]


async def test_what_has_no_version_is_as_it_ever_was(w: World) -> None:
    await w.serve_specs(spec_of(main), spec_of(child))
    intent = await w.send({})
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "go", "child")
    assert await w.result(intent) == [None, None, None]
    assert await w.client.deployments.list() == []
    assert await deployments.versions(w.store) == {}
    assert not await w.store.mux.command("EXISTS", w.store.keys[0].versions)
