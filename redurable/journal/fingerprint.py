"""
Fingerprints of functions: 8 bytes that change when the code of a step changes.

The first byte is the Python minor version (bytecode differs between them), so that fingerprints of different
interpreters are never compared. Names of locals, line numbers and docstrings do not count; constants, defaults,
bytecode, and nested functions do.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

__all__ = ["changed", "fingerprint"]

_MINOR = bytes([sys.version_info.minor])


def _feed(digest: Any, code: CodeType, doc: str | None) -> None:
    digest.update(code.co_code)
    digest.update(repr((code.co_names, code.co_argcount, code.co_kwonlyargcount, code.co_freevars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _feed(digest, constant, None)
        elif constant is None or constant != doc:
            text = repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)
            digest.update(text.encode())


def fingerprint(function: Callable[..., Any]) -> bytes:
    """Return the fingerprint of *function*; a callable without code of its own has only its name's."""
    digest = hashlib.blake2b(digest_size=7)
    inner: Any = function
    while hasattr(inner, "__wrapped__"):
        inner = inner.__wrapped__
    code = getattr(inner, "__code__", None)
    if isinstance(code, CodeType):
        _feed(digest, code, inner.__doc__)
        digest.update(_plain(inner.__defaults__) + _plain(inner.__kwdefaults__))
    else:
        digest.update(getattr(inner, "__qualname__", type(inner).__qualname__).encode())
    return _MINOR + digest.digest()


def _plain(value: Any) -> bytes:
    """Defaults count if their text is the same in every process."""
    items = value.items() if isinstance(value, dict) else enumerate(value or ())
    simple = (str, bytes, int, float, bool, type(None), tuple, frozenset)
    return repr([(k, repr(v) if isinstance(v, simple) else type(v).__qualname__) for k, v in items]).encode()


def changed(recorded: bytes, now: bytes) -> bool:
    """Whether the two fingerprints can be compared and differ."""
    return bool(recorded) and recorded[:1] == now[:1] and recorded != now
