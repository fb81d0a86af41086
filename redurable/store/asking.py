"""
What the owner of an intent says of what it waits for, and tells those who watch: a part of `Lease`, whose fence every
verb here bears.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redurable.store.keys import Keys, told_keys
from redurable.store.multiplexer import Multiplexer
from redurable.store.scripts import load

__all__ = ["Asking"]

LIFE = 7 * 86_400  # s that events are kept after the last
_declare, _withdraw, _tell = load("declare"), load("withdraw"), load("tell")
Word = asyncio.Future[Any]


class Asking:
    """The verbs of an attempt that asks for values from outside."""

    __slots__ = ()

    alone = False  # whether it is kept in memory, where there are no others to tell
    id: str
    fence: bytes
    head: str
    _keys: Keys
    _mux: Multiplexer

    def declare(
        self, key: str, seen: int, about: bytes = b"", form: str = "", schema: bytes = b"", since: int | None = None
    ) -> Word:
        """Say that the attempt, which has applied *seen* entries, waits for what comes under *key*; see the script."""
        keys = self._keys
        places = (self.head, keys.arrivals(self.id), keys.forms, keys.asked)
        args = (self.id, self.fence, key, seen, about, form, schema, "" if since is None else since)
        return self._mux.call(_declare, keys.partition, places, args)

    def withdraw(self, key: str) -> Word:
        """Have what would come under *key* refused."""
        keys = self._keys
        places = (self.head, keys.arrivals(self.id), keys.asked)
        return self._mux.call(_withdraw, keys.partition, places, (self.id, self.fence, key))

    def tell(
        self, number: int, turn: int, skip: int, most: int, progress: bytes, events: list[bytes], places: list[Any]
    ) -> Word:
        """Add *events*, after *skip* that were dropped, and *progress* to what watchers are told; see the script."""
        keys = self._keys
        words = (self.id, self.fence, number, turn, skip, most, LIFE, progress)
        return self._mux.call(
            _tell,
            keys.partition,
            (self.head, *told_keys(keys, self.id)),
            (*words, len(events), *events, len(places), *places),
        )

    def read_marks(self) -> Word:
        """Answer how far what watchers are told has come, as a flat list."""
        return self._mux.command("HGETALL", told_keys(self._keys, self.id)[1])
