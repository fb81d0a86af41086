"""
Worker processes forked from one that has imported the app already: a start takes 0.1 s, not the seconds of its imports.

    python -m tests.e2e.hatchery MODULE...      # then a line of `process.Options` (JSON) on stdin for each worker

Each is what `redurable worker` runs as its child. They end with the hatchery, whose pipe they read.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

from redurable.__main__ import main as redurable


def main() -> None:
    for module in (*sys.argv[1:], "redurable.worker.process", "redurable.telemetry.logs", "uvloop"):
        importlib.import_module(module)
    print("ready", flush=True)
    while line := sys.stdin.readline():
        # a child that dies is nobody's concern here, and leaves no zombie
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.environ["REDURABLE_CHILD"] = line
            sys.argv = ["redurable", "worker-process"]
            redurable()


if __name__ == "__main__":
    main()
