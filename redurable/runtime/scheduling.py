"""
What a schedule is told to do, checked and made into the plan that is stored; and schedules that handlers declare.

Invariant: whatever could not be sent when a tick comes is refused when the schedule is put.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypedDict, TypeVar, Unpack, get_args

import msgspec

from redurable.clock import Seconds, seconds
from redurable.codec import NIL, Sealed, digest, encode
from redurable.codecs.base import Vault
from redurable.errors import ConfigurationError
from redurable.model import Priority
from redurable.options import check_texts
from redurable.runtime.handlers import HandlerSpec, handler, is_handler, spec_of
from redurable.store.keys import check_queue, check_session
from redurable.store.schedules import Overlap, Plan
from redurable.ticks import CatchUp, Rhythm

__all__ = ["Declaration", "ScheduleOptions", "declarations", "plan_of", "schedule"]

P = ParamSpec("P")
R = TypeVar("R")
_LANES: dict[Any, str] = {p: f"q:{p.value}" for p in Priority}
_ATTRIBUTE = "__redurable_schedules__"
_WINDOWS = {"all": 365 * 86_400.0, "one": 365 * 86_400.0, "none": 60.0}  # s that a tick may be late


class ScheduleOptions(TypedDict, total=False):
    """
    When a schedule sends, and how.

    Keys:
        cron: Five fields, minute hour day-of-month month day-of-week ("0 9 * * MON-FRI"), or six with seconds before
            them, or @hourly, @daily, @weekly, @monthly, @yearly.
        every: Seconds, or a timedelta, instead: ticks are its multiples since 1970.
        tz: The time zone of *cron*, "UTC" by default.
        overlap: What a tick does if the intent before it is open. "allow": it is sent all the same (the default).
            "skip": it is not sent. "queue": it waits for it, in the line of the session "schedule:<name>". "replace":
            the one before is cancelled, and this one begins when it has ended.
        catch_up: What is done about ticks that nobody was there to fire. "one": the latest is fired (the default).
            "all": each is, the oldest first, the newest 1,000 at most. "none": only if it is no more than a minute
            late. What is not fired is counted as missed.
        window: Seconds that a tick may be late and is still fired; a year by default, a minute with catch_up="none".
        jitter: Seconds; each tick is fired up to so much later, by an amount that is always the same for it.
        type, key, shared, deadline, priority, max_delivery_attempts, labels: As in `SendOptions`; the deadline is in
            seconds from the firing.
    """

    cron: str | None
    every: Seconds | None
    tz: str
    overlap: Overlap
    catch_up: CatchUp
    window: Seconds | None
    jitter: Seconds | None
    type: str
    key: str | None
    shared: bool | None
    deadline: Seconds | None
    priority: Priority | str
    max_delivery_attempts: int | None
    labels: dict[str, str] | None


async def plan_of(
    to: Any,
    payload: Any = None,
    *,
    limit: int,
    vault: Vault | None,
    declared: str = "",
    cron: str | None = None,
    every: Seconds | None = None,
    tz: str = "UTC",
    overlap: Overlap = "allow",
    catch_up: CatchUp = "one",
    window: Seconds | None = None,
    jitter: Seconds | None = None,
    type: str = "",
    key: str | None = None,
    shared: bool | None = None,
    deadline: Seconds | None = None,
    priority: Priority | str = Priority.NORMAL,
    max_delivery_attempts: int | None = None,
    labels: dict[str, str] | None = None,
) -> Plan:
    """Return the plan of a schedule that sends *payload* to *to*; the rest as in `ScheduleOptions`, if it can be."""
    rhythm = _rhythm(cron, every, tz, jitter)
    _check_words(overlap, catch_up, key)
    check_texts(type, None, labels)
    if vault is not None:
        payload = await vault.wrap(payload, limit)
    data = NIL if payload is None else encode(payload, "the payload", limit)
    queue, limit_s = to, deadline
    if not isinstance(to, str):
        spec = to if isinstance(to, HandlerSpec) else spec_of(to)
        spec.check(data)
        queue, type = spec.queue, type or spec.type
        limit_s = spec.timeout if deadline is None else deadline
        shared = spec.shared if shared is None else shared
    if shared and overlap in ("queue", "replace"):
        raise ConfigurationError(f"a shared handler waits in no line: overlap={overlap!r} cannot be kept")
    lane = _LANES.get(priority)
    if lane is None:
        raise ConfigurationError(f"priority is 'high', 'normal' or 'low', not {priority!r}")
    return Plan(
        rhythm=rhythm,
        queue=check_queue(queue),
        type=type,
        payload=msgspec.Raw(payload.data if isinstance(payload, Sealed) else data),
        digest=digest([type, payload]),
        labels=labels or {},
        lane=lane,
        deadline=None if limit_s is None else _ms(limit_s, "deadline"),
        max_losses=max_delivery_attempts,
        key=key or "",
        shared=bool(shared),
        overlap=overlap,
        catch_up=catch_up,
        window=_ms(_WINDOWS[catch_up] if window is None else window, "window"),
        declared=declared,
    )


def _rhythm(cron: str | None, every: Seconds | None, tz: str, jitter: Seconds | None) -> Rhythm:
    if cron is not None and not isinstance(cron, str):
        raise ConfigurationError(f"{cron!r} is no cron expression", code="BAD_CRON", hint='it is a text: "0 9 * * *"')
    rhythm = Rhythm(
        cron=(cron or "").strip(),
        every=0 if every is None else _ms(every, "every") or -1,
        tz=tz,
        jitter=0 if jitter is None else _ms(jitter, "jitter"),
    )
    if cron is not None and not rhythm.cron and every is None:
        raise ConfigurationError("the cron expression is empty", code="BAD_CRON", hint='for example: "0 9 * * MON-FRI"')
    rhythm.check()
    return rhythm


def _ms(value: Seconds, name: str) -> int:
    return round(seconds(value, name) * 1000)


def _check_words(overlap: str, catch_up: str, key: str | None) -> None:
    for name, value, known in (("overlap", overlap, get_args(Overlap)), ("catch_up", catch_up, get_args(CatchUp))):
        if value not in known:
            raise ConfigurationError(f"{name} is one of {', '.join(known)}, not {value!r}")
    if key is None:
        return
    check_session(key)
    if overlap in ("queue", "replace"):
        raise ConfigurationError(
            f"overlap={overlap!r} makes a session of the schedule's own: it takes no key",
            hint="intents with a key run one at a time anyhow: leave overlap out",
        )


# --- in code ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Declaration:
    """A schedule that stands in code, beside its handler."""

    name: str
    payload: Any
    options: ScheduleOptions


def schedule(
    *, name: str | None = None, payload: Any = None, **options: Unpack[ScheduleOptions]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    Run a handler by the clock: whoever serves it puts the schedule when it starts, as `client.schedules.put` does.

    The same declaration changes nothing, a changed one takes its place: the worker that started last is right, and with
    deployment versions the current one alone declares. What an operator paused stays paused. A schedule that is not
    declared any more goes on until it is deleted. Several may stand on one handler, with names of their own. The
    function itself stays as it is.

    Args:
        name: Of the schedule; by default the handler's "module.function".
        payload: What is sent to the handler at each tick.
        options: See `ScheduleOptions`.

    Raises:
        ConfigurationError: BAD_CRON, BAD_TIMEZONE, BAD_ARGUMENT.
    """
    if strange := options.keys() - ScheduleOptions.__annotations__.keys():
        raise ConfigurationError(f"@schedule knows no {', '.join(sorted(strange))}", hint="see ScheduleOptions")
    _rhythm(options.get("cron"), options.get("every"), options.get("tz", "UTC"), options.get("jitter"))
    _check_words(options.get("overlap", "allow"), options.get("catch_up", "one"), options.get("key"))

    def decorate(target: Callable[P, R]) -> Callable[P, R]:
        if not is_handler(target):
            handler(target)
        assert inspect.isfunction(target)
        known = declarations(target)
        called = check_queue(name or f"{target.__module__}.{target.__qualname__}", "a schedule's name")
        made = Declaration(called, payload, options)
        if any(other.name == made.name for other in known):
            raise ConfigurationError(
                f"{target.__qualname__} has two schedules called {made.name!r}", hint='write @schedule(name="...")'
            )
        setattr(target, _ATTRIBUTE, (made, *known))
        return target

    return decorate


def declarations(function: Any) -> tuple[Declaration, ...]:
    """Return the schedules that *function* declares, in the order of its decorators."""
    return getattr(function, _ATTRIBUTE, ())
