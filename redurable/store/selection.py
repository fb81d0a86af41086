"""
Choosing many intents, and doing one thing to each.

What is chosen was so at some moment of the walk; each verb looks again. Invariants: the server never works longer than
for one page of reads or one call's worth of scripts, so that others are served in between; an intent is counted once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from redurable.errors import ConfigurationError, NotFound, WrongState
from redurable.model import Reason, Status
from redurable.store import archive, control, inspection
from redurable.store.keys import check_queue
from redurable.store.store import Store

__all__ = ["VERBS", "Choice", "act", "chosen"]

_FINAL = frozenset(s for s in Status if s.final)
_OPEN = frozenset(Status) - _FINAL
# verb -> the states in which it does anything
VERBS: dict[str, frozenset[Status]] = {
    "cancel": _OPEN,
    "kill": _OPEN,
    "pause": _OPEN - {Status.PAUSED},
    "resume": _OPEN,
    "retry": _FINAL - {Status.COMPLETED} | {Status.WAITING},  # of what waits, what is held
    "delete": _FINAL,
}
_PAGE = 100  # heads, or envelopes, asked for at once
_AT_ONCE = 200  # intents under way


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which intents: all that is given must hold. *older_than*: ms since they were sent."""

    queue: str | None = None
    status: Status | None = None
    label: tuple[str, str] | None = None
    older_than: int | None = None

    def check(self, verb: str) -> None:
        """Refuse, with a ConfigurationError, what chooses everything, or nothing that *verb* could act on."""
        if verb not in VERBS:
            raise ConfigurationError(f"there is no verb {verb!r} for many intents", hint=f"one of {', '.join(VERBS)}")
        if self.queue is not None:
            check_queue(self.queue)
        if (self.queue, self.status, self.label, self.older_than) == (None,) * 4:
            raise ConfigurationError(
                "no intent is chosen", hint="choose by queue, status, label or older_than; an age of 0 chooses all"
            )
        if self.older_than is not None and self.older_than < 0:
            raise ConfigurationError(f"an age is 0 or more, not {self.older_than} ms")
        if self.status is Status.DELIVERED:
            raise ConfigurationError("DELIVERED lasts for moments", hint="choose SUBMITTED, which includes them")
        if self.status is not None and self.status not in VERBS[verb]:
            states = ", ".join(sorted(VERBS[verb] - {Status.DELIVERED}))
            raise ConfigurationError(f"{verb} does nothing to what is {self.status}", hint=f"it is for {states}")


async def chosen(store: Store, verb: str, choice: Choice) -> list[str]:
    """Return the ids of those of *choice* to which *verb* does anything now, each once."""
    choice.check(verb)
    seconds, micros = await store.mux.command("TIME")
    before = int(seconds) * 1000 + int(micros) // 1000 - (choice.older_than or 0)
    found: dict[str, None] = {}  # an ordered set: a walk may give an id twice
    async for page in _pages(store, verb, choice):
        for start in range(0, len(page), _PAGE):
            found |= dict.fromkeys(await _fitting(store, page[start : start + _PAGE], verb, choice, before))
    return list(found)


async def _pages(store: Store, verb: str, choice: Choice) -> AsyncIterator[list[str]]:
    """Give pages of ids that may fit, from the cheapest structure; those that end are in one of two views."""
    states: list[Status | None] = [choice.status]
    if choice.status is None and not VERBS[verb] & (_OPEN - {Status.WAITING}):
        states = [Status.FAILED, *([Status.COMPLETED] if Status.COMPLETED in VERBS[verb] else [])]
    for status in states:
        async for page in inspection.ids_of(store, choice.queue, status):
            yield page


async def _fitting(store: Store, ids: list[str], verb: str, choice: Choice, before: int) -> list[str]:
    mux = store.mux
    names = ("status", "queue", "created", "canceling", "paused", "lane", "reason")
    heads = await inspection.heads(store, ids, *names)
    some = [i for i, head in heads if head[0] and _fits(head, verb, choice, before)]
    if choice.label is None:
        return some
    bodies = await asyncio.gather(*(mux.command("GET", store.keys_of(i).envelope(i)) for i in some))
    return [i for i, body in zip(some, bodies, strict=True) if body and _labelled(body, choice.label)]


def _fits(head: list[bytes | None], verb: str, choice: Choice, before: int) -> bool:
    status, queue, created, canceling, paused, lane, reason = ((word or b"").decode() for word in head)
    stopped = bool(paused) or lane.startswith("!")
    held = status != Status.WAITING or reason == Reason.HELD
    applies = {"cancel": not canceling, "pause": not stopped, "resume": stopped, "retry": held}.get(verb, True)
    return (
        applies
        and status in VERBS[verb]
        and choice.status in (None, status)
        and choice.queue in (None, queue)
        and int(created) <= before
    )


def _labelled(body: bytes, label: tuple[str, str]) -> bool:
    try:
        return inspection.decode_envelope(body).labels.get(label[0]) == label[1]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False  # written by something else


async def act(
    store: Store, verb: str, ids: list[str], note: str = "", progress: Callable[[int], None] | None = None
) -> dict[str, int]:
    """
    Do *verb* to each of *ids*; return how many gave which answer.

    One that ended, or went, meanwhile counts as its state, WRONG_STATE or INTENT_NOT_FOUND. *progress* is called with
    how many are done.
    """
    answers: Counter[str] = Counter()
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        answers.update(await asyncio.gather(*(_one(store, verb, intent, note) for intent in some)))
        if progress is not None:
            progress(start + len(some))
    return dict(answers)


async def _one(store: Store, verb: str, intent: str, note: str) -> str:
    calls: dict[str, Callable[[], Awaitable[str | None]]] = {
        "cancel": lambda: store.cancel(intent, note),
        "kill": lambda: control.kill(store, intent, note),
        "pause": lambda: control.pause(store, intent),
        "resume": lambda: control.resume(store, intent),
        "retry": lambda: store.redrive(intent),
        "delete": lambda: archive.delete(store, intent),
    }
    try:
        return await calls[verb]() or {"resume": "RESUMED", "retry": "SUBMITTED", "delete": "DELETED"}[verb]
    except (NotFound, WrongState) as error:
        return error.code
