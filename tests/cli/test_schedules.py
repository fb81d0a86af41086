"""`redurable schedules`, on a real worker; every wrong input of each verb."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from redurable import sync
from redurable.store.keys import Keys
from tests.cli.conftest import NAMESPACE, Cli, Running
from tests.cli.test_sessions import refused, until

LISTED = {
    "name", "cron", "every", "tz", "jitter", "queue", "type", "overlap", "catch_up", "window", "paused", "made",
    "next", "last", "status", "tick", "at", "fired", "skipped", "missed", "declared", "unreadable",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _none_left(redis_url: str) -> Iterator[None]:
    yield
    with sync.Client(redis_url, namespace=NAMESPACE) as client:
        for info in client.schedules.list():
            client.schedules.delete(info.name)


def test_a_schedule_from_put_to_delete(cli: Cli, worker: Running) -> None:
    made = cli("schedules", "put", "sums", "sum", "[1, 2]", "--every", "0.2s", "--label", "team=a", "--json").json
    assert set(made) == LISTED | {"upcoming"}
    assert (made["every"], made["queue"], made["paused"], made["fired"], len(made["upcoming"])) == (
        0.2, "sum", False, 0, 5,
    )  # fmt: skip
    end = time.monotonic() + 20
    while cli("schedules", "get", "sums", "--json").json["fired"] < 2:
        assert time.monotonic() < end
    assert cli("schedules", "pause", "sums", "--json").json == {"name": "sums", "answer": "PAUSED"}
    (listed,) = cli("schedules", "list", "--json").json
    assert set(listed) == LISTED
    assert (listed["paused"], listed["next"]) == (True, None)
    assert until(cli, listed["last"], "COMPLETED")["labels"]["team"] == "a"
    triggered = cli("schedules", "trigger", "sums", "--json").json
    assert until(cli, triggered["id"], "COMPLETED")["labels"] == {"schedule": "sums", "team": "a"}
    assert cli("schedules", "resume", "sums").out == "sums  RESUMED\n"
    assert cli("schedules", "delete", "sums").out == "sums  DELETED\n"
    assert cli("schedules", "list", "--json").json == []
    assert "no schedules" in cli("schedules", "list").err


def test_one_that_cannot_be_read_is_listed_beside_the_others(cli: Cli, redis_url: str) -> None:
    for name in ("later", "report"):
        assert cli("schedules", "put", name, "reports", "--every", "1h").code == 0
    with redis.Redis.from_url(redis_url) as server:
        server.hset(Keys(NAMESPACE, 0).schedule("later"), "what", b"\x01")
    later, report = cli("schedules", "list", "--json").json
    assert (later["name"], later["queue"], later["next"]) == ("later", "", None)
    assert later["unreadable"].startswith("the schedule 'later' cannot be read: expected object, got int [SCHEDULE_UNR")
    assert (report["every"], report["unreadable"]) == (3600, None)
    said = cli("schedules", "list")
    assert [line.split()[:2] for line in said.out.splitlines()[1:]] == [["later", "unreadable"], ["report", "every"]]
    assert said.code == 0
    assert "upgrade this one" in said.err
    refused(cli("schedules", "get", "later"), "SCHEDULE_UNREADABLE", exit_code=1)


def test_people_see_when_it_is_next_and_how_the_last_was(cli: Cli) -> None:
    words = ("--cron", "0 9 * * MON-FRI", "--tz", "Europe/Berlin", "--overlap", "skip", "--jitter", "30s")
    text = cli("schedules", "put", "report", "reports", '"full"', *words).out
    for said in ("0 9 * * MON-FRI (Europe/Berlin)", "skip", "one, of the last 365 d", "upcoming", "30 s"):
        assert said in text
    intent = cli("schedules", "trigger", "report").out.strip()
    text = cli("schedules", "get", "report").out
    assert f"{intent} SUBMITTED" in text
    line = cli("schedules", "list").out.splitlines()[1]
    assert line.startswith("report")
    assert "SUBMITTED" in line
    refused(cli("schedules", "trigger", "report"), "SCHEDULE_BUSY", "overlap='skip'", intent)
    cli("schedules", "pause", "report")
    assert "paused" in cli("schedules", "list").out
    cli("intents", "cancel", intent)
    assert "CANCELED" in cli("schedules", "get", "report").out


def test_a_payload_is_checked_if_the_handler_is_named(cli: Cli) -> None:
    said = cli("schedules", "put", "bad", "tests.cli.app:add", '"text"', "--every", "5m")
    refused(said, "TYPE_MISMATCH", exit_code=2)
    assert cli("schedules", "put", "good", "tests.cli.app:add", "[1]", "--every", "5m", "--json").json["queue"] == "sum"


@pytest.mark.parametrize("verb", ["get", "pause", "resume", "trigger", "delete"])
def test_an_unknown_name(cli: Cli, verb: str) -> None:
    refused(cli("schedules", verb, "nobody"), "SCHEDULE_NOT_FOUND", "'nobody'", "schedules list")


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_twice_is_as_once(cli: Cli, verb: str) -> None:
    cli("schedules", "put", "s", "q", "--every", "1h")
    assert cli("schedules", verb, "s") == cli("schedules", verb, "s")


def test_deleted_twice(cli: Cli) -> None:
    cli("schedules", "put", "s", "q", "--every", "1h")
    assert cli("schedules", "delete", "s").code == 0
    refused(cli("schedules", "delete", "s"), "SCHEDULE_NOT_FOUND")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--cron", "every monday"), "BAD_CRON", "minute hour"),
        (("--cron", "61 * * * *"), "BAD_CRON", "bad minute"),
        (("--cron", "@daily", "--tz", "Europe/Atlantis"), "BAD_TIMEZONE", "Europe/Atlantis"),
        ((), "BAD_ARGUMENT", "either"),
        (("--every", "often"), "BAD_ARGUMENT", "15m"),
        (("--every", "0"), "BAD_ARGUMENT", "0.1 s or more, not 0 s"),
        (("--every", "5m", "--window", "-3"), "BAD_ARGUMENT", "15m"),
        (("--every", "5m", "--overlap", "maybe"), "BAD_ARGUMENT", "allow, skip, queue, replace"),
        (("--every", "5m", "--catch-up", "some"), "BAD_ARGUMENT", "all, one, none"),
        (("--every", "5m", "--label", "team"), "BAD_ARGUMENT", "team=shop"),
        (("--every", "5m", "--overlap", "queue", "--key", "k"), "BAD_ARGUMENT", "session"),
    ],
)
def test_a_put_that_cannot_be(cli: Cli, words: tuple[str, ...], code: str, said: str) -> None:
    refused(cli("schedules", "put", "s", "q", *words), code, said, exit_code=2)
    assert cli("schedules", "list", "--json").json == []


def test_a_payload_that_is_no_json_and_a_name_that_cannot_be(cli: Cli) -> None:
    refused(cli("schedules", "put", "s", "q", "{", "--every", "1h"), "BAD_ARGUMENT", "schedules put", exit_code=2)
    refused(cli("schedules", "put", "a b", "q", "--every", "1h"), "BAD_ARGUMENT", "'a b'", exit_code=2)


def test_help_teaches(alone: Any) -> None:
    assert "--tz Europe/Berlin" in " ".join(alone("schedules", "put", "--help").out.split())
    assert "--label schedule=NAME" in " ".join(alone("schedules", "list", "--help").out.split())
