"""
The application of the conformance tests: one handler a scenario, named `cf.<scenario>`, each told by its payload what
to do. Bodies leave lines in the ledger of `tests.crash.app`, which redurable never reads.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from redurable import (
    Client,
    PromiseRejected,
    Retry,
    RetryLater,
    StepFailed,
    TerminalError,
    approval,
    call,
    checkpoint,
    compensate,
    current,
    handler,
    idempotency_key,
    last_checkpoint,
    promise,
    race,
    random,
    run,
    send,
    sleep,
    state,
    step,
    sync,
    uuid4,
)
from redurable.errors import IntentFailed
from tests.crash.app import ROOM, gate, note

HERE = json.loads(os.environ.get("REDURABLE_CHILD", "{}"))  # what this worker process was told
QUICK = Retry(attempts=4, first=0.01, jitter=False)
ONCE = Retry(attempts=1)
TWICE = Retry(attempts=2, first=0.01, jitter=False)


class Flaky(Exception):
    """What goes away by itself."""


@step
async def mark(name: str) -> str:
    note(name)
    return name


@step
async def held(name: str) -> str:
    """A body that lasts until the test opens the gate *name*."""
    note(name)
    await gate(name)
    return name


async def undone(name: str) -> None:
    note(f"undo:{name}")


def raise_once() -> None:
    """End the first attempt, so that a second replays what it did."""
    if current().attempt == 1:
        raise Flaky("once")


# --- calls ----------------------------------------------------------------------------------------------------------


@handler(queue="cf.echo")
async def echo(payload: Any) -> Any:
    await mark("echo")
    return payload


@handler(queue="cf.double")
def double(payload: int) -> int:
    return payload * 2


@handler(queue="cf.gated")
async def gated(payload: dict[str, Any]) -> Any:
    """Ends when its gate is open."""
    await held(payload["gate"])
    return payload.get("value")


@handler(queue="cf.factorial")
async def factorial(n: int) -> int:
    """Calls itself: a chain of *n* intents."""
    return 1 if n <= 1 else n * await call(factorial, n - 1)


@handler(queue="cf.fan", retry=QUICK)
async def fan(payload: dict[str, Any]) -> Any:
    """Calls, or sends to, what it is told."""
    to, items = payload["to"], payload["items"]
    if payload.get("send"):
        sent = [await send(to, item, **payload.get("options", {})) for item in items]
        raise_once()
        return sent
    if payload.get("in_turn"):
        return [await call(to, item) for item in items]
    got = await asyncio.gather(*(call(to, item) for item in items))
    raise_once()
    return got


@handler(queue="cf.keyed")
async def keyed(payload: dict[str, Any]) -> int:
    """The *n*-th of its session: begins, works, parks if it is told to, ends."""
    n = payload["n"]
    note(f"begin:{n}")
    seen = await state.get("seen", of=list[int], default=[])
    await mark(f"work:{n}")
    if payload.get("nap"):
        await sleep(1.05)
    await state.set("seen", [*seen, n])
    note(f"end:{n}")
    return len(seen)


# --- waits, to be cancelled -----------------------------------------------------------------------------------------


@step(on_cancel="interrupt")
async def interruptible() -> None:
    note("inside")
    await asyncio.sleep(3600)


@step(on_cancel="interrupt")
async def checkpointed() -> None:
    n = await last_checkpoint(int, 0)
    note("inside")
    while True:
        n += 1
        await checkpoint(n)
        await asyncio.sleep(0.01)


@step(on_cancel="interrupt")
async def outer() -> None:
    await interruptible()


@step(retry=Retry(attempts=3, first=3600, max_delay=3600, jitter=False))
async def hopeful() -> None:
    raise Flaky("in an hour perhaps")


async def in_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(sleep(3600))
        group.create_task(promise("a").wait())


async def naps() -> None:
    while True:
        note("inside")
        await sleep(0.2)


async def foreign() -> None:
    note("inside")
    await asyncio.sleep(3600)


async def first_of() -> None:
    tasks = [asyncio.create_task(sleep(3600)), promise("a").task()]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


WAITS: dict[str, Callable[[], Awaitable[Any]]] = {
    "sleep": lambda: sleep(3600),
    "naps": naps,
    "promise": lambda: promise("a"),
    "promise_with_limit": lambda: promise("a").wait(timeout=3600),
    "approval": lambda: approval("publish", title="Publish it?", outcomes=("yes", "no")),
    "call": lambda: call(waits, "promise"),
    "call_in_call": lambda: call(waits, "call"),
    "gather": lambda: asyncio.gather(sleep(3600), promise("a"), call(waits, "sleep")),
    "group": in_group,
    "wait": first_of,
    "race": lambda: race(a=promise("a"), b=sleep(3600), c=call(waits, "promise")),
    "step": interruptible,
    "nested_step": outer,
    "checkpointed_step": checkpointed,
    "run": lambda: run.with_(on_cancel="interrupt")("work", foreign),
    "step_backoff": hopeful,
    "foreign": foreign,
}
SYNC_WAITS: dict[str, Callable[[], Any]] = {
    "sleep": lambda: sync.sleep(3600),
    "promise": lambda: sync.promise("a").wait(),
    "call": lambda: sync.call(waits, "promise"),
    "gather": lambda: sync.gather(lambda: sync.sleep(3600), lambda: sync.promise("a").wait()),
    "approval": lambda: sync.approval("publish", title="Publish it?", outcomes=("yes", "no")).wait(),
}
PARKED = [kind for kind in WAITS if kind not in (
    "naps", "step", "nested_step", "checkpointed_step", "run", "foreign")]  # fmt: skip
RUNNING = [kind for kind in WAITS if kind not in PARKED]


@handler(queue="cf.waits")
async def waits(kind: str) -> None:
    """Waits for ever, in the way that it is told."""
    compensate(undone, kind)
    await mark("begun")
    await WAITS[kind]()


@handler(queue="cf.sync_waits")
def sync_waits(kind: str) -> None:
    compensate(undone, kind)
    sync.run("begun", note, "begun")
    SYNC_WAITS[kind]()


@handler(queue="cf.backoff", retry=Retry(attempts=3, first=3600, max_delay=3600, jitter=False))
async def backoff(payload: None) -> None:
    """Between two attempts, for an hour."""
    compensate(undone, "backoff")
    await mark("begun")
    if current().attempt == 1:
        raise Flaky("in an hour perhaps")
    await mark("again")


@handler(queue="cf.stubborn")
async def stubborn(payload: dict[str, Any]) -> str:
    """A step that has to finish, and a handler that makes of its cancel what it is told."""
    try:
        await held(payload["gate"])
        await mark("after")
    except asyncio.CancelledError:
        if payload["then"] == "return":
            return "as if nothing had been"
        if payload["then"] == "fail":
            raise ValueError("in the wrong moment") from None
        if payload["then"] == "tidy":
            await mark("tidied")
        raise
    return "not cancelled"


# --- promises -------------------------------------------------------------------------------------------------------


@handler(queue="cf.promises", retry=QUICK)
async def promises(payload: dict[str, Any]) -> Any:
    """Awaits the promises of these names, one after the other, before or after a gate."""
    if "gate" in payload:
        await held(payload["gate"])
    got = []
    for name in payload["names"]:
        try:
            got.append(await promise(name, str).wait(timeout=payload.get("timeout")))
        except PromiseRejected as error:
            got.append(f"rejected: {error.reason}")
        except TimeoutError:
            got.append("late")
    raise_once()
    return got


@handler(queue="cf.mailed")
async def mailed(payload: None) -> Any:
    """Gives its token away, by a step; returns what came for it."""
    answer = promise("answer", int)
    await run("mail", post, answer.token)
    return await answer


async def post(token: str) -> str:
    return token


@handler(queue="cf.friend")
async def friend(payload: dict[str, str]) -> None:
    """Another intent that resolves a promise, by a client in a step."""
    await run("resolve", resolved, payload["intent"], payload["name"], payload["value"])


async def resolved(intent: str, name: str, value: str) -> None:
    async with Client(HERE["url"], namespace=HERE["namespace"]) as client:
        await client.resolve(intent, name, value)


# --- combinators ----------------------------------------------------------------------------------------------------


async def after(seconds: float, value: Any) -> Any:
    await sleep(seconds)
    if isinstance(value, str) and value.startswith("!"):
        raise TerminalError(value[1:])
    return value


async def settled(coroutines: list[Coroutine[Any, Any, Any]]) -> list[str]:
    got = await asyncio.gather(*coroutines, return_exceptions=True)
    return [f"!{value.message}" if isinstance(value, TerminalError) else value for value in got]


async def first_good(coroutines: list[Coroutine[Any, Any, Any]]) -> str:
    """The first that succeeds; those that fail before are passed over."""
    tasks = {asyncio.ensure_future(coroutine) for coroutine in coroutines}
    errors = []
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is None:
                for other in tasks:
                    other.cancel()
                return str(task.result())
            errors.append(task.exception())
    return "all failed: " + ", ".join(sorted(str(getattr(error, "message", error)) for error in errors))


@handler(queue="cf.combine", retry=QUICK)
async def combine(payload: dict[str, Any]) -> Any:
    """Combines sleeps of so many seconds that give, or raise (!), a value; then an attempt is lost and replayed."""
    parts = [after(seconds, value) for seconds, value in payload["parts"]]
    kind = payload["kind"]
    result: Any
    try:
        if kind == "all":
            result = await asyncio.gather(*parts)
        elif kind == "settled":
            result = await settled(parts)
        elif kind == "any":
            result = await first_good(parts)
        elif kind == "as_completed":
            result = [await part for part in asyncio.as_completed(parts)]
        else:
            won = await race(**{f"c{n}": part for n, part in enumerate(parts)})
            result = [won.name, won.value]
    except TerminalError as error:
        result = f"raised {error.message}"
    await mark("combined")
    raise_once()
    return result


@handler(queue="cf.mixture", retry=QUICK)
async def mixture(payload: dict[str, Any]) -> Any:
    """All kinds of waits at once."""
    got = await asyncio.gather(
        mark("step"), call(double, 21), promise("a", str).wait(), after(0.05, "slept"), run("inline", post, "run")
    )
    raise_once()
    return got


@handler(queue="cf.contest", retry=QUICK)
async def contest(payload: dict[str, Any]) -> Any:
    """Two promises and a child against each other."""
    won = await race(a=promise("a", str), b=promise("b", str), c=call(gated, payload))
    raise_once()
    return [won.name, won.value]


@handler(queue="cf.limit", retry=QUICK)
async def limit(payload: dict[str, Any]) -> Any:
    """A call with a time limit: a race against a clock."""
    won = await race(result=call(gated, payload), late=sleep(payload["seconds"]))
    raise_once()
    return won.name


# --- failures -------------------------------------------------------------------------------------------------------


@step(retry=Retry(attempts=5, first=0.01, jitter=False))
async def flaky_step(fails: int) -> int:
    note("try")
    count = int(await last_checkpoint(int, 0)) + 1
    await checkpoint(count)
    await asyncio.sleep(0.11)  # a checkpoint is kept ten times a second at most
    if count <= fails:
        raise Flaky(f"try {count}")
    return count


@step(retry=Retry(attempts=5, first=0.01, jitter=False, on=(Flaky,)))
async def picky(kind: str) -> str:
    note("try")
    if kind == "terminal":
        raise TerminalError("never again", code="NO_STOCK", details={"left": 0})
    if kind == "later":
        raise RetryLater(0.01)
    if kind == "other":
        raise ValueError("not of that kind")
    raise Flaky(kind)


@step(retry=Retry(attempts=2, first=0.01, jitter=False), timeout=0.1)
async def slow_step() -> None:
    note("try")
    await asyncio.sleep(3600)


@handler(queue="cf.retries", retry=ONCE)
async def retries(payload: dict[str, Any]) -> Any:
    """A step that fails so often, or in this way; *caught*: the handler goes on with what it raised."""
    try:
        if payload["kind"] == "flaky":
            return await flaky_step(payload["fails"])
        if payload["kind"] == "slow":
            return await slow_step()
        return await picky(payload["kind"])
    except StepFailed as error:
        if not payload.get("caught"):
            raise
        await mark("went_on")
        return [error.type.rpartition(".")[2], error.tries, error.code, error.details, error.matches(Flaky)]


@handler(queue="cf.fails", retry=Retry(attempts=3, first=0.01, jitter=False))
async def fails(payload: dict[str, Any]) -> Any:
    """The handler itself raises: so many times, or for good."""
    await mark("before")
    note("attempt")
    if payload["kind"] == "terminal":
        raise TerminalError("out of stock", code="NO_STOCK")
    if payload["kind"] == "later" and current().attempt == 1:
        raise RetryLater(0.01)
    if payload["kind"] == "flaky" and current().attempt <= payload["fails"]:
        raise Flaky(f"attempt {current().attempt}")
    return current().attempt


@handler(queue="cf.caller", retry=ONCE)
async def caller(payload: dict[str, Any]) -> Any:
    """Calls what fails; *caught*: tells what it got."""
    try:
        return await call(payload["to"], payload["with"])
    except IntentFailed as error:
        if not payload.get("caught"):
            raise
        return [str(error.status), error.error.type.rpartition(".")[2], error.error.message, error.code]


@handler(queue="cf.sleepy", retry=QUICK)
async def sleepy(payload: dict[str, Any]) -> Any:
    """Sleeps while attempts fail: the clock goes on, and is not set anew."""
    nap = asyncio.create_task(sleep(payload["seconds"]))
    await asyncio.sleep(0)
    await mark("sleeping")
    if current().attempt < 4:
        raise Flaky("meanwhile")
    await nap
    return current().attempt


@handler(queue="cf.undoes", retry=ONCE)
async def undoes(payload: dict[str, Any]) -> None:
    """Registers undo work step by step, and fails."""
    for n in range(payload["n"]):
        await mark(f"do:{n}")
        compensate(undone, str(n))
    raise TerminalError("all for nothing")


@handler(queue="cf.same", retry=QUICK)
async def same(payload: None) -> Any:
    """What is drawn and derived is the same in every attempt."""
    drawn = [random(), str(uuid4()), await run("key", key_of_step)]
    again = await run.with_(result=Any)("keep", kept, drawn)
    raise_once()
    return [drawn, again]


async def kept(value: Any) -> Any:
    return value


async def key_of_step() -> str:
    return idempotency_key()


# --- state ----------------------------------------------------------------------------------------------------------


@handler(queue="cf.state", retry=ONCE)
async def stateful(payload: list[list[Any]]) -> Any:
    """Does to its session's state what it is told, in order; returns what each read gave."""
    got: list[Any] = []
    for verb, *words in payload:
        if verb == "get":
            got.append(await state.get(words[0], default="none"))
        elif verb == "set":
            await state.set(words[0], words[1])
        elif verb == "delete":
            await state.delete(words[0])
        elif verb == "keys":
            got.append(await state.keys())
        elif verb == "fail":
            raise TerminalError("and what was written is gone")
        elif verb == "nap":
            await sleep(1.05)
        elif verb == "hold":
            await held(words[0])
    return got


@handler(queue="cf.state", type="reader", shared=True, retry=ONCE)
async def reader(payload: str) -> Any:
    return await state.get(payload, default="none")


@handler(queue="cf.state", type="vandal", shared=True, retry=ONCE)
async def vandal(payload: str) -> Any:
    await state.set(payload, "mine")


# --- changed code ---------------------------------------------------------------------------------------------------


async def deed(word: str) -> None:
    """Make one durable call: `step:a`, `sleep`, `call:queue`, `send:queue`, `promise:a`, `state:a`, `both:a+b`."""
    kind, _, rest = word.partition(":")
    if kind == "step":
        await run(rest, post, rest)
    elif kind == "sleep":
        await sleep(0.01)
    elif kind == "call":
        await call(f"cf.{rest}", 1)
    elif kind == "send":
        await send(f"cf.{rest}", 1)
    elif kind == "promise":
        await promise(rest).wait(timeout=0.01)
    elif kind == "state":
        await state.get(rest)
    elif kind == "both":
        await asyncio.gather(*(branch(part) for part in rest.split("+")))


async def branch(name: str) -> None:
    await run(name, post, name)


@handler(queue="cf.changed", retry=TWICE)
async def changed(payload: dict[str, list[str]]) -> str:
    """The code as it was until an attempt is lost at its end; as it is then; and as it was, once the test mended it."""
    lost, mended = ROOM / f"lost-{current().id}", ROOM / f"mended-{current().id}"
    new = lost.exists() and not mended.exists()
    for word in payload["after" if new else "before"]:
        try:
            await deed(word)
        except TimeoutError:
            continue
    if not lost.exists():
        lost.touch()
        raise Flaky("its code is changed")
    return "new" if new else "mended"


@handler(queue="cf.other")
async def other(payload: Any) -> Any:
    return payload


# --- a life with everything in it -----------------------------------------------------------------------------------


@step(id=lambda name, *_: name)
async def toil(name: str, seconds: float) -> str:
    note(name)
    await asyncio.sleep(seconds)
    return name


@handler(queue="cf.life", max_delivery_attempts=50)
async def life(payload: dict[str, Any]) -> list[Any]:
    """Steps, a short and a long sleep, children, a promise, branches; to be stopped anywhere."""
    got: list[Any] = [await toil("first", 0.02)]
    await sleep(0.2)
    got += await asyncio.gather(toil("left", 0.05), toil("right", 0.1), call(echo, 8))
    await sleep(1.1)
    got.append(await promise("go", str))
    for n in range(payload["n"]):
        got.append(await toil(f"late{n}", 0.05))
    won = await race(child=call(echo, 10), clock=sleep(30))
    got.append(won.value)
    return got
