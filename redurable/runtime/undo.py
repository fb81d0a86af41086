"""
Undo work: what a handler registered with `compensate`, run as steps of a scope of its own, the last registered first.

Work that fails for good is told and does not keep the rest from being done. Invariant: by then the journal holds how
the intent will end, so that a later attempt goes on here, whatever its handler does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redurable.errors import JournalMismatchError, StepFailed, Suspended
from redurable.events import emit
from redurable.runtime.conductor import Conductor
from redurable.runtime.scope import Scope, scope_var
from redurable.runtime.spec import StepSpec
from redurable.runtime.steps import perform, step_spec

if TYPE_CHECKING:
    from redurable.runtime.attempt import Attempt

__all__ = ["cut_off", "undo"]

COMPENSATE_FOR = 600.0  # s


def cut_off(conductor: Conductor) -> None:
    """End what is left of a handler that is over: branches that it did not wait for, waits of its threads."""
    for scope in conductor.scopes:
        if scope.task is not None and scope.durable and scope is not conductor.main:
            scope.task.cancel()
    for future in conductor.futures:
        if not future.done():
            future.set_exception(Suspended("the attempt is over"))


async def undo(attempt: Attempt) -> None:
    """Run the undo work of *attempt*, by a conductor of its own; return when it is done, or unwound."""
    scope = Scope(attempt, "compensate")
    scope.task = None
    before = attempt.conductor
    cut_off(before)
    conductor = attempt.conductor = Conductor(scope, before.cursor, before.recorder)
    conductor.undoing = True
    conductor.begin()
    scope.task = asyncio.current_task()
    try:
        async with asyncio.timeout(COMPENSATE_FOR):
            scope_var.set(scope)
            for function, args, kwargs in reversed(attempt.compensations):
                spec = step_spec(function) or StepSpec(function, name=getattr(function, "__name__", None))
                try:
                    await perform(scope, spec, spec.number(scope, args, kwargs), args, kwargs)
                except StepFailed as failure:
                    emit("compensation.failed", intent=attempt.lease.id, step=spec.name, error=failure)
    except TimeoutError:
        emit("compensation.timed_out", intent=attempt.lease.id)
    except (asyncio.CancelledError, JournalMismatchError):
        if conductor.signal is None:
            raise
    finally:
        scope.task = None
