"""Durations and deadlines: seconds in, milliseconds out, wrong ones refused by name."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redurable.clock import deadline_ms, now_ms, seconds, to_datetime
from redurable.errors import ConfigurationError


def test_now_is_in_milliseconds() -> None:
    assert abs(now_ms() - time.time() * 1000) < 1000


@pytest.mark.parametrize(("value", "expected"), [(0, 0.0), (1.5, 1.5), (timedelta(minutes=1), 60.0)])
def test_seconds_are_numbers_or_timedeltas(value: Any, expected: float) -> None:
    assert seconds(value) == expected


@pytest.mark.parametrize(
    "value", [-1, -0.001, float("nan"), float("inf"), 1e12, True, "1", None, timedelta(seconds=-1)]
)
def test_a_wrong_duration_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="delay"):
        seconds(value, "delay")


@given(st.integers(0, 4_000_000_000_000))
def test_a_moment_survives_the_way_there_and_back(ms: int) -> None:
    moment = to_datetime(ms)
    assert moment.tzinfo is UTC
    assert deadline_ms(moment, now=0) == ms


@given(st.integers(0, 10_000_000), st.integers(0, 4_000_000_000_000))
def test_a_delay_of_whole_milliseconds_is_kept_exactly(delay: int, now: int) -> None:
    assert deadline_ms(delay / 1000, now) == now + delay
    assert deadline_ms(timedelta(milliseconds=delay), now) == now + delay


def test_a_deadline_of_any_zone_is_the_same_moment() -> None:
    moment = datetime(2030, 1, 1, 12, tzinfo=UTC)
    assert deadline_ms(moment.astimezone(timezone(timedelta(hours=5))), 0) == deadline_ms(moment, 0)


def test_a_datetime_without_a_zone_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="deadline is a datetime without a time zone"):
        deadline_ms(datetime(2030, 1, 1), 0)
