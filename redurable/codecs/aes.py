"""
Encryption by AES-GCM with keys that can be rotated (extra `crypto`).

A sealed value: one byte of length and the key's id, 12 bytes of nonce, ciphertext and tag; the id is authenticated
with it. Nonces are random: replace a key before it has sealed 2^32 values.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from redurable.codecs.extra import extra
from redurable.errors import CodecError, ConfigurationError

__all__ = ["AesGcm"]

_NONCE = 12
_SIZES = (16, 24, 32)
Keys = Mapping[str, bytes | str] | Callable[[str], bytes | str | Awaitable[bytes | str]]


class AesGcm:
    """
    Encrypts every value.

    To rotate: add the new key everywhere as one that opens, then make it *current*, then, once no intent is kept that
    the old one sealed, remove the old one.

    Args:
        keys: By id, 16, 24 or 32 bytes each (or their base64); or a function, async or not, that returns the key of an
            id and raises LookupError if there is none (asked once for each id that it knows).
        current: The id of the key that encrypts; by default the first of *keys*.
    """

    def __init__(self, keys: Keys, *, current: str | None = None, name: str = "aes-gcm") -> None:
        self.name = name
        self._cipher = extra("cryptography.hazmat.primitives.ciphers.aead", "crypto").AESGCM
        self._invalid = extra("cryptography.exceptions", "crypto").InvalidTag
        self._known: dict[str, Any] = {}
        self._ask: Callable[[str], Any] | None = None
        if isinstance(keys, Mapping):
            for key_id, key in keys.items():
                self._known[key_id] = self._cipher(_key(key_id, key))
            current = next(iter(self._known), None) if current is None else current
        else:
            self._ask = keys
        if current is None or (self._ask is None and current not in self._known):
            raise ConfigurationError(
                "no key is given" if current is None else f"the current key {current!r} is not among the keys",
                code="BAD_CODEC",
                hint="AesGcm({'2026-11': key}), or AesGcm(function, current='2026-11')",
            )
        if not 0 < len(current.encode()) < 256:
            raise ConfigurationError("a key's id has 1 to 255 bytes", code="BAD_CODEC")
        self._current = current

    @classmethod
    def from_env(cls, variable: str = "REDURABLE_KEYS") -> AesGcm:
        """
        Return a codec with the keys in the environment: `id=base64,id=base64`, the first of which encrypts.

        Raises:
            ConfigurationError: BAD_CODEC; the variable is not set or malformed.
        """
        pairs = [pair.partition("=") for pair in os.environ.get(variable, "").split(",") if pair.strip()]
        if not pairs or not all(key_id.strip() and key.strip() for key_id, _, key in pairs):
            raise ConfigurationError(
                f"{variable} holds no keys", code="BAD_CODEC",
                hint="write id=base64, several with commas; a key: openssl rand -base64 32",
            )  # fmt: skip
        return cls({key_id.strip(): key.strip() for key_id, _, key in pairs})

    async def encode(self, data: bytes) -> bytes:
        """Return *data* encrypted by the current key."""
        cipher = await self._cipher_of(self._current)
        key_id = self._current.encode()
        head, nonce = bytes([len(key_id)]) + key_id, os.urandom(_NONCE)
        return b"".join([head, nonce, cipher.encrypt(nonce, data, head)])

    async def decode(self, data: bytes) -> bytes:
        """Return what was encrypted, by whichever key."""
        at = 1 + data[0]
        key_id = data[1:at].decode()
        cipher = await self._cipher_of(key_id)
        try:
            found: bytes = cipher.decrypt(data[at : at + _NONCE], data[at + _NONCE :], data[:at])
        except self._invalid:
            raise CodecError(
                f"a value cannot be opened by key {key_id!r}: the key is another, or the value was damaged",
                hint="was a key replaced under the same id?",
            ) from None
        return found

    async def _cipher_of(self, key_id: str) -> Any:
        cipher = self._known.get(key_id)
        if cipher is not None:
            return cipher
        try:
            if self._ask is None:
                raise LookupError
            key = self._ask(key_id)
            if inspect.isawaitable(key):
                key = await key
        except LookupError:
            raise CodecError(
                f"key {key_id!r} is not known here", code="CODEC_KEY_MISSING",
                hint="give the codec the keys of every value that is kept, not only the current one",
            ) from None  # fmt: skip
        cipher = self._known[key_id] = self._cipher(_key(key_id, key))
        return cipher


def _key(key_id: str, key: bytes | str) -> bytes:
    try:
        raw = base64.b64decode(key, validate=True) if isinstance(key, str) else key
    except (binascii.Error, ValueError):
        raw = b""
    if not isinstance(raw, bytes) or len(raw) not in _SIZES:
        raise ConfigurationError(
            f"key {key_id!r} is not 16, 24 or 32 bytes, or their base64", code="BAD_CODEC",
            hint="make one with: openssl rand -base64 32",
        )  # fmt: skip
    return raw
