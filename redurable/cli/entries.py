"""Journal entries as people and machines read them. Values are shown only when they were asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from redurable.cli.output import clock, iso
from redurable.codec import SEALED, sealed_part
from redurable.ids import call_text, promise_text
from redurable.model import (
    Arrived,
    AttemptFailed,
    Called,
    CancelRequested,
    Claimed,
    Compensating,
    Continued,
    Entry,
    ErrorInfo,
    Forked,
    Patched,
    Reopened,
    StepDone,
    StepFailedEntry,
    StepTried,
    TimerFired,
    TimerSet,
)

__all__ = ["as_fields", "error_fields", "line", "row", "sealed_text", "voided"]

_KINDS: dict[type, str] = {
    StepDone: "step done",
    StepFailedEntry: "step failed",
    StepTried: "step tried",
    TimerSet: "timer set",
    TimerFired: "timer fired",
    Claimed: "claimed",
    AttemptFailed: "attempt failed",
    Reopened: "reopened",
    CancelRequested: "cancel requested",
    Compensating: "compensating",
    Arrived: "arrived",
    Called: "called",
    Continued: "continued",
    Patched: "patched",
    Forked: "forked",
}
_PREVIEW = 120


def voided(history: Iterable[tuple[int, Entry]]) -> set[int]:
    """Return the seqs that operators' retries set aside."""
    return {seq for _, entry in history if isinstance(entry, Reopened) for seq in entry.voided}


def error_fields(error: ErrorInfo) -> dict[str, Any]:
    """Return what JSON says of an error."""
    details = error.details
    if isinstance(details, msgspec.msgpack.Ext) and details.code == SEALED:
        details = sealed_text(msgspec.msgpack.encode(details))
    return {"type": error.type, "message": error.message, "code": error.code, "details": details}


def sealed_text(data: bytes) -> str | None:
    """Return what stands for a value that is sealed and could not be opened; None for others."""
    part = sealed_part(data)
    if part is None:
        return None
    return f"(sealed by {', '.join(part[0])}, {len(part[1])} bytes; REDURABLE_CODEC opens it) [CODEC_MISSING]"


def as_fields(seq: int, entry: Entry, *, values: bool = False, voided: bool = False) -> dict[str, Any]:
    """Return what JSON says of an entry."""
    found = {
        "seq": seq,
        "at": iso(entry.at),
        "kind": _KINDS[type(entry)].replace(" ", "_"),
        "scope": getattr(entry, "scope", None),
        "name": getattr(entry, "name", None),
        "n": getattr(entry, "n", None),
        "size": _size(entry),
        "voided": voided,
        "detail": _detail(entry),
    }
    if values:
        found["value"] = _value(entry)
    return found


def row(seq: int, entry: Entry, *, values: bool = False, voided: bool = False) -> tuple[Any, ...]:
    """Return an entry's cells: seq, time, kind, scope, step, size, detail and, if asked for, value."""
    kind = _KINDS[type(entry)] + (" (voided)" if voided else "")
    cells = (seq, clock(entry.at), kind, getattr(entry, "scope", ""), _name(entry), _size(entry), _told(entry))
    return (*cells, _preview(entry)) if values else cells


def line(seq: int, entry: Entry, *, values: bool = False) -> str:
    """Return an entry as one line of `watch`."""
    scope = getattr(entry, "scope", "")
    parts = [
        f"{seq:>5}", clock(entry.at), f"{_KINDS[type(entry)]:<16}",
        "/".join(filter(None, (scope, _name(entry)))), _told(entry), _preview(entry) if values else "",
    ]  # fmt: skip
    return "  ".join(filter(None, parts))


def _name(entry: Entry) -> str:
    if isinstance(entry, Arrived):
        return promise_text(entry.key)
    name, n = getattr(entry, "name", None), getattr(entry, "n", None)
    return "" if name is None or n is None else call_text(name, n)


def _size(entry: Entry) -> int | None:
    return len(bytes(entry.value)) if isinstance(entry, StepDone | Arrived) else None


def _detail(entry: Entry) -> dict[str, Any]:
    """Return what only entries of this kind hold."""
    if isinstance(entry, StepFailedEntry):
        return {"error": error_fields(entry.error), "tries": entry.tries}
    if isinstance(entry, StepTried):
        return {"error": error_fields(entry.error), "tries": entry.tries, "due": iso(entry.due)}
    if isinstance(entry, TimerSet):
        return {"due": iso(entry.due)}
    if isinstance(entry, Called):
        return {"child": entry.child}
    if isinstance(entry, Arrived):
        error = None if entry.error is None else error_fields(entry.error)
        return {"key": entry.key, "status": entry.status.value, "error": error, "by": entry.by}
    if isinstance(entry, Claimed):
        return {"worker": entry.worker, "python": entry.python, "attempt": int(entry.attempt)}
    if isinstance(entry, AttemptFailed):
        return {"error": error_fields(entry.error), "due": iso(entry.due)}
    if isinstance(entry, Reopened):
        return {"voided": entry.voided}
    if isinstance(entry, CancelRequested):
        return {"status": entry.status.value, "note": entry.note}
    if isinstance(entry, Compensating):
        return {"status": entry.status.value, "error": None if entry.error is None else error_fields(entry.error)}
    if isinstance(entry, Continued):
        return {"turn": entry.turn, "before": entry.before, "left": entry.left}
    if isinstance(entry, Patched):
        return {"change": entry.change}
    if isinstance(entry, Forked):
        return {"from": entry.source, "step": entry.step}
    return {}


def _told(entry: Entry) -> str:
    """Return the detail for people."""
    error = getattr(entry, "error", None)
    raised = f"{error.type}: {error.message}" if isinstance(error, ErrorInfo) else ""
    if isinstance(entry, StepFailedEntry):
        return f"after {entry.tries} tries: {raised}"
    if isinstance(entry, StepTried):
        return f"try {entry.tries}: {raised}; again {clock(entry.due)}"
    if isinstance(entry, TimerSet):
        return f"due {clock(entry.due)}"
    if isinstance(entry, Called):
        return entry.child
    if isinstance(entry, Arrived):
        return " ".join(filter(None, (entry.status.value, raised, f"by {entry.by}" if entry.by else "")))
    if isinstance(entry, Claimed):
        return f"attempt {entry.attempt} by {entry.worker}, Python {entry.python}"
    if isinstance(entry, AttemptFailed):
        return f"{raised}; again {clock(entry.due)}"
    if isinstance(entry, Reopened):
        return f"retried by an operator; set aside: {', '.join(map(str, entry.voided)) or 'nothing'}"
    if isinstance(entry, CancelRequested):
        return f"{entry.status.value} {entry.note}".strip()
    if isinstance(entry, Compensating):
        return f"will end {entry.status.value} {raised}".strip()
    if isinstance(entry, Continued):
        return f"turn {entry.turn}; {entry.before} entries of earlier turns are gone"
    if isinstance(entry, Patched):
        return entry.change
    if isinstance(entry, Forked):
        return f"forked from {entry.source} before {entry.step}; its own from here on"
    return ""


def _value(entry: Entry) -> Any:
    if not isinstance(entry, StepDone | Arrived):
        return None
    data = bytes(entry.value)
    return sealed_text(data) or msgspec.msgpack.decode(data)


def _preview(entry: Entry) -> str:
    if not isinstance(entry, StepDone | Arrived):
        return ""
    return shortened(_value(entry))


def shortened(value: Any) -> str:
    """Return *value* as the beginning of its JSON."""
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= _PREVIEW else text[:_PREVIEW] + "…"
