"""
Debounce: sends of one kind in quick succession become one intent, with what was said last.

While it has not started the intent is CREATED with a `start`, which each send puts off; `until` in its head bounds
that. A key of the burst names it, for as long as it may take more. Invariants: what a send that returned has said is
what its intent is given, unless a later send said more; an intent that has started (or was ended, or paused) takes
nothing any more: the next send begins another.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from redurable.clock import Seconds, seconds
from redurable.errors import ConfigurationError
from redurable.ids import derived_id, new_id, partition_for
from redurable.options import Debounce
from redurable.store.scripts import load
from redurable.store.session import Entry
from redurable.store.store import Store

__all__ = ["Burst", "burst_of"]

_debounce = load("debounce")
_TIMES = 10  # the longest delay is so many times the quiet, if nothing is said of it


class Burst:
    """
    One send with *wish*; stands in the place of the store.

    Args:
        type, session: What such sends share besides their queue and the wish's key.

    Attributes:
        intent: The intent that took it in, once the answer of `submit` is there.
    """

    def __init__(self, store: Store, wish: Seconds | Debounce, type: str, session: str) -> None:
        if not isinstance(wish, Debounce):
            wish = Debounce(wish)
        self._store = store
        self._quiet = round(seconds(wish.quiet, "debounce") * 1000)
        within = self._quiet * _TIMES if wish.within is None else round(seconds(wish.within, "within") * 1000)
        if self._quiet == 0 or within < self._quiet:
            raise ConfigurationError(
                f"debounce waits for a quiet of more than 0 s, and within that or longer, not {wish.quiet!r}"
                + ("" if wish.within is None else f" and {wish.within!r}"),
                hint='for example: debounce=5.0, or Debounce(5.0, key="doc-17", within=60.0)',
            )
        self._within = within
        if not isinstance(wish.key, str) or len(wish.key) > 256 or not wish.key.isprintable():
            raise ConfigurationError(
                f"{str(wish.key)[:300]!r} cannot be what a debounce is about", hint="use up to 256 printable characters"
            )
        self._kind = (type, session, wish.key)
        self.intent = ""

    def submit(
        self,
        intent: str,
        body: bytes,
        queue: str,
        lane: str,
        *,
        reply: str = "",
        digest: str = "",
        deadline: str = "",
        max_losses: int | None = None,
        delay_ms: int = 0,
        entry: Entry | None = None,
    ) -> asyncio.Future[Any]:
        """Take the args of `Store.submit`; the answer is OK. *intent* is not used: the burst may have one."""
        if digest or delay_ms or (entry is not None and entry.words[1:] != ("", "")):
            raise ConfigurationError(
                "debounce goes with none of idempotency_key, delay, on_busy, max_queued",
                hint='say by Debounce(key="...") which sends belong together',
            )
        session = "" if entry is None else entry.key
        said = (body, queue, lane, reply, deadline, "" if max_losses is None else max_losses, session)
        return asyncio.ensure_future(self._send(said))

    async def _send(self, said: tuple[Any, ...]) -> bytes:
        store, queue = self._store, said[1]
        partition = partition_for(len(store.keys), queue, *filter(None, self._kind[1:]))
        keys, token, fresh = store.keys[partition], secrets.token_hex(6), new_id(partition)
        burst = keys.burst_prefix + derived_id(partition, queue, *self._kind)
        closed = ""
        while True:
            before = (await store.mux.command("GET", burst) or b"").decode()
            intent = before if before and before != closed else fresh
            word = await store.mux.call(
                _debounce,
                partition,
                (burst, keys.head(intent), keys.envelope(intent), keys.timers),
                (intent, before, token, *said, self._quiet, self._within),
            )
            if word == b"OK":
                self.intent = intent
                return b"OK"
            if word == b"CLOSED":
                closed = before


def burst_of(debounce: Any) -> Any:
    """Return what stands in the place of the store; ConfigurationError where a send cannot be debounced."""
    if not isinstance(debounce, Burst):
        raise ConfigurationError(
            "debounce= is for a client's send() and call(): neither for send_many nor for children",
            hint="send them one by one; in a handler, from a step",
        )
    return debounce
