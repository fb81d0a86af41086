"""The growth run at a tiny size, and its judgement; what grows is for `python -m tests.growth` to say."""

from __future__ import annotations

import json

import pytest

from tests.growth.__main__ import main
from tests.growth.lab import KNOWN, MOST, Cost, Line, grows


def _lines(*servers: float, operation: str = "run", axis: str = "queued") -> list[Line]:
    return [Line(axis, operation, 10**i, Cost(server, 20.0, 8.0)) for i, server in enumerate(servers)]


def test_what_grows_is_told_and_what_is_flat_is_not() -> None:
    assert grows(_lines(40.0, 44.0, 40.0 * MOST - 1)) == []
    assert grows(_lines(40.0, 44.0, 40.0 * MOST + 1)) == [f"server x {MOST:.1f}"]
    assert grows(_lines(40.0, 200.0, 41.0)) == ["server x 5.0"]
    assert grows(_lines(0.1, 3.0)) == []  # the counters' own grain


def test_what_may_grow_has_a_bound_too() -> None:
    (axis, operation), (most, reason) = next(iter(KNOWN.items()))
    assert reason
    assert grows(_lines(100.0, 99.0 * most, axis=axis, operation=operation)) == []
    assert grows(_lines(100.0, 101.0 * most, axis=axis, operation=operation)) != []


def test_a_run_measures_every_operation_of_an_axis(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--most", "100", "--repeat", "1", "--only", "journal", "--json"]) in (0, 1)
    told = json.loads(capsys.readouterr().out)
    seen = [(line["operation"], line["size"]) for line in told["lines"]]
    assert seen == [(what, size) for size in (10, 100) for what in ("a step", "the replay of a step")]
    assert list(told["grows"]) == ["journal: a step", "journal: the replay of a step"]
    assert all(line["cost"]["server"] > 0 and line["cost"]["commands"] > 0 for line in told["lines"])
    # commands are no matter of the machine's mood
    assert 2.5 < told["lines"][2]["cost"]["commands"] < 5


@pytest.mark.parametrize("words", [["--most", "5"], ["--repeat", "0"], ["--only", "moon"], ["--most", "many"]])
def test_wrong_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    assert "usage: python -m tests.growth" in capsys.readouterr().err
