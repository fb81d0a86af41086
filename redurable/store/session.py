"""
Sessions: the intents of one (queue, session key) run one at a time, in order of sending, with a state.

A session's *line* is a zset: 0 is the score of the intent that holds the session, the others have their place, which
rises with every sending. Invariants: a line that is not empty has one holder, which is SUBMITTED, IN_PROGRESS or
WAITING; those behind it are CREATED, without a start and without a stream entry; whatever ends the holder admits the
next in the same script. Scripts declare all their keys, so who ends a holder reads first who is next, and asks again
if that has changed meanwhile (AGAIN).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from redurable.errors import ConfigurationError
from redurable.store.keys import UNPINNED, Keys, check_session
from redurable.store.multiplexer import Multiplexer
from redurable.store.scripts import load

__all__ = ["KEEP_STATE_MS", "ON_BUSY", "Entry", "Session", "check_name"]

KEEP_STATE_MS = 30 * 86_400_000
ON_BUSY = ("queue", "reject", "interrupt", "replace")
_reseat = load("reseat")


def check_name(name: str) -> str:
    """Return *name*, or raise ConfigurationError when a state cannot hold it."""
    if not isinstance(name, str) or not 0 < len(name) <= 256 or not name.isprintable():
        raise ConfigurationError(
            f"{str(name)[:300]!r} cannot be a name in a state", hint="use 1 to 256 printable characters"
        )
    return name


@dataclass(frozen=True, slots=True)
class Entry:
    """How an intent enters a session that may be busy; see `SendOptions`."""

    key: str
    on_busy: str = "queue"
    max_queued: int | None = None

    def check(self, delayed: bool) -> None:
        """Refuse, with a ConfigurationError, what cannot be."""
        check_session(self.key)
        if self.on_busy not in ON_BUSY:
            raise ConfigurationError(f"on_busy is one of {', '.join(ON_BUSY)}, not {self.on_busy!r}")
        most = self.max_queued
        if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 0):
            raise ConfigurationError(f"max_queued is a number of intents, 0 or more, not {most!r}")
        if delayed and (self.on_busy != "queue" or most is not None):
            raise ConfigurationError(
                "delay= goes with on_busy='queue' alone, and without max_queued",
                hint="a delayed intent takes its place in line when it falls due, however long that is then",
            )

    @property
    def words(self) -> tuple[Any, ...]:
        """The last args of `enter`."""
        most = "" if self.max_queued is None else self.max_queued
        return self.key, "" if self.on_busy == "queue" else self.on_busy, most


@dataclass(slots=True)
class Writes:
    """
    What an attempt wrote to the state and nobody sees yet: name -> (number of the write, value; b"" = deleted).

    A value that is still `pending` (it is being sealed) is read back, but never stored.
    """

    values: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)
    count: int = 0
    retention_ms: int = KEEP_STATE_MS

    def put(self, name: str, value: bytes) -> int:
        """Keep a write and return its number, which tells a replay's repetition from news."""
        self.count += 1
        self.values[name] = (self.count, value)
        return self.count

    def sealed(self, name: str, number: int, value: bytes) -> None:
        """The write *number* is to be stored as *value*, unless another has come meanwhile."""
        self.pending.discard(number)
        if self.values[name][0] == number:
            self.values[name] = (number, value)

    @property
    def ready(self) -> list[tuple[int, str, bytes]]:
        """What may be stored: (number, name, value)."""
        return [(number, name, value) for name, (number, value) in self.values.items() if number not in self.pending]


class Session:
    """
    One session, as whoever ends, parks or mends one of its intents sees it.

    Attributes:
        key, queue: Its names.
        line, state: Its keys in Redis.
        holds: For a lease: whether its intent stands in the line; one of a shared handler runs beside.
        writes: For a lease: what waits for the next park or settle.
    """

    __slots__ = ("_keys", "_mux", "holds", "key", "line", "queue", "state", "writes")

    def __init__(self, mux: Multiplexer, keys: Keys, queue: str, key: str, *, holds: bool = True) -> None:
        self._mux = mux
        self._keys = keys
        self.queue = queue
        self.key = key
        self.line = keys.line(queue, key)
        self.state = keys.state(queue, key)
        self.holds = holds
        self.writes = Writes()

    async def ending(self, intent: str, writes: bool = False) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the keys and args of a script's second form that may end *intent*: who is next, if it holds."""
        first = await self._mux.command("ZRANGE", self.line, 0, 1)
        heir = first[1].decode() if len(first) == 2 and first[0].decode() == intent else ""
        lane = b""
        if heir:
            lane = await self._mux.command("HGET", self._keys.head(heir), "lane") or b""
        return self._form(heir, lane.decode(), writes)

    def staying(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return the keys and args of a script's second form that parks the holder."""
        return self._form("", "", True)

    def _form(self, heir: str, lane: str, writes: bool) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        keys = self._keys
        flat = [word for write in self.writes.ready for word in write] if writes else []
        places = (
            self.line, keys.head(heir) if heir else self.line, keys.stream(self.queue, lane.lstrip("!") or UNPINNED),
            keys.streams, self.state,
        )  # fmt: skip
        return places, (heir, lane, self.writes.retention_ms, len(flat), *flat)

    async def reseat(self, intent: str) -> str:
        """Re-check the place of *intent* in the line; return OK, MENDED or STALE."""
        keys = self._keys
        while True:
            first = await self._mux.command("ZRANGE", self.line, 0, 0)
            name = first[0].decode() if first else ""
            lane = (await self._mux.command("HGET", keys.head(intent), "lane") or b"").decode()
            word = await self._mux.call(
                _reseat,
                keys.partition,
                (keys.head(intent), self.line, keys.head(name or intent),
                 keys.stream(self.queue, lane.lstrip("!") or UNPINNED), keys.streams),
                (intent, lane, name),
            )  # fmt: skip
            if word != b"AGAIN":
                return str(word.decode())

    async def ahead(self, intent: str) -> list[str]:
        """Return those before *intent* in the line, the holder first; nothing if it is not in it."""
        rank = await self._mux.command("ZRANK", self.line, intent)
        if not rank:
            return []
        return [raw.decode() for raw in await self._mux.command("ZRANGE", self.line, 0, rank - 1)]

    async def read(self, name: str) -> bytes | None:
        """Return what the state holds under *name*."""
        value: bytes | None = await self._mux.command("HGET", self.state, name)
        return value

    async def names(self) -> list[str]:
        """Return the names that the state holds, sorted."""
        return sorted(raw.decode() for raw in await self._mux.command("HKEYS", self.state) if raw)
