"""The check that a handler survives: killed everywhere, one run after the other, it must come to the same outcome."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, Unpack, overload

from redurable.errors import ConfigurationError, UsageError
from redurable.model import Arrived
from redurable.testing.lease import Kill
from redurable.testing.report import Run
from redurable.testing.story import RunOptions, live

__all__ = ["replay_check"]

R = TypeVar("R")


@overload
def replay_check(
    handler: Callable[..., Coroutine[Any, Any, R]],
    payload: Any = None,
    *,
    reset: Callable[[], Any] | None = None,
    **options: Unpack[RunOptions],
) -> Run[R]: ...
@overload
def replay_check(
    handler: Callable[..., R],
    payload: Any = None,
    *,
    reset: Callable[[], Any] | None = None,
    **options: Unpack[RunOptions],
) -> Run[R]: ...
def replay_check(
    handler: Any, payload: Any = None, *, reset: Callable[[], Any] | None = None, **options: Unpack[RunOptions]
) -> Run[Any]:
    """
    Assert that a crash anywhere changes nothing; return the run without one.

    *handler* is run undisturbed; then, for every entry of its journal, once with a worker that dies just before the
    entry is recorded (the step's body runs again) and once right after. Each must end as the first did, with
    the same status and result, or the same error. What makes the difference is a handler that does not repeat itself
    (the clock, chance, I/O outside of steps) or a step that must not run twice. A journal of 50 entries takes 101 runs,
    of milliseconds each.

    Args:
        reset: Called before every run: put what the test's fakes remember back to the beginning.
        options: As for `run`, but for crash_after.

    Raises:
        AssertionError: An outcome differs; the message names the entry and both outcomes.
        ConfigurationError, UsageError: As `run`.
    """
    if "crash_after" in options:
        raise ConfigurationError("replay_check() crashes everywhere by itself", hint="leave crash_after= out")

    def told(kills: list[Kill]) -> Run[Any]:
        if reset is not None:
            reset()
        return live(handler, payload, options, kills)

    plain = told([])
    last = max((seq for seq, e in enumerate(plain.journal, 1) if not isinstance(e, Arrived)), default=0)
    for seq, entry in enumerate(plain.journal, 1):
        for kill, place in ((Kill(before=seq), "before"), (Kill(at=seq), "after")):
            if place == "before" and seq > last:
                continue  # what comes from outside the worker does not record, and cannot lose
            name = f"{type(entry).__name__} {getattr(entry, 'name', '')}".strip()
            where = f"a crash right {place} entry {seq} of {len(plain.journal)} ({name}) changes the outcome:"
            try:
                cut = told([kill])
            except UsageError as held:
                if held.code != "STUCK":
                    raise
                raise AssertionError(f"{where}\n  undisturbed: {_said(plain)}\n  crashed:     {held.message}") from None
            if _ending(cut) != _ending(plain):
                raise AssertionError(f"{where}\n  undisturbed: {_said(plain)}\n  crashed:     {_said(cut)}")
    return plain


def _ending(run: Run[Any]) -> Any:
    if run.error is None:
        return run.status, bytes(run._outcome.result)
    return run.status, run.error.type, run.error.code, run.error.message


def _said(run: Run[Any]) -> str:
    if run.error is None:
        return f"{run.status} {run.result!r}"
    return f"{run.status} {run.error.type}: {run.error.message}"
