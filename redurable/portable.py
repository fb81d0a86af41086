"""
Intents as records for files: readable JSON that loses nothing.

A record is one JSON object of head, envelope, journal, outcome, cursors and arrivals. Values that JSON can hold exactly
stand as `{"json": ...}`, all others (bytes, sealed values, times) as `{"msgpack": base64}`. Invariants: what `unpack`
gives is byte for byte what `pack` was given; an entry that this version does not know survives as it is; a record that
cannot be an intent is refused before anything is written.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import typing
from typing import Any

import msgspec

from redurable.codec import reason_of
from redurable.config import check_version
from redurable.errors import ConfigurationError
from redurable.ids import partition_of
from redurable.model import Entry, Envelope, ErrorInfo, Outcome, Status, decode_entry, encode_entry

__all__ = ["FORMAT", "Parts", "Record", "pack", "token_of", "unpack"]

FORMAT = 1
_KINDS: dict[str, type] = {kind.__name__: kind for kind in typing.get_args(Entry)}
# these belong to the server and to who listened there; `at` is written anew
_LEFT = frozenset({"at", "base", "reply", "watch", "lost", "imported", "outcome"})
_NUMBERS = ("created", "started", "finished", "deadline", "start", "wake", "attempt", "losses", "max", "place")
_NEEDED: dict[Status, tuple[str, ...]] = {Status.CREATED: ("start", "lane"), Status.PAUSED: ("paused",)}
_NEEDED |= {status: ("finished",) for status in Status if status.final}
_decode_outcome = msgspec.msgpack.Decoder(Outcome).decode
_decode_envelope = msgspec.msgpack.Decoder(Envelope).decode


class Parts(msgspec.Struct, kw_only=True):
    """What the store holds of an intent, as bytes; *keep* is the time (ms) of a finished one's removal."""

    head: dict[str, str]
    body: bytes
    journal: list[bytes]
    outcome: bytes = b""
    cursors: dict[str, bytes] = {}
    arrivals: dict[str, bytes] = {}
    lane: str = ""
    keep: int | None = None

    @property
    def status(self) -> Status:
        """The state in the head."""
        return Status(self.head["status"])


class Record(msgspec.Struct, kw_only=True):
    """An intent in a file."""

    redurable: int
    id: str
    head: dict[str, str]
    envelope: dict[str, Any]
    journal: list[dict[str, Any]]
    outcome: dict[str, Any] | None = None
    cursors: dict[str, dict[str, Any]] = {}
    arrivals: dict[str, str] = {}
    lane: str = ""
    keep: int | None = None


def pack(intent: str, parts: Parts) -> dict[str, Any]:
    """Return the record of an intent, made of what JSON holds."""
    record = Record(
        redurable=FORMAT,
        id=str(intent),  # an IntentId, say
        head={name: value for name, value in sorted(parts.head.items()) if name not in _LEFT},
        envelope=_object(parts.body, _decode_envelope, Envelope),
        journal=[_entry(raw) for raw in parts.journal],
        outcome=_object(parts.outcome, _decode_outcome, Outcome) if parts.outcome else None,
        cursors={name: _readable(raw) for name, raw in sorted(parts.cursors.items())},
        arrivals={name: raw.hex() for name, raw in sorted(parts.arrivals.items())},
        lane=parts.lane,
        keep=parts.keep,
    )
    return msgspec.to_builtins(record)  # type: ignore[no-any-return]  # of a Struct: a dict


def unpack(value: Any) -> tuple[str, Parts]:
    """
    Return the id and the parts in a record.

    Raises:
        ConfigurationError: BAD_IMPORT; it is no record, or one that cannot be an intent. The message says where.
    """
    try:
        record = msgspec.convert(value, Record)
    except msgspec.ValidationError as error:
        raise _refused(str(error)) from None
    if record.redurable != FORMAT:
        raise _refused(f"it has format {record.redurable}, this version reads {FORMAT}")
    partition_of(record.id)
    _check_head(record.head)
    journal = []
    for seq, entry in enumerate(record.journal, 1):
        kind = entry.get("kind")
        journal.append(_bytes_of(entry, f"entry {seq}", _KINDS.get(kind) if isinstance(kind, str) else None))
    outcome = b"" if record.outcome is None else _bytes_of(record.outcome, "the outcome", Outcome)
    parts = Parts(
        head=record.head,
        body=_bytes_of(record.envelope, "the envelope", Envelope),
        journal=journal,
        outcome=outcome,
        cursors={name: _raw(held, f"cursor {name!r}") for name, held in record.cursors.items()},
        arrivals={name: _unhexed(raw, f"arrival {name!r}") for name, raw in record.arrivals.items()},
        lane=record.lane,
        keep=record.keep,
    )
    if parts.status.final and parts.status is not (_decode_outcome(outcome).status if outcome else Status.COMPLETED):
        raise _refused(f"its head says {parts.status}, its outcome does not")
    return record.id, parts


def token_of(record: dict[str, Any]) -> str:
    """Return 24 hex digits that equal records share."""
    data = msgspec.json.encode(record, order="sorted")
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def _refused(reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"this is no exported intent: {reason}", code="BAD_IMPORT",
        hint="each line of the file is one JSON object, as `redurable intents export` writes it",
    )  # fmt: skip


def _unhexed(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise _refused(f"{what} is not in hexadecimal digits") from None


def _check_head(head: dict[str, str]) -> None:
    missing = [name for name in ("status", "queue", "created") if name not in head]
    if missing:
        raise _refused(f"its head has no {missing[0]}")
    if head["status"] not in Status.__members__:
        raise _refused(f"its head has the status {head['status']!r}")
    waits = head["status"] == Status.CREATED and "session" in head  # in line: it needs no start
    missing = [name for name in _NEEDED.get(Status(head["status"]), ()) if name not in head and not waits]
    if missing:
        raise _refused(f"its head is {head['status']} and has no {missing[0]}")
    for name in _NUMBERS:
        if name in head and not (head[name].isascii() and head[name].isdigit()):
            raise _refused(f"{name} in its head is {head[name]!r}, not a number")
    if head.get("version"):
        try:
            check_version(head["version"])
        except ConfigurationError as error:
            raise _refused(str(error)) from None
    if not head.get("fence", "0:").split(":")[0].isdigit():
        raise _refused("the fence in its head does not begin with an epoch")


# --- entries ----------------------------------------------------------------------------------------------------------


def _entry(raw: bytes) -> dict[str, Any]:
    return _object(raw, decode_entry, None)


def _object(raw: bytes, decode: Any, kind: type | None) -> dict[str, Any]:
    """Return *raw* as an object of its fields; whatever would not come back exactly, as base64."""
    try:
        struct = decode(raw)
        found = _fields(struct)
        if kind is None:
            found = {"kind": type(struct).__name__, **found}
        if _bytes_of(found, "", type(struct)) == raw:
            return found
    except (msgspec.MsgspecError, ConfigurationError, ValueError, TypeError):
        pass
    return {"msgpack": base64.b64encode(raw).decode()}


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    return {name: _field(getattr(struct, name)) for name in struct.__struct_fields__}


def _field(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return _readable(bytes(value))
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, ErrorInfo):
        return _fields(value) | {"details": _readable(msgspec.msgpack.encode(value.details))}
    return msgspec.to_builtins(value)


def _readable(raw: bytes) -> dict[str, Any]:
    """Return MessagePack as JSON if it comes back the same, else as base64."""
    try:
        value = msgspec.json.decode(msgspec.json.encode(msgspec.msgpack.decode(raw)))
        if msgspec.msgpack.encode(value) == raw:
            return {"json": value}
    except (msgspec.MsgspecError, ValueError, TypeError):
        pass
    return {"msgpack": base64.b64encode(raw).decode()}


def _raw(held: Any, where: str) -> bytes:
    """Return the bytes that `_readable` was given."""
    if isinstance(held, dict) and len(held) == 1:
        if "json" in held:
            return msgspec.msgpack.encode(held["json"])
        if isinstance(text := held.get("msgpack"), str):
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error:
                raise _refused(f"the base64 of {where} is damaged") from None
    raise _refused(f"{where} is neither json nor msgpack")


def _bytes_of(held: dict[str, Any], where: str, kind: type | None) -> bytes:
    """Return the bytes that an object stands for."""
    if "msgpack" in held:
        return _raw(held, where)
    if kind is None:
        raise _refused(f"{where} is of the unknown kind {held.get('kind')!r}")
    try:
        struct = kind(**{name: _value(value, where) for name, value in held.items() if name != "kind"})
        raw = encode_entry(struct)
        msgspec.msgpack.decode(raw, type=kind)
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise _refused(f"{where} is no {kind.__name__}: {reason_of(error)}") from None
    return raw


def _value(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        if value.keys() & {"json", "msgpack"}:
            return msgspec.Raw(_raw(value, where))
        if "hex" in value:
            return bytes.fromhex(value["hex"])
        if value.keys() >= {"type", "message", "details"}:
            details = msgspec.msgpack.decode(_raw(value["details"], where))
            return ErrorInfo(**(value | {"details": details}))
    return value
