"""
Code that is not the one which wrote the journal: every kind of change is found before anything is done twice.

Up to an attempt that is lost at its end the handler does `before`, then `after`: that is noticed, or it is no change
of meaning. What was found holds the intent with JOURNAL_MISMATCH, its journal untouched and no failure counted, and
the mended code finishes it.
"""

from __future__ import annotations

import pytest

from redurable.model import AttemptFailed, Reason
from tests.conformance.conftest import Site

pytestmark = pytest.mark.anyio

FOUND = {
    "renamed": (["step:a", "step:b"], ["step:a", "step:c"]),
    "reordered": (["step:a", "step:b"], ["step:b", "step:a"]),
    "removed at the front": (["step:a", "step:b"], ["step:b"]),
    "removed in the middle": (["step:a", "step:b", "step:c"], ["step:a", "step:c"]),
    "removed at the end": (["step:a", "step:b"], ["step:a"]),
    "all removed": (["step:a"], []),
    "added at the front": (["step:a"], ["step:new", "step:a"]),
    "added in the middle": (["step:a", "step:b"], ["step:a", "step:new", "step:b"]),
    "repeated": (["step:a", "step:b"], ["step:a", "step:a", "step:b"]),
    "a step became a sleep": (["step:a", "step:b"], ["sleep", "step:b"]),
    "a sleep became a step": (["sleep", "step:b"], ["step:a", "step:b"]),
    "a sleep was removed": (["step:a", "sleep"], ["step:a"]),
    "a sleep was added": (["step:a", "step:b"], ["step:a", "sleep", "step:b"]),
    "a call became a send": (["call:other", "step:a"], ["send:other", "step:a"]),
    "a send became a call": (["send:other", "step:a"], ["call:other", "step:a"]),
    "a call to another queue": (["call:other", "step:a"], ["call:echo", "step:a"]),
    "a send to another queue": (["send:other", "step:a"], ["send:echo", "step:a"]),
    "a call was removed": (["call:other", "step:a"], ["step:a"]),
    "a promise was renamed": (["promise:a", "step:a"], ["promise:b", "step:a"]),
    "a promise was removed": (["promise:a", "step:a"], ["step:a"]),
    "a promise became a sleep": (["promise:a", "step:a"], ["sleep", "step:a"]),
    "another name of the state": (["state:a", "step:a"], ["state:b", "step:a"]),
    "a read of the state became a step": (["state:a", "step:b"], ["step:a", "step:b"]),
    "a branch was renamed": (["both:a+b", "step:c"], ["both:a+d", "step:c"]),
    "a branch was removed": (["both:a+b+c", "step:d"], ["both:a+b", "step:d"]),
    "branches became a sequence": (["both:a+b", "step:c"], ["step:a", "step:b", "step:c"]),
    "a sequence became branches": (["step:a", "step:b"], ["both:a+b"]),
}  # fmt: skip
HARMLESS = {
    "the same": (["step:a", "sleep", "call:other"], ["step:a", "sleep", "call:other"]),
    "added at the end": (["step:a"], ["step:a", "step:new", "sleep"]),
    "a branch added at the end": (["step:a"], ["step:a", "both:b+c"]),
}


@pytest.mark.parametrize("change", FOUND)
async def test_it_is_found_and_nothing_is_done_twice(s: Site, change: str) -> None:
    before, after = FOUND[change]
    intent = await s.send("changed", {"before": before, "after": after}, key=f"changed {change}")
    while (info := await s.until(intent)).reason is not Reason.HELD:
        pass
    assert (info.held or "").startswith("JOURNAL_MISMATCH: entry "), info
    recorded = await calls(s, intent)
    s.fleet.open(f"mended-{intent}")
    await s.client.retry(intent)
    assert await s.result(intent) == "mended", "the code that wrote it goes on with it"
    assert await calls(s, intent) == recorded
    (failed,) = [seq for seq, entry in enumerate(await s.journal(intent)) if isinstance(entry, AttemptFailed)]
    assert not [entry for entry in (await s.journal(intent))[failed:] if hasattr(entry, "scope")]


@pytest.mark.parametrize("change", HARMLESS)
async def test_what_changes_nothing_that_was_recorded_goes_on(s: Site, change: str) -> None:
    before, after = HARMLESS[change]
    assert await s.call("changed", {"before": before, "after": after}, key=f"harmless {change}") == "new"


async def calls(s: Site, intent: str) -> list[object]:
    """Return what is recorded of durable calls."""
    return [(entry.scope, entry.name, entry.n) for entry in await s.journal(intent) if hasattr(entry, "scope")]
