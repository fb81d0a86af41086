"""`uv run python -m tests.growth`: measure, print, judge."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from dataclasses import asdict

from redurable.bench.bed import Bed
from redurable.bench.report import figure
from redurable.store.private import PrivateServer
from tests.growth.axes import AXES
from tests.growth.lab import KNOWN, Lab, Line, grows

__all__ = ["main"]


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parse = argparse.ArgumentParser(
        prog="python -m tests.growth",
        description="What an operation costs, as more and more is queued, finished, parked, recorded, or served.",
        epilog="Exit code 0: every cost is flat; 1: something grows. 10,000 takes minutes, a million a quarter hour.",
    )
    parse.add_argument("--most", type=int, default=10_000, metavar="N", help="the most intents (default: 10,000)")
    parse.add_argument("--only", action="append", default=[], choices=list(AXES), help="these axes; repeated")
    parse.add_argument("--repeat", type=int, default=3, metavar="N", help="measurements of a cost (default: 3)")
    parse.add_argument("--json", action="store_true", help="print JSON for machines")
    return parse


async def _measure(url: str, options: argparse.Namespace) -> list[Line]:
    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    bed = Bed(url, private=True)
    await bed.open()
    try:
        lab = Lab(bed, options.most, options.repeat, note)
        lines = []
        for name in options.only or AXES:
            async for line in AXES[name](lab):
                lines.append(line)
                note(_text(line))
        return lines
    finally:
        await bed.close()


def _text(line: Line) -> str:
    cost = line.cost
    return (
        f"{line.axis:10} {line.operation:32} {line.size:>9,}   server {figure(cost.server):>7} us   "
        f"worker {figure(cost.worker):>7} us   commands {figure(cost.commands):>6}"
    )


def main(words: list[str] | None = None) -> int:
    """Run; return the exit code."""
    options = parser().parse_args(words)
    if options.most < 10 or options.repeat < 1:
        parser().error("--most is 10 or more, --repeat 1 or more")
    with PrivateServer(args=("--auto-aof-rewrite-percentage", "0")) as server:
        lines = asyncio.run(_measure(server.url, options))
    operations: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        operations.setdefault((line.axis, line.operation), []).append(line)
    found = {f"{axis}: {what}": grows(of) for (axis, what), of in operations.items()}
    if options.json:
        print(json.dumps({"lines": [asdict(line) for line in lines], "grows": found}, indent=2))
    else:
        for (axis, what), parts in zip(operations, found.values(), strict=True):
            told = f"may grow: {KNOWN[axis, what][1]}" if (axis, what) in KNOWN else "flat"
            print(f"{axis}: {what:35} {', '.join(parts) or told}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stopped run takes its worker and server with it
    sys.exit(main())
