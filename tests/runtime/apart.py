"""Steps that run in processes of their own, which import this module: it needs little."""

from __future__ import annotations

import os
from pathlib import Path

from redurable import Retry, step


@step(run_in="process")
def in_child(path: str) -> int:
    with Path(path).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return os.getpid()


@step(run_in="process", retry=Retry(attempts=3, first=0))
def dies_once(path: str) -> str:
    mark = Path(path)
    if not mark.exists():
        mark.touch()
        os._exit(9)
    return "alive"


@step(run_in="process", retry=Retry(attempts=1))
def fails_in_child() -> None:
    raise KeyError("in the child")
