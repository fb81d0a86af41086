"""
What the owner of an intent says of what it waits for: a part of `Lease`, whose fence every verb here bears.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redurable.store.keys import Keys
from redurable.store.multiplexer import Multiplexer
from redurable.store.scripts import load

__all__ = ["Asking"]

_declare, _withdraw = load("declare"), load("withdraw")
Word = asyncio.Future[Any]


class Asking:
    """The verbs of an attempt that asks for values from outside."""

    __slots__ = ()

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
