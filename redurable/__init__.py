"""
Durable execution for Python on Redis: an intent survives kill -9 and carries on at the failing step.

Public names are imported at their first use: the command line starts in half the time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redurable.client import Client
    from redurable.errors import (
        Canceled,
        CodecError,
        ConfigurationError,
        ContinuedAsNew,
        Fenced,
        IdempotencyConflict,
        IntentFailed,
        JournalMismatchError,
        NotFound,
        PayloadTooLarge,
        PromiseRejected,
        RedurableError,
        RetryLater,
        SerialisationError,
        SessionBusy,
        StepFailed,
        StepProcessLost,
        StoreError,
        StoreUnavailable,
        Suspended,
        TerminalError,
        TokenRefused,
        UsageError,
        WrongState,
    )
    from redurable.ids import IntentId
    from redurable.model import ErrorInfo, IntentInfo, Priority, Status
    from redurable.news import Event, Progress
    from redurable.options import Debounce
    from redurable.retry import Retry
    from redurable.runtime.approvals import Approval, Decision, approval
    from redurable.runtime.calls import (
        Current,
        checkpoint,
        compensate,
        current,
        fencing_token,
        idempotency_key,
        is_replaying,
        last_checkpoint,
        now,
        random,
        run,
        sleep,
        sleep_until,
        unwinding,
        uuid4,
    )
    from redurable.runtime.children import call, send
    from redurable.runtime.handlers import Depends, handler, lifespan
    from redurable.runtime.limit import Limit
    from redurable.runtime.patches import patched
    from redurable.runtime.promises import Promise, promise
    from redurable.runtime.race import Winner, race
    from redurable.runtime.scheduling import schedule
    from redurable.runtime.state import state
    from redurable.runtime.steps import step
    from redurable.runtime.streams import resume_offset
    from redurable.runtime.turns import continue_as_new
    from redurable.runtime.watched import emit, progress

__all__ = [
    "Approval",
    "Canceled",
    "Client",
    "CodecError",
    "ConfigurationError",
    "ContinuedAsNew",
    "Current",
    "Debounce",
    "Decision",
    "Depends",
    "ErrorInfo",
    "Event",
    "Fenced",
    "IdempotencyConflict",
    "IntentFailed",
    "IntentId",
    "IntentInfo",
    "JournalMismatchError",
    "Limit",
    "NotFound",
    "PayloadTooLarge",
    "Priority",
    "Progress",
    "Promise",
    "PromiseRejected",
    "RedurableError",
    "Retry",
    "RetryLater",
    "SerialisationError",
    "SessionBusy",
    "Status",
    "StepFailed",
    "StepProcessLost",
    "StoreError",
    "StoreUnavailable",
    "Suspended",
    "TerminalError",
    "TokenRefused",
    "UsageError",
    "Winner",
    "WrongState",
    "approval",
    "call",
    "checkpoint",
    "compensate",
    "continue_as_new",
    "current",
    "emit",
    "fencing_token",
    "handler",
    "idempotency_key",
    "is_replaying",
    "last_checkpoint",
    "lifespan",
    "now",
    "patched",
    "progress",
    "promise",
    "race",
    "random",
    "resume_offset",
    "run",
    "schedule",
    "send",
    "sleep",
    "sleep_until",
    "state",
    "step",
    "unwinding",
    "uuid4",
]

_HOMES = {
    "redurable.client": "Client",
    "redurable.errors": (
        "Canceled CodecError ConfigurationError ContinuedAsNew Fenced IdempotencyConflict IntentFailed "
        "JournalMismatchError NotFound PayloadTooLarge PromiseRejected RedurableError RetryLater "
        "SerialisationError SessionBusy StepFailed StepProcessLost StoreError StoreUnavailable Suspended "
        "TerminalError TokenRefused UsageError WrongState"
    ),
    "redurable.ids": "IntentId",
    "redurable.model": "ErrorInfo IntentInfo Priority Status",
    "redurable.news": "Event Progress",
    "redurable.options": "Debounce",
    "redurable.retry": "Retry",
    "redurable.runtime.approvals": "Approval Decision approval",
    "redurable.runtime.calls": (
        "Current checkpoint compensate current fencing_token idempotency_key is_replaying last_checkpoint now "
        "random run sleep sleep_until unwinding uuid4"
    ),
    "redurable.runtime.children": "call send",
    "redurable.runtime.handlers": "Depends handler lifespan",
    "redurable.runtime.limit": "Limit",
    "redurable.runtime.patches": "patched",
    "redurable.runtime.promises": "Promise promise",
    "redurable.runtime.race": "Winner race",
    "redurable.runtime.scheduling": "schedule",
    "redurable.runtime.state": "state",
    "redurable.runtime.steps": "step",
    "redurable.runtime.streams": "resume_offset",
    "redurable.runtime.turns": "continue_as_new",
    "redurable.runtime.watched": "emit progress",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
