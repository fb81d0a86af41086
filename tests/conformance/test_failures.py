"""Retries of side effects with limits, terminal and non-terminal errors, sleeping while attempts fail, undo work."""

from __future__ import annotations

import pytest

from redurable.model import StepTried, TimerSet
from tests.conformance.conftest import Site

pytestmark = pytest.mark.anyio


async def test_a_side_effect_is_tried_until_it_succeeds(s: Site) -> None:
    intent = await s.send("retries", {"kind": "flaky", "fails": 3})
    assert await s.result(intent) == 4
    assert s.lines(intent) == ["try"] * 4
    assert [entry.tries for entry in await s.journal(intent, StepTried)] == [1, 2, 3]


async def test_it_is_tried_no_more_often_than_it_may_be(s: Site) -> None:
    intent = await s.send("retries", {"kind": "flaky", "fails": 99})
    failure = await s.failure(intent)
    assert (failure.status, failure.code) == ("FAILED", "STEP_FAILED")
    assert "try 5" in failure.error.message
    assert s.lines(intent) == ["try"] * 5


OUTCOMES = {
    "terminal": (["TerminalError", 1, "NO_STOCK", {"left": 0}, False], 1),
    "other": (["ValueError", 1, "STEP_FAILED", {}, False], 1),
    "mine": (["Flaky", 5, "STEP_FAILED", {}, True], 5),
    "slow": (["TimeoutError", 2, "STEP_FAILED", {}, False], 2),
}


@pytest.mark.parametrize("kind", OUTCOMES)
async def test_a_handler_catches_what_failed_for_good_and_goes_on(s: Site, kind: str) -> None:
    told, tries = OUTCOMES[kind]
    intent = await s.send("retries", {"kind": kind, "caught": True})
    assert await s.result(intent) == told
    assert s.lines(intent) == ["try"] * tries + ["went_on"]


async def test_an_error_that_says_when_to_try_again_is_tried_again(s: Site) -> None:
    intent = await s.send("retries", {"kind": "later", "caught": True})
    assert (await s.result(intent))[0] == "RetryLater"
    assert len(s.lines(intent)) > 1


async def test_a_terminal_error_of_a_handler_is_final(s: Site) -> None:
    intent = await s.send("fails", {"kind": "terminal"})
    failure = await s.failure(intent)
    assert (failure.status, failure.code, failure.error.message) == ("FAILED", "NO_STOCK", "out of stock")
    assert s.lines(intent) == ["before", "attempt"]


@pytest.mark.parametrize("kind", ["flaky", "later"])
async def test_any_other_error_of_a_handler_is_followed_by_another_attempt(s: Site, kind: str) -> None:
    intent = await s.send("fails", {"kind": kind, "fails": 2})
    assert await s.result(intent) == (3 if kind == "flaky" else 2)
    assert s.lines(intent).count("before") == 1


async def test_a_handler_is_attempted_no_more_often_than_it_may_be(s: Site) -> None:
    intent = await s.send("fails", {"kind": "flaky", "fails": 99})
    failure = await s.failure(intent)
    assert failure.status == "FAILED"
    assert failure.error.message == "attempt 3"
    assert s.lines(intent) == ["before", "attempt", "attempt", "attempt"]


async def test_an_operator_lets_it_be_attempted_again(s: Site) -> None:
    intent = await s.send("fails", {"kind": "flaky", "fails": 4})
    assert (await s.failure(intent)).status == "FAILED"
    await s.client.retry(intent)
    assert await s.result(intent) == 5
    assert s.lines(intent).count("before") == 1


async def test_the_error_of_a_child_is_its_callers(s: Site) -> None:
    called = {"to": "cf.fails", "with": {"kind": "terminal"}, "caught": True}
    assert await s.call("caller", called) == ["FAILED", "TerminalError", "out of stock", "NO_STOCK"]


async def test_it_fails_the_caller_that_does_not_catch_it_and_that_ones_caller(s: Site) -> None:
    inner = {"to": "cf.fails", "with": {"kind": "terminal"}}
    failure = await s.failure(await s.send("caller", {"to": "cf.caller", "with": inner}))
    assert (failure.status, failure.code) == ("FAILED", "NO_STOCK")
    assert "out of stock" in failure.error.message


async def test_a_child_that_is_canceled_raises_in_its_caller(s: Site) -> None:
    intent = await s.send("caller", {"to": "cf.waits", "with": "promise", "caught": True})
    await s.until(intent)
    (child,) = await s.children(intent)
    await s.until(child.id)
    await s.client.cancel(child.id, "not needed")
    assert await s.result(intent) == ["CANCELED", "CANCELED", "not needed", "CANCELED"]


async def test_what_the_handler_does_not_take_fails_at_once(s: Site) -> None:
    failure = await s.failure(await s.send("double", "no number"))
    assert (failure.status, failure.code) == ("FAILED", "TYPE_MISMATCH")


async def test_a_sleep_goes_on_while_attempts_fail(s: Site) -> None:
    intent = await s.send("sleepy", {"seconds": 1.5})
    assert await s.result(intent) >= 4
    (timer,) = await s.journal(intent, TimerSet)
    info = await s.client.get(intent)
    assert info.finished is not None
    assert info.finished >= timer.due
    assert timer.due - timer.at == 1500
    assert s.lines(intent) == ["sleeping"]


async def test_what_failed_is_undone_in_reverse(s: Site) -> None:
    intent = await s.send("undoes", {"n": 3})
    failure = await s.failure(intent)
    assert failure.error.message == "all for nothing"
    assert s.lines(intent) == ["do:0", "do:1", "do:2", "undo:2", "undo:1", "undo:0"]


async def test_chance_and_keys_are_the_same_in_every_attempt(s: Site) -> None:
    drawn, kept = await s.call("same")
    assert drawn == kept
    assert drawn != (await s.call("same"))[0]
