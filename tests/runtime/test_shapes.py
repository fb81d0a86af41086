"""Payloads, results, states that change shape under an intent that has begun: it is held, never failed, and goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from redurable import call, continue_as_new, handler, promise, run, state, step, testing
from redurable.errors import UsageError
from redurable.model import Status
from redurable.runtime.handlers import spec_of
from tests.runtime.world import QUEUE, World

pytestmark = pytest.mark.anyio


@dataclass
class Old:
    item: str
    count: int = 1


@dataclass
class Wider:
    """Knows more, and has a default for it; knows less, too."""

    item: str
    colour: str = "red"


@dataclass
class Other:
    """Fits nothing that `Old` wrote."""

    item: str
    price: float


def _made(body: Any, **annotations: Any) -> Any:
    """Return *body* as a handler with other annotations: another release of the same function."""

    async def handle(payload: Any) -> Any:
        return await body(payload, annotations)

    handle.__annotations__ = {"payload": annotations.get("payload", Any), "return": Any}
    handle.__module__, handle.__qualname__ = __name__, "handle"
    return handle


async def _body(payload: Any, kinds: dict[str, Any]) -> Any:
    found = await run.with_(result=kinds.get("result", Any))("look", _look)
    kept = await state.get("kept", of=kinds["state"]) if "state" in kinds else None
    said = await promise("go", kinds.get("promise", Any))
    await run("mark", _mark)
    await promise("on")
    return [type(payload).__name__, type(found).__name__, said, type(kept).__name__]


async def _look() -> dict[str, Any]:
    return {"item": "tea", "count": 2}


def _mark() -> None:
    return None


async def _switch(w: World, old: Any, new: Any, intent: str, *, resolve: bool = True) -> Any:
    """Let *intent* wait on *old*'s worker, then serve *new*."""
    worker = await w.serve(old)
    await w.until(intent, Status.WAITING)
    if resolve:
        await w.client.resolve(intent, "go", {"item": "go", "count": 3})
        while not any(getattr(e, "name", "") == "mark" for e in await w.journal(intent)):
            await w.until(intent, Status.WAITING)
    await w.stop(worker)
    worker = await w.serve(new)
    await w.client.resolve(intent, "on" if resolve else "go", 1)
    return worker


async def test_unknown_fields_and_missing_ones_with_defaults_are_no_matter(w: World) -> None:
    intent = await w.send({"item": "tea", "count": 2, "more": [1]}, key="k")
    await w.client.state(QUEUE, "other").set("kept", {"item": "x"})
    kinds = {"payload": Old, "result": Old}
    await _switch(w, _made(_body, **kinds), _made(_body, payload=Wider, result=Wider), intent)
    assert (await w.result(intent))[:2] == ["Wider", "Wider"]


@pytest.mark.parametrize(
    "kinds", [{"payload": Other}, {"result": Other}, {"promise": int}], ids=["payload", "result", "promise"]
)
async def test_what_was_recorded_and_does_not_fit_any_more_holds_the_intent(w: World, kinds: dict[str, Any]) -> None:
    intent = await w.send({"item": "tea", "count": 2}, key="k")
    unfit = await _switch(w, _made(_body, payload=Old), _made(_body, **kinds), intent)
    assert (await w.held(intent)).startswith("TYPE_CHANGED: ")
    (told,) = {str(e["error"].message) for e in w.seen("intent.held")}
    assert "does not fit" in told
    assert "it did when it was recorded" in told
    await w.stop(unfit)
    await w.serve(_made(_body, payload=Old))
    await w.store.wake(intent)  # it would look by itself, some seconds later
    assert (await w.result(intent))[0] == "Old"


@pytest.mark.parametrize("kinds", [{"payload": Other}, {"result": Other}], ids=["payload", "result"])
async def test_asked_to_end_it_ends(w: World, kinds: dict[str, Any]) -> None:
    intent = await w.send({"item": "tea", "count": 2}, key="k")
    unfit = await _switch(w, _made(_body, payload=Old), _made(_body, **kinds), intent)
    await w.held(intent)
    assert await w.client.cancel(intent) == "REQUESTED"
    failure = await w.failure(intent)
    assert (failure.status, failure.error.details) == ("CANCELED", {"held": "TYPE_CHANGED"})
    assert "its code does not fit: " in failure.error.message
    await w.client.retry(intent)
    await w.held(intent)
    await w.stop(unfit)
    await w.serve(_made(_body, payload=Old))
    assert (await w.result(intent))[0] == "Old", "what was given up is not lost"


async def test_a_state_of_another_shape_holds_whoever_reads_it(w: World) -> None:
    def made(kind: Any) -> Any:
        async def handle(payload: str) -> Any:
            kept = await state.get("kept", of=kind, default=None)
            await state.set("kept", {"item": payload, "count": 1})
            return getattr(kept, "item", None)

        return handle

    worker = await w.serve(made(Old))
    assert await w.call("tea", key="k") is None
    await w.stop(worker)
    unfit = await w.serve(made(Other))
    intent = await w.send("salt", key="k")
    assert (await w.held(intent)).startswith("TYPE_CHANGED")
    await w.stop(unfit)
    await w.serve(made(Wider))
    await w.store.wake(intent)
    assert await w.result(intent) == "tea"


async def test_a_parameter_that_went_is_no_matter_to_what_began_with_it(w: World) -> None:
    async def before(item: str, count: int) -> str:
        await run("mark", _mark)
        await promise("go")
        return item

    async def after(item: str, colour: str = "red") -> str:
        await run("mark", _mark)
        await promise("go")
        return f"{colour} {item}"

    intent = await w.send({"item": "tea", "count": 2})
    await _switch(w, before, after, intent, resolve=False)
    assert await w.result(intent) == "red tea"


async def test_a_turn_whose_payload_fits_no_more_is_held(w: World) -> None:
    async def before(payload: Old) -> Any:
        await promise("go")
        continue_as_new({"item": payload.item, "count": 5})

    async def after(payload: Other) -> Any:
        return payload.price

    worker = await w.serve(before)
    intent = await w.send({"item": "tea"})
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "go", 1)
    while (await w.get(intent)).turn != 2:
        await w.until(intent, Status.WAITING)
    await w.stop(worker)
    await w.serve(after)
    await w.client.resolve(intent, "go", 1)
    assert (await w.held(intent)).startswith("TYPE_CHANGED")


async def test_a_childs_result_that_was_taken_and_does_not_fit_now_holds_the_parent(w: World) -> None:
    def made(kind: Any) -> Any:
        async def child(payload: Any) -> Any:
            return {"item": "tea", "count": 1}

        child.__annotations__["return"] = kind
        handler(queue="child")(child)

        async def parent(payload: Any) -> str:
            found = await call(child, None)
            await run("mark", _mark)
            await promise("go")
            return type(found).__name__

        handler(queue=QUEUE)(parent)
        return [spec_of(parent), spec_of(child)]

    worker = await w.serve_specs(*made(Old))
    intent = await w.send()
    while not any(getattr(e, "name", "") == "mark" for e in await w.journal(intent)):
        await w.until(intent, Status.WAITING)
    await w.until(intent, Status.WAITING)
    await w.stop(worker)
    unfit = await w.serve_specs(*made(Other))
    await w.client.resolve(intent, "go", 1)
    assert (await w.held(intent)).startswith("TYPE_CHANGED")
    await w.stop(unfit)
    await w.serve_specs(*made(Wider))
    await w.store.wake(intent)
    assert await w.result(intent) == "Wider"


def test_in_memory_a_held_intent_is_told() -> None:
    @step
    async def nothing() -> None:
        return None

    async def handle(payload: Any) -> Any:
        return await state.get("kept", of=int)

    with pytest.raises(UsageError) as stuck:
        testing.run(handle, None, key="k", state={"kept": "text"})
    assert stuck.value.code == "STUCK"
    assert "TYPE_CHANGED" in stuck.value.message
