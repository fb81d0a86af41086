"""Settings: what each spelling of a URL means, what a wrong one is told, and that no password is ever shown."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from redurable.config import Address, log_level, max_payload, namespace, parse_url, resolve_url
from redurable.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith(("REDURABLE_", "REDIS_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", Address("tcp", "localhost", 6379)),
        ("redis://host", Address("tcp", "host", 6379)),
        ("valkey://host:1/2", Address("tcp", "host", 1, db=2)),
        ("redis://host?db=3", Address("tcp", "host", 6379, db=3)),
        ("redis://[::1]:7000/1", Address("tcp", "::1", 7000, db=1)),
        ("redis://:p%40ss@host", Address("tcp", "host", 6379, password="p@ss")),
        ("redis://ann:secret@host/", Address("tcp", "host", 6379, username="ann", password="secret")),
        ("redis://host?username=ann&password=x", Address("tcp", "host", 6379, username="ann", password="x")),
        ("rediss://host", Address("tls", "host", 6379, tls=True)),
        ("unix:///run/r.sock", Address("unix", path="/run/r.sock")),
        ("unix://:pw@/run/r%20s.sock?db=4", Address("unix", path="/run/r s.sock", db=4, password="pw")),
        (
            "redis+sentinel://:pw@a,b:27000/mymaster/2",
            Address("sentinel", "a", 26379, "", 2, None, "pw", (("a", 26379), ("b", 27000)), "mymaster"),
        ),
        ("redis+cluster://a,b:7001", Address("cluster", "a", 6379, hosts=(("a", 6379), ("b", 7001)))),
    ],
)
def test_a_url_is_understood(url: str, expected: Address) -> None:
    assert parse_url(url) == expected
    hash(expected)


def test_tls_options_come_out_as_redis_py_takes_them() -> None:
    url = "rediss://h?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none&ssl_check_hostname=false"
    assert dict(parse_url(url).options) == {
        "ssl_ca_certs": "/ca.pem",
        "ssl_cert_reqs": "none",
        "ssl_check_hostname": False,
    }


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "scheme"),
        ("localhost:6379", "scheme"),
        ("http://host", "scheme"),
        ("redis://host:port", "port must be a number"),
        ("redis://host:70000", "port must be a number"),
        ("redis://host:0", "port must be a number"),
        ("redis://host/x", "database must be a number"),
        ("redis://host/-1", "database must be a number"),
        ("redis://host/1/2", "one database"),
        ("redis://host/1?db=2", "one database"),
        ("redis://a,b", "redis+sentinel://"),
        ("redis://::1:6379", "brackets"),
        ("redis://[::1", "brackets"),
        ("redis://host?db=1&db=2", "twice"),
        ("redis://host?dbb=1", "'dbb' is not known"),
        ("redis://host?ssl_ca_certs=x", "encrypted"),
        ("rediss://host?ssl_cert_reqs=perhaps", "none, optional or required"),
        ("rediss://host?ssl_check_hostname=perhaps", "true or false"),
        ("unix://run/r.sock", "three slashes"),
        ("redis+sentinel://a,b", "service"),
        ("redis+sentinel:///mymaster", "host is missing"),
        ("redis+cluster://a,,b", "host is missing"),
        ("redis+cluster://a/1", "only database 0"),
        ("redis://:pa#ss@host", "%23"),
    ],
)
def test_a_wrong_url_is_told_what_is_wrong_and_shown_an_example(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    assert caught.value.code == "BAD_URL"
    assert reason in caught.value.message
    assert caught.value.hint.startswith("for example ")


@example(scheme="unix", around="@/", tail="@host")
@given(
    scheme=st.sampled_from(["redis", "rediss", "unix", "redis+sentinel", "redis+cluster", "http"]),
    around=st.text("/?#@:&=%[]", max_size=4),
    tail=st.sampled_from(["@host", "@host:6379/0", "@host/x", "@", "@[::1", "@/run/s.sock", "@a,b/m"]),
)
def test_no_spelling_of_a_url_shows_its_password(scheme: str, around: str, tail: str) -> None:
    url = f"{scheme}://ann:{around}geheim{around}{tail}"
    try:
        shown = repr(parse_url(url)) + parse_url(url).display
    except ConfigurationError as error:
        shown = str(error)
    assert "geheim" not in shown


@pytest.mark.parametrize(
    "url", ["redis://:geheim", "redis://h:geheim/0", "redis://h?pass=geheim", "redis://h:1?password=geheim&x=1"]
)
def test_a_password_in_the_wrong_place_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    assert "geheim" not in str(caught.value)


@given(
    user=st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8),
    host=st.sampled_from(["h", "a.example", "::1"]),
    port=st.integers(1, 65535),
    db=st.integers(0, 99),
    kind=st.sampled_from(["tcp", "tls"]),
)
def test_display_reads_back_as_the_same_address(user: str | None, host: str, port: int, db: int, kind: str) -> None:
    address = Address("tls" if kind == "tls" else "tcp", host, port, db=db, username=user, tls=kind == "tls")
    assert parse_url(address.display) == address


@pytest.mark.parametrize(
    "shown",
    [
        "redis://ann:***@host:6379/0",
        "unix:///run/a%20b.sock?db=2",
        "redis+sentinel://:***@a:1,b:2/m/0",
        "rediss+cluster://a:1",
    ],
)
def test_display_hides_only_the_password(shown: str) -> None:
    assert parse_url(shown.replace("***", "geheim")).display == shown


def test_a_given_url_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_url(None) is None
    monkeypatch.setenv("REDIS_URL", "redis://second")
    assert resolve_url(None) == "redis://second"
    monkeypatch.setenv("REDURABLE_URL", "redis://first")
    assert resolve_url(None) == "redis://first"
    assert resolve_url("redis://given") == "redis://given"
    monkeypatch.setenv("REDURABLE_URL", "")
    assert resolve_url(None) == "redis://second"


def test_namespace_comes_from_argument_environment_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert namespace() == "rd"
    monkeypatch.setenv("REDURABLE_NAMESPACE", "prod")
    assert namespace() == "prod"
    assert namespace("mine") == "mine"
    for wrong in ("", "a b", "a{b}", "x" * 65):
        with pytest.raises(ConfigurationError, match="namespace"):
            namespace(wrong)


def test_max_payload_is_a_bounded_whole_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max_payload() == 1 << 20
    monkeypatch.setenv("REDURABLE_MAX_PAYLOAD", "2_000_000")
    assert max_payload() == 2_000_000
    assert max_payload(5000) == 5000
    for wrong in ("lots", "1.5", "-1", "7"):
        monkeypatch.setenv("REDURABLE_MAX_PAYLOAD", wrong)
        with pytest.raises(ConfigurationError, match="REDURABLE_MAX_PAYLOAD"):
            max_payload()


def test_the_log_level_is_a_known_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert log_level() == "INFO"
    monkeypatch.setenv("REDURABLE_LOG_LEVEL", "debug")
    assert log_level() == "DEBUG"
    assert log_level("warning") == "WARNING"
    with pytest.raises(ConfigurationError, match="'loud'"):
        log_level("loud")
