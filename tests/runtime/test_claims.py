"""What a worker asks for: a lone intent's claim names the stream that gave it, however many are served."""

from __future__ import annotations

from typing import Any

import pytest

from redurable import handler
from redurable.runtime.handlers import spec_of
from redurable.store.keeper import Keeper
from tests.runtime.world import World

pytestmark = pytest.mark.anyio
QUEUES = [f"queue-{n}" for n in range(8)]


def _echo(queue: str) -> Any:
    async def echo(payload: int) -> int:
        return payload

    return spec_of(handler(queue=queue)(echo))


async def test_a_lone_intent_is_claimed_from_its_stream_alone(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[list[str]] = []
    claim = Keeper.claim

    async def seen(self: Keeper, streams: list[str], limits: list[str], *more: Any) -> Any:
        assert len(limits) == len(streams)
        leases = await claim(self, streams, limits, *more)
        if leases:
            named.append(streams)
        return leases

    monkeypatch.setattr(Keeper, "claim", seen)
    await w.serve_specs(*map(_echo, QUEUES))
    for n, queue in enumerate([*QUEUES, *QUEUES]):
        assert await w.client.call(queue, n) == n
    # the first may be met by the look at all streams that a worker begins with
    assert [len(streams) for streams in named[1:]] == [1] * (2 * len(QUEUES) - 1)


async def test_of_many_queues_the_one_that_brings_something_again_is_claimed_behind_the_read(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind: list[int] = []
    claiming = Keeper.claiming

    def seen(self: Keeper, streams: list[str], *words: Any, marks: Any = (), **more: Any) -> Any:
        answer = claiming(self, streams, *words, marks=marks, **more)
        if marks:
            answer.add_done_callback(lambda done: None if done.exception() else behind.append(len(done.result())))
            assert len(streams) <= 4
        return answer

    monkeypatch.setattr(Keeper, "claiming", seen)
    await w.serve_specs(*map(_echo, QUEUES))
    for n in range(20):
        assert await w.client.call(QUEUES[5], n) == n
    assert sum(behind) >= 10, "most of them needed no claim of their own"
    for n, queue in enumerate(QUEUES):
        assert await w.client.call(queue, n) == n
