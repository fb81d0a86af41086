"""What durable calls do outside of an intent: in a program that is no worker, and in a worker that has lost it."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import redurable
from redurable import (
    Retry,
    UsageError,
    checkpoint,
    compensate,
    current,
    fencing_token,
    idempotency_key,
    is_replaying,
    last_checkpoint,
    run,
    sleep,
    sleep_until,
    step,
    sync,
    testing,
    unwinding,
    uuid4,
)

tries: list[int] = []


@step(retry=Retry(attempts=5, first=60), timeout=0.001)
async def fails(n: int) -> int:
    tries.append(n)
    await asyncio.sleep(0.01)  # longer than its timeout
    raise ValueError("no")


@step
async def plain(n: int) -> object:
    return {n}  # not to be stored as it is


@step
def blocking(n: int) -> int:
    return threading.get_ident() * n


def test_an_async_step_is_an_ordinary_call() -> None:
    tries.clear()
    with pytest.raises(ValueError, match="no"):
        asyncio.run(fails(1))
    assert tries == [1], "it is not retried"
    assert asyncio.run(plain(3)) == {3}, "what it returns is not restored from storage"


def test_a_plain_step_runs_where_it_is_called_and_its_aio_in_a_thread() -> None:
    assert blocking(1) == threading.get_ident()
    assert asyncio.run(blocking.aio(1)) != threading.get_ident()


def test_run_is_an_ordinary_call_a_plain_function_in_a_thread() -> None:
    async def main() -> None:
        assert await run("plain", blocking, 1) != threading.get_ident()
        assert await run("coroutine", plain, 1) == {1}
        with pytest.raises(ValueError, match="no"):
            await run.with_(retry=Retry(attempts=3))("fails", fails, 1)

    asyncio.run(main())
    assert sync.run("plain", blocking, 1) == threading.get_ident()


def test_sleep_waits_in_the_process() -> None:
    async def main() -> None:
        await sleep(0.02)
        await sleep_until(datetime.now(UTC) + timedelta(seconds=0.02))

    begun = time.monotonic()
    asyncio.run(main())
    sync.sleep(0.02)
    sync.sleep_until(timedelta(seconds=0.02))
    assert time.monotonic() - begun > 0.07


def test_time_and_chance_are_the_real_ones() -> None:
    before = datetime.now(UTC)
    assert before <= redurable.now() <= datetime.now(UTC)
    assert redurable.random() != redurable.random()
    assert uuid4() != uuid4()
    assert uuid4().version == 4


def test_an_idempotency_key_is_fresh_at_every_call() -> None:
    assert idempotency_key() != idempotency_key()
    uuid.UUID(idempotency_key())


def test_checkpoints_and_undo_work_are_nothing() -> None:
    undone: list[int] = []

    async def main() -> Any:
        await checkpoint({"page": 2})
        return await last_checkpoint(default={"page": 1})

    compensate(undone.append, 1)
    assert asyncio.run(main()) == {"page": 1}
    sync.checkpoint({"page": 2})
    assert sync.last_checkpoint(default=0) == 0
    assert undone == []


def test_nothing_replays_and_nothing_unwinds() -> None:
    assert not is_replaying()
    assert not unwinding()


@pytest.mark.parametrize("call", [current, fencing_token])
def test_what_names_the_attempt_is_an_error(call: Callable[[], Any]) -> None:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.code == "OUTSIDE_INTENT"
    assert "redurable.testing" in caught.value.hint


def test_sync_gather_runs_its_thunks_in_threads() -> None:
    assert len(set(sync.gather(*[lambda: blocking(1)] * 3))) > 0
    assert threading.get_ident() not in sync.gather(*[lambda: blocking(1)] * 3)


CALLS: dict[str, Callable[[], Any]] = {
    "step": lambda: blocking(1),
    "async step": lambda: asyncio.run(plain(1)),
    "run": lambda: asyncio.run(run("x", plain, 1)),
    "sync.run": lambda: sync.run("x", blocking, 1),
    "sleep": lambda: asyncio.run(sleep(0)),
    "sleep_until": lambda: asyncio.run(sleep_until(0)),
    "sync.sleep": lambda: sync.sleep(0),
    "sync.gather": lambda: sync.gather(lambda: 1),
    "now": redurable.now,
    "random": redurable.random,
    "uuid4": uuid4,
    "idempotency_key": idempotency_key,
    "checkpoint": lambda: asyncio.run(checkpoint(1)),
    "last_checkpoint": lambda: asyncio.run(last_checkpoint()),
    "compensate": lambda: compensate(print),
    "current": current,
    "fencing_token": fencing_token,
}
ASKS = {"is_replaying": is_replaying, "unwinding": unwinding}


@pytest.mark.parametrize("name", [*CALLS, *ASKS])
def test_in_a_worker_what_lost_its_intent_says_so(name: str) -> None:
    said: list[Any] = []

    def lose() -> None:
        try:
            said.append((CALLS | ASKS)[name]())
        except UsageError as error:
            said.append(error.code)

    def handler(payload: None) -> None:
        thread = threading.Thread(target=lose)  # a bare one: it carries no context
        thread.start()
        thread.join()

    assert testing.run(handler).status == "COMPLETED"
    assert said == ([False] if name in ASKS else ["OUTSIDE_INTENT"])


def test_every_durable_call_is_in_the_table_of_the_readme() -> None:
    from tests.testing_kit.test_as_a_user import README

    table = README.read_text().split("Outside an intent, in a program")[1].split("## ")[0]
    assert not [name for name in {**CALLS, **ASKS} if name.split(".")[-1].split()[-1] not in table + "gather"]
