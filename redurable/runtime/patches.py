"""
`patched`: one piece of code for journals of the time before a change, and for those after.

A journal that has the change's `Patched` entry takes the new way on every replay; one that went past the place without
it keeps the old way. The entry is written when a handler comes to the place and nothing is recorded that it has not
asked for yet (another branch's results do not tell that this one went on). Invariants: the answer for a change is the
same all through an attempt, and on every later one; the entry is in the journal before anything that the new way
records.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from redurable.clock import now_ms
from redurable.errors import UsageError
from redurable.journal.left import went_past
from redurable.model import Patched
from redurable.runtime.bodies import on_loop
from redurable.runtime.promises import handler_scope
from redurable.runtime.scope import current_scope

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt

__all__ = ["patched"]

_LONGEST = 64


def patched(change: str) -> bool:
    """
    Return whether the handler is to take the new way at a place where its code changed.

    True for an intent that comes here for the first time, from then on and on every replay; False for one whose journal
    went past here before there was a `patched`. It costs one entry in new journals, none in old ones. Once no open
    intent is older than the change (`redurable deployments check` without the old way says so), the call and the old
    way may be removed. Outside an intent it is True.

    Args:
        change: What the change is called, 1 to 64 printable characters; each name is asked of a journal once.

    Raises:
        UsageError: INSIDE_STEP: a step's body is not replayed and needs none. BAD_ARGUMENT: the name cannot be one.
    """
    if not isinstance(change, str) or not 0 < len(change) <= _LONGEST or not change.isprintable():
        raise UsageError(
            f"{str(change)[:100]!r} cannot be the name of a change", code="BAD_ARGUMENT",
            hint=f"use 1 to {_LONGEST} printable characters",
        )  # fmt: skip
    what = f"patched({change!r})"
    if current_scope(what) is None:
        return True
    attempt = handler_scope(what).attempt
    if threading.get_ident() == attempt.thread:
        return _answer(attempt, change)

    async def there() -> bool:
        return _answer(attempt, change)

    return on_loop(attempt.loop, there())


def _answer(attempt: Attempt, change: str) -> bool:
    conductor = attempt.conductor
    conductor.check()
    cursor = attempt.recorder.cursor
    if change not in cursor.patches:
        cursor.patches[change] = not went_past(cursor)
        if cursor.patches[change]:
            attempt.recorder.append(Patched(now_ms(), change)).add_done_callback(lambda f: _landed(attempt, f))
    return cursor.patches[change]


def _landed(attempt: Attempt, future: asyncio.Future[None]) -> None:
    conductor = attempt.conductor
    if future.exception() is None and not conductor.over:
        if conductor.draining:
            conductor.drain()
        conductor.kick()
