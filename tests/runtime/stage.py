"""
What must hold of every run of a program, however often it is killed on its way.

A `Stage` runs one program as one intent on a `Bench`. After every attempt it asserts:
- the attempt completed, parked or was killed; it did not hang, and no replay was refused;
- no body ran whose step had ended in the journal, or had been given up;
- the handler saw what the attempt before it saw, in the same order, before it saw anything new.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from contextvars import Context
from typing import Any
from unittest import mock

from redurable.journal.cursor import INSIDE, Identity, inside_of
from redurable.journal.forks import past
from redurable.model import (
    Arrived,
    AttemptFailed,
    Claimed,
    Entry,
    Forked,
    StepDone,
    StepFailedEntry,
    TimerFired,
    encode_entry,
)
from redurable.runtime import parking
from tests.runtime.programs import Node, Play
from tests.support.harness import Bench, Kill, drive

__all__ = ["Stage", "check", "check_forks", "identities"]

HANGS = 8.0  # s; attempts take milliseconds
PARKS = 0.02  # s; a wait this long parks here
_seeds = itertools.count(1)


def identities(entries: Iterable[Entry]) -> list[Identity]:
    """Return whose entries they are, in order."""
    return [(e.scope, e.name, e.n) for e in entries if hasattr(e, "scope")]


def barred(entries: Iterable[Entry]) -> set[str]:
    """Return the places of the bodies that may not run any more."""
    # what failed inside a step is tried again when the step is
    ended = {
        inside_of((e.scope, e.name, e.n))
        for e in entries
        if isinstance(e, StepDone) or (isinstance(e, StepFailedEntry) and INSIDE not in e.scope)
    }
    return ended | {inside_of(tuple(i)) for e in entries for i in getattr(e, "abandoned", ())}  # type: ignore[arg-type]


class Stage:
    """One program as one intent; *journal* is what an earlier life of it left."""

    def __init__(
        self, program: Node, seed: int, journal: Iterable[bytes] = (), *, quiet_turns: int | None = None
    ) -> None:
        self.program = program
        self.play = Play(program, seed)

        async def handle() -> Any:
            return await self.play.handle()

        self.bench = Bench(handle, seed=seed, quiet_turns=quiet_turns)
        self.play.log, self.play.see = self.bench.log, self.bench.see
        self.bench.intent.on_ask = self._asked
        self.bench.intent.journal += journal
        if journal:
            self.bench.intent.head["attempt"] = 1

    def _asked(self, key: str) -> None:
        """Somebody outside is asked: he answers soon, or when the intent may have been put down."""
        self._answer(key, self.play.chance.choice((0, 5, 20, 40, 400)))

    def _answer(self, key: str, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._answer, key, turns - 1, context=Context())
        else:
            self.bench.intent.resolve(key, f"{key}={self.play.chance.getrandbits(30)}")

    def _wake(self) -> None:
        """Let something happen that the intent waits for."""
        intent = self.bench.intent
        asked = [key for key, state in intent.arrivals.items() if state == "?"]
        if asked and (intent.head.get("wake") is None or self.play.chance.random() < 0.5):
            self._answer(self.play.chance.choice(asked), 0)
        if intent.status == "WAITING":
            intent.fire()

    @property
    def journal(self) -> list[bytes]:
        """The journal as it is now."""
        return list(self.bench.intent.journal)

    @property
    def seen(self) -> list[Any]:
        """What the handler saw in the last attempt."""
        return self.bench.seen[-1]

    async def attempt(self, kill: Kill | None = None) -> str:
        """Run one attempt and assert what must hold of it."""
        bench = self.bench
        before, ran = list(bench.intent.entries), len(bench.ran)
        earlier = self.seen if bench.seen else []
        if bench.status == "WAITING":
            self._wake()
        work = asyncio.ensure_future(bench.attempt(kill))
        done, _ = await asyncio.wait([work], timeout=HANGS)
        if not done:
            raise AssertionError(f"it hangs: {self._state()}")
        ended = work.result()
        failures = [e.error for e in bench.intent.entries[len(before) :] if isinstance(e, AttemptFailed)]
        assert not failures, failures
        assert ended in ("COMPLETED", "parked", "killed"), (ended, bench.intent.outcome)
        again = barred(before) & set(bench.ran[ran:])
        assert not again, f"bodies ran again: {again}"
        common = min(len(earlier), len(self.seen)) if ended == "killed" else len(earlier)
        assert self.seen[:common] == earlier[:common], f"saw {self.seen}, before that {earlier}"
        # a kill between the settle and its answer leaves nothing to do
        return bench.status if bench.status == "COMPLETED" else ended

    def _state(self) -> Any:
        attempt = self.bench.now
        assert attempt is not None
        scopes = [(s.path, s.waiting, s.task) for s in attempt.conductor.scopes]
        calls = [(c.identity, c.state) for c in attempt.conductor.cursor.calls]
        return attempt.conductor.cursor.applied, self.bench.intent.entries, calls, scopes

    async def finish(self) -> Any:
        """Run attempts until the program has ended; return its result."""
        for _ in range(60):
            if await self.attempt() == "COMPLETED":
                return self.bench.result
        raise AssertionError("it parks for ever")


async def replayed(stage: Stage, seed: int, times: int, quiet_turns: int | None = None) -> None:
    """Assert that the journal of an ended *stage* gives the same run again, *times* over, and adds nothing."""
    result, journal, seen = stage.bench.result, stage.journal, stage.seen
    for i in range(times):
        again = Stage(stage.program, seed + i, journal, quiet_turns=quiet_turns)
        assert await again.finish() == result
        assert again.seen == seen, f"saw {again.seen}, before that {seen}"
        assert not again.bench.ran, again.bench.ran
        new = again.bench.intent.entries[len(journal) :]
        assert all(isinstance(entry, Claimed) for entry in new), new


async def from_prefix(stage: Stage, kept: int, seed: int) -> None:
    """Assert that the first *kept* entries of an ended *stage* bring a run to where they say, and that it goes on."""
    again = Stage(stage.program, seed, stage.journal[:kept])
    entries = stage.bench.intent.entries
    # an entry takes effect, or its call had been given up: what is seen is a subsequence of what was recorded
    ended = sum(
        isinstance(e, StepDone | StepFailedEntry | TimerFired | Arrived) and INSIDE not in getattr(e, "scope", "")
        for e in entries[:kept]
    )
    lost = len([e for e in entries if isinstance(e, StepDone | StepFailedEntry | TimerFired | Arrived)]) - len(
        stage.seen
    )
    await again.finish()
    sure = max(0, ended - lost)
    assert again.seen[:sure] == stage.seen[:sure], f"saw {again.seen}, before that {stage.seen}"
    await replayed(again, seed + 1, 1)


async def killed(stage: Stage, kills: Iterable[Kill]) -> None:
    """Kill attempt after attempt, then let the last one end; assert that its journal gives that run again."""
    for kill in kills:
        if await stage.attempt(kill) == "COMPLETED":
            break
    else:
        await stage.finish()


async def forked(stage: Stage, seed: int) -> None:
    """Assert that what is kept of an ended *stage* up to any of its calls brings a run to where it was, and goes on."""
    names = [
        f"{scope}/{name}#{n}" if scope else f"{name}#{n}" for scope, name, n in identities(stage.bench.intent.entries)
    ]
    for i, name in enumerate(dict.fromkeys(names)):
        kept = past(stage.journal, name)
        again = Stage(stage.program, seed + i, [*kept.journal, encode_entry(Forked(1, "source", name, "source", 1))])
        await again.finish()
        await replayed(again, seed + i, 1)


def check_forks(program: Node, *, seed: int, loop: str) -> None:
    """Assert that *program* can be forked anywhere, undisturbed and after a kill in its middle."""

    async def main() -> None:
        stage = Stage(program, seed)
        await stage.finish()
        await forked(stage, seed + 1)
        cut = Stage(program, seed + 2)
        await killed(cut, [Kill(at=len(stage.journal) // 2)])
        await forked(cut, seed + 3)

    with _parks_early():
        drive(main, loop=loop)


@contextlib.contextmanager
def _parks_early() -> Iterator[None]:
    with mock.patch.object(parking, "SHORT", PARKS):
        yield


def check(
    program: Node, *, seed: int, loop: str, kills: list[int], replays: int = 2, quiet_turns: int | None = None
) -> None:
    """
    Assert that *program* survives.

    It is run undisturbed, replayed, taken up from a prefix of its journal, and killed after each number of entries
    in *kills* (counted round its journal's length), one attempt after the other.
    """

    async def main() -> None:
        stage = Stage(program, seed, quiet_turns=quiet_turns)
        await stage.finish()
        await replayed(stage, seed + 1, replays, quiet_turns)
        length = len(stage.journal) + 1
        if quiet_turns is not None:
            return
        for i, kill in enumerate(kills):
            await from_prefix(stage, kill % length, seed + 100 + i)
        at = sorted(1 + kill % length for kill in kills)
        for after in ([Kill(at=n + i) for i, n in enumerate(at)], [Kill(turn=kill % 97) for kill in kills]):
            cut = Stage(program, seed + 200)
            await killed(cut, after)
            await replayed(cut, seed + 300, replays)

    with _parks_early():
        drive(main, loop=loop)
