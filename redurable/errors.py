"""
Every error that redurable raises, with a stable code each.

    RedurableError
    ├── ConfigurationError      BAD_URL NO_SERVER UNKNOWN_MODULE UNKNOWN_HANDLER BAD_HANDLER BAD_ARGUMENT
    │                           UNSUPPORTED_PLATFORM NAMESPACE_TOO_NEW QUEUE_TAKEN BAD_IMPORT BAD_CODEC BAD_OUTCOME
    │                           UNSAFE_SERVER BAD_CRON BAD_TIMEZONE BAD_LIMIT BAD_VERSION
    ├── StoreError              STORE_ERROR HEAD_UNREADABLE
    │   └── StoreUnavailable    STORE_UNAVAILABLE AUTH_FAILED
    ├── SerialisationError      NOT_SERIALISABLE TYPE_MISMATCH LIMIT_KEY
    │   └── PayloadTooLarge     PAYLOAD_TOO_LARGE
    ├── CodecError              CODEC_FAILED CODEC_MISSING CODEC_KEY_MISSING JOURNAL_UNREADABLE (its intent is held)
    │                           SCHEDULE_UNREADABLE TYPE_CHANGED
    ├── NotFound                INTENT_NOT_FOUND QUEUE_NOT_FOUND APPROVAL_NOT_FOUND SESSION_NOT_FOUND
    │                           SCHEDULE_NOT_FOUND STEP_NOT_FOUND STREAM_NOT_FOUND VERSION_NOT_FOUND
    ├── WrongState              WRONG_STATE INTENT_EXISTS ALREADY_RESOLVED PROMISE_WITHDRAWN TOO_MANY_UNASKED
    │                           SCHEDULE_BUSY ALREADY_UNDONE
    ├── IdempotencyConflict     IDEMPOTENCY_CONFLICT
    ├── SessionBusy             SESSION_BUSY SESSION_FULL
    ├── IntentFailed            INTENT_FAILED (another intent ended without a result)
    ├── WaitTimeout             WAIT_TIMEOUT (`redurable send --wait`: only the wait ended)
    ├── PromiseRejected         PROMISE_REJECTED (a promise of this intent was rejected)
    ├── TokenRefused            BAD_TOKEN TOKEN_EXPIRED
    ├── StepFailed              STEP_FAILED (a step of this intent failed for good)
    ├── StepProcessLost         STEP_PROCESS_LOST (a process step's child died; retried)
    ├── TerminalError           TERMINAL (raised by users: never retry)
    ├── RetryLater              RETRY_LATER (raised by users: retry after a delay)
    └── UsageError              OUTSIDE_INTENT INSIDE_STEP BLOCKING_STEP USE_DURABLE_SEND FOREIGN_WAIT PROMISE_REUSED
                                JOURNAL_LIMIT LIMIT_NESTED STEP_ID_REUSED
                                SESSION_DEADLOCK NO_SESSION STATE_READ_ONLY STATE_IN_STEP
                                (of redurable.testing:) STUCK ENDLESS NO_SUCH_ENTRY NEVER_ASKED TEST_WORKER

    Signals of the engine, BaseExceptions so that `except Exception` lets them pass:
    asyncio.CancelledError
    ├── Suspended               the attempt ends here and another continues it
    │   ├── ContinuedAsNew      the handler starts anew, with an empty journal
    │   └── Fenced              another worker owns the intent now
    └── Canceled                the intent was cancelled, or its deadline passed
    BaseException
    └── JournalMismatchError    JOURNAL_MISMATCH: the code asks for another step than the journal holds (the intent
                                is held)

Invariant: a code is never reused for another meaning. Foreign errors (redis, msgspec) are translated
at the border that meets them and never leave the package bare.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

__all__ = [
    "Canceled",
    "CodecError",
    "ConfigurationError",
    "ContinuedAsNew",
    "Fenced",
    "IdempotencyConflict",
    "IntentFailed",
    "JournalMismatchError",
    "NotFound",
    "PayloadTooLarge",
    "PromiseRejected",
    "RedurableError",
    "RetryLater",
    "SerialisationError",
    "SessionBusy",
    "StepFailed",
    "StepProcessLost",
    "StoreError",
    "StoreUnavailable",
    "Suspended",
    "TerminalError",
    "TokenRefused",
    "UsageError",
    "WaitTimeout",
    "WrongState",
]


class RedurableError(Exception):
    """
    The root of the tree.

    Args:
        message: What was wrong and where.
        code: The stable code; each class has a default.
        hint: What to do about it, one sentence.
    """

    code: str = "ERROR"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        text = f"{self.message} [{self.code}]"
        return f"{text}\n  {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(kind: type[RedurableError], args: tuple[Any, ...], state: dict[str, Any]) -> RedurableError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(RedurableError):
    """A setting, URL, module or handler cannot be used. Nothing was started or stored."""

    code = "BAD_ARGUMENT"


class StoreError(RedurableError):
    """Redis answered with an error that repeating will not mend."""

    code = "STORE_ERROR"


class StoreUnavailable(StoreError):
    """Redis could not be reached, or stopped answering. It is not known whether a write was stored."""

    code = "STORE_UNAVAILABLE"


class SerialisationError(RedurableError):
    """A value cannot be stored, or a stored value does not fit the type asked for. Nothing was stored."""

    code = "NOT_SERIALISABLE"


class PayloadTooLarge(SerialisationError):
    """A payload, result or entry is over the size limit. Nothing was stored."""

    code = "PAYLOAD_TOO_LARGE"


class CodecError(RedurableError):
    """
    A value or an entry cannot be sealed, opened or read here. An intent is held until it can be.

    TYPE_CHANGED: what the intent recorded fits its type no more; a worker whose code it fits goes on with it.
    """

    code = "CODEC_FAILED"


class NotFound(RedurableError):
    """No intent, queue, session, approval or step of that name is there."""

    code = "INTENT_NOT_FOUND"


class WrongState(RedurableError):
    """The intent is in a state in which this cannot be done. It is unchanged."""

    code = "WRONG_STATE"


class IdempotencyConflict(RedurableError):
    """The idempotency key was used with another payload. The first intent is unchanged."""

    code = "IDEMPOTENCY_CONFLICT"


class SessionBusy(RedurableError):
    """The session is not free (SESSION_BUSY), or as many wait in its line as may (SESSION_FULL). Nothing was stored."""

    code = "SESSION_BUSY"


class IntentFailed(RedurableError):
    """
    An intent ended without a result.

    Attributes:
        intent_id: The intent.
        status: FAILED, CANCELED or TIMED_OUT.
        error: Its recorded error (`redurable.model.ErrorInfo`), if it has one.
    """

    code = "INTENT_FAILED"

    def __init__(self, intent_id: str, status: str, error: Any = None) -> None:
        reason = f": {error.type}: {error.message}" if error is not None else ""
        super().__init__(f"intent {intent_id} ended {status}{reason}")
        self.args = (intent_id, status, error)
        self.intent_id = intent_id
        self.status = status
        self.error = error
        if error is not None and error.code:
            self.code = error.code


class WaitTimeout(RedurableError):
    """The command line's wait for an outcome ended; the intent goes on. `Client.wait_for` raises TimeoutError."""

    code = "WAIT_TIMEOUT"


class PromiseRejected(RedurableError):
    """
    A promise of this intent was rejected; the same error live and on replay.

    Attributes:
        name, index: The promise.
        by: Who rejected it, if they said so.
        details: What the rejecter gave besides.
    """

    code = "PROMISE_REJECTED"

    def __init__(
        self, name: str, index: int, message: str, *, code: str = "", by: str = "", details: Any = None
    ) -> None:
        super().__init__(f"promise {name!r} was rejected: {message}", code=code or None)
        self.args = (name, index, message)
        self.name = name
        self.index = index
        self.reason = message
        self.by = by
        self.details = details


class TokenRefused(RedurableError):
    """A token does not open what it names: it is not ours, or too old. Nothing was changed."""

    code = "BAD_TOKEN"


class StepFailed(RedurableError):
    """
    A step failed for good; the same error live and on replay.

    Attributes:
        step: The step's name.
        type: The qualified name of the original exception's class.
        details: What the original exception carried in a `details` attribute.
        traceback: The original traceback as text.
        tries: How often the body was run.

    Live, the original is also the `__cause__`.
    """

    code = "STEP_FAILED"

    def __init__(
        self,
        step: str,
        type: str,
        message: str,
        *,
        code: str | None = None,
        bases: tuple[str, ...] = (),
        details: Mapping[str, Any] | None = None,
        traceback: str = "",
        tries: int = 1,
    ) -> None:
        super().__init__(f"step {step!r} failed for good after {tries} tries: {type}: {message}", code=code)
        self.args = (step, type, message)
        self.step = step
        self.type = type
        self.reason = message
        self.bases = bases
        self.details = dict(details or {})
        self.traceback = traceback
        self.tries = tries

    def matches(self, *kinds: type[BaseException]) -> bool:
        """Tell whether the original exception was an instance of one of *kinds*, live and on replay."""
        names = {self.type, *self.bases}
        return any(f"{kind.__module__}.{kind.__qualname__}" in names for kind in kinds)


class StepProcessLost(RedurableError):
    """The process that ran a `run_in="process"` step died. The step is retried by its `Retry`."""

    code = "STEP_PROCESS_LOST"


class TerminalError(RedurableError):
    """Raise it in a handler or step to fail without any retry."""

    code = "TERMINAL"

    def __init__(self, message: str = "", *, code: str | None = None, hint: str = "", details: Any = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.details = details or {}


class RetryLater(RedurableError):
    """
    Raise it in a handler or step to retry after a delay of your choice.

    Args:
        after: Seconds, or a timedelta, until the next try.
    """

    code = "RETRY_LATER"

    def __init__(self, after: float | timedelta, message: str = "retry later") -> None:
        super().__init__(message)
        self.args = (after, message)
        self.after = max(0.0, after.total_seconds() if isinstance(after, timedelta) else float(after))


class UsageError(RedurableError):
    """A durable call was made where it cannot be kept. Nothing was recorded."""

    code = "OUTSIDE_INTENT"


class Suspended(asyncio.CancelledError):
    """This attempt ends here and another continues the intent: clean up process resources, start nothing."""


class ContinuedAsNew(Suspended):
    """The handler asked to start anew; `payload` (MessagePack) is what its next turn is given."""

    def __init__(self, payload: bytes) -> None:
        super().__init__("the handler continues as new")
        self.payload = payload


class Fenced(Suspended):
    """Another worker owns the intent; whatever this attempt still does is not recorded."""


class Canceled(asyncio.CancelledError):
    """The intent was cancelled, or its deadline passed."""

    code = "CANCELED"


class JournalMismatchError(BaseException):
    """
    The handler asks for a step that is not the one its journal holds next.

    The journal is left as it is and the intent is held, WAITING: nothing fails, nothing is undone, no attempt is
    counted. A worker whose code fits goes on with it: the code that wrote the journal, or new code with `patched`.
    """

    code = "JOURNAL_MISMATCH"

    def __init__(self, message: str, *, seq: int = 0, recorded: str = "", asked: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.seq = seq
        self.recorded = recorded
        self.asked = asked
