"""
The words of redurable as data: states, journal entries, outcomes, what is known of an intent.

The state of an intent, with the script that walks each edge:

    ─ schedule ─► CREATED ── fire ──┐
    ─ submit ───────────────────► SUBMITTED ── claim ──► IN_PROGRESS ── settle ──► COMPLETED
                                    ▲   ▲                 │  │  │                  FAILED
                  release, recover ─┘   │                 │  │  │                  CANCELED
                                        │                 │  │  └─ recover ─────►  TIMED_OUT
                   wake, fire, cancel,  │                 │  │    (losses used up)
                   expire, resolve      │    park, retry, │  │
                                        │    shelve       │  │
                                        └── WAITING ◄─────┘  └─ record, renew, checkpoint, tell,
                                                                 declare, withdraw, occupy

    cancel, expire    CREATED | SUBMITTED, never claimed -> CANCELED | TIMED_OUT
                      else a `CancelRequested` entry, which the handler meets at its place in the journal
    resolve           appends what comes from outside, before the end; only who waits for it is moved
    kill              CREATED | SUBMITTED | IN_PROGRESS | WAITING | PAUSED -> CANCELED, whatever its handler is at
    pause             CREATED | SUBMITTED | WAITING -> PAUSED; one that runs is handed back first, then PAUSED
    resume            PAUSED -> CREATED | SUBMITTED | WAITING, as it was; SUBMITTED if something came meanwhile
    redrive           FAILED | CANCELED | TIMED_OUT -> SUBMITTED, its journal kept; in a session -> CREATED, in line
    delete            COMPLETED | FAILED | CANCELED | TIMED_OUT -> none
    import            none -> CREATED | SUBMITTED | WAITING | COMPLETED | FAILED | CANCELED | TIMED_OUT
    enter, tick       none -> CREATED | SUBMITTED: of a session (join gives a delayed one its place), of a schedule
    debounce          none -> CREATED; again while it is, what is said then takes the place of what was
    continue          IN_PROGRESS -> SUBMITTED, with another payload and an empty journal: the next turn
    reseat            CREATED -> SUBMITTED, when the holder of its session is gone
    skip              SUBMITTED | WAITING | PAUSED -> FAILED, when it holds a session that an operator wants to go on
    linger            IN_PROGRESS -> WAITING, in the line of a limit that is full; who makes room continues it

What holds in each state:
    CREATED      a timer (`start`) leads on, or a place in its session's line; no stream entry
    SUBMITTED    `at` names its one live stream entry
    IN_PROGRESS  `at` is pending for the worker in `fence`; nobody else may write
    WAITING      a `reason`; a timer leads on; no stream entry, no process
    PAUSED       `paused` says what it is resumed to; no stream entry, no timer; what comes is kept
    final        an outcome; a place in a view by removal time; no entry, no timer
DELIVERED is derived: SUBMITTED while the entry is pending for a worker that has not claimed it yet.
"""

from __future__ import annotations

import traceback
from enum import StrEnum
from typing import Any

import msgspec

from redurable.errors import ConfigurationError
from redurable.news import Progress, Wait

__all__ = [
    "Arrived",
    "AttemptFailed",
    "Called",
    "CancelRequested",
    "Claimed",
    "Compensating",
    "Continued",
    "Entry",
    "Envelope",
    "ErrorInfo",
    "Forked",
    "IntentInfo",
    "Outcome",
    "Patched",
    "Priority",
    "Reason",
    "Reopened",
    "SessionEnvelope",
    "Status",
    "StepDone",
    "StepFailedEntry",
    "StepTried",
    "TimerFired",
    "TimerSet",
    "decode_entry",
    "encode_entry",
]


class Status(StrEnum):
    """The state of an intent."""

    CREATED = "CREATED"
    SUBMITTED = "SUBMITTED"
    DELIVERED = "DELIVERED"
    IN_PROGRESS = "IN_PROGRESS"
    WAITING = "WAITING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def final(self) -> bool:
        """Whether the intent has ended."""
        return self in _FINAL

    @classmethod
    def of(cls, text: str) -> Status:
        """Return the status called *text*, in capitals or not; ConfigurationError when there is none."""
        found = cls.__members__.get(text.upper())
        if found is None:
            raise ConfigurationError(f"there is no status {text!r}", hint=f"one of {', '.join(cls)}")
        return found


_FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.TIMED_OUT})


class Reason(StrEnum):
    """What a WAITING intent waits for."""

    TIME = "TIME"
    PROMISE = "PROMISE"
    INTENT = "INTENT"
    RETRY = "RETRY"
    HUMAN = "HUMAN"
    LIMIT = "LIMIT"  # for its turn: a limit is full
    HELD = "HELD"  # for a worker that can open what is sealed, whose types and code fit what is recorded
    UNKNOWN_TYPE = "UNKNOWN_TYPE"  # for a worker that has a handler of its type; looked at again every 5 s


class Priority(StrEnum):
    """The order in which fresh intents of a queue are taken."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


_MOST_DETAILS = 262_144  # bytes


class ErrorInfo(msgspec.Struct, array_like=True, frozen=True):
    """An exception as it is kept: class name, message, code, base classes, details, traceback text."""

    type: str
    message: str
    code: str = ""
    bases: tuple[str, ...] = ()
    details: Any = None
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> ErrorInfo:
        """Describe *error*; texts are cut so that an entry stays small."""
        names = [f"{k.__module__}.{k.__qualname__}" for k in type(error).__mro__[:-1]]
        details = getattr(error, "details", None)
        try:
            if len(msgspec.msgpack.encode(details)) > _MOST_DETAILS:
                details = None
        except Exception:
            details = None  # an exception may carry anything; only what can be stored is kept
        text = getattr(error, "message", None)
        hint = getattr(error, "hint", None)
        if isinstance(text, str) and isinstance(hint, str) and hint:
            text = f"{text} ({hint})"
        lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-12)
        return cls(
            type=names[0],
            message=(text if isinstance(text, str) else str(error))[:4000],
            code=getattr(error, "code", "") if isinstance(getattr(error, "code", ""), str) else "",
            bases=tuple(names[1:]),
            details=details,
            traceback="".join(lines)[-8000:],
        )


class Envelope(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """
    What a sender said, immutable.

    *type* names the handler within its queue ("" = the only one); *payload* is MessagePack of its own.
    """

    type: str
    payload: msgspec.Raw
    labels: dict[str, str] = {}
    idempotency_key: str = ""
    trace: dict[str, str] = {}
    parent: str = ""


class SessionEnvelope(Envelope, array_like=True, frozen=True, omit_defaults=True):
    """The envelope of an intent of a session; every other's is read as one of no session. *shared*: beside the line."""

    session: str = ""
    shared: bool = False


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """How an intent ended: a result (MessagePack; nil if there is none), and an error unless COMPLETED."""

    status: Status
    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: ErrorInfo | None = None


class _Call(msgspec.Struct, array_like=True):
    """An entry of a durable call: (scope, name, n) is its identity, `at` its time in ms."""

    scope: str
    name: str
    n: int | str
    at: int


class StepDone(_Call, tag=1):
    """A step returned. `code` fingerprints its function; `abandoned` names calls that were given up before."""

    code: bytes
    value: msgspec.Raw
    abandoned: list[tuple[str, str, int | str]] = []


class StepFailedEntry(_Call, tag=2):
    """A step failed for good after `tries` tries."""

    code: bytes
    error: ErrorInfo
    tries: int
    abandoned: list[tuple[str, str, int | str]] = []


class StepTried(_Call, tag=3):
    """Try number `tries` of a step failed; the next may start at `due` (ms)."""

    error: ErrorInfo
    tries: int
    due: int
    abandoned: list[tuple[str, str, int | str]] = []


class TimerSet(_Call, tag=4):
    """A durable timer was asked for; it is due at `due` (ms)."""

    due: int
    abandoned: list[tuple[str, str, int | str]] = []


class TimerFired(_Call, tag=5):
    """A durable timer took effect."""

    abandoned: list[tuple[str, str, int | str]] = []


class Claimed(msgspec.Struct, array_like=True, tag=6):
    """The second or a later attempt began. Written by `claim`, numbers as decimal text."""

    worker: str
    python: str
    attempt: str
    epoch: str

    @property
    def at(self) -> int:
        """Server time of the claim in ms."""
        return int(self.epoch) // 1000


class AttemptFailed(msgspec.Struct, array_like=True, tag=7):
    """The handler raised; the next attempt may start at `due` (ms)."""

    at: int
    error: ErrorInfo
    due: int


class Reopened(msgspec.Struct, array_like=True, tag=8):
    """An operator's retry; replay skips the entries whose seqs (1 = first) are `voided`."""

    at: int
    voided: list[int]


class CancelRequested(msgspec.Struct, array_like=True, tag=9):
    """Cancel (status CANCELED) or a passed deadline (TIMED_OUT), met by the handler at this place."""

    at: int
    status: Status
    note: str = ""


class Compensating(msgspec.Struct, array_like=True, tag=10):
    """The handler is over; its undo work runs, then the intent ends with `status` and `error`."""

    at: int
    status: Status
    error: ErrorInfo | None = None


class Called(_Call, tag=21):
    """A child was started; its outcome arrives under its id."""

    child: str
    abandoned: list[tuple[str, str, int | str]] = []


class Continued(msgspec.Struct, array_like=True, omit_defaults=True, tag=30):
    """A turn after the first: its number, how many entries its past had, children that the last one left open."""

    at: int
    turn: int
    before: int
    left: list[str] = []


class Patched(msgspec.Struct, array_like=True, tag=40):
    """The handler came to the place of `change` for the first time: it takes the new way."""

    at: int
    change: str


class Forked(msgspec.Struct, array_like=True, tag=31):
    """What is above is of `source`, up to its call `step`; it `began` at that time (ms), chance there is of `seed`."""

    at: int
    source: str
    step: str
    seed: str
    began: int


class Arrived(msgspec.Struct, array_like=True, tag=20):
    """
    What came from outside under `key`: a promise's value (or its rejection, FAILED), or a child's outcome.

    `by` says who answered, if they did.
    """

    key: str
    at: int
    status: Status
    value: msgspec.Raw
    error: ErrorInfo | None = None
    by: str = ""


Entry = (
    Arrived | Called | StepDone | StepFailedEntry | StepTried | TimerSet | TimerFired | Claimed | AttemptFailed
    | Reopened | CancelRequested | Compensating | Continued | Forked | Patched
)  # fmt: skip

encode_entry = msgspec.msgpack.Encoder().encode
decode_entry = msgspec.msgpack.Decoder(Entry).decode


class IntentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is known of an intent at one moment. Times are ms since 1970 by the server's clock.

    `step` is the last journaled step, `changed` names steps whose code changed since they were recorded, `forked` its
    origin; `held` and `limit` say what keeps it from going on, `long` that its journal has grown too long; `progress`
    is how far it and its children say they are; `waits`, up to 100, is what it waits for (`Client.get` alone asks).
    """

    id: str
    queue: str
    type: str
    status: Status
    reason: Reason | None = None
    attempt: int = 0
    turn: int = 1
    losses: int = 0
    priority: Priority = Priority.NORMAL
    worker: str | None = None
    version: str | None = None
    created: int = 0
    started: int | None = None
    finished: int | None = None
    start: int | None = None
    wake: int | None = None
    deadline: int | None = None
    canceling: bool = False
    paused: bool = False
    held: str | None = None
    limit: str | None = None
    long: str | None = None
    entries: int = 0
    progress: Progress | None = None
    waits: tuple[Wait, ...] = ()
    step: str | None = None
    changed: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    idempotency_key: str = ""
    session: str = ""
    forked: str | None = None
    error: ErrorInfo | None = None
