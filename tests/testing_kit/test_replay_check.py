"""`testing.replay_check`: what it finds, and what it lets pass."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import pytest

import redurable
from redurable import (
    ConfigurationError,
    IntentFailed,
    Retry,
    TerminalError,
    compensate,
    current,
    idempotency_key,
    sleep,
    step,
    sync,
    testing,
)

charged: dict[str, int] = {}
ran: list[str] = []


@step(retry=Retry(attempts=3, first=60, jitter=False))
async def charge(cents: int) -> str:
    ran.append("charge")
    return f"receipt {charged.setdefault(idempotency_key(), cents)}"


@step
def count(word: str) -> int:
    ran.append(word)
    return len(word)


async def well(payload: int) -> Any:
    receipt = await charge(payload)
    compensate(count, "undo")
    await sleep(86_400)
    sizes = await asyncio.gather(count.aio(receipt), count.aio("x"), charge(2))
    return [receipt, sizes, str(redurable.uuid4()), redurable.random()]


def test_a_handler_that_repeats_itself_passes() -> None:
    ran.clear()
    run = testing.replay_check(well, 990, reset=charged.clear)
    assert run.result[:2] == ["receipt 990", [11, 1, "receipt 2"]]
    assert run.attempts == 2, "the run that is returned is the undisturbed one"
    assert len(ran) > 4 * (1 + len(run.journal)), "each entry has runs of its own"


def test_a_plain_handler_too() -> None:
    def main(payload: None) -> list[int]:
        first = count("one")
        sync.sleep(3600)
        return [first, *sync.gather(lambda: count("three"), lambda: count("seven!!"))]

    assert testing.replay_check(main).result == [3, 5, 7]


def test_failing_and_being_cancelled_are_outcomes_like_others() -> None:
    async def main(payload: None) -> None:
        compensate(count, "undo")
        await charge(1)
        await sleep(3600)
        raise TerminalError("no")

    failed = testing.replay_check(main)
    assert failed.error is not None
    assert failed.error.message == "no"
    assert [s.name for s in failed.steps] == ["charge", "count"]
    assert testing.replay_check(main, cancel_after=60).status == "CANCELED"
    assert testing.replay_check(main, deadline=60).status == "TIMED_OUT"


def test_a_result_that_hangs_on_the_clock_is_found() -> None:
    async def main(payload: None) -> float:
        await charge(1)
        return time.perf_counter()

    with pytest.raises(AssertionError) as caught:
        testing.replay_check(main)
    assert "a crash right before entry 1 of 1 (StepDone charge) changes the outcome" in str(caught.value)
    assert "undisturbed: COMPLETED" in str(caught.value)


def test_a_path_that_hangs_on_chance_is_found() -> None:
    numbers = random.Random(5)

    async def main(payload: None) -> None:
        for _ in range(6):
            await (charge(1) if numbers.random() < 0.5 else count.aio("x"))

    with pytest.raises(AssertionError, match="is held: JOURNAL_MISMATCH"):
        testing.replay_check(main)


def test_a_step_that_must_not_run_twice_is_found() -> None:
    ledger: list[int] = []

    @step
    async def pay() -> int:
        ledger.append(990)
        return sum(ledger)

    async def main(payload: None) -> int:
        return await pay()

    with pytest.raises(AssertionError, match="right before entry 1 of 1"):
        testing.replay_check(main, reset=ledger.clear)


def test_a_handler_that_asks_for_its_attempt_is_found() -> None:
    async def main(payload: None) -> int:
        await charge(1)
        return current().attempt

    with pytest.raises(AssertionError, match="COMPLETED 2"):
        testing.replay_check(main)


def test_stubs_serve_it_as_they_do_a_run() -> None:
    run = testing.replay_check(well, 1, stub={charge: "r", "count": 0})
    assert run.result[:2] == ["r", [0, 0, "r"]]


def test_it_does_its_own_crashing() -> None:
    with pytest.raises(ConfigurationError):
        testing.replay_check(well, 1, crash_after=1)


def test_a_run_that_failed_has_no_result() -> None:
    async def main(payload: None) -> None:
        raise TerminalError("no")

    with pytest.raises(IntentFailed):
        _ = testing.replay_check(main).result
