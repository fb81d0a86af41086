"""Handlers and a codec for the test of what encryption leaves to be seen; the keys are in the environment."""

from __future__ import annotations

import logging
import os
from typing import Any

from redurable import Retry, checkpoint, handler, sleep, step
from redurable.codecs import AesGcm, Directory, Offload, Zstd

log = logging.getLogger("app")


def codec() -> list[Any]:
    """Compress, encrypt, keep what is large in a directory."""
    return [Zstd(), AesGcm.from_env(), Offload(Directory(os.environ["SEALED_DIRECTORY"]), above=4096)]


@step
async def copy(text: str, times: int) -> str:
    await checkpoint({"cursor": text})
    return text * times


@step(retry=Retry(attempts=1))
async def refuse(text: str) -> None:
    raise LookupError("not there", {"text": text})


@handler(queue="parked")
async def parked(payload: dict[str, Any]) -> dict[str, Any]:
    """Steps, a failure that is caught, a wait of an hour, a step."""
    log.info("begin")
    text = payload["text"]
    first = await copy(text, 2)
    try:
        await refuse(text)
    except Exception as error:
        told = str(error)
    await sleep(3600)
    large = await copy(text + os.urandom(4096).hex(), 2) if payload["large"] else first
    return {"text": text, "first": first, "told": text in told, "large": len(large)}


@handler(queue="failing", retry=Retry(attempts=1))
async def failing(payload: dict[str, Any]) -> None:
    """An error that holds the payload."""
    raise ValueError(payload["text"])
