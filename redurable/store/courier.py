"""
What an ended intent owes others: its outcome to the parent that waits for it, a cancel to children that still run.

Both may be in other partitions, so no script can do them with the end itself. The end leaves a timer instead (see
`lua/_finish.lua`): whoever ended the intent relays at once, and should it die before, any worker does when the timer is
due. Invariants: relayed at least once, by verbs that a second time changes nothing; an intent is not removed before.
"""

from __future__ import annotations

import asyncio
import contextlib

from redurable.clock import now_ms
from redurable.errors import NotFound, WrongState
from redurable.model import Arrived, Called, Continued, Outcome, Status, decode_entry
from redurable.store import arrivals
from redurable.store.arrivals import waited_for
from redurable.store.inspection import outcome
from redurable.store.journals import entries_of
from redurable.store.scripts import load
from redurable.store.store import Store

__all__ = ["relay", "tell"]

_relayed = load("relayed")


async def tell(store: Store, parent: str, child: str, ended: Outcome) -> None:
    """Bring *parent* the outcome of *child*; a parent that has ended, or is gone, needs none."""
    entry = Arrived(child, now_ms(), ended.status, ended.result, ended.error)
    with contextlib.suppress(NotFound, WrongState):
        await arrivals.resolve(store, parent, entry, most=None)


async def relay(store: Store, intent: str) -> None:
    """Do what *intent*, if it has ended, still owes; if an operator takes the end back, whoever ends it again does."""
    keys, mux = store.keys_of(intent), store.mux
    look = ("HMGET", keys.head(intent), "status", "redriven")
    reply, owes = await mux.command("HMGET", keys.head(intent), "reply", "owes")
    status, token = end = await mux.command(*look)
    if status is None or not Status(status.decode()).final:
        return
    answered: list[str] = []
    if reply and reply.startswith(b"^"):
        try:
            ended = await outcome(store, intent)
        except NotFound:
            return  # deleted meanwhile
        if ended is None:
            return
        await tell(store, reply[1:].decode(), intent, ended)
    if owes:
        journal = [decode_entry(raw) for raw in await entries_of(store, intent)]
        ended_ones = {e.key for e in journal if isinstance(e, Arrived)}
        children = {e.child for e in journal if isinstance(e, Called)} - ended_ones
        children |= {child for e in journal if isinstance(e, Continued) for child in e.left}
        waited = await waited_for(store, intent)
        # a process may die before it writes that it has called one
        children |= {key for key in waited if "#" not in key}
        answered = [key for key in waited if "#" in key]
        if await mux.command(*look) != end:
            return  # these may be children that a retried run has called and waits for
        await asyncio.gather(*(_cancel(store, child) for child in children))
    places = (keys.head(intent), keys.timers, keys.asked)
    await mux.call(_relayed, keys.partition, places, (intent, token or "", len(answered), *answered))


async def _cancel(store: Store, child: str) -> None:
    with contextlib.suppress(NotFound):
        await store.cancel(child, "its parent has ended")
