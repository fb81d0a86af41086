"""When schedules are due: both changes of the clocks, intervals, what is made up of a backlog, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from redurable.errors import ConfigurationError
from redurable.ticks import LOOK, MOST, Due, Rhythm, due

BERLIN = "Europe/Berlin"
HOUR = 3_600_000
DAY = 24 * HOUR


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


def ticks(cron: str, after: str, count: int, tz: str = BERLIN) -> list[str]:
    """The ticks after a moment, as the clock on the wall has them."""
    found = islice(Rhythm(cron=cron, tz=tz).after(ms(after)), count)
    return [datetime.fromtimestamp(t / 1000, ZoneInfo(tz)).isoformat()[:16] + _offset(t, tz) for t in found]


def _offset(tick: int, tz: str) -> str:
    return datetime.fromtimestamp(tick / 1000, ZoneInfo(tz)).strftime("%z")[:3]


# --- the clocks change: on 2026-03-29 Berlin has no hour from 2 to 3, on 2026-10-25 it has it twice -------------------


def test_a_fixed_time_that_is_left_out_runs_right_after_the_gap() -> None:
    assert ticks("30 2 * * *", "2026-03-28T00:00+01:00", 3) == [
        "2026-03-28T02:30+01", "2026-03-29T03:00+02", "2026-03-30T02:30+02",
    ]  # fmt: skip


def test_two_fixed_times_in_the_gap_are_one_tick() -> None:
    assert ticks("15,45 2 * * *", "2026-03-29T00:00+01:00", 2) == ["2026-03-29T03:00+02", "2026-03-30T02:15+02"]


def test_a_fixed_time_in_the_hour_that_comes_twice_runs_once_in_the_first() -> None:
    assert ticks("30 2 * * *", "2026-10-24T12:00+02:00", 2) == ["2026-10-25T02:30+02", "2026-10-26T02:30+01"]


@pytest.mark.parametrize("moment", ["2026-10-25T02:30+02:00", "2026-10-25T02:15+01:00", "2026-10-25T02:45+01:00"])
def test_it_is_not_found_again_from_within_the_second_hour(moment: str) -> None:
    assert ticks("30 2 * * *", moment, 1) == ["2026-10-26T02:30+01"]


def test_stars_follow_the_time_that_passes() -> None:
    assert ticks("*/30 * * * *", "2026-03-29T01:00+01:00", 3) == [
        "2026-03-29T01:30+01", "2026-03-29T03:00+02", "2026-03-29T03:30+02",
    ]  # fmt: skip
    assert ticks("30 * * * *", "2026-10-25T01:30+02:00", 3) == [
        "2026-10-25T02:30+02", "2026-10-25T02:30+01", "2026-10-25T03:30+01",
    ]  # fmt: skip


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/10 * * * *", "0 */4 * * *", "0 0,12 * * *", "*/20 * * * * *"])
@pytest.mark.parametrize("day", ["2026-03-28T12:00+01:00", "2026-10-24T12:00+02:00"])
@pytest.mark.parametrize("tz", [BERLIN, "America/New_York", "Australia/Lord_Howe", "UTC"])
def test_who_begins_at_a_tick_finds_what_who_goes_on_finds(cron: str, day: str, tz: str) -> None:
    rhythm = Rhythm(cron=cron, tz=tz)
    found = list(islice(rhythm.after(ms(day)), 400))
    assert found == sorted(set(found))
    for here, after in pairwise(found):
        assert rhythm.next(here) == after
        assert rhythm.next(here + 1) == after
        assert rhythm.next(after - 1) == after


def test_a_day_of_a_change_has_as_many_hours_as_it_has() -> None:
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25)):
        begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(BERLIN))
        end = begin + timedelta(days=1)
        start = int(begin.timestamp()) * 1000 - 1
        within = [t for t in islice(Rhythm(cron="@hourly", tz=BERLIN).after(start), 30) if t < end.timestamp() * 1000]
        assert len(within) == hours


# --- rhythms ----------------------------------------------------------------------------------------------------------


def test_an_interval_has_its_multiples_since_1970() -> None:
    rhythm = Rhythm(every=5000)
    assert list(islice(rhythm.after(12_000), 3)) == [15_000, 20_000, 25_000]
    assert rhythm.next(15_000) == 20_000


def test_weekdays_names_and_seconds() -> None:
    assert ticks("0 9 * * mon-fri", "2026-11-20T09:00+01:00", 1) == ["2026-11-23T09:00+01"]
    assert ticks("@daily", "2026-11-20T09:00+01:00", 1) == ["2026-11-21T00:00+01"]
    assert Rhythm(cron="*/7 * * * * *").next(0) == 7000


def test_a_jitter_is_the_same_whoever_looks_and_spreads() -> None:
    rhythm = Rhythm(every=60_000, jitter=10_000)
    late = [rhythm.late("nightly", tick) for tick in range(0, 6_000_000, 60_000)]
    assert late == [rhythm.late("nightly", tick) for tick in range(0, 6_000_000, 60_000)]
    assert 0 <= min(late) < 2000 < 8000 < max(late) <= 10_000
    assert late != [rhythm.late("other", tick) for tick in range(0, 6_000_000, 60_000)]


@pytest.mark.parametrize(
    ("given", "code", "word"),
    [
        ({"cron": "every monday"}, "BAD_CRON", "every monday"),
        ({"cron": "0 25 * * *"}, "BAD_CRON", "bad hour"),
        ({"cron": "* * * *"}, "BAD_CRON", "fields"),
        ({"cron": "0 0 30 2 *"}, "BAD_CRON", "30 2"),
        ({"cron": "0 9 * * *", "tz": "Europe/Atlantis"}, "BAD_TIMEZONE", "Atlantis"),
        ({"cron": "0 9 * * *", "tz": ""}, "BAD_TIMEZONE", "time zone"),
        ({"cron": "0 9 * * *", "tz": "../../etc/passwd"}, "BAD_TIMEZONE", "time zone"),
        ({"every": 50}, "BAD_ARGUMENT", "0.1 s"),
        ({"every": 5000, "tz": BERLIN}, "BAD_ARGUMENT", "interval"),
        ({}, "BAD_ARGUMENT", "either"),
        ({"cron": "0 9 * * *", "every": 5000}, "BAD_ARGUMENT", "either"),
    ],
)
def test_what_has_no_ticks_is_refused(given: dict[str, Any], code: str, word: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Rhythm(**given).check()
    assert caught.value.code == code
    assert word in str(caught.value).lower() or word in str(caught.value)


# --- a backlog --------------------------------------------------------------------------------------------------------

MINUTELY = Rhythm(every=60_000)
FIRST = 60_000 * 1000


def gone_through(rhythm: Rhythm, first: int, now: int, catch_up: Any, window: int = DAY) -> tuple[list[int], int, Any]:
    """Return the ticks that are fired, how many are missed, and the next, when nobody looked before *now*."""
    fired: list[int] = []
    missed = 0
    at: int | None = first
    while at is not None:
        step = due(rhythm, "n", at, now, catch_up, window)
        if step is None:
            return fired, missed, at
        assert step.next is None or step.next > at
        fired += [] if step.tick is None else [step.tick]
        missed += step.missed
        at = step.next
    return fired, missed, None


def test_nothing_is_due_before_its_time() -> None:
    assert due(MINUTELY, "n", FIRST, FIRST - 1, "all", DAY) is None
    assert due(MINUTELY, "n", FIRST, FIRST, "all", DAY) == Due(FIRST, 0, FIRST + 60_000)


@pytest.mark.parametrize("backlog", [1, 2, 7, MOST, MOST + 1, LOOK - 1, LOOK, LOOK + 1, LOOK + 2, 3 * MOST + 17])
def test_every_tick_is_fired_or_missed_whatever_the_backlog(backlog: int) -> None:
    all_of_them = [FIRST + i * 60_000 for i in range(backlog)]
    now = all_of_them[-1] + 30_000
    after = all_of_them[-1] + 60_000
    year = 365 * DAY
    assert gone_through(MINUTELY, FIRST, now, "all", year) == (all_of_them[-MOST:], max(0, backlog - MOST), after)
    assert gone_through(MINUTELY, FIRST, now, "one", year) == (all_of_them[-1:], backlog - 1, after)
    assert gone_through(MINUTELY, FIRST, now, "none", 10_000) == ([], backlog, after)
    assert gone_through(MINUTELY, FIRST, now, "none", 40_000) == (all_of_them[-1:], backlog - 1, after)


def test_ticks_older_than_the_window_are_missed() -> None:
    now = FIRST + 10 * 60_000
    fired, missed, _ = gone_through(MINUTELY, FIRST, now, "all", 3 * 60_000)
    assert (fired, missed) == ([now - 180_000, now - 120_000, now - 60_000, now], 7)


def test_the_ticks_of_a_change_of_clocks_are_each_made_up_once() -> None:
    rhythm = Rhythm(cron="30 * * * *", tz=BERLIN)
    first, now = ms("2026-10-25T00:30+02:00"), ms("2026-10-25T06:00+01:00")
    fired, missed, _ = gone_through(rhythm, first, now, "all")
    assert missed == 0
    assert [datetime.fromtimestamp(t / 1000, UTC).hour for t in fired] == [22, 23, 0, 1, 2, 3, 4]


def test_a_tick_waits_for_its_jitter() -> None:
    rhythm = Rhythm(every=60_000, jitter=50_000)
    late = rhythm.late("n", FIRST)
    assert due(rhythm, "n", FIRST, FIRST + late - 1, "one", DAY) is None
    assert due(rhythm, "n", FIRST, FIRST + late, "one", DAY) == Due(FIRST, 0, FIRST + 60_000)
