"""
Intents of a type that this process has no handler for: put down for a while, so that a worker that knows it may come.

One that somebody asked to end, or whose deadline has passed, is ended here, unless a handler of its type has been at
work: then what it did may have to be undone, and only a worker that knows the type can do that (or `kill` it). What was
sent and cannot be read has no type: it fails.
"""

from __future__ import annotations

import contextlib

import msgspec

from redurable.clock import now_ms
from redurable.codec import misfit_of
from redurable.errors import StoreError
from redurable.events import emit
from redurable.model import (
    Arrived,
    CancelRequested,
    Claimed,
    Envelope,
    Reason,
    Reopened,
    SessionEnvelope,
    Status,
    decode_entry,
)
from redurable.store.courier import relay
from redurable.store.journals import parts
from redurable.store.lease import Lease, canceling, shelve
from redurable.store.store import KEEP_OTHER_MS, failure_of

__all__ = ["put_down", "refuse"]

_AGAIN_MS = 5000


async def put_down(lease: Lease, envelope: Envelope) -> None:
    """Park what *lease* holds, uncounted; or settle it, if it was asked to end and no handler has begun it."""
    seen = lease.base
    while True:
        if await canceling(lease) and (asked := await _asked(lease)) is not None:
            await _end(lease, envelope, asked)
            return
        word = await shelve(lease, seen, Reason.UNKNOWN_TYPE.value, now_ms() + _AGAIN_MS)
        # a cancel, or what it waits for, came since it was claimed
        more = sum([len(part) async for part in parts(lease.read, seen)]) if word == b"NEWS" else 0
        if not more:
            break
        seen += more
    emit("intent.unknown_type", queue=lease.queue, type=envelope.type, intent=lease.id)


async def refuse(lease: Lease, error: Exception) -> None:
    """Fail what *lease* holds: *error* says that what was sent is no envelope, and none of another try would be."""
    why = f"what was sent cannot be read: {misfit_of(error, SessionEnvelope.__struct_fields__)}"
    failure = failure_of(Status.FAILED, "BAD_ENVELOPE", f"{why} (send with redurable, no later one than the worker's)")
    await lease.settle("FAILED", failure, KEEP_OTHER_MS)
    emit("intent.ended", intent=lease.id, queue=lease.queue, outcome="FAILED")


async def _asked(lease: Lease) -> CancelRequested | None:
    """Return what asked it to end; None if its journal has anything that a handler wrote."""
    asked = None
    async for part in parts(lease.read):
        for raw in part:
            try:
                entry = decode_entry(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return None  # a later version's
            if isinstance(entry, CancelRequested):
                asked = entry
            elif not isinstance(entry, Claimed | Arrived | Reopened):
                return None
    return asked


async def _end(lease: Lease, envelope: Envelope, asked: CancelRequested) -> None:
    code = "CANCELED" if asked.status is Status.CANCELED else "DEADLINE"
    failure = failure_of(asked.status, code, asked.note or code.lower())
    if await lease.settle(asked.status.value, failure, KEEP_OTHER_MS) != b"OK":
        return  # another's by now
    emit("intent.ended", intent=lease.id, queue=lease.queue, outcome=asked.status.value)
    if envelope.parent:
        with contextlib.suppress(StoreError):  # then whoever sees that it is due
            await relay(lease.store, lease.id)
