"""`redurable deployments`: versions of the code that workers run, which one fresh intents go to, which may go."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redurable.cli.common import AsJson, Namespace, Url, client_of
from redurable.cli.output import age, iso, note, print_json, print_line, run, table
from redurable.cli.rehearse import check
from redurable.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(
    invoke_without_command=True, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)
_NEWEST = "newest"


@app.callback()
def list_(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that are retired: no worker, nothing open, not current.")
    ] = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    List deployment versions: their workers and open intents, and whether they are safe to retire.

    [bold]redurable worker myapp --version v2[/bold]  a worker of version v2

    An intent stays on the version whose worker took it up first, whatever happens to it: keep workers of that version
    until it has no open intents. Fresh intents go to the queue's current version: the newest, or the one promoted by
    [bold]redurable deployments promote[/bold]. What began before there were versions is taken by any worker.

    [bold]redurable deployments check myapp[/bold] says whether this code could go on with what is open.

    JSON: an array of objects: queue, version (null: pinned to none), current, promoted, since, workers, intents,
    fresh, oldest, safe, why.
    """
    if context.invoked_subcommand is not None:
        return

    async def work() -> Any:
        async with client_of(url, namespace) as client:
            return await client.deployments.list()

    found = [d for d in run(work()) if everything or d.workers or not d.safe]
    if as_json:
        print_json([
            {
                "queue": d.queue, "version": d.version, "current": d.current, "promoted": d.promoted,
                "since": None if d.since is None else iso(d.since), "workers": d.workers, "intents": d.intents,
                "fresh": d.fresh, "oldest": None if d.oldest is None else iso(d.oldest), "safe": d.safe, "why": d.why,
            }
            for d in found
        ])  # fmt: skip
        return
    rows = [
        (d.queue, d.version or "-", ("promoted" if d.promoted else "newest") if d.current else "", d.workers, d.intents,
         "" if d.oldest is None else age(d.oldest), "" if d.version is None else "yes" if d.safe else "no", d.why)
        for d in found
    ]  # fmt: skip
    columns = ("queue", "version", "current", "workers", "intents", "oldest", "retire", "why")
    empty = "no deployment versions: no worker was started with --version"
    table(columns, rows, empty, ("oldest", "why", "workers", "queue"))
    for d in found:
        if d.version is not None and d.why == "has work and no worker":
            note(f"note: {d.queue}: start a worker of version {d.version}, or nobody goes on with its work")


@app.command("promote")
def promote(
    words: Annotated[
        list[str], typer.Argument(metavar="[QUEUE] VERSION", help='The version; "newest": whichever registered last.')
    ],
    everywhere: Annotated[bool, typer.Option("--all", help="In every queue that knows the version.")] = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Send fresh intents of a queue to one version from now on.

    [bold]redurable deployments promote myapp.handler v1[/bold]  roll back

    [bold]redurable deployments promote --all v2[/bold]  every queue that has workers of v2, or had

    [bold]redurable deployments promote myapp.handler newest[/bold]  back to the newest, as without promotion

    What has begun stays on its version. Promote the present version before starting workers of the next, and that one
    takes nothing until it is promoted.

    JSON: an array of objects: queue, version (null: the newest).
    """
    if len(words) != (1 if everywhere else 2):
        raise ConfigurationError(
            "a queue and a version are needed, or --all and a version",
            hint="redurable deployments promote QUEUE VERSION | promote --all VERSION",
        )
    version = None if words[-1] == _NEWEST else words[-1]

    async def work() -> list[str]:
        async with client_of(url, namespace) as client:
            if everywhere:
                return await client.deployments.promote_all(version)
            await client.deployments.promote(words[0], version)
            return [words[0]]

    queues = run(work())
    if as_json:
        print_json([{"queue": queue, "version": version} for queue in queues])
        return
    for queue in queues:
        print_line(f"{queue}  {version or 'the newest version'} is current")


app.command("check")(check)
