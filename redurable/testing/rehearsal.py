"""
Would this code go on with that journal? An intent's past is replayed against a handler, up to where it stands.

The engine is the real one, its store in memory, its time virtual. Nothing is written anywhere and no step's body runs:
the replay ends where a worker would do something new. What a worker's process provides (`Depends`) is stood in for, so
only the handler's own code between its durable calls is run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from typing import Any
from unittest.mock import MagicMock

import msgspec

from redurable import events
from redurable.codecs.base import Vault
from redurable.config import parse_url
from redurable.errors import CodecError, JournalMismatchError, RedurableError, SerialisationError
from redurable.ids import call_text, promise_text
from redurable.journal.cursor import IDENTIFIED
from redurable.journal.left import went_past
from redurable.model import Continued, Entry, Envelope, Patched, decode_entry
from redurable.portable import Parts, unpack
from redurable.runtime import scope
from redurable.runtime.attempt import Attempt
from redurable.runtime.handlers import HandlerSpec
from redurable.runtime.resources import Resources
from redurable.store.inspection import decode_envelope
from redurable.store.journals import readable
from redurable.store.keys import Keys
from redurable.store.store import Store
from redurable.testing.clock import Clock, VirtualLoop
from redurable.testing.lease import MemoryLease
from redurable.testing.life import Life
from redurable.testing.memory import MemoryIntent

__all__ = ["Finding", "rehearse"]

_LONGEST = 45.0  # s of virtual time; longer than the engine is patient with what is not durable
_LOOK = 0.05
_NEVER = 1 << 60
_HARMLESS = frozenset({"note", "read", "read_checkpoints", "read_marks", "tell", "withdraw"})  # and that only in memory


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the code does otherwise than what recorded an intent's journal, and where.

    *code*, of what breaks: JOURNAL_MISMATCH, TYPE_CHANGED, UNREADABLE, it would be held; BAD_PAYLOAD, it has not begun
    and would fail; RAISES, the handler raises before it comes to where the intent stands; UNKNOWN_TYPE,
    nobody would take it. Of what does not: CODE_CHANGED, a recorded step has other code now; STANDS_STILL, the handler
    waits for something else on the way, and cannot be followed further.
    """

    intent: str
    queue: str
    code: str
    breaks: bool
    message: str
    version: str | None = None
    seq: int | None = None
    step: str | None = None
    scope: str | None = None


def rehearse(specs: Mapping[str, HandlerSpec], record: Any, vault: Vault | None = None) -> list[Finding]:
    """
    Return what the handlers *specs* (of the intent's queue, by type) would do otherwise to an exported intent.

    Not to be called where an event loop runs; it takes milliseconds.

    Args:
        record: As `Client.export` returns it, and a line of `redurable intents export` holds it.

    Raises:
        ConfigurationError: BAD_IMPORT; it is no exported intent.
    """
    intent, parts = unpack(record)
    told = _Told(intent, parts)
    try:
        entries = [readable(raw, seq) for seq, raw in enumerate(parts.journal, 1)]
        envelope = decode_envelope(parts.body)
    except (CodecError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        return [told.finding("UNREADABLE", _message(error))]
    spec = specs.get(envelope.type) or (next(iter(specs.values())) if not envelope.type and len(specs) == 1 else None)
    if spec is None:
        return [told.finding("UNKNOWN_TYPE", f"there is no handler of type {envelope.type!r}")]
    replay = _Replay(spec, envelope, told, vault)
    begun = any(isinstance(entry, (*IDENTIFIED, Continued, Patched)) for entry in entries)
    in_worker = scope.in_worker
    scope.mark_worker()  # a step that has lost its intent must not be an ordinary call
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(replay.begun() if begun else replay.fresh())
    finally:
        scope.mark_worker(in_worker)


class _Told:
    """Puts findings about one intent into words."""

    def __init__(self, intent: str, parts: Parts) -> None:
        self.intent = intent
        self.parts = parts
        self.before = 0  # entries of earlier turns

    def finding(self, code: str, message: str, at: int = 0, *, breaks: bool = True) -> Finding:
        """Return a finding, at entry number *at* if it is of one."""
        head = self.parts.head
        entry: Entry | None = decode_entry(self.parts.journal[at - 1]) if 0 < at <= len(self.parts.journal) else None
        name = getattr(entry, "name", None) or getattr(entry, "key", None)
        return Finding(
            intent=self.intent, queue=head["queue"], code=code, breaks=breaks, message=message,
            version=head.get("version") or None, seq=self.before + at if entry is not None else None,
            step=name and (call_text(name, entry.n) if isinstance(entry, IDENTIFIED) else promise_text(name)),
            scope=getattr(entry, "scope", None),
        )  # fmt: skip


class _Replay:
    """One rehearsal."""

    def __init__(self, spec: HandlerSpec, envelope: Envelope, told: _Told, vault: Vault | None) -> None:
        self.spec = spec
        self.envelope = envelope
        self.told = told
        self.vault = vault
        self.changed: dict[str, Finding] = {}

    async def fresh(self) -> list[Finding]:
        """No handler has begun it: its payload has to fit, and that is all."""
        try:
            if self.vault is not None:
                self.envelope = await self.vault.open_struct(self.envelope)
            self.spec.bind(self.envelope.payload)
        except CodecError as error:
            return [self.told.finding("UNREADABLE", _message(error))]
        except SerialisationError as error:
            return [self.told.finding("BAD_PAYLOAD", _message(error))]
        return []

    async def begun(self) -> list[Finding]:
        """Replay it."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # of tasks that end with the rehearsal, nobody asks how
        begun = loop.time()
        intent = _Past(Clock(lambda: time.time() + loop.time() - begun), self.told)
        life = _Life(self.spec, self.envelope, intent, _Provided())
        life.vault = self.vault
        intent.on_edge = life.kill
        late = loop.call_later(_LONGEST, life.kill)
        unsubscribe = events.subscribe(lambda _, fields: self._code_changed(life, fields), ["step.code_changed"])
        try:
            await life.attempt()
        finally:
            late.cancel()
            unsubscribe()
            loop.attempt = None  # type: ignore[attr-defined]  # the loop is the virtual one
        return [*self.changed.values(), *self._verdict(life, intent.edge)]

    def _code_changed(self, life: _Life, fields: dict[str, Any]) -> None:
        if fields["intent"] == self.told.intent and fields["step"] not in self.changed:
            cursor = life.rehearsal.recorder.cursor
            self.told.before = cursor.before
            text = f"the code of step {fields['step']!r} is another than recorded it: its result stands"
            self.changed[fields["step"]] = self.told.finding("CODE_CHANGED", text, cursor.applied, breaks=False)

    def _verdict(self, life: _Life, edge: bool) -> Iterator[Finding]:
        attempt = life.rehearsal
        error, cursor = attempt.raised, attempt.recorder.cursor
        self.told.before = cursor.before
        if isinstance(error, JournalMismatchError):
            yield self.told.finding("JOURNAL_MISMATCH", str(error), error.seq or cursor.applied)
        elif isinstance(error, CodecError):
            code = "TYPE_CHANGED" if error.code == "TYPE_CHANGED" else "UNREADABLE"
            yield self.told.finding(code, _message(error), attempt.at)
        elif error is not None and attempt.ahead:
            text = f"the handler raises {type(error).__name__} before this entry: {_message(error)}"
            yield self.told.finding("RAISES", text, attempt.at + 1)
        elif not edge and went_past(cursor):
            text = "the handler waits for something that is not durable before this entry, and cannot be followed"
            yield self.told.finding("STANDS_STILL", text, cursor.applied + 1, breaks=False)


def _message(error: BaseException) -> str:
    return error.message if isinstance(error, RedurableError) else str(error)


# --- an engine that only looks back -----------------------------------------------------------------------------------


class _Rehearsal(Attempt):
    """An attempt that keeps what it would fail with, or be held for."""

    raised: BaseException | None = None
    ahead = False  # whether that came before the end of the journal
    at = 0  # how many entries had taken effect

    def keep(self, error: BaseException) -> None:
        """Keep the first *error*."""
        if self.raised is None:
            cursor = self.recorder.cursor
            self.raised, self.ahead, self.at = error, went_past(cursor), cursor.applied

    def hold(self, error: CodecError) -> None:
        self.keep(error)
        super().hold(error)

    async def _decide(self, value: Any, error: BaseException | None) -> str:
        if isinstance(self.conductor.signal, JournalMismatchError):
            self.keep(self.conductor.signal)
        try:
            return await super()._decide(value, error)
        except JournalMismatchError as skipped:
            self.keep(skipped)
            raise

    async def _retry_or_fail(self, error: BaseException) -> str:
        self.keep(error)
        await self.lease.release()
        return "released"


class _Life(Life):
    kind = _Rehearsal

    @property
    def rehearsal(self) -> _Rehearsal:
        """The attempt."""
        assert isinstance(self.now, _Rehearsal)
        return self.now

    def prepare(self, attempt: Attempt) -> None:
        attempt.stand_ins = _NoBodies(self.past.end)
        asyncio.get_running_loop().call_later(_LOOK, self._look)

    @property
    def past(self) -> _Past:
        """The intent."""
        assert isinstance(self.intent, _Past)
        return self.intent

    def _look(self) -> None:
        """Nothing moves: is that because the journal is at its end? Then what the handler waits for is yet to come."""
        cursor = self.rehearsal.recorder.cursor
        if self.alive and cursor.exhausted and len(cursor) >= self.rehearsal.lease.base:
            self.past.end()
        elif self.alive:
            asyncio.get_running_loop().call_later(_LOOK, self._look)


class _NoBodies(Mapping[str, Callable[..., Coroutine[Any, Any, Any]]]):
    """Stands in for the body of every step there is: to come to one is the end."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def __getitem__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        return self._stop

    def __iter__(self) -> Iterator[str]:
        return iter(("any",))

    def __len__(self) -> int:
        return 1

    async def _stop(self, *_: Any, **__: Any) -> Any:
        self._end()
        await asyncio.get_running_loop().create_future()


class _Past(MemoryIntent):
    """An intent as it was exported."""

    def __init__(self, clock: Clock, told: _Told) -> None:
        head = told.parts.head
        super().__init__(
            clock, id=told.intent, queue=head["queue"], session=head.get("session"),
            deadline=int(head["deadline"]) if "deadline" in head else None,
        )  # fmt: skip
        self.journal = list(told.parts.journal)
        numbers = {name: int(head[name]) for name in ("attempt", "created", "started") if name in head}
        self.head |= numbers | {"fence": head.get("fence", "0:")}
        self.on_edge: Callable[[], None] = lambda: None
        self.edge = False

    def claim(self, worker: str = "rehearsal") -> MemoryLease:
        """As its next worker would."""
        super().claim(worker)
        self.holder = _LookingBack(self)
        return self.holder

    def end(self) -> None:
        """A worker would do something new."""
        self.edge = True
        self.on_edge()


class _LookingBack(MemoryLease):
    """A lease that writes nothing but marks of changes, and those in memory."""

    def __init__(self, intent: _Past) -> None:
        super().__init__(intent)
        self._past = intent
        self.store: Any = _nowhere()

    def _call(self, verb: str, *args: Any, sink: Any = None) -> Any:
        marks = verb == "record" and all(isinstance(decode_entry(raw), Patched) for raw in args[1])
        if verb in _HARMLESS or marks or self.dead:
            return super()._call(verb, *args, sink=sink)
        sink = self._loop.create_future() if sink is None else sink
        self._out.append([_NEVER, _NEVER, verb, args, sink, None])  # answered when it is cut
        self._past.end()
        return sink


class _Anything(MagicMock):
    """Whatever is awaited of it is there at once."""

    def __await__(self) -> Generator[Any, None, Any]:
        yield from ()
        return self


class _Provided(Resources):
    """Stands in for all that a process provides."""

    async def provide(self, spec: HandlerSpec) -> dict[str, Any]:
        return {name: _Anything(name=name) for name in spec.depends}


class _Silence:
    """In the place of a connection: nothing leaves, and no answer comes."""

    def command(self, *_: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    call = command


def _nowhere() -> Store:
    """Return a store that is none: calls of children know their places by it."""
    store = Store(parse_url("redis://nowhere"))
    store.mux = _Silence()  # type: ignore[assignment]  # as said
    store.keys = [Keys("nowhere", 0)]
    store.secret = "0:" + "00" * 32
    return store
