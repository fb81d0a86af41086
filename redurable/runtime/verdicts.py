"""
What a step's body came to, as an entry of the journal; and what an entry says to the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

import msgspec

from redurable.clock import now_ms
from redurable.errors import (
    Canceled,
    CodecError,
    ConfigurationError,
    JournalMismatchError,
    SerialisationError,
    StepFailed,
    UsageError,
)
from redurable.events import emit
from redurable.journal.cursor import UNSET, Call
from redurable.journal.fingerprint import changed
from redurable.model import ErrorInfo, StepDone, StepFailedEntry, StepTried
from redurable.runtime.holding import fitting
from redurable.runtime.scope import Scope
from redurable.runtime.spec import StepSpec

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt

__all__ = ["concluded", "failed", "succeeded"]

# another try would only meet them again
_HOPELESS = (UsageError, ConfigurationError, SerialisationError)


def succeeded(spec: StepSpec, scope: Scope, call: Call, value: Any) -> StepDone:
    """Return the entry of a body that returned; keep the value as a replay would give it."""
    data, call.value = spec.typed.settle(value, f"the result of step {spec.name!r}", scope.attempt.limit)
    place, name, n = call.identity
    return StepDone(place, name, n, now_ms(), spec.code, msgspec.Raw(data))


def failed(spec: StepSpec, scope: Scope, call: Call, error: BaseException) -> StepTried | StepFailedEntry:
    """Return the entry of a body that raised: it is tried again, or has failed for good."""
    place, name, n = call.identity
    tries, now = call.tries + 1, now_ms()
    delay = None
    if not scope.attempt.conductor.cancellation.pending and not isinstance(error, _HOPELESS):
        delay = spec.retry.delay(tries, error)
    info = ErrorInfo.of(error)
    lease = scope.attempt.lease
    emit("step.failed", intent=lease.id, queue=lease.queue, step=name, n=n, tries=tries, retry_in=delay, error=error)
    if delay is None:
        call.value = error
        return StepFailedEntry(place, name, n, now, spec.code, info, tries)
    return StepTried(place, name, n, now, info, tries, now + int(delay * 1000))


def concluded(spec: StepSpec, scope: Scope, call: Call) -> Any:
    """Return or raise what the call's entry says."""
    entry = call.entry
    if entry.code is not spec.code and changed(entry.code, spec.code):
        _code_changed(scope.attempt, entry)
    live, call.value = call.value, UNSET
    if isinstance(entry, StepDone):
        if entry.code is spec.code and live is not UNSET:
            return live
        return fitting(scope.attempt, spec.typed, entry.value, f"the recorded result of step {spec.name!r}")
    info = entry.error
    if type(info.details) is msgspec.msgpack.Ext:
        refused = CodecError(f"the error of step {spec.name!r} is sealed", code="CODEC_MISSING")
        scope.attempt.hold(refused)
        raise refused
    if info.code == Canceled.code and (cancellation := scope.attempt.conductor.cancellation).pending:
        cancellation.felt = True  # whatever is made of it, it must not become a result
    failure = StepFailed(
        spec.name, info.type, info.message, code=info.code or None, bases=info.bases, details=info.details,
        traceback=info.traceback, tries=entry.tries,
    )  # fmt: skip
    raise failure from (live if isinstance(live, BaseException) else None)


def _code_changed(attempt: Attempt, entry: StepDone | StepFailedEntry) -> None:
    """A recorded result is replayed under other code than recorded it."""
    policy, name = attempt.spec.on_code_change, entry.name
    if policy == "ignore":
        return
    emit("step.code_changed", intent=attempt.lease.id, queue=attempt.lease.queue, step=name, n=entry.n,
         scope=entry.scope)  # fmt: skip
    if name not in attempt.changed:
        attempt.changed.append(name)
        _on_loop(attempt, attempt.lease.note, "changed", ",".join(attempt.changed))
    if policy == "hold":
        seq, step = attempt.conductor.cursor.applied, f"{name}#{entry.n}"
        error = JournalMismatchError(
            f"entry {seq} of the journal was recorded by other code of step {step} than there is now",
            seq=seq, recorded=step, asked=f"{step} with other code",
        )  # fmt: skip
        _on_loop(attempt, attempt.conductor.unwind, error)
        raise error


def _on_loop(attempt: Attempt, call: Callable[..., Any], *args: Any) -> None:
    if threading.get_ident() == attempt.thread:
        call(*args)
    else:
        attempt.loop.call_soon_threadsafe(call, *args, context=Context())
