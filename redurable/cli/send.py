"""`redurable send`: one intent from the shell, and its result if it is waited for."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer

from redurable.cli.common import AsJson, Namespace, Url, client_of
from redurable.cli.output import note, print_json, print_line, run
from redurable.errors import ConfigurationError, IntentFailed, SessionBusy, WaitTimeout
from redurable.model import Priority
from redurable.options import Debounce
from redurable.options import OnBusy as OnBusyWord

__all__ = ["json_of", "labels_of", "send", "split_label", "target_of"]

_EXAMPLE = "redurable send QUEUE '{\"n\": 1}'"
_WAYS = {"SESSION_BUSY": "with --on-busy queue", "SESSION_FULL": "raise --max-queued"}

Key = Annotated[
    str | None, typer.Option("--key", "-k", help="Session key: intents that share it run one at a time, in order.")
]
Once = Annotated[
    str | None, typer.Option("--idempotency-key", help="Sent again with it, it returns the first intent's id.")
]
OnBusy = Annotated[
    str, typer.Option("--on-busy", help="If the session is not free: queue, reject, interrupt or replace.")
]
Quiet = Annotated[
    float | None,
    typer.Option("--debounce", min=0.001, help="Seconds of quiet: such sends until then become one, with the last."),
]
About = Annotated[str, typer.Option("--debounce-key", help="What --debounce is about; of the queue by default.")]
Within = Annotated[
    float | None, typer.Option("--debounce-max", min=0.001, help="Start within so many seconds of the first send.")
]
Deadline = Annotated[float | None, typer.Option("--deadline", min=0.0, help="Seconds after which it ends TIMED_OUT.")]
MaxQueued = Annotated[int | None, typer.Option("--max-queued", min=0, help="How many may wait in the session's line.")]


def send(
    queue: Annotated[
        str, typer.Argument(metavar="QUEUE", help="A queue, or module:function: then the payload is checked first.")
    ],
    payload: Annotated[str | None, typer.Argument(metavar="[PAYLOAD | -]", help="JSON, or - for stdin.")] = None,
    key: Key = None,
    idempotency_key: Once = None,
    on_busy: OnBusy = "queue",
    max_queued: MaxQueued = None,
    delay: Annotated[float | None, typer.Option("--delay", min=0.0, help="Seconds before it may start.")] = None,
    debounce: Quiet = None,
    debounce_key: About = "",
    debounce_max: Within = None,
    deadline: Deadline = None,
    priority: Annotated[
        Priority, typer.Option("--priority", help="Among the queue's fresh intents.")
    ] = Priority.NORMAL,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="K=V", help="A label to find it by; may be repeated.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the outcome and print the result.")] = False,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=0.0, help="With --wait: seconds after which only the wait ends.")
    ] = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: AsJson = False,
) -> None:
    """
    Send an intent, and print its id.

    [bold]redurable send myapp.handler '{"source": "s3://bucket"}'[/bold]

    [bold]redurable send myapp.handler '{"n": 1}' --wait --timeout 30[/bold]  prints the result

    [bold]redurable send mail '{"to": "a@b.c"}' --idempotency-key order-17 --delay 60 --label team=shop[/bold]

    [bold]redurable send chat '"hello"' --key customer-7 --max-queued 10[/bold]

    [bold]redurable send index '{"doc": 17}' --debounce 5 --debounce-key doc-17[/bold]

    [bold]redurable send myapp.handler - < payload.json[/bold]

    Once the id is printed the intent is stored and some worker will run it. With --wait the exit code is 0 if it
    COMPLETED, else 1.

    JSON: id; with --wait also status and result.
    """
    if timeout is not None and not wait:
        raise typer.BadParameter("--timeout goes with --wait")
    _check_line(key, on_busy, max_queued, delay)
    to, value = target_of(queue), json_of(payload, "the payload", _EXAMPLE)
    options: dict[str, Any] = {
        "idempotency_key": idempotency_key, "delay": delay, "deadline": deadline, "priority": priority,
        "labels": labels_of(label), "key": key, "on_busy": on_busy, "max_queued": max_queued,
    }  # fmt: skip
    others = [idempotency_key, delay, max_queued is not None, on_busy != "queue"]
    options |= _debounced(debounce, debounce_key, debounce_max, others)
    run(_send(client_of(url, namespace), to, value, options, wait=wait, timeout=timeout, as_json=as_json))


async def _send(
    client: Any, to: Any, value: Any, options: dict[str, Any], *, wait: bool, timeout: float | None, as_json: bool
) -> None:
    async with client:
        try:
            intent = await client.send(to, value, **options)
        except SessionBusy as busy:
            busy.hint = f"send it later, or {_WAYS[busy.code]}"
            raise
        if not wait:
            if as_json:
                print_json({"id": intent})
            else:
                print_line(intent)
                await _remark(client, to, intent)
            return
        if not as_json:
            note(f"sent {intent}, waiting for its outcome")
        try:
            result = await client.wait_for(intent, timeout)
        except TimeoutError:
            status = (await client.get(intent)).status.value
            raise WaitTimeout(
                f"intent {intent} is still {status} after {timeout:g} s",
                hint=f"it goes on; look with: redurable intents get {intent}",
            ) from None  # fmt: skip
        except IntentFailed as failed:
            if as_json:
                print_json({"id": intent, "status": failed.status, "result": None})
            raise
        if as_json:
            print_json({"id": intent, "status": "COMPLETED", "result": result})
        else:
            print_json(result)


async def _remark(client: Any, to: Any, intent: str) -> None:
    """Say so when nobody serves the queue: a misspelt name would otherwise wait in silence."""
    queue = (await client.get(intent)).queue
    served = {name for worker in await client.workers() if worker.alive for name in worker.queues}
    if queue not in served:
        known = f" (served now: {', '.join(sorted(served))})" if served else ""
        note(f"note: no worker serves queue {queue!r} now{known}; the intent waits for one")


def target_of(queue: str) -> str | Callable[..., Any]:
    """Return the queue that is named, or the handler that "module:function" names."""
    if ":" not in queue:
        return queue
    from redurable.cli.worker import load

    return load(queue, None, None)[0].function


def _check_line(key: str | None, on_busy: str, max_queued: int | None, delay: float | None) -> None:
    """Refuse, in the words of the command line, what no session can be asked for."""
    if on_busy == "queue" and max_queued is None:
        return
    if on_busy not in (ways := get_args(OnBusyWord)):
        raise ConfigurationError(f"--on-busy is one of {', '.join(ways)}, not {on_busy!r}")
    if key is None:
        raise ConfigurationError(
            "--on-busy and --max-queued are about a session: give its key", hint="for example: --key customer-7"
        )
    if delay:
        raise ConfigurationError(
            "--delay goes with --on-busy queue alone, and without --max-queued",
            hint="a delayed intent takes its place in line when it falls due, however long that is then",
        )


def _debounced(quiet: float | None, key: str, within: float | None, others: list[Any]) -> dict[str, Any]:
    """Return what `--debounce` and its like ask for, as an option of `send`; refuse what does not go with it."""
    if quiet is None:
        if key or within is not None:
            raise ConfigurationError("--debounce-key and --debounce-max go with --debounce", hint="add: --debounce 5")
        return {}
    if any(others):
        raise ConfigurationError(
            "--debounce goes with none of --idempotency-key, --delay, --on-busy, --max-queued",
            hint="say by --debounce-key which sends belong together",
        )
    if within is not None and within < quiet:
        raise ConfigurationError(f"--debounce-max is --debounce, {quiet:g} s, or more, not {within:g} s")
    return {"debounce": Debounce(quiet, key, within)}


def json_of(text: str | None, what: str, example: str) -> Any:
    """Return what JSON text, or stdin for "-", holds; a ConfigurationError that names *what* if it is none."""
    import json

    if text is None:
        return None
    try:
        return json.loads(sys.stdin.read() if text == "-" else text, parse_constant=functools.partial(_no_number, what))
    except (json.JSONDecodeError, RecursionError) as error:  # its message does not quote the text, which may be secret
        raise ConfigurationError(
            f"{what} is not JSON: {error}", code="BAD_ARGUMENT",
            hint=f"quote it for the shell: {example}; a text is '\"text\"'",
        ) from None  # fmt: skip


def _no_number(what: str, word: str) -> Any:
    raise ConfigurationError(
        f"{what} holds {word}, which is no JSON", code="BAD_ARGUMENT",
        hint="JSON has no such number: send null or a text for it",
    )  # fmt: skip


def labels_of(pairs: list[str] | None) -> dict[str, str] | None:
    """Return what "name=value" texts say, None for none."""
    return dict(split_label(pair) for pair in pairs) if pairs else None


def split_label(pair: str) -> tuple[str, str]:
    """Return the name and value of "name=value"."""
    name, separator, value = pair.partition("=")
    if not name or not separator:
        raise ConfigurationError(f"--label takes name=value, not {pair!r}", hint="for example: --label team=shop")
    return name, value
