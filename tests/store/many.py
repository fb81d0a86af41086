"""
`python -m tests.store.many [COUNT]`: bulk control of many intents on a real server, beside a probe of its latency.

It sends COUNT intents (100,000), counts them dry, cancels them, deletes them, and prints how long each took, how many
of the server's calls took over 5 ms, the percentiles of its dearest command, and how long a PING on a connection beside
it waited; first the same for a server that is idle, which is what the machine itself adds.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable
from typing import Any

import redis

from redurable import Client
from redurable.store.server import PrivateServer

# a process of its own: a thread would wait for this one's interpreter, not for the server
_PROBE = """
import json, os, redis, select, sys, time
waits, client = [], redis.Redis(unix_socket_path=sys.argv[1])
while not select.select([sys.stdin], [], [], 0.002)[0]:
    begun = time.perf_counter()
    client.ping()
    waits.append(round((time.perf_counter() - begun) * 1000, 2))
print(json.dumps(sorted(waits)))
"""


async def _show(count: int, server: PrivateServer) -> None:
    plain = redis.Redis(unix_socket_path=server.socket)
    plain.config_set("slowlog-log-slower-than", 5000)
    async with Client(server.url) as client:
        ids = await client.send_many("many", range(count))
        print(f"{len(ids):,} sent")
        await _measure(plain, server, "idle", asyncio.sleep(3, "-"))
        for verb in ("cancel", "delete"):
            await _measure(plain, server, f"{verb}, dry run", client.each(verb, queue="many", dry_run=True))
            await _measure(plain, server, verb, client.each(verb, queue="many"))


async def _measure(plain: Any, server: PrivateServer, what: str, work: Awaitable[Any]) -> None:
    plain.slowlog_reset()
    plain.config_resetstat()
    probe = subprocess.Popen(
        [sys.executable, "-c", _PROBE, server.socket], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    begun = time.perf_counter()
    answer = await work
    took = time.perf_counter() - begun
    waits = json.loads(probe.communicate()[0])
    slow = sorted((entry["duration"] / 1000 for entry in plain.slowlog_get(1000)), reverse=True)
    spent = plain.info("commandstats")
    print(f"{what}: {answer} in {took:.1f} s")
    print(f"  calls over 5 ms: {len(slow)} of {sum(s['calls'] for s in spent.values()):,}, longest {slow[:5]}")
    print(f"  EVALSHA: {plain.info('latencystats').get('latency_percentiles_usec_evalsha')} us")
    half, most = waits[len(waits) // 2], waits[len(waits) * 99 // 100]
    print(f"  PING: p50 {half}, p99 {most}, worst {waits[-1]} ms of {len(waits):,}", flush=True)


if __name__ == "__main__":
    with PrivateServer(appendfsync="everysec") as private:
        asyncio.run(_show(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, private))
