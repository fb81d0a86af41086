"""
The store's side of one intent, in memory: an exact port of the owner's scripts (claim, record, park, retry, release,
settle, checkpoint, tell, note, declare, withdraw) and of those that come from outside (interrupt, resolve, fire).
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import msgspec

from redurable.ids import new_id
from redurable.model import (
    CancelRequested,
    Claimed,
    Entry,
    ErrorInfo,
    Outcome,
    Status,
    decode_entry,
    encode_entry,
)
from redurable.store.arrivals import arrival
from redurable.store.inspection import unpack_outcome
from redurable.store.store import failure_of
from redurable.testing.clock import Clock
from redurable.testing.lease import Kill, MemoryLease
from redurable.testing.session import save

__all__ = ["FINAL", "MemoryIntent", "Pace"]

FINAL = frozenset(status.value for status in Status if status.final)
Pace = Callable[[], tuple[int, int]]


class MemoryIntent:
    """
    What the store keeps of one intent.

    Args:
        clock: The server's.
        pace: Returns the turns after which a call is executed, and those after which that is answered.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        id: str | None = None,
        queue: str = "q",
        deadline: int | None = None,
        start: int | None = None,
        session: str | None = None,
        state: dict[str, bytes] | None = None,
        pace: Pace = lambda: (1, 0),
    ) -> None:
        self.clock = clock
        self.pace = pace
        self.id = id or new_id(0)
        self.queue = queue
        self.deadline = deadline
        self.session = session
        self.state = state or {}
        self.journal: list[bytes] = []
        self.head: dict[str, Any] = {"status": "SUBMITTED", "created": clock.now_ms()}
        if start is not None:
            self.head |= {"status": "CREATED", "wake": start}
        self.body: bytes | None = None  # the envelope of a later turn
        self.cursors: dict[str, bytes] = {}
        self.told: dict[int, bytes] = {}  # events, by their numbers
        self.marks: dict[str, Any] = {}
        self.arrivals: dict[str, Any] = {}  # key -> "?", "-", or (seq, what came)
        self.asks: dict[str, bytes] = {}  # what is known of them: a packed Ask
        self.on_ask: Callable[[str], None] | None = None  # told of every promise that is waited for
        self.outcome: Outcome | None = None
        self.holder: MemoryLease | None = None
        self.kill: Kill | None = None

    @property
    def status(self) -> str:
        """The state."""
        return str(self.head["status"])

    @property
    def entries(self) -> list[Entry]:
        """The journal, decoded."""
        return [decode_entry(raw) for raw in self.journal]

    def claim(self, worker: str = "memory") -> MemoryLease:
        """SUBMITTED -> IN_PROGRESS."""
        head = self.head
        assert head["status"] == "SUBMITTED", head
        us = self.clock.now_ms() * 1000
        epoch = max(int(str(head.get("fence", "0")).split(":")[0]) + 1, us)
        head["attempt"] = head.get("attempt", 0) + 1
        head.setdefault("started", us // 1000)
        head["base"] = 0
        if head["attempt"] > 1 or self.journal:
            python = ".".join(platform.python_version_tuple()[:2])
            self.journal.append(encode_entry(Claimed(worker, python, str(head["attempt"]), str(epoch))))
            head["base"] = len(self.journal)
        head |= {"status": "IN_PROGRESS", "fence": f"{epoch}:{worker}:{head['attempt']}"}
        self.holder = MemoryLease(self)
        return self.holder

    def interrupt(self, status: Status = Status.CANCELED, note: str = "") -> str:
        """Cancel it, or let its deadline pass."""
        head = self.head
        if head["status"] in FINAL:
            return str(head["status"])
        if "canceling" in head:
            return "REQUESTED"
        if "attempt" not in head:
            code = "CANCELED" if status is Status.CANCELED else "DEADLINE"
            self.finish(status.value, failure_of(status, code, note or code.lower()))
            return status.value
        self.journal.append(encode_entry(CancelRequested(self.clock.now_ms(), status, note)))
        head["canceling"] = status.value
        if head["status"] == "IN_PROGRESS":
            head["base"] += 1
            if self.holder is not None:
                self.holder.hint()
        elif head["status"] == "WAITING":
            head.pop("wake", None)
            head["status"] = "SUBMITTED"
        return "REQUESTED"

    def resolve(self, key: str, value: Any = None, error: ErrorInfo | None = None, status: Status | None = None) -> str:
        """Bring a promise its value, or its rejection; a child's result, or how else it ended."""
        old, head = self.arrivals.get(key), self.head
        if isinstance(old, tuple):
            return "OK" if old[1] == (value, error) else "ALREADY_RESOLVED"
        if old == "-":
            return "WITHDRAWN"
        if head["status"] in FINAL:
            return str(head["status"])
        entry = arrival(key, encode_entry(value), error)
        entry = msgspec.structs.replace(entry, at=self.clock.now_ms(), status=status or entry.status)
        self.journal.append(encode_entry(entry))
        self.arrivals[key] = (len(self.journal), (value, error))
        if head["status"] == "IN_PROGRESS":
            head["base"] += 1
            if self.holder is not None:
                self.holder.hint()
        elif head["status"] == "WAITING" and old == "?" and head["reason"] != "RETRY":
            head.pop("wake", None)
            head["status"] = "SUBMITTED"
        return "OK"

    def fire(self) -> None:
        """Let the timer it waits for become due, and wake it."""
        assert self.status in ("CREATED", "WAITING"), self.status
        self.clock.reach(self.head.pop("wake") or 0)
        self.head["status"] = "SUBMITTED"

    def lose(self) -> None:
        """Take it from a lost owner."""
        if self.status == "IN_PROGRESS":
            self.head["status"] = "SUBMITTED"
            self._progressed()
            self.head["losses"] = self.head.get("losses", 0) + 1

    def finish(self, status: str, result: bytes) -> None:
        """End it."""
        self.head["status"] = status
        self.outcome = unpack_outcome(result) if result else Outcome(Status(status))

    def reopen(self) -> None:
        """Take the settle back: what a worker leaves that dies before it."""
        assert self.status in FINAL, self.status
        self.outcome, self.head["status"] = None, "SUBMITTED"

    # --- the owner's scripts: fence, read, refuse, write ------------------------------------------------------------

    def _refused(self, fence: str) -> bytes | None:
        if self.head.get("fence") != fence:
            return b"FENCED"
        return None if self.status == "IN_PROGRESS" else b"WRONG_STATE"

    def _miscounted(self, k: int) -> bytes | None:
        own = len(self.journal) - int(self.head["base"])
        return b"DUPLICATE" if own > k else b"REGRESSED" if own < k else None

    def run(self, verb: str, fence: str, args: tuple[Any, ...]) -> Any:
        """Execute one call."""
        return getattr(self, f"_{verb}")(fence, *args)

    def _progressed(self) -> None:
        """An attempt ends: losses before it do not count if it recorded anything."""
        if len(self.journal) > int(self.head["base"]):
            self.head.pop("losses", None)

    def _record(self, fence: str, k: int, entries: list[bytes]) -> Any:
        no = self._refused(fence) or self._miscounted(k)
        if no:
            return no
        self.journal += entries
        return len(self.journal)

    def _park(self, fence: str, k: int, seen: int, reason: str, wake: int | None, writes: list[Any]) -> bytes:
        if self.status == "WAITING" and self.head["fence"] == fence:
            return b"OK"
        no = self._refused(fence) or self._miscounted(k)
        if no:
            return no
        if len(self.journal) != seen:
            return b"NEWS"
        self.head["kept"] = save(self.state, writes, self.head.get("kept", 0))
        self._progressed()
        self.head |= {"status": "WAITING", "reason": reason, "wake": wake}
        return b"OK"

    def _retry(self, fence: str, k: int, seen: int, delay: int, failure: bytes) -> bytes:
        if self.status == "WAITING" and self.head["fence"] == fence:
            return b"OK"
        no = self._refused(fence) or self._miscounted(k)
        if no:
            return no
        self._progressed()
        due = self.clock.now_ms() + (delay if len(self.journal) == seen else 0)
        self.journal.append(failure)
        self.head |= {"status": "WAITING", "reason": "RETRY", "wake": due}
        return b"OK"

    def _release(self, fence: str) -> bytes:
        if self.status == "SUBMITTED" and self.head["fence"] == fence:
            return b"OK"
        no = self._refused(fence)
        if no:
            return no
        self._progressed()
        self.head["status"] = "SUBMITTED"
        return b"OK"

    def _settle(self, fence: str, k: int, status: str, result: bytes, writes: list[Any]) -> bytes:
        if self.status == status and self.head["fence"] == fence:
            return b"OK"
        no = self._refused(fence) or (self._miscounted(k) if k else None)
        if no:
            return no
        save(self.state, writes, self.head.get("kept", 0))
        self.finish(status, result)
        self.cursors.clear()
        return b"OK"

    def _checkpoint(self, fence: str, name: str, value: bytes) -> bytes:
        no = self._refused(fence)
        if no:
            return no
        self.cursors[name] = value
        return b"OK"

    def _tell(
        self, fence: str, number: int, turn: int, skip: int, progress: bytes, events: list[bytes], places: list[Any]
    ) -> Any:
        no = self._refused(fence)
        if no:
            return no
        marks, by = self.marks, f"{fence}/{number}"
        seq = int(marks.get("seq", 0))
        if marks.get("by") == by:
            return seq
        if marks.get("turn", turn) != turn:
            self.marks = marks = {"p": marks["p"]} if "p" in marks else {}
        self.told |= dict(enumerate(events, seq + skip + 1))
        marks |= {
            "seq": seq + skip + len(events),
            "by": by,
            "turn": turn,
            **dict(zip(*[iter(places)] * 2, strict=True)),
        }
        if progress:
            marks["p"] = progress
        return marks["seq"]

    def _read_marks(self, fence: str) -> list[Any]:
        return [word for name, value in self.marks.items() for word in (name.encode(), value)]

    def _note(self, fence: str, name: str, value: str) -> bytes:
        no = self._refused(fence)
        if no:
            return no
        self.head[name] = value
        return b"OK"

    def _declare(self, fence: str, key: str, seen: int, about: bytes) -> bytes:
        no = self._refused(fence)
        if no:
            return no
        old = self.arrivals.get(key)
        if not isinstance(old, tuple) or old[0] <= seen:
            self.arrivals[key] = "?"
            self.asks[key] = about
            if self.on_ask is not None:
                self.on_ask(key)
        return b"OK"

    def _withdraw(self, fence: str, key: str) -> bytes:
        no = self._refused(fence)
        if no:
            return no
        if not isinstance(self.arrivals.get(key), tuple):
            self.arrivals[key] = "-"
        return b"OK"

    def _begin_turn(
        self, fence: str, k: int, seen: int, turn: int, body: bytes, first: bytes, kept: list[Any]
    ) -> bytes:
        if self.status == "SUBMITTED" and self.head["fence"] == fence:
            return b"OK"
        no = self._refused(fence) or self._miscounted(k)
        if no:
            return no
        if len(self.journal) != seen:
            return b"NEWS"
        old, self.arrivals = self.arrivals, {}
        self.journal, self.body = [first, *kept[1::2]], body
        for seq, key in enumerate(kept[::2], 2):
            self.arrivals[key] = (seq, old[key][1])
        self.cursors.clear()
        self.head.pop("losses", None)
        self.head |= {"status": "SUBMITTED", "turn": turn}
        return b"OK"

    def _read(self, fence: str, start: int, count: int) -> list[bytes]:
        return self.journal[start : start + count]

    def _read_checkpoints(self, fence: str) -> list[bytes]:
        return [word for name, value in self.cursors.items() for word in (name.encode(), value)]
