"""
A lease: the right to write one intent, held by one attempt, and the verbs that only its owner may use.

Every verb carries the fence and, where it appends, `k`: how many entries this attempt appended before. Answers are
the words of the scripts' headers; the attempt decides what they mean. Invariant: a lease has at most one verb under
way at a time, so an answer that asks for patience can never overtake a later one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import Any

from redurable.clock import now_ms
from redurable.errors import StoreError
from redurable.store.asking import Asking
from redurable.store.keys import FRESH_LANES, SOLO, Keys, continuations, suspects
from redurable.store.multiplexer import Sink
from redurable.store.scripts import load
from redurable.store.session import Session
from redurable.store.store import Store

__all__ = ["Lease", "canceling", "put_by", "shelve", "sit"]

_record, _checkpoint, _park = load("record"), load("checkpoint"), load("park")
_retry, _release, _settle, _note = load("retry"), load("release"), load("settle"), load("note")
_shelve = load("shelve")
_park_holder, _settle_holder = load("park", session=True), load("settle", session=True)
_continue, _continue_holder = load("continue"), load("continue", session=True)

Word = asyncio.Future[Any]


class Lease(Asking):
    """
    One claimed intent, as `claim` answered it.

    Attributes:
        term: For how many seconds after a renewal, or the claim, nobody else takes it, with a margin.
        until: The end of that as far as it is known, by `clock.boottime`.
    """

    __slots__ = (
        "_journal",
        "_keys",
        "_mux",
        "_stream",
        "attempt",
        "base",
        "body",
        "created",
        "deadline",
        "entries",
        "entry",
        "fence",
        "head",
        "id",
        "k",
        "lane",
        "queue",
        "session",
        "started",
        "store",
        "stream_index",
        "term",
        "until",
        "version",
    )  # fmt: skip

    def __init__(
        self, store: Store, keys: Keys, streams: list[str], reply: list[Any], since: float = 0.0, term: float = math.inf
    ) -> None:
        self.term = term
        self.until = since + term
        intent, index, entry, fence, attempt, created, started, deadline, base, body, entries = reply[:11]
        self.version = reply[11].decode() if len(reply) > 11 else ""  # what it is pinned to
        self.store = store
        self._mux = store.mux
        self._keys = keys
        self._stream: str = streams[index - 1]
        self.stream_index = index
        self.queue, self.lane = keys.lane_of(self._stream)
        self.id: str = intent.decode()
        self.head = keys.head(self.id)
        self._journal = keys.journal(self.id)
        self.entry: bytes = entry
        self.fence: bytes = fence
        self.attempt = int(attempt)
        self.created = int(created)
        self.started = int(started)
        self.deadline = int(deadline) if deadline else None
        self.base = int(base)
        self.body: bytes | None = body
        self.entries: list[bytes] = entries
        self.k = 0
        self.session: Session | None = None

    @property
    def epoch(self) -> int:
        """The fencing number: it rises with every claim of the intent."""
        return int(self.fence.split(b":", 1)[0])

    @property
    def worker(self) -> str:
        """The process that claimed it."""
        return self.fence.split(b":", 2)[1].decode()

    @property
    def stream(self) -> str:
        """The key of the stream that holds the pending entry."""
        return self._stream

    @property
    def partition(self) -> int:
        """The intent's partition."""
        return self._keys.partition

    def record(self, entries: list[bytes], sink: Sink | None = None) -> Word | None:
        """Append *entries*; the answer (to *sink*) is the last seq, or a refusal. Add to `k` once it is a seq."""
        word: Word | None = self._mux.call(
            _record,
            self._keys.partition,
            (self.head, self._journal),
            (self.id, self.fence, self.k, len(entries), *entries),
            sink,
        )
        return word

    def read(self, start: int, count: int) -> Word:
        """Answer the entries from index *start* (0 = first) on, at most *count*; `journals.parts` reads them all."""
        return self._mux.command("LRANGE", self._journal, start, start + count - 1)

    def read_body(self) -> Word:
        """Answer the envelope, when `claim` had no room for it."""
        return self._mux.command("GET", self._keys.envelope(self.id))

    def read_checkpoints(self) -> Word:
        """Answer the cursors of unfinished long steps as a flat list."""
        return self._mux.command("HGETALL", self._keys.checkpoint(self.id))

    async def losses(self) -> int:
        """Answer how many owners were lost since the last progress, 0 if the store cannot say now."""
        with contextlib.suppress(StoreError):
            return int(await self._mux.command("HGET", self.head, "losses") or 0)
        return 0

    def checkpoint(self, name: str, value: bytes) -> Word:
        """Keep *value* as the cursor of the step *name*."""
        keys = (self.head, self._keys.checkpoint(self.id))
        return self._mux.call(_checkpoint, self._keys.partition, keys, (self.fence, name, value))

    def note(self, name: str, value: str) -> Word:
        """Keep a remark in the head, for people who look."""
        return self._mux.call(_note, self._keys.partition, (self.head,), (self.fence, name, value))

    def park(self, seen: int, reason: str, wake_ms: int | None) -> Word:
        """Wait without a worker until *wake_ms*; NEWS when the journal is longer than *seen*."""
        wake = "" if wake_ms is None else wake_ms
        places = (self.head, self._journal, self._keys.timers, self._stream)
        words = (self.id, self.fence, self.k, seen, self.entry, reason, wake)
        if self.session is not None and self.session.writes.values:
            more, told = self.session.staying()
            return self._mux.call(_park_holder, self._keys.partition, (*places, *more), (*words, *told))
        return self._mux.call(_park, self._keys.partition, places, words)

    def begin_turn(self, seen: int, turn: int, body: bytes, first: bytes, kept: list[Any]) -> Word:
        """Begin turn number *turn* with the envelope *body*, and a journal of *first* and *kept* (key, entry, ...).

        What is pinned begins it on the version that is current then.
        """
        keys = self._keys
        lane = FRESH_LANES[1] if self.version else continuations(None)
        places = (
            self.head, self._journal, keys.envelope(self.id), self._stream, keys.stream(self.queue, lane),
            keys.streams, keys.checkpoint(self.id), keys.arrivals(self.id), keys.asked,
        )  # fmt: skip
        words = (
            self.id, self.fence, self.k, seen, self.entry, lane, turn, body, first, len(kept), *kept
        )  # fmt: skip
        if self.session is not None and self.session.writes.values:
            more, told = self.session.staying()
            return self._mux.call(_continue_holder, keys.partition, (*places, *more), (*words, *told))
        return self._mux.call(_continue, keys.partition, places, words)

    def retry(self, seen: int, delay_ms: int, failure: bytes) -> Word:
        """End this attempt with *failure*; the next may begin in *delay_ms*."""
        return self._mux.call(
            _retry,
            self._keys.partition,
            (self.head, self._journal, self._keys.timers, self._stream),
            (self.id, self.fence, self.k, seen, self.entry, f"+{delay_ms}", failure),
        )

    def release(self) -> Word:
        """Hand the intent back, uncounted; a suspect stays one."""
        keys = self._keys
        lane = suspects(self.version) if self.lane.startswith(SOLO) else continuations(self.version)
        return self._mux.call(
            _release,
            keys.partition,
            (self.head, self._journal, self._stream, keys.stream(self.queue, lane), keys.streams),
            (self.id, self.fence, self.entry, lane),
        )

    def settle(self, status: str, result: bytes, keep_ms: int) -> Word:
        """End the intent with *status* and the packed outcome *result* (b"" = COMPLETED with nothing)."""
        keys = self._keys
        view = keys.done if status == "COMPLETED" else keys.failed
        places = (
            self.head, self._journal, keys.outcome(self.id), view, keys.timers, keys.checkpoint(self.id), self._stream
        )  # fmt: skip
        words = (self.id, self.fence, self.k, self.entry, status, result, keep_ms, keys.namespace + ":r:")
        if self.session is not None and self.session.holds:
            return asyncio.ensure_future(self._settle_holder(self.session, status, places, words))
        return self._mux.call(_settle, keys.partition, places, words)

    async def _settle_holder(
        self, session: Session, status: str, places: tuple[Any, ...], words: tuple[Any, ...]
    ) -> Any:
        """End the holder of a session: what it wrote is known if it completed, and the next in line begins."""
        while True:
            more, told = await session.ending(self.id, writes=status == "COMPLETED")
            word = await self._mux.call(_settle_holder, self._keys.partition, (*places, *more), (*words, *told))
            if word != b"AGAIN":
                return word


async def canceling(lease: Lease) -> bool:
    """Answer whether the intent of *lease* was asked to end, or its deadline has passed, since its first claim."""
    return await lease._mux.command("HGET", lease.head, "canceling") is not None


def sit(lease: Lease, key: str, shared: bool) -> None:
    """Tell *lease* that its intent is one of the session *key*: it holds it, or runs beside its holder if *shared*."""
    lease.session = Session(lease._mux, lease._keys, lease.queue, key, holds=not shared)


async def put_by(lease: Lease, seen: int, reason: str, longest: float) -> bytes:
    """
    Put down what cannot go on, until it has waited as long again as since it was first put by with this journal.

    At least 5 s, at most *longest* s. If nothing was recorded it is as if it had not been claimed. NEWS as `park`.
    """
    now, known = now_ms(), await lease._mux.command("HGET", lease.head, "since")
    since, _, length = (known or b"").decode().partition("/")
    first = int(since) if length == str(seen) else now
    lease.note("since", f"{first}/{seen}")
    wake = now + min(max(now - first, 5000), int(longest * 1000))
    if lease.k or not lease.base:
        return bytes(await lease.park(seen, reason, wake))
    return bytes(await shelve(lease, seen, reason, wake))


def shelve(lease: Lease, seen: int, reason: str, wake_ms: int) -> Word:
    """Have an intent wait for a worker that has a handler for it, as if it had not been claimed; NEWS as `park`."""
    keys = lease._keys
    places = (lease.head, keys.journal(lease.id), keys.timers, lease.stream)
    words = (lease.id, lease.fence, seen, lease.entry, reason, wake_ms)
    return lease._mux.call(_shelve, keys.partition, places, words)
