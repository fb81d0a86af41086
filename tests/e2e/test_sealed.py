"""Encryption with real processes: keys rotated under parked intents, and not one plain word on any disk."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redurable.client import Client
from redurable.config import parse_url
from redurable.errors import IntentFailed
from redurable.model import TimerSet, decode_entry, encode_entry
from redurable.store.inspection import outcome
from redurable.store.server import PrivateServer
from redurable.store.store import Store
from tests.support.fleet import until

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).resolve().parents[2]
SECRET = "tiptopsecretword"
ONE, TWO = (f"key{n}=" + base64.b64encode(bytes(range(n, n + 32))).decode() for n in (1, 2))
CODEC = "tests.e2e.sealed_app:codec"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PrivateServer]:
    """A server of the test's own, whose files can be read."""
    with PrivateServer(tmp_path / "data", appendfsync="always") as running:
        yield running


class Site:
    """A server, a codec, and whatever runs with its keys."""

    def __init__(self, server: PrivateServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.blobs = folder / "blobs"
        self.log = folder / "worker.log"

    def environment(self, *keys: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("REDURABLE_") and k != "REDIS_URL"}
        sealed = {"REDURABLE_CODEC": CODEC, "REDURABLE_KEYS": ",".join(keys)} if keys else {}
        return kept | sealed | {
            "REDURABLE_URL": self.server.url, "PYTHONPATH": str(ROOT), "SEALED_DIRECTORY": str(self.blobs),
            "REDURABLE_LOG_LEVEL": "debug",
        }  # fmt: skip

    def worker(self, *keys: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "redurable", "worker", "tests.e2e.sealed_app", "--log-format", "json"]
        environment = self.environment(*keys)
        with self.log.open("ab") as log:
            return subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def on_disk(self) -> dict[str, bytes]:
        """Return every file that the server, the workers and the codec wrote."""
        files = [p for p in self.folder.rglob("*") if p.is_file()]
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in files}


def stop(worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()
    assert worker.wait(20) == 0


def use_keys(monkeypatch: pytest.MonkeyPatch, site: Site, *keys: str) -> Client:
    monkeypatch.setenv("REDURABLE_KEYS", ",".join(keys))
    monkeypatch.setenv("SEALED_DIRECTORY", str(site.blobs))
    return Client(site.server.url, codec=CODEC)


async def settled(client: Client, status: str, count: int) -> None:
    async def look() -> bool:
        return len(await client.list(status=status, limit=count + 1)) == count

    await until(look, within=60, every=0.1)


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.soak)])
async def test_a_key_is_rotated_under_parked_intents_and_nothing_plain_is_on_disk(
    server: PrivateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    site = Site(server, tmp_path)
    client = use_keys(monkeypatch, site, ONE)
    worker = site.worker(ONE)
    ids = await client.send_many("parked", [{"text": f"{SECRET}-{n}", "large": n % 10 == 0} for n in range(count)])
    await settled(client, "WAITING", count)
    failed = await client.send("failing", {"text": SECRET})
    with pytest.raises(IntentFailed, match=SECRET):
        await client.wait_for(failed, 20)
    stop(worker)
    await client.close()

    client = use_keys(monkeypatch, site, TWO, ONE)  # the new key seals, the old one opens
    store = Store(parse_url(server.url), "rd")
    await store.start()
    worker = site.worker(TWO, ONE)
    for intent in ids:
        await _due_now(store, intent)
    results = await asyncio.gather(*(client.wait_for(intent, 60) for intent in ids))
    for n, result in enumerate(results):
        text = f"{SECRET}-{n}"
        large = 2 * (len(text) + 8192) if n % 10 == 0 else 2 * len(text)
        assert result == {"text": text, "first": text * 2, "told": True, "large": large}
    sealed = [bytes((await outcome(store, intent)).result) for intent in ids]  # type: ignore[union-attr]  # they ended
    assert all(b"key2" in data and b"key1" not in data for data in sealed)
    stop(worker)
    await store.mux.command("SAVE")
    await client.close()
    await store.close()

    files = site.on_disk()
    assert {Path(name).suffix for name in files} >= {".rdb", ".aof", ".log"}
    assert any(name.startswith("blobs") for name in files)
    assert sum(len(data) for name, data in files.items() if name.endswith(".aof")) > 100_000
    for name, data in files.items():
        if name == "worker.log":
            data = _without_what_the_handler_raised(data)  # its own words
        assert SECRET.encode() not in data, f"{name} holds the secret"
        assert base64.b64encode(SECRET.encode())[:-4] not in data
        assert SECRET.encode().hex().encode() not in data
        for key in (ONE, TWO):
            assert key.split("=", 1)[1].encode() not in data, f"{name} holds a key"


def _without_what_the_handler_raised(log: bytes) -> bytes:
    """Drop the lines that tell the errors of user code: their texts are the user's own, see the README."""
    raised = ("handler.failed", "step.failed")
    return b"\n".join(line for line in log.splitlines() if _event(line) not in raised)


def _event(line: bytes) -> str:
    try:
        return str(json.loads(line).get("event"))
    except ValueError:
        return ""


async def _due_now(store: Store, intent: str) -> None:
    """Let the hour be over: nobody waits for it here."""
    key = store.keys[0].journal(intent)
    entries = await store.mux.command("LRANGE", key, 0, -1)
    for index, raw in enumerate(entries):
        entry = decode_entry(raw)
        if isinstance(entry, TimerSet):
            entry.due = entry.at
            await store.mux.command("LSET", key, index, encode_entry(entry))
    await store.wake(intent)
