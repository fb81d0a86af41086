"""What a journal leaves open: children that run still, values that nobody took, calls that were not come to yet."""

from __future__ import annotations

from typing import Any

from redurable.journal.cursor import IDENTIFIED, Cursor, inside_of
from redurable.model import Arrived, Called, CancelRequested, Compensating

__all__ = ["gone_on", "pass_by", "running", "unused", "went_past"]


def running(cursor: Cursor) -> list[str]:
    """Return the ids of children that were started and have not ended."""
    return [e.child for e in cursor._entries if isinstance(e, Called) and e.child not in cursor.brought]


def went_past(cursor: Cursor) -> bool:
    """Return whether an earlier attempt recorded a call that the handler has not come to yet."""
    inside = tuple(map(inside_of, cursor._calls))
    return any(
        (entry.scope, entry.name, entry.n) not in cursor._calls and not entry.scope.startswith(inside)
        for entry in cursor._entries[cursor.applied : cursor._past]
        if isinstance(entry, IDENTIFIED)
    )


def gone_on(cursor: Cursor) -> bool:
    """Return whether the handler, or its undo work, has recorded anything since it was asked to end."""
    for entry in reversed(cursor._entries):
        if isinstance(entry, CancelRequested):
            return False
        if isinstance(entry, (*IDENTIFIED, Compensating)):
            return True
    return True


def pass_by(cursor: Cursor, entry: Any) -> bool:
    """
    Keep *entry*, the next, for whoever asks for it later; False if its scope waits for nothing that lies behind it.

    That is for calls which their callers named alone: within a scope they may come back in another order.
    """
    waiting = [call.identity for call in cursor.calls if call.identity[0] == entry.scope]
    if not isinstance(entry.n, str) or not any(isinstance(i[2], str) and cursor.has_entry(i) for i in waiting):
        return False
    identity = (entry.scope, entry.name, entry.n)
    cursor._inside.setdefault(identity, []).append(entry)
    cursor.passed[identity] = entry
    cursor._take(entry)
    return True


def unused(cursor: Cursor) -> list[Arrived]:
    """Return the values of promises that came and were given to nobody."""
    return [e for e in cursor._entries if isinstance(e, Arrived) and "#" in e.key and e.key not in cursor.used]
