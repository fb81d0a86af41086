"""
Handlers: what they take, and under which name and policy they run; what a process prepares for them: `resources`.

A handler is a plain function. It takes the payload as one argument, or by keyword; parameters annotated
`Annotated[T, Depends(make)]` are given objects made once a process (`make` may be a function, sync or async, or an
(async) context manager), never journaled. `@lifespan` marks one async context manager of a module to enter before
work and leave after.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, overload

import msgspec

from redurable.clock import Seconds, seconds
from redurable.codec import Typed, reason_of, typed
from redurable.errors import ConfigurationError, SerialisationError
from redurable.model import Status
from redurable.retry import Retry
from redurable.runtime.limit import Limit, limits_of
from redurable.store.keys import check_queue
from redurable.store.store import KEEP_COMPLETED_MS, KEEP_OTHER_MS

__all__ = ["Depends", "HandlerSpec", "handler", "is_handler", "lifespan", "load_handlers", "spec_of"]

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
OnChange = Literal["warn", "hold", "ignore"]
KEEP_COMPLETED, KEEP_OTHER = KEEP_COMPLETED_MS / 1000, KEEP_OTHER_MS / 1000  # s


@dataclass(frozen=True, slots=True)
class Depends:
    """Marks a parameter, in `Annotated[T, Depends(make)]`, that is made once a process by *make*."""

    make: Callable[..., Any]


@dataclass(slots=True, eq=False)
class HandlerSpec:
    """A handler and its policy, as `handler` explains it. Times in seconds; type "" is the only one."""

    function: Callable[..., Any]
    queue: str
    type: str
    retry: Retry = field(default_factory=Retry)
    max_delivery_attempts: int = 3
    timeout: float | None = None
    attempt_timeout: float | None = None
    retention: float = KEEP_COMPLETED
    failed_retention: float = KEEP_OTHER
    on_code_change: OnChange = "warn"
    strict: bool = False
    shared: bool = False
    state_retention: float | None = None
    limits: tuple[Limit, ...] = ()
    _arguments: dict[str, Typed] = field(default_factory=dict)
    _depends: dict[str, Depends] = field(default_factory=dict)
    _single: str | None = None
    _result: Typed | None = None
    _resolved: bool = False
    is_async: bool = field(init=False)  # runs on the loop, else in a thread

    def __post_init__(self) -> None:
        if inspect.isasyncgenfunction(self.function) or inspect.isgeneratorfunction(self.function):
            raise ConfigurationError(
                f"{self.name} yields: a handler returns its result", code="BAD_HANDLER",
                hint="make it a step, and let the handler iterate it",
            )  # fmt: skip
        self.is_async = inspect.iscoroutinefunction(self.function)

    @property
    def name(self) -> str:
        """module.qualname, as people know it."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def result(self) -> Typed:
        """The codec of what it returns."""
        self._resolve()
        assert self._result is not None
        return self._result

    def keep_ms(self, status: Status) -> int:
        """Return how long (ms) an intent is kept that ended with *status*."""
        return int((self.retention if status is Status.COMPLETED else self.failed_retention) * 1000)

    @property
    def takes_payload(self) -> bool:
        """Whether its one argument is the payload itself, and not a field of it."""
        self._resolve()
        return self._single is not None

    def _resolve(self) -> None:
        if self._resolved:
            return
        target = inspect.unwrap(self.function)
        try:
            hints = typing.get_type_hints(target, include_extras=True)
        except (NameError, TypeError) as error:
            raise ConfigurationError(
                f"the annotations of {self.name} cannot be resolved: {error}", code="BAD_HANDLER"
            ) from error
        plain: list[str] = []
        required = 0
        for parameter in inspect.signature(target).parameters.values():
            hint = hints.get(parameter.name, Any)
            marker = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Depends)), None)
            if marker is not None:
                self._depends[parameter.name] = marker
                continue
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            plain.append(parameter.name)
            required += parameter.default is parameter.empty
            self._arguments[parameter.name] = typed(hint)
        # one parameter takes the payload itself, several take its fields
        self._single = plain[0] if len(plain) == 1 else None
        self._result = typed(hints.get("return", Any))
        self._resolved = True

    def bind(self, payload: bytes | memoryview | msgspec.Raw, *, begun: bool = False) -> dict[str, Any]:
        """
        Return the keyword arguments that *payload* gives; one that has *begun* may have more fields than are taken now.

        Raises:
            SerialisationError: It does not fit the annotations; the message names the parameter.
        """
        self._resolve()
        what = f"the payload of {self.name}"
        if self._single is not None:
            single = self._arguments[self._single]
            return {self._single: single.decode(payload, what)}
        try:
            fields = msgspec.msgpack.decode(payload, type=dict[str, msgspec.Raw] | None) or {}
        except msgspec.DecodeError as error:
            raise SerialisationError(
                f"{what} is not an object of fields: {reason_of(error)}", code="TYPE_MISMATCH"
            ) from error
        parameters = inspect.signature(inspect.unwrap(self.function)).parameters
        missing = [n for n in self._arguments if n not in fields and parameters[n].default is inspect.Parameter.empty]
        extra = [n for n in fields if n not in self._arguments]
        if missing or (extra and not begun):
            raise SerialisationError(
                f"{what} has the wrong fields: missing {missing or 'none'}, unknown {extra or 'none'}",
                code="TYPE_MISMATCH",
            )
        known = {n: fields[n] for n in self._arguments if n in fields}
        return {n: self._arguments[n].decode(raw, f"{what}, field {n!r}") for n, raw in known.items()}

    def check(self, payload: bytes) -> None:
        """Refuse a payload that `bind` would refuse."""
        self.bind(payload)

    @property
    def depends(self) -> dict[str, Depends]:
        """The parameters that the process provides."""
        self._resolve()
        return self._depends


_ATTRIBUTE = "__redurable_handler__"


@overload
def handler(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def handler(
    *,
    queue: str | None = None,
    type: str | None = None,
    retry: Retry | None = None,
    max_delivery_attempts: int = 3,
    timeout: Seconds | None = None,
    attempt_timeout: Seconds | None = None,
    retention: Seconds | None = None,
    failed_retention: Seconds | None = None,
    on_code_change: OnChange = "warn",
    strict: bool = False,
    shared: bool = False,
    state_retention: Seconds | None = None,
    concurrency: int | None = None,
    limit: Limit | Sequence[Limit] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def handler(
    function: Any = None,
    /,
    *,
    queue: str | None = None,
    type: str | None = None,
    retry: Retry | None = None,
    max_delivery_attempts: int = 3,
    timeout: Seconds | None = None,
    attempt_timeout: Seconds | None = None,
    retention: Seconds | None = None,
    failed_retention: Seconds | None = None,
    on_code_change: OnChange = "warn",
    strict: bool = False,
    shared: bool = False,
    state_retention: Seconds | None = None,
    concurrency: int | None = None,
    limit: Limit | Sequence[Limit] | None = None,
) -> Any:
    """
    Give a handler a queue and a policy; the function itself stays as it is. Optional: a plain function serves too.

    Args:
        queue: The queue it serves; "module.function" by default.
        type: Its name within the queue, when several handlers share one.
        retry: When an attempt that raised is followed by another; 4 attempts by default.
        max_delivery_attempts: Owners that may be lost in a row without progress before the intent fails.
        timeout: Seconds from sending to the deadline, for intents sent to this function without a deadline.
        attempt_timeout: Seconds for one attempt, after which it fails with TimeoutError.
        retention: Seconds that a completed intent is kept; 7 days by default.
        failed_retention: Seconds that one is kept which the handler ended otherwise; 30 days by default.
        on_code_change: When a recorded step's code differs now: "warn", "hold" (the intent), or "ignore".
        shared: Only read the state of the session that it is sent to, and run beside the session's holder.
        state_retention: Seconds that the state of a session is kept after its last intent; 30 days by default.
        strict: Make a wait that is not durable an error, when it outlasts a few seconds.
        concurrency, limit: How many of the queue are at work at a time, over all workers; for all else, see `Limit`.
    """

    def decorate(target: Callable[..., Any]) -> Callable[..., Any]:
        name = _name_of(target, max_delivery_attempts)
        spec = HandlerSpec(
            target,
            queue=check_queue(queue or name),
            type=type or "",
            retry=retry or Retry(),
            max_delivery_attempts=max_delivery_attempts,
            timeout=None if timeout is None else seconds(timeout, "handler(timeout=)"),
            attempt_timeout=None if attempt_timeout is None else seconds(attempt_timeout, "handler(attempt_timeout=)"),
            retention=KEEP_COMPLETED if retention is None else seconds(retention, "handler(retention=)"),
            failed_retention=KEEP_OTHER if failed_retention is None else seconds(failed_retention, "failed_retention"),
            on_code_change=on_code_change,
            strict=strict,
            shared=shared,
            limits=limits_of(limit, f"handler {name}", concurrency),
            state_retention=None if state_retention is None else seconds(state_retention, "handler(state_retention=)"),
        )
        setattr(target, _ATTRIBUTE, spec)
        return target

    return decorate if function is None else decorate(function)


def _name_of(target: Any, max_delivery_attempts: int) -> str:
    if not inspect.isfunction(target):
        raise ConfigurationError(
            f"@handler decorates a function, not {target!r}", code="BAD_HANDLER", hint='write @handler(queue="...")'
        )
    name = f"{target.__module__}.{target.__qualname__}"
    if max_delivery_attempts < 1:
        raise ConfigurationError(f"handler {name}: max_delivery_attempts must be 1 or more")
    return name


def spec_of(function: Any, queue: str | None = None) -> HandlerSpec:
    """Return the spec of a handler, made on the spot for a plain function; *queue* overrides its queue."""
    spec = getattr(function, _ATTRIBUTE, None)
    if spec is None:
        if not inspect.isfunction(function) or hasattr(function, "__redurable_step__"):
            raise ConfigurationError(
                f"{function!r} is not a handler", code="BAD_HANDLER",
                hint="a handler is a plain function, async or not; a step is called by one",
            )  # fmt: skip
        name = f"{function.__module__}.{function.__qualname__}"
        spec = HandlerSpec(function, queue=check_queue(queue or name), type="")
    elif queue is not None:
        spec = HandlerSpec(
            **{
                name: getattr(spec, name)
                for name in HandlerSpec.__dataclass_fields__
                if not name.startswith("_") and name not in ("queue", "is_async")
            },
            queue=check_queue(queue),
        )
    return spec


def is_handler(function: Any) -> bool:
    """Return whether *function* is decorated by `handler`."""
    return hasattr(function, _ATTRIBUTE)


def lifespan(function: F) -> F:
    """Mark an async generator function: its part before `yield` runs before a process takes work, the rest after."""
    function.__redurable_lifespan__ = True  # type: ignore[attr-defined]  # our own mark on a function
    return function


def load_handlers(target: str, queue: str | None = None, app_dir: str | None = None) -> tuple[list[HandlerSpec], Any]:
    """
    Import "module:function" or "module" and return its handlers and the module.

    Raises:
        ConfigurationError: UNKNOWN_MODULE, UNKNOWN_HANDLER or BAD_HANDLER, naming what is there instead.
    """
    name, _, attribute = target.partition(":")
    path = str(Path(app_dir or ".").resolve())
    if path not in sys.path:
        sys.path.insert(0, path)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise ConfigurationError(
            f"there is no module {name!r} in {path} or on the Python path",
            code="UNKNOWN_MODULE",
            hint=_meant(target) or "run it where the module is, or give --app-dir; write module:function",
        ) from error
    if attribute:
        function: Any = module
        for part in attribute.split("."):
            function = getattr(function, part, None)
        if function is None:
            known = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
            raise ConfigurationError(
                f"module {name!r} has no {attribute!r}",
                code="UNKNOWN_HANDLER",
                hint=f"its functions are: {', '.join(sorted(known)) or 'none'}",
            )
        return [spec_of(function, queue)], module
    found = list({id(v): v for v in vars(module).values() if is_handler(v)}.values())  # two names, one handler
    if not found:
        raise ConfigurationError(
            f"module {name!r} has no @handler",
            code="UNKNOWN_HANDLER",
            hint=f"decorate its handlers, or name one: {name}:function",
        )
    return [spec_of(f, queue) for f in found], module


def _meant(target: str) -> str:
    """The likeliest slips: a dot where the colon belongs, a file's name."""
    if ":" in target or "." not in target:
        return ""
    module, _, last = target.rpartition(".")
    return f"did you mean {module if last == 'py' else f'{module}:{last}'}?"
