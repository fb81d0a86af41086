"""Would this code go on with that journal: no false alarm on code that did not change, and every break is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from redurable import (
    Depends,
    TerminalError,
    call,
    compensate,
    emit,
    patched,
    promise,
    run,
    sleep,
    state,
    step,
    sync,
    testing,
)
from redurable.errors import ConfigurationError
from redurable.model import Envelope, encode_entry
from redurable.portable import Parts, pack
from redurable.runtime.handlers import spec_of
from redurable.testing.rehearsal import Finding, rehearse
from tests.runtime.programs import Node, Play, programs
from tests.runtime.stage import Stage, _parks_early
from tests.support.harness import drive

ID = "0192f0c1-2345-7000-8abc-0123456789ab"


def _record(journal: list[bytes], payload: Any = None, **head: Any) -> dict[str, Any]:
    """Return what an export of an open intent with *journal* would be."""
    fields = {"status": "SUBMITTED", "queue": "q", "created": "1700000000000", "attempt": "1", "fence": "1:w:1"}
    body = encode_entry(Envelope(type="", payload=msgspec.Raw(msgspec.msgpack.encode(payload))))
    return pack(ID, Parts(head=fields | {k: str(v) for k, v in head.items()}, body=body, journal=journal))


def _findings(handler: Any, journal: list[bytes], payload: Any = None, **head: Any) -> list[Finding]:
    return rehearse({"": spec_of(handler)}, _record(journal, payload, **head))


# --- no false alarm


def _handler(play: Play) -> Any:
    async def handle() -> Any:
        return await play.handle()

    return handle


@pytest.mark.timeout(300)
@settings(
    deadline=None, database=None, max_examples=200, suppress_health_check=list(HealthCheck), derandomize=True,
    phases=[Phase.generate],
)  # fmt: skip
@given(program=programs(), seed=st.integers(0, 1 << 20), cuts=st.lists(st.integers(0, 500), min_size=1, max_size=1))
def test_unchanged_programs_give_no_alarm_wherever_they_stand(program: Node, seed: int, cuts: list[int]) -> None:
    stage: list[Stage] = []

    async def main() -> None:
        stage.append(Stage(program, seed))
        await stage[0].finish()

    with _parks_early():
        drive(main, loop="asyncio")
    journal = stage[0].journal
    for cut in [len(journal), *(cut % (len(journal) + 1) for cut in cuts)]:
        play = Play(program, seed + 1)
        ran: list[Any] = []
        play.log, play.see = ran.append, lambda _: None

        assert _findings(_handler(play), journal[:cut]) == [], (cut, stage[0].bench.intent.entries)
        assert ran == [], "a body ran"


# --- breaks


@step
async def charge(card: str) -> dict[str, Any]:
    return {"card": card, "cents": 5}


@step
async def ship(parcel: str) -> str:
    return parcel


@step
def pack_up(item: str) -> str:
    return item


def _other(name: str) -> Any:
    """Return a step of that name with other code."""

    async def body(*_: Any) -> str:
        return f"other {name}"

    body.__name__ = name
    return step(body)


@dataclass
class Order:
    item: str
    count: int = 1


@dataclass
class Priced:
    item: str
    price: float


async def original(order: Order) -> list[Any]:
    receipt = await charge("4242")
    packed = await pack_up.aio(order.item)
    compensate(ship, "back")
    one, two = await asyncio.gather(ship("a"), run("note", _note))
    await sleep(10)
    found = await promise("approved", bool)
    kept = await state.get("kept", of=int, default=0)
    await state.set("kept", kept + 1)
    return [receipt, packed, one, two, found, await ship("last")]


async def _note() -> str:
    return "noted"


def _journal(handler: Any = original, payload: Any = None) -> list[bytes]:
    """Return a journal that *handler* wrote, from its beginning to its promise."""
    found = testing.run(handler, payload or {"item": "tea"}, key="k", cancel_after=60)
    kinds = [type(e).__name__ for e in found.journal]
    return [encode_entry(e) for e in found.journal[: kinds.index("CancelRequested")]]


def _rewritten(old: str, new: str, times: int = 1) -> Callable[..., Any]:
    """Return `original` with a part of its text replaced: the next release."""
    import inspect
    import textwrap

    text = textwrap.dedent(inspect.getsource(original))
    assert text.count(old) >= 1, old
    space = dict(globals())
    exec(compile(text.replace(old, new, times), __file__, "exec"), space)  # our own text
    return space["original"]  # type: ignore[no-any-return]


BREAKS: dict[str, tuple[str, str, str, str | None]] = {
    "renamed step": ('await charge("4242")', 'await _other("bill")("4242")', "JOURNAL_MISMATCH", "charge#1"),
    "renamed step in a thread": ("pack_up.aio(order.item)", '_other("wrap")("x")', "JOURNAL_MISMATCH", "pack_up#1"),
    "renamed inline step": ('run("note", _note)', 'run("notice", _note)', "JOURNAL_MISMATCH", "note#1"),
    "renamed step in a branch": ('gather(ship("a")', 'gather(_other("send")("a")', "JOURNAL_MISMATCH", "ship#1"),
    "removed step": ('    receipt = await charge("4242")\n', "    receipt = 0\n", "JOURNAL_MISMATCH", "charge#1"),
    "removed step in the middle": ("await pack_up.aio(order.item)", "0", "JOURNAL_MISMATCH", "pack_up#1"),
    "removed branch": ('one, two = await asyncio.gather(ship("a"), run("note", _note))',
                       'one = two = await ship("a")', "JOURNAL_MISMATCH", None),
    "removed timer": ("    await sleep(10)\n", "", "JOURNAL_MISMATCH", "sleep#1"),
    "removed all": ('    receipt = await charge("4242")\n', "    return []\n    receipt = 0\n", "JOURNAL_MISMATCH",
                    "charge#1"),
    "reordered steps": ('    receipt = await charge("4242")\n    packed = await pack_up.aio(order.item)\n',
                        '    packed = await pack_up.aio(order.item)\n    receipt = await charge("4242")\n',
                        "JOURNAL_MISMATCH", "charge#1"),
    "reordered timer": ("    compensate", "    await sleep(10)\n    compensate", "JOURNAL_MISMATCH", None),
    "another step before": ("    receipt", '    await _other("greet")("hi")\n    receipt', "JOURNAL_MISMATCH",
                            "charge#1"),
    "another step between": ("    compensate", '    await _other("weigh")("x")\n    compensate', "JOURNAL_MISMATCH",
                             None),
    "a branch became a line": ('await asyncio.gather(ship("a"), run("note", _note))',
                               'await ship("a"), await run("note", _note)', "JOURNAL_MISMATCH", "sleep#1"),
    "a line became a branch": ('await charge("4242")', '(await asyncio.gather(charge("4242")))[0]',
                               "JOURNAL_MISMATCH", "charge#1"),
    "retyped payload": ("order: Order", "order: Priced", "TYPE_CHANGED", None),
    "retyped result": ('run("note", _note)', 'run.with_(result=int)("note", _note)', "TYPE_CHANGED", "note#1"),
    "retyped result of a step": ('await charge("4242")', 'await step(name="charge")(_priced)("4242")',
                                 "TYPE_CHANGED", "charge#1"),
    "changed step": ('await charge("4242")', 'await _other_charge("4242")', "CODE_CHANGED", "charge#1"),
    "changed inline step": ('run("note", _note)', 'run("note", lambda: "other")', "CODE_CHANGED", "note#1"),
    "what the handler cannot do any more": ("    packed", '    _ = receipt["tip"]\n    packed', "RAISES", "pack_up#1"),
    "an error for good": ("    packed", '    raise TerminalError("gone")\n    packed', "RAISES", "pack_up#1"),
}  # fmt: skip


async def _priced(card: str) -> Priced:
    return Priced(card, 5.0)


@step(name="charge")
async def _other_charge(card: str) -> dict[str, Any]:
    return {"card": card, "cents": 6, "more": True}


@pytest.mark.parametrize("name", BREAKS)
def test_a_seeded_break_is_found_where_it_is(name: str) -> None:
    old, new, code, where = BREAKS[name]
    journal = _journal()
    assert _findings(original, journal, {"item": "tea"}, session="k") == []
    found = _findings(_rewritten(old, new), journal, {"item": "tea"}, session="k")
    (hit,) = [f for f in found if f.code == code]
    assert hit.breaks == (code != "CODE_CHANGED")
    assert [f for f in found if f.breaks] == ([hit] if hit.breaks else [])
    if where is not None:
        assert hit.step == where
        assert hit.seq is not None
    assert (hit.intent, hit.queue) == (ID, "q")
    assert hit.message


def test_what_comes_after_where_it_stands_may_change() -> None:
    journal = _journal()
    for old, new in (
        ('await ship("last")', 'await _other("tell")("last")'),
        ("    kept = await", '    if patched("weigh"):\n        await _other("weigh")("x")\n    kept = await'),
        ("    receipt", '    if patched("first"):\n        await _other("weigh")("x")\n    receipt'),
    ):
        assert _findings(_rewritten(old, new), journal, {"item": "tea"}, session="k") == []
    assert patched
    assert TerminalError


def test_one_that_has_not_begun_needs_a_payload_that_fits_and_is_not_run() -> None:
    async def handler(order: Order) -> None:
        raise AssertionError("it ran")

    assert _findings(handler, [], {"item": "tea"}) == []
    (hit,) = _findings(handler, [], {"price": 5})
    assert (hit.code, hit.breaks, hit.seq, hit.step) == ("BAD_PAYLOAD", True, None, None)


def test_what_a_process_provides_is_stood_in_for() -> None:
    async def handler(payload: Any, db: Annotated[Any, Depends(pool)]) -> Any:
        found = await run("look", lambda: db.fetch(payload))
        return [found, await run("again", lambda: db.fetch(payload))]

    old = testing.run(_plain_pair, 1)
    assert _findings(handler, [encode_entry(e) for e in old.journal[:1]], 1)[0].code == "CODE_CHANGED"


def test_what_a_handler_awaits_of_what_is_stood_in_for_is_there_at_once() -> None:
    async def handler(payload: Any, db: Annotated[Any, Depends(pool)]) -> Any:
        await db.ready()
        async with db.session() as session:
            await session.look()
        return [await run("look", _note), await run("again", _note)]

    old = testing.run(_plain_pair, 1)
    assert _findings(handler, [encode_entry(e) for e in old.journal[:1]], 1) == []


def pool() -> Any:
    raise AssertionError("it was made")


async def _plain_pair(payload: Any) -> Any:
    return [await run("look", _note), await run("again", _note)]


def test_what_is_told_on_the_way_is_not_the_end() -> None:
    def made(name: str) -> Any:
        async def handler(payload: Any) -> Any:
            emit({"began": True})
            await asyncio.sleep(0.1)  # long enough for what is told in batches
            return [await run("look", _note), await run(name, _note)]

        return handler

    journal = [encode_entry(e) for e in testing.run(made("again"), 1).journal]
    assert _findings(made("again"), journal, 1) == []
    (hit,) = _findings(made("anew"), journal, 1)
    assert (hit.code, hit.step) == ("JOURNAL_MISMATCH", "again#1")


def test_children_are_known_by_their_calls_and_nobody_looks_for_them() -> None:
    def made(queue: str, more: str | None = None) -> Any:
        async def handler(payload: Any) -> Any:
            first = await call(queue, 1)
            if more is not None:
                await call(more, 2)
            await run("note", _note)
            return [first, await call("other", 3)]

        return handler

    found = testing.run(made("child"), None, children={"child": 5, "other": 6})
    journal = [encode_entry(e) for e in found.journal]
    kinds = [type(e).__name__ for e in found.journal]
    assert {"Called", "Arrived"} <= set(kinds)
    for cut in range(len(journal) + 1):  # also where a child has been open for years
        assert _findings(made("child"), journal[:cut]) == []
    (hit,) = _findings(made("kid"), journal)
    assert (hit.code, hit.step) == ("JOURNAL_MISMATCH", "call child#1")
    (hit,) = _findings(made("child", "another"), journal)
    assert hit.code == "JOURNAL_MISMATCH"


def test_plain_handlers_are_followed_too() -> None:
    def before(payload: Any) -> Any:
        return [sync.run("a", _text), sync.gather(lambda: pack_up("x"), lambda: pack_up("y"))]

    def after(payload: Any) -> Any:
        return [sync.run("b", _text), pack_up("x")]

    journal = [encode_entry(e) for e in testing.run(before, None).journal]
    assert _findings(before, journal) == []
    (hit,) = _findings(after, journal)
    assert (hit.code, hit.step, hit.seq) == ("JOURNAL_MISMATCH", "a#1", 1)


def _text() -> str:
    return "text"


def test_a_handler_that_waits_for_something_else_is_told_and_is_no_break() -> None:
    async def waits(payload: Any) -> Any:
        found = [await run("look", _note)]
        await asyncio.get_running_loop().create_future()
        return [*found, await run("again", _note)]

    journal = [encode_entry(e) for e in testing.run(_plain_pair, 1).journal]
    (hit,) = _findings(waits, journal)
    assert (hit.code, hit.breaks, hit.step) == ("STANDS_STILL", False, "again#1")


def test_what_cannot_be_read_is_said_so() -> None:
    record = _record([b"\x92\x7f\x01"])
    (hit,) = rehearse({"": spec_of(original)}, record)
    assert (hit.code, hit.breaks) == ("UNREADABLE", True)
    (hit,) = rehearse({"other": spec_of(original), "more": spec_of(original)}, _record([]))
    assert hit.code == "UNKNOWN_TYPE"
    with pytest.raises(ConfigurationError):
        rehearse({"": spec_of(original)}, {"nothing": 1})
