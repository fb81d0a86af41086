"""
One attempt at an intent, as one record through a straight pipe: prepare, lead, decide, end.

    claimed ─► payload, journal ─► handler ─► how did it end? ─► settle | retry | (parked) | release | (lost)

Invariants: exactly one of these ends an attempt; nothing is settled while an entry is on its way; a handler that was
unwound, or swallowed a signal, is never settled by what it returned.

An attempt is made for every intent. Tried, in CPU of a worker a no-op intent and a one-step one: rings cut at its end,
no closures, parts made when they are needed: 52 -> 26 us and 70 -> 38 us, most of it the garbage collector's.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from redurable import spans
from redurable.clock import now_ms
from redurable.codec import DEFAULT_LIMIT, NIL
from redurable.codecs.base import Vault
from redurable.errors import (
    CodecError,
    ConfigurationError,
    ContinuedAsNew,
    Fenced,
    IntentFailed,
    JournalMismatchError,
    PromiseRejected,
    SerialisationError,
    StepFailed,
    StoreError,
    Suspended,
    TerminalError,
    UsageError,
)
from redurable.events import emit, gathered, wanted
from redurable.journal.cursor import Cursor
from redurable.model import (
    AttemptFailed,
    Compensating,
    Envelope,
    ErrorInfo,
    Outcome,
    Reason,
    Status,
    encode_entry,
)
from redurable.runtime.bodies import in_thread
from redurable.runtime.cancellation import told
from redurable.runtime.conductor import Conductor
from redurable.runtime.growth import NO_LIMITS, grown, watch_growth
from redurable.runtime.handlers import HandlerSpec
from redurable.runtime.holding import UNFIT, ended_unfit, given, not_begun, put_down
from redurable.runtime.recorder import Recorder
from redurable.runtime.resources import Resources
from redurable.runtime.scope import Scope, scope_var
from redurable.runtime.sealed import SealedRecorder
from redurable.runtime.seats import Seats, admitted, kept, put_down_waiting, wanted_of
from redurable.runtime.threshold import proven
from redurable.runtime.turns import begin_turn, part
from redurable.runtime.undo import cut_off, undo
from redurable.store.courier import relay
from redurable.store.lease import Lease
from redurable.store.store import pack_outcome
from redurable.tasks import background, within

if TYPE_CHECKING:
    from redurable.runtime.calls import Checkpoints
    from redurable.runtime.telling import Telling

__all__ = ["Attempt"]

StandIn = Callable[..., Coroutine[Any, Any, Any]]
# another attempt would only meet them again: they are in the journal, in the code or in the payload
_FINAL = (StepFailed, IntentFailed, PromiseRejected, UsageError, ConfigurationError, SerialisationError, TerminalError)


class Attempt:
    """
    Runs *spec*'s handler under *lease*.

    Args:
        lease: The claimed intent.
        envelope: What its sender said.
        resources: What the process provides.
        limit: The most bytes of a payload, result or entry.
        journal: The most entries and bytes of a journal.
        vault: What seals and opens values, if a payload codec is configured.
    """

    seats: Seats | None = None  # once it comes under a limit

    def __init__(
        self,
        lease: Lease,
        spec: HandlerSpec,
        envelope: Envelope,
        resources: Resources,
        *,
        limit: int = DEFAULT_LIMIT,
        journal: tuple[int, int] = NO_LIMITS,
        vault: Vault | None = None,
    ) -> None:
        self.lease = lease
        self.spec = spec
        self.envelope = envelope
        self.limit = limit
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.compensations: list[tuple[Callable[..., Any], Any, Any]] = []
        self.checkpoints: Checkpoints | None = None
        self.telling: Telling | None = None
        self.stand_ins: Mapping[str, StandIn] = {}  # by step: called instead of its body
        self.timed = gathered("step.seconds", lease.queue)
        self.owes = False  # others are to be told when it ends
        self.task: asyncio.Task[None] | None = None
        self.ended = ""
        self._resources = resources
        self.changed: list[str] = []  # steps whose code differs from what recorded them
        self._parking = False
        self._parked = False
        self._cursor = Cursor()
        self.vault = vault
        self._limits = journal
        way = (lease, self._cursor, self, limit)
        self.recorder = Recorder(*way) if vault is None else SealedRecorder(*way, vault)
        watch_growth(self.recorder, journal)
        self.conductor = Conductor(Scope(self, ""), self._cursor, self.recorder)

    # --- what the worker uses -------------------------------------------------------------------------------------

    def run(self) -> Coroutine[Any, Any, None]:
        """Run to its end; `ended` says how: a final status, retry, parked, continued, held, limited, released, lost."""
        return self._run() if spans.observer is None else self._run_seen(spans.observer)

    async def _run_seen(self, observer: spans.Observer) -> None:
        losses = await self.lease.losses() if self.lease.attempt > 1 else 0
        with observer.attempt(self.lease, self.envelope.trace, self.spec.name, losses) as seen:
            await self._run()
            seen.done(self.ended)

    async def _run(self) -> None:
        self.task = asyncio.current_task(self.loop)
        scope_var.set(self.conductor.main)
        lease = self.lease
        counted = gathered("attempt.seconds", lease.queue)
        if counted is not None:
            counted["started"].append(0.0)
        if wanted("attempt.started"):
            emit("attempt.started", intent=lease.id, queue=lease.queue, attempt=lease.attempt)
        try:
            try:
                self.ended = await self._pipe()
            except (CodecError, JournalMismatchError) as error:
                self.ended = await put_down(lease, len(self._cursor), error)
        except StoreError as error:
            emit("attempt.store_error", intent=lease.id, error=error)
            self.ended = await self._release()
        finally:
            cut_off(self.conductor)
            self.conductor.close()
            age, ended = now_ms() - lease.created, self.ended or "lost"
            if counted is not None:
                counted[ended].append(age / 1000)
            if wanted("attempt.ended"):
                emit("attempt.ended", intent=lease.id, queue=lease.queue, attempt=lease.attempt, ended=ended, age=age)
            self.task = None
            if self.seats is not None:
                await self.seats.leave()

    def hint(self) -> None:
        """Something was appended to the journal from outside."""
        self.recorder.sync()

    def lost(self, word: str) -> None:
        """The store refuses this owner: unwind, write nothing more."""
        self.recorder.lose(word)
        emit("attempt.fenced", intent=self.lease.id, attempt=self.lease.attempt, word=word)
        self.conductor.unwind(Fenced(f"the attempt lost its intent ({word})"))

    def news(self) -> None:
        """Entries came from outside."""
        self.conductor.news()

    def grown(self, entries: int, size: int) -> None:
        """The journal has got long."""
        grown(self, self._limits, entries, size)

    def hold(self, error: CodecError) -> None:
        """A value cannot be sealed or used: unwind, and put the intent down until that may have been mended."""
        if threading.get_ident() != self.thread:
            self.loop.call_soon_threadsafe(self.hold, error)
            return
        if not isinstance(error, UNFIT):
            self.recorder.lose("HELD")
        self.conductor.unwind(error)

    def unwind(self) -> None:
        """Hand the intent back now."""
        self.conductor.unwind(Suspended("the worker stops"))

    # --- the pipe ---------------------------------------------------------------------------------------------------

    async def _pipe(self) -> str:
        lease = self.lease
        try:
            arguments = await given(self)
            limits = wanted_of(self, arguments) if self.spec.limits else None
            if self.spec.depends:
                arguments |= await self._resources.provide(self.spec)
        except Exception as error:  # a payload that does not fit, or a dependency that could not be made
            return await not_begun(self, error)
        if limits and (ended := await admitted(self, limits)):
            return ended
        if lease.base:
            await self.recorder.load()
        if not self.recorder.ready():
            await self.recorder.settled()
        self._cursor.last_at = self._cursor.began or lease.started
        if self._cursor.left:
            part(self)
        self.conductor.begin()
        value: Any = None
        failure: BaseException | None = None
        try:
            value = await self._lead(arguments)
        except (Exception, asyncio.CancelledError, JournalMismatchError, BaseExceptionGroup) as raised:
            failure = raised  # a group: what a TaskGroup makes of a signal that is raised in its own body
        except (KeyboardInterrupt, SystemExit) as raised:
            # of user code: the process's own signals do not come this way
            failure = RuntimeError(f"the handler raised {type(raised).__name__}")
        self._calm()
        return await self._decide(value, failure)

    async def _lead(self, arguments: dict[str, Any]) -> Any:
        spec, main = self.spec, self.conductor.main
        await proven(self)
        if spec.is_async:
            main.task = self.task
            if spec.attempt_timeout is None:
                return await spec.function(**arguments)
        async with within(spec.attempt_timeout):
            main.timers.clear()  # this one does not keep the handler from parking: a park ends the attempt
            if spec.is_async:
                return await spec.function(**arguments)
            # a thread cannot be stopped: it goes on until its next durable call, which raises
            return await in_thread(main, kept(main, None, spec.function), (), arguments)

    def _calm(self) -> None:
        """Forget cancellations that were meant for the handler."""
        self.conductor.main.task = None
        while self.task is not None and self.task.cancelling():
            self.task.uncancel()

    async def _decide(self, value: Any, error: BaseException | None) -> str:
        conductor = self.conductor
        signal = conductor.signal
        conductor.over = True
        if self.telling is not None or not self.recorder.idle:
            await self._written()
        if self._parked:
            return "parked"
        if self.recorder.lost is not None:
            return await self._after_loss()
        if conductor.ending is not None:
            ending = conductor.ending
            return await self._compensate(ending.status, ending.error)
        if isinstance(signal, UNFIT):
            return await self._compensate(*ended_unfit(conductor, signal))
        if isinstance(signal, UsageError):
            return await self._retry_or_fail(signal)
        if signal is not None and not isinstance(signal, ContinuedAsNew):
            return await self._release()
        conductor.ending = self._cursor.ending_ahead()
        if conductor.ending is not None:
            # an earlier attempt had begun to undo: whatever this one ended with
            return await self._compensate(conductor.ending.status, conductor.ending.error)
        # a handler that fails before it meets its cancel does not outlive it by its retries
        cancel, met = self._cursor.cancel, conductor.cancellation
        if cancel is not None and (met.delivered or met.felt or error is not None):
            return await self._compensate(cancel.status, told(cancel))
        if error is not None and signal is None:
            return await self._retry_or_fail(error)
        if not self._cursor.exhausted or self._cursor.passed:
            skipped = self._cursor.skipped({s.path for s in conductor.scopes if s is not conductor.main})
            if skipped is not None:
                return await self._compensate(*ended_unfit(conductor, skipped))
        if isinstance(signal, ContinuedAsNew):
            word = await begin_turn(self, signal.payload)
            if word == "NEWS":
                return await self._decide(value, error)
            return "continued" if word == "OK" else await self._refused(word.encode())
        try:
            data, _ = self.spec.result.settle(value, f"the result of {self.spec.name}", self.limit)
        except SerialisationError as refused:
            return await self._retry_or_fail(refused)
        return await self._settle(Status.COMPLETED, data)

    async def _retry_or_fail(self, error: BaseException) -> str:
        """An attempt raised: another follows by the handler's policy, or the intent fails."""
        delay = None
        if not isinstance(error, _FINAL):
            delay = self.spec.retry.delay(self._cursor.failures + 1, error)
        info = ErrorInfo.of(error)
        emit("handler.failed", intent=self.lease.id, queue=self.lease.queue, attempt=self.lease.attempt,
             retry_in=delay, error=error)  # fmt: skip
        if delay is None:
            return await self._compensate(Status.FAILED, info)
        entry = AttemptFailed(now_ms(), info, now_ms() + int(delay * 1000))
        if self.vault is not None:
            entry = await self.vault.seal_struct(entry)
        word = await self.lease.retry(len(self._cursor), int(delay * 1000), encode_entry(entry))
        return "retry" if word == b"OK" else await self._refused(word)

    async def _compensate(self, status: Status, error: ErrorInfo | None) -> str:
        """Undo what was registered, the last first, then end with *status*."""
        if self.compensations:
            if self.conductor.ending is None:
                await self.recorder.append(Compensating(now_ms(), status, error))
                self._cursor.applied = len(self._cursor)
            await undo(self)
            self._calm()
            self.conductor.over = True
            await self.recorder.settled()
            if self._parked:
                return "parked"
            if self.recorder.lost is not None:
                return await self._after_loss()
            if self.conductor.signal is not None:
                return await self._release()
        return await self._settle(status, error=error)

    # --- ways to end --------------------------------------------------------------------------------------------------

    async def _written(self) -> None:
        """Return when nothing is on its way to the store."""
        await self.recorder.settled()
        if self.telling is not None:
            await self.telling.flush(last=True)

    async def _settle(self, status: Status, data: bytes = NIL, error: ErrorInfo | None = None) -> str:
        if self.telling is not None or not self.recorder.idle:
            await self._written()
        outcome = Outcome(status, msgspec.Raw(data), error)
        if self.vault is not None:
            outcome = await self.vault.seal_struct(outcome)
        word = await self.lease.settle(status.value, pack_outcome(outcome), self.spec.keep_ms(status))
        if word != b"OK":
            return await self._refused(word)
        if (self.owes or self.envelope.parent) and not self.lease.alone:
            with contextlib.suppress(StoreError):  # then whoever sees that it is due
                await relay(self.lease.store, self.lease.id)
        return status.value

    async def _refused(self, word: bytes) -> str:
        self.lost(word.decode())
        return await self._after_loss()

    async def _after_loss(self) -> str:
        """Fenced: another owns it. A journal that went back: hand it over, uncounted, to be replayed as it is."""
        if self.recorder.lost in ("FENCED", "WRONG_STATE", "NOT_FOUND", "LOST"):
            return "lost"
        await self._release()
        return "lost"

    async def _release(self) -> str:
        if isinstance(self.conductor.signal, CodecError | JournalMismatchError):
            raise self.conductor.signal  # held
        try:
            word = await self.lease.release()
        except StoreError:
            return "lost"  # recovery finds it
        return "released" if word == b"OK" else "lost"

    def park(self, due: int | None, reason: Reason) -> None:
        """Nothing but durable waits is left: put the intent down until *due* (ms; None: till it is woken)."""
        if not self._parking:
            self._parking = True
            background(self._park(len(self.recorder.cursor), due, reason))

    async def _park(self, seen: int, due: int | None, reason: Reason) -> None:
        try:
            word = await put_down_waiting(self, seen, due, reason)
        finally:
            self._parking = False
        if word == b"OK":
            self._parked = True
            self.conductor.unwind(Suspended("the intent waits"))
        elif word == b"NEWS":
            self.recorder.sync()
        else:
            self.lost(word.decode())
