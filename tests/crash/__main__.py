"""
The long crash drill: `uv run python -m tests.crash [--seed N] [--kills N] [--intents N] [--steps N]`.

By default 200 SIGKILLs at random over 1,000 fifty-step intents on 4 worker processes; it takes some minutes and prints
its figures as JSON. It fails (exit code 1) if anything that `tests/crash/killing.py` promises does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random

from tests.crash.killing import Drill, drill

parser = argparse.ArgumentParser(prog="python -m tests.crash", description=(__doc__ or "").split("\n\n")[1])
parser.add_argument("--seed", type=int, default=None, help="of the kills and the pauses (default: another every time)")
parser.add_argument("--kills", type=int, default=200)
parser.add_argument("--intents", type=int, default=1000)
parser.add_argument("--steps", type=int, default=50)
asked = parser.parse_args()
seed = random.randrange(1_000_000) if asked.seed is None else asked.seed
print(json.dumps({"seed": seed}))
plan = Drill(
    intents=asked.intents, steps=asked.steps, kills=asked.kills, pace=0.6, pause=0.1, concurrency=4, seed=seed,
    within=1800,
)  # fmt: skip
print(json.dumps(asyncio.run(drill(plan)), indent=2))
