"""`redurable queues` and `redurable workers`: what there is to do, who does it, and what is not to be done now."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redurable.cli.common import AsJson, Namespace, Url, check_known, client_of
from redurable.cli.output import age, duration, iso, note, print_json, print_line, run, table

__all__ = ["queues", "workers"]


queues = typer.Typer(
    invoke_without_command=True, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)
Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.")]


@queues.callback()
def list_(context: typer.Context, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    List queues: how much waits, runs and is suspect, and how many workers serve them.

    Queued ones are taken by the next free worker. Delayed ones have their start to come, waiting ones sleep, are to be
    tried again, wait for news or for a limit; unknown ones are put down every five seconds because no worker that met
    them has a handler of their type. Suspects' process died twice; each is run alone, so that it takes no others with
    it.

    JSON: an array of objects: name, queued, running, delayed, waiting (by reason), unknown, suspects, oldest_seconds,
    workers, paused.
    """
    if context.invoked_subcommand is not None:
        return

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            return await client.queues()

    found = run(work())
    if as_json:
        names = (
            "name", "queued", "running", "delayed", "waiting", "unknown", "suspects", "oldest_seconds", "workers",
            "paused",
        )  # fmt: skip
        print_json([{name: getattr(queue, name) for name in names} for queue in found])
        return
    rows = [
        (q.name, q.queued, q.running, q.delayed, sum(q.waiting.values()) - q.unknown, q.unknown, q.suspects,
         "" if q.oldest_seconds is None else duration(q.oldest_seconds), q.workers)
        for q in found
    ]  # fmt: skip
    columns = ("queue", "queued", "running", "delayed", "waiting", "unknown", "suspects", "oldest", "workers")
    table(columns, rows, "no queues yet", ("suspects", "unknown", "oldest", "delayed", "workers", "waiting", "queue"))
    for text, some in (
        ("it is paused: workers take nothing of it", [q for q in found if q.paused]),
        (
            "what is queued there waits for a worker, and none serves it",
            [q for q in found if q.queued and not q.workers and not q.paused],
        ),
        ("a worker that serves it has no handler of some types sent to it", [q for q in found if q.unknown]),
        (
            "what is ready there is for a deployment version that no worker runs: redurable deployments",
            [q for q in found if q.workers and any(v.ready and not v.workers for v in q.versions)],
        ),
        ("processes died over some of what it holds", [q for q in found if q.suspects]),
    ):
        for queue in some:
            note(f"note: {queue.name}: {text}")


@queues.command("pause")
def pause(queue: Queue, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    Let workers take nothing more of a queue until it is resumed.

    What runs goes on; what is sent or falls due meanwhile waits in the queue. It is kept over restarts of workers and
    server.

    JSON: an object: name, paused.
    """
    _gate(client_of(url, namespace), queue, True, as_json)


@queues.command("resume")
def resume(queue: Queue, url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    Let workers take work of a paused queue again.

    JSON: an object: name, paused.
    """
    _gate(client_of(url, namespace), queue, False, as_json)


def _gate(client: Any, queue: str, closed: bool, as_json: bool) -> None:
    async def work() -> None:
        async with client:
            await check_known(client, queue)
            await (client.pause_queue(queue) if closed else client.resume_queue(queue))

    run(work())
    if as_json:
        print_json({"name": queue, "paused": closed})
    else:
        print_line(f"{queue}  {'paused' if closed else 'resumed'}")


def workers(url: Url = None, namespace: Namespace = None, as_json: AsJson = False) -> None:
    """
    List worker processes: what they serve, how much they run, whether they live.

    JSON: an array of objects: id, alive, host, pid, queues, running, concurrency, started, renewed, python, release,
    version.
    """

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            return await client.workers()

    found = run(work())
    if as_json:
        print_json([
            {
                "id": w.id, "alive": w.alive, "host": w.host, "pid": w.pid, "queues": list(w.queues),
                "running": w.running, "concurrency": w.concurrency, "started": iso(w.started),
                "renewed": iso(w.renewed), "python": w.python, "release": w.release,
                "version": w.version or None,
            }
            for w in found
        ])  # fmt: skip
        return
    versioned = any(w.version for w in found)
    rows = [
        (w.id, "yes" if w.alive else "no", w.host, w.pid, ", ".join(w.queues), f"{w.running}/{w.concurrency}",
         age(w.started), age(w.renewed), w.python, *([w.version or "-"] if versioned else []))
        for w in found
    ]  # fmt: skip
    columns = ["worker", "alive", "host", "pid", "queues", "running", "started", "renewed", "python"]
    columns += ["version"] if versioned else []
    table(columns, rows, "no workers", ("python", "started", "pid", "host", "renewed", "queues"))
