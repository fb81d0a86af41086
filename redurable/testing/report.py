"""What a run in memory tells of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from redurable.errors import IntentFailed
from redurable.model import Entry, ErrorInfo, Outcome, Status, StepDone, StepFailedEntry, StepTried
from redurable.news import Event, Progress, decode_progress, decode_told
from redurable.runtime.handlers import HandlerSpec
from redurable.testing.memory import MemoryIntent

__all__ = ["Run", "StepRun"]

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class StepRun:
    """
    One call of a step that has ended.

    Attributes:
        tries: How often its body raised or returned; tries that a crash took are not known.
        result: What it returned, as plain data; None if it failed.
        error: Why it failed for good.
    """

    name: str
    tries: int
    result: Any = None
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True)
class Run(Generic[R]):
    """
    A finished run.

    Attributes:
        id: The intent's id.
        status: COMPLETED, FAILED, CANCELED or TIMED_OUT.
        error: Why it did not complete; None if it did.
        journal: Its entries, as `Client.history` would give them.
        attempts: How many there were: one, and one more after each crash, retry and wait that was parked.
        elapsed: Seconds of virtual time from sending to the outcome.
        state: What the state of its session holds after it, as plain data.
        progress: The last that was told of how far it was; None if nothing was.
        events: What `emit` and stream steps told, with the resets that a crash or a retry brought, as watchers see it.
    """

    id: str
    status: Status
    error: ErrorInfo | None
    journal: tuple[Entry, ...]
    attempts: int
    elapsed: float
    state: dict[str, Any]
    progress: Progress | None
    events: tuple[Event, ...]
    _spec: HandlerSpec
    _outcome: Outcome

    @classmethod
    def of(cls, spec: HandlerSpec, intent: MemoryIntent, *, elapsed_ms: int) -> Run[Any]:
        """Return the report on an *intent* that has ended."""
        outcome = intent.outcome
        assert outcome is not None
        return cls(
            id=intent.id,
            status=outcome.status,
            error=outcome.error,
            journal=tuple(intent.entries),
            attempts=intent.head.get("attempt", 0),
            elapsed=elapsed_ms / 1000,
            state={name: msgspec.msgpack.decode(value) for name, value in sorted(intent.state.items())},
            progress=decode_progress(intent.marks["p"]) if "p" in intent.marks else None,
            events=tuple(_event(seq, told) for seq, told in intent.told.items()),
            _spec=spec,
            _outcome=outcome,
        )

    @property
    def result(self) -> R:
        """What the handler returned, typed by its annotation; IntentFailed, as from `wait_for`, if it did not."""
        if self.status is not Status.COMPLETED:
            raise IntentFailed(self.id, self.status.value, self.error)
        value: R = self._spec.result.decode(self._outcome.result, f"the result of {self._spec.name}")
        return value

    @property
    def steps(self) -> list[StepRun]:
        """The calls of steps that ended, in the order in which they did; also those made inside steps."""
        tries: dict[Any, int] = {}
        ended: list[StepRun] = []
        for entry in self.journal:
            if isinstance(entry, StepTried):
                tries[entry.scope, entry.name, entry.n] = entry.tries
            elif isinstance(entry, StepDone):
                before = tries.get((entry.scope, entry.name, entry.n), 0)
                ended.append(StepRun(entry.name, before + 1, msgspec.msgpack.decode(entry.value)))
            elif isinstance(entry, StepFailedEntry):
                ended.append(StepRun(entry.name, entry.tries, error=entry.error))
        return ended


def _event(seq: int, raw: bytes) -> Event:
    told = decode_told(raw)
    value = msgspec.msgpack.decode(told.value)
    return Event(kind=told.kind, seq=seq, at=told.at, step=told.step, offset=told.offset, value=value)
