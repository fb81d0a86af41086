"""What handlers and steps tell whoever watches: events and progress; observed once each, by places, whatever breaks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from redurable import (
    Client,
    ConfigurationError,
    Event,
    NotFound,
    PayloadTooLarge,
    Progress,
    Retry,
    SerialisationError,
    StoreUnavailable,
    call,
    emit,
    handler,
    progress,
    run,
    sleep,
    step,
    sync,
)
from redurable.codecs import AesGcm
from redurable.codecs.base import Vault
from redurable.config import parse_url
from redurable.model import Entry, IntentInfo, Status, StepDone
from redurable.news import Place
from redurable.runtime import telling
from redurable.runtime.handlers import spec_of
from redurable.store.keys import told_keys
from tests.runtime.world import AT_ONCE, World, again
from tests.support.proxy import Proxy

pytestmark = pytest.mark.anyio
GATES: dict[str, asyncio.Event] = {}


@pytest.fixture(autouse=True)
def gates() -> Iterator[None]:
    GATES.clear()
    yield
    GATES.clear()


def gate(name: str) -> asyncio.Event:
    return GATES.setdefault(name, asyncio.Event())


async def observed(client: Client, intent: str, since: int | str = 0) -> list[tuple[str, Entry | Event]]:
    async with asyncio.timeout(30):
        return [pair async for pair in client.observe(intent, since)]


def events(found: list[tuple[str, Entry | Event]]) -> list[tuple[str, str, int, Any]]:
    return [(e.kind, e.step, e.offset, e.value) for _, e in found if isinstance(e, Event) and e.kind != "progress"]


async def until_progress(w: World, intent: str, expected: Progress) -> None:
    async with asyncio.timeout(30):
        while (await w.get(intent)).progress != expected:
            await asyncio.sleep(0.01)


async def until_told(w: World, intent: str, number: int) -> None:
    """Return once so many events are in the store."""
    async with asyncio.timeout(30):
        marks = told_keys(w.store.keys_of(intent), intent)[1]
        while int(await w.store.mux.command("HGET", marks, "seq") or 0) < number:
            await asyncio.sleep(0.005)


@step
async def count(n: int) -> int:
    for i in range(n):
        emit(i)
        progress(i + 1, n, "counting")
    return n


async def test_entries_and_events_come_once_and_any_place_goes_on_right_behind_it(w: World) -> None:
    async def h(n: int) -> int:
        emit({"begun": n})
        await count(n)
        progress(1, 2)
        await sleep(1.2)
        emit("woken")
        progress(2, 2, "done")
        return n

    await w.serve(h)
    intent = await w.send(4)
    found = await observed(w.client, intent)
    assert events(found) == [
        ("event", "", 0, {"begun": 4}),
        *(("event", "count#1", i, i) for i in range(4)),
        ("event", "", 1, "woken"),
    ]
    entries = [what for _, what in found if not isinstance(what, Event)]
    assert entries == await w.journal(intent)
    told = [e.value for _, e in found if isinstance(e, Event) and e.kind == "progress"]
    assert told[-1] == Progress(2, 2, "done") == (await w.get(intent)).progress
    for at, (place, _) in enumerate(found):
        rest = await observed(w.client, intent, place)
        assert [w for _, w in rest if not isinstance(w, Event)] == [
            w for _, w in found[at + 1 :] if not isinstance(w, Event)
        ], place
        assert events(rest) == events(found[at + 1 :]), place
    assert await observed(w.client, intent, found[-1][0]) == []
    assert [Place.of(place).entries for place, w in found if isinstance(w, StepDone)] == [1]


async def test_progress_bears_the_time_at_which_it_was_told_not_that_of_looking(w: World) -> None:
    @handler(queue="part")
    async def part(n: int) -> None:
        progress(n, 4)

    async def alone(n: int) -> None:
        progress(1, 1)

    async def above(n: int) -> None:
        await call("part", n)

    async def told_at(function: Any) -> tuple[int, IntentInfo]:
        worker = await w.serve(function)
        intent = await w.send(2)
        await w.result(intent)
        await w.stop(worker)
        await asyncio.sleep(0.1)
        (at,) = [e.at for _, e in await observed(w.client, intent) if isinstance(e, Event) and e.kind == "progress"]
        return at, await w.get(intent)

    await w.serve_specs(spec_of(part))
    for function in (alone, above):
        at, info = await told_at(function)
        assert info.finished is not None
        assert info.created <= at <= info.finished


async def test_what_a_handler_told_is_told_once_however_often_it_is_replayed(w: World) -> None:
    async def h() -> None:
        for n in range(3):
            emit(n)
            await run("step", lambda: None)
        async with asyncio.TaskGroup() as group:
            group.create_task(branch("a"))
            group.create_task(branch("b"))
        again(4)

    async def branch(name: str) -> None:
        emit(name)
        await run(name, lambda: None)
        emit(name.upper())

    await w.serve(h)
    intent = await w.send()
    found = events(await observed(w.client, intent))
    assert [value for _, step, _, value in found if not step] == [0, 1, 2]
    assert sorted(value for _, step, _, value in found if step) == ["A", "B", "a", "b"]
    assert {kind for kind, *_ in found} == {"event"}


async def test_a_body_that_begins_anew_says_so_first(w: World) -> None:
    tries = 0

    @step(retry=AT_ONCE)
    async def flaky() -> str:
        nonlocal tries
        tries += 1
        emit(f"try {tries}")
        emit("on")
        if tries == 1:
            raise ValueError
        if tries == 2:  # another owner begins it anew
            await until_told(w, intent, 5)
            await w.lose(intent)
        return "done"

    async def h() -> str:
        return await flaky()

    await w.serve(h)
    intent = await w.send()
    found = events(await observed(w.client, intent))
    expected: list[tuple[str, str, int, Any]] = []
    for n in (1, 2, 3):
        expected += [("reset", "flaky#1", 0, "event")] if n > 1 else []
        expected += [("event", "flaky#1", 0, f"try {n}"), ("event", "flaky#1", 1, "on")]
    assert found == expected


async def test_a_plain_handler_and_its_threads_tell_too(w: World) -> None:
    @step
    def work(n: int) -> int:
        emit(threading.current_thread() is threading.main_thread())
        progress(n, 10)
        return n

    def h() -> int:
        emit("first")
        return work(3)

    await w.serve(h)
    intent = await w.send()
    assert events(await observed(w.client, intent)) == [
        ("event", "", 0, "first"), ("event", "work#1", 0, False)
    ]  # fmt: skip
    assert (await w.get(intent)).progress == Progress(3, 10, own=False)


async def test_the_progress_of_open_steps_and_children_is_added_to_the_handlers(w: World) -> None:
    @handler(queue="part")
    async def part(done: int) -> None:
        progress(done, 4, "of a part")
        await gate(f"part {done}").wait()

    async def parts() -> None:
        await asyncio.gather(call("part", 1), call("part", 3))

    async def h() -> None:
        await parts()
        progress(10, 20, "parts done")
        await call("part", 2)
        progress(11, 20)

    await w.serve_specs(spec_of(part))
    await w.serve(h)
    intent = await w.send()
    await until_progress(w, intent, Progress(1, 2, own=False))  # 1/4 and 3/4 of two
    gate("part 1").set()
    await until_progress(w, intent, Progress(1.75, 2, own=False))
    gate("part 3").set()
    await until_progress(w, intent, Progress(10.5, 20, "parts done"))
    watching = asyncio.ensure_future(observed(w.client, intent))
    gate("part 2").set()
    await w.result(intent)
    assert (await w.get(intent)).progress == Progress(11, 20)
    told = [e.value for _, e in await watching if isinstance(e, Event) and e.kind == "progress"]
    assert told[-1] == Progress(11, 20)


async def test_the_progress_of_grandchildren_reaches_who_watches_the_root(w: World) -> None:
    @handler(queue="leaf")
    async def leaf() -> None:
        progress(1, 4)
        await gate("leaf").wait()

    @handler(queue="middle")
    async def middle() -> None:
        await call("leaf")

    async def h() -> None:
        await call("middle")

    await w.serve_specs(spec_of(leaf))
    await w.serve_specs(spec_of(middle))
    await w.serve(h)
    intent = await w.send()
    async with asyncio.timeout(30):
        async for _, what in w.client.observe(intent):
            if isinstance(what, Event) and what.kind == "progress":
                assert what.value == Progress(0.25, 1, own=False)
                gate("leaf").set()
                break
    await w.result(intent)


async def test_a_step_told_beside_the_handler_counts_as_a_fraction_of_one(w: World) -> None:
    @step
    async def half() -> None:
        progress(5, 10, "half")
        await gate("half").wait()

    async def h() -> None:
        progress(3, 6, "steps")
        await half()
        progress(4, 6, "steps")

    await w.serve(h)
    intent = await w.send()
    await until_progress(w, intent, Progress(3.5, 6, "steps"))
    gate("half").set()
    await w.result(intent)
    assert (await w.get(intent)).progress == Progress(4, 6, "steps")


async def test_an_intent_that_tells_nothing_has_no_key_for_it(w: World) -> None:
    async def h() -> None:
        await run("step", lambda: None)

    await w.serve(h)
    intent = await w.send()
    await w.result(intent)
    keys = w.store.keys_of(intent)
    assert [await w.store.mux.command("EXISTS", key) for key in told_keys(keys, intent)] == [0, 0]
    assert (await w.get(intent)).progress is None


@pytest.mark.parametrize("anyio_backend", [False], indirect=True, ids=["asyncio"])
async def test_a_thousand_disconnects_leave_no_gap_and_no_duplicate(w: World) -> None:
    cuts = 0
    stop = asyncio.Event()

    async def h() -> None:
        n = 0
        while not stop.is_set():
            emit(n)
            progress(n)
            if n % 50 == 0:
                await run("mark", lambda: None)
            await asyncio.sleep(0.001)
            n += 1

    await w.serve(h)
    address = parse_url(w.url)
    async with Proxy(path=address.path) if address.kind == "unix" else Proxy(address.port) as proxy:
        intent = await w.send()
        found: list[tuple[str, Entry | Event]] = []

        async def follow() -> None:
            """Every fifth time another client goes on where the one before was."""
            ended = False
            while not ended:
                with contextlib.suppress(StoreUnavailable):  # a first connection that is cut is told at once
                    ended = await follow_for_a_while(cuts + 5)

        async def follow_for_a_while(limit: int) -> bool:
            async with (
                Client(proxy.url, namespace=w.namespace) as client,
                contextlib.aclosing(client.observe(intent, found[-1][0] if found else 0)) as source,
            ):
                async for pair in source:
                    found.append(pair)
                    if limit <= cuts < 1000:
                        return False
                return True

        following = asyncio.ensure_future(follow())
        async with asyncio.timeout(100):
            while cuts < 1000:
                seen = len(found)
                cuts += proxy.cut() > 0
                while cuts % 4 == 0 and len(found) == seen:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.002)
            stop.set()
            await following
    await w.result(intent)
    values = [e.value for _, e in found if isinstance(e, Event) and e.kind == "event"]
    assert values == list(range(len(values)))
    assert {e.kind for _, e in found if isinstance(e, Event)} == {"event", "progress"}
    assert [what for _, what in found if not isinstance(what, Event)] == await w.journal(intent)
    assert events(await observed(w.client, intent)) == events(found)


async def test_what_nobody_read_in_time_is_told_to_be_gone(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDURABLE_MAX_EVENTS", "100")

    async def h() -> None:
        for n in range(3000):
            emit(n)
            if n % 300 == 0:
                await asyncio.sleep(0.03)

    await w.serve(h)
    intent = await w.send()
    await w.result(intent)
    (_, first), *rest = await observed(w.client, intent)
    assert isinstance(first, Event)
    assert first.kind == "dropped"
    assert [e.value for _, e in rest if isinstance(e, Event)] == list(range(first.value, 3000))
    assert 100 <= len(rest) < 1000


async def test_a_handler_that_tells_faster_than_the_store_takes_drops_the_oldest(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "MOST", 50)

    async def h() -> None:
        for n in range(200):
            emit(n)

    await w.serve(h)
    intent = await w.send()
    await w.result(intent)
    found = events(await observed(w.client, intent))
    assert found == [("dropped", "", 0, 150), *(("event", "", n, n) for n in range(150, 200))]


async def test_the_events_of_two_turns_are_kept_apart(w: World) -> None:
    from redurable import continue_as_new

    async def h(n: int) -> int:
        emit(n)
        await count(1)
        if n < 2:
            continue_as_new(n + 1)
        return n

    await w.serve(h)
    intent = await w.send(0)
    found = [(step, value) for _, step, _, value in events(await observed(w.client, intent))]
    assert found == [("", 0), ("count#1", 0), ("@2", 1), ("count#1@2", 0), ("@3", 2), ("count#1@3", 0)]


async def test_an_operators_retry_begins_the_failed_step_anew_and_tells_nothing_twice(w: World) -> None:
    broken = True

    @step(retry=Retry(attempts=1))
    async def mend() -> None:
        emit("mending")
        if broken:
            raise PermissionError

    async def h() -> None:
        emit("begun")
        await mend()

    await w.serve(h)
    intent = await w.send()
    await w.until(intent, Status.FAILED)
    broken = False
    await w.client.retry(intent)
    await w.result(intent)
    found = events(await observed(w.client, intent))
    assert [value for kind, step, _, value in found if not step] == ["begun"]
    assert found[-2:] == [("reset", "mend#1", 0, "event"), ("event", "mend#1", 0, "mending")]


class TestStream:
    async def test_it_gives_the_events_of_one_step_until_the_intent_ends(self, w: World) -> None:
        async def h() -> None:
            emit("begun")
            await count(2)
            await count(3)

        await w.serve(h)
        intent = await w.send()
        async with asyncio.timeout(30):
            every = [e async for e in w.client.stream(intent)]
            first = [e async for e in w.client.stream(intent, "count")]
            second = [e async for e in w.client.stream(intent, "count#2")]
            rest = [e async for e in w.client.stream(intent, "count#2", since=second[0].seq)]
            after = [e async for e in w.client.stream(intent, "count", since=first[-1].seq)]
        assert [e.value for e in every] == ["begun", 0, 1, 0, 1, 2]
        assert [e.seq for e in every] == [1, 2, 3, 4, 5, 6]
        assert [(e.step, e.value) for e in first] == [("count#1", 0), ("count#1", 1)]
        assert [(e.step, e.value) for e in second] == [("count#2", 0), ("count#2", 1), ("count#2", 2)]
        assert rest == second[1:]
        assert after == second

    async def test_it_is_live(self, w: World) -> None:
        async def h() -> None:
            emit(1)
            await gate("on").wait()
            emit(2)

        await w.serve(h)
        intent = await w.send()
        found = []
        async with asyncio.timeout(30):
            async for event in w.client.stream(intent):
                found.append(event.value)
                gate("on").set()
        assert found == [1, 2]

    async def test_bad_arguments_are_refused(self, w: World) -> None:
        async def h() -> None:
            await count(1)

        await w.serve(h)
        intent = await w.send()
        await w.result(intent)
        unknown = intent[:-4] + "ffff"
        for source in (w.client.stream(unknown), w.client.observe(unknown)):
            with pytest.raises(NotFound, match="there is no intent"):
                await anext(source)
        for since in (-1, "1", True, 1.5, None):
            with pytest.raises(ConfigurationError, match="since= is the seq"):
                await anext(w.client.stream(intent, since=since))  # type: ignore[arg-type]  # that is the point
        for place in (-1, "x", "1-2-3-4", "1-", True, "1-2-xyz", None):
            with pytest.raises(ConfigurationError, match="no place"):
                await anext(w.client.observe(intent, place))  # type: ignore[arg-type]  # that is the point
        with pytest.raises(NotFound) as never:
            [e async for e in w.client.stream(intent, "other")]
        assert never.value.code == "STREAM_NOT_FOUND"


async def test_what_cannot_be_told_is_refused_where_it_is_said(w: World) -> None:
    refused: list[str] = []

    async def h() -> None:
        for wrong in (
            lambda: emit(object()), lambda: emit("x" * 65_536), lambda: progress(-1), lambda: progress(float("nan")),
            lambda: progress(1, -2), lambda: progress(True), lambda: progress("1"), lambda: progress(1, 2, 3),  # type: ignore[arg-type]  # that is the point
        ):  # fmt: skip
            try:
                wrong()
            except (SerialisationError, PayloadTooLarge, ConfigurationError) as error:
                refused.append(error.code)
        emit("x" * 65_000)
        progress(0, 0, "nothing to do")

    await w.serve(h)
    intent = await w.send()
    await w.result(intent)
    assert refused == ["NOT_SERIALISABLE", "PAYLOAD_TOO_LARGE", *["BAD_ARGUMENT"] * 6]
    assert [len(value) for *_, value in events(await observed(w.client, intent))] == [65_000]
    assert (await w.get(intent)).progress == Progress(0, 0, "nothing to do")


async def test_a_step_that_is_given_up_while_its_events_are_written_is_not_done(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, slow = telling.Telling.flush, asyncio.Event()

    async def late(self: telling.Telling, *, last: bool = False) -> None:
        if not slow.is_set():
            slow.set()
            await asyncio.sleep(5)
        await flush(self, last=last)

    monkeypatch.setattr(telling.Telling, "flush", late)

    async def h() -> str:
        try:
            async with asyncio.timeout(0.2):
                await count(1)
        except TimeoutError:
            value = await run("instead", lambda: "instead")
            again(2)
            return value
        return "in time"

    await w.serve(h)
    assert await w.call() == "instead"


async def test_the_blocking_client_watches_alike(w: World) -> None:
    async def h() -> None:
        await count(3)

    await w.serve(h)
    intent = await w.send()

    def watch() -> tuple[list[Any], list[Any]]:
        with sync.Client(w.url, namespace=w.namespace) as client:
            return list(client.observe(intent)), list(client.stream(intent, "count"))

    seen, stream = await asyncio.to_thread(watch)
    assert [what for _, what in seen if not isinstance(what, Event)] == await w.journal(intent)
    assert [event.value for event in stream] == [0, 1, 2]


async def test_an_export_leaves_out_what_was_told(w: World) -> None:
    async def h() -> None:
        await count(2)

    await w.serve(h)
    intent = await w.send()
    await w.result(intent)
    record = await w.client.export(intent)
    await w.client.delete(intent)
    assert await w.client.import_(record)
    assert events(await observed(w.client, intent)) == []
    assert (await w.get(intent)).progress is None
    assert len(await w.journal(intent)) == 1


async def test_outside_an_intent_nothing_is_told() -> None:
    emit(1)
    progress(1, 2)
    with pytest.raises(ConfigurationError):
        progress(-1)


async def test_a_codec_seals_events_and_notes(w: World) -> None:
    codec = AesGcm({"k": b"0" * 32})

    @step
    async def spell() -> AsyncIterator[str]:
        yield "a secret word"

    async def h() -> None:
        emit("a secret")
        progress(1, 2, "a secret note")
        assert [word async for word in spell()] == ["a secret word"]

    await w.serve(h, vault=Vault([codec]))
    async with Client(w.url, namespace=w.namespace, codec=codec) as client:
        intent = await client.send("q")
        await client.wait_for(intent, 30)
        found = await observed(client, intent)
        assert events(found) == [
            ("event", "", 0, "a secret"), ("item", "spell#1", 0, "a secret word"), ("end", "spell#1", 1, None),
        ]  # fmt: skip
        assert (await client.get(intent)).progress == Progress(1, 2, "a secret note")
    values = [value for *_, value in events(await observed(w.client, intent))]
    assert values == ["(sealed)", "(sealed)", None]
    assert (await w.get(intent)).progress == Progress(1, 2, "(sealed)")
    stored = [await w.store.mux.command("XRANGE", told_keys(w.store.keys_of(intent), intent)[0], "-", "+")]
    stored.append(await w.store.mux.command("HGETALL", told_keys(w.store.keys_of(intent), intent)[1]))
    assert b"secret" not in repr(stored).encode()
