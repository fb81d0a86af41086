"""
Walking the keys of a partition, in pages that keep the server from nobody for longer than a millisecond.

A walk sees every key that is there from its beginning to its end. It may see one twice, while the server grows its
table: who counts has to tell them apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from redurable.store.store import Store

__all__ = ["walk"]

_PAGE = 500  # places of the server's table that are looked at by one command


async def walk(store: Store, prefix: str, rest: str = "*") -> AsyncIterator[list[str]]:
    """Give what follows *prefix* in the keys that have it and then fit *rest*, in pages, of which many are empty."""
    cursor = b"0"
    while True:
        cursor, page = await store.mux.command("SCAN", cursor, "MATCH", prefix + rest, "COUNT", _PAGE)
        yield [key.decode()[len(prefix) :] for key in page]
        if cursor == b"0":
            return
