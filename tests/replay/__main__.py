"""Write the journals of this release: `python -m tests.replay`. Files that exist stay as they are."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import msgspec

from redurable.model import Status
from redurable.runtime.handlers import spec_of
from redurable.store.server import PrivateServer
from redurable.worker.registry import RELEASE
from tests.replay.programs import FAULTS, PROGRAMS, Program
from tests.runtime.world import World


async def _write(world: World, name: str, program: Program, file: Path) -> None:
    FAULTS.update(program.faults)
    worker = await world.serve_specs(spec_of(program.function))
    intent = await world.client.send(program.function, program.payload)
    if name == "reopened":
        await world.until(intent, Status.FAILED)
        FAULTS.clear()
        await world.client.retry(intent)
    if name == "told":
        await world.client.resolve(intent, "count", 7)
        await world.client.reject(intent, "refused", "no", by="ann")
    if name == "canceled":
        await world.until(intent, Status.WAITING)
        await world.client.cancel(intent, "no bread today")
        while "Compensating" not in {type(e).__name__ for e in await world.journal(intent)}:
            await asyncio.sleep(0.01)
    await world.until(intent, Status.WAITING)
    if name == "forked":
        intent = await world.client.fork(intent, "bake")
        await world.until(intent, Status.WAITING)
    record = await world.client.export(intent)
    await world.stop(worker)
    FAULTS.clear()
    kinds = {entry["kind"] for entry in record["journal"]}
    assert kinds >= set(program.kinds), f"{name} has {kinds}"
    text = msgspec.json.encode(record).decode().replace(socket.gethostname().split(".")[0] + ".", "host.")
    file.write_text(re.sub(r'File \\"[^"]*/', 'File \\"', text) + "\n")  # no place of somebody's machine
    print(f"{file}: {len(record['journal'])} entries")


async def _main() -> None:
    folder = Path(__file__).parent / RELEASE
    folder.mkdir(exist_ok=True)
    with PrivateServer(appendfsync=None) as server:
        for number, (name, program) in enumerate(PROGRAMS.items()):
            file = folder / f"{name}.jsonl"
            if not file.exists():
                world = World(server.url, f"r{number}")
                await world.start()
                try:
                    await _write(world, name, program, file)
                finally:
                    await world.close()


if __name__ == "__main__":
    asyncio.run(_main())
