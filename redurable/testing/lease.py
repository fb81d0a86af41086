"""
The right to write an intent that is kept in memory, and the ways to lose it.

Calls are executed, and answered, in order, a few turns of the loop after they were made, so that they overlap with the
handler's work as they do in life. A `Kill` cuts the owner off at a chosen entry: nothing that it does from there on is
heard of.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redurable.model import Entry, StepTried, TimerSet, decode_entry
from redurable.testing.session import MemorySession

if TYPE_CHECKING:
    from redurable.testing.memory import MemoryIntent

__all__ = ["Kill", "MemoryLease"]


@dataclass(frozen=True)
class Kill:
    """
    When an attempt is cut.

    Args:
        at: Once the journal holds this many entries; the attempt never hears of it. Or at settle, if it has them.
        before: When it is about to hold this many; they are lost.
        step: Once an entry that ends a call of this name is recorded; the attempt never hears of it.
        turn: After so many turns of the loop, wherever everything is then.
    """

    at: int | None = None
    before: int | None = None
    step: str | None = None
    turn: int | None = None

    def loses(self, length: int, entries: list[bytes]) -> bool:
        """Whether *entries* never reach a journal of *length*."""
        return self.before is not None and length + len(entries) >= self.before

    def follows(self, length: int, entries: list[bytes]) -> bool:
        """Whether it comes right after *entries*, with which the journal has *length*."""
        if self.at is not None and length >= self.at:
            return True
        if self.step is None:
            return False
        return any(self.step == getattr(e, "name", None) for e in map(decode_entry, entries) if not _goes_on(e))


def _goes_on(entry: Entry) -> bool:
    """Whether *entry* leaves its call unended."""
    return isinstance(entry, StepTried | TimerSet)


class _Secret:
    secret = "0:" + "00" * 32
    keys = ("",)  # one partition
    limited = False


class _Telling:
    _call: Any

    def tell(
        self, number: int, turn: int, skip: int, most: int, progress: bytes, events: list[bytes], places: list[Any]
    ) -> Any:
        """See `Lease.tell`; nothing is dropped."""
        return self._call("tell", number, turn, skip, progress, events, places)

    def read_marks(self) -> Any:
        """See `Lease.read_marks`."""
        return self._call("read_marks")


class MemoryLease(_Telling):
    """`redurable.store.lease.Lease` on a `MemoryIntent`; *on_hint* is called at news, *on_cut* when a kill comes."""

    alone = True
    term = until = math.inf  # nobody else takes it

    def __init__(self, intent: MemoryIntent) -> None:
        head = intent.head
        self.intent = intent
        self.id = intent.id
        self.queue = intent.queue
        self.lane = f"{intent.queue}:normal"
        self.fence = str(head["fence"])
        self.version = ""
        self.worker = self.fence.split(":")[1]
        self.attempt = int(head["attempt"])
        self.created = int(head["created"])
        self.started = int(head["started"])
        self.deadline = intent.deadline
        self.base = int(head["base"])
        self.body: bytes | None = None
        self.entries: list[bytes] = list(intent.journal)
        self.k = 0
        self.store = _Secret()  # tokens are signed, alike on every run, and open nothing
        self.session: MemorySession | None = None
        if intent.session is not None:
            self.session = MemorySession(intent.queue, intent.session, intent.state)
        self.dead = False
        self.on_hint: Callable[[], None] | None = None
        self.on_cut: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._turn = 0
        self._out: deque[list[Any]] = deque()  # [turn of execution, turn of answer, verb, args, sink, answer]
        self._ticking = False

    @property
    def epoch(self) -> int:
        """The fencing number."""
        return int(self.fence.split(":")[0])

    def hint(self) -> None:
        """Tell the owner, a little later, that there is news."""
        if not self.dead and self.on_hint is not None:
            self._loop.call_soon(self.on_hint, context=Context())

    def die(self) -> None:
        """From here on nothing reaches the store."""
        self.dead = True
        for call in self._out:
            self._answer(call[4], b"FENCED")
        self._out.clear()

    def _call(self, verb: str, *args: Any, sink: Any = None) -> Any:
        sink = self._loop.create_future() if sink is None else sink
        if self.dead:
            self._loop.call_soon(self._answer, sink, b"FENCED", context=Context())
            return sink
        takes, tells = self.intent.pace()
        runs = max(self._turn + takes, self._out[-1][0] if self._out else 0)
        told = max(runs + tells, self._out[-1][1] if self._out else 0)
        self._out.append([runs, told, verb, args, sink, None])
        if not self._ticking:
            self._ticking = True
            self._loop.call_soon(self._tick, context=Context())
        return sink

    @staticmethod
    def _answer(sink: Any, answer: Any) -> None:
        if not sink.done():
            sink.set_result(answer)

    def _tick(self) -> None:
        self._turn += 1
        for call in list(self._out):
            runs, _, verb, args, _, answer = call
            if runs > self._turn or self.dead:
                break
            if answer is None and self._cut_by(verb, args, call):
                self._ticking = False
                if self.on_cut is not None:
                    self.on_cut()
                return
        while self._out and self._out[0][1] <= self._turn and not self.dead:
            call = self._out.popleft()
            self._answer(call[4], call[5])
        self._ticking = bool(self._out)
        if self._ticking:
            self._loop.call_soon(self._tick, context=Context())

    def _cut_by(self, verb: str, args: tuple[Any, ...], call: list[Any]) -> bool:
        """Execute a call; whether that, or not getting to it, is the end of this owner."""
        intent = self.intent
        kill = intent.kill if verb in ("record", "settle") else None
        entries = args[1] if verb == "record" else []
        if kill is not None and verb == "record" and kill.loses(len(intent.journal), entries):
            return True
        call[5] = intent.run(verb, self.fence, args)
        if kill is None or not kill.follows(len(intent.journal), entries):
            return False
        if verb == "settle":
            # what a worker that died before its settle leaves
            intent.outcome, intent.head["status"] = None, "IN_PROGRESS"
        return True

    # --- the verbs

    def record(self, entries: list[bytes], sink: Any = None) -> Any:
        """See `Lease.record`."""
        return self._call("record", self.k, list(entries), sink=sink)

    def read(self, start: int, count: int) -> Any:
        """See `Lease.read`."""
        return self._call("read", start, count)

    def read_checkpoints(self) -> Any:
        """See `Lease.read_checkpoints`."""
        return self._call("read_checkpoints")

    async def losses(self) -> int:
        """See `Lease.losses`."""
        return int(self.intent.head.get("losses", 0))

    def checkpoint(self, name: str, value: bytes) -> Any:
        """See `Lease.checkpoint`."""
        return self._call("checkpoint", name, value)

    def note(self, name: str, value: str) -> Any:
        """See `Lease.note`."""
        return self._call("note", name, value)

    def park(self, seen: int, reason: str, wake_ms: int | None) -> Any:
        """See `Lease.park`."""
        return self._call("park", self.k, seen, reason, wake_ms, self._writes())

    def begin_turn(self, seen: int, turn: int, body: bytes, first: bytes, kept: list[Any]) -> Any:
        """See `Lease.begin_turn`."""
        return self._call("begin_turn", self.k, seen, turn, body, first, kept)

    def retry(self, seen: int, delay_ms: int, failure: bytes) -> Any:
        """See `Lease.retry`."""
        return self._call("retry", self.k, seen, delay_ms, failure)

    def declare(
        self, key: str, seen: int, about: bytes = b"", form: str = "", schema: bytes = b"", since: int | None = None
    ) -> Any:
        """See `Lease.declare`."""
        return self._call("declare", key, seen, about)

    def withdraw(self, key: str) -> Any:
        """See `Lease.withdraw`."""
        return self._call("withdraw", key)

    def release(self) -> Any:
        """See `Lease.release`."""
        return self._call("release")

    def settle(self, status: str, result: bytes, keep_ms: int) -> Any:
        """See `Lease.settle`."""
        return self._call("settle", self.k, status, result, self._writes() if status == "COMPLETED" else [])

    def _writes(self) -> list[tuple[int, str, bytes]]:
        return [] if self.session is None else self.session.writes.ready
