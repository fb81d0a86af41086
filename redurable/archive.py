"""What a client does with whole intents: take them out, put them in, remove them. `Client` is one of these."""

from __future__ import annotations

from typing import Any

from redurable.store import archive
from redurable.store.store import Store

__all__ = ["Archive"]


class Archive:
    """The part of a client that moves and removes intents."""

    async def _store(self) -> Store:
        raise NotImplementedError

    async def delete(self, intent: str) -> None:
        """
        Remove the finished *intent* now, whatever its retention; its idempotency key may be used again.

        Raises:
            NotFound: It is not there.
            WrongState: It is open; it is unchanged.
        """
        await archive.delete(await self._store(), intent)

    async def export(self, intent: str) -> dict[str, Any]:
        """
        Return all that is stored of *intent* at one moment, as an object that JSON holds; it goes on undisturbed.

        Raises:
            NotFound: It is not there.
            WrongState: It changed hands again and again meanwhile.
        """
        return await archive.export(await self._store(), intent)

    async def import_(self, record: dict[str, Any]) -> bool:
        """
        Store an exported intent under its id; return False when the very same is there already.

        An open one goes on from its journal; a finished one is kept for its retention, and for a day at least. The
        original goes on too, unless it is deleted: import into another namespace, or after a loss.

        Raises:
            ConfigurationError: BAD_IMPORT; nothing was stored.
            WrongState: INTENT_EXISTS; the intent that has this id is unchanged.
        """
        return await archive.import_record(await self._store(), record)
