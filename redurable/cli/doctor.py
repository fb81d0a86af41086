"""`redurable doctor`: is work kept on this server, what would be lost in which event, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from redurable.cli.common import Accept, AsJson, Namespace, Url
from redurable.cli.output import clean, print_json, run, table
from redurable.errors import RedurableError, StoreUnavailable

if TYPE_CHECKING:
    from redurable.config import Address
    from redurable.store.finding import Finding

__all__ = ["doctor"]

_PINGS = 20
_REFUSED, _UNCHECKED = 1, 2


def doctor(
    url: Url = None,
    namespace: Namespace = None,
    replicas: Annotated[
        int, typer.Option("--replicas", "-r", min=0, max=100, help="How many replicas are meant to be there.")
    ] = 0,
    accept: Accept = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings too end with exit code 1.")] = False,
    as_json: AsJson = False,
) -> None:
    """
    Check the server: what would be lost, in which event, and what to do.

    [bold]redurable doctor[/bold]  the server that workers here would use

    [bold]redurable doctor --url redis://db:6379 --replicas 1 --strict[/bold]  in a pipeline

    It looks at version, mode, namespace, persistence, disk, eviction, memory, replicas, clock, latency, connections,
    rights, transport, settings and workers, and writes nothing: the commands that redurable needs are rehearsed in a
    transaction that is discarded. Where CONFIG or INFO is forbidden, it says what could not be checked.

    Exit code 0: work is safe here, perhaps with warnings; 1: it is refused here (with --strict also on warnings);
    2: the server could not be checked. `redurable worker` does not start on what is marked "no worker starts".

    JSON: url, namespace, verdict (ok, warn, fail, unchecked), findings: check, severity (ok, warn, fail), seen, loss,
    remedy, bars (no worker starts), accepted.
    """
    from redurable.config import accepted
    from redurable.config import namespace as namespace_of
    from redurable.store.address import address_of
    from redurable.store.checkup import examine
    from redurable.store.verdict import ACCEPTABLE, judge, verdict_of

    names = accepted(accept or (), known=ACCEPTABLE)
    address, space = address_of(url), namespace_of(namespace)

    async def work() -> Any:
        return await examine(address, space, pings=_PINGS)

    try:
        findings = judge(run(work()), replicas=replicas, accepted=names)
    except StoreUnavailable as error:
        _tell(address, space, "unchecked", [_unreachable(error)], as_json)
        raise typer.Exit(_UNCHECKED) from None
    verdict = verdict_of(findings)
    _tell(address, space, verdict, findings, as_json)
    raise typer.Exit(_REFUSED if verdict == "fail" or (strict and verdict == "warn") else 0)


def _unreachable(error: RedurableError) -> Finding:
    from redurable.store.finding import Finding

    refused = error.code == "AUTH_FAILED"
    return Finding(
        check="credentials" if refused else "connection",
        severity="fail",
        seen=error.message,
        loss="nothing that is stored; nothing can be sent or run from here",
        remedy=error.hint or "see the server's log",
        bars=True,
    )


def _tell(address: Address, space: str, verdict: str, findings: list[Finding], as_json: bool) -> None:
    if as_json:
        print_json({"url": address.display, "namespace": space, "verdict": verdict, "findings": findings})
        return
    if verdict != "unchecked":  # there the one finding is all there is
        rows = [(f.check, f.severity, clean(f.seen)) for f in findings]
        table(("check", "verdict", "seen"), rows, "nothing was checked")
        print()
    for finding in findings:
        if finding.severity != "ok":
            mark = " (no worker starts)" if finding.bars else " (accepted)" if finding.accepted else ""
            print(f"{finding.severity} {finding.check}{mark}: {clean(finding.seen)}")
            print(f"  lost: {clean(finding.loss)}\n  do:   {clean(finding.remedy)}\n")
    lived_with = [finding for finding in findings if finding.accepted]
    for finding in lived_with:
        print(f"accepted: {finding.check}; work would be lost {clean(finding.loss)}")
    told = {
        "ok": "work is safe on", "warn": "work is safe but for the warnings above, on",
        "fail": "work is not safe, or not possible now, on", "unchecked": "could not check",
    }  # fmt: skip
    if lived_with and verdict == "warn":
        told["warn"] = "workers start all the same on"
    print(f"{told[verdict]} {clean(address.display)}")
