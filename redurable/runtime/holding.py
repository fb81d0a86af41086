"""
Intents that cannot go on here, through no fault of theirs: they are put down, uncounted, and looked at again.

Nothing is lost and nothing fails meanwhile; the intent is WAITING, with the reason HELD and what is wrong in its head.
It waits ever longer, since every look costs an entry, but never so long that who mended the cause gives up hope.
"""

from __future__ import annotations

from typing import Any

from redurable.clock import now_ms
from redurable.codec import typed
from redurable.errors import CodecError, RedurableError
from redurable.events import emit
from redurable.model import Reason
from redurable.runtime.scope import Scope
from redurable.store.lease import Lease

__all__ = ["put_down", "restored"]

FIRST, DOUBLED = 5.0, 7  # s, and how often at most: 10 minutes
_CLAIMED = b"\x06"  # the tag of an entry that `claim` wrote


async def restored(scope: Scope, data: bytes, of: Any, what: str) -> Any:
    """
    Return the value in *data*, which this or another attempt stored.

    Raises:
        CodecError: It cannot be opened here; the attempt is unwound and its intent held.
        SerialisationError: It does not fit *of*.
    """
    try:
        if scope.attempt.vault is not None:
            data = await scope.attempt.vault.open(data)
        return typed(of).decode(data, what)
    except CodecError as error:
        scope.attempt.hold(error)
        raise


async def put_down(lease: Lease, seen: int, error: RedurableError) -> str:
    """Hold the intent of *lease*, whose journal has *seen* entries as far as known; return how the attempt ended."""
    emit("intent.held", intent=lease.id, queue=lease.queue, error=error)
    lease.note("held", f"{error.code}: {error.message}"[:64])
    looks = -1
    for raw in reversed(await lease.read(max(0, lease.base - DOUBLED - 1))):
        if raw[1:2] != _CLAIMED:
            break
        looks += 1  # nothing came of that attempt
    pause = FIRST * 2 ** max(0, min(looks, DOUBLED))
    word = await lease.park(max(lease.base, seen), Reason.HELD.value, now_ms() + int(pause * 1000))
    if word == b"OK":
        return "held"
    word = await lease.release()  # news came: it is looked at again at once
    return "released" if word == b"OK" else "lost"
