"""
Approvals: promises that people answer. What is asked is in Redis, so that it can be listed and answered from anywhere.

Reminders and the escalation are durable timers, and what is done then is a step: each happens once, whatever restarts.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from redurable.clock import Seconds, seconds, to_datetime
from redurable.codec import NIL, reason_of
from redurable.errors import ConfigurationError, SerialisationError
from redurable.events import emit
from redurable.forms import Ask
from redurable.ids import promise_text
from redurable.model import Arrived, Reason
from redurable.runtime.promises import TOKEN_LIFE, Promise, handler_scope
from redurable.runtime.spec import StepSpec
from redurable.runtime.steps import perform

__all__ = ["Approval", "Decision", "approval"]

T = TypeVar("T")
Callback = Callable[["Approval[Any]"], Any]
_MOST = 2000  # characters of a title or description
_TEXTS = 50  # outcomes, assignees


@dataclass(frozen=True, slots=True)
class Decision(Generic[T]):
    """What was decided, with what was filled in, by whom (as they said) and when."""

    outcome: str
    value: T
    by: str
    at: datetime


class _Answer(msgspec.Struct):
    outcome: str
    value: msgspec.Raw = msgspec.Raw(NIL)


class Approval(Promise[Decision[T]]):
    """A question to people; see `approval`. `await it`, or `await it.wait(timeout=...)`."""

    reason = Reason.HUMAN

    def __init__(
        self, name: str, of: Any, index: int, token_life: Seconds, ask: Ask, moments: Iterator[tuple[float, str]],
        callbacks: dict[str, Callback | None],
    ) -> None:  # fmt: skip
        super().__init__(name, of, index, token_life)
        self._attempt.owes = True
        self._said = msgspec.structs.replace(ask, since=self._made)
        self._moments = moments
        self._next = next(moments, None)
        self._waited = 0.0
        self._rest: float | None = None  # seconds of the time limit that are left at the next moment; None = no limit
        self._callbacks = callbacks

    @property
    def title(self) -> str:
        """What is asked, in a line."""
        return self._said.title

    @property
    def assignees(self) -> tuple[str, ...]:
        """Who is asked."""
        return self._said.assignees

    async def wait(self, timeout: Seconds | None = None) -> Decision[T]:
        """Return the decision; TimeoutError after *timeout* seconds, durably counted. See `Promise.wait`."""
        limit = None if timeout is None else self._waited + seconds(timeout, "wait(timeout=)")
        while self._next is not None and (limit is None or self._next[0] < limit):
            at, what = self._next
            self._rest = None if limit is None else limit - at
            try:
                return await self._until(at)
            except TimeoutError:
                self._next = next(self._moments, None)
                await self._happen(what)
        self._rest = None if limit is None else 0.0
        return await self._until(limit)

    async def _until(self, at: float | None) -> Decision[T]:
        """Wait until *at*, in seconds of waiting since it was asked."""
        try:
            return await super().wait(None if at is None else at - self._waited)
        except TimeoutError:
            self._waited = at or 0.0
            raise

    async def _happen(self, what: str) -> None:
        callback = self._callbacks[what]

        async def happen() -> None:
            intent = self._attempt.lease.id
            if what == "reminded":
                emit("approval.reminded", intent=intent, approval=promise_text(self._key), assignees=self.assignees)
            else:
                emit("approval.escalated", intent=intent, approval=promise_text(self._key), assignees=self.assignees)
            if callback is not None:
                found = callback(self)
                if inspect.isawaitable(found):
                    await found

        scope = handler_scope(f"approval {self.name!r}")
        spec = StepSpec(happen, name=f"{what} {self.name}", result=None)
        spec.code = b""  # ours: it may change with a release
        await perform(scope, spec, scope.number(spec.name), (), {})

    def _ask(self, form: str, until: int) -> Ask:
        until = 0 if self._rest is None else until + round(self._rest * 1000)
        return msgspec.structs.replace(self._said, form=form, until=until)

    def _decoded(self, entry: Arrived) -> Any:
        what = f"the answer to approval {self.name!r}"
        try:
            answer = msgspec.msgpack.decode(entry.value, type=_Answer)
        except msgspec.MsgspecError as error:
            raise SerialisationError(f"{what} is none: {reason_of(error)}", code="TYPE_MISMATCH") from error
        if answer.outcome not in self._said.outcomes:
            raise SerialisationError(f"{what} is not one of {', '.join(self._said.outcomes)}", code="TYPE_MISMATCH")
        return Decision(answer.outcome, self._typed.decode(answer.value, what), entry.by, to_datetime(entry.at))


def _moments(
    reminders: Iterable[Seconds], every: Seconds | None, escalate: Seconds | None
) -> Iterator[tuple[float, str]]:
    each = sorted(seconds(r, "approval(reminders=)") for r in reminders)
    period = None if every is None else seconds(every, "approval(remind_every=)")
    if period is not None and period < 1:
        raise ConfigurationError("approval(remind_every=) is a second or more")
    late = [] if escalate is None else [(seconds(escalate, "approval(escalate_after=)"), "escalated")]
    again: Iterable[tuple[float, str]] = ()
    if period is not None:
        again = ((n * period, "reminded") for n in itertools.count(1))
    return heapq.merge(((at, "reminded") for at in each), again, late)


def approval(
    name: str,
    *,
    title: str = "",
    description: str = "",
    outcomes: Sequence[str] = ("approve", "reject"),
    of: Any = Any,
    index: int = 0,
    assignees: Sequence[str] = (),
    reminders: Sequence[Seconds] = (),
    remind_every: Seconds | None = None,
    on_reminder: Callback | None = None,
    escalate_after: Seconds | None = None,
    on_escalation: Callback | None = None,
    token_expires: Seconds = TOKEN_LIFE,
) -> Approval[Any]:
    """
    Ask people, and wait for their answer: `decision = await approval("publish", title="Publish the page?")`.

    It is a promise: listed by `redurable approvals` while it is awaited, answered there, by `Client.answer`, or by its
    token. An answer that is not one of *outcomes*, or does not fill in the form, is refused.

    Args:
        title, description: What is asked; they are stored as they are, whatever the payload codec.
        outcomes: What may be answered.
        of: The type of what is to be filled in besides (a form); its JSON Schema is shown. By default anything.
        assignees: Who is asked; redurable itself holds nobody to it.
        reminders: Seconds after which to remind; *remind_every*: again and again.
        on_reminder: Called with this approval then, as a step: to write to the assignees, say.
        escalate_after, on_escalation: The same for when it has taken too long. Both are events too, in any case.

    Raises:
        ConfigurationError: What cannot be asked. Otherwise as `promise`.
    """
    texts = {"outcomes": outcomes, "assignees": assignees}
    for what, some in texts.items():
        if (
            isinstance(some, str)
            or len(some) > _TEXTS
            or not all(isinstance(s, str) and 0 < len(s) <= 100 for s in some)
        ):
            raise ConfigurationError(f"approval({what}=) is a list of up to {_TEXTS} texts, not {some!r}"[:300])
    if not outcomes or len(set(outcomes)) < len(outcomes):
        raise ConfigurationError("approval(outcomes=) needs an outcome, and each once")
    if not isinstance(title, str) or not isinstance(description, str) or len(title) + len(description) > _MOST:
        raise ConfigurationError(f"approval(title=, description=) are texts of up to {_MOST} characters")
    escalates = 0 if escalate_after is None else round(seconds(escalate_after, "approval(escalate_after=)") * 1000)
    ask = Ask(
        outcomes=tuple(outcomes), title=title or name, description=description, assignees=tuple(assignees),
        escalates=escalates,
    )  # fmt: skip
    moments = _moments(reminders, remind_every, escalate_after)
    callbacks = {"reminded": on_reminder, "escalated": on_escalation}
    return Approval(name, of, index, token_expires, ask, moments, callbacks)
