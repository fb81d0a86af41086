"""
The recorder of a worker with a payload codec: entries are sealed on their way in, opened on their way out.

Sealing may take its time (an object store, a key service). Entries leave in the order in which they were given all the
same, and those that wait are sealed at once. Invariant: what cannot be sealed or opened is never recorded, nor taken;
the attempt is told, and ends.
"""

from __future__ import annotations

import asyncio

from redurable.codecs.base import Vault
from redurable.errors import CodecError, Fenced
from redurable.journal.cursor import Cursor
from redurable.model import Entry, encode_entry
from redurable.runtime.recorder import Owner, Recorder
from redurable.store.lease import Lease
from redurable.tasks import background

__all__ = ["SealedRecorder"]


class SealedRecorder(Recorder):
    """
    A recorder that seals.

    Args:
        vault: What seals and opens.
    """

    __slots__ = ("_line", "_sealing", "_vault")

    def __init__(self, lease: Lease, cursor: Cursor, owner: Owner, limit: int, vault: Vault) -> None:
        super().__init__(lease, cursor, owner, limit)
        self._vault = vault
        self._line: list[tuple[Entry, asyncio.Future[None]]] = []
        self._sealing: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way to the journal."""
        return self._sealing is None and super().idle

    def append(self, entry: Entry) -> asyncio.Future[None]:
        """Record *entry*, sealed; see `Recorder.append`. Its limit is for what is sealed."""
        data = encode_entry(entry)
        if len(data) > self._limit:
            raise self._too_large(data)
        future: asyncio.Future[None] = self._loop.create_future()
        if self.lost is not None:
            future.set_exception(Fenced(self.lost))
            return future
        self._line.append((entry, future))
        if self._sealing is None:
            self._sealing = background(self._seal())
        return future

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [*super()._tasks(), *([self._sealing] if self._sealing is not None else [])]

    async def _seal(self) -> None:
        try:
            while self._line:
                entries = [entry for entry, _ in self._line]
                sealed = await asyncio.gather(*map(self._vault.seal_struct, entries))
                line, self._line = self._line[: len(entries)], self._line[len(entries) :]
                # nothing is left in the line if the intent was lost meanwhile
                self._queue += [(*one, encode_entry(struct)) for one, struct in zip(line, sealed, strict=False)]
                self._next()
        except CodecError as error:
            self._owner.hold(error)
        finally:
            self._sealing = None

    async def _decoded(self, found: list[bytes], before: int) -> list[Entry]:
        return [await self._vault.open_struct(entry) for entry in await super()._decoded(found, before)]

    def lose(self, word: str) -> None:
        """This owner is refused: nothing more is sent; what is out is still answered."""
        super().lose(word)
        line, self._line = self._line, []
        self._refuse([(entry, future, b"") for entry, future in line])
