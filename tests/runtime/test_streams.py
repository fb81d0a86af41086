"""Stream steps: an async generator's items, recorded, replayed, resumed, and told to watchers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from redurable import (
    ConfigurationError,
    Event,
    Retry,
    StepFailed,
    UsageError,
    checkpoint,
    idempotency_key,
    last_checkpoint,
    resume_offset,
    run,
    sleep,
    step,
    testing,
)
from redurable.model import StepDone, StepTried
from tests.runtime.world import AT_ONCE, World, again

pytestmark = pytest.mark.anyio


async def told(w: World, intent: str, name: str | None = None) -> list[tuple[str, str, int, Any]]:
    async with asyncio.timeout(30):
        return [(e.kind, e.step, e.offset, e.value) async for e in w.client.stream(intent, name)]


def items(name: str, values: list[Any], start: int = 0) -> list[tuple[str, str, int, Any]]:
    return [("item", name, n, value) for n, value in enumerate(values, start)]


async def until_seen(w: World, intent: str, count: int) -> None:
    """Return once watchers can see so many events."""
    seen = 0
    async with asyncio.timeout(30):
        async for _ in w.client.stream(intent):
            seen += 1
            if seen >= count:
                return


@dataclass
class Page:
    n: int
    text: str = ""


@step
async def words(text: str) -> AsyncIterator[str]:
    for word in text.split():
        yield word
        await asyncio.sleep(0)


class TestOneThatBeginsAnew:
    async def test_its_items_are_one_entry_and_the_same_on_every_replay(self, w: World) -> None:
        seen: list[list[str]] = []

        async def h(text: str) -> int:
            seen.append([word async for word in words(text)])
            await run("after", lambda: None)
            again(3)
            return len(seen)

        await w.serve(h)
        intent = await w.send("to be or not")
        assert await w.result(intent) == 4
        assert seen == [["to", "be", "or", "not"]] * 4
        done = await w.entries(intent, StepDone)
        assert [entry.name for entry in done] == ["words", "after"]
        expected = [*items("words#1", ["to", "be", "or", "not"]), ("end", "words#1", 4, None)]
        assert await told(w, intent, "words") == expected
        assert await told(w, intent) == expected, "the replays told nothing"

    async def test_watchers_see_an_item_before_the_next_is_made_and_the_stream_ends_with_the_step(
        self, w: World
    ) -> None:
        go, on = asyncio.Event(), asyncio.Event()

        @step
        async def slow() -> AsyncIterator[int]:
            yield 1
            await go.wait()
            yield 2

        async def h() -> None:
            async for _ in slow():
                pass
            await run("on", on.wait)

        await w.serve(h)
        intent = await w.send()
        found = []
        async with asyncio.timeout(30):
            async for event in w.client.stream(intent, "slow"):
                found.append((event.kind, event.value))
                go.set()
        assert found == [("item", 1), ("item", 2), ("end", None)]
        assert not (await w.get(intent)).status.final
        on.set()
        await w.result(intent)

    async def test_a_body_that_runs_again_is_told_as_a_reset(self, w: World) -> None:
        runs = 0

        @step(retry=AT_ONCE)
        async def answer() -> AsyncIterator[str]:
            nonlocal runs
            runs += 1
            for n in range(3):
                if runs == 1 and n == 2:
                    raise ConnectionError
                yield f"{runs}.{n}"
            if runs == 2:
                await until_seen(w, intent, 6)
                await w.lose(intent)

        async def h() -> list[str]:
            return [item async for item in answer()]

        await w.serve(h)
        intent = await w.send()
        assert await w.result(intent) == ["3.0", "3.1", "3.2"]
        assert await told(w, intent, "answer") == [
            *items("answer#1", ["1.0", "1.1"]),
            ("reset", "answer#1", 0, "item"),
            *items("answer#1", ["2.0", "2.1", "2.2"]),
            ("reset", "answer#1", 0, "item"),
            *items("answer#1", ["3.0", "3.1", "3.2"]),
            ("end", "answer#1", 3, None),
        ]

    async def test_one_that_fails_for_good_ends_its_stream_with_the_error(self, w: World) -> None:
        @step(retry=Retry(attempts=1))
        async def fails() -> AsyncIterator[int]:
            yield 1
            raise LookupError("gone")

        async def h() -> str:
            try:
                return str([item async for item in fails()])
            except StepFailed as failure:
                again(2)
                return failure.type

        await w.serve(h)
        intent = await w.send()
        assert await w.result(intent) == "builtins.LookupError"
        assert await told(w, intent, "fails") == [
            ("item", "fails#1", 0, 1), ("end", "fails#1", 1, "builtins.LookupError"),
        ]  # fmt: skip

    async def test_branches_methods_and_calls_with_ids_keep_their_streams_apart(self, w: World) -> None:
        class Writer:
            @step(id=lambda self, name: name)
            async def write(self, name: str) -> AsyncIterator[Page]:
                yield Page(1, name)
                await asyncio.sleep(0)
                yield Page(2, name)

        async def h() -> list[str]:
            writer = Writer()

            async def one(name: str) -> str:
                pages = [page async for page in writer.write(name)]
                assert all(type(page) is Page for page in pages)
                return "".join([p.text async for p in writer.write(f"{name}{name}")]) + pages[0].text

            found = await asyncio.gather(one("a"), one("b"))
            again(2)
            return list(found)

        await w.serve(h)
        intent = await w.send()
        assert await w.result(intent) == ["aaaaa", "bbbbb"]
        for name in ("a", "b", "aa", "bb"):
            pages = [{"n": n, "text": name} for n in (1, 2)]
            assert await told(w, intent, f"write#{name}") == [
                *items(f"write#{name}", pages), ("end", f"write#{name}", 2, None),
            ]  # fmt: skip


@step(resume=True, retry=AT_ONCE)
async def count_to(n: int) -> AsyncIterator[int]:
    for i in range(resume_offset(), n):
        yield i
        await asyncio.sleep(0.03)


class TestOneThatGoesOn:
    async def test_the_handler_sees_items_as_they_come_and_the_same_ones_on_every_replay(self, w: World) -> None:
        seen: dict[int, list[int]] = {}
        attempt = 0

        async def h() -> int:
            nonlocal attempt
            attempt += 1
            seen[attempt] = []
            async for i in count_to(12):
                seen[attempt].append(i)
                if i in (4, 8):
                    await sleep(1.1 if i == 4 else 0.01)  # it is put down in the middle
            again(3)
            return attempt

        await w.serve(h)
        intent = await w.send()
        await w.result(intent)
        assert seen[1] == [0, 1, 2, 3, 4]
        assert all(found == list(range(12)) for n, found in seen.items() if n > 1)
        done = [entry for entry in await w.entries(intent, StepDone) if entry.name == "count_to"]
        assert 2 <= len(done) <= 13  # one for each item and one for the end, at worst
        assert await told(w, intent, "count_to") == [
            *items("count_to#1", list(range(12))),
            ("end", "count_to#1", 12, None),
        ]

    async def test_a_body_that_died_goes_on_at_its_offset_with_its_checkpoint_and_key(self, w: World) -> None:
        runs: list[tuple[int, Any, str]] = []

        @step(resume=True)
        async def rows() -> AsyncIterator[int]:
            runs.append((resume_offset(), await last_checkpoint(default="none"), idempotency_key()))
            for i in range(resume_offset(), 10):
                await checkpoint(f"row {i}")
                yield i
                await asyncio.sleep(0.11)
                if i == 5 and len(runs) == 1:
                    await w.lose(intent)

        async def h() -> list[int]:
            return [i async for i in rows()]

        await w.serve(h)
        intent = await w.send()
        assert await w.result(intent) == list(range(10))
        (first, fresh, key), (offset, kept, same) = runs
        assert (first, fresh) == (0, "none")
        assert 1 <= offset <= 6
        assert kept in ("row 4", "row 5")
        assert key == same
        found = await told(w, intent, "rows")
        assert found[-1] == ("end", "rows#1", 10, None)
        resets = [offset for kind, _, offset, _ in found if kind == "reset"]
        assert resets in ([], [offset]), "what was told and not recorded comes again, and no more"
        assert [v for kind, _, o, v in found if kind == "item" and o >= offset][-(10 - offset) :] == list(
            range(offset, 10)
        )

    async def test_what_came_before_an_error_is_recorded_and_the_body_goes_on_behind_it(self, w: World) -> None:
        offsets = []

        @step(resume=True, retry=AT_ONCE)
        async def flaky() -> AsyncIterator[int]:
            offsets.append(resume_offset())
            for i in range(resume_offset(), 6):
                if i in (2, 4) and len(offsets) <= i // 2:
                    raise ConnectionError
                yield i

        async def h() -> list[int]:
            return [i async for i in flaky()]

        await w.serve(h)
        intent = await w.send()
        assert await w.result(intent) == list(range(6))
        assert offsets == [0, 2, 4]
        assert len(await w.entries(intent, StepTried)) == 2
        assert await told(w, intent, "flaky") == [*items("flaky#1", list(range(6))), ("end", "flaky#1", 6, None)]

    async def test_a_handler_may_stop_listening_and_listen_to_another(self, w: World) -> None:
        @step(resume=True)
        async def endless() -> AsyncIterator[int]:
            n = 0
            while True:
                yield n
                n += 1
                await asyncio.sleep(0.05)

        async def h() -> list[int]:
            found = []
            for most in (2, 4):
                async for i in endless():
                    if i == most:
                        break
                    found.append(i)
            again(2)
            return found

        await w.serve(h)
        intent = await w.send()
        assert await w.result(intent) == [0, 1, 0, 1, 2, 3]

    async def test_two_at_once_in_one_branch_replay_in_their_order(self, w: World) -> None:
        seen = []

        async def h() -> None:
            pairs = []
            left, right = count_to(6), count_to(6)
            async for a in left:
                pairs.append((a, await anext(right)))
            seen.append(pairs)
            again(2)

        await w.serve(h)
        intent = await w.send()
        await w.result(intent)
        assert seen == [[(i, i) for i in range(6)]] * 3


async def test_a_plain_handler_iterates_them_too(w: World) -> None:
    def h() -> list[Any]:
        found = [*words("a b"), *count_to(3)]
        again(2)
        return found

    await w.serve(h)
    intent = await w.send()
    assert await w.result(intent) == ["a", "b", 0, 1, 2]


async def test_a_cancel_ends_a_stream_between_two_items(w: World) -> None:
    @step(resume=True, on_cancel="interrupt")
    async def endless() -> AsyncIterator[int]:
        while True:
            yield 0
            await asyncio.sleep(0.02)

    async def h() -> None:
        async for _ in endless():
            pass

    await w.serve(h)
    intent = await w.send()
    await until_seen(w, intent, 3)
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"


async def test_outside_an_intent_it_is_the_generator_that_it_was() -> None:
    assert [word async for word in words("a b")] == ["a", "b"]
    assert [n async for n in count_to(2)] == [0, 1]
    assert resume_offset() == 0


def _generator() -> Any:
    yield 1


async def _async_generator() -> AsyncIterator[int]:
    yield 1


async def _coroutine() -> int:
    return 1


class TestWrongUse:
    def test_what_cannot_be_a_stream_step_is_refused(self) -> None:
        for make in (
            lambda: step(_generator),
            lambda: step(resume=True)(_coroutine),
            lambda: step(run_in="thread")(_async_generator),
        ):
            with pytest.raises(ConfigurationError) as refused:
                make()
            assert refused.value.code == "BAD_HANDLER"

    async def test_run_says_what_to_do_with_a_generator(self) -> None:
        with pytest.raises(ConfigurationError, match="put @step on an async generator"):
            await run("x", _async_generator)  # type: ignore[call-overload]  # that is the point

    async def test_the_offset_of_a_handler_is_no_bodys(self, w: World) -> None:
        async def h() -> str:
            try:
                return str(resume_offset())
            except UsageError as error:
                return str(error)

        await w.serve(h)
        assert "outside of one" in await w.call()

    @pytest.mark.parametrize(("value", "code"), [(object(), "NOT_SERIALISABLE"), ("x" * 400_000, "PAYLOAD_TOO_LARGE")])
    async def test_items_that_cannot_be_kept_fail_the_step_at_once(self, w: World, value: Any, code: str) -> None:
        @step
        async def bad() -> AsyncIterator[Any]:
            for _ in range(3):
                yield value

        async def h() -> str | None:
            try:
                return str([i async for i in bad()])
            except StepFailed as failure:
                return failure.code

        await w.serve(h)
        assert await w.call() == code

    async def test_an_item_of_another_type_fails_the_step(self, w: World) -> None:
        @step
        async def typed() -> AsyncIterator[int]:
            yield "one"  # type: ignore[misc]  # that is the point

        async def h() -> str | None:
            try:
                return str([i async for i in typed()])
            except StepFailed as failure:
                return failure.code

        await w.serve(h)
        assert await w.call() == "TYPE_MISMATCH"


class TestInMemory:
    @staticmethod
    async def handler(n: int) -> list[Any]:
        found: list[Any] = [word async for word in words("a b c")]
        async for i in count_to(n):
            found.append(i)
            if i == 2:
                await sleep(3600)
        return found

    def test_a_run_shows_what_was_told(self) -> None:
        done = testing.run(self.handler, 4)
        assert done.result == ["a", "b", "c", 0, 1, 2, 3]
        kinds = [(e.kind, e.step) for e in done.events]
        assert kinds == [("item", "words#1")] * 3 + [("end", "words#1")] + [("item", "count_to#1")] * 4 + [
            ("end", "count_to#1")
        ]

    def test_a_stub_gives_the_items(self) -> None:
        done = testing.run(self.handler, 4, stub={words: ["x"], "count_to": [7, 8]})
        assert done.result == ["x", 7, 8]
        assert [e.value for e in done.events if e.kind == "item"] == ["x", 7, 8]

    @pytest.mark.parametrize("at", range(1, 6))
    def test_a_crash_anywhere_gives_each_reader_each_item_once_or_a_reset(self, at: int) -> None:
        done = testing.run(self.handler, 8, crash_after=at)
        assert done.result == ["a", "b", "c", *range(8)]
        assert read(done.events) == {"words#1": ["a", "b", "c"], "count_to#1": list(range(8))}

    def test_replay_check_finds_nothing(self) -> None:
        testing.replay_check(self.handler, 6)


def read(events: tuple[Event, ...]) -> dict[str, list[Any]]:
    """Return what a reader of *events* has in the end; each must fit what he had before."""
    kept: dict[str, list[Any]] = {}
    for event in events:
        mine = kept.setdefault(event.step, [])
        if event.kind == "reset":
            assert event.offset < len(mine)
            del mine[event.offset :]
        elif event.kind == "item":
            assert event.offset == len(mine), "once, in order"
            mine.append(event.value)
        else:
            assert (event.kind, event.offset) == ("end", len(mine))
    return kept
