"""
The long crash drills: `uv run python -m tests.crash [--sessions] [--seed N] [--kills N] [--intents N] [--steps N]`.

By default 200 SIGKILLs at random over 1,000 fifty-step intents on 4 worker processes; with --sessions 20 over 500
sessions of 40 intents each. Each takes some minutes and prints its figures as JSON. It fails (exit code 1) if anything
that `tests/crash/killing.py`, or `queueing.py`, promises does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random

from tests.crash.killing import Drill, drill
from tests.crash.queueing import session_drill

parser = argparse.ArgumentParser(prog="python -m tests.crash", description=(__doc__ or "").split("\n\n")[1])
parser.add_argument(
    "--sessions", action="store_true", help="kill over sessions; --intents is how many, --steps of each"
)
parser.add_argument("--seed", type=int, default=None, help="of the kills and the pauses (default: another every time)")
parser.add_argument("--kills", type=int, default=None)
parser.add_argument("--intents", type=int, default=None)
parser.add_argument("--steps", type=int, default=None)
asked = parser.parse_args()
seed = random.randrange(1_000_000) if asked.seed is None else asked.seed
print(json.dumps({"seed": seed}))
usual = (500, 40, 20) if asked.sessions else (1000, 50, 200)
intents, steps, kills = (a or b for a, b in zip((asked.intents, asked.steps, asked.kills), usual, strict=True))
if asked.sessions:
    plan = Drill(
        intents=intents, steps=steps, kills=kills, pace=0.3, pause=1.2, concurrency=64, seed=seed, within=1800
    )  # fmt: skip
    print(json.dumps(asyncio.run(session_drill(plan)), indent=2))
else:
    plan = Drill(intents=intents, steps=steps, kills=kills, pace=0.6, pause=0.1, concurrency=4, seed=seed, within=1800)
    print(json.dumps(asyncio.run(drill(plan)), indent=2))
