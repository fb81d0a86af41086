"""
The long drills: `uv run python -m tests.crash [DRILL] [--seed N] [--kills N] [--intents N] [--steps N]`.

steps     200 SIGKILLs at random over 1,000 fifty-step intents on 4 worker processes (the default)
sessions  20 over 500 sessions (--intents) of 40 intents each (--steps)
trees     40 over a tree of 1 + 100 + 10,000 intents: --intents children of each node, down --steps levels
cancel    the same tree, cancelled at its root while workers die
timers    10,000 timers (--intents) at random in 20 s (--steps), 3 workers, two of them killed on the way
races     20 races (--intents) of a promise against a timer, each replayed 100 times after kills (--kills)
turns     one intent of 100,000 turns (--steps) by continue_as_new
turmoil   everything at once over 60 (--intents) random programs: 40 strokes of fate (--kills), 3 operators (--steps)
limits    200 over 800 intents (--intents) of 8 keys, 5 of each at a time, and their steps, 3 of each at a time
rate      30 over 150 intents (--intents) of 40 steps (--steps), which begin at most 100 times in any second
bulk      100,000 intents (--intents), half of them parked, cancelled by one call

Each takes some minutes and prints its figures as JSON. It fails (exit code 1) if anything that the drill's function
promises does not hold; times and rates are only told, since machines differ.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

from tests.crash.branching import cancel_drill, tree_drill
from tests.crash.killing import Drill, drill
from tests.crash.limiting import limit_drill, rate_drill
from tests.crash.many import bulk_drill, turn_drill
from tests.crash.queueing import session_drill
from tests.crash.timing import race_drill, timer_drill
from tests.crash.turmoil import turmoil_drill

_Play = Callable[[Drill], Awaitable[dict[str, Any]]]
_DRILLS: dict[str, tuple[_Play, Drill]] = {
    "steps": (drill, Drill(1000, 50, 200, pace=0.6, pause=0.4, concurrency=4, within=1800)),
    "sessions": (session_drill, Drill(500, 40, 20, pace=0.3, pause=1.2, concurrency=64, within=1800)),
    "trees": (tree_drill, Drill(100, 2, 40, pace=0.7, pause=1.0, concurrency=100, within=1800)),
    "cancel": (cancel_drill, Drill(100, 2, 10, pace=0.5, pause=0.5, concurrency=100, within=1800)),
    "timers": (timer_drill, Drill(10_000, 20, 2, pace=0.0, pause=0.0, concurrency=100, within=600)),
    "races": (race_drill, Drill(20, 0, 100, pace=0.0, pause=0.1, concurrency=100, within=1800)),
    "limits": (limit_drill, Drill(800, 4, 200, pace=0.3, pause=0.5, concurrency=20, within=1800)),
    "rate": (rate_drill, Drill(150, 40, 30, pace=0.7, pause=0.0, concurrency=20, within=1800)),
    "turns": (turn_drill, Drill(1, 100_000, 0, pace=0.0, pause=0.0, concurrency=100, within=1800)),
    "turmoil": (turmoil_drill, Drill(60, 3, 40, pace=0.5, pause=0.0, concurrency=50, within=60)),
    "bulk": (bulk_drill, Drill(100_000, 0, 0, pace=0.0, pause=0.0, concurrency=100, within=600)),
}

parser = argparse.ArgumentParser(
    prog="python -m tests.crash", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("drill", nargs="?", choices=_DRILLS, default="steps", metavar="DRILL")
parser.add_argument("--seed", type=int, default=None, help="of the kills and the pauses (default: another every time)")
parser.add_argument("--kills", type=int, default=None)
parser.add_argument("--intents", type=int, default=None)
parser.add_argument("--steps", type=int, default=None)
asked = parser.parse_args()
play, plan = _DRILLS[asked.drill]
plan = plan.with_(
    seed=random.randrange(1_000_000) if asked.seed is None else asked.seed,
    **{name: value for name in ("kills", "intents", "steps") if (value := getattr(asked, name)) is not None},
)
print(json.dumps({"drill": asked.drill, "seed": plan.seed}), flush=True)
print(json.dumps(asyncio.run(play(plan)), indent=2))
