"""`uv run python -m tests.benchmarks`: run, print, draw."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import plot, tables
from tests.benchmarks.runner import QUICK_WATCH, WATCH, Plan, chosen, run

HERE = Path(__file__).resolve().parent
FIGURES, PICTURE, PAGE = HERE / "figures.json", HERE / "peers.png", HERE / "README.md"
BEGIN, END = "<!-- made by the run: begin -->\n", "<!-- made by the run: end -->\n"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parse = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="The same work done by redurable and its peers, side by side, each in an environment of its own.",
        epilog="Everything takes about 20 minutes on two cores; Ctrl+C shows what was measured so far.",
    )
    parse.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a side, queues or steps; ours always runs too"
    )
    parse.add_argument("--quick", action="store_true", help="a fifth of the work, and killed jobs watched for 10 s")
    parse.add_argument("--repeat", type=int, default=3, metavar="N", help="turns of each measure (default: 3)")
    parse.add_argument("--watch", type=float, metavar="S", help="how long a killed job is watched for (default: 120)")
    parse.add_argument("--tcp", action="store_true", help="servers by TCP; without it by their unix sockets")
    parse.add_argument("--json", type=Path, metavar="FILE", help="write all that was recorded")
    parse.add_argument("--png", type=Path, metavar="FILE", help="draw the picture")
    parse.add_argument("--from", dest="source", type=Path, metavar="FILE", help="run nothing: show what --json wrote")
    parse.add_argument("--publish", action="store_true", help="renew figures.json, peers.png and the README here")
    parse.add_argument(
        "--cache",
        type=Path,
        default=Path(tempfile.gettempdir()) / "redurable-benchmarks",
        metavar="DIR",
        help="where the peers are installed, and found again",
    )
    return parse


def main(words: list[str]) -> int:
    """Run the command."""
    parse = parser()
    asked = parse.parse_args(words)
    if asked.source:
        report = json.loads(asked.source.read_text())
    else:
        try:
            peers = chosen(asked.only)
        except ValueError as error:
            parse.error(str(error))
        if asked.repeat < 1:
            parse.error("--repeat must be 1 or more")
        watch = asked.watch if asked.watch is not None else QUICK_WATCH if asked.quick else WATCH
        scale = 0.2 if asked.quick else 1.0
        plan = Plan(
            peers, asked.repeat, scale, watch, asked.cache, lambda text: print(text, file=sys.stderr), tcp=asked.tcp
        )
        report = run(plan)
    print(tables.markdown(report))
    print(tables.told(report))
    if asked.json:
        asked.json.write_text(written(report))
    if asked.png:
        plot.draw(report, asked.png, asked.cache)
    if asked.publish:
        if not asked.source or asked.source.resolve() != FIGURES:
            FIGURES.write_text(written(report))
        plot.draw(report, PICTURE, asked.cache)
        PAGE.write_text(published(PAGE.read_text(), tables.markdown(report) + "\n" + tables.told(report)))
    return 0


def written(report: dict[str, Any]) -> str:
    """Return *report* as JSON, a record a line."""
    parts = []
    for key, value in report.items():
        if isinstance(value, list):
            rows = ",\n  ".join(json.dumps(row) for row in value)
            parts.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def published(page: str, made: str) -> str:
    """Return *page* with *made* between its marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + made + END + rest.split(END)[1]


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # servers and workers are ended, what was seen is shown
        signal.signal(number, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
