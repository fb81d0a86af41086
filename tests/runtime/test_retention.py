"""How long an intent is kept is its handler's to say, for completed ones and for others."""

from __future__ import annotations

import pytest

from redurable import ConfigurationError, handler
from redurable.model import Status
from redurable.runtime.handlers import spec_of
from tests.runtime.world import World

pytestmark = pytest.mark.anyio


async def removal(w: World, intent: str, view: str) -> int:
    """Return after how many seconds of its end *intent* is to be removed."""
    info = await w.get(intent)
    keys = w.store.keys[0]
    score = await w.store.mux.command("ZSCORE", getattr(keys, view), intent)
    assert info.finished is not None
    return round((float(score) - info.finished) / 1000)


async def test_each_end_has_a_retention_of_its_own(w: World) -> None:
    async def work(payload: str) -> str:
        if payload == "no":
            raise ValueError("no")
        return payload

    await w.serve(work, retention=60, failed_retention=3600, retry=None)
    done, failed = await w.send("yes"), await w.send("no")
    await w.until(done, Status.COMPLETED)
    await w.until(failed, Status.FAILED)
    assert await removal(w, done, "done") == 60
    assert await removal(w, failed, "failed") == 3600


async def test_by_default_a_week_and_a_month(w: World) -> None:
    async def work(payload: str) -> str:
        return payload

    assert spec_of(work).keep_ms(Status.COMPLETED) == 7 * 86_400_000
    assert {spec_of(work).keep_ms(s) for s in (Status.FAILED, Status.CANCELED, Status.TIMED_OUT)} == {30 * 86_400_000}


@pytest.mark.parametrize("name", ["retention", "failed_retention"])
@pytest.mark.parametrize("wrong", [-1, "a week", True])
def test_what_is_no_duration_is_refused(name: str, wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="retention"):
        handler(**{name: wrong})(lambda payload: payload)  # type: ignore[call-overload]  # wrong on purpose
