"""Journals that grow: warned of, ended in time, and replayed in parts however long they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from redurable import CodecError, ConfigurationError, Retry, compensate, current, promise, step
from redurable.config import journal_limits
from redurable.journal.fingerprint import fingerprint
from redurable.model import Arrived, Claimed, Compensating, Reason, Status, StepDone, encode_entry
from redurable.runtime.attempt import Attempt
from redurable.store.lease import Lease
from redurable.store.server import PrivateServer
from tests.runtime.world import QUEUE, World, again

pytestmark = pytest.mark.anyio
RAN: list[int] = []


@step
async def tell(n: int, size: int = 0) -> str:
    RAN.append(n)
    return "x" * size


async def many(payload: dict[str, int]) -> int:
    for n in range(payload["steps"]):
        await tell(n, payload.get("size", 0))
    return payload["steps"]


def limits(monkeypatch: pytest.MonkeyPatch, entries: int = 100_000, size: int = 64 << 20) -> None:
    monkeypatch.setenv("REDURABLE_MAX_JOURNAL_ENTRIES", str(entries))
    monkeypatch.setenv("REDURABLE_MAX_JOURNAL_BYTES", str(size))


async def test_a_fifth_of_the_limit_is_warned_of(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, entries=100)
    await w.serve(many)
    short, long = await w.send({"steps": 20}), await w.send({"steps": 30})
    assert await w.result(short) == 20
    assert await w.result(long) == 30
    (warning,) = w.seen("journal.long")
    assert (warning["intent"], warning["entries"], warning["most"]) == (long, 21, 100)
    assert (await w.get(short)).long is None
    assert ((await w.get(long)).long or "").startswith("21 entries, ")


@pytest.mark.parametrize(("entries", "size", "steps"), [(20, 64 << 20, 21), (100_000, 5000, 5)])
async def test_over_the_limit_it_fails_and_a_higher_one_lets_it_go_on(
    w: World, monkeypatch: pytest.MonkeyPatch, entries: int, size: int, steps: int
) -> None:
    RAN.clear()
    limits(monkeypatch, entries, size)
    worker = await w.serve(many)
    intent = await w.send({"steps": 30, "size": 1000 if size == 5000 else 0})
    failed = await w.failure(intent)
    assert failed.code == "JOURNAL_LIMIT"
    assert "REDURABLE_MAX_JOURNAL_ENTRIES" in failed.error.message
    assert len(RAN) == steps
    await w.client.retry(intent)
    assert (await w.failure(intent)).code == "JOURNAL_LIMIT", "nothing has changed yet"
    await w.stop(worker)
    limits(monkeypatch)
    await w.serve(many)
    await w.client.retry(intent)
    assert await w.result(intent) == 30
    assert sorted(set(RAN)) == list(range(30))
    assert len(RAN) <= 32, "what was recorded does not run again"


async def test_undo_work_is_not_held_to_the_limit(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    RAN.clear()
    limits(monkeypatch, entries=10)

    async def handler(payload: Any) -> None:
        for n in range(20):
            compensate(tell, -n)
            await asyncio.gather(tell(n), tell(100 + n))

    await w.serve(handler)
    intent = await w.send()
    assert (await w.failure(intent)).code == "JOURNAL_LIMIT"
    assert await w.entries(intent, Compensating)
    undone = [n for n in RAN if n <= 0][1:]  # the first 0 is a step's
    assert undone == sorted(undone)
    assert len(undone) >= 5


@pytest.mark.parametrize("wrong", ["0", "x", "-5", "1e9"])
def test_limits_that_are_none(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    for name in ("REDURABLE_MAX_JOURNAL_ENTRIES", "REDURABLE_MAX_JOURNAL_BYTES"):
        with monkeypatch.context() as patch:
            patch.setenv(name, wrong)
            with pytest.raises(ConfigurationError, match=name):
                journal_limits()


async def put_journal(w: World, intent: str, entries: list[bytes]) -> None:
    """Let *intent*, never claimed, be one that recorded *entries* and was handed back."""
    record = await w.client.export(intent)
    await w.client.cancel(intent)
    await w.client.delete(intent)
    journal = [{"msgpack": msgspec.json.decode(msgspec.json.encode(raw))} for raw in entries]
    head = record["head"] | {"attempt": "1", "fence": "1:w0:1", "started": record["head"]["created"]}
    assert await w.client.import_(record | {"journal": journal, "head": head})


@pytest.mark.parametrize(("length", "size"), [(50_000, 20), (300, 20_000), (3, 900_000)])
async def test_a_long_journal_is_read_in_parts(
    w: World, monkeypatch: pytest.MonkeyPatch, length: int, size: int
) -> None:
    RAN.clear()
    parts: list[int] = []
    read = Lease.read

    def spy(self: Lease, start: int, count: int) -> Any:
        parts.append(count)
        return read(self, start, count)

    monkeypatch.setattr(Lease, "read", spy)
    code = fingerprint(tell)
    value = msgspec.Raw(msgspec.msgpack.encode("x" * size))
    entries = [encode_entry(StepDone("", "tell", n + 1, 5, code, value)) for n in range(length)]
    intent = await w.send({"steps": length + 1, "size": size})
    await put_journal(w, intent, entries)
    await w.serve(many, concurrency=1)
    assert await w.client.wait_for(intent, 45) == length + 1
    assert [length] == RAN, "all but the last were recorded"
    assert parts
    assert 0 not in parts, "never all that is left at once"
    assert all(count * size <= 1.2 * (1 << 20) or count <= 16 for count in parts), parts


async def test_a_journal_that_found_no_room_in_the_answer_is_read_too(w: World) -> None:
    """A claim of many answers 4 MiB in all: what is over comes by itself."""
    RAN.clear()

    async def handler(payload: int) -> int:
        for n in range(3):
            await tell(n, 400_000)
        again()
        return current().attempt

    await w.serve(handler, concurrency=1)
    first = [await w.send(n) for n in range(8)]
    assert [await w.result(i) for i in first] == [2] * 8
    RAN.clear()

    async def late(payload: int) -> int:
        return await handler(payload)

    worker = next(iter(w._workers))
    await w.stop(worker)
    ids = [await w.send(n) for n in range(12)]
    code = fingerprint(tell)
    value = msgspec.Raw(msgspec.msgpack.encode("x" * 400_000))
    entries = [encode_entry(StepDone("", "tell", n + 1, 5, code, value)) for n in range(3)]
    for intent in ids:
        await put_journal(w, intent, entries)
    await w.serve(late, concurrency=25)
    assert [await w.result(i) for i in ids] == [2] * 12
    assert RAN == []


class TestUnreadable:
    """An entry that a later version wrote: the intent waits for one that can read it."""

    async def test_it_is_held_and_goes_on_where_it_can_be_read(self, w: World) -> None:
        RAN.clear()
        intent = await w.send({"steps": 2})
        good = encode_entry(StepDone("", "tell", 1, 5, b"", msgspec.Raw(msgspec.msgpack.encode(""))))
        await put_journal(w, intent, [good, b"\x93\x63\x01\x02"])
        await w.serve(many, retry=Retry(attempts=1))
        await w.event("intent.held")
        info = await w.until(intent, Status.WAITING)
        assert (info.reason, info.losses) == (Reason.HELD, 0)
        why = "entry 2 of the journal cannot be read: it is of kind 99, which this version does not know"
        assert info.held == f"JOURNAL_UNREADABLE: {why}"
        assert info.step == "tell#1"
        with pytest.raises(CodecError, match="later version") as refused:
            await w.journal(intent)
        assert refused.value.code == "JOURNAL_UNREADABLE"
        with pytest.raises(CodecError, match="entry 2 of the journal"):
            await w.client.fork(intent, "tell")
        assert [i.id for i in await w.client.list(queue=QUEUE)] == [intent]
        await w.store.mux.command(
            "LSET", w.store.keys[0].journal(intent), 1, encode_entry(Claimed("w", "3.11", "1", "1"))
        )
        await w.store.wake(intent)
        assert await w.result(intent) == 2
        assert RAN == [1]


MIB = 1 << 20


class TestReads:
    """No command reads more than some MiB of a journal: the server's own log of commands says so."""

    @pytest.fixture
    def logging(self) -> Iterator[PrivateServer]:
        words = ("--slowlog-log-slower-than", "0", "--slowlog-max-len", "100000")
        with PrivateServer(appendfsync=None, args=words) as server:
            yield server

    @pytest.fixture
    async def w(self, logging: PrivateServer, anyio_backend: Any) -> AsyncIterator[World]:
        world = World(logging.url, "reads")
        await world.start()
        yield world
        await world.close()

    async def reads(self, w: World, size: int) -> list[int]:
        """Return how many bytes each read of a journal asked for, at most, since this was called last."""
        log = await w.store.mux.command("SLOWLOG", "GET", -1)
        await w.store.mux.command("SLOWLOG", "RESET")
        asked = [words for _, _, _, words, *_ in log if words[0] == b"LRANGE" and b":j:" in words[1]]
        assert all(int(stop) >= 0 or int(start) < 0 for _, _, start, stop in asked), "to the end, however far that is"
        return [(int(stop) - int(start) + 1) * size for _, _, start, stop in asked]

    async def test_by_operators(self, w: World) -> None:
        code, value = fingerprint(tell), msgspec.Raw(msgspec.msgpack.encode("x" * 20_000))
        intent = await w.send({"steps": 800, "size": 20_000})
        await put_journal(w, intent, [encode_entry(StepDone("", "tell", n + 1, 5, code, value)) for n in range(800)])
        await self.reads(w, 1)
        assert len(await w.journal(intent)) == 800
        assert len((await w.client.export(intent))["journal"]) == 800
        await w.client.kill(intent)
        await w.client.retry(intent)
        reads = await self.reads(w, 20_000)
        assert sum(reads) > 3 * 800 * 20_000, "it was read thrice"
        assert max(reads) <= 2 * MIB

    async def test_by_a_worker_that_does_not_know_its_type(self, w: World) -> None:
        value = msgspec.Raw(msgspec.msgpack.encode("x" * 20_000))
        intent = await w.send(None, type="unknown")
        await put_journal(w, intent, [encode_entry(Arrived(f"a{n}#0", 5, Status.COMPLETED, value)) for n in range(800)])
        assert await w.client.cancel(intent) == "REQUESTED"
        await self.reads(w, 1)
        await w.serve(many, type="known")
        assert (await w.failure(intent)).status == "CANCELED"
        reads = await self.reads(w, 20_000)
        assert sum(reads) >= 800 * 20_000, "all of it was looked at"
        assert max(reads) <= 2 * MIB

    async def test_by_an_attempt_that_hears_of_much_at_once(self, w: World, monkeypatch: pytest.MonkeyPatch) -> None:
        in_step, go_on = asyncio.Event(), asyncio.Event()

        @step
        async def linger() -> None:
            in_step.set()
            await go_on.wait()

        async def main(payload: None) -> int:
            await linger()
            return len(await promise("a899", str))

        monkeypatch.setattr(Attempt, "hint", lambda self: None)
        intent = await w.send()
        await w.serve(main)
        await in_step.wait()
        await asyncio.gather(*(w.client.resolve(intent, f"a{n}", "x" * 20_000) for n in range(900)))
        await self.reads(w, 1)
        go_on.set()
        assert await w.result(intent) == 20_000
        reads = await self.reads(w, 20_000)
        assert sum(reads) >= 900 * 20_000
        assert max(reads) <= 2 * MIB
