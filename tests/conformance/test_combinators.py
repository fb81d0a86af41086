"""All, all settled, any, first completed, with and without failures; and the same again on a replay."""

from __future__ import annotations

from typing import Any

import pytest

from redurable.errors import WrongState
from redurable.model import Called, Claimed
from tests.conformance.conftest import Site
from tests.support.fleet import until

pytestmark = pytest.mark.anyio
FAST, MIDDLE, SLOW = 0.02, 0.15, 0.4  # s; the journal decides who was first, whatever they are


CASES: dict[str, tuple[str, list[tuple[float, str]], Any]] = {
    "all": ("all", [(SLOW, "a"), (FAST, "b"), (MIDDLE, "c")], ["a", "b", "c"]),
    "all_of_nothing": ("all", [], []),
    "all_with_a_failure": ("all", [(SLOW, "a"), (FAST, "!b")], "raised b"),
    "all_with_two_failures": ("all", [(SLOW, "!a"), (FAST, "!b")], "raised b"),
    "settled": ("settled", [(SLOW, "a"), (FAST, "!b"), (MIDDLE, "c")], ["a", "!b", "c"]),
    "any": ("any", [(SLOW, "a"), (FAST, "b")], "b"),
    "any_passes_failures_over": ("any", [(SLOW, "a"), (FAST, "!b"), (MIDDLE, "c")], "c"),
    "any_when_all_fail": ("any", [(MIDDLE, "!a"), (FAST, "!b")], "all failed: a, b"),
    "as_completed": ("as_completed", [(SLOW, "a"), (FAST, "b"), (MIDDLE, "c")], ["b", "c", "a"]),
    "first": ("first", [(SLOW, "a"), (FAST, "b")], ["c1", "b"]),
    "first_is_a_failure": ("first", [(SLOW, "a"), (FAST, "!b")], "raised b"),
    "first_before_a_failure": ("first", [(FAST, "a"), (SLOW, "!b")], ["c0", "a"]),
    "first_of_one": ("first", [(FAST, "a")], ["c0", "a"]),
}


@pytest.mark.parametrize("name", CASES)
async def test_combinators_of_waits_replay(s: Site, name: str) -> None:
    kind, parts, expected = CASES[name]
    intent = await s.send("combine", {"kind": kind, "parts": parts})
    assert await s.result(intent) == expected
    assert len(await s.journal(intent, Claimed)) == 1, "it was replayed"
    assert s.lines(intent) == ["combined"]


async def test_all_kinds_of_waits_together(s: Site) -> None:
    intent = await s.send("mixture", {})
    await s.asked(intent, "a#0")
    await s.client.resolve(intent, "a", "promised")
    assert await s.result(intent) == ["step", 42, "promised", "slept", "run"]
    assert s.lines(intent) == ["step"]


@pytest.mark.parametrize("winner", ["a", "b"])
async def test_the_first_promise_wins_and_the_other_takes_no_value(s: Site, winner: str) -> None:
    intent = await s.send("contest", {"gate": f"contest-{winner}", "value": "child"})
    loser = "ba"["ab".index(winner)]
    await s.asked(intent, "a#0")
    await s.asked(intent, "b#0")
    await s.client.resolve(intent, winner, "won")
    assert await s.result(intent) == [winner, "won"]
    with pytest.raises(WrongState):
        await s.client.resolve(intent, loser, "lost")
    s.fleet.open(f"contest-{winner}")


async def test_a_child_wins(s: Site) -> None:
    intent = await s.send("contest", {"gate": "contest-c", "value": "child"})
    s.fleet.open("contest-c")
    assert await s.result(intent) == ["c", "child"]


async def test_a_call_with_a_limit_that_passes_is_cancelled(s: Site) -> None:
    intent = await s.send("limit", {"gate": "limit-late", "seconds": 0.3})
    assert await s.result(intent) == "late"
    (called,) = await s.journal(intent, Called)

    async def told() -> bool:
        return (await s.client.get(called.child)).canceling

    await until(told, 60)
    s.fleet.open("limit-late")


async def test_a_call_with_a_limit_that_does_not_pass(s: Site) -> None:
    intent = await s.send("limit", {"gate": "limit-early", "seconds": 3600})
    s.fleet.open("limit-early")
    assert await s.result(intent) == "result"
