"""Code that does not fit the journal holds its intent, wherever that is found; it goes on with code that fits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from redurable import Retry, Status, TerminalError, call, compensate, patched, promise, state, step, sync, unwinding
from redurable.model import AttemptFailed, Compensating, Reason, StepDone
from tests.runtime.world import World

pytestmark = pytest.mark.anyio
ran: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


async def body(name: str) -> str:
    ran.append(name)
    return name


def undo(what: str) -> Callable[[], Any]:
    async def back() -> None:
        ran.append(f"un{what}")

    back.__name__ = f"un{what}"
    return back


def steps(*names: str) -> list[Any]:
    return [step(name=name)(body) for name in names]


def saga(*names: str) -> Any:
    """Return a handler that does *names*, each with its undo work, then waits to go on."""

    async def main(payload: None) -> str:
        for work, name in zip(steps(*names), names, strict=True):
            await work(name)
            compensate(undo(name))
        await promise("go")
        return "done"

    return main


async def waits(w: World, old: Any, **options: Any) -> str:
    """Let an intent wait for its promise under the code *old*, whose worker then stops."""
    worker = await w.serve(old)
    intent = await w.send(**options)
    while (await w.until(intent, Status.WAITING)).reason is not Reason.PROMISE:
        pass
    await w.stop(worker)
    return intent


async def held(w: World, intent: str) -> str:
    why = await w.held(intent)
    assert why.startswith("JOURNAL_MISMATCH: "), why
    return why


async def test_nothing_fails_and_nothing_is_undone_until_the_code_fits_again(w: World) -> None:
    intent = await waits(w, saga("a", "b", "c"))
    unfit = await w.serve(saga("a", "c"), retry=Retry(attempts=1))
    await w.client.resolve(intent, "go", 1)
    why = await held(w, intent)
    assert why == "JOURNAL_MISMATCH: entry 2 of the journal is b#1, but the handler now asks for c#1 there"
    (first, *_) = w.seen("intent.held")
    assert (first["entry"], first["recorded"], first["asked"]) == (2, "b#1", "c#1")
    assert not w.seen("handler.failed")
    await w.stop(unfit)
    await w.serve(saga("a", "b", "c"))
    assert await w.result(intent) == "done"
    assert ran == ["a", "b", "c"]
    assert not await w.entries(intent, AttemptFailed)
    assert (await w.get(intent)).held is None


async def test_looks_become_rare_and_leave_no_trace_and_a_worker_that_starts_looks_at_once(w: World) -> None:
    intent = await waits(w, saga("a", "b"))
    unfit = await w.serve(saga("b"))
    await w.client.resolve(intent, "go", 1)
    await held(w, intent)
    before, journal = await w.get(intent), await w.journal(intent)
    for looks in range(2, 5):
        await w.client.retry(intent)
        while len(w.seen("intent.held")) < looks:
            await asyncio.sleep(0.01)
        await held(w, intent)
    assert ((await w.get(intent)).attempt, await w.journal(intent)) == (before.attempt, journal)
    # it has been so for five minutes: the next look is as far away
    head = w.store.keys_of(intent).head(intent)
    first, _, length = (await w.store.mux.command("HGET", head, "since")).decode().partition("/")
    await w.store.mux.command("HSET", head, "since", f"{int(first) - 300_000}/{length}")
    await w.client.retry(intent)
    while ((await w.until(intent, Status.WAITING)).wake or 0) < int(first) + 300_000:
        await asyncio.sleep(0.01)
    await w.stop(unfit)
    await w.serve(saga("a", "b"))
    assert await w.result(intent) == "done"


async def test_a_mismatch_in_a_branch_holds_it(w: World) -> None:
    def made(*names: str) -> Any:
        async def main(payload: None) -> list[str]:
            got = await asyncio.gather(*(work(name) for work, name in zip(steps(*names), names, strict=True)))
            await promise("go")
            return list(got)

        return main

    intent = await waits(w, made("a", "b"))
    unfit = await w.serve(made("a", "x"))
    await w.client.resolve(intent, "go", 1)
    assert "b#1" in await held(w, intent)
    await w.stop(unfit)
    await w.serve(made("a", "b"))
    assert await w.result(intent) == ["a", "b"]
    assert sorted(ran) == ["a", "b"]


async def test_a_child_is_held_and_its_parent_waits(w: World) -> None:
    def family(*names: str) -> Any:
        async def main(payload: str | None) -> str:
            return await saga(*names)(None) if payload else f"child {await call('q', 'child')}"

        return main

    worker = await w.serve(family("a", "b"))
    parent = await w.send()
    while not (info := [i for i in await w.client.list(status="WAITING") if i.reason is Reason.PROMISE]):
        pass
    child = info[0].id
    await w.stop(worker)
    unfit = await w.serve(family("b"))
    await w.client.resolve(child, "go", 1)
    await held(w, child)
    assert (await w.get(parent)).reason is Reason.INTENT
    await w.stop(unfit)
    await w.serve(family("a", "b"))
    assert await w.result(parent) == "child done"
    assert ran == ["a", "b"]


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_asked_to_end_it_undoes_what_was_registered_up_to_there(w: World, how: str) -> None:
    options = {"deadline": 1.0} if how == "deadline" else {}
    intent = await waits(w, saga("a", "b"), **options)
    await w.serve(saga("a", "x"))
    if how == "cancel":
        await w.client.resolve(intent, "go", 1)
        await held(w, intent)
        assert await w.client.cancel(intent, "never mind") == "REQUESTED"
    failure = await w.failure(intent)
    assert failure.status == ("CANCELED" if how == "cancel" else "TIMED_OUT")
    assert failure.error.code == ("CANCELED" if how == "cancel" else "DEADLINE")
    assert failure.error.message.startswith("never mind; " if how == "cancel" else "deadline passed; ")
    assert "its code does not fit: entry 2 of the journal is b#1" in failure.error.message
    assert failure.error.details == {"held": "JOURNAL_MISMATCH"}
    assert ran == ["a", "b", "una"], "b is not known to this code"


async def test_kill_ends_it_and_undoes_nothing(w: World) -> None:
    intent = await waits(w, saga("a", "b"))
    await w.serve(saga("b"))
    await w.client.resolve(intent, "go", 1)
    await held(w, intent)
    assert await w.client.kill(intent) == "CANCELED"
    assert (await w.failure(intent)).error.code == "KILLED"
    assert ran == ["a", "b"]


async def test_undo_work_that_does_not_fit_is_held_too_and_is_done_once(w: World) -> None:
    """Even if the intent was asked to end: that is what it is about to do."""

    def made(*names: str, stuck: bool = False) -> Any:
        async def una() -> None:
            ran.append("una")
            if stuck:
                raise RuntimeError("not yet")

        async def main(payload: None) -> None:
            for name in names:
                compensate(step(retry=Retry(attempts=2, first=2, jitter=False))(una) if name == "a" else undo(name))
            raise TerminalError("no", code="BROKE")

        return main

    worker = await w.serve(made("a", "b", stuck=True))
    intent = await w.send()
    while (await w.get(intent)).reason is not Reason.RETRY:
        pass
    await w.stop(worker)
    assert ran == ["unb", "una"]
    unfit = await w.serve(made("b", "a"))
    await held(w, intent)
    assert await w.client.cancel(intent) == "REQUESTED"
    await held(w, intent)
    assert ran == ["unb", "una"]
    await w.stop(unfit)
    await w.serve(made("a", "b"))
    assert (await w.failure(intent)).error.code == "BROKE"
    assert ran == ["unb", "una", "una"]
    assert len(await w.entries(intent, Compensating)) == 1


async def test_what_unfit_code_wrote_to_its_session_is_not_seen(w: World) -> None:
    def made(*names: str, wrote: str) -> Any:
        async def main(payload: None) -> Any:
            await state.set("by", wrote)
            return await saga(*names)(None)

        return main

    intent = await waits(w, made("a", "b", wrote="old"), key="k")
    unfit = await w.serve(made("b", wrote="new"))
    await w.client.resolve(intent, "go", 1)
    await held(w, intent)
    assert await w.client.state("q", "k").get("by") == "old"
    await w.stop(unfit)
    await w.serve(made("a", "b", wrote="old"))
    assert await w.result(intent) == "done"
    assert await w.client.state("q", "k").get("by") == "old"


async def test_those_that_are_held_are_retried_by_a_choice_too(w: World) -> None:
    intent = await waits(w, saga("a"))
    other = await waits(w, saga("a"))
    unfit = await w.serve(saga("b"))
    await w.client.resolve(intent, "go", 1)
    await held(w, intent)
    await w.stop(unfit)
    assert (await w.client.each("retry", queue="q", dry_run=True)).chosen == 0, "none has failed"
    done = await w.client.each("retry", queue="q", status="WAITING")
    assert (done.chosen, done.answers) == (1, {"SUBMITTED": 1})
    assert (await w.get(other)).reason is Reason.PROMISE
    await w.serve(saga("a"))
    assert await w.result(intent) == "done"


async def test_an_id_that_is_used_twice_is_no_matter_of_the_journal(w: World) -> None:
    @step(id=lambda n: str(n))
    async def work(n: int) -> int:
        return n

    async def main(payload: None) -> None:
        await work(1)
        await asyncio.gather(work(2), work(2))

    await w.serve(main)
    intent = await w.send()
    failure = await w.failure(intent)
    assert failure.error.code == "STEP_ID_REUSED"
    assert len(await w.entries(intent, StepDone)) <= 2


async def test_cleanup_that_has_begun_is_finished_by_the_code_that_fits(w: World) -> None:
    """The cancel is met already: it does not end the intent over the head of what follows it."""

    def made(*names: str) -> Any:
        async def main(payload: None) -> None:
            try:
                await promise("go")
            finally:
                if not unwinding():
                    for work, name in zip(steps(*names), names, strict=True):
                        await work(name)
                    await promise("clean")

        return main

    worker = await w.serve(made("a", "b"))
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.client.cancel(intent)
    while (await w.until(intent, Status.WAITING)) and len(await w.entries(intent, StepDone)) < 2:
        pass
    await w.stop(worker)
    unfit = await w.serve(made("b"))
    await w.client.resolve(intent, "clean", 1)
    await held(w, intent)
    await w.stop(unfit)
    await w.serve(made("a", "b"))
    assert (await w.failure(intent)).status == "CANCELED"
    assert ran == ["a", "b"]


async def test_a_handler_in_a_thread_is_held_and_goes_on_with_code_that_serves_both(w: World) -> None:
    def made(new: Callable[[], str]) -> Any:
        def main(payload: None) -> str:
            name = new()
            sync.run(name, lambda: ran.append(name))
            sync.promise("go").wait()
            return name

        return main

    intent = await waits(w, made(lambda: "old"))
    unfit = await w.serve(made(lambda: "new"))
    await w.client.resolve(intent, "go", 1)
    assert "old#1" in await held(w, intent)
    await w.stop(unfit)
    await w.serve(made(lambda: "new" if patched("better") else "old"))
    assert await w.result(intent) == "old"
