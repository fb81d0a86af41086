"""`redurable deployments check`: would this code go on with the intents that are open?"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from redurable.cli.common import AsJson, Namespace, Url, client_of
from redurable.cli.output import note, print_json, run, table
from redurable.cli.worker import AppDir, CodecOf, Queue, Target, load
from redurable.errors import ConfigurationError, NotFound, WrongState

if TYPE_CHECKING:
    from redurable.codecs.base import Vault
    from redurable.runtime.handlers import HandlerSpec
    from redurable.testing.rehearsal import Finding

__all__ = ["check"]

Specs = dict[str, dict[str, "HandlerSpec"]]
_HELD = frozenset({"JOURNAL_MISMATCH", "TYPE_CHANGED", "UNREADABLE"})


def check(
    target: Target,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="FILE", help="What intents export wrote; - for stdin. Default: Redis."),
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="NAME", help="Only intents that are pinned to this version.")
    ] = None,
    queue: Queue = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for what only changes, too.")] = False,
    app_dir: AppDir = None,
    codec: CodecOf = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Replay the journals of all open intents against the code in front of it, and say which would break, and where.

    [bold]redurable deployments check myapp[/bold]  before a worker of it is started

    [bold]redurable intents export --queue orders > open.jsonl[/bold], then
    [bold]redurable deployments check myapp:handler --from open.jsonl[/bold] where Redis is not

    Nothing is written, and no step's body runs: only the code of handlers between their calls does. Each is followed
    to where it stands. What breaks: JOURNAL_MISMATCH (a step was renamed, moved, removed, or put before it) and
    TYPE_CHANGED (a payload or a recorded result fits its type no more), for which it would be held until code that fits
    comes; BAD_PAYLOAD, RAISES, UNKNOWN_TYPE, UNREADABLE. What does not: CODE_CHANGED (a recorded step has other code
    now; its result stands), STANDS_STILL.

    Exit code 0: nothing breaks; 1: something does.

    JSON: an object: checked, breaks and changes (intents), findings (an array of objects: intent, queue, version, code,
    breaks, seq, step, scope, message).
    """
    from redurable.codecs.base import vault_of
    from redurable.config import check_version
    from redurable.worker.registry import by_queue

    if version is not None:
        check_version(version)
    specs = by_queue(load(target, queue, str(app_dir.resolve()) if app_dir is not None else None))
    records = _stored(specs, version, url, namespace) if source is None else _written(source, specs, version)
    checked, findings = run(_all(records, specs, vault_of(codec)))
    breaks = {f.intent for f in findings if f.breaks}
    changes = {f.intent for f in findings} - breaks
    if as_json:
        print_json({
            "checked": checked, "breaks": len(breaks), "changes": len(changes),
            "findings": [msgspec.structs.asdict(f) for f in findings],
        })  # fmt: skip
    else:
        _say(checked, findings, breaks, changes)
    raise typer.Exit(1 if breaks or (strict and changes) else 0)


async def _all(
    records: AsyncIterator[tuple[dict[str, Any], int]], specs: Specs, vault: Vault | None
) -> tuple[int, list[Finding]]:
    """Rehearse each of *records*; return how many there were, and what was found."""
    from redurable.testing.rehearsal import rehearse

    count, found = 0, list["Finding"]()
    with _progress() as tell:
        async for record, total in records:
            with contextlib.redirect_stdout(sys.stderr):  # what the handlers print is not our answer
                found += await asyncio.to_thread(rehearse, specs[record["head"]["queue"]], record, vault)
            count += 1
            tell(count, total)
    return count, found


def _say(checked: int, findings: list[Finding], breaks: set[str], changes: set[str]) -> None:
    rows = [
        (f.intent, f.code, "" if f.seq is None else f.seq, "/".join(filter(None, (f.scope, f.step))), f.message)
        for f in sorted(findings, key=lambda f: (not f.breaks, f.code))
    ]
    if rows:
        table(("intent", "finding", "seq", "step", "what"), rows, "", ("seq", "what"))
    held = len({f.intent for f in findings if f.code in _HELD})
    told = f"{len(breaks):,} would break" if breaks else "none would break"
    told += f" ({held:,} would be held: serve both with patched(), or pin them with --version)" if held else ""
    more = f"; {len(changes):,} would go on with results of other code" if changes else ""
    note(f"{checked:,} open intents followed to where they stand: {told}{more}")


async def _stored(
    specs: Specs, version: str | None, url: str | None, namespace: str | None
) -> AsyncIterator[tuple[dict[str, Any], int]]:
    """Give each open intent's record, and how many there are."""
    async with client_of(url, namespace) as client:
        ids = await client.deployments.intents(specs.keys(), version)
        for intent in ids:
            try:
                record = await client.export(intent)
            except (NotFound, WrongState):
                continue  # it is gone, or changes as one looks: it goes on somewhere
            if record["head"]["status"] not in ("COMPLETED", "FAILED", "CANCELED", "TIMED_OUT"):
                yield record, len(ids)


async def _written(source: str, specs: Specs, version: str | None) -> AsyncIterator[tuple[dict[str, Any], int]]:
    """Give each open intent's record in a file."""
    lines = _lines(source)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = msgspec.json.decode(line)
            head = record["head"]
            of_ours = head["queue"] in specs and version in (None, head.get("version"))
            ended = head["status"] in ("COMPLETED", "FAILED", "CANCELED", "TIMED_OUT")
        except (msgspec.DecodeError, TypeError, KeyError, AttributeError):
            raise ConfigurationError(
                f"line {number} of {source} is no exported intent", code="BAD_IMPORT",
                hint="each line of the file is one JSON object, as `redurable intents export` writes it",
            ) from None  # fmt: skip
        if of_ours and not ended:
            yield record, len(lines)


def _lines(source: str) -> list[str]:
    try:
        return (sys.stdin.read() if source == "-" else Path(source).read_text()).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source} cannot be read: {error}") from None


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """Give a function that shows how many are done of how many, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replaying", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
