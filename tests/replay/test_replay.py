"""Journals that released versions wrote are continued by this one, from where they stood."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from redurable.errors import IntentFailed
from redurable.model import Entry, encode_entry
from redurable.runtime.handlers import spec_of
from redurable.runtime.loops import new_event_loop
from tests.replay.programs import PROGRAMS, RAN
from tests.runtime.world import World

pytestmark = pytest.mark.anyio
FILES = sorted(Path(__file__).parent.glob("*/*.jsonl"))


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"loop_factory": functools.partial(new_event_loop, request.param)}


@pytest.fixture
async def w(redis_url: str, namespace: str, anyio_backend: Any) -> AsyncIterator[World]:
    """A namespace of the test's own."""
    async with World(redis_url, namespace) as world:
        yield world


@pytest.mark.parametrize("file", FILES, ids=[f"{f.parent.name}-{f.stem}" for f in FILES])
async def test_a_journal_of_a_release_goes_on(w: World, file: Path) -> None:
    program, record = PROGRAMS[file.stem], msgspec.json.decode(file.read_bytes())
    RAN.clear()
    assert await w.client.import_(record)
    before = await w.journal(record["id"])
    await w.serve_specs(spec_of(program.function))
    try:
        ended, result = "COMPLETED", await w.result(record["id"])
    except IntentFailed as failed:
        ended, result = failed.status, failed.error.type
    assert (ended, result) == (program.ends, program.result)
    assert sorted(RAN) == sorted(program.runs), "what was recorded does not run again"
    after = await w.journal(record["id"])
    assert list(map(encode_entry, after[: len(before)])) == list(map(encode_entry, before))


def test_the_files_hold_every_kind_of_entry() -> None:
    held = {entry["kind"] for file in FILES for entry in msgspec.json.decode(file.read_bytes())["journal"]}
    assert held == {kind.__name__ for kind in get_args(Entry)}


def test_every_program_has_a_file() -> None:
    assert {file.stem for file in FILES} == set(PROGRAMS)


@pytest.mark.parametrize("file", FILES, ids=[f"{f.parent.name}-{f.stem}" for f in FILES])
def test_the_files_are_readable(file: Path) -> None:
    """A reviewer sees what a journal holds: no entry and no value had to be packed."""
    record = msgspec.json.decode(file.read_bytes())
    assert "msgpack" not in file.read_text()
    assert set(PROGRAMS[file.stem].kinds) <= {entry["kind"] for entry in record["journal"]}
