"""Compression by zstandard (extra `zstd`)."""

from __future__ import annotations

from redurable.codecs.extra import extra
from redurable.errors import CodecError

__all__ = ["Zstd"]

_LARGEST = 512 << 20  # what Redis could hold at all


class Zstd:
    """
    Compresses what becomes shorter by it; put it before encryption.

    Args:
        level: zstandard's, 1 (fast) to 22.
        above: Bytes under which a value is not tried.
    """

    def __init__(self, level: int = 3, *, above: int = 256, name: str = "zstd") -> None:
        self.name = name
        self._zstd = extra("zstandard", "zstd")
        self._level = level
        self._above = above

    async def encode(self, data: bytes) -> bytes | None:
        """Return *data* compressed, None if it would not become shorter."""
        if len(data) < self._above:
            return None
        found: bytes = self._zstd.ZstdCompressor(level=self._level).compress(data)
        return found if len(found) < len(data) else None

    async def decode(self, data: bytes) -> bytes:
        """Return what was compressed."""
        size = self._zstd.get_frame_parameters(data).content_size
        if size > _LARGEST:
            raise CodecError(f"a compressed value claims to hold {size:,} bytes")
        found: bytes = self._zstd.ZstdDecompressor().decompress(data)
        return found
