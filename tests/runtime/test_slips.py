"""What a newcomer does wrongly: refused where it enters, or ended with a reason, and never a harm to others."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from redurable import ConfigurationError, NotFound, Retry, handler, step
from redurable.model import Status
from redurable.runtime.handlers import spec_of
from tests.runtime.world import QUEUE, World

SECRET_NUMBER = 4929
pytestmark = pytest.mark.anyio


async def echo(payload: Any) -> Any:
    """Answer what was sent."""
    return payload


@pytest.mark.parametrize(
    "options", [{"labels": {"order": 17}}, {"labels": ["a"]}, {"idempotency_key": 5}, {"type": 3}], ids=str
)
async def test_labels_keys_and_types_that_are_no_texts_are_refused(w: World, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="texts"):
        await w.send(1, **options)
    assert await w.client.list() == []


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (msgspec.msgpack.encode(["", 1, {"order": SECRET_NUMBER}]), "its labels: expected str, got int"),
        (msgspec.msgpack.encode(["", 1, {}, "", {}, 5]), "its parent: expected str, got int"),
        (msgspec.msgpack.encode([""]), "fields are missing"),
        (msgspec.msgpack.encode({"payload": SECRET_NUMBER}), "expected array, got object"),
        (msgspec.msgpack.encode(["", 1, {}])[:-1], "it is cut short"),
        (b"\x92\xa1\xff\x01", "a text in it is no UTF-8"),
        (b"\xc1", "it is no MessagePack"),
    ],
    ids=["label", "parent", "short", "object", "cut", "utf-8", "malformed"],
)
async def test_an_envelope_that_cannot_be_read_ends_and_hides_no_other(w: World, stored: bytes, why: str) -> None:
    good = await w.send(1)
    bad = await w.send(2)
    keys = w.store.keys_of(bad)
    await w.store.mux.command("SET", keys.envelope(bad), stored)
    assert {i.id for i in await w.client.list()} == {good, bad}
    await w.serve(echo)
    failure = await w.failure(bad)
    assert failure.code == "BAD_ENVELOPE"
    assert failure.error is not None
    assert failure.error.message.startswith(f"what was sent cannot be read: {why} (")
    assert await w.result(good) == 1


async def test_two_handlers_of_one_queue_are_refused_in_one_worker_and_in_two(w: World) -> None:
    async def other(payload: Any) -> str:
        return "other"

    await w.serve(echo)
    for specs in ((spec_of(echo, QUEUE), spec_of(other, QUEUE)), (spec_of(other, QUEUE),)):
        with pytest.raises(ConfigurationError) as refused:
            await w.serve_specs(*specs)
        assert refused.value.code == "QUEUE_TAKEN"


async def test_handlers_of_one_queue_are_told_apart_by_types_that_were_written_down(w: World) -> None:
    @handler(queue=QUEUE, type="a")
    async def first(payload: Any) -> str:
        return "a"

    @handler(queue=QUEUE, type="b")
    async def second(payload: Any) -> str:
        return "b"

    await w.serve_specs(spec_of(first), spec_of(second))
    assert await w.result(await w.send(type="a")) == "a"
    assert await w.result(await w.send(type="b")) == "b"


@pytest.mark.parametrize("way", ["cancel", "deadline"])
async def test_a_handler_that_fails_does_not_outlive_its_cancel_by_retries(w: World, way: str) -> None:
    ran: list[int] = []

    async def failing(payload: Any) -> None:
        ran.append(1)
        raise ValueError("x")

    await w.serve(failing, retry=Retry(attempts=5, first=5.0, jitter=False))
    intent = await w.send(deadline=2.0) if way == "deadline" else await w.send()
    await w.until(intent, Status.WAITING)
    if way == "cancel":
        assert await w.client.cancel(intent) == "REQUESTED"
    assert (await w.failure(intent)).status == ("CANCELED" if way == "cancel" else "TIMED_OUT")
    assert len(ran) == 2


async def test_what_is_no_handler_and_no_step_is_refused() -> None:
    @step
    async def work() -> None: ...

    for wrong in (work, int, 5, len):
        with pytest.raises(ConfigurationError):
            spec_of(wrong)
    for wrong in (5, int):
        with pytest.raises(ConfigurationError):
            step(wrong)  # type: ignore[call-overload]  # the point
    with pytest.raises(ConfigurationError, match="queue="):
        handler("q")  # type: ignore[call-overload]  # the point


async def test_an_id_that_is_none_is_not_found(w: World) -> None:
    with pytest.raises(NotFound):
        await w.client.get(None)  # type: ignore[arg-type]  # the point
