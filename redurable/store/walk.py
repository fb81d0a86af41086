"""
Walking the keys of a namespace, in pages that keep the server from nobody for longer than a millisecond.

A walk sees every key that is there from its beginning to its end. It may see one twice, while the server grows its
table: who counts has to tell them apart. A key that something else wrote among ours must not end it: see `legible`.
The server looks at all of its keys, whichever are asked for: one walk finds those of all partitions.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

from redurable.errors import StoreError
from redurable.store.keys import any_partition, place_of
from redurable.store.store import Store

__all__ = ["legible", "scan", "walk"]

_PAGE = 500  # places of the server's table that are looked at by one command
Places = list[tuple[int, str]]


async def legible(asked: Awaitable[Any]) -> Any:
    """Return what a key of ours answers; None for a key that something else wrote there, of another type."""
    try:
        return await asked
    except StoreError as error:
        if "WRONGTYPE" in error.message:
            return None
        raise


async def scan(store: Store, cursor: bytes, kind: str, rest: str = "*", count: int = _PAGE) -> tuple[bytes, Places]:
    """Return the next cursor, and (partition, what follows *kind*) of the keys of *kind* whose rest fits *rest*."""
    pattern = any_partition(store.namespace) + kind + rest
    cursor, page = await store.mux.command("SCAN", cursor, "MATCH", pattern, "COUNT", count)
    places = [place_of(key.decode(), store.namespace, kind) for key in page]
    return cursor, [place for place in places if place is not None and place[0] < len(store.keys)]


async def walk(store: Store, kind: str, rest: str = "*") -> AsyncIterator[Places]:
    """Give what `scan` answers, in pages, of which many are empty."""
    cursor = b"0"
    while True:
        cursor, places = await scan(store, cursor, kind, rest)
        yield places
        if cursor == b"0":
            return
