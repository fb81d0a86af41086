"""
Intents that would wait for each other for ever, by the lines of sessions.

An intent waits for the children that it has called, a child in line for the intent that holds its session. Who is about
to wait asks first whether that chain leads back to it, and again once its child stands in line: of two that do so at
the same time at least one sees the other. A look costs a command or two an intent on the way, and is bounded.
"""

from __future__ import annotations

import asyncio

from redurable.errors import UsageError
from redurable.model import Status
from redurable.store.arrivals import waited_for
from redurable.store.inspection import decode_envelope
from redurable.store.sessions import find
from redurable.store.store import Store

__all__ = ["check_deadlock"]

_MOST = 1000  # intents that are looked at in each direction


async def check_deadlock(store: Store, caller: str, queue: str, key: str) -> None:
    """
    Refuse that the intent *caller* waits for an intent that it sends to the session *key* of *queue*.

    That one would begin only when its session is free, and so never, if *caller*, or an intent that waits for it,
    stands in that session, or if the one that holds it waits for them.

    Raises:
        UsageError: SESSION_DEADLOCK; it names the intent that holds the session.
    """
    waiting: list[str] = []
    intent = caller
    while intent and len(waiting) < _MOST:
        waiting.append(intent)
        keys = store.keys_of(intent)
        asked = store.mux.command("HMGET", keys.head(intent), "queue", "session", "status", "reply")
        body = await store.mux.command("GET", keys.envelope(intent))
        stands = await asked
        if stands[:2] == [queue.encode(), key.encode()] and not Status(stands[2].decode()).final:
            who = "it" if intent == caller else f"intent {intent}, which waits for it,"
            raise _refused(caller, f"{who} holds session {key!r} of queue {queue!r} meanwhile")
        # an outcome that a parent waits for is sent to "^" and its id; what was sent one way holds nobody up
        waited = (stands[3] or b"").startswith(b"^")
        intent = decode_envelope(body).parent if body and waited else ""
    holder = await _holder(store, queue, key)
    if holder and await _leads_to(store, holder, set(waiting)):
        raise _refused(caller, f"intent {holder} holds session {key!r} of queue {queue!r} and waits for it in turn")


def _refused(caller: str, why: str) -> UsageError:
    return UsageError(
        f"intent {caller} would wait for ever: {why}", code="SESSION_DEADLOCK",
        hint="send without waiting, or use another key",
    )  # fmt: skip


async def _leads_to(store: Store, first: str, goal: set[str]) -> bool:
    """Return whether *first* waits, however indirectly, for one of *goal*."""
    ahead, seen = [first], {first}
    while ahead and len(seen) < _MOST:
        found = await asyncio.gather(*(_waits_for(store, intent) for intent in ahead))
        ahead = list({other for some in found for other in some} - seen)
        if not goal.isdisjoint(ahead):
            return True
        seen.update(ahead)
    return False


async def _waits_for(store: Store, intent: str) -> list[str]:
    """Return the intents that *intent* waits for: its open children, or who holds its session."""
    keys = store.keys_of(intent)
    names = ("status", "queue", "session", "start")
    status, queue, session, start = await store.mux.command("HMGET", keys.head(intent), *names)
    if status is None or Status(status.decode()).final:
        return []
    if status.decode() == Status.CREATED:
        if session is None or start is not None:
            return []  # it waits for a clock
        holder = await _holder(store, queue.decode(), session.decode())
        return [holder] if holder else []
    return [key for key in await waited_for(store, intent) if "#" not in key]


async def _holder(store: Store, queue: str, key: str) -> str:
    first = await store.mux.command("ZRANGE", find(store, queue, key).line, 0, 0)
    return first[0].decode() if first else ""
