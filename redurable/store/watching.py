"""
What is stored for those who watch an intent: its events (stream `e`) and how far it is (hash `m`).

Each entry of the stream is one event under its number (`<seq>-0`), so a reader goes on behind any of them, and sees
from the numbers what was dropped. Fields of the hash: `seq` the last number, `p` the progress that the intent told,
`at` when, `c` the ids of children that told theirs, `by` the last call of its owner, `turn`, and `<kind>:<part>` how
far each part has come. An intent that tells nothing has neither key.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from redurable.model import Status
from redurable.news import Event, Progress, decode_progress, decode_told, fraction
from redurable.store.keys import told_keys
from redurable.store.scripts import load
from redurable.store.store import Store

__all__ = ["PAGE", "ancestors", "events", "heed", "progress", "progress_at"]

PAGE = 500
_MOST = 1000  # children that are looked at, all generations together
_ID = 36
_heed = load("heed")


async def events(store: Store, intent: str, since: int) -> list[Event]:
    """
    Return up to `PAGE` events of *intent* after number *since*, values as they are stored.

    Those that are gone are told by one "dropped" in their place.
    """
    (stream, marks), mux = told_keys(store.keys_of(intent), intent), store.mux
    last = mux.command("HGET", marks, "seq")  # first: what is below it and not found is gone
    rows = await mux.command("XRANGE", stream, f"({since}-0", "+", "COUNT", PAGE)
    found: list[Event] = []
    seen = since
    for number, fields in rows:
        seq, told = int(number.split(b"-")[0]), decode_told(fields[1])
        if seq > seen + 1:
            found.append(_dropped(seen, seq - 1))
        found.append(Event(kind=told.kind, seq=seq, at=told.at, step=told.step, offset=told.offset, value=told.value))
        seen = seq
    if not rows and int(await last or 0) > since:
        found.append(_dropped(since, int(await last)))
    return found


def _dropped(seen: int, last: int) -> Event:
    return Event(kind="dropped", seq=last, value=msgspec.Raw(msgspec.msgpack.encode(last - seen)))


async def progress(store: Store, intent: str) -> Progress | None:
    """Return how far *intent* is, None if nobody told; see `progress_at`."""
    return (await progress_at(store, intent))[0]


async def progress_at(store: Store, intent: str, *, budget: list[int] | None = None) -> tuple[Progress | None, int]:
    """
    Return how far *intent* is, None if nobody told, and when that was told, in ms (0: nobody knows).

    What its handler told stands, with the fractions of the called children that are open added. If it told nothing, its
    children that did are counted, each as far as it is. Then it was told when the last of them told, or ended.
    """
    budget = budget if budget is not None else [_MOST]
    own, known, when = await store.mux.command("HMGET", told_keys(store.keys_of(intent), intent)[1], "p", "c", "at")
    told, at = (None if own is None else decode_progress(own)), int(when or 0)
    if not known:
        return told, at
    ids = [known[at : at + _ID].decode() for at in range(0, len(known), _ID)][: budget[0]]
    budget[0] -= len(ids)
    heads = [store.mux.command("HMGET", store.keys_of(child).head(child), "status", "finished") for child in ids]
    found = [await _fraction(store, child, await head, budget) for child, head in zip(ids, heads, strict=True)]
    parts = [part for part, _ in found]
    last = max([at, *(moment for _, moment in found)])
    if told is None or not told.own:
        done = sum(1.0 if part is None else part for part in parts)
        return Progress(_rounded(done), len(parts), "", own=False), last
    if told.total is None:
        return told, at
    done = told.done + sum(part or 0.0 for part in parts)
    return msgspec.structs.replace(told, done=_rounded(min(told.total, done))), last


async def _fraction(store: Store, child: str, head: list[bytes | None], budget: list[int]) -> tuple[float | None, int]:
    """Return how far *child* is, from 0 to 1, None when it has ended; and since when."""
    status, finished = head
    if status is None or Status(status.decode()).final:
        return None, int(float(finished or 0))
    found, at = await progress_at(store, child, budget=budget)
    return (0.0 if found is None else fraction(found)), at


def _rounded(done: float) -> float | int:
    done = round(done, 3)
    with contextlib.suppress(OverflowError, ValueError):
        if done == int(done):
            return int(done)
    return done


async def ancestors(store: Store, intent: str, most: int) -> list[str]:
    """Return the intents that wait for *intent*, the nearest first, up to *most*."""
    found: list[str] = []
    while len(found) < most:
        reply = await store.mux.command("HGET", store.keys_of(intent).head(intent), "reply")
        if not reply or reply[:1] != b"^":
            break
        intent = reply[1:].decode()
        found.append(intent)
    return found


async def heed(store: Store, parents: list[str], child: str) -> None:
    """Have those who watch *parents*, each the parent of the one before, look at how far *child* is."""
    calls = []
    for parent in parents:
        keys = store.keys_of(parent)
        places = (keys.head(parent), told_keys(keys, parent)[1])
        calls.append(store.mux.call(_heed, keys.partition, places, (parent, child)))
        child = parent
    await asyncio.gather(*calls, return_exceptions=True)
