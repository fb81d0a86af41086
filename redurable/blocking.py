"""
What operators do by a blocking client: answer, control, copy, move and remove. `redurable.sync.Client` is one of these.

Each method waits for the asynchronous client's of the same name, which says what it does and raises.
"""

from __future__ import annotations

import builtins
from collections.abc import Coroutine
from typing import Any, TypeVar

from redurable import client as _client
from redurable.answers import OpenApproval
from redurable.control import Each, Verb
from redurable.ids import IntentId

__all__ = ["Operating"]

R = TypeVar("R")


class _Answering:
    """The part of a client that answers handlers that wait."""

    _client: _client.Client

    def _wait(self, coroutine: Coroutine[Any, Any, R]) -> R:
        raise NotImplementedError

    def resolve(self, *what: Any, index: int = 0, by: str = "") -> str:
        """Give a promise its value: `resolve(id, name, value)` or `resolve(token, value)`; RESOLVED or UNASKED."""
        return self._wait(self._client.resolve(*what, index=index, by=by))

    def approvals(self, limit: int = 100) -> builtins.list[OpenApproval]:
        """Return what waits for people."""
        return self._wait(self._client.approvals(limit))

    def answer(self, *what: Any, value: Any = None, index: int = 0, by: str = "") -> None:
        """Answer an approval: `answer(id, name, outcome)` or `answer(token, outcome)`."""
        self._wait(self._client.answer(*what, value=value, index=index, by=by))

    def reject(self, *what: Any, index: int = 0, by: str = "", details: Any = None) -> str:
        """Reject a promise: `reject(id, name, error)` or `reject(token, error)`; REJECTED or UNASKED."""
        return self._wait(self._client.reject(*what, index=index, by=by, details=details))


class _Controlling(_Answering):
    """The part of a client that ends, stops and continues intents by force."""

    def kill(self, intent: str, note: str = "") -> str:
        """End *intent* now, without its handler; see `redurable.Client.kill`."""
        return self._wait(self._client.kill(intent, note))

    def pause(self, intent: str) -> str:
        """Keep *intent* from going on; see `redurable.Client.pause`."""
        return self._wait(self._client.pause(intent))

    def resume(self, intent: str) -> None:
        """Let a paused *intent* go on; see `redurable.Client.resume`."""
        self._wait(self._client.resume(intent))

    def each(self, verb: Verb, **choice: Any) -> Each:
        """Do *verb* to every intent that is chosen; *choice* as `redurable.Client.each`."""
        return self._wait(self._client.each(verb, **choice))

    def pause_queue(self, queue: str) -> None:
        """Let workers take nothing more of *queue*; see `redurable.Client.pause_queue`."""
        self._wait(self._client.pause_queue(queue))

    def resume_queue(self, queue: str) -> None:
        """Let workers take work of *queue* again; see `redurable.Client.resume_queue`."""
        self._wait(self._client.resume_queue(queue))


class Operating(_Controlling):
    """The part of a client that copies, moves and removes whole intents."""

    def fork(self, intent: str, from_step: str, **options: Any) -> IntentId[Any]:
        """Send a new intent with the journal of another up to a step; see `redurable.Client.fork`."""
        return self._wait(self._client.fork(intent, from_step, **options))

    def delete(self, intent: str) -> None:
        """Remove a finished intent now; see `redurable.Client.delete`."""
        self._wait(self._client.delete(intent))

    def export(self, intent: str) -> dict[str, Any]:
        """Return all that is stored of *intent*; see `redurable.Client.export`."""
        return self._wait(self._client.export(intent))

    def import_(self, record: dict[str, Any]) -> bool:
        """Store an exported intent; see `redurable.Client.import_`."""
        return self._wait(self._client.import_(record))
