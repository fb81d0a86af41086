"""
What whoever watches an intent is told beside its history: events, items of streams, progress, what it waits for.
Words only.

Events of one intent have numbers of their own (`seq`, 1 = first), without a gap as long as none was dropped. A `Place`
says what a watcher has been given, so that he goes on behind it without a gap or a duplicate.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal, NamedTuple

import msgspec

from redurable.errors import ConfigurationError

__all__ = [
    "Event",
    "Place",
    "Progress",
    "Told",
    "Wait",
    "check_since",
    "decode_progress",
    "decode_told",
    "fraction",
    "pack",
]

pack = msgspec.msgpack.Encoder().encode


class Progress(msgspec.Struct, array_like=True, frozen=True):
    """
    How far an intent has come: *done* of *total* (None: nobody knows), with a note for people.

    *own*: its handler told it; else it is what one of its steps told last, or how far its children are.
    """

    done: float | int
    total: float | int | None = None
    note: Any = ""
    own: bool = True


class Wait(msgspec.Struct, frozen=True):
    """
    Something that an intent waits for, since and at most until a time in ms (None: nobody knows; for ever).

    *name* is that of a promise, approval or limit, the id of a child. *detail* is what an approval asks, where a child
    is and in what state.
    """

    kind: Literal["promise", "approval", "child", "limit"]
    name: str
    index: int = 0
    detail: str = ""
    since: int | None = None
    until: int | None = None


class Told(msgspec.Struct, array_like=True, frozen=True):
    """An event as it is stored; *value* is MessagePack of its own."""

    kind: str
    at: int
    step: str
    offset: int
    value: msgspec.Raw


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something that a watcher is told.

    Attributes:
        kind: "event": what `emit` was given. "item": one of a stream step. "end": a stream step is over, after *offset*
            items; *value* is None, or the class of the error that it failed with. "reset": what was told of *step* from
            *offset* on is void and comes again, for its body began anew; *value* says of which kind ("item" or
            "event"). "dropped": *value* events before this place are gone. "progress": *value* is a `Progress`.
        seq: Its number; 0 of progress, which is not kept as events are.
        at: Time in ms.
        step: Where it was told: "name#n", "" for the handler itself; with the path of its branch, "@2" in turn 2.
        offset: Its number within its step and kind, from 0.
        value: Plain data.
    """

    kind: str
    seq: int = 0
    at: int = 0
    step: str = ""
    offset: int = 0
    value: Any = None


decode_told = msgspec.msgpack.Decoder(Told).decode
decode_progress = msgspec.msgpack.Decoder(Progress).decode


def fraction(progress: Progress) -> float:
    """Return how far it is, from 0 to 1; 0 if nobody knows of how much."""
    if progress.total is None:
        return 0.0
    return min(1.0, progress.done / progress.total) if progress.total else 1.0


class Place(NamedTuple):
    """What a watcher has been given: so many entries of the history, so many events, and this progress."""

    entries: int = 0
    events: int = 0
    progress: str = ""

    def __str__(self) -> str:
        return f"{self.entries}-{self.events}" + (f"-{self.progress}" if self.progress else "")

    @classmethod
    def of(cls, since: int | str) -> Place:
        """Return the place that *since* names: one that `observe` gave, or a number of entries."""
        match = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15})(?:-([0-9a-f]{1,16}))?)?", str(since))
        if match is None or isinstance(since, bool):
            raise ConfigurationError(
                f"{str(since)[:100]!r} is no place in what an intent tells",
                hint="since= is a place that observe() gave, such as 12-40, or the seq of an entry; 0 is the beginning",
            )
        return cls(int(match[1]), int(match[2] or 0), match[3] or "")

    def seen(self, progress: Progress) -> Place:
        """Return the place after *progress*."""
        digest = hashlib.blake2b(pack(progress), digest_size=4).hexdigest()
        return self._replace(progress=digest)


def check_since(since: int) -> int:
    """Return *since*, or raise ConfigurationError when it is no event's number."""
    if not isinstance(since, int) or isinstance(since, bool) or not 0 <= since < 1 << 53:
        raise ConfigurationError(
            f"since= is the seq of the event after which to go on, 0 or more, not {str(since)[:100]!r}"
        )
    return since
