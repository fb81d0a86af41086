"""
What a fork keeps of the journal that it begins with: its handler's history up to one call, and nothing of its attempts.

Kept are results, timers, tries and values that came, in their order. Left out are what an operator's retry voided,
claims, failed attempts and cancels, and children that had not ended and promises without a value: the fork calls its
own, and asks anew. Chance up to the fork's
beginning is drawn as it was, since recorded calls may depend on it; `Forked` says from what. Invariant: the fork's
handler, replayed, comes to the place before the call as the other one did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from redurable.errors import NotFound
from redurable.journal.cursor import inside_of
from redurable.model import (
    Arrived,
    Called,
    CancelRequested,
    Compensating,
    Continued,
    Entry,
    Forked,
    Patched,
    Reopened,
    StepDone,
    StepFailedEntry,
    StepTried,
    TimerFired,
    TimerSet,
    decode_entry,
)

__all__ = ["Past", "past"]

_KEPT = (StepDone, StepFailedEntry, StepTried, TimerSet, TimerFired, Called, Arrived, Forked, Patched)
_TOLD = 40  # calls that an error lists


@dataclass(slots=True)
class Past:
    """
    The beginning of a fork.

    Attributes:
        journal: The entries, as they are stored.
        arrived: What came from outside: its key -> (its seq in the other journal, in this one).
        seed: What chance was drawn from where the fork begins; "" = as the other's current turn draws it.
        began: What time it was (ms) for the handler at its beginning; 0 if the journal does not tell.
    """

    journal: list[bytes] = field(default_factory=list)
    arrived: dict[str, tuple[int, int]] = field(default_factory=dict)
    seed: str = ""
    began: int = 0


def past(raw: list[bytes], step: str) -> Past:
    """
    Return what is kept of a journal up to the call *step*.

    Args:
        step: The call's name, as the history shows it: the first of that name, or `name#2`, or `branch/name#2`.

    Raises:
        NotFound: STEP_NOT_FOUND; the message lists the calls that there are.
    """
    live = list(_live(raw))
    at = _place(live, step)
    first = live[0][1]
    found = Past(began=first.at if isinstance(first, Continued) else 0)
    for _, entry in live:
        if isinstance(entry, Forked) and not found.began:
            found.began = entry.began
    found.seed = next((entry.seed for seq, entry in live if seq >= at and isinstance(entry, Forked)), "")
    ended = {entry.key for seq, entry in live if seq < at and isinstance(entry, Arrived)}
    fired = {(e.scope, e.name, e.n) for seq, e in live if seq < at and isinstance(e, TimerFired)}
    for seq, entry in live:
        if seq >= at or not isinstance(entry, _KEPT) or (isinstance(entry, Called) and entry.child not in ended):
            continue
        if isinstance(entry, TimerSet) and (entry.scope, entry.name, entry.n) not in fired and _asks(entry, ended):
            continue
        found.journal.append(raw[seq - 1])
        if isinstance(entry, Arrived):
            found.arrived[entry.key] = seq, len(found.journal)
    return found


def _asks(entry: TimerSet, ended: set[str]) -> bool:
    """Tell whether it limits a promise that is open: the fork asks for one of its own, and its time begins anew."""
    kind, _, name = entry.name.partition(" ")
    return kind == "promise" and not any(key.rpartition("#")[0] == name for key in ended)


def _live(raw: list[bytes]) -> Iterator[tuple[int, Entry]]:
    """Give (seq, entry) of what the handler did before it was cancelled, or had ended and was undone."""
    entries = [decode_entry(data) for data in raw]
    voided = {seq for entry in entries if isinstance(entry, Reopened) for seq in entry.voided}
    asked = False
    for seq, entry in enumerate(entries, 1):
        if seq in voided:
            continue
        if isinstance(entry, Compensating) or (asked and isinstance(entry, CancelRequested)):
            return
        asked = asked or isinstance(entry, CancelRequested)
        yield seq, entry


def _place(live: list[tuple[int, Entry]], step: str) -> int:
    """Return the seq of the first entry of *step*, or of what was called inside it."""
    chosen = next((entry for _, entry in live if step in _names(entry)), None)
    if chosen is None:
        raise NotFound(
            f"the journal has no call {step!r}", code="STEP_NOT_FOUND", hint=f"it has: {_listed(e for _, e in live)}"
        )
    if isinstance(chosen, Arrived):
        return next(seq for seq, entry in live if entry is chosen)
    one: Any = chosen
    identity = (one.scope, one.name, one.n)
    inside = inside_of(identity)
    return next(
        seq
        for seq, entry in live
        if (scope := getattr(entry, "scope", None)) is not None
        and ((scope, *_numbered(entry)) == identity or scope.startswith(inside))
    )


def _numbered(entry: Any) -> tuple[str, int | str]:
    return entry.name, entry.n


def _names(entry: Any) -> tuple[str, ...]:
    """Return what *entry*'s call is known by, the full name first; nothing if it is of no call."""
    if isinstance(entry, Arrived):
        name, promise, _ = entry.key.rpartition("#")
        return (entry.key, name) if promise else ()  # a child's outcome is of its call
    if getattr(entry, "scope", None) is None:
        return ()
    text = f"{entry.name}#{entry.n}"
    return f"{entry.scope}/{text}" if entry.scope else text, text, entry.name


def _listed(entries: Iterable[Entry]) -> str:
    names = list(dict.fromkeys(names[0] for entry in entries if (names := _names(entry))))
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return (", ".join(names[:_TOLD]) + more) or "nothing yet"
