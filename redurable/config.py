"""
Where the settings come from: an argument, then the environment, then a default.

Owns the spelling of URLs and of the environment's names. Invariants: a password is never part of a message,
`repr` or `display`; a setting that cannot be used is an error that names it, never a silent default.

| variable | holds | default |
|---|---|---|
| REDURABLE_URL, then REDIS_URL | the server | the project's embedded server |
| REDURABLE_NAMESPACE | what every key begins with | rd |
| REDURABLE_CODEC | module:attribute of the payload codec, see `redurable.codecs` | none |
| REDURABLE_MAX_PAYLOAD | the largest payload, result or entry in bytes | 1048576 |
| REDURABLE_MAX_JOURNAL_ENTRIES | the most entries of a journal; a warning comes at a fifth | 100000 |
| REDURABLE_MAX_JOURNAL_BYTES | its most bytes, likewise | 67108864 |
| REDURABLE_VERSION | the deployment version of a worker's code | none |
| REDURABLE_MAX_EVENTS | the most events that are kept of an intent; the oldest go first | 10000 |
| REDURABLE_LOG_LEVEL | from which level on the command line's processes log | info |
| REDURABLE_ACCEPT | checks of `redurable doctor` whose failure is accepted, with commas | none |
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NoReturn
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redurable.codec import DEFAULT_LIMIT
from redurable.errors import ConfigurationError

__all__ = [
    "Address",
    "Kind",
    "accepted",
    "check_namespace",
    "check_version",
    "codec_target",
    "journal_limits",
    "log_level",
    "max_events",
    "max_payload",
    "namespace",
    "number",
    "parse_url",
    "resolve_url",
    "version",
]

Kind = Literal["tcp", "tls", "unix", "sentinel", "cluster"]
Option = str | bool

DEFAULT_NAMESPACE = "rd"
_EXAMPLES: dict[Kind, str] = {
    "tcp": "redis://user:password@host:6379/0",
    "tls": "rediss://user:password@host:6379/0?ssl_ca_certs=/etc/ssl/ca.pem",
    "unix": "unix:///run/redis/redis.sock?db=0",
    "sentinel": "redis+sentinel://host1:26379,host2:26379/mymaster/0",
    "cluster": "redis+cluster://host1:6379,host2:6379",
}
# scheme -> what it leads to, and whether it is encrypted
_SCHEMES: dict[str, tuple[Kind, bool]] = {
    "redis": ("tcp", False),
    "valkey": ("tcp", False),
    "rediss": ("tls", True),
    "valkeys": ("tls", True),
    "unix": ("unix", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_SPELLING: dict[tuple[Kind, bool], str] = {
    ("tcp", False): "redis",
    ("tls", True): "rediss",
    ("unix", False): "unix",
    ("sentinel", False): "redis+sentinel",
    ("sentinel", True): "rediss+sentinel",
    ("cluster", False): "redis+cluster",
    ("cluster", True): "rediss+cluster",
}
_PORTS: dict[Kind, int] = {"tcp": 6379, "tls": 6379, "unix": 0, "sentinel": 26379, "cluster": 6379}
_TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
)
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_FORBIDDEN_IN_NAMESPACE = frozenset("{}/ \t\r\n\0*?[]\\")


@dataclass(frozen=True, repr=False)
class Address:
    """
    Where a server is, and as whom to log in; `parse_url` makes it.

    Attributes:
        kind: What is there: a server by TCP, TLS or unix socket, or sentinels or a cluster to ask.
        host, port: The server, of tcp and tls; else the first of *hosts*.
        path: The socket's path, of unix.
        hosts: What to ask first, of sentinel and cluster.
        service: The name that the sentinels know the master by.
        tls: Whether connections are encrypted.
        options: The TLS options, by redis-py's names (`ssl_ca_certs`, ...).
    """

    kind: Kind
    host: str = ""
    port: int = 0
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = None
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    tls: bool = False
    options: Mapping[str, Option] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @property
    def display(self) -> str:
        """The URL for people: the password is `***`."""
        login = quote(self.username or "", safe="")
        if self.password is not None:
            login += ":***"
        login += "@" if login else ""
        scheme = _SPELLING[self.kind, self.tls]
        if self.kind == "unix":
            return f"{scheme}://{login}{quote(self.path)}" + (f"?db={self.db}" if self.db else "")
        places = self.hosts or ((self.host, self.port),)
        netloc = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in places)
        path = {"sentinel": f"/{quote(self.service, safe='')}/{self.db}", "cluster": ""}.get(self.kind, f"/{self.db}")
        return f"{scheme}://{login}{netloc}{path}"

    def __repr__(self) -> str:
        return f"Address({self.display!r})"


def resolve_url(url: str | None = None) -> str | None:
    """Return *url*, else REDURABLE_URL, else REDIS_URL, else None: the project's embedded server is meant."""
    for candidate in (url, os.environ.get("REDURABLE_URL"), os.environ.get("REDIS_URL")):
        if candidate is not None and candidate.strip():
            return candidate.strip()
    return None


def parse_url(url: str) -> Address:
    """
    Return the address that *url* spells.

    Sentinel and cluster URLs are understood here; whether they can be opened is the store's to say.

    Raises:
        ConfigurationError: BAD_URL; the message says what is wrong, without the password, and gives an example.
    """
    scheme, separator, _ = url.partition("://")
    found = _SCHEMES.get(scheme.lower()) if separator else None
    if found is None:
        _refuse(url, f"its scheme must be one of {', '.join(f'{s}://' for s in _SCHEMES)}", "tcp")
    kind, tls = found
    try:
        parts = urlsplit(url)
    except ValueError:  # its text quotes the login
        _refuse(url, "its host is not well formed; an IPv6 address goes into brackets", kind)
    if (
        parts.fragment
        or url.endswith("#")
        or "@" in parts.query
        or ("@" in parts.path and (kind != "unix" or parts.netloc))
    ):
        _refuse(url, "in a user name or password / ? # @ : are written %2F %3F %23 %40 %3A", kind)
    query = _query(url, parts.query, kind, tls)
    login, _, netloc = parts.netloc.rpartition("@")
    name, colon, secret = login.partition(":")
    asked = {key: query.pop(key) for key in ("username", "password", "db") if key in query}
    username = unquote(name) or asked.get("username")
    password = unquote(secret) if colon else asked.get("password")
    db = asked.get("db")
    if kind == "unix":
        if netloc or not parts.path.startswith("/"):
            _refuse(url, "a socket's path must be absolute, so it takes three slashes", kind)
        return Address(
            kind, path=unquote(parts.path), db=_db(url, db or "0", kind), username=username, password=password
        )
    service, index = _path(url, parts.path, db, kind)
    hosts = [_place(url, text, kind) for text in netloc.split(",")]
    many = kind in ("sentinel", "cluster")
    if len(hosts) > 1 and not many:
        _refuse(url, "several hosts need redis+sentinel:// or redis+cluster://", kind)
    return Address(
        kind,
        *hosts[0],
        db=index,
        username=username,
        password=password,
        hosts=tuple(hosts) if many else (),
        service=service,
        tls=tls,
        options=MappingProxyType({key: _option(url, key, value, kind) for key, value in query.items()}),
    )


def _path(url: str, path: str, db: str | None, kind: Kind) -> tuple[str, int]:
    """Return the service and the database that *path* and the option *db* name."""
    segments = [unquote(segment) for segment in path.split("/") if segment]
    service = ""
    if kind == "sentinel":
        if not segments:
            _refuse(url, "the name of the sentinels' service is missing after the hosts", kind)
        service = segments.pop(0)
    if len(segments) + (db is not None) > 1:
        _refuse(url, "after the host there can only be one database number", kind)
    index = _db(url, segments[0] if segments else db or "0", kind)
    if kind == "cluster" and index:
        _refuse(url, "a cluster has only database 0", kind)
    return service, index


def _query(url: str, text: str, kind: Kind, tls: bool) -> dict[str, str]:
    pairs = parse_qsl(text, keep_blank_values=True)
    known = {"db", "username", "password"} | (_TLS_OPTIONS if tls else frozenset())
    for key, _ in pairs:
        if key in _TLS_OPTIONS and not tls:
            _refuse(url, f"{key} belongs to an encrypted connection, and this one is not", "tls")
        if key not in known:
            _refuse(url, f"the option {key!r} is not known; known are {', '.join(sorted(known))}", kind)
    if len({key for key, _ in pairs}) < len(pairs):
        _refuse(url, "an option is given twice", kind)
    return dict(pairs)


def _option(url: str, key: str, value: str, kind: Kind) -> Option:
    if key == "ssl_check_hostname":
        if value.lower() not in _BOOLEANS:
            _refuse(url, f"{key} must be true or false", kind)
        return _BOOLEANS[value.lower()]
    if key == "ssl_cert_reqs" and value not in ("none", "optional", "required"):
        _refuse(url, f"{key} must be none, optional or required", kind)
    if not value:
        _refuse(url, f"{key} is empty", kind)
    return value


def _place(url: str, text: str, kind: Kind) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^:\[\]]*))(?::(?P<port>[^:]*))?", text)
    if match is None:
        _refuse(url, "a host is not well formed; an IPv6 address goes into brackets", kind)
    port = match["port"] or str(_PORTS[kind])
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        _refuse(url, "a port must be a number from 1 to 65535", kind)
    host = match["six"] or unquote(match["host"] or "")
    if not host and kind in ("sentinel", "cluster"):
        _refuse(url, "a host is missing", kind)
    return host or "localhost", int(port)


def _db(url: str, text: str, kind: Kind) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        _refuse(url, "the database must be a number from 0", kind)
    return int(text)


def _refuse(url: str, reason: str, kind: Kind) -> NoReturn:
    raise ConfigurationError(
        f"{_hidden(url)!r} cannot be used: {reason}", code="BAD_URL", hint=f"for example {_EXAMPLES[kind]}"
    )


def _hidden(url: str) -> str:
    """Return *url* without what may be a password, however it is malformed."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    if "@" in rest:
        rest = f"***@{rest.rpartition('@')[2]}"
    else:  # then a password can only stand where a port should, or in the query
        rest = re.sub(r":(?!\d{1,5}(?:[/,?]|$))[^/,?\]]*(?=[/,?]|$)", ":***", rest)
    return re.sub(r"(?i)([^&?=]*(?:pass|pw|secret|token|auth)[^&=]*=)[^&]*", r"\1***", f"{scheme}{separator}{rest}")


def check_namespace(name: str) -> str:
    """Return *name*, or raise ConfigurationError when keys cannot begin with it."""
    if not 0 < len(name) <= 64 or not name.isprintable() or not _FORBIDDEN_IN_NAMESPACE.isdisjoint(name):
        raise ConfigurationError(
            f"{name[:100]!r} cannot be a namespace",
            hint="use 1 to 64 printable characters without blanks and / { } * ? [ ] \\",
        )
    return name


def namespace(explicit: str | None = None) -> str:
    """Return *explicit*, else REDURABLE_NAMESPACE, else "rd"; checked."""
    if explicit is None:
        explicit = os.environ.get("REDURABLE_NAMESPACE") or DEFAULT_NAMESPACE
    return check_namespace(explicit)


def check_version(name: str) -> str:
    """Return *name*, or raise ConfigurationError BAD_VERSION when a deployment version cannot be called that."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}", name):
        raise ConfigurationError(
            f"{name[:100]!r} cannot be a deployment version",
            code="BAD_VERSION",
            hint="use 1 to 40 letters, digits and . _ + - , beginning with a letter or digit",
        )
    return name


def version(explicit: str | None = None) -> str:
    """Return *explicit*, else REDURABLE_VERSION, else "": what a worker's code is called; checked."""
    text = os.environ.get("REDURABLE_VERSION", "").strip() if explicit is None else explicit
    return check_version(text) if text or explicit is not None else ""


def accepted(explicit: Iterable[str] = (), *, known: Sequence[str]) -> frozenset[str]:
    """
    Return the checks of the doctor that *explicit* or else REDURABLE_ACCEPT names, in any number of words with commas.

    Raises:
        ConfigurationError: One of them is not among *known*.
    """
    words = list(explicit) or [os.environ.get("REDURABLE_ACCEPT", "")]
    names = {name.strip().lower() for word in words for name in word.split(",") if name.strip()}
    if strange := sorted(names.difference(known)):
        raise ConfigurationError(
            f"{strange[0]!r} cannot be accepted", hint=f"--accept and REDURABLE_ACCEPT know {', '.join(known)}"
        )
    return frozenset(names)


def codec_target(explicit: str | None = None) -> str | None:
    """Return *explicit*, else REDURABLE_CODEC, else None: "module:attribute" of the payload codec."""
    return (os.environ.get("REDURABLE_CODEC", "") if explicit is None else explicit).strip() or None


def max_payload(explicit: int | None = None) -> int:
    """Return *explicit*, else REDURABLE_MAX_PAYLOAD, else 1 MiB: the largest payload, result or entry in bytes."""
    return number("REDURABLE_MAX_PAYLOAD", explicit, default=DEFAULT_LIMIT, least=1024, most=512 << 20)


def max_events() -> int:
    """Return REDURABLE_MAX_EVENTS, else 10,000: how many events of an intent are kept for its watchers."""
    return number("REDURABLE_MAX_EVENTS", None, default=10_000, least=100, most=10_000_000)


def log_level(explicit: str | None = None) -> str:
    """Return *explicit*, else REDURABLE_LOG_LEVEL, else INFO: a level's name in capitals."""
    text = explicit or os.environ.get("REDURABLE_LOG_LEVEL", "").strip() or "info"
    if text.upper() not in _LEVELS:
        raise ConfigurationError(f"there is no log level {text!r}", hint=f"use {', '.join(_LEVELS).lower()}")
    return text.upper()


def journal_limits() -> tuple[int, int]:
    """Return the most entries and bytes of a journal: REDURABLE_MAX_JOURNAL_ENTRIES and REDURABLE_MAX_JOURNAL_BYTES."""
    return (
        number("REDURABLE_MAX_JOURNAL_ENTRIES", None, default=100_000, least=5, most=100_000_000),
        number("REDURABLE_MAX_JOURNAL_BYTES", None, default=64 << 20, least=1024, most=1 << 40),
    )


def number(variable: str, explicit: int | None, *, default: int, least: int, most: int) -> int:
    """Return *explicit*, else the environment's *variable*, else *default*; outside the bounds is an error."""
    value = explicit
    if value is None:
        text = os.environ.get(variable, "").strip().replace("_", "")
        if not text:
            return default
        if not re.fullmatch(r"[0-9]+", text):
            raise ConfigurationError(f"{variable} must be a whole number, not {text!r}")
        value = int(text)
    if not least <= value <= most:
        raise ConfigurationError(f"{variable} must be from {least:,} to {most:,}, got {value:,}")
    return value
