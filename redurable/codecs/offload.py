"""
Large values outside of Redis: in a directory, or wherever a `BlobStore` puts them.

A value is stored under the SHA-256 of its bytes, before the intent or entry that names it: storing it twice changes
nothing, and what is read is checked. redurable never removes one, since several intents may share it: let the
store's own lifecycle remove what is older than the longest retention.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from pathlib import Path
from typing import Protocol, runtime_checkable

from redurable.errors import CodecError, ConfigurationError

__all__ = ["BlobStore", "Directory", "Offload"]


@runtime_checkable
class BlobStore(Protocol):
    """Where large values go: an object store's client, say, behind two functions."""

    async def put(self, name: str, data: bytes) -> None:
        """Keep *data* as *name* (64 hex digits) durably before returning; the same again is no error."""
        ...

    async def get(self, name: str) -> bytes:
        """Return what was put; LookupError if it is not there."""
        ...


class Directory:
    """A directory that every client and worker shares."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    async def put(self, name: str, data: bytes) -> None:
        """Write *data* to a file named *name*, on disk before this returns."""
        await asyncio.to_thread(self._write, self._path / name[:2] / name, data)

    async def get(self, name: str) -> bytes:
        """Return the content of the file named *name*."""
        try:
            return await asyncio.to_thread((self._path / name[:2] / name).read_bytes)
        except FileNotFoundError:
            raise LookupError(name) from None

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        if path.exists() and path.stat().st_size == len(data):
            os.utime(path)  # for those who remove what is old
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


class Offload:
    """
    Keeps values of *above* bytes or more in *store*, and their names in Redis; put it last.

    Larger values than REDURABLE_MAX_PAYLOAD are refused as ever: raise it for both sides.
    """

    def __init__(self, store: BlobStore, *, above: int = 65_536, name: str = "offload") -> None:
        if not isinstance(store, BlobStore):
            raise ConfigurationError(
                f"{store!r} is no BlobStore", code="BAD_CODEC", hint="it has `async def put` and `async def get`"
            )
        self.name = name
        self._store = store
        self._above = above

    async def encode(self, data: bytes) -> bytes | None:
        """Store *data* and return its name; None if it is small."""
        if len(data) < self._above:
            return None
        digest = hashlib.sha256(data)
        await self._store.put(digest.hexdigest(), data)
        return digest.digest()

    async def decode(self, data: bytes) -> bytes:
        """Return what was stored under the name *data*."""
        try:
            found = await self._store.get(data.hex())
        except LookupError:
            raise CodecError(f"the offloaded value {data.hex()[:16]} is gone from its store") from None
        if hashlib.sha256(found).digest() != data:
            raise CodecError(f"the offloaded value {data.hex()[:16]} was damaged in its store")
        return found
