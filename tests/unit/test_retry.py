"""`Retry`: who is tried again, how often, after how long."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redurable.errors import ConfigurationError, RetryLater, TerminalError
from redurable.retry import NO_RETRY, Retry

ERROR = OSError("gone")


def test_without_jitter_the_delay_doubles_up_to_its_bound() -> None:
    policy = Retry(attempts=6, first=0.5, max_delay=3, jitter=False)
    assert [policy.delay(tries, ERROR) for tries in range(1, 7)] == [0.5, 1.0, 2.0, 3.0, 3.0, None]


@given(
    attempts=st.integers(1, 10**9),
    first=st.floats(0, 1e6),
    factor=st.floats(1, 1e8),
    longest=st.floats(0, 1e6),
    tries=st.integers(1, 10**9),
    jitter=st.booleans(),
)
def test_no_policy_gives_a_delay_below_zero_or_above_its_bound(
    attempts: int, first: float, factor: float, longest: float, tries: int, jitter: bool
) -> None:
    policy = Retry(attempts=attempts, first=first, factor=factor, max_delay=longest, jitter=jitter)
    delay = policy.delay(tries, ERROR)
    assert (delay is None) == (tries >= attempts)
    assert delay is None or 0 <= delay <= longest


def test_jitter_draws_from_the_whole_range() -> None:
    drawn = [Retry(first=1, jitter=True).delay(1, ERROR) or 0.0 for _ in range(300)]
    assert min(drawn) < 0.2
    assert max(drawn) > 0.8


def test_durations_may_be_timedeltas() -> None:
    policy = Retry(first=timedelta(seconds=2), max_delay=timedelta(seconds=3), jitter=False)
    assert [policy.delay(1, ERROR), policy.delay(2, ERROR)] == [2.0, 3.0]


def test_only_the_errors_named_are_tried_again() -> None:
    policy = Retry(on=(OSError,), never=(FileNotFoundError,))
    assert policy.delay(1, ERROR) is not None
    assert policy.delay(1, FileNotFoundError()) is None
    assert policy.delay(1, ValueError()) is None


def test_a_terminal_error_is_never_tried_again() -> None:
    assert Retry(on=(Exception,)).delay(1, TerminalError("no")) is None


def test_retry_later_sets_the_delay_while_attempts_are_left() -> None:
    policy = Retry(attempts=3, on=(OSError,), max_delay=1)
    assert policy.delay(1, RetryLater(90)) == 90.0
    assert policy.delay(1, RetryLater(timedelta(minutes=2))) == 120.0
    assert policy.delay(1, RetryLater(-1)) == 0.0
    assert policy.delay(3, RetryLater(90)) is None


def test_no_retry_is_one_try() -> None:
    assert NO_RETRY.delay(1, ERROR) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"factor": 0.5},
        {"factor": float("nan")},
        {"factor": float("inf")},
        {"first": -1},
        {"max_delay": "1"},
    ],
)
def test_a_wrong_policy_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Retry(**wrong)
