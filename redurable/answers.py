"""
Answers from outside: promises resolved and rejected, approvals listed and answered. A part of `Client`.

A value is held against the type that its handler waits for before anything is sent; the script then lets the first
one stand. Invariant: what is refused here has changed nothing.
"""

from __future__ import annotations

import builtins
from typing import Any, overload

import msgspec

from redurable.codec import encode, plain
from redurable.codecs.base import Vault
from redurable.errors import ConfigurationError, NotFound, SerialisationError, UsageError, WrongState
from redurable.forms import Ask, described, example, misfit
from redurable.ids import promise_text
from redurable.model import ErrorInfo
from redurable.runtime.scope import scope_var
from redurable.store import arrivals, tokens
from redurable.store.store import Store

__all__ = ["Answers", "check_outside"]

_MISSING: Any = object()


def check_outside(what: str) -> None:
    """Refuse what a handler does by a client outside of a step: a replay would do it again."""
    scope = scope_var.get()
    if scope is not None and not scope.inside:
        raise UsageError(
            f"a handler {what} by a client outside of a step: a replay would do it again",
            code="USE_DURABLE_SEND",
            hint="put the call into a step",
        )


class OpenApproval(msgspec.Struct, frozen=True, kw_only=True):
    """What waits for people. *since* and *escalates* are times in ms; *form* is a JSON Schema, None for anything."""

    intent: str
    queue: str
    name: str
    index: int
    title: str
    description: str
    outcomes: tuple[str, ...]
    assignees: tuple[str, ...]
    since: int
    escalates: int | None
    form: Any = None


class Answers:
    """What a client gives to handlers that wait."""

    _limit: int
    _vault: Vault | None

    async def _store(self) -> Store:
        raise NotImplementedError

    @overload
    async def resolve(self, token: str, value: Any, /, *, by: str = "") -> str: ...
    @overload
    async def resolve(self, intent: str, name: str, value: Any, /, *, index: int = 0, by: str = "") -> str: ...
    async def resolve(self, *what: Any, index: int = 0, by: str = "") -> str:
        """
        Give a promise its value: `resolve(token, value)`, or, for operators, `resolve(id, name, value)`.

        Once this returns the value is stored, and the handler will see it. The same again changes nothing. The answer
        is RESOLVED; or UNASKED if the handler had not asked for a promise of that name: the value is kept until it
        does, which it never will if the name is misspelled (`get(id).waits` has what it does wait for).

        Args:
            by: Who says so; it is kept in the history.

        Raises:
            SerialisationError: TYPE_MISMATCH, the handler waits for another type. Nothing was stored.
            WrongState: ALREADY_RESOLVED with something else; PROMISE_WITHDRAWN, the handler went on without it;
                WRONG_STATE, the intent has ended; TOO_MANY_UNASKED. Nothing was stored.
            TokenRefused: BAD_TOKEN or TOKEN_EXPIRED.
            NotFound: There is no such intent.
        """
        check_outside("resolves a promise")
        store, intent, key, (value,) = await self._addressed(what, index, "resolve(id, name, value)")
        asked, ask = await arrivals.about(store, intent, key)
        if ask is not None and ask.outcomes and isinstance(value, str):
            value = {"outcome": value}
        data = encode(value, f"the value of {promise_text(key)}", self._limit)
        if ask is not None:
            await _check(store, intent, key, ask, plain(data))
        await self._bring(store, intent, arrivals.arrival(key, data, by=by))
        return "RESOLVED" if asked or len(what) == 2 else "UNASKED"  # a token is the handler's own

    async def approvals(self, limit: int = 100) -> builtins.list[OpenApproval]:
        """Return what waits for people, the oldest first, up to *limit*."""
        store, found = await self._store(), []
        for intent, queue, key, ask in await arrivals.approvals(store, limit):
            name, _, index = key.rpartition("#")
            form = await arrivals.schema_of(store, intent, ask.form) if ask.form else None
            found.append(OpenApproval(
                intent=intent, queue=queue, name=name, index=int(index), title=ask.title, description=ask.description,
                outcomes=ask.outcomes, assignees=ask.assignees, since=ask.since,
                escalates=ask.since + ask.escalates if ask.escalates else None, form=form,
            ))  # fmt: skip
        return found

    @overload
    async def answer(self, token: str, outcome: str, /, *, value: Any = None, by: str = "") -> None: ...
    @overload
    async def answer(
        self, intent: str, name: str, outcome: str, /, *, value: Any = None, index: int = 0, by: str = ""
    ) -> None: ...
    async def answer(self, *what: Any, value: Any = None, index: int = 0, by: str = "") -> None:
        """
        Answer an approval: `answer(id, name, outcome)` or `answer(token, outcome)`, with *value* if it has a form.

        Raises:
            ConfigurationError: BAD_OUTCOME, it is not one of those allowed. Nothing was stored.
            NotFound: APPROVAL_NOT_FOUND, nobody is asked that. Otherwise as `resolve`.
        """
        check_outside("answers an approval")
        store, intent, key, (outcome,) = await self._addressed(what, index, "answer(id, name, outcome)")
        if await store.mux.command("HGET", store.keys_of(intent).arrivals(intent), key) is None:
            raise NotFound(f"intent {intent} asks for no approval {promise_text(key)!r}", code="APPROVAL_NOT_FOUND",
                           hint="see those that wait: redurable approvals list")  # fmt: skip
        name, _, number = key.rpartition("#")
        await self.resolve(intent, name, {"outcome": outcome, "value": value}, index=int(number), by=by)

    @overload
    async def reject(self, token: str, error: str | Exception, /, *, by: str = "", details: Any = None) -> str: ...
    @overload
    async def reject(
        self, intent: str, name: str, error: str | Exception, /, *, index: int = 0, by: str = "", details: Any = None
    ) -> str: ...
    async def reject(self, *what: Any, index: int = 0, by: str = "", details: Any = None) -> str:
        """Have whoever awaits a promise get a `PromiseRejected` that says why: REJECTED; otherwise as `resolve`."""
        check_outside("rejects a promise")
        store, intent, key, (error,) = await self._addressed(what, index, "reject(id, name, error)")
        asked, _ = await arrivals.about(store, intent, key)
        if isinstance(error, Exception):
            info = ErrorInfo.of(error)
        else:
            info = ErrorInfo("redurable.PROMISE_REJECTED", str(error)[:4000], "PROMISE_REJECTED")
        if details is not None:
            encode(details, "the details", self._limit)
            info = msgspec.structs.replace(info, details=details)
        await self._bring(store, intent, arrivals.arrival(key, error=info, by=by))
        return "REJECTED" if asked or len(what) == 2 else "UNASKED"

    async def _addressed(self, what: tuple[Any, ...], index: int, form: str) -> tuple[Store, str, str, tuple[Any, ...]]:
        """Return (store, intent, key, the rest) of what the caller named by a token, or by id and name."""
        store = await self._store()
        if len(what) == 2:
            if not isinstance(what[0], str) or not what[0].startswith(tokens.PREFIX):
                raise ConfigurationError(f"two arguments are a token and a value; else write {form}")
            intent, key = await tokens.read(store, what[0])
            return store, intent, key, what[1:]
        if len(what) != 3:
            raise ConfigurationError(f"write {form}, or give a token in the place of id and name")
        return store, what[0], arrivals.key_of(what[1], index), what[2:]

    async def _bring(self, store: Store, intent: str, entry: Any) -> None:
        # the digest that tells the same value from another is that of the value, not of a seal
        sealed = None if self._vault is None else await self._vault.seal_struct(entry)
        word = await arrivals.resolve(store, intent, entry, sealed=sealed)
        if word != "OK":
            raise WrongState(f"intent {intent} has ended {word}; its promises take no values any more")


async def _check(store: Store, intent: str, key: str, ask: Ask, value: Any) -> None:
    """Refuse a value that the handler which waits for it would not take."""
    what = f"{'approval' if ask.outcomes else 'promise'} {promise_text(key)!r} of {intent}"
    if ask.outcomes:
        outcome = value.get("outcome") if isinstance(value, dict) else None
        if outcome not in ask.outcomes:
            raise ConfigurationError(
                f"{what} allows {', '.join(ask.outcomes)}, not {str(outcome)[:100]!r}",
                code="BAD_OUTCOME",
            )
        value = value.get("value")
    schema = await arrivals.schema_of(store, intent, ask.form) if ask.form else None
    wrong = None if schema is None else misfit(value, schema)
    if wrong is not None:
        hint = f"it takes {described(schema)}"
        if ask.outcomes:
            wrong = "it has a form, and no value fills it in" if value is None else wrong
            hint += f": fill that in by --value '{example(schema)}', in Python by value="
        raise SerialisationError(f"{what}: {wrong}", code="TYPE_MISMATCH", hint=hint)
