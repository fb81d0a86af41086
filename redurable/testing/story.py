"""
A handler's whole life in a function call: no server, no worker, and waiting takes no time.

The engine is the real one (attempts, journal, replay); only the store is in memory and the clock virtual. Invariants:
the same handler, payload and options give an intent of the same id, so `random()` and `uuid4()` repeat; what ends a
run is an outcome, or an error of this module that says why there is none.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

import msgspec

from redurable.clock import Moment, Seconds, deadline_ms, now_ms, seconds
from redurable.codec import encode
from redurable.errors import ConfigurationError, UsageError
from redurable.ids import derived_id, promise_text
from redurable.model import Envelope, Status
from redurable.options import check_texts
from redurable.runtime import scope
from redurable.runtime.attempt import Attempt
from redurable.runtime.handlers import HandlerSpec, spec_of
from redurable.runtime.resources import Resources
from redurable.runtime.steps import step_spec
from redurable.store.keys import check_session
from redurable.testing.clock import Clock, VirtualLoop
from redurable.testing.lease import Kill
from redurable.testing.life import Life
from redurable.testing.memory import FINAL, MemoryIntent
from redurable.testing.outside import Outside
from redurable.testing.report import Run

__all__ = ["RunOptions", "live", "run"]

P = ParamSpec("P")
R = TypeVar("R")
MOST_ATTEMPTS = 2000
Stub = Any


class RunOptions(TypedDict, total=False):
    """
    How an intent is run in memory; seconds are virtual.

    Keys:
        stub: What steps do instead of running their bodies, by the step or its name (also `run`'s, and undo work's):
            a function, async or not, called with the step's arguments; an exception to raise; else the value.
        resolve: What promises get as soon as the handler waits for them, by their name (or "name#index"): a value, an
            exception to reject them with, or a function that returns or raises one. An approval takes an outcome, or
            {"outcome": ..., "value": ...}.
        children: What comes of `call` and `send`, by queue or handler: a result, an exception, or a function, async or
            not, called with the payload. An `IntentFailed` tells how the child ended; nobody else runs it.
        depends: Objects for `Depends`, by the function that would make them.
        crash_after: The worker dies once the journal holds so many entries, or a call of this name has ended; in a
            list, one death after the other. Another attempt carries on. 0: nothing was recorded.
        cancel_after: Seconds from sending to a cancel.
        delay, deadline, labels, key: As for `Client.send`; its session has nobody else in line.
        state: What the session's state holds before, names and values. `Run.state` is what it holds after.
        now: The time at which it is sent, an aware datetime; the present by default.
    """

    stub: Mapping[Any, Stub]
    resolve: Mapping[str, Any]
    children: Mapping[Any, Any]
    depends: Mapping[Callable[..., Any], Any]
    crash_after: int | str | Sequence[int | str]
    cancel_after: Seconds | None
    delay: Seconds | None
    deadline: Moment | None
    labels: dict[str, str] | None
    key: str | None
    state: Mapping[str, Any]
    now: datetime | None


@overload
def run(
    handler: Callable[..., Coroutine[Any, Any, R]], payload: Any = None, **options: Unpack[RunOptions]
) -> Run[R]: ...
@overload
def run(handler: Callable[..., R], payload: Any = None, **options: Unpack[RunOptions]) -> Run[R]: ...
def run(handler: Any, payload: Any = None, **options: Unpack[RunOptions]) -> Run[Any]:
    """
    Run *handler* in memory to its outcome, and return what happened.

    Sleeps, pauses before retries, delays, deadlines, timeouts and `asyncio.sleep` pass in virtual time: a day takes
    milliseconds. While a body works in a thread, or has a socket open, time passes as it does. Steps run for real
    unless they are stubbed. It blocks; in async code it runs in a thread of its own.

    Args:
        handler: A handler, or any function that could be one, with its policy.
        payload: As for `Client.send`.
        options: See `RunOptions`.

    Raises:
        ConfigurationError: An argument, or the handler, cannot be used.
        SerialisationError: The payload cannot be stored.
        UsageError: STUCK: it waits for something that never comes, at the place named; or it is held, as it does not
            repeat what its journal holds. ENDLESS: it has not ended after 2000 attempts. NO_SUCH_ENTRY: it ended
            before the place of *crash_after*. NEVER_ASKED: *resolve* or *children* has a name that the handler did not
            ask for.
    """
    return live(handler, payload, options, _kills(options.get("crash_after", ())))


def live(handler: Any, payload: Any, options: RunOptions, kills: Sequence[Kill]) -> Run[Any]:
    """Run *handler* as `run` does, its attempts cut by *kills*, one after the other."""
    if unknown := sorted(set(options) - set(RunOptions.__annotations__)):
        raise ConfigurationError(
            f"there is no option {unknown[0]!r}", hint=f"the options are: {', '.join(RunOptions.__annotations__)}"
        )
    check_texts("", None, options.get("labels"))
    spec = spec_of(handler)
    story = _Story(spec, encode(payload, f"the payload of {spec.name}"), options, list(kills))

    def drive() -> Run[Any]:
        in_worker = scope.in_worker
        scope.mark_worker()
        try:
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                return runner.run(story.tell())
        finally:
            scope.mark_worker(in_worker)

    if not _in_a_loop():
        return drive()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(copy_context().run, drive).result()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Story:
    """One run, from sending to the outcome."""

    def __init__(self, spec: HandlerSpec, payload: bytes, options: RunOptions, kills: list[Kill]) -> None:
        self.spec = spec
        self.kills = kills
        self._envelope = Envelope(type=spec.type, payload=msgspec.Raw(payload), labels=options.get("labels") or {})
        self._stubs = {_name_of(key): _stand_in(stub) for key, stub in options.get("stub", {}).items()}
        self._outside = Outside(options.get("resolve", {}), options.get("children", {}))
        self._depends = options.get("depends", {})
        self._key = options.get("key")
        self._state = {n: encode(v, f"state={{{n!r}: ...}}") for n, v in options.get("state", {}).items()}
        if self._key is not None:
            check_session(self._key)
        elif self._state:
            raise ConfigurationError("state= is the state of a session: give its key= too")
        start = options.get("now")
        self._sent = now_ms() if start is None else deadline_ms(start, 0, "now")
        self._start = _after(options.get("delay"), self._sent, "delay")
        deadline = options.get("deadline")
        if deadline is None:
            deadline = spec.timeout
        self._deadline = None if deadline is None else deadline_ms(deadline, self._sent)
        cancel = _after(options.get("cancel_after"), self._sent, "cancel_after")
        asked = [(cancel, Status.CANCELED), (self._deadline, Status.TIMED_OUT)]
        self._interrupts = sorted((at, status) for at, status in asked if at is not None)

    async def tell(self) -> Run[Any]:
        """Run attempts until the intent has ended."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        clock = Clock(lambda: self._sent / 1000 + loop.time() - begun)
        spec = self.spec
        intent = MemoryIntent(
            clock, id=derived_id(0, "testing", spec.name, bytes(self._envelope.payload).hex()), queue=spec.queue,
            deadline=self._deadline, start=self._start, session=self._key, state=dict(self._state),
        )  # fmt: skip
        resources = Resources(self._depends)
        life = _Life(spec, self._envelope, intent, resources)
        life.stubs = {**self._stubs, **self._outside.attach(intent)}
        try:
            await self._live(life, intent)
            with clock.worn():
                await resources.close()
        finally:
            loop.attempt = None  # type: ignore[attr-defined]  # the loop is the virtual one
        if self.kills:
            raise UsageError(
                f"the run ended with {len(intent.journal)} entries before {_place_of(self.kills[0])}",
                code="NO_SUCH_ENTRY",
                hint="see the journal of a run without crash_after",
            )
        if unused := self._outside.unused(intent.status == "COMPLETED"):
            raise UsageError(
                f"{spec.name} ended {intent.status} without having asked for all: {unused}", code="NEVER_ASKED",
                hint="a misspelled name? give only what this run asks for",
            )  # fmt: skip
        return Run.of(spec, intent, elapsed_ms=clock.now_ms() - self._sent)

    async def _live(self, life: _Life, intent: MemoryIntent) -> None:
        clock = intent.clock
        while intent.status not in FINAL:
            first = self._interrupts[0][0] if self._interrupts else None
            due = clock.now_ms() if intent.status == "SUBMITTED" else intent.head["wake"]
            if due is None and first is None:
                asked = ", ".join(sorted(promise_text(k) for k, v in intent.arrivals.items() if v == "?"))
                unused = self._outside.unused(came_so_far=True)
                raise UsageError(
                    f"{self.spec.name} waits for what nobody brings: {asked}" + (f" ({unused})" if unused else ""),
                    code="STUCK",
                    hint="give run(..., resolve={name: value}), or test it on a real server",
                )  # fmt: skip
            if first is not None and (due is None or first <= due):
                clock.reach(first)
                intent.interrupt(self._interrupts.pop(0)[1])
            elif intent.status != "SUBMITTED":
                intent.fire()
            elif intent.head.get("attempt", 0) >= MOST_ATTEMPTS:
                raise UsageError(f"{self.spec.name} has not ended after {MOST_ATTEMPTS} attempts", code="ENDLESS")
            else:
                await self._attempt(life, intent)

    async def _attempt(self, life: _Life, intent: MemoryIntent) -> None:
        loop = asyncio.get_running_loop()
        timer = None
        if self._interrupts:
            at, status = self._interrupts[0]

            def interrupt() -> None:
                self._interrupts.pop(0)
                intent.interrupt(status)

            timer = loop.call_at(loop.time() + (at - intent.clock.now_ms()) / 1000, interrupt)
        ended = await life.attempt(self.kills[0] if self.kills else None)
        if self._outside.error is not None:
            raise self._outside.error
        if ended == "killed":
            self.kills.pop(0)
        elif ended == "held":
            raise UsageError(f"{self.spec.name} is held: {intent.head.get('held', '')}", code="STUCK")
        if timer is not None:
            timer.cancel()


class _Life(Life):
    stubs: Mapping[str, Callable[..., Coroutine[Any, Any, Any]]]

    def prepare(self, attempt: Attempt) -> None:
        attempt.stand_ins = self.stubs


def _after(delay: Seconds | None, sent: int, name: str) -> int | None:
    return None if delay is None else sent + round(seconds(delay, name) * 1000)


def _kills(places: int | str | Sequence[int | str]) -> list[Kill]:
    kills = []
    for place in places if isinstance(places, Sequence) and not isinstance(places, str) else [places]:
        if isinstance(place, str):
            kills.append(Kill(step=place))
        elif isinstance(place, int) and place >= 0:
            kills.append(Kill(at=place) if place else Kill(before=1))
        else:
            raise ConfigurationError(f"crash_after= takes numbers of entries and names of steps, not {place!r}")
    return kills


def _place_of(kill: Kill) -> str:
    return f"{kill.step!r} had ended" if kill.step is not None else f"it had {kill.at or kill.before}"


def _name_of(key: Any) -> str:
    if isinstance(key, str):
        return key
    spec = step_spec(key)
    if spec is not None:
        return spec.name
    name = getattr(key, "__name__", None)
    if not isinstance(name, str):
        raise ConfigurationError(f"stub= is by steps or their names, not by {key!r}")
    return name


def _stand_in(stub: Any) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def stand_in(*args: Any, **kwargs: Any) -> Any:
        if isinstance(stub, BaseException) or (isinstance(stub, type) and issubclass(stub, BaseException)):
            raise stub
        value = stub(*args, **kwargs) if callable(stub) else stub
        return await value if inspect.isawaitable(value) else value

    return stand_in
