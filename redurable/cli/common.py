"""Options that commands share, and how a command gets its client."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from redurable.errors import ConfigurationError, NotFound

if TYPE_CHECKING:
    from redurable.client import Client

__all__ = ["PATIENCE", "Accept", "AsJson", "Namespace", "Url", "check_known", "client_of", "seconds_of"]

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
PATIENCE = 10.0  # s that a command waits for a server that went away meanwhile

Url = Annotated[
    str | None,
    typer.Option(
        "--url", "-u", metavar="URL",
        help="The server: redis://user:password@host:6379/0, rediss://..., unix:///path. "
        "Default: REDURABLE_URL, REDIS_URL, then this project's own server (redurable dev).",
    ),
]  # fmt: skip
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", help="What every key begins with. Default: REDURABLE_NAMESPACE, rd."),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(
        "--accept", metavar="CHECK",
        help="Failures of redurable doctor to live with: persistence, eviction; with commas or repeated. "
        "Default: REDURABLE_ACCEPT.",
    ),
]  # fmt: skip
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def client_of(url: str | None, namespace: str | None) -> Client:
    """Return the client that a command works with."""
    from redurable.client import Client

    return Client(url, namespace=namespace, patience=PATIENCE)


async def check_known(client: Client, queue: str) -> None:
    """Refuse a queue that neither an intent nor a worker has ever named."""
    names = {q.name for q in await client.queues()} | {name for w in await client.workers() for name in w.queues}
    if queue not in names and not await client.list(queue=queue, limit=1):  # a delayed intent makes no stream yet
        raise NotFound(
            f"there is no queue {queue!r}", code="QUEUE_NOT_FOUND",
            hint=f"known are: {', '.join(sorted(names))}" if names else "nothing was sent to this namespace yet",
        )  # fmt: skip


def seconds_of(text: str | None) -> float | None:
    """Return the seconds that *text* says: 90, 90s, 15m, 2h, 7d."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise ConfigurationError(f"{text!r} is no time", hint="give seconds, or a number with s, m, h or d: 15m, 7d")
    return float(found[1]) * _UNITS[found[2]]
