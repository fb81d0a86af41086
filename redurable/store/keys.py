"""
Every key and channel of redurable, born here and nowhere else.

Each key of a partition bears its hash tag `{p}`, so that all of an intent is in one slot. `ns` is the namespace.

| key | type | holds | lifetime |
|---|---|---|---|
| `ns:meta` | hash | format version, partition count, secret of tokens | the namespace's |
| `ns:{p}:qs` | set | every stream ever made in the partition | the partition's |
| `ns:{p}:w` | hash | workers; `<worker>#` is a worker's last claim number | until the worker is reaped |
| `ns:{0}:z` | set | the paused queues | until they are resumed |
| `ns:{p}:q:<queue>:<priority>` | stream | fresh intents | the queue's |
| `ns:{p}:c:<queue>:<version>` | stream | continuations; version `-`: unpinned, `!solo...`: suspects | the queue's |
| `ns:{p}:dv` | hash | versions, see `store.deployments` | the partition's |
| `ns:{p}:i:<id>` | hash | the head | the intent's retention |
| `ns:{p}:p:<id>` | string | the envelope | as the head |
| `ns:{p}:j:<id>` | list | the journal | as the head |
| `ns:{p}:d:<id>` | hash | what came from outside, or may: see `store.arrivals` | as the head |
| `ns:{p}:k:<id>` | hash | cursors of unfinished long steps (`checkpoint`) | until the intent ends |
| `ns:{p}:e:<id>` | stream | events for watchers, by number; see `store.watching` | a week after the last |
| `ns:{p}:m:<id>` | hash | how far they and the progress are: made with the first of either | as the head |
| `ns:{p}:o:<id>` | string | the outcome, if it is more than 60 bytes (else in the head) | as the head |
| `ns:{p}:s:<queue>:<key>` | zset | the line: id -> 0 (it holds the session) or its place | until its last intent ends |
| `ns:{p}:v:<queue>:<key>` | hash | a session's state; field '' = ms that it is kept without intents | that time |
| `ns:{p}:forms` | hash | JSON Schemas of what promises take, by digest | the partition's |
| `ns:{p}:x:asked` | zset | `<id>/<key>` of what waits for people -> since when (ms) | until answered or ended |
| `ns:{p}:t` | zset | id -> min(deadline, start, wake) in ms; of an ended one: by when it has told others | until done |
| `ns:{p}:b:<kind>` | string | the intent that debounced sends become | a day longer than it waits |
| `ns:{0}:y` | set | the names of all schedules | until they are deleted |
| `ns:{0}:y:<name>` | hash | a schedule, see `store.schedules`; in the timers it is `@<name>` | until it is deleted |
| `ns:{p}:limits` | set | ids of the limits in use; `~<id>` is one's member of the timers | the partition's |
| `ns:{p}:l:<limit>` | hash | a limit's book: what it allows, place -> fence | until nobody uses it |
| `ns:{p}:lu:<limit>`, `ll:`, `lw:` | zset | a limit's places, its line, what its rate counts | until nobody does |
| `ns:{p}:x:done`, `x:failed` | zset | id -> time of removal in ms | until removed |

A *lane* is the place of a stream entry without the queue: `q:<priority>` or `c:<version>`; the head's `at` is
`<lane>/<entry id>`. Channels (no keys): `ns:r:<client>` results, `ns:l:<worker>` liveness, `ns:h:<worker>` hints
(`<id>` has news, `!<id>` was killed, `|<id>` is to be paused, `+<id>` is called up by a limit), `ns:n:<id>` one
intent's news, `ns:{p}:t` timers.
"""

from __future__ import annotations

from redurable.errors import ConfigurationError

__all__ = [
    "FRESH_LANES",
    "GROUP",
    "SOLO",
    "UNPINNED",
    "Keys",
    "any_partition",
    "check_queue",
    "check_session",
    "continuations",
    "limit_keys",
    "meta_key",
    "place_of",
    "suspects",
    "told_keys",
]

GROUP = "rd"
UNPINNED = "c:-"
SOLO = "c:!solo"
FRESH_LANES = ("q:high", "q:normal", "q:low")
_FORBIDDEN = frozenset(":{}/ \t\r\n\0*?[]\\")


def meta_key(namespace: str) -> str:
    """Return the key of the namespace's format version and partition count."""
    return f"{namespace}:meta"


def any_partition(namespace: str) -> str:
    """Return the pattern that the keys of all partitions of *namespace* begin with."""
    return f"{namespace}:{{*}}:"


def place_of(key: str, namespace: str, kind: str) -> tuple[int, str] | None:
    """Return (partition, what follows *kind*) of a *key* of *namespace*; None if it is of another kind."""
    partition, _, rest = key.removeprefix(f"{namespace}:{{").partition("}:")
    return (int(partition), rest[len(kind) :]) if partition.isdecimal() and rest.startswith(kind) else None


def check_queue(queue: str, what: str = "a queue's name") -> str:
    """Return *queue*, or raise ConfigurationError when it cannot be part of a key."""
    fits = isinstance(queue, str) and 0 < len(queue) <= 128 and queue.isprintable()
    if not fits or not _FORBIDDEN.isdisjoint(queue):
        raise ConfigurationError(
            f"{str(queue)[:150]!r} cannot be {what}",
            hint="use 1 to 128 printable characters without blanks and : / { } * ? [ ] \\",
        )
    return queue


def continuations(version: bytes | str | None) -> str:
    """Return the lane of what goes on, for the `version` of its head."""
    return f"c:{version if isinstance(version, str) else version.decode()}" if version else UNPINNED


def suspects(version: bytes | str | None) -> str:
    """Return the lane of suspects, for the `version` of their head."""
    return f"{SOLO}!{version if isinstance(version, str) else version.decode()}" if version else SOLO


def check_session(session: str) -> str:
    """Return *session*, or raise ConfigurationError when it cannot be the key of a session."""
    if not isinstance(session, str) or not 0 < len(session) <= 256 or not session.isprintable():
        raise ConfigurationError(
            f"{str(session)[:300]!r} cannot be the key of a session", hint="use 1 to 256 printable characters"
        )
    return session


class Keys:
    """The keys of one partition of one namespace."""

    __slots__ = (
        "arrivals_prefix", "asked", "burst_prefix", "checkpoints", "done", "envelope_prefix", "events_prefix", "failed",
        "forms", "head_prefix", "journal_prefix", "limits", "line_prefix", "marks_prefix", "namespace",
        "outcome_prefix", "partition", "paused", "prefix", "schedules", "state_prefix", "streams", "timers", "versions",
        "workers",
    )  # fmt: skip

    def __init__(self, namespace: str, partition: int) -> None:
        self.namespace = namespace
        self.partition = partition
        self.prefix = prefix = f"{namespace}:{{{partition}}}:"
        self.streams = prefix + "qs"
        self.workers = prefix + "w"
        self.paused = prefix + "z"
        self.versions = prefix + "dv"
        self.timers = prefix + "t"
        self.schedules = prefix + "y"
        self.burst_prefix = prefix + "b:"
        self.done = prefix + "x:done"
        self.failed = prefix + "x:failed"
        self.asked = prefix + "x:asked"
        self.forms = prefix + "forms"
        self.limits = prefix + "limits"
        self.head_prefix = prefix + "i:"
        self.envelope_prefix = prefix + "p:"
        self.journal_prefix = prefix + "j:"
        self.outcome_prefix = prefix + "o:"
        self.arrivals_prefix = prefix + "d:"
        self.checkpoints = prefix + "k:"
        self.events_prefix = prefix + "e:"
        self.marks_prefix = prefix + "m:"
        self.line_prefix = prefix + "s:"
        self.state_prefix = prefix + "v:"

    def head(self, intent: str) -> str:
        """Hash: the mutable fields of an intent."""
        return self.head_prefix + intent

    def envelope(self, intent: str) -> str:
        """String: what the sender said."""
        return self.envelope_prefix + intent

    def journal(self, intent: str) -> str:
        """List: the entries."""
        return self.journal_prefix + intent

    def outcome(self, intent: str) -> str:
        """String: the outcome."""
        return self.outcome_prefix + intent

    def arrivals(self, intent: str) -> str:
        """Hash: what came from outside, or is waited for."""
        return self.arrivals_prefix + intent

    def checkpoint(self, intent: str) -> str:
        """Hash: cursors of unfinished long steps."""
        return self.checkpoints + intent

    def line(self, queue: str, session: str) -> str:
        """Zset: the intents of a session in their order."""
        return f"{self.line_prefix}{queue}:{session}"

    def state(self, queue: str, session: str) -> str:
        """Hash: what the handlers of a session keep."""
        return f"{self.state_prefix}{queue}:{session}"

    def schedule(self, name: str) -> str:
        """Hash: a schedule."""
        return f"{self.schedules}:{name}"

    def session_of(self, key: str) -> tuple[str, str]:
        """Return (queue, session key) of the key of a line or a state."""
        queue, session = key[len(self.line_prefix) :].split(":", 1)
        return queue, session

    def stream(self, queue: str, lane: str) -> str:
        """Stream: the entries of *queue* in *lane*."""
        return f"{self.prefix}{lane[0]}:{queue}{lane[1:]}"

    def lane_of(self, stream: str) -> tuple[str, str]:
        """Return (queue, lane) of a stream's key."""
        kind, queue, tail = stream[len(self.prefix) :].split(":", 2)
        return queue, f"{kind}:{tail}"

    def results(self, client: str) -> str:
        """Channel: outcomes for one producer process."""
        return f"{self.namespace}:r:{client}"

    def liveness(self, worker: str) -> str:
        """Channel that nobody publishes to; its subscribers are the proof that *worker* lives."""
        return f"{self.namespace}:l:{worker}"

    def hints(self, worker: str) -> str:
        """Channel: ids of intents of *worker* that have news."""
        return f"{self.namespace}:h:{worker}"

    def news(self, intent: str) -> str:
        """Channel: something happened to *intent*."""
        return f"{self.namespace}:n:{intent}"


def limit_keys(keys: Keys, limit: str) -> tuple[str, str, str, str]:
    """Return a hash and three zsets of *limit*: its book, its places, its line, what its rate counts."""
    prefix = keys.prefix
    return f"{prefix}l:{limit}", f"{prefix}lu:{limit}", f"{prefix}ll:{limit}", f"{prefix}lw:{limit}"


def told_keys(keys: Keys, intent: str) -> tuple[str, str]:
    """Stream: what watchers of *intent* are told. Hash: how far that and its progress have come."""
    return keys.events_prefix + intent, keys.marks_prefix + intent
