"""`redurable sessions`: who holds a session, who waits, what it keeps; its head skipped, cancelled, retried."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redurable.cli.common import AsJson, Namespace, Url, client_of
from redurable.cli.output import duration, fields, note, print_json, print_line, run, table

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    help="Look at sessions; skip, cancel or retry the intent that holds one.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The session's key, as it was sent with.")]
Why = Annotated[str, typer.Option("--note", help="Why; it is kept with the intent.")]


def as_fields(session: Any) -> dict[str, Any]:
    """Return what JSON says of a session."""
    return {
        "queue": session.queue,
        "key": session.key,
        "holder": session.holder,
        "status": session.status and session.status.value,
        "reason": session.reason and session.reason.value,
        "waiting": session.waiting,
        "oldest_seconds": session.oldest_seconds,
        "names": session.names,
        "bytes": session.bytes,
    }


def _status(session: Any) -> str:
    if session.status is None:
        return ""
    return f"{session.status.value} ({session.reason.value})" if session.reason else str(session.status.value)


@app.command("list")
def list_(
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Only of this queue.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="The most to show.")] = 50,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    List sessions, those with the longest lines first: holder, how many wait and how long, how much the state takes.

    [bold]redurable sessions list -q myapp.handler[/bold]

    JSON: an array of objects: queue, key, holder, status and reason (the holder's), waiting, oldest_seconds (of those
    that wait), names (in its state), bytes (of memory that they take, about).
    """

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            return await client.sessions.list(queue=queue, limit=limit)

    found = run(work())
    if as_json:
        print_json([as_fields(session) for session in found])
        return
    rows = [
        (s.queue, s.key, s.holder, _status(s), s.waiting,
         "" if s.oldest_seconds is None else duration(s.oldest_seconds), s.names, s.bytes)
        for s in found
    ]  # fmt: skip
    table(("queue", "key", "holder", "status", "waiting", "oldest", "names", "bytes"), rows, "no sessions",
          ("bytes", "names", "oldest", "queue", "key"))  # fmt: skip
    if len(found) == limit:
        note(f"the first {limit}; there may be more (--limit)")


@app.command("get")
def get(
    queue: Queue,
    key: Key,
    values: Annotated[bool, typer.Option("--values", help="Show the state too; it may be secret.")] = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Show one session: its holder, the first hundred that wait, the names in its state.

    [bold]redurable sessions get myapp.handler customer-7 --values[/bold]

    JSON: the fields of `sessions list`, line (ids of those that wait), state (names; with --values an object).
    """

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            session, state = await client.sessions.get(queue, key), client.state(queue, key)
            names = await state.keys()
            return session, {name: await state.get(name) if values else None for name in names}

    session, state = run(work())
    if as_json:
        print_json(
            as_fields(session) | {"line": list(session.line), "state": state if values else list(state)}
        )  # fmt: skip
        return
    fields([
        ("queue", session.queue),
        ("key", session.key),
        ("holder", session.holder),
        ("status", _status(session)),
        ("waiting", session.waiting or ""),
        ("oldest", "" if session.oldest_seconds is None else duration(session.oldest_seconds)),
        ("line", "\n".join(session.line)),
        ("state", "" if values else ", ".join(state)),
        ("bytes", session.bytes or ""),
    ])  # fmt: skip
    if values:
        table(("name", "value"), state.items(), "an empty state", ("value",))


def _done(as_json: bool, intent: str, answer: str) -> None:
    if as_json:
        print_json({"id": intent, "answer": answer})
    else:
        print_line(f"{intent}  {answer}")


@app.command("skip")
def skip(
    queue: Queue, key: Key, why: Why = "", url: Url = None, namespace: Namespace = None, as_json: AsJson = False
) -> None:
    """
    Set the head aside, so that the next in line begins: it ends FAILED, and `intents retry` continues it.

    For a head that waits or retries; one that is being run is cancelled instead.

    JSON: id, answer.
    """

    async def work() -> str:
        async with client_of(url, namespace) as client:
            return await client.sessions.skip(queue, key, why)

    _done(as_json, run(work()), "FAILED")


@app.command("cancel")
def cancel(
    queue: Queue, key: Key, why: Why = "", url: Url = None, namespace: Namespace = None, as_json: AsJson = False
) -> None:
    """
    Ask the head to end, as `intents cancel` does; the next in line begins when it has.

    JSON: id, answer.
    """

    async def work() -> tuple[str, str]:
        async with client_of(url, namespace) as client:
            return await client.sessions.cancel(queue, key, why)

    _done(as_json, *run(work()))


@app.command("retry")
def retry(queue: Queue, key: Key, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    Retry the head now, if it waits for its next try or is held; else the intent of the session that failed last.

    One that failed goes next, when the holder has ended; it is refused, ALREADY_UNDONE, if its undo work has run:
    [bold]redurable intents fork[/bold] it instead.

    JSON: id, answer.
    """

    async def work() -> str:
        async with client_of(url, namespace) as client:
            return await client.sessions.retry(queue, key)

    _done(as_json, run(work()), "RETRIED")
