"""
One intent, run by real attempts on a fake lease: no server, and every way to lose an attempt at a chosen moment.

`FakeIntent` is the store's side of one intent: an exact port of the owner's scripts (claim, record, park, retry,
release, settle, checkpoint, note) and of those that come from outside (interrupt, redrive, fire). Calls and answers
take a few turns of the loop, drawn from a seed, so they overlap with the handler's work as they do in life.

`Bench` runs a handler through `Attempt`s until it ends. A `Kill` cuts an attempt: from that moment nothing it does
reaches the store or the bench's lists; what is left of it is unwound and gone before the next one starts.
`Bench.clock` replaces the wall clock of the runtime, so that nobody waits for a timer.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import msgspec

from redurable import Retry
from redurable.ids import new_id
from redurable.model import (
    CancelRequested,
    Claimed,
    Entry,
    Envelope,
    ErrorInfo,
    Outcome,
    Reopened,
    Status,
    decode_entry,
    encode_entry,
)
from redurable.runtime import attempt as _attempt
from redurable.runtime import calls as _calls
from redurable.runtime import conductor as _conductor
from redurable.runtime import steps as _steps
from redurable.runtime.attempt import Attempt
from redurable.runtime.handlers import Resources, handler, spec_of
from redurable.runtime.loops import new_event_loop
from redurable.store.inspection import failures_of, unpack_outcome
from redurable.tasks import background

__all__ = ["Bench", "Clock", "FakeIntent", "FakeLease", "Kill", "drive"]

FINAL = ("COMPLETED", "FAILED", "CANCELED", "TIMED_OUT")
AT_ONCE = Retry(attempts=20, first=0, jitter=False)


class Clock:
    """The wall clock plus what a test has skipped."""

    def __init__(self) -> None:
        self.offset = 0

    def now_ms(self) -> int:
        """Return the bench's time in ms."""
        return time.time_ns() // 1_000_000 + self.offset

    def reach(self, ms: int) -> None:
        """Go on to *ms*, if it is ahead."""
        self.offset += max(0, ms - self.now_ms())

    @contextmanager
    def worn(self) -> Iterator[None]:
        """Let the runtime read this clock."""
        modules: tuple[Any, ...] = (_attempt, _calls, _conductor, _steps)
        before = [(module, module.now_ms) for module in modules if hasattr(module, "now_ms")]
        for module, _ in before:
            module.now_ms = self.now_ms
        try:
            yield
        finally:
            for module, function in before:
                module.now_ms = function


class FakeIntent:
    """What the store keeps of one intent."""

    def __init__(self, clock: Clock, chance: random.Random, slowness: int = 3) -> None:
        self.clock = clock
        self.chance = chance
        self.slowness = slowness  # the most turns that a call, and its answer, may take
        self.id = new_id(0)
        self.journal: list[bytes] = []
        self.head: dict[str, Any] = {"status": "SUBMITTED", "created": clock.now_ms()}
        self.cursors: dict[str, bytes] = {}
        self.outcome: Outcome | None = None
        self.holder: FakeLease | None = None
        self.refuse_more = 1 << 30  # a record that would make the journal longer than this cuts the attempt unheard
        self.cut_at = 1 << 30  # a record that makes it this long cuts the attempt before it is answered

    @property
    def status(self) -> str:
        """The state."""
        return str(self.head["status"])

    @property
    def entries(self) -> list[Entry]:
        """The journal, decoded."""
        return [decode_entry(raw) for raw in self.journal]

    def claim(self, worker: str = "w1") -> FakeLease:
        """SUBMITTED -> IN_PROGRESS."""
        head = self.head
        assert head["status"] == "SUBMITTED", head
        us = self.clock.now_ms() * 1000
        epoch = max(int(str(head.get("fence", "0")).split(":")[0]) + 1, us)
        head["attempt"] = head.get("attempt", 0) + 1
        head.setdefault("started", us // 1000)
        head["base"] = 0
        if head["attempt"] > 1:
            self.journal.append(encode_entry(Claimed(worker, "3.11", str(head["attempt"]), str(epoch))))
            head["base"] = len(self.journal)
        head |= {"status": "IN_PROGRESS", "fence": f"{epoch}:{worker}:{head['attempt']}"}
        self.holder = FakeLease(self)
        return self.holder

    def interrupt(self, status: Status = Status.CANCELED, note: str = "") -> str:
        """Cancel it, or let its deadline pass."""
        head = self.head
        if head["status"] in FINAL:
            return str(head["status"])
        if "canceling" in head:
            return "REQUESTED"
        if head["status"] == "SUBMITTED" and "attempt" not in head:
            self.finish(status.value, msgspec.msgpack.encode(Outcome(status)))
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

    def redrive(self) -> None:
        """An operator's retry."""
        assert self.status in FINAL, self.status
        assert self.status != "COMPLETED"
        self.journal.append(encode_entry(Reopened(self.clock.now_ms(), failures_of(self.journal))))
        self.outcome = None
        for name in ("canceling", "losses"):
            self.head.pop(name, None)
        self.head["status"] = "SUBMITTED"

    def fire(self) -> None:
        """Let the timer it waits for become due, and wake it."""
        assert self.status == "WAITING", self.status
        self.clock.reach(self.head.pop("wake"))
        self.head["status"] = "SUBMITTED"

    def lose(self) -> None:
        """Take it from a lost owner."""
        if self.status == "IN_PROGRESS":
            self.head["status"] = "SUBMITTED"

    def finish(self, status: str, result: bytes) -> None:
        """End it."""
        self.head["status"] = status
        self.outcome = unpack_outcome(result) if result else Outcome(Status(status))

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

    def _record(self, fence: str, k: int, entries: list[bytes]) -> Any:
        no = self._refused(fence) or self._miscounted(k)
        if no:
            return no
        self.journal += entries
        return len(self.journal)

    def _park(self, fence: str, k: int, seen: int, reason: str, wake: int | None) -> bytes:
        if self.status == "WAITING" and self.head["fence"] == fence:
            return b"OK"
        no = self._refused(fence) or self._miscounted(k)
        if no:
            return no
        if len(self.journal) != seen:
            return b"NEWS"
        self.head |= {"status": "WAITING", "reason": reason, "wake": wake}
        return b"OK"

    def _retry(self, fence: str, k: int, seen: int, delay: int, failure: bytes) -> bytes:
        if self.status == "WAITING" and self.head["fence"] == fence:
            return b"OK"
        no = self._refused(fence) or self._miscounted(k)
        if no:
            return no
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
        self.head["status"] = "SUBMITTED"
        return b"OK"

    def _settle(self, fence: str, k: int, status: str, result: bytes) -> bytes:
        if self.status == status and self.head["fence"] == fence:
            return b"OK"
        no = self._refused(fence) or (self._miscounted(k) if k else None)
        if no:
            return no
        self.finish(status, result)
        self.cursors.clear()
        return b"OK"

    def _checkpoint(self, fence: str, name: str, value: bytes) -> bytes:
        no = self._refused(fence)
        if no:
            return no
        self.cursors[name] = value
        return b"OK"

    def _note(self, fence: str, name: str, value: str) -> bytes:
        no = self._refused(fence)
        if no:
            return no
        self.head[name] = value
        return b"OK"

    def _read(self, fence: str, start: int) -> list[bytes]:
        return self.journal[start:]

    def _read_checkpoints(self, fence: str) -> list[bytes]:
        return [word for name, value in self.cursors.items() for word in (name.encode(), value)]


class FakeLease:
    """`redurable.store.lease.Lease` on a `FakeIntent`: calls are executed, and answered, in order, a little later."""

    def __init__(self, intent: FakeIntent) -> None:
        head = intent.head
        self.intent = intent
        self.id = intent.id
        self.queue = "q"
        self.lane = "q:normal"
        self.fence = str(head["fence"])
        self.attempt = int(head["attempt"])
        self.created = int(head["created"])
        self.started = int(head["started"])
        self.deadline: int | None = None
        self.base = int(head["base"])
        self.body: bytes | None = None
        self.entries: list[bytes] = list(intent.journal)
        self.k = 0
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
        slowness, chance = self.intent.slowness, self.intent.chance
        runs = max(self._turn + chance.randint(1, slowness), self._out[-1][0] if self._out else 0)
        told = max(runs + chance.randint(0, slowness), self._out[-1][1] if self._out else 0)
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
            if answer is None:
                if verb == "record" and len(self.intent.journal) + len(args[1]) > self.intent.refuse_more:
                    self._cut()
                    return
                call[5] = self.intent.run(verb, self.fence, args)
                if verb in ("record", "settle") and len(self.intent.journal) >= self.intent.cut_at:
                    if verb == "settle":
                        # what a worker that died before its settle leaves
                        self.intent.outcome, self.intent.head["status"] = None, "IN_PROGRESS"
                    self._cut()
                    return
        while self._out and self._out[0][1] <= self._turn and not self.dead:
            call = self._out.popleft()
            self._answer(call[4], call[5])
        self._ticking = bool(self._out)
        if self._ticking:
            self._loop.call_soon(self._tick, context=Context())

    def _cut(self) -> None:
        self._ticking = False
        if self.on_cut is not None:
            self.on_cut()

    # --- the verbs

    def record(self, entries: list[bytes], sink: Any = None) -> Any:
        return self._call("record", self.k, list(entries), sink=sink)

    def read(self, start: int) -> Any:
        return self._call("read", start)

    def read_checkpoints(self) -> Any:
        return self._call("read_checkpoints")

    def checkpoint(self, name: str, value: bytes) -> Any:
        return self._call("checkpoint", name, value)

    def note(self, name: str, value: str) -> Any:
        return self._call("note", name, value)

    def park(self, seen: int, reason: str, wake_ms: int | None) -> Any:
        return self._call("park", self.k, seen, reason, wake_ms)

    def retry(self, seen: int, delay_ms: int, failure: bytes) -> Any:
        return self._call("retry", self.k, seen, delay_ms, failure)

    def release(self) -> Any:
        return self._call("release")

    def settle(self, status: str, result: bytes, keep_ms: int) -> Any:
        return self._call("settle", self.k, status, result)


@dataclass(frozen=True)
class Kill:
    """
    When an attempt is cut.

    Args:
        at: Once the journal holds this many entries; the attempt never hears of it. Or at settle, if it has them.
        before: When it is about to hold this many; they are lost.
        turn: After so many turns of the loop, wherever everything is then.
    """

    at: int | None = None
    before: int | None = None
    turn: int | None = None


class Bench:
    """
    A handler and its intent.

    Args:
        function: The handler; *options* are those of `@handler`, attempts follow each other at once.
        payload: What is sent to it.
        seed: For the time that calls take.
        quiet_turns: Given to each attempt's conductor, if not None.

    Attributes:
        ran: What bodies said by `log`. seen: What the handler said by `see`, a list an attempt.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        payload: Any = None,
        *,
        seed: int = 0,
        slowness: int = 3,
        quiet_turns: int | None = None,
        **options: Any,
    ) -> None:
        handler(queue="q", **{"retry": AT_ONCE, **options})(function)
        self.spec = spec_of(function)
        self.envelope = Envelope(type="", payload=msgspec.Raw(msgspec.msgpack.encode(payload)))
        self.clock = Clock()
        self.chance = random.Random(seed)
        self.intent = FakeIntent(self.clock, self.chance, slowness)
        self.resources = Resources()
        self.ran: list[Any] = []
        self.seen: list[list[Any]] = []
        self.alive = False
        self.quiet_turns = quiet_turns
        self.now: Attempt | None = None

    # --- what handlers and bodies use

    def log(self, what: Any) -> None:
        """A body ran; forgotten if its attempt is dead."""
        if self.alive:
            self.ran.append(what)

    def see(self, what: Any) -> None:
        """The handler saw something; forgotten if its attempt is dead."""
        if self.alive:
            self.seen[-1].append(what)

    # --- what tests use

    @property
    def status(self) -> str:
        """The intent's state."""
        return self.intent.status

    @property
    def result(self) -> Any:
        """The result of the completed intent."""
        outcome = self.intent.outcome
        assert outcome is not None, self.status
        assert outcome.status is Status.COMPLETED, (outcome.status, outcome.error)
        return msgspec.msgpack.decode(outcome.result)

    @property
    def error(self) -> ErrorInfo:
        """The error of the intent that ended without a result."""
        assert self.intent.outcome is not None, self.status
        assert self.intent.outcome.error is not None, self.intent.outcome
        return self.intent.outcome.error

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the journal's entries of one kind."""
        return [entry for entry in self.intent.entries if isinstance(entry, kind)]

    async def attempt(
        self, kill: Kill | None = None, during: Callable[[Attempt], Awaitable[None]] | None = None
    ) -> str:
        """Run one attempt; return how it ended, "killed" if it was cut. *during* runs beside it."""
        intent = self.intent
        intent.cut_at = intent.refuse_more = 1 << 30
        if kill is not None:
            intent.cut_at = kill.at if kill.at is not None else intent.cut_at
            intent.refuse_more = kill.before - 1 if kill.before is not None else intent.refuse_more
        with self.clock.worn():
            others = asyncio.all_tasks()
            lease = intent.claim()
            lease.on_cut = self.kill
            self.alive, self._lease, self._killed = True, lease, asyncio.Event()
            self.seen.append([])
            attempt = self.now = Attempt(lease, self.spec, self.envelope, self.resources)  # type: ignore[arg-type]  # a fake
            lease.on_hint = attempt.hint
            if self.quiet_turns is not None:
                attempt.conductor.quiet_turns = self.quiet_turns
            run = background(attempt.run(), "attempt")
            killed = background(self._killed.wait(), "killed")
            beside = background(during(attempt), "beside") if during is not None else None
            if kill is not None and kill.turn is not None:
                self._count_down(kill.turn)
            await asyncio.wait([run, killed], return_when=asyncio.FIRST_COMPLETED)
            if beside is not None and not self._killed.is_set():
                await beside
            self.alive = False
            died = self._killed.is_set() and attempt.ended not in FINAL
            await self._bury(attempt, run, others)
            if not died:
                run.result()
                return attempt.ended
            intent.lose()
            return "killed"

    async def finish(self, most: int = 60) -> str:
        """Run attempts, and let timers become due, until the intent has ended."""
        for _ in range(most):
            if self.status == "SUBMITTED":
                await self.attempt()
            elif self.status == "WAITING":
                self.intent.fire()
            else:
                return self.status
        raise AssertionError(f"still {self.status} after {most} rounds: {self.intent.entries}")

    def reopen(self) -> None:
        """Take the settle back: what a worker leaves that dies before it."""
        assert self.status in FINAL
        self.intent.outcome, self.intent.head["status"] = None, "SUBMITTED"

    def kill(self) -> None:
        """Cut the attempt that runs, now."""
        self.alive = False
        self._lease.die()
        self._killed.set()

    def _count_down(self, turns: int) -> None:
        if self.alive:
            if turns == 0:
                self.kill()
            else:
                asyncio.get_running_loop().call_soon(self._count_down, turns - 1, context=Context())

    async def _bury(self, attempt: Attempt, run: asyncio.Task[None], others: set[asyncio.Task[Any]]) -> None:
        """End whatever is left of an attempt: its process is dead."""
        self._lease.dead = True
        if not run.done():
            attempt.lost("FENCED")
        for round in itertools.count():
            left = {t for t in asyncio.all_tasks() - others if t is not asyncio.current_task() and not t.done()}
            if not left:
                return
            if round > 3:
                for task in left - {run} if round < 10 else left:
                    task.cancel()
            await asyncio.wait(left, timeout=0.001 * round)
            assert round < 200, left


def drive(main: Callable[[], Awaitable[Any]], *, uv: bool) -> Any:
    """Run *main()* on a worker's loop."""

    async def body() -> Any:
        return await main()

    with asyncio.Runner(loop_factory=lambda: new_event_loop(uv)) as runner:
        return runner.run(body())
