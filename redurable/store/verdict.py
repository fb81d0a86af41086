"""
What the facts of a checkup mean: for each check what was seen, what would be lost in which event, and what to do.

Pure: facts in, findings out. A finding is `ok`, `warn` (work is safe or nearly, something is worse than it could be) or
`fail` (work would be lost, or cannot be done now). Some failures *bar* a worker: settings under which what it accepts
would be lost or could not be done at all. States that pass (a full memory, a full disk, a replica away) bar nobody:
calls are held back meanwhile, and a worker is what frees memory. Of what bars, `ACCEPTABLE` may be accepted by name.
This module judges whether work is kept; `redurable.store.conditions` judges how the server is reached and runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from redurable.store.binary import OLDEST
from redurable.store.checkup import Facts
from redurable.store.conditions import CONDITIONS
from redurable.store.finding import Finding, setting, size, whole
from redurable.store.store import FORMAT

__all__ = ["ACCEPTABLE", "CHECKS", "Finding", "Verdict", "judge", "verdict_of"]

Verdict = Literal["ok", "warn", "fail"]

# what an operator may decide to live with; under the rest of what bars a worker nothing would run
ACCEPTABLE = ("persistence", "eviction")
_NEARLY_FULL = 0.8
_CROWDED = 0.6  # of the machine's memory
# by appendfsync; no fault where it is the last second, but nobody should learn of it from the power cut
_AT_A_POWER_CUT = {
    "everysec": ": a power cut or kernel crash of the server can take up to about a second of acknowledged work (a "
    "kill of redis or of workers takes none); appendfsync always mends that",
    "": "; what a power cut takes is not told (CONFIG is forbidden)",
}


def judge(facts: Facts, *, replicas: int = 0, accepted: frozenset[str] = frozenset()) -> list[Finding]:
    """
    Return what there is to say, in the order of `CHECKS`.

    Args:
        replicas: How many replicas are meant to be there.
        accepted: Checks whose failures are accepted: they warn, and bar nobody.
    """
    found = [finding for check in CHECKS.values() for finding in check(facts, replicas)]
    return [_accepted(f) if f.severity == "fail" and f.check in accepted else f for f in found]


def verdict_of(findings: list[Finding]) -> Verdict:
    """Return the worst severity."""
    severities = {finding.severity for finding in findings}
    return "fail" if "fail" in severities else "warn" if "warn" in severities else "ok"


def _accepted(finding: Finding) -> Finding:
    return msgspec.structs.replace(finding, severity="warn", bars=False, accepted=True)


def _version(facts: Facts, _: int) -> Iterator[Finding]:
    name = "Valkey" if "valkey_version" in facts.info else "Redis"
    text = facts.info.get("valkey_version") or facts.info.get("redis_version", "")
    numbers = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    oldest = ".".join(map(str, OLDEST))
    if not numbers:
        yield Finding(
            check="version", severity="warn", seen="the server does not tell its version (INFO is forbidden)",
            loss=f"nothing, if it is Redis or Valkey {oldest} or later; before that, scripts fail half way",
            remedy="allow INFO: ACL SETUSER <user> +info",
        )  # fmt: skip
    elif numbers < OLDEST:
        yield Finding(
            check="version", severity="fail", bars=True, seen=f"{name} {text}",
            loss=f"everything sent: before {oldest} the server has no script flags, so no transition of an intent runs",
            remedy=f"upgrade to Redis or Valkey {oldest} or later",
        )  # fmt: skip
    else:
        yield Finding(check="version", severity="ok", seen=f"{name} {text}")


def _mode(facts: Facts, _: int) -> Iterator[Finding]:
    mode = facts.info.get("redis_mode") or facts.info.get("server_mode") or ""
    if mode == "sentinel":
        yield Finding(
            check="mode", severity="fail", bars=True, seen="this is a Sentinel, not the server that it watches",
            loss="everything sent: a Sentinel stores nothing",
            remedy="give the URL of the primary; redis+sentinel:// is not served by this version",
        )  # fmt: skip
    elif mode == "cluster" or facts.info.get("cluster_enabled") == "1":
        yield Finding(
            check="mode", severity="fail", bars=True, seen="a node of a Redis Cluster",
            loss="what falls on another node is refused (MOVED), at once and always; nothing is lost in silence",
            remedy="use a server without cluster mode; this version does not serve Cluster",
        )  # fmt: skip
    elif facts.info.get("role") == "slave":
        yield Finding(
            check="mode", severity="fail", seen="a replica: it takes no writes",
            loss="nothing that is stored; every send and every worker waits until it becomes the primary",
            remedy=f"connect to its primary, {facts.info.get('master_host')}:{facts.info.get('master_port')}",
        )  # fmt: skip
    elif mode:
        yield Finding(check="mode", severity="ok", seen=f"{mode}, {facts.info.get('role', 'role not told')}")


def _namespace(facts: Facts, _: int) -> Iterator[Finding]:
    if facts.meta is None:
        yield Finding(
            check="namespace", severity="ok", seen=f"{facts.namespace!r} does not exist yet; a first use makes it"
        )
        return
    made, partitions = whole(facts.meta[0]), whole(facts.meta[1])
    if made is None or partitions is None:
        yield Finding(
            check="namespace", severity="fail", bars=True,
            seen=f"{facts.namespace}:meta does not hold a format and a number of partitions",
            loss="nothing yet; whatever wrote that key may also write the others of this namespace",
            remedy="choose another --namespace, or remove that key if nothing of redurable's was ever stored here",
        )  # fmt: skip
    elif made > FORMAT:
        yield Finding(
            check="namespace", severity="fail", bars=True,
            seen=f"{facts.namespace!r} has format {made}; this redurable reads up to {FORMAT}",
            loss="nothing while this version stays away; it could misread what a newer one wrote, so it refuses",
            remedy="upgrade redurable here, or choose another --namespace",
        )  # fmt: skip
    else:
        many = f"{partitions} partition{'s' if partitions != 1 else ''}"
        yield Finding(check="namespace", severity="ok", seen=f"{facts.namespace!r}: format {made}, {many}")


# --- what a crash takes -----------------------------------------------------------------------------------------------


def _persistence(facts: Facts, _: int) -> Iterator[Finding]:
    aof = facts.info.get("aof_enabled")
    config = facts.config or {}
    if aof is None and config.get("appendonly"):
        aof = "1" if config["appendonly"] == "yes" else "0"
    if aof == "1":
        yield from _append_only(facts)
        return
    on = f"{setting(facts, 'appendonly', 'yes')}; then {setting(facts, 'appendfsync', 'everysec')}"
    if aof is None or facts.config is None:
        seen = "whether it writes to disk is not told" if aof is None else "the append-only file is off"
        yield Finding(
            check="persistence", severity="warn", seen=f"{seen}; CONFIG is forbidden, so snapshots cannot be seen",
            loss="at a crash of the server whatever is not on its disk: all of it, or what came after a snapshot",
            remedy=on,
        )  # fmt: skip
    elif config.get("save"):
        yield Finding(
            check="persistence", severity="warn", seen=f"snapshots only (save {config['save']})",
            loss=f"at a crash of the server, up to {_gap(config['save'])} of accepted intents, results and finished "
            "steps; steps finished since the snapshot run again",
            remedy=on,
        )  # fmt: skip
    else:
        yield Finding(
            check="persistence", severity="fail", bars=True, seen="nothing is written to disk (no AOF, no snapshots)",
            loss="at a restart or crash of the server: every intent, queued, waiting or half done, with its results",
            remedy=on,
        )  # fmt: skip


def _gap(save: str) -> str:
    """Return the longest time between two snapshots of a busy server, as `save` has it."""
    seconds = [int(word) for word in save.split()[::2] if word.isdigit()]
    longest = max(seconds, default=0)
    return f"{longest // 60} min" if longest >= 60 else f"{longest} s"


def _append_only(facts: Facts) -> Iterator[Finding]:
    config = facts.config or {}
    policy = config.get("appendfsync", "")
    loss = {
        "always": "nothing of what was answered, at a crash of the server or its machine",
        "everysec": "at a crash of its machine the last second or two; at a crash of the server alone nothing",
        "no": "at a crash of its machine what the kernel had not written, often 30 s; of the server alone nothing",
    }.get(policy, "at a crash of its machine what was not flushed: appendfsync is not told (CONFIG is forbidden)")
    if policy == "no":
        yield Finding(
            check="persistence", severity="warn", seen="append-only file, appendfsync no", loss=loss,
            remedy=setting(facts, "appendfsync", "everysec"),
        )  # fmt: skip
    elif policy == "everysec" and config.get("no-appendfsync-on-rewrite") == "yes":
        yield Finding(
            check="persistence", severity="warn", seen="append-only file, not flushed while it is rewritten",
            loss="at a crash of its machine during a rewrite, everything since that rewrite began",
            remedy=setting(facts, "no-appendfsync-on-rewrite", "no"),
        )  # fmt: skip
    else:
        flushed = f"append-only file, appendfsync {policy}" if policy else "append-only file"
        yield Finding(
            check="persistence", severity="ok", seen=flushed + _AT_A_POWER_CUT.get(policy, ""), loss=loss,
            remedy=setting(facts, "appendfsync", "always") if policy == "everysec" else "",
        )  # fmt: skip


def _disk(facts: Facts, _: int) -> Iterator[Finding]:
    info = facts.info
    if info.get("aof_last_write_status") == "err":
        yield Finding(
            check="disk", severity="fail", seen="the last write to the append-only file failed",
            loss="at a crash of the server everything since; until it can write, it refuses writes (MISCONF)",
            remedy="free space on its disk, or mend it; its log names the error. Workers go on by themselves then",
        )  # fmt: skip
    for name, what in (("aof_last_bgrewrite_status", "rewrite of the append-only file"),
                       ("rdb_last_bgsave_status", "snapshot")):  # fmt: skip
        if info.get(name) == "err":
            yield Finding(
                check="disk", severity="warn", seen=f"the last {what} failed",
                loss="nothing yet; the disk fills, or a restart takes longer, and a full disk stops all writes",
                remedy="see the server's log: its disk is full, or it may not fork (vm.overcommit_memory = 1)",
            )  # fmt: skip


def _writes(facts: Facts, _: int) -> Iterator[Finding]:
    if facts.refused is None:
        return
    words = {text.split(" ", 1)[0] for text in facts.refused.values()} - {"NOPERM", "OOM"}
    remedies = {
        "LOADING": ("it is still reading its data from disk", "wait"),
        "MISCONF": ("it cannot write to its disk", "free space on its disk; its log names the error"),
        "NOREPLICAS": ("too few of its replicas are connected", "bring them back; see `replicas` below"),
        "READONLY": ("it is a replica", "connect to its primary"),
        "MASTERDOWN": ("it is a replica, and its primary is away", "connect to its primary"),
    }
    for word in sorted(words):
        seen, remedy = remedies.get(word, (word, "see the server's log"))
        yield Finding(
            check="writes", severity="fail", seen=f"writes are refused now: {seen} ({word})",
            loss="nothing that is stored; sends and workers wait until it takes writes again",
            remedy=remedy,
        )  # fmt: skip
    if not words:
        yield Finding(check="writes", severity="ok", seen="a write would be taken now")


# --- memory -----------------------------------------------------------------------------------------------------------


def _eviction(facts: Facts, _: int) -> Iterator[Finding]:
    policy = facts.info.get("maxmemory_policy") or (facts.config or {}).get("maxmemory-policy")
    if policy is None:
        yield Finding(
            check="eviction", severity="warn", seen="the policy is not told (INFO and CONFIG are forbidden)",
            loss="under any other policy than noeviction: intents at random, once the memory is full",
            remedy=setting(facts, "maxmemory-policy", "noeviction"),
        )  # fmt: skip
        return
    limited = facts.info.get("maxmemory") != "0"
    when = "" if limited else "; maxmemory is 0, so it begins once one is set"
    gone = whole(facts.info.get("evicted_keys")) or 0
    already = f"; {gone} keys were evicted since the server's start" if gone else ""
    if policy.startswith("allkeys"):
        yield Finding(
            check="eviction", severity="fail", bars=True, seen=f"maxmemory-policy {policy}{when}{already}",
            loss="when the memory is full: any key, so intents, journals and queues vanish while they are in work",
            remedy=setting(facts, "maxmemory-policy", "noeviction"),
        )  # fmt: skip
    elif policy != "noeviction":
        yield Finding(
            check="eviction", severity="warn", seen=f"maxmemory-policy {policy}{when}{already}",
            loss="when the memory is full: keys with a lifetime. No intent, journal or queue has one, so no work goes; "
            "other applications' keys do",
            remedy=setting(facts, "maxmemory-policy", "noeviction"),
        )  # fmt: skip
    else:
        yield Finding(check="eviction", severity="ok", seen="noeviction: a full server refuses, it never forgets")


def _memory(facts: Facts, _: int) -> Iterator[Finding]:
    info = facts.info
    most, used = whole(info.get("maxmemory")), whole(info.get("used_memory"))
    refused = any(text.startswith("OOM") for text in (facts.refused or {}).values())
    if used is None and not refused:
        return
    counted = max(0, (used or 0) - (whole(info.get("mem_not_counted_for_evict")) or 0))
    share = counted / most if most else 0.0
    seen = f"{size(counted)} of {size(most)} ({share * 100:.0f} %)" if most else f"{size(used or 0)}, no maxmemory"
    more = f"{setting(facts, 'maxmemory', '<bytes>')} with more than that, or remove finished intents sooner"
    if refused or share >= 1:
        yield Finding(
            check="memory", severity="fail", seen=f"full: {seen}",
            loss="nothing that is stored; every send is refused or waits, and so do steps' results. Workers go on "
            "ending what they can, which frees memory",
            remedy=more,
        )  # fmt: skip
    elif share >= _NEARLY_FULL:
        yield Finding(
            check="memory", severity="warn", seen=f"nearly full: {seen}",
            loss="nothing; at 100 % sends and steps' results wait", remedy=more,
        )  # fmt: skip
    elif not most and (total := whole(info.get("total_system_memory"))) and (used or 0) > total * _CROWDED:
        yield Finding(
            check="memory", severity="warn", seen=f"{seen}, on a machine of {size(total)}",
            loss="when the machine's memory ends the kernel kills the server; what its disk has comes back",
            remedy=setting(facts, "maxmemory", "<bytes>"),
        )  # fmt: skip
    else:
        yield Finding(check="memory", severity="ok", seen=seen)


# --- replicas ---------------------------------------------------------------------------------------------------------


def _replicas(facts: Facts, expected: int) -> Iterator[Finding]:
    if facts.info.get("role") == "slave" or not facts.info:
        return
    config = facts.config or {}
    required = whole(config.get("min-replicas-to-write")) or 0
    longest = whole(config.get("min-replicas-max-lag")) or 10
    rows = [facts.info[name] for name in sorted(facts.info) if name.startswith("slave") and name[5:].isdigit()]
    states = [dict(part.split("=", 1) for part in row.split(",") if "=" in part) for row in rows]
    good = sum(s.get("state") == "online" and (whole(s.get("lag")) or 0) <= longest for s in states)
    wanted = max(expected, required)
    seen = f"{good} of {wanted} in step" if wanted else f"{good} in step"
    seen += f", {len(states) - good} behind or joining" if len(states) > good else ""
    if good < wanted:
        held = "; the server refuses writes meanwhile (min-replicas-to-write), so sends wait" if good < required else ""
        yield Finding(
            check="replicas", severity="fail", seen=seen,
            loss=f"if the primary's machine is lost now: what no replica has, so everything{held}"
            if not good else f"if the primary's machine and another are lost: what no replica has{held}",
            remedy="start the missing ones with `replicaof <primary> <port>`, and see the primary's log for why "
            "they left",
        )  # fmt: skip
        return
    if len(states) > good:
        yield Finding(
            check="replicas", severity="warn", seen=seen,
            loss="if the primary is lost and one that is behind takes over: what it has not got yet",
            remedy="see that replica's log and network; min-replicas-max-lag bounds what is lost",
        )  # fmt: skip
    if states or wanted:
        if required == 0 and facts.config is not None:
            yield Finding(
                check="replicas", severity="warn", seen=f"{seen}; min-replicas-to-write is 0",
                loss="at a partition of the network: a primary that was cut off goes on accepting, and all of that is "
                "lost when a replica has taken over",
                remedy=f"{setting(facts, 'min-replicas-to-write', '1')}; "
                f"{setting(facts, 'min-replicas-max-lag', '10')}",
            )  # fmt: skip
        elif len(states) == good:
            yield Finding(
                check="replicas", severity="ok", seen=seen,
                loss="at a failover the last moments that no replica had yet; workers notice and recover",
            )  # fmt: skip
    else:
        yield Finding(
            check="replicas", severity="ok", seen="none, and none is expected (--replicas says otherwise)",
            loss="if the server's disk is lost, everything",
        )  # fmt: skip


CHECKS: dict[str, Callable[[Facts, int], Iterator[Finding]]] = {
    "version": _version,
    "mode": _mode,
    "namespace": _namespace,
    "persistence": _persistence,
    "disk": _disk,
    "writes": _writes,
    "eviction": _eviction,
    "memory": _memory,
    "replicas": _replicas,
    **CONDITIONS,
}
