"""What a queued and a finished intent keep in Redis, beside what the user gave it to keep."""

from __future__ import annotations

import asyncio

import msgspec

from redurable.bench.app import PAYLOAD, RESULT
from redurable.bench.report import Row, at_most, row
from redurable.bench.run import Run, drain
from redurable.client import Client
from redurable.store.keys import Keys

__all__ = ["memory", "used"]

_SAMPLE = 100


async def memory(run: Run) -> list[Row]:
    """One-step intents: payload, step result and result have 200 bytes each."""
    count = run.sizes.kept
    given = sum(len(msgspec.msgpack.encode(value)) for value in (PAYLOAD, RESULT, RESULT))
    async with run.at_work("one_step") as stage:
        await drain(run, stage, "bench.one", [PAYLOAD] * 1000)
        empty = await used(run)
        await drain(run, stage, "bench.one", [PAYLOAD] * count)
        each = (await used(run) - empty) / count - given
        kinds = await _kinds(run, Keys(stage.namespace, 0))
    async with run.bed.namespace() as namespace, Client(run.bed.url, namespace=namespace) as client:
        await client.send("bench.nobody", PAYLOAD)
        empty = await used(run)
        await client.send_many("bench.nobody", [PAYLOAD] * count)
        queued = (await used(run) - empty) / count - len(msgspec.msgpack.encode(PAYLOAD))
    return [
        row("Redis bytes a finished one-step intent, beside its values", "B", [each], target=at_most(1024.0),
            given=given, keys=kinds),
        row("Redis bytes a queued intent, beside its payload", "B", [queued]),
    ]  # fmt: skip


async def used(run: Run) -> float:
    """Return the bytes that data take, once buffers of connections are calm."""
    await asyncio.sleep(0.3)
    info = await run.bed.info("memory")
    # buffers of connections and of the append-only file come and go
    return float(info["used_memory"]) - float(info["mem_clients_normal"]) - float(info.get("mem_aof_buffer", 0))


async def _kinds(run: Run, keys: Keys) -> dict[str, float]:
    """Return the bytes of each kind of key an intent has, and of its places in the views: means of a sample."""
    ask = run.bed.mux.command
    ids = [i.decode() for i in await ask("ZRANGE", keys.done, 0, _SAMPLE - 1)]
    count = await ask("ZCARD", keys.done)
    found: dict[str, float] = {}
    for kind, key in (
        ("head", keys.head), ("envelope", keys.envelope), ("journal", keys.journal), ("outcome", keys.outcome)
    ):  # fmt: skip
        sizes = await asyncio.gather(*(ask("MEMORY", "USAGE", key(intent)) for intent in ids))
        found[kind] = round(sum(size or 0 for size in sizes) / len(ids), 1)
    found["view"] = round((await ask("MEMORY", "USAGE", keys.done, "SAMPLES", 0)) / count, 1)
    return found
