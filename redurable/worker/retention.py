"""Retention: finished intents are removed, whole, when their time is over; a bounded number at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redurable.clock import now_ms
from redurable.events import emit
from redurable.store.keeper import Keeper

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["retention"]

_EVERY = 15.0
_CALM = 60.0
_MOST = 500


async def retention(worker: Worker, keeper: Keeper) -> None:
    """Remove what is old until the worker stops."""
    pace = worker.pace.parts[keeper.keys.partition]
    while not worker.stopping.is_set():
        removed = await keeper.sweep(now_ms(), _MOST)
        if removed:
            emit("intents.removed", count=removed)
        if removed < _MOST:
            await pace.wait(_EVERY, _CALM)
