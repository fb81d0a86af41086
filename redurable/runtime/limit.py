"""
What a limit allows, and which limit a handler or a step's call falls under: `Limit`, with its key from the arguments.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redurable.clock import Seconds, seconds
from redurable.errors import ConfigurationError, SerialisationError, UsageError
from redurable.store.keys import check_queue
from redurable.store.limits import Wanted

__all__ = ["Limit", "arguments_of", "limits_of", "wanted_by"]

MOST, SHORTEST, LONGEST, LIMITS = 1000, 0.01, 86_400.0, 4
MOST_RATE = 10_000
_NAME, _KEY = 64, 128


@dataclass(frozen=True)
class Limit:
    """
    How many may be at work at a time, and how many may begin within a time, over all workers.

    Whatever has a limit of the same name shares it: several handlers, steps, queues. It holds whoever is killed. What
    has to wait costs nothing and goes on in the order of age; see `redurable limits`.

    Args:
        name: What it is shared by; by default the handler's queue, or the step's name.
        concurrency: At most this many at a time, 1 to 1000.
        rate: At most this many begin within any `per` seconds, 1 to 10,000.
        per: Seconds (0.01 to a day) that `rate` is for.
        key: A limit of its own for each value of this: the name or path of an argument or a field of the payload
            ("customer_id", "order.customer.id"), or a function of the same arguments. A text or an integer.

    Raises:
        ConfigurationError: BAD_LIMIT.
    """

    name: str = ""
    concurrency: int | None = None
    rate: int | None = None
    per: Seconds = 1.0
    key: str | Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if self.name != "":
            try:
                check_queue(self.name, "the name of a limit")
            except ConfigurationError as error:
                raise _bad(f"{self.name!r} cannot be the name of a limit", error.hint) from None
            if len(self.name) > _NAME:
                raise _bad(f"the name of a limit has at most {_NAME} characters, not {len(self.name)}")
        if self.concurrency is None and self.rate is None:
            raise _bad("a limit needs concurrency=, rate=, or both")
        for what, number, most in (("concurrency", self.concurrency, MOST), ("rate", self.rate, MOST_RATE)):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if number is not None and not (whole and 0 < number <= most):
                hint = "say it of a shorter time: rate=1000 within per=1 for 60,000 in a minute" * (what == "rate")
                raise _bad(f"Limit({what}=) is a whole number from 1 to {most}, not {number!r}", hint)
        per = seconds(self.per, "Limit(per=)")
        if not SHORTEST <= per <= LONGEST:
            raise _bad(f"Limit(per=) is {SHORTEST} seconds to a day, not {self.per!r}")
        object.__setattr__(self, "per", per)
        if self.key is not None and not callable(self.key) and not (isinstance(self.key, str) and self.key):
            raise _bad(f"Limit(key=) is the name or path of an argument, or a function, not {self.key!r}")


def _bad(message: str, hint: str = "") -> ConfigurationError:
    return ConfigurationError(message, code="BAD_LIMIT", hint=hint)


def limits_of(limit: Limit | Sequence[Limit] | None, what: str, concurrency: int | None = None) -> tuple[Limit, ...]:
    """Return the limits that a handler or step was declared with; ConfigurationError BAD_LIMIT when they are none."""
    given: tuple[Any, ...] = () if limit is None else (limit,) if isinstance(limit, Limit) else tuple(limit)
    for one in given:
        if not isinstance(one, Limit):
            raise _bad(f"{what}(limit=) is a Limit or several, not {one!r}")
    if concurrency is not None:
        given = (Limit(concurrency=concurrency), *given)
    if len(given) > LIMITS:
        raise _bad(f"{what} has {len(given)} limits; {LIMITS} is the most")
    plain = [one.name for one in given if one.key is None]
    if len(set(plain)) < len(plain):
        raise _bad(f"{what} has two limits of one name", "give each a name=, or say both in one Limit")
    return given


def wanted_by(
    limits: tuple[Limit, ...], default: str, what: str, root: Callable[[], Any], args: Any, kwargs: Any
) -> tuple[Wanted, ...]:
    """
    Return the limits that a call of *what* falls under; those without a name are called *default*.

    Paths of keys begin at what *root* returns; functions are given *args* and *kwargs*.

    Raises:
        SerialisationError: LIMIT_KEY, the arguments have no key, or one that cannot be one.
        UsageError: LIMIT_NESTED, two of the limits are the same.
    """
    found: dict[str, Wanted] = {}
    for limit in limits:
        name = limit.name or default[:_NAME]
        if limit.key is not None:
            name = f"{name}:{_key(limit.key, name, what, root, args, kwargs)}"
        if name in found:
            raise UsageError(f"two limits of {what} are both {name!r} for this call", code="LIMIT_NESTED")
        found[name] = Wanted(
            name, limit.concurrency or 0, limit.rate or 0, round(seconds(limit.per) * 1_000_000)
        )  # fmt: skip
    return tuple(found.values())


def _key(
    key: str | Callable[..., Any], name: str, what: str, root: Callable[[], Any], args: Any, kwargs: Any
) -> str:  # fmt: skip
    try:
        value = key(*args, **kwargs) if callable(key) else functools.reduce(_part, key.split("."), root())
    except Exception as error:
        raise SerialisationError(
            f"the key {key if isinstance(key, str) else 'function'!r} of limit {name!r} finds nothing in the arguments "
            f"of {what}: {type(error).__name__}: {error}",
            code="LIMIT_KEY",
        ) from error
    text = str(value)
    fit = isinstance(value, str | int) and not isinstance(value, bool)
    if not fit or not 0 < len(text) <= _KEY or not text.isprintable():
        raise SerialisationError(
            f"{text[:200]!r} ({type(value).__name__}) cannot be a key of limit {name!r} of {what}", code="LIMIT_KEY",
            hint=f"a key is an integer, or a text of 1 to {_KEY} printable characters",
        )  # fmt: skip
    return text


def _part(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value[part]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return value[int(part)]
    return getattr(value, part)


def arguments_of(function: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a call by name, with those left out at their defaults."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments
