"""
What operators do to an intent, whatever its handler is at.

Each verb is one script, safe to send twice. It needs the intent's place: that is read first, and read again when the
script answers that it moved (AGAIN).
"""

from __future__ import annotations

from redurable.errors import NotFound, WrongState
from redurable.model import Status
from redurable.store.keys import UNPINNED, check_queue, continuations
from redurable.store.scripts import load
from redurable.store.store import KEEP_OTHER_MS, Store, failure_of

__all__ = ["gate", "kill", "pause", "resume"]

_kill, _pause, _resume = load("kill"), load("pause"), load("resume")
_gate = load("gate")


def _unknown(intent: str) -> NotFound:
    return NotFound(f"there is no intent {intent}", hint="it may have been removed after its retention")


async def kill(store: Store, intent: str, note: str = "") -> str:
    """
    End *intent* now, without its handler; return CANCELED, or the status in which it had ended before.

    Raises:
        NotFound: There is no such intent.
    """
    keys = store.keys_of(intent)
    result = failure_of(Status.CANCELED, "KILLED", note or "killed by an operator")
    while True:
        queue, at, session = await store.mux.command("HMGET", keys.head(intent), "queue", "at", "session")
        if queue is None:
            raise _unknown(intent)
        name = queue.decode()
        more, words = await store.ending(keys, intent, name, session)
        lane = at.decode().split("/", 1)[0] if at else UNPINNED
        word = await store.mux.call(
            load(_kill.name, session=session is not None),
            keys.partition,
            (keys.head(intent), keys.stream(name, lane), keys.outcome(intent), keys.failed, keys.timers,
             keys.checkpoint(intent), *more),
            (intent, at or "", result, KEEP_OTHER_MS, keys.namespace + ":r:", keys.namespace + ":h:", *words),
        )  # fmt: skip
        if word == b"NOT_FOUND":
            raise _unknown(intent)
        if word != b"AGAIN":
            return str(word.decode())


async def pause(store: Store, intent: str) -> str:
    """
    Keep *intent* from going on until `resume`; return PAUSED, or REQUESTED while a worker has still to hand it back.

    Raises:
        NotFound: There is no such intent.
        WrongState: It has ended.
    """
    keys = store.keys_of(intent)
    while True:
        queue, at, status = await store.mux.command("HMGET", keys.head(intent), "queue", "at", "status")
        if queue is None:
            raise _unknown(intent)
        lane = at.decode().split("/", 1)[0] if at else UNPINNED
        word = await store.mux.call(
            _pause,
            keys.partition,
            (keys.head(intent), keys.journal(intent), keys.stream(queue.decode(), lane), keys.timers),
            (intent, at or "", keys.namespace + ":h:"),
        )
        if word != b"AGAIN":
            return _answer(intent, word, status, "paused")


async def resume(store: Store, intent: str) -> None:
    """
    Let *intent* go on where it was; nothing happens if it is not paused.

    Raises:
        NotFound: There is no such intent.
        WrongState: It has ended.
    """
    keys, names = store.keys_of(intent), ("queue", "paused", "status", "version")
    while True:
        queue, back, status, version = await store.mux.command("HMGET", keys.head(intent), *names)
        if queue is None:
            raise _unknown(intent)
        to, _, lane = (back or b"").decode().partition(":")
        lane = lane if to == "SUBMITTED" else continuations(version)
        word = await store.mux.call(
            _resume,
            keys.partition,
            (keys.head(intent), keys.journal(intent), keys.stream(queue.decode(), lane), keys.streams, keys.timers),
            (intent, back or "", lane),
        )
        if word != b"AGAIN":
            _answer(intent, word, status, "resumed")
            return


def _answer(intent: str, word: bytes, status: bytes, done: str) -> str:
    if word == b"NOT_FOUND":
        raise _unknown(intent)
    if word == b"WRONG_STATE":
        raise WrongState(f"intent {intent} is {status.decode()}; only open ones are {done}")
    return str(word.decode())


async def gate(store: Store, queue: str, closed: bool) -> None:
    """Close *queue* to workers, or open it; a name that cannot be one is a ConfigurationError."""
    keys = store.keys[0]
    await store.mux.call(_gate, 0, (keys.paused,), (check_queue(queue), int(closed), keys.timers))
