"""A worker with a payload codec: nothing plain is stored, replays see what was, and what cannot be opened is held."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import msgspec
import pytest

from redurable import (
    CodecError,
    IdempotencyConflict,
    IntentFailed,
    Retry,
    StepFailed,
    checkpoint,
    compensate,
    current,
    last_checkpoint,
    send,
    sleep,
    state,
    step,
)
from redurable.client import Client
from redurable.codec import sealed_part
from redurable.codecs import AesGcm, Codec, Vault, Zstd
from redurable.model import Reason, Status, StepDone
from redurable.runtime.attempt import Attempt
from tests.runtime.world import QUEUE, World, again

pytestmark = pytest.mark.anyio
SECRET = "tip-top-secret"
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
ONCE = Retry(attempts=1)
RAN: list[Any] = []


def aes(**keys: bytes) -> list[Codec]:
    return [Zstd(), AesGcm(keys or {"one": KEY})]


def use(w: World, codec: list[Codec] | None) -> None:
    """Let the world's client be one with *codec*."""
    w.client = Client(w.url, namespace=w.namespace, codec=codec)


async def stored(w: World) -> bytes:
    """Return everything that the namespace holds."""
    mux, found = w.store.mux, []
    for key in await mux.command("KEYS", f"{w.namespace}:*"):
        kind = await mux.command("TYPE", key)
        words = {
            b"string": ("GET", key), b"hash": ("HGETALL", key), b"list": ("LRANGE", key, 0, -1),
            b"stream": ("XRANGE", key, "-", "+"),
        }.get(kind)  # fmt: skip
        if words:
            found.append(repr(await mux.command(*words)))
    return "".join(found).encode()


async def wake(w: World, intent: str) -> None:
    """Let an intent that waits be looked at again now."""
    await w.until(intent, Status.WAITING)
    assert await w.store.wake(intent) == "OK"


@step
async def keep(value: Any) -> Any:
    RAN.append(value)
    return value


@step(retry=ONCE)
async def fail(text: str) -> None:
    error = LookupError(text)
    error.details = {"why": text}  # type: ignore[attr-defined]  # as errors of libraries have it
    raise error


@step(retry=Retry(attempts=3, first=0, jitter=False))
async def long() -> int:
    begun = await last_checkpoint(dict[str, int], {SECRET: 0})
    await checkpoint({SECRET: 7})
    if begun[SECRET] == 0:
        raise ValueError(SECRET)
    return begun[SECRET]


async def work(payload: dict[str, str]) -> list[Any]:
    first = await keep([payload["text"], "x" * 600])
    both = await asyncio.gather(keep(1), keep(None))
    try:
        await fail(payload["text"])
    except StepFailed as failed:
        told = [failed.reason, failed.details]
    seven = await long()
    if current().attempt < 3:
        raise ValueError(payload["text"])
    return [first, both, told, seven]


EXPECTED = [[SECRET, "x" * 600], [1, None], [SECRET, {"why": SECRET}], 7]


async def test_payload_values_errors_checkpoints_and_outcome_are_sealed(w: World) -> None:
    use(w, aes())
    RAN.clear()
    await w.serve(work, vault=Vault(aes()))
    intent = await w.send({"text": SECRET})
    assert await w.result(intent) == EXPECTED
    assert len(RAN) == 3, "replays are of what was recorded"
    assert SECRET.encode() not in await stored(w)
    assert [e.name for e in await w.entries(intent, StepDone)] == ["keep", "keep", "keep", "long"]
    assert msgspec.msgpack.decode((await w.entries(intent, StepDone))[0].value) == [SECRET, "x" * 600]


async def test_failures_are_sealed_too_and_told_to_who_has_the_key(w: World) -> None:
    async def broken(payload: str) -> None:
        compensate(keep, payload)
        await fail(payload)

    use(w, aes())
    await w.serve(broken, vault=Vault(aes()))
    intent = await w.send(SECRET)
    failed = await w.failure(intent)
    assert SECRET in str(failed)
    assert SECRET.encode() not in await stored(w)
    assert SECRET in (await w.get(intent)).error.message
    plain = Client(w.url, namespace=w.namespace)
    info = await plain.get(intent)
    assert (info.error.message, info.error.type) == ("(sealed)", "redurable.errors.StepFailed")
    with pytest.raises(IntentFailed, match=r"\(sealed\)"):
        await plain.wait_for(intent, 5)
    await plain.close()


async def test_who_has_no_codec_gets_an_error_and_no_value(w: World) -> None:
    use(w, aes())
    await w.serve(work, vault=Vault(aes()))
    intent = await w.send({"text": SECRET})
    await w.result(intent)
    plain = Client(w.url, namespace=w.namespace)
    with pytest.raises(CodecError) as refused:
        await plain.wait_for(intent, 5)
    assert refused.value.code == "CODEC_MISSING"
    values = [bytes(e.value) for _, e in await plain.history(intent) if isinstance(e, StepDone)]
    assert [sealed_part(value) is None for value in values] == [value == b"\xc0" for value in values]
    await plain.close()


@pytest.mark.parametrize(
    ("vault", "code"),
    [(None, "CODEC_MISSING"), (Vault([Zstd()]), "CODEC_MISSING"), (Vault(aes(two=OTHER)), "CODEC_KEY_MISSING"),
     (Vault(aes(one=OTHER)), "CODEC_FAILED")],
)  # fmt: skip
async def test_an_intent_that_cannot_be_opened_is_held_and_finished_by_who_can(
    w: World, vault: Vault | None, code: str
) -> None:
    use(w, aes())
    RAN.clear()
    intent = await w.send({"text": SECRET})
    blind = await w.serve(work, vault=vault)
    for _ in range(3):
        await wake(w, intent)
        info = await w.until(intent, Status.WAITING)
        assert info.reason is Reason.HELD
        assert (info.held or "").startswith(code)
        assert info.losses == 0
    assert RAN == []
    await w.stop(blind)
    await w.serve(work, vault=Vault(aes()))
    assert await w.result(intent) == EXPECTED
    assert (await w.get(intent)).held is None
    assert not w.seen("handler.failed") or "held" not in str(w.seen("handler.failed")[0])


async def test_a_journal_that_cannot_be_opened_is_held_too(w: World) -> None:
    """The payload is plain; what a worker with a codec recorded is not."""
    RAN.clear()

    async def half(payload: Any) -> Any:
        first = await keep(SECRET)
        try:
            await fail(SECRET)
        except StepFailed as failed:
            reason = failed.reason
        await sleep(2)
        return [first, reason]

    seeing = await w.serve(half, vault=Vault(aes()))
    intent = await w.send("plain")
    await w.until(intent, Status.WAITING)
    await w.stop(seeing)
    blind = await w.serve(half)
    await w.store.wake(intent)
    await w.event("intent.held")
    info = await w.until(intent, Status.WAITING)
    assert (info.reason, (info.held or "")[:13]) == (Reason.HELD, "CODEC_MISSING")
    await w.stop(blind)
    use(w, aes())
    await w.serve(half, vault=Vault(aes()))
    assert await w.result(intent) == [SECRET, SECRET]
    assert RAN == [SECRET]


class Failing:
    """A codec whose service goes away."""

    name = "failing"

    def __init__(self) -> None:
        self.away = False

    async def encode(self, data: bytes) -> bytes:
        await asyncio.sleep(random.random() / 200)
        if self.away:
            raise OSError("no service")
        return data[::-1]

    async def decode(self, data: bytes) -> bytes:
        await asyncio.sleep(0)
        return data[::-1]


@pytest.mark.parametrize("where", ["step", "outcome", "failure"])
async def test_what_cannot_be_sealed_is_not_lost(w: World, where: str) -> None:
    RAN.clear()
    codec = Failing()

    async def handler(payload: Any) -> Any:
        if where == "step":
            codec.away = len(RAN) == 0
        value = await keep(current().attempt)
        codec.away = where != "step" and len(RAN) == 1 and current().attempt == 1
        if where == "failure" and current().attempt == 1:
            raise ValueError("no")
        return value

    await w.serve(handler, vault=Vault([codec]))
    use(w, [codec])
    intent = await w.send(1)
    await w.event("intent.held")
    info = await w.until(intent, Status.WAITING)
    assert (info.reason, (info.held or "")[:12]) == (Reason.HELD, "CODEC_FAILED")
    codec.away = False
    await wake(w, intent)
    assert await w.result(intent) == (2 if where == "step" else 1)
    assert ([1, 2] if where == "step" else [1]) == RAN
    assert not w.seen("step.failed")


async def test_branches_keep_their_order_however_long_sealing_takes(w: World) -> None:
    """Replays with a codec that takes its time come to the same, whatever was given up on the way."""
    codec = Failing()

    async def branch(n: int) -> list[int]:
        found = [await keep(n * 10 + i) for i in range(4)]
        try:
            async with asyncio.timeout(0.001 * n):
                await keep(-n)
        except TimeoutError:
            found.append(-1)
        return found

    async def handler(payload: Any) -> Any:
        found = await asyncio.gather(*(branch(n) for n in range(4)))
        last = await keep([len(f) for f in found])
        again(4)
        return [found, last]

    await w.serve(handler, vault=Vault([codec]))
    use(w, [codec])
    for intent in [await w.send(n) for n in range(5)]:
        found, last = await w.result(intent)
        assert last == [len(f) for f in found]
        assert [f[:4] for f in found] == [[n * 10 + i for i in range(4)] for n in range(4)]


async def test_plain_handlers_and_threads(w: World) -> None:
    def plain(payload: str) -> list[str]:
        return [square(payload), square(payload)]

    @step
    def square(text: str) -> str:
        return text * 2

    use(w, aes())
    await w.serve(plain, vault=Vault(aes()))
    assert await w.call(SECRET) == [SECRET * 2] * 2
    assert SECRET.encode() not in await stored(w)


async def test_idempotency_is_of_the_payload_and_not_of_its_seal(w: World) -> None:
    use(w, aes())
    first = await w.send({"a": 1, "b": SECRET}, idempotency_key="k")
    assert await w.send({"b": SECRET, "a": 1}, idempotency_key="k") == first
    with pytest.raises(IdempotencyConflict):
        await w.send({"b": SECRET, "a": 2}, idempotency_key="k")
    plain = Client(w.url, namespace=w.namespace)
    assert await plain.send("q", {"a": 1, "b": SECRET}, idempotency_key="k") == first
    await plain.close()


async def test_a_send_that_cannot_be_sealed_stores_nothing(w: World) -> None:
    codec = Failing()
    codec.away = True
    use(w, [codec])
    for attempt in (w.client.send("q", 1), w.client.send_many("q", [1, 2]), w.client.call("q", 1)):
        with pytest.raises(CodecError, match="could not encode"):
            await attempt
    assert await w.client.list() == []


async def test_send_many_and_call(w: World) -> None:
    async def echo(payload: str) -> str:
        return payload

    use(w, aes())
    await w.serve(echo, vault=Vault(aes()))
    ids = await w.client.send_many("q", [SECRET, "b"])
    assert [await w.result(i) for i in ids] == [SECRET, "b"]
    assert await w.client.call(echo, SECRET) == SECRET
    assert SECRET.encode() not in await stored(w)


async def test_the_state_of_a_session_is_sealed_too(w: World) -> None:
    async def visit(payload: str) -> list[Any]:
        seen = await state.get("seen", of=list[str], default=[])
        await state.set("seen", [*seen, payload])
        assert await state.get("seen") == [*seen, payload]
        return seen

    use(w, aes())
    worker = await w.serve(visit, vault=Vault(aes()))
    for expected in ([], [SECRET]):
        assert await w.call(SECRET, key="s") == expected
    operators = w.client.state(QUEUE, "s")
    await operators.set("note", SECRET)
    assert [await operators.get("seen"), await operators.get("note")] == [[SECRET, SECRET], SECRET]
    assert SECRET.encode() not in await stored(w)
    await w.stop(worker)
    use(w, None)
    await w.serve(visit)
    blind = await w.send("plain", key="s")
    await w.event("intent.held")
    assert ((await w.until(blind, Status.WAITING)).held or "").startswith("CODEC_MISSING")


async def test_writes_to_a_state_keep_their_order_however_long_sealing_takes(w: World) -> None:
    codec = Failing()

    async def write(n: int) -> Any:
        await state.set("last", n)
        return await state.get("last")

    async def handler() -> Any:
        seen = await asyncio.gather(*(write(n) for n in range(5)))
        await keep(seen)
        again(4)
        return seen

    await w.serve(handler, vault=Vault([codec]))
    use(w, [codec])
    for _ in range(4):
        assert await w.call(key="s") == [4] * 5
        assert await w.client.state(QUEUE, "s").get("last") == 4


async def test_without_a_codec_there_is_none(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder, and so the way of every entry, is the one that knows of no codec."""
    seen: list[str] = []
    run = Attempt.run

    async def spy(self: Attempt) -> None:
        seen.append(type(self.recorder).__name__)
        await run(self)

    monkeypatch.setattr(Attempt, "run", spy)

    async def echo(payload: str) -> str:
        return await keep(payload)

    await w.serve(echo)
    assert await w.call("x") == "x"
    assert seen == ["Recorder"]


@pytest.mark.parametrize("where", ["state", "checkpoint", "send"])
async def test_what_a_handler_stores_by_the_way_and_cannot_be_sealed_holds_its_intent(w: World, where: str) -> None:
    class Once(Failing):
        async def encode(self, data: bytes) -> bytes:
            if self.away:
                self.away = False
                raise OSError("no service")
            return await super().encode(data)

    codec = Once()

    @step(retry=Retry(attempts=1))
    async def marks() -> None:
        codec.away = current().attempt == 1
        await checkpoint("half")

    async def handler(payload: Any) -> Any:
        if where == "checkpoint":
            await marks()
            return 1
        codec.away = current().attempt == 1
        if where == "state":
            with contextlib.suppress(CodecError):
                await state.set("last", 1)
        else:
            await send("elsewhere", 1)
        return 1

    await w.serve(handler, vault=Vault([codec]), retry=Retry(attempts=1))
    use(w, [codec])
    intent = await w.send(1, key="s")
    await w.event("intent.held")
    codec.away = False
    await wake(w, intent)
    assert await w.result(intent) == 1
    if where == "state":
        assert await w.client.state(QUEUE, "s").get("last") == 1
