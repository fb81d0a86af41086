"""
Before a worker starts: is work kept on this server? The doctor's checks that may keep a worker away.

One connection of its own and two round trips, before anything is written there. A state that passes (a full memory, a
replica away) is told and keeps nobody away; nor does what the server will not tell.
"""

from __future__ import annotations

from collections.abc import Iterable

from redurable.config import Address, accepted
from redurable.errors import ConfigurationError
from redurable.events import emit
from redurable.store.checkup import examine
from redurable.store.verdict import ACCEPTABLE, Finding, judge

__all__ = ["guard"]


async def guard(address: Address, namespace: str, accept: Iterable[str] = ()) -> None:
    """
    Tell what is doubtful about the server at *address*; return if a worker may start there.

    Args:
        accept: Names of checks whose failure is accepted; none: those in REDURABLE_ACCEPT.

    Raises:
        ConfigurationError: UNSAFE_SERVER: what the worker accepts would be lost, or could not be run; nothing was
            written. NAMESPACE_TOO_NEW. BAD_ARGUMENT: a name in *accept* that cannot be accepted.
        StoreUnavailable: The server cannot be reached.
    """
    names = accepted(accept, known=ACCEPTABLE)
    findings = judge(await examine(address, namespace), accepted=names)
    bars = [finding for finding in findings if finding.bars]
    for finding in findings:
        if finding.severity != "ok" and not finding.bars:
            emit("server.doubtful", check=finding.check, seen=finding.seen, loss=finding.loss, remedy=finding.remedy)
    if bars:
        raise _refusal(address, bars)


def _refusal(address: Address, bars: list[Finding]) -> ConfigurationError:
    alone = [finding.check for finding in bars] == ["namespace"]
    lines = [f"{finding.check}: {finding.seen}\n  lost: {finding.loss}\n  do: {finding.remedy}" for finding in bars]
    names = [finding.check for finding in bars]
    hint = "redurable doctor tells it all"
    if set(names) <= set(ACCEPTABLE):
        hint += f"; to work there all the same: --accept {','.join(names)} (or REDURABLE_ACCEPT={','.join(names)})"
    return ConfigurationError(
        f"no work is trusted to {address.display}:\n" + "\n".join(lines),
        code="NAMESPACE_TOO_NEW" if alone else "UNSAFE_SERVER",
        hint=hint,
    )
