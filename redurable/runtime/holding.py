"""
Intents that cannot go on here, through no fault of theirs: they are put down, uncounted, and looked at again.

What was stored cannot be opened, or does not fit its type any more, or the code is not the one that wrote the journal.
Nothing is lost and nothing fails meanwhile; the intent is WAITING, with the reason HELD and what is wrong in its head.
It waits ever longer, but never so long that who mended the cause gives up hope; a worker that starts looks at once. A
look leaves no trace: no attempt is counted, no entry is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from redurable.clock import now_ms
from redurable.codec import Typed, typed
from redurable.errors import CodecError, JournalMismatchError, SerialisationError
from redurable.events import emit
from redurable.journal.cursor import IDENTIFIED
from redurable.journal.left import gone_on, went_past
from redurable.model import Continued, ErrorInfo, Forked, Reason, Status
from redurable.runtime.cancellation import told
from redurable.runtime.scope import Scope
from redurable.store.journals import readable
from redurable.store.lease import Lease, put_by

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt
    from redurable.runtime.conductor import Conductor

__all__ = [
    "PAUSE", "UNFIT", "ended_unfit", "fitting", "given", "not_begun", "put_down", "restored", "sealed",
    "unless_replayed",
]  # fmt: skip

PAUSE = 600.0  # s at most between two looks
_ENDED_UNFIT: tuple[dict[str, str], ...] = ({"held": "JOURNAL_MISMATCH"}, {"held": "TYPE_CHANGED"})
_BEGUN = (*IDENTIFIED, Continued)
_LONGEST = 500  # of what is said of it, in characters


class _TypeChanged(CodecError):
    """TYPE_CHANGED, see `CodecError`."""


UNFIT = (JournalMismatchError, _TypeChanged)  # the code is another than the one that recorded it


def _changed(attempt: Attempt, error: SerialisationError) -> CodecError:
    """Hold the intent: what was stored fitted once, and does not now."""
    changed = _TypeChanged(
        f"{error.message}; it did when it was recorded", code="TYPE_CHANGED",
        hint="let new fields have defaults; or start a worker whose types it fits",
    )  # fmt: skip
    attempt.hold(changed)
    return changed


def fitting(attempt: Attempt, kind: Typed, data: Any, what: str) -> Any:
    """
    Return the value in *data*, which this or another attempt recorded as a *kind*.

    Raises:
        CodecError: It cannot be opened here, or does not fit (TYPE_CHANGED); the attempt is unwound, its intent held.
    """
    try:
        return kind.decode(data, what)
    except CodecError as error:
        attempt.hold(error)
        raise
    except SerialisationError as error:
        raise _changed(attempt, error) from None


def unless_replayed(attempt: Attempt, error: SerialisationError) -> None:
    """*error* says that what came does not fit: hold the intent if an earlier attempt took it, and went on."""
    if went_past(attempt.conductor.cursor):
        raise _changed(attempt, error) from None


async def given(attempt: Attempt) -> dict[str, Any]:
    """
    Return what the handler is called with: its payload.

    Raises:
        CodecError: It cannot be opened here; or a handler has begun with it, and its type is another now.
        SerialisationError: It does not fit, and nothing was begun with it.
    """
    if attempt.vault is not None:
        attempt.envelope = await attempt.vault.open_struct(attempt.envelope)
    payload = attempt.envelope.payload
    try:
        return attempt.spec.bind(payload)
    except CodecError:
        raise
    except SerialisationError as error:
        found = attempt.lease.entries
        entries = (readable(found[seq - 1], seq) for seq in range(len(found), 0, -1))
        last = next((entry for entry in entries if isinstance(entry, (*_BEGUN, Forked))), None)
        if isinstance(last, Forked):  # what is above was done with another's payload
            error.hint = f"what was forked from {last.source} was given this: fork it again with one that fits"
        if last is None or isinstance(last, Forked):
            raise
        try:
            return attempt.spec.bind(payload, begun=True)
        except SerialisationError:
            raise _changed(attempt, error) from None


async def restored(scope: Scope, data: bytes, of: Any, what: str, *, own: bool = False) -> Any:
    """
    Return the value in *data*, which somebody stored; *own*: this handler.

    Raises:
        CodecError: It cannot be opened here, or does not fit *of*; the attempt is unwound and its intent held.
        SerialisationError: It is its own, and does not fit.
    """
    kind = typed(of)
    try:
        if scope.attempt.vault is not None:
            data = await scope.attempt.vault.open(data)
        if own:
            return kind.decode(data, what)
    except CodecError as error:
        scope.attempt.hold(error)
        raise
    return fitting(scope.attempt, kind, data, what)


async def sealed(attempt: Attempt, data: bytes) -> bytes:
    """
    Return *data* as it is to be stored.

    Raises:
        CodecError: It cannot be sealed here; the attempt is unwound and its intent held.
    """
    if attempt.vault is None:
        return data
    try:
        return await attempt.vault.seal(data)
    except CodecError as error:
        attempt.hold(error)
        raise


async def not_begun(attempt: Attempt, error: Exception) -> str:
    """The handler could not be called, for *error*: return how the attempt ended, or raise it, to be held."""
    if isinstance(error, CodecError) and not isinstance(error, _TypeChanged):
        raise error
    await attempt.recorder.load()
    if isinstance(error, _TypeChanged):
        return await attempt._compensate(*ended_unfit(attempt.conductor, error))
    return await attempt._retry_or_fail(error)


def ended_unfit(conductor: Conductor, error: CodecError | JournalMismatchError) -> tuple[Status, ErrorInfo | None]:
    """
    Return how an intent ends that was asked to end, although its code does not fit what is recorded.

    Its outcome says so: what is undone then was registered before the place that does not fit.

    Raises:
        JournalMismatchError, CodecError: It is to be held. Nobody asked it to end; or its handler, or its undo work,
            has gone on since under code that did fit, which has to finish that.
    """
    cursor = conductor.cursor
    begun = cursor.ending_ahead()
    if begun is not None and begun.error is not None and begun.error.details in _ENDED_UNFIT:
        conductor.ending = begun
        return begun.status, begun.error
    cancel = cursor.cancel
    if begun is not None or cancel is None or gone_on(cursor):
        raise error
    why = told(cancel)
    message = f"{why.message}; what was registered to undo is undone up to where its code does not fit: {error.message}"
    return cancel.status, msgspec.structs.replace(why, message=message, details={"held": error.code})


async def put_down(lease: Lease, seen: int, error: CodecError | JournalMismatchError) -> str:
    """Hold the intent of *lease*, whose journal has *seen* entries as far as known; return how the attempt ended."""
    if isinstance(error, JournalMismatchError):
        emit("intent.held", intent=lease.id, queue=lease.queue, error=error, entry=error.seq, recorded=error.recorded,
             asked=error.asked)  # fmt: skip
    else:
        emit("intent.held", intent=lease.id, queue=lease.queue, error=error)
    lease.note("held", f"{error.code}: {error.message}"[:_LONGEST])
    if lease.session is not None:
        lease.session.writes.values.clear()  # they are made again by the code that fits
    seen = max(lease.base, seen)
    if lease.alone:  # in memory, where nobody mends anything
        word = await lease.park(seen, Reason.HELD.value, now_ms() + int(PAUSE * 1000))
    else:
        word = await put_by(lease, seen, Reason.HELD.value, PAUSE)
    if word == b"OK":
        return "held"
    word = await lease.release()  # news came: it is looked at again at once
    return "released" if word == b"OK" else "lost"
