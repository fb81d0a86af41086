"""One result of the doctor, and the words that all of its checks write alike."""

from __future__ import annotations

import shlex
from typing import Literal

import msgspec

from redurable.config import Address
from redurable.store.checkup import Facts

__all__ = ["Finding", "console", "setting", "size", "whole"]

# what redis-cli calls the TLS options that name a file
_TLS_FILES = {
    "ssl_ca_certs": "--cacert", "ssl_ca_path": "--cacertdir", "ssl_certfile": "--cert", "ssl_keyfile": "--key",
}  # fmt: skip


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one check has to say.

    Attributes:
        check: The check's name, stable.
        seen: What is the case.
        loss: What would be lost in which event; "" when there is nothing to say.
        remedy: What to do about it; "" when nothing is to be done.
        bars: Whether a worker does not start on it.
        accepted: Whether it was a failure that somebody accepted.
    """

    check: str
    severity: Literal["ok", "warn", "fail"]
    seen: str
    loss: str = ""
    remedy: str = ""
    bars: bool = False
    accepted: bool = False


def console(address: Address) -> str:
    """
    Return how `redis-cli` reaches the server at *address* and no other, as a shell takes it.

    No password is in it: where one is needed, the reader puts in the URL (`-u URL` as it stands reaches nothing), or
    is asked for the password at a socket, which redis-cli takes no URL for.
    """
    secret = address.password is not None or address.username is not None
    words = ["redis-cli"]
    if address.kind == "unix":
        words += ["-s", address.path]
        if secret:
            words += [*(("--user", address.username) if address.username else ()), "--askpass"]
        return shlex.join(words)
    host = f"[{address.host}]" if ":" in address.host else address.host
    words += ["-u", "URL" if secret else f"redis{'s' if address.tls else ''}://{host}:{address.port}"]
    for name, word in _TLS_FILES.items():
        if name in address.options:
            words += [word, str(address.options[name])]
    return shlex.join(words)


def setting(facts: Facts, name: str, value: str) -> str:
    """Return how *name* is set to *value* on this server, now and for its next start."""
    quoted = f'"{value}"' if " " in value else value
    if facts.config is None:
        return f"in the provider's settings, or its configuration file: {name} {value}"
    return f"{console(facts.address)} CONFIG SET {name} {quoted} (and in redis.conf: {name} {value})"


def size(count: int | None) -> str:
    """Return a number of bytes as people say it."""
    value = float(count or 0)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def whole(text: str | None) -> int | None:
    """Return the number that *text* is, None if it is none."""
    return int(text) if text is not None and text.isascii() and text.isdigit() else None
