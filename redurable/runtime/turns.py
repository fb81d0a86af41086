"""
`continue_as_new`: a handler that would go on for ever starts anew under its id, with an empty journal.

The payload of the next turn is checked before this one is given up. What came from outside and was not used goes along;
a cancel that came is met first. Invariant: a turn ends by one script or not at all, and chance, time-derived keys and
idempotency keys of two turns are unlike.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from redurable.clock import now_ms
from redurable.codec import NIL, encode
from redurable.errors import ContinuedAsNew, RedurableError
from redurable.events import emit
from redurable.journal.left import running, unused
from redurable.model import Continued, Envelope, Reason, encode_entry
from redurable.runtime.promises import handler_scope
from redurable.tasks import background

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt

__all__ = ["begin_turn", "chance_of", "continue_as_new", "part", "seed_of", "turn_seed"]


def continue_as_new(payload: Any = None) -> NoReturn:
    """
    End this journal and start the handler anew with *payload*, as the same intent.

    It does not return. Id, labels, deadline, session and waiters stay; steps, timers and undo work registered so far
    are done with, branches that still run are cut off. A value that came for a promise and was not awaited is kept.

    Raises:
        UsageError: OUTSIDE_INTENT, or INSIDE_STEP.
        SerialisationError, PayloadTooLarge: The handler does not take *payload*; this turn goes on.
    """
    scope = handler_scope("continue_as_new()")
    attempt = scope.attempt
    attempt.conductor.check()
    data = NIL if payload is None else encode(payload, "the payload of the next turn", attempt.limit)
    attempt.spec.check(data)
    signal = ContinuedAsNew(data)
    if threading.get_ident() == attempt.thread:
        attempt.conductor.unwind(signal)
    else:
        attempt.loop.call_soon_threadsafe(attempt.conductor.unwind, signal)
    raise signal


def seed_of(attempt: Attempt) -> str:
    """Return what chance, keys and ids of children follow from: the same on every replay, unlike in every turn."""
    return turn_seed(attempt.lease.id, attempt.recorder.cursor.turn)


def turn_seed(intent: str, turn: int) -> str:
    """Return what `seed_of` gives in a turn of *intent*."""
    return intent if turn == 1 else f"{intent}-{turn}"


def chance_of(attempt: Attempt) -> str:
    """Return what chance follows from here: of a fork, up to where it begins, it is that of the other intent."""
    cursor = attempt.recorder.cursor
    return next((seed for place, seed in cursor.forks if cursor.applied < place), "") or seed_of(attempt)


def part(attempt: Attempt) -> None:
    """Have the children end that the turn before left open, unless this turn has come so far that they were told."""
    attempt.owes = True  # what has not heard it by then is told when this one ends
    if not attempt.recorder.cursor.replaying:
        for child in attempt.recorder.cursor.left:
            background(_end(attempt, child), "cancel a child")


async def _end(attempt: Attempt, child: str) -> None:
    with contextlib.suppress(RedurableError):
        await attempt.lease.store.cancel(child, "its parent began its next turn")


async def begin_turn(attempt: Attempt, payload: bytes) -> str:
    """Begin the next turn of *attempt*'s intent; return the script's word, NEWS with the news taken."""
    recorder, lease, vault = attempt.recorder, attempt.lease, attempt.vault
    cursor = recorder.cursor
    envelope = msgspec.structs.replace(attempt.envelope, payload=msgspec.Raw(payload))
    if not getattr(envelope, "session", ""):  # as its sender would write it
        envelope = Envelope(*(getattr(envelope, name) for name in Envelope.__struct_fields__))
    arrived = unused(cursor)
    if vault is not None:
        envelope = await vault.seal_struct(envelope)
        arrived = [await vault.seal_struct(entry) for entry in arrived]
    open_ones = {call.key for call in cursor.calls if call.key is not None and call.reason is Reason.INTENT}
    left = sorted(open_ones.union(running(cursor)))  # branches that are cut off wait for them
    first = Continued(now_ms(), cursor.turn + 1, cursor.before + len(cursor), left)
    kept = [word for entry in arrived for word in (entry.key, encode_entry(entry))]
    answer = await lease.begin_turn(len(cursor), first.turn, encode_entry(envelope), encode_entry(first), kept)
    word = str(answer.decode())
    if word == "NEWS":
        recorder.sync()
        await recorder.settled()
    elif word == "OK":
        emit("intent.continued", intent=lease.id, queue=lease.queue, attempt=lease.attempt, turn=first.turn)
    return word
