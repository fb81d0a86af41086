"""Streams under kill -9: a reader has each item once or is told of a reset, and in the end what the journal has."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from redurable import Event, Progress
from redurable.model import StepDone
from redurable.runtime.streams import PACE as CHUNK
from tests.support.fleet import Fleet, until

pytestmark = [pytest.mark.anyio, pytest.mark.crash]
ITEMS = 120


class Reader:
    """Follows an intent's events from another process's view; what it has must always fit what it had."""

    def __init__(self) -> None:
        self.kept: dict[str, list[Any]] = {}
        self.emitted: list[Any] = []
        self.resets = 0
        self.ended: list[str] = []
        self.seq = 0

    def take(self, event: Event) -> None:
        assert event.seq == self.seq + 1, "no gap, no duplicate"
        self.seq = event.seq
        kept = self.kept.setdefault(event.step, [])
        if event.kind == "reset":
            assert event.offset < len(kept)
            del kept[event.offset :]
            self.resets += 1
        elif event.kind == "item":
            assert event.offset == len(kept)
            kept.append(event.value)
        elif event.kind == "end":
            assert event.offset == len(kept)
            self.ended.append(event.step)
        else:
            assert (event.kind, event.step, event.offset) == ("event", "", len(self.emitted))
            self.emitted.append(event.value)

    async def follow(self, fleet: Fleet, intent: str) -> None:
        async for event in fleet.client.stream(intent, since=self.seq):
            self.take(event)


async def test_streams_whose_workers_are_killed_in_the_middle(fleet: Fleet) -> None:
    stops = {"answer": [20, 60], "pages": [30, 70, 100]}
    await fleet.start(6, target="tests.crash.streaming")
    intent = await fleet.client.send("streamed", {"n": ITEMS, "stops": stops})
    reader = Reader()
    begun = time.monotonic()
    following = asyncio.ensure_future(reader.follow(fleet, intent))

    def has(step: str, count: int) -> bool:
        if following.done():
            following.result()
        return len(reader.kept.get(step, ())) == count

    for name, counts in stops.items():
        for count in counts:  # there its body stops until the gate is opened
            await until(lambda step=f"{name}#1", count=count: has(step, count), 60)
            pid = reader.kept[f"{name}#1"][-1]["pid"]
            (owner,) = [process for process in fleet.processes if process.pid == pid]
            owner.kill()
            fleet.open(f"{name}{count}")
    await asyncio.wait_for(following, 60)
    took = time.monotonic() - begun
    result = await fleet.client.wait_for(intent, 30)
    assert reader.kept == {"answer#1": result["answer"], "": [], "pages#1": result["pages"]}
    assert [item["n"] for item in result["answer"]] == [page["n"] for page in result["pages"]] == list(range(ITEMS))
    assert len({item["pid"] for item in result["answer"]}) == 1, "an answer is one body's"
    assert reader.resets >= 2
    assert len({page["pid"] for page in result["pages"]}) == 4, "pages go on where they were"
    assert reader.ended == ["answer#1", "pages#1"]
    assert reader.emitted == ["begun", "answered", {"read": 50}, {"read": 100}, "over"]
    # the journal, and whoever reads later, have the same
    entries = [entry for _, entry in await fleet.client.history(intent) if isinstance(entry, StepDone)]
    recorded: dict[str, list[Any]] = {"answer": [], "pages": [], "mark": []}
    for entry in entries:
        recorded[entry.name].append(msgspec.msgpack.decode(entry.value))
    assert recorded["answer"] == [result["answer"]]
    assert [page for items, _ in recorded["pages"] for page in items] == result["pages"]
    # a chunk takes 0.1 s at least, but for the last
    assert len(recorded["pages"]) <= took / CHUNK + 1, "the journal stays small"
    late = Reader()
    await late.follow(fleet, intent)
    assert (late.kept, late.seq) == (reader.kept, reader.seq)
    assert (await fleet.client.get(intent)).progress == Progress(ITEMS, ITEMS, "pages")
