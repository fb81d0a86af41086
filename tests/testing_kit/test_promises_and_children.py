"""`testing.run(resolve=, children=)`: promises, approvals and calls without a server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from redurable import (
    ConfigurationError,
    IntentFailed,
    PromiseRejected,
    SerialisationError,
    UsageError,
    approval,
    call,
    continue_as_new,
    handler,
    promise,
    race,
    run,
    send,
    sleep,
    testing,
)
from redurable.model import Arrived, Called


@dataclass
class Parcel:
    number: int


@handler(queue="post")
async def post(parcel: Parcel) -> Parcel:
    raise AssertionError("a child is not run")


async def asking(payload: Any) -> Any:
    try:
        return [await promise("name", str), await promise("name", int, index=1)]
    except PromiseRejected as error:
        return f"rejected: {error.reason}"


@pytest.mark.parametrize(
    ("resolve", "result"),
    [
        ({"name": "ada", "name#1": 7}, ["ada", 7]),
        ({"name": lambda: "ada", "name#1": lambda: 7}, ["ada", 7]),
        ({"name": ValueError("no name")}, "rejected: no name"),
        ({"name": "ada", "name#1": LookupError}, "rejected: "),
    ],
)
def test_promises_get_values_and_rejections(resolve: Any, result: Any) -> None:
    told = testing.run(asking, resolve=resolve)
    assert told.result == result
    assert [e.at for e in told.journal if isinstance(e, Arrived)]
    testing.replay_check(asking, resolve=resolve)


def test_what_is_not_resolved_stays_open() -> None:
    async def patient(payload: None) -> str:
        try:
            return await promise("never", str).wait(timeout=86_400)
        except TimeoutError:
            return (await race(answer=promise("soon", str), late=sleep(3600))).name

    told = testing.run(patient, resolve={"soon": "yes"})
    assert told.result == "answer"
    assert told.elapsed >= 86_400
    with pytest.raises(UsageError, match=r"resolve=\{name: value\}") as caught:
        testing.run(asking, resolve={"other": 1})
    assert caught.value.code == "STUCK"


def test_a_value_that_does_not_fit_is_no_answer() -> None:
    with pytest.raises(UsageError) as caught:
        testing.run(asking, resolve={"name": "ada", "name#1": "seven"})
    assert caught.value.code == "STUCK"
    with pytest.raises(SerialisationError):
        testing.run(asking, resolve={"name": object()})
    with pytest.raises(ConfigurationError, match="names of promises"):
        testing.run(asking, resolve={asking: 1})


def test_approvals_take_an_outcome() -> None:
    async def publish(payload: None) -> Any:
        decision = await approval("publish", title="Publish it?", outcomes=("yes", "no"), of=int | None)
        return [decision.outcome, decision.value]

    assert testing.run(publish, resolve={"publish": "no"}).result == ["no", None]
    assert testing.run(publish, resolve={"publish": {"outcome": "yes", "value": 3}}).result == ["yes", 3]
    testing.replay_check(publish, resolve={"publish": "yes"})
    with pytest.raises(ConfigurationError, match="it allows yes, no") as caught:
        testing.run(publish, resolve={"publish": "perhaps"})
    assert caught.value.code == "BAD_OUTCOME"


async def calling(payload: Any) -> Any:
    first = await call(post, Parcel(1))
    both = await asyncio.gather(call("other", 2), call("other", 3))
    return [first.number, both]


def test_children_are_what_the_test_says() -> None:
    seen: list[Any] = []

    async def other(payload: int) -> int:
        seen.append(payload)
        await asyncio.sleep(3600)
        return payload * 2

    told = testing.run(calling, children={post: lambda parcel: Parcel(parcel.number + 1), "other": other})
    assert told.result == [2, [4, 6]]
    assert sorted(seen) == [2, 3]
    assert len([e for e in told.journal if isinstance(e, Called)]) == 3
    assert told.elapsed >= 3600
    testing.replay_check(calling, children={post: Parcel(9), "other": 1})


def test_a_child_is_run_once_whatever_dies() -> None:
    seen: list[Any] = []
    testing.run(calling, children={post: Parcel(1), "other": seen.append}, crash_after=[1, 2, 3, 4, 5])
    assert sorted(seen) == [2, 3]


@pytest.mark.parametrize(
    ("stub", "told"),
    [
        (ValueError("broken"), ["FAILED", "broken"]),
        (KeyError, ["FAILED", ""]),
        (IntentFailed("x", "CANCELED"), ["CANCELED", "intent x ended CANCELED"]),
    ],
)
def test_children_fail_as_the_test_says(stub: Any, told: list[str]) -> None:
    async def careful(payload: None) -> Any:
        try:
            await call("other")
        except IntentFailed as failed:
            return [failed.status, failed.error.message]

    assert testing.run(careful, children={"other": stub}).result == told

    def raises(payload: Any) -> None:
        raise stub

    assert testing.run(careful, children={"other": raises}).result == told


def test_what_is_sent_is_heard_of_by_the_test_alone() -> None:
    sent: list[Any] = []

    async def sending(payload: None) -> Any:
        ids = [await send("mail", n) for n in range(2)]
        return await run("count", lambda: len(set(ids)))

    assert testing.run(sending, children={"mail": sent.append}).result == 2
    assert sent == [0, 1]
    assert testing.run(sending).error.code == "TEST_WORKER"


def test_a_child_that_is_not_among_them_is_told() -> None:
    failed = testing.run(calling, children={post: Parcel(1)})
    assert failed.status == "FAILED"
    assert failed.error.code == "TEST_WORKER"
    assert "children={'other': ...}" in failed.error.message


def test_each_turn_asks_anew() -> None:
    names = iter("abc")

    async def turns(n: int) -> str:
        name = await promise("name", str)
        if n:
            continue_as_new(n - 1)
        return name

    assert testing.run(turns, 2, resolve={"name": lambda: next(names)}).result == "c"


def test_names_that_nobody_asked_for_are_told() -> None:
    async def patient(payload: None) -> str:
        try:
            return await promise("approved", str).wait(timeout=60)
        except TimeoutError:
            return "too late"

    async def hurt(payload: None) -> None:
        raise ValueError("before it asked")

    async def calls(payload: None) -> None:
        await call(post, Parcel(1))

    with pytest.raises(UsageError, match="resolve= has 'aproved', the handler asked for: approved") as caught:
        testing.run(patient, resolve={"aproved": "yes"})
    assert caught.value.code == "NEVER_ASKED"
    with pytest.raises(UsageError, match="has 'approved#1', the handler asked for: approved"):
        testing.run(patient, resolve={"approved": "yes", "approved#1": "yes"})
    with pytest.raises(UsageError, match="waits for what nobody brings: name#1") as stuck:
        testing.run(asking, resolve={"name": "ada", "name#2": 7})
    assert stuck.value.code == "STUCK"
    assert "'name#2'" in str(stuck.value), "what was given in vain stands beside what is waited for"
    with pytest.raises(UsageError, match="children= has 'mail', the handler called: post"):
        testing.run(calls, children={post: Parcel(2), "mail": 1})
    assert testing.run(hurt, resolve={"approved": "yes"}).status == "FAILED", "it had no time to ask"
    assert testing.run(patient, resolve={"approved": "yes"}).result == "yes"
