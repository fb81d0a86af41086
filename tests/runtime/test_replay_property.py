"""
A handler that is killed anywhere goes on where it was: generated programs, and the ones that once failed.

What is asserted of each is in `tests/runtime/stage.py`; how a program reads, in `programs.py`.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.runtime.programs import Node, programs
from tests.runtime.stage import check, check_forks
from tests.support.harness import LOOPS

STEP, OTHER = ("step", "plain"), ("step", "other")
TWO: Node = ("seq", STEP, STEP)
EVERYWHERE = list(range(12))  # after each of the first entries
loops = pytest.mark.parametrize("loop", LOOPS)

_few = settings(
    deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate],
    database=None,
)  # fmt: skip
# seeds, and where to kill; a failing program is already printed whole, and shrinking one takes minutes
_seeds = st.integers(0, 1 << 20)
_kills = st.lists(st.integers(0, 200), min_size=1, max_size=3)


@loops
@settings(_few, max_examples=40)
@given(program=programs(), seed=_seeds, kills=_kills)
def test_a_program_killed_at_random_points_replays_to_the_same_identities_and_results(
    loop: str, program: Node, seed: int, kills: list[int]
) -> None:
    check(program, seed=seed, loop=loop, kills=kills)


@settings(_few, max_examples=15)
@given(program=programs(), seed=_seeds)
def test_a_program_is_forked_at_any_of_its_calls(program: Node, seed: int) -> None:
    check_forks(program, seed=seed, loop="uvloop")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@loops
@settings(_few, max_examples=1500)
@given(program=programs(4), seed=_seeds, kills=_kills)
def test_larger_programs_too(loop: str, program: Node, seed: int, kills: list[int]) -> None:
    check(program, seed=seed, loop=loop, kills=kills, replays=3)


DIRECTED: dict[str, Node] = {
    "a race": ("race", STEP, TWO, ("gather", STEP, OTHER)),
    "losers that clean up": ("race", STEP, ("cleanup", TWO, OTHER), ("swallow", TWO, OTHER)),
    "a loser whose undoing is retried, and marks what it gave up": ("race", STEP, ("cleanup", TWO, ("step", "shaky"))),
    "a group that fails": ("group", TWO, ("boom", STEP), ("cleanup", TWO, STEP)),
    "an anyio group that is cancelled": ("anyio", True, TWO, ("cleanup", TWO, STEP), STEP),
    "semaphores": ("sema", 2, STEP, TWO, STEP, ("step", "shaky")),
    "a queue": ("queue", 1, STEP, TWO, STEP, STEP),
    "an event": ("event", TWO, STEP, STEP),
    "bare coroutines as they are completed": ("completed", True, TWO, STEP, STEP, TWO),
    "a shield that is cancelled": ("race", TWO, ("shield", ("seq", STEP, STEP, STEP))),
    "deep combinators": ("race", ("deep", 7, STEP), ("deep", 3, TWO), TWO),
    "a branch that a timer of the process ends without a trace": ("seq", ("late_child",), ("late",), STEP),
    "foreign waits": ("gather", ("foreign", STEP), ("seq", STEP, ("foreign", OTHER)), TWO),
    "another task on some runs": ("seq", STEP, ("lazy", ("race", STEP, TWO)), ("lazy", STEP)),
    "steps in steps": ("gather", ("nest", ("gather", STEP, TWO)), ("nest", ("seq", ("step", "broken"), STEP))),
    "a promise against a clock": ("contest", ("ask",), ("sleep", 0.03), ("seq", STEP, ("ask", 0.002))),
    "promises with limits": ("gather", ("ask", 0.002), ("seq", STEP, ("ask", 0.03)), ("contest", ("ask",), TWO)),
    "waits that park": ("gather", ("sleep", 0.03), ("seq", STEP, ("sleep", 0.03), STEP)),
}


@pytest.mark.parametrize("name", DIRECTED)
def test_it_is_forked_at_any_of_its_calls(name: str) -> None:
    check_forks(DIRECTED[name], seed=17, loop="asyncio")


@loops
@pytest.mark.parametrize("name", DIRECTED)
def test_a_program_killed_after_every_entry_goes_on_from_there(name: str, loop: str) -> None:
    for seed in range(2):
        check(DIRECTED[name], seed=1000 * seed, loop=loop, kills=EVERYWHERE)


@loops
def test_twenty_replays_are_one_run(loop: str) -> None:
    parts = ("race", TWO, ("gather", STEP, OTHER)), ("anyio", True, TWO, ("sema", 1, STEP, STEP)), ("group", STEP, TWO)
    check(("gather", *parts), seed=7, loop=loop, kills=[], replays=20)


def _fails(program: Node, **options: Any) -> bool:
    try:
        for seed in range(4):
            check(program, seed=seed, loop="asyncio", kills=[], **options)
    except AssertionError:
        return True
    return False


def test_an_engine_that_waits_for_one_quiet_turn_only_is_found_out() -> None:
    found: list[Node] = []

    @settings(_few, max_examples=100)
    @given(programs(2))
    def look(program: Node) -> None:
        if not found and _fails(program, quiet_turns=1):
            found.append(program)

    look()
    assert found, "the property does not see the difference"
    assert not _fails(found[0]), found
    # what was tried first: the loser's entry is already there when the winner's result is still on its way
    assert _fails(("race", ("gather", STEP), TWO), quiet_turns=1)
