"""
Types, checked by two checkers: the package is clean, and users' code is understood as it is meant.

`typing/ok.py` must pass; of `typing/wrong.py` exactly the lines that bear an `# E:` must be reported. Each checker
runs once over everything.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "tests" / "typing"
CHECKED = [ROOT / "redurable", *sorted(CASES.glob("*.py"))]

Errors = dict[Path, dict[int, list[str]]]

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.implementation.name != "cpython", reason="the checkers are tools of CPython"),
]


def run(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), f"{words[0]} did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@cache
def mypy() -> Errors:
    cache_dir = ROOT / ".mypy_cache" / "tests"  # its own: a developer's run at the same time would lock it
    output = run("mypy", "--strict", "--output=json", f"--cache-dir={cache_dir}", *map(str, CHECKED))
    found: Errors = defaultdict(lambda: defaultdict(list))
    for line in output.splitlines():
        if line.startswith("{"):
            item = json.loads(line)
            if item["severity"] == "error":
                found[(ROOT / item["file"]).resolve()][item["line"]].append(f"{item['message']} [{item['code']}]")
    return found


@cache
def basedpyright() -> Errors:
    report = json.loads(run("basedpyright", "--outputjson", "--pythonpath", sys.executable, *map(str, CHECKED)))
    found: Errors = defaultdict(lambda: defaultdict(list))
    for item in report["generalDiagnostics"]:
        if item["severity"] == "error":
            line = item["range"]["start"]["line"] + 1
            found[Path(item["file"]).resolve()][line].append(f"{item['message']} [{item.get('rule', '')}]")
    assert report["summary"]["filesAnalyzed"] > 10
    return found


each_checker = pytest.mark.parametrize("checker", [mypy, basedpyright], ids=lambda checker: checker.__name__)


def told(errors: Errors, *under: Path) -> list[str]:
    return [
        f"{os.path.relpath(path, ROOT)}:{line}: {message}"
        for path, lines in sorted(errors.items())
        if any(path.is_relative_to(place) for place in under)
        for line, messages in sorted(lines.items())
        for message in messages
    ]


@each_checker
def test_the_package_is_clean(checker: Callable[[], Errors]) -> None:
    wrong = told(checker(), ROOT / "redurable")
    assert not wrong, "\n".join(wrong)


@each_checker
def test_what_users_may_write_is_accepted(checker: Callable[[], Errors]) -> None:
    wrong = told(checker(), CASES / "ok.py")
    assert not wrong, "\n".join(wrong)


@each_checker
def test_what_is_sent_to_a_handler_has_its_results_type(checker: Callable[[], Errors]) -> None:
    wrong = told(checker(), CASES / "send.py")
    assert not wrong, "\n".join(wrong)


@each_checker
def test_what_users_may_not_write_is_refused_line_by_line(checker: Callable[[], Errors]) -> None:
    lines = (CASES / "wrong.py").read_text().splitlines()
    expected = {number: line.strip() for number, line in enumerate(lines, 1) if re.search(r"# E: \w", line)}
    reported = checker()[CASES / "wrong.py"]
    missed = [f"line {number} was accepted: {line}" for number, line in expected.items() if number not in reported]
    extra = [f"line {number} was refused: {reported[number]}" for number in reported if number not in expected]
    assert not missed + extra, "\n".join(missed + extra)
    assert len(expected) > 20
