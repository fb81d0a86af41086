"""`redurable schedules`: what is sent by the clock, last and next; put, paused, resumed, triggered, deleted."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redurable.cli.common import AsJson, Namespace, Url, client_of, seconds_of
from redurable.cli.output import age, duration, fields, iso, moment, note, print_json, print_line, run, table
from redurable.cli.send import json_of, labels_of, target_of
from redurable.model import Priority

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Send by the clock: put schedules, look at them, pause, resume, trigger and delete them.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_EXAMPLE = "redurable schedules put nightly report '{\"kind\": \"full\"}' --cron '0 2 * * *'"
Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule.")]
Overlap = Annotated[
    str, typer.Option("--overlap", help="If the intent before is open: allow, skip, queue or replace (cancels it).")
]
CatchUp = Annotated[
    str, typer.Option("--catch-up", help="Of ticks that nobody was there to fire: one (the latest), all, or none.")
]


def as_fields(info: Any) -> dict[str, Any]:
    """Return what JSON says of a schedule."""
    return {
        "name": info.name,
        "cron": info.cron,
        "every": info.every,
        "tz": info.tz,
        "jitter": info.jitter,
        "queue": info.queue,
        "type": info.type,
        "overlap": info.overlap,
        "catch_up": info.catch_up,
        "window": info.window,
        "paused": info.paused,
        "made": iso(info.made or None),
        "next": iso(info.next),
        "last": info.last,
        "status": info.status and info.status.value,
        "tick": iso(info.tick),
        "at": iso(info.at),
        "fired": info.fired,
        "skipped": info.skipped,
        "missed": info.missed,
        "declared": info.declared or None,
        "unreadable": info.unreadable,
    }


def _rhythm(info: Any) -> str:
    if info.unreadable:
        return "unreadable"
    return f"every {duration(info.every)}" if info.every else f"{info.cron} ({info.tz})"


def _next(info: Any) -> str:
    return "?" if info.unreadable else "paused" if info.paused else age(info.next) or "never"


@app.command("list")
def list_(url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    List schedules: when they are due, how the intent of the last firing is, how many ticks were missed or skipped.

    [bold]redurable schedules list[/bold]

    [bold]redurable intents list --label schedule=NAME[/bold]  all intents of one

    JSON: an array of objects: name, cron, every, tz, jitter, queue, type, overlap, catch_up, window (s), paused, made,
    next (null: never, or paused), last (the intent of the last firing), status (its), tick (what it was for), at (when
    it was fired), fired, skipped, missed, declared (the handler in whose code it stands), unreadable (why nothing but
    its name is known: a later version of redurable wrote it, say).
    """

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            return await client.schedules.list()

    found = run(work())
    if as_json:
        print_json([as_fields(info) for info in found])
        return
    rows = [
        (s.name, _rhythm(s), s.queue, _next(s), age(s.at), s.status.value if s.status else "", s.fired, s.missed,
         s.skipped)
        for s in found
    ]  # fmt: skip
    for unreadable in (s.unreadable for s in found if s.unreadable):
        note(unreadable)
    table(("name", "when", "queue", "next", "last", "status", "fired", "missed", "skipped"), rows, "no schedules",
          ("skipped", "fired", "queue", "last", "missed", "when"))  # fmt: skip


@app.command("get")
def get(name: Name, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    Show one schedule, and its next ticks.

    [bold]redurable schedules get nightly[/bold]

    JSON: the fields of [bold]schedules list[/bold], and upcoming (the next five ticks).
    """

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            return await client.schedules.get(name)

    _show(run(work()), as_json)


def _show(info: Any, as_json: bool) -> None:
    if as_json:
        print_json(as_fields(info) | {"upcoming": [iso(tick) for tick in info.upcoming]})
        return
    fields([
        ("name", info.name),
        ("when", _rhythm(info)),
        ("jitter", duration(info.jitter) if info.jitter else ""),
        ("queue", info.queue + (f" ({info.type})" if info.type else "")),
        ("overlap", info.overlap),
        ("catch-up", f"{info.catch_up}, of the last {duration(info.window)}"),
        ("next", "paused" if info.paused else moment(info.next) or "never"),
        ("upcoming", "\n".join(str(iso(tick)) for tick in info.upcoming)),
        ("last", " ".join(filter(None, (info.last, info.status and info.status.value, moment(info.at))))),
        ("fired", info.fired),
        ("missed", info.missed or ""),
        ("skipped", info.skipped or ""),
        ("declared", info.declared),
    ])  # fmt: skip


@app.command("put")
def put(
    name: Name,
    queue: Annotated[
        str, typer.Argument(metavar="QUEUE", help="A queue, or module:function: then the payload is checked first.")
    ],
    payload: Annotated[str | None, typer.Argument(metavar="[PAYLOAD | -]", help="JSON, or - for stdin.")] = None,
    cron: Annotated[str | None, typer.Option("--cron", help="'minute hour day month weekday', or @daily, ...")] = None,
    every: Annotated[str | None, typer.Option("--every", help="Instead: 30s, 5m, 2h; at multiples of it.")] = None,
    tz: Annotated[str, typer.Option("--tz", help="The time zone of --cron: Europe/Berlin.")] = "UTC",
    overlap: Overlap = "allow",
    catch_up: CatchUp = "one",
    window: Annotated[str | None, typer.Option("--window", help="How late a tick may be fired: 90s, 2h, 1d.")] = None,
    jitter: Annotated[str | None, typer.Option("--jitter", help="Fire up to so much later: 30s.")] = None,
    key: Annotated[str | None, typer.Option("--key", "-k", help="Session key of its intents.")] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", help="An intent's time before it is TIMED_OUT.")] = None,
    priority: Annotated[
        Priority, typer.Option("--priority", help="Among the queue's fresh intents.")
    ] = Priority.NORMAL,
    label: Annotated[list[str] | None, typer.Option("--label", "-l", metavar="K=V", help="A label of them.")] = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Send PAYLOAD to QUEUE by the clock, from now on; put again under the same name it takes the old one's place.

    [bold]redurable schedules put nightly report '{"kind": "full"}' --cron '0 2 * * *' --tz Europe/Berlin[/bold]

    [bold]redurable schedules put poll feeds --every 5m --overlap skip[/bold]

    Each tick is fired once, however many workers there are, and none when there is no worker; see --catch-up. Where the
    clocks change, a fixed time that is left out runs right after, and one that comes twice runs once.

    JSON: as of [bold]schedules get[/bold].
    """
    to, value = target_of(queue), json_of(payload, "the payload", _EXAMPLE)
    options: Any = {
        "cron": cron, "every": seconds_of(every), "tz": tz, "overlap": overlap, "catch_up": catch_up,
        "window": seconds_of(window), "jitter": seconds_of(jitter), "key": key, "deadline": seconds_of(deadline),
        "priority": priority, "labels": labels_of(label),
    }  # fmt: skip

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            return await client.schedules.put(name, to=to, payload=value, **options)

    _show(run(work()), as_json)


def _do(verb: str, name: str, done: str, place: tuple[str | None, str | None], as_json: bool) -> None:
    async def work() -> Any:
        async with client_of(*place) as client:
            return await getattr(client.schedules, verb)(name)

    intent = run(work())
    if as_json:
        print_json({"name": name, "answer": done} | ({"id": intent} if intent else {}))
    else:
        print_line(intent or f"{name}  {done}")


@app.command("pause")
def pause(name: Name, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    Let a schedule fire nothing until it is resumed; intents that it has sent go on.

    JSON: name, answer.
    """
    _do("pause", name, "PAUSED", (url, namespace), as_json)


@app.command("resume")
def resume(name: Name, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    Let a paused schedule fire again, from its next tick on; what fell due meanwhile is not made up.

    JSON: name, answer.
    """
    _do("resume", name, "RESUMED", (url, namespace), as_json)


@app.command("trigger")
def trigger(name: Name, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    Fire a schedule now, paused or not, and print the intent's id; its ticks stay as they are.

    JSON: name, answer, id.
    """
    _do("trigger", name, "TRIGGERED", (url, namespace), as_json)


@app.command("delete")
def delete(name: Name, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    Forget a schedule; intents that it has sent stay. One that stands in code comes again when a worker starts.

    JSON: name, answer.
    """
    _do("delete", name, "DELETED", (url, namespace), as_json)
