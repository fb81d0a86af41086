"""
The recorder: one attempt's way into the journal, in order, one call under way at a time.

What comes while a call is out leaves together with the next one, so order needs no other care and branches that end
together share a script call. Invariants: `lease.k` counts what the server acknowledged; the cursor is extended in the
order of seqs, with whatever came from outside fetched and put in its place; a future given by `append` ends once its
entry is in the journal, whatever happens to the task that waits for it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from redurable.errors import CodecError, Fenced, PayloadTooLarge
from redurable.journal.cursor import Cursor
from redurable.model import Entry, encode_entry
from redurable.store.journals import parts, readable
from redurable.store.lease import Lease
from redurable.tasks import background

__all__ = ["Owner", "Recorder"]

_MOST = 400  # entries in one call


class Owner(Protocol):
    """Whose recorder it is. One object in place of a bound method a matter: an attempt is made for every intent."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def news(self) -> None:
        """Entries came that this attempt did not write."""
        ...

    def lost(self, word: str) -> None:
        """The store refuses this owner (FENCED, WRONG_STATE, REGRESSED, ...); told once."""
        ...

    def grown(self, entries: int, size: int) -> None:
        """The journal has more entries or bytes than it was bound to."""
        ...

    def hold(self, error: CodecError) -> None:
        """An entry cannot be sealed or opened."""
        ...


class Recorder:
    """
    Appends for one lease.

    Args:
        lease: The ownership under which is written.
        cursor: The journal to extend.
        owner: Who is told what happens.
        limit: The most bytes that one entry may have.
    """

    __slots__ = (
        "_behind", "_flying", "_heaviest", "_limit", "_loop", "_most", "_owner", "_queue", "_ready", "_syncing",
        "cursor", "lease", "lost", "size",
    )  # fmt: skip

    def __init__(self, lease: Lease, cursor: Cursor, owner: Owner, limit: int) -> None:
        self.lease = lease
        self.cursor = cursor
        self.lost: str | None = None
        self._loop = owner.loop
        self._owner = owner
        self.size = 0  # bytes of the journal, as far as this attempt has seen
        self._limit = limit
        self._most = self._heaviest = 1 << 62
        self._flying: list[tuple[Entry, asyncio.Future[None], bytes]] = []
        self._queue: list[tuple[Entry, asyncio.Future[None], bytes]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._ready = False
        self._behind = False  # more came while the journal was read, or before

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way to the journal."""
        return not self._flying and not self._queue and self._syncing is None

    def append(self, entry: Entry) -> asyncio.Future[None]:
        """
        Record *entry*.

        Raises:
            PayloadTooLarge: Nothing was recorded.
            Fenced: (from the future) this attempt no longer owns the intent.
        """
        data = encode_entry(entry)
        if len(data) > self._limit:
            raise self._too_large(data)
        future: asyncio.Future[None] = self._loop.create_future()
        if self.lost is not None:
            future.set_exception(Fenced(self.lost))
        elif self._flying or self._syncing is not None:
            self._queue.append((entry, future, data))
        else:
            self._flying.append((entry, future, data))
            self.lease.record([data], self)
        return future

    def _too_large(self, data: bytes) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"a journal entry is {len(data):,} bytes, more than the limit of {self._limit:,}",
            hint="store the value elsewhere and return a reference, or raise REDURABLE_MAX_PAYLOAD (bytes)",
        )

    async def load(self) -> None:
        """Take the journal that `claim` answered, and the rest of a long one, before the handler begins."""
        found, self.lease.entries = self.lease.entries, []
        if len(found) < self.lease.base:
            async for part in parts(self.lease.read, len(found), found):
                found += part
        self.size = sum(map(len, found))
        self.cursor.load(await self._decoded(found, 0))

    def bound(self, entries: int, size: int) -> None:
        """Tell the owner as soon as the journal has more entries, or bytes."""
        self._most, self._heaviest = entries, size

    def close(self) -> None:
        """Nothing more is appended or fetched; the owner, which is over, is let go."""
        if self.idle:
            self.lose("OVER")
            del self._owner

    def ready(self) -> bool:
        """Take news from now on: the journal that was claimed is loaded. Whether none came before."""
        self._ready = True
        if self._behind:
            self.sync()
        return self._syncing is None

    async def _decoded(self, found: list[bytes], before: int) -> list[Entry]:
        return [readable(raw, seq) for seq, raw in enumerate(found, before + 1)]

    def sync(self) -> None:
        """Fetch what the journal holds beyond the cursor (something came from outside)."""
        if self._ready and self._syncing is None and self.lost is None:
            self._syncing = background(self._fetch())
        else:
            self._behind = True

    async def settled(self) -> None:
        """Return when nothing is on its way."""
        while not self.idle:
            for line in (self._flying, self._queue):
                # a task that was cancelled took the future that it waited for along
                line[:] = [(e, self._loop.create_future() if f.cancelled() else f, data) for e, f, data in line]
            pending = [f for _, f, _ in (*self._flying, *self._queue)]
            await asyncio.wait([*pending, *self._tasks()])

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [self._syncing] if self._syncing is not None else []

    # The multiplexer resolves this object as it would a future: without a waiter in between, what was written is
    # accounted for even if the task that wanted it was cancelled meanwhile.
    def done(self) -> bool:
        return False

    def set_result(self, reply: Any) -> None:
        if type(reply) is not int:
            self._refused(reply.decode())
            return
        flying, cursor = self._flying, self.cursor
        count = len(flying)
        self.lease.k += count
        if reply - count != len(cursor):
            self._flying = []
            self._land_after_fetch(flying)
            return
        for entry, future, data in flying:
            cursor.append_own(entry)
            self.size += len(data)
            if not future.done():
                future.set_result(None)
        flying.clear()
        if reply > self._most or self.size > self._heaviest:
            self._owner.grown(reply, self.size)
        if self._queue:
            self._next()

    def set_exception(self, error: Exception) -> None:
        self._lose(f"STORE_ERROR: {error}")

    def _next(self) -> None:
        if not self._flying and self._queue and self._syncing is None and self.lost is None:
            self._flying, self._queue = self._queue[:_MOST], self._queue[_MOST:]
            self.lease.record([data for _, _, data in self._flying], self)

    def _refused(self, word: str) -> None:
        if word == "DUPLICATE":
            # an earlier sending of this very call was executed: its entries are in the journal already
            flying, self._flying = self._flying, []
            self.lease.k += len(flying)
            self._land_after_fetch(flying)
        else:
            self._lose(word)

    def _land_after_fetch(self, flying: list[Any]) -> None:
        self._syncing = background(self._fetch(flying))

    async def _fetch(self, flying: list[Any] | None = None) -> None:
        try:
            again = True
            while again:
                self._behind, start = False, len(self.cursor)
                read = [raw async for part in parts(self.lease.read, start) for raw in part]
                found = await self._decoded(read, start)
                # what was on its way when this was asked may have been answered, and so taken, before it
                for entry in found[len(self.cursor) - start :]:
                    self.cursor.extend(entry)
                again = self._behind
            self.lease.base = len(self.cursor) - self.lease.k
        except Exception as error:  # whatever the store says, this attempt cannot go on without its journal
            self._syncing = None
            self._lose(f"STORE_ERROR: {error}")
            return
        self._syncing = None
        for _, future, _ in flying or ():
            if not future.done():
                future.set_result(None)
        self._next()
        self._owner.news()

    def lose(self, word: str) -> None:
        """This owner is refused: nothing more is sent; what is out is still answered."""
        if self.lost is None:
            self.lost = word
        queue, self._queue = self._queue, []
        self._refuse(queue)

    def _lose(self, word: str) -> None:
        known = self.lost is not None
        self.lose(word)
        flying, self._flying = self._flying, []
        self._refuse(flying)
        if not known:
            self._owner.lost(word)

    def _refuse(self, waiting: list[tuple[Entry, asyncio.Future[None], bytes]]) -> None:
        for _, future, _ in waiting:
            if not future.done():
                future.set_exception(Fenced(self.lost or ""))
                future.exception()  # the waiter may be gone already
