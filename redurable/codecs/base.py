"""
The interface of codecs, and the vault: the codecs of one client or worker, applied to what it stores.

A sealed value is one MessagePack extension: the names of the codecs that were applied, then what the last one gave.
So values of any time can be told apart and opened, whatever is configured since: plain ones as they are, sealed ones
by the codecs named in them. Invariants: what is opened is byte for byte what was sealed; a codec that fails, or is not
there, is a CodecError and nothing else; nothing plain is ever part of its message.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import msgspec

from redurable.codec import NIL, SEALED, Sealed, encode, sealed_part
from redurable.config import codec_target
from redurable.errors import CodecError, ConfigurationError
from redurable.model import ErrorInfo

__all__ = ["Codec", "Vault", "load_codec", "shown", "vault_of"]

S = TypeVar("S", bound=msgspec.Struct)
_HIDDEN = "(sealed)"


@runtime_checkable
class Codec(Protocol):
    """
    What turns values into bytes of another kind, and back.

    Attributes:
        name: Short and never changed: it is stored with every value, and finds the codec that opens it.
    """

    name: str

    async def encode(self, data: bytes) -> bytes | None:
        """Return *data* encoded, or None to leave it as it is (it would not become shorter, say)."""
        ...

    async def decode(self, data: bytes) -> bytes:
        """Return what `encode` was given; raise what you like if that cannot be: the intent is held, not failed."""
        ...


class Vault:
    """
    Seals and opens values.

    Args:
        codecs: Applied in this order; undone in reverse.
    """

    def __init__(self, codecs: Sequence[Codec]) -> None:
        self._codecs = tuple(codecs)
        self._by_name = {codec.name: codec for codec in codecs}
        names = list(self._by_name)
        if len(names) < len(self._codecs) or not all(
            0 < len(n) < 32 and n.isascii() and n.isprintable() for n in names
        ):
            raise ConfigurationError(
                f"codecs have names of their own, of 1 to 31 characters, not {[c.name for c in codecs]}",
                hint="give a codec(name=)",
            )  # fmt: skip

    async def seal(self, data: bytes) -> bytes:
        """
        Return *data* (MessagePack) as it is to be stored (MessagePack too).

        Raises:
            CodecError: CODEC_FAILED or CODEC_KEY_MISSING; nothing was stored.
        """
        used = []
        for codec in self._codecs:
            try:
                encoded = await codec.encode(data)
            except Exception as error:
                raise _failed(codec.name, "encode", error) from error
            if encoded is not None:
                used.append(codec.name.encode())
                data = encoded
        if not used:
            return data
        frame = b"".join([bytes([len(used)]), *(bytes([len(name)]) + name for name in used), data])
        return msgspec.msgpack.encode(msgspec.msgpack.Ext(SEALED, frame))

    async def open(self, data: bytes) -> bytes:
        """
        Return what was sealed; what is plain is returned as it is.

        Raises:
            CodecError: CODEC_MISSING, CODEC_KEY_MISSING or CODEC_FAILED.
        """
        part = sealed_part(data)
        if part is None:
            return bytes(data)
        names, inner = part
        missing = [name for name in names if name not in self._by_name]
        if missing:
            known = ", ".join(self._by_name) or "none"
            raise CodecError(
                f"a value was sealed by {missing[0]!r}, which is not configured here (configured: {known})",
                code="CODEC_MISSING",
                hint="keep every codec configured for as long as values of its time are kept",
            )
        for name in reversed(names):
            try:
                inner = await self._by_name[name].decode(inner)
            except Exception as error:
                raise _failed(name, "decode", error) from error
        return inner

    async def wrap(self, payload: Any, limit: int) -> Any:
        """Return *payload* ready to be sent; raises what `seal` and `redurable.codec.encode` raise."""
        if payload is None:
            return None
        return Sealed(payload, await self.seal(encode(payload, "the payload", limit)))

    async def seal_struct(self, struct: S) -> S:
        """Return *struct* (an entry, an envelope, an outcome) with its values and its error sealed."""
        changed: dict[str, Any] = {}
        for name in struct.__struct_fields__:
            value = getattr(struct, name)
            if isinstance(value, msgspec.Raw):
                data = bytes(value)
                if data != NIL:
                    changed[name] = msgspec.Raw(await self.seal(data))
            elif isinstance(value, ErrorInfo):
                changed[name] = await self._seal_error(value)
        return msgspec.structs.replace(struct, **changed) if changed else struct

    async def open_struct(self, struct: S) -> S:
        """Return *struct* with its values and its error opened; see `open`."""
        changed: dict[str, Any] = {}
        for name in struct.__struct_fields__:
            value = getattr(struct, name)
            if isinstance(value, msgspec.Raw):
                if sealed_part(value) is not None:
                    changed[name] = msgspec.Raw(await self.open(bytes(value)))
            elif isinstance(value, ErrorInfo) and isinstance(value.details, msgspec.msgpack.Ext):
                changed[name] = await self.open_error(value)
        return msgspec.structs.replace(struct, **changed) if changed else struct

    async def _seal_error(self, error: ErrorInfo) -> ErrorInfo:
        data = await self.seal(msgspec.msgpack.encode([error.message, error.details, error.traceback]))
        if sealed_part(data) is None:
            return error
        return msgspec.structs.replace(error, message=_HIDDEN, details=msgspec.msgpack.decode(data), traceback="")

    async def open_error(self, error: ErrorInfo) -> ErrorInfo:
        """Return *error* with its texts; one that was not sealed is returned as it is."""
        data = msgspec.msgpack.encode(error.details)
        if sealed_part(data) is None:
            return error
        message, details, traceback = msgspec.msgpack.decode(await self.open(data))
        return msgspec.structs.replace(error, message=message, details=details, traceback=traceback)


async def shown(vault: Vault | None, struct: S) -> S:
    """Return *struct* opened for people who look; what cannot be opened stays sealed."""
    if vault is not None:
        try:
            return await vault.open_struct(struct)
        except CodecError:
            pass
    return struct


def _failed(name: str, verb: str, error: Exception) -> CodecError:
    if isinstance(error, CodecError):
        return error
    # its text may quote what it was given
    return CodecError(f"codec {name!r} could not {verb} a value: {type(error).__name__}")


def vault_of(codec: Codec | Sequence[Codec] | str | None) -> Vault | None:
    """
    Return the vault of *codec* ("module:attribute", by default REDURABLE_CODEC), None if none is configured.

    Raises:
        ConfigurationError: It names no codec, or is none.
    """
    if codec is None or isinstance(codec, str):
        target = codec_target(codec)
        if target is None:
            return None
        codec = load_codec(target)
    codecs: list[Any] = list(codec) if isinstance(codec, Sequence) else [codec]
    for each in codecs:
        if not isinstance(each, Codec) or not all(map(asyncio.iscoroutinefunction, (each.encode, each.decode))):
            raise ConfigurationError(
                f"{each!r} is no codec", code="BAD_CODEC",
                hint="a codec has a name, `async def encode` and `async def decode`; see redurable.codecs",
            )  # fmt: skip
    return Vault(codecs) if codecs else None


def load_codec(target: str) -> Any:
    """Return what "module:attribute" names: a codec, several, or a function that makes them."""
    name, _, attribute = target.partition(":")
    if not name or not attribute:
        raise ConfigurationError(f"{target!r} is not module:attribute", code="BAD_CODEC", hint="for example app:codec")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
        return found() if callable(found) and not isinstance(found, Codec) else found
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"the codec {target!r} cannot be loaded: {type(error).__name__}: {error}", code="BAD_CODEC"
        ) from error
