"""
What a client reads of intents, queues and workers. `Client` is one of these.

What a payload codec sealed is opened if it can be, and else left as it is: whoever looks sees the rest.
"""

from __future__ import annotations

import builtins
import secrets
from typing import Any

import msgspec

from redurable.codec import sealed_part
from redurable.codecs.base import Vault, shown
from redurable.errors import CodecError
from redurable.model import Entry, IntentInfo, Status
from redurable.news import Progress
from redurable.store import depths, inspection, journals
from redurable.store import limits as _limits
from redurable.store.results import Results
from redurable.store.store import Store
from redurable.store.waits import waits

__all__ = ["Connected", "Reading", "noted", "opened"]

_SEALED = "(sealed)"


class Connected:
    """What one event loop's use of a client needs."""

    def __init__(self, store: Store, vault: Vault | None) -> None:
        self.store = store
        self.vault = vault
        self.results = Results(store, secrets.token_hex(6))


class Reading:
    """The part of a client that looks."""

    async def _open(self) -> Connected:
        raise NotImplementedError

    async def get(self, intent: str) -> IntentInfo:
        """Return what is known of *intent* now, and what it waits for; NotFound if there is none."""
        connected = await self._open()
        info = await _readable(connected.vault, await inspection.info(connected.store, intent))
        return msgspec.structs.replace(info, waits=found) if (found := await waits(connected.store, info)) else info

    async def history(self, intent: str, since: int = 0) -> builtins.list[tuple[int, Entry]]:
        """Return (seq, entry) of its journal after seq *since*; NotFound if there is no such intent."""
        connected = await self._open()
        found = await journals.history(connected.store, intent, since)
        if connected.vault is not None:
            found = [(seq, await shown(connected.vault, entry)) for seq, entry in found]
        return found

    async def list(
        self,
        *,
        queue: str | None = None,
        status: Status | str | None = None,
        label: tuple[str, str] | None = None,
        limit: int = 100,
    ) -> builtins.list[IntentInfo]:
        """Return up to *limit* intents that fit; finished ones newest first."""
        connected = await self._open()
        wanted = None if status is None else Status.of(status)
        found = await inspection.intents(connected.store, queue=queue, status=wanted, label=label, limit=limit)
        return [await _readable(connected.vault, info) for info in found]

    async def queues(self) -> builtins.list[depths.QueueInfo]:
        """Return every queue that ever held an intent, with its depth."""
        return await depths.queues((await self._open()).store)

    async def limits(self) -> builtins.list[_limits.LimitInfo]:
        """Return every limit that is in use now, by name and key; one that nobody uses leaves no trace."""
        return await _limits.limits((await self._open()).store)

    async def workers(self) -> builtins.list[inspection.WorkerInfo]:
        """Return the registered worker processes and whether each lives."""
        return await inspection.workers((await self._open()).store)


async def _readable(vault: Vault | None, info: IntentInfo) -> IntentInfo:
    """Return *info* opened, as far as it can be."""
    info = await shown(vault, info)
    return info if info.progress is None else msgspec.structs.replace(info, progress=await noted(vault, info.progress))


async def noted(vault: Vault | None, progress: Progress) -> Progress:
    """Return *progress* with its note as a text."""
    if isinstance(progress.note, str):
        return progress
    return msgspec.structs.replace(progress, note=await opened(vault, msgspec.msgpack.encode(progress.note)))


async def opened(vault: Vault | None, data: bytes) -> Any:
    """Return the value in *data* as plain data; one that cannot be opened here is "(sealed)"."""
    try:
        data = data if vault is None else await vault.open(data)
    except CodecError:
        return _SEALED
    return _SEALED if sealed_part(data) is not None else msgspec.msgpack.decode(data)
