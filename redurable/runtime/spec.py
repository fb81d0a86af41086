"""
What is known of a step before it is called: its function, name and policy, and the fingerprint of its code.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

from redurable.clock import Seconds, seconds
from redurable.codec import Typed, typed
from redurable.errors import ConfigurationError
from redurable.journal.cursor import INSIDE
from redurable.journal.fingerprint import fingerprint
from redurable.retry import Retry
from redurable.runtime.limit import Limit, limits_of
from redurable.runtime.scope import Scope

__all__ = ["OnCancel", "RunIn", "StepSpec", "known_steps", "remember", "return_annotation", "step_spec", "steps_of"]

RunIn = Literal["loop", "thread", "process"]
OnCancel = Literal["finish", "interrupt"]
_DEFAULT_RETRY = Retry()


class StepSpec:
    """What is known of a step before it is called."""

    __slots__ = (
        "_result", "_typed", "code", "function", "identify", "limits", "name", "on_cancel", "retry", "run_in", "timeout"
    )  # fmt: skip

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        identify: Callable[..., str] | str | None = None,
        retry: Retry | None = None,
        timeout: Seconds | None = None,
        run_in: RunIn | None = None,
        on_cancel: OnCancel = "finish",
        limit: Limit | Sequence[Limit] | None = None,
        result: Any = inspect.Parameter.empty,
    ) -> None:
        if not callable(function) or isinstance(function, type):
            raise ConfigurationError(f"a step is a function, not {function!r}", code="BAD_HANDLER")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise ConfigurationError(
                f"{function.__qualname__} is a generator; a step returns one value", code="BAD_HANDLER",
                hint="collect the items in a list, make a step of each, or put @step on an async generator",
            )  # fmt: skip
        if run_in not in (None, "loop", "thread", "process"):
            raise ConfigurationError(f"step(run_in=) is 'loop', 'thread' or 'process', not {run_in!r}")
        if on_cancel not in ("finish", "interrupt"):
            raise ConfigurationError(f"step(on_cancel=) is 'finish' or 'interrupt', not {on_cancel!r}")
        # of an object that can be called, its method tells
        coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
        if coroutine and run_in not in (None, "loop"):
            raise ConfigurationError(
                f"step {function.__qualname__} is async and runs on the loop", code="BAD_HANDLER",
                hint=f"make it a plain def to run it in a {run_in}",
            )  # fmt: skip
        if INSIDE in (name or ""):
            raise ConfigurationError(f"a step's name cannot contain {INSIDE!r}: {name!r}")
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.identify = identify
        self.retry = retry or _DEFAULT_RETRY
        self.timeout = None if timeout is None else seconds(timeout, "step(timeout=)")
        self.run_in: RunIn = run_in or ("loop" if coroutine else "thread")
        self.on_cancel = on_cancel
        self.limits = limits_of(limit, f"step {self.name}")
        self.code = fingerprint(function)
        self._result = result
        self._typed: Typed | None = None

    @property
    def typed(self) -> Typed:
        """The codec of the result's annotation, resolved at first use (forward references)."""
        if self._typed is None:
            annotation = self._result
            if annotation is inspect.Parameter.empty:
                annotation = return_annotation(self.function)
            self._typed = typed(annotation)
        return self._typed

    def number(self, scope: Scope, args: Any, kwargs: Any) -> int | str:
        """Return the n of the next call in *scope*, or the caller's own id."""
        if self.identify is None:
            return scope.number(self.name)
        return str(self.identify(*args, **kwargs) if callable(self.identify) else self.identify)


def return_annotation(function: Callable[..., Any]) -> Any:
    """Return what *function* is annotated to return; Any without an annotation or where it cannot be resolved."""
    try:
        hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except (NameError, TypeError, AttributeError):
        return Any
    return hints.get("return", Any)


_specs: WeakKeyDictionary[Any, StepSpec] = WeakKeyDictionary()


def remember(function: Any, spec: StepSpec) -> None:
    """Let *function*, as `step` made it, be known by *spec*."""
    _specs[function] = spec


def step_spec(function: Any) -> StepSpec | None:
    """Return the spec of a function that `step` decorated, None of any other."""
    try:
        return _specs.get(function)
    except TypeError:  # neither hashable nor a step
        return None


def known_steps() -> list[StepSpec]:
    """Return the specs of all steps of this process."""
    return list(_specs.values())


def steps_of(module: str) -> list[str]:
    """Return the names of the steps whose functions are defined in *module*."""
    return sorted({spec.name for spec in list(_specs.values()) if spec.function.__module__ == module})
