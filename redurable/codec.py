"""
Values to bytes and back: MessagePack by msgspec, typed on the way in. No pickle anywhere.

Invariant: the value that a caller goes on with is the one that a replay would decode (`Typed.settle`), so live
and replayed runs see equal values of equal types. Beside what msgspec knows (its Structs, dataclasses,
TypedDicts, attrs, enums, datetimes, UUIDs, Decimals), objects with `model_dump`/`model_validate` (pydantic) work.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from typing import Any, get_args

import msgspec

from redurable.errors import CodecError, PayloadTooLarge, SerialisationError

__all__ = [
    "DEFAULT_LIMIT",
    "NIL",
    "SEALED",
    "Sealed",
    "Typed",
    "digest",
    "encode",
    "misfit_of",
    "plain",
    "reason_of",
    "sealed_part",
    "typed",
]

DEFAULT_LIMIT = 1 << 20
NIL = b"\xc0"
SEALED = 82  # the MessagePack extension that payload codecs write, see `redurable.codecs`
# first byte of a MessagePack extension -> where its code stands
_EXTENSIONS = {0xC7: 2, 0xC8: 3, 0xC9: 5, 0xD4: 1, 0xD5: 1, 0xD6: 1, 0xD7: 1, 0xD8: 1}
_QUOTED = re.compile(r"(Invalid (?:enum )?value) .*", re.DOTALL)  # msgspec quotes the value only there
# and says where in backquotes: $ is the value itself
_PLACE = re.compile(r"(?P<what>.*) - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`", re.DOTALL)
_QUOTE = re.compile(r"`([^`']*)`")
_WORDS = (
    (re.compile(r"Expected (.*)", re.DOTALL), r"expected \1"),
    (re.compile(r"Object missing required field (.*)"), r"the field \1 is missing"),
    (re.compile(r"Object contains unknown field (.*)"), r"the field \1 is not known"),
    (re.compile(r"Invalid enum value"), "none of the values allowed"),
)
_FIELD = re.compile(r"`\$\[(\d+)\]")  # of an array: which of its fields
_TYPES = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_PLAIN: frozenset[type] = frozenset({str, bytes, int, float, bool, type(None)})


class Sealed:
    """A payload that a codec has sealed: it encodes, compares and is checked as what it was; *data* is stored."""

    __slots__ = ("data", "value")

    def __init__(self, value: Any, data: bytes) -> None:
        self.value = value
        self.data = data


def _dump(value: Any) -> Any:
    if isinstance(value, Sealed):
        return value.value
    if isinstance(value, str):
        return str.__str__(value)  # an IntentId, say
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="python")
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} cannot be serialised")


def _load(kind: type, value: Any) -> Any:
    if isinstance(value, str) and isinstance(kind, type) and issubclass(kind, str):
        return kind(value)
    validate = getattr(kind, "model_validate", None)
    if validate is not None:
        try:
            return validate(value)
        except ValueError as error:
            raise ValueError(_discreet(error)) from None
    raise TypeError(f"{kind.__module__}.{kind.__qualname__} cannot be restored")


def _discreet(error: ValueError) -> str:
    """Say what did not fit without the value itself: payloads stay out of messages and logs."""
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    found = details(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, d['loc'])) or 'value'}: {d['msg']}" for d in found)


def sealed_part(data: bytes | memoryview | msgspec.Raw) -> tuple[list[str], bytes] | None:
    """Return the names of the codecs that sealed *data*, and what they gave; None if it is plain."""
    raw = bytes(data)
    size = _EXTENSIONS.get(raw[0] if raw else 0)
    if size is None or raw[size : size + 1] != bytes([SEALED]):
        return None
    at, names = size + 2, []
    for _ in range(raw[size + 1]):
        names.append(raw[at + 1 : at + 1 + raw[at]].decode())
        at += 1 + raw[at]
    return names, raw[at:]


def _sealed(code: int, data: memoryview) -> Any:
    """What a decoder makes of an extension: users may have their own, ours are not for them."""
    if code == SEALED:
        raise _unopened(msgspec.msgpack.encode(msgspec.msgpack.Ext(code, data)))
    return msgspec.msgpack.Ext(code, bytes(data))


def _unopened(data: Any) -> CodecError:
    names, _ = sealed_part(data) or ([], b"")
    return CodecError(
        f"a value is sealed ({', '.join(names)}) and no codec is configured here",
        code="CODEC_MISSING",
        hint="set REDURABLE_CODEC=module:attribute, or give Client(codec=) or worker --codec",
    )


_encoder = msgspec.msgpack.Encoder(enc_hook=_dump)
_canonical = msgspec.msgpack.Encoder(enc_hook=_dump, order="sorted")


def _limited(data: bytes, limit: int, what: str) -> bytes:
    if len(data) > limit:
        raise PayloadTooLarge(
            f"{what} is {len(data):,} bytes, more than the limit of {limit:,}",
            hint="store it elsewhere and pass a reference, or raise REDURABLE_MAX_PAYLOAD (bytes)",
        )
    return data


def encode(value: Any, what: str, limit: int = DEFAULT_LIMIT) -> bytes:
    """
    Return *value* as MessagePack.

    Raises:
        SerialisationError: It holds something that has no MessagePack form; the message names *what*.
        PayloadTooLarge: It takes more than *limit* bytes.
    """
    try:
        data = _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SerialisationError(
            f"{what} cannot be stored: {error}",
            hint="use plain data, dataclasses, msgspec Structs or pydantic models",
        ) from error
    return data if len(data) <= limit else _limited(data, limit, what)


def plain(data: bytes) -> Any:
    """Return what *data* (MessagePack) holds as JSON would say it: for holding it against a JSON Schema."""
    return msgspec.to_builtins(msgspec.msgpack.decode(data), str_keys=True)


def reason_of(error: Exception) -> str:
    """
    Say why a value did not fit, where first: "items[2].price: expected int, got str". The value itself is not told.

    What a validator of the user's raised is told as it is.
    """
    text = str(error)
    found = _PLACE.fullmatch(text)
    what, place = (text, "") if found is None else (found["what"], found["path"].removeprefix("."))
    what = _QUOTED.sub(r"\1", what)
    if found is not None and found["key"]:
        place = f"a key of {place}" if place else "a key"
    for pattern, ours in _WORDS:
        if pattern.fullmatch(what):
            what = _QUOTE.sub(r"\1", pattern.sub(ours, what))
    return f"{place}: {what}" if place else what


def misfit_of(error: Exception, fields: Sequence[str]) -> str:
    """
    Say why a record of ours, an array of *fields*, cannot be read: "its labels: expected str, got int", never a value.
    """
    text = str(error)
    found = _FIELD.search(text)
    place = fields[int(found[1])] if found is not None and int(found[1]) < len(fields) else ""
    if isinstance(error, UnicodeDecodeError):
        return "a text in it is no UTF-8"
    if not isinstance(error, msgspec.ValidationError):
        return "it is cut short" if "truncated" in text else "it is no MessagePack"
    if "of at least length" in text:
        return "fields are missing"
    types = _TYPES.search(text)
    what = "a value that this version does not know" if types is None else f"expected {types[1]}, got {types[2]}"
    return f"its {place}: {what}" if place else what


def digest(value: Any) -> str:
    """
    Return 16 hex digits that equal values share, whatever the order of their keys.

    Raises:
        SerialisationError: It cannot be stored, or holds something that cannot be put in an order.
    """
    try:
        try:
            data = _canonical.encode(value)
        except TypeError:  # keys that are no strings have no order of their own
            data = _canonical.encode(
                msgspec.to_builtins(value, order="sorted", str_keys=True, builtin_types=(bytes,), enc_hook=_dump)
            )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise SerialisationError(
            f"the payload cannot be compared with another: {error}",
            hint="with an idempotency key, let the keys of dicts be strings or numbers",
        ) from error
    return hashlib.blake2b(data, digest_size=8).hexdigest()


class Typed:
    """A codec for one annotation; `typed` makes and keeps them."""

    __slots__ = ("_decode", "_plain", "annotation")

    def __init__(self, annotation: Any) -> None:
        if annotation is object:  # it says as little as Any does
            annotation = Any
        self.annotation = annotation
        try:
            self._decode = msgspec.msgpack.Decoder(annotation, dec_hook=_load, ext_hook=_sealed).decode
        except (TypeError, RuntimeError) as error:
            raise SerialisationError(
                f"the annotation {annotation!r} cannot be restored from storage: {error}",
                code="TYPE_MISMATCH",
                hint="annotate with plain types, dataclasses, msgspec Structs or pydantic models",
            ) from error
        if annotation is Any:
            self._plain: frozenset[type] = _PLAIN
        else:
            kind = type(None) if annotation is None else annotation
            self._plain = _PLAIN & {kind} if isinstance(kind, type) else frozenset()

    def decode(self, data: bytes | memoryview | msgspec.Raw, what: str) -> Any:
        """
        Return the value in *data*.

        Raises:
            SerialisationError: TYPE_MISMATCH; it does not fit the annotation.
            CodecError: CODEC_MISSING; it is sealed.
        """
        try:
            return self._decode(data)
        except CodecError:
            raise
        except Exception as error:
            if sealed_part(data) is not None:
                raise _unopened(data) from None
            # msgspec's errors, and whatever a model's validator raises
            raise SerialisationError(
                f"{what} does not fit {_name(self.annotation)}: {reason_of(error)}", code="TYPE_MISMATCH"
            ) from error

    def settle(self, value: Any, what: str, limit: int = DEFAULT_LIMIT) -> tuple[bytes, Any]:
        """Return *value* as bytes, and as a replay would give it back."""
        try:
            data = _encoder.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError):
            data = encode(value, what, limit)
        if len(data) > limit:
            _limited(data, limit, what)
        if type(value) in self._plain:
            return data, value
        return data, self.decode(data, what)


def _name(annotation: Any) -> str:
    return str(annotation) if get_args(annotation) else getattr(annotation, "__qualname__", None) or str(annotation)


@functools.lru_cache(maxsize=4096)
def _cached(annotation: Any) -> Typed:
    return Typed(annotation)


def typed(annotation: Any) -> Typed:
    """Return the codec of *annotation* (`Any` accepts whatever was stored)."""
    try:
        return _cached(annotation)
    except TypeError:  # unhashable annotations, such as Annotated with a dict
        return Typed(annotation)
