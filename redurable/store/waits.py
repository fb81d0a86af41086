"""
What an intent waits for, for those who ask why it does not go on. Read only; a hundred things at the most.
"""

from __future__ import annotations

import asyncio

from redurable.clock import now_ms
from redurable.model import IntentInfo
from redurable.news import Wait
from redurable.store.arrivals import waited_for
from redurable.store.store import Store

__all__ = ["waits"]

_MOST = 100


async def waits(store: Store, info: IntentInfo) -> tuple[Wait, ...]:
    """Return what the intent *info* waits for now: a limit, promises, approvals, children; the oldest of each first."""
    if info.status.final:
        return ()
    asked: list[Wait] = []
    children, now = [], now_ms()
    for key, ask in (await waited_for(store, info.id)).items():
        if "#" not in key:
            children.append(key)
        elif not ask.until or ask.until > now:  # else the handler has gone on, or is about to; the promise is open yet
            name, _, index = key.rpartition("#")
            asked.append(Wait(
                "approval" if ask.outcomes else "promise", name, int(index), ask.title,
                ask.since or None, ask.until or None,
            ))  # fmt: skip
    found = await asyncio.gather(*(_child(store, child) for child in children[:_MOST]))
    limit = [Wait("limit", info.limit)] if info.limit else []
    return (*limit, *_by_age(asked), *_by_age(found))[:_MOST]


async def _child(store: Store, child: str) -> Wait:
    """Return what is known of *child*; nothing if it is not stored yet."""
    head = store.keys_of(child).head(child)
    found = await store.mux.command("HMGET", head, "queue", "status", "created", "deadline")
    queue, status, created, deadline = [None if part is None else part.decode() for part in found]
    if queue is None:
        return Wait("child", child)
    return Wait(
        "child",
        child,
        0,
        f"{queue} {status}",
        int(float(created or 0)),
        None if deadline is None else int(float(deadline)),
    )


def _by_age(found: list[Wait]) -> list[Wait]:
    return sorted(found, key=lambda wait: (wait.since or 0, wait.name, wait.index))
