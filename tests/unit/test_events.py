"""Events: subscribers hear them, and a failing one disturbs nobody."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from redurable.events import emit, gather, gathered, subscribe


def test_every_subscriber_hears_until_it_leaves() -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    leave = subscribe(lambda name, fields: heard.append((name, fields)))
    emit("step.recorded", step="a", name="a field may have any name")
    leave()
    emit("step.recorded", step="b")
    assert heard == [("step.recorded", {"step": "a", "name": "a field may have any name"})]
    leave()


def test_a_subscriber_that_raises_is_logged_once_and_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def broken(name: str, fields: dict[str, Any]) -> None:
        raise ValueError(name)

    ends = [subscribe(broken), subscribe(lambda name, fields: heard.append(name))]
    with caplog.at_level(logging.ERROR, logger="redurable"):
        emit("a.b")
        emit("c.d")
    for end in ends:
        end()
    assert heard == ["a.b", "c.d"]
    assert [record.getMessage() for record in caplog.records] == ["an event subscriber failed on a.b"]


def test_one_may_leave_while_an_event_is_told() -> None:
    heard: list[str] = []

    def once(name: str, fields: dict[str, Any]) -> None:
        heard.append(name)
        leave()

    leave = subscribe(once)
    emit("a.b")
    emit("c.d")
    assert heard == ["a.b"]


def test_numbers_are_gathered_for_who_asks_and_only_then() -> None:
    assert gathered("test.seconds", "q") is None
    found = gather("test.seconds")
    numbers = gathered("test.seconds", "q")
    assert numbers is not None
    numbers["a"].append(1.5)
    numbers["a"].append(2.5)
    again = gathered("test.seconds", "q")
    assert again is numbers
    assert gather("test.seconds") is found
    assert found == {"q": {"a": [1.5, 2.5]}}
