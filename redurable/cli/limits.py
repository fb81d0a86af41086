"""`redurable limits`: which limits are in use, how much of them, and who waits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redurable.cli.common import AsJson, Namespace, Url, client_of
from redurable.cli.output import duration, note, print_json, run, table

__all__ = ["limits"]


def limits(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only limits of this name.")] = None,
    most: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="The most to show.")] = 50,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    List the limits in use, those with the longest lines first: places taken, what the rate counts now, who waits.

    A limit is declared in code, @handler(concurrency=5) or @step(limit=Limit("openai", rate=100, per=1)), and appears
    here while somebody uses it, waits for it, or is counted. Its name is its own, its queue's or its step's; each of
    its keys has numbers of its own. What is taken includes places that are kept for who was just called up.

    [bold]redurable limits openai[/bold]

    JSON: an array of objects: name, key, concurrency, used, rate, per (seconds), counted (of the rate, now), waiting,
    oldest_seconds (how long ago the oldest intent that waits was sent); what there is none of is null.
    """

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            return await client.limits()

    found = [limit for limit in run(work()) if name is None or limit.name == name]
    found = sorted(found, key=lambda limit: (-limit.waiting, limit.name, limit.key))
    shown = found[:most]
    if as_json:
        names = ("name", "key", "concurrency", "used", "rate", "per", "counted", "waiting", "oldest_seconds")
        print_json([{name: getattr(limit, name) for name in names} | {"key": limit.key or None} for limit in shown])
        return
    rows = [
        (i.name, i.key, "" if i.concurrency is None else f"{i.used}/{i.concurrency}",
         "" if i.rate is None else f"{i.counted}/{i.rate} in {duration(i.per)}", i.waiting,
         "" if i.oldest_seconds is None else duration(i.oldest_seconds))
        for i in shown
    ]  # fmt: skip
    none = "no limit is in use" if name is None else f"no limit {name!r} is in use"
    table(("limit", "key", "used", "rate", "waiting", "oldest"), rows, none, ("oldest", "rate", "key", "limit"))
    if len(found) > most:
        note(f"the first {most} of {len(found)} (--limit)")
