"""
The doctor's checks of how the server is reached and runs: clock, answers, connections, rights, settings, workers.

Pure like `redurable.store.verdict`, which puts them behind its own; every check is a function of the facts.
"""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Iterator

from redurable.store.checkup import Facts
from redurable.store.finding import Finding, console, setting, size, whole

__all__ = ["CONDITIONS"]

_CLOCK_WARN, _CLOCK_FAIL = 1.0, 60.0  # s
_SLOW, _VERY_SLOW = 0.010, 0.250  # s an answer: the median, the worst but one
_LONG_FORK = 1_000_000  # us
_FULL_SHARE = 0.8
_MIB = 1 << 20


def _clock(facts: Facts, _: int) -> Iterator[Finding]:
    if facts.ahead is None:
        return
    off = abs(facts.ahead)
    early = "early; a deadline ends intents that still had time" if facts.ahead > 0 else "late"
    seen = f"the server is {off:.1f} s {'ahead of' if facts.ahead > 0 else 'behind'} this machine"
    if off - facts.round_trip / 2 < _CLOCK_WARN:
        yield Finding(check="clock", severity="ok", seen=f"within {max(off, 0.001) * 1000:.0f} ms of this machine's")
        return
    yield Finding(
        check="clock", severity="fail" if off >= _CLOCK_FAIL else "warn", seen=seen,
        loss=f"no work, and no intent ever has two owners: those times are the server's own. Deadlines, sleeps and "
        f"retries that this machine reckons come {off:.1f} s {early}",
        remedy="keep both machines' clocks by NTP (timedatectl set-ntp true; chronyc tracking tells)",
    )  # fmt: skip


def _latency(facts: Facts, _: int) -> Iterator[Finding]:
    if facts.pings:
        ordered = sorted(facts.pings)
        median, worst = statistics.median(ordered), ordered[-1]
        seen = f"median {median * 1000:.2f} ms, worst {worst * 1000:.1f} ms of {len(ordered)} PINGs"
        if median > _SLOW or ordered[-2:][0] > _VERY_SLOW:
            yield Finding(
                check="latency", severity="warn", seen=seen,
                loss="no work; every step waits for an answer or two, and long silences look like dead workers",
                remedy="run workers near the server; look for slow commands (SLOWLOG GET) and for swapping",
            )  # fmt: skip
        else:
            yield Finding(check="latency", severity="ok", seen=seen)
    fork = whole(facts.info.get("latest_fork_usec")) or 0
    if fork > _LONG_FORK:
        yield Finding(
            check="latency", severity="warn", seen=f"the last fork stopped the server for {fork / 1e6:.1f} s",
            loss="no work; all workers wait that long at every snapshot or rewrite",
            remedy="turn off transparent huge pages on its machine, or make it smaller",
        )  # fmt: skip
    delayed, up = whole(facts.info.get("aof_delayed_fsync")) or 0, whole(facts.info.get("uptime_in_seconds")) or 0
    if delayed > 1 + up / 3600:
        yield Finding(
            check="latency", severity="warn", seen=f"its disk was too slow {delayed} times (aof_delayed_fsync)",
            loss="at a crash of its machine more than the last second; all workers wait while it happens",
            remedy="give it a faster disk of its own (SSD, provisioned I/O)",
        )  # fmt: skip


def _connections(facts: Facts, _: int) -> Iterator[Finding]:
    most = whole(facts.info.get("maxclients")) or whole((facts.config or {}).get("maxclients"))
    now = whole(facts.info.get("connected_clients"))
    if most is None or now is None:
        return
    turned_away = whole(facts.info.get("rejected_connections")) or 0
    seen = f"{now} of {most}" + (f"; {turned_away} were turned away since the server's start" if turned_away else "")
    if now > most * _FULL_SHARE or turned_away:
        yield Finding(
            check="connections", severity="warn", seen=seen,
            loss="no work; a worker process needs five connections and cannot start, or come back, without",
            remedy=f"{setting(facts, 'maxclients', str(most * 2))} (and `ulimit -n` above it), or fewer clients",
        )  # fmt: skip
    else:
        yield Finding(check="connections", severity="ok", seen=seen)


def _rights(facts: Facts, _: int) -> Iterator[Finding]:
    if facts.refused is None:
        yield Finding(
            check="rights", severity="warn", seen="cannot be rehearsed: MULTI is forbidden",
            loss="nothing now; a command that turns out to be forbidden stops work where it needs it",
            remedy=_grant(facts),
        )  # fmt: skip
        return
    denied = {name: text for name, text in facts.refused.items() if text.startswith("NOPERM")}
    if not denied:
        yield Finding(check="rights", severity="ok", seen="the user may run every command that is needed")
        return
    names = sorted(denied)
    some = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    texts = " ".join(denied.values())
    what = [
        word for word, mark in (("commands", " run the "), ("keys", " key"), ("channels", " channel")) if mark in texts
    ]
    yield Finding(
        check="rights", severity="fail", bars=True, seen=f"the user lacks rights to {' and '.join(what)}: {some}",
        loss="intents stop half way, where such a command is needed; what is stored stays",
        remedy=_grant(facts),
    )  # fmt: skip


def _grant(facts: Facts) -> str:
    user, space = facts.address.username or "default", facts.namespace
    rules = (f"~{space}:*", f"&{space}:*", "+@all", "-@admin", "-@dangerous", "+info", "+config|get")
    # quoted: to a shell & and | mean something else
    return f"{console(facts.address)} {shlex.join(('ACL', 'SETUSER', user, *rules))}"


def _transport(facts: Facts, _: int) -> Iterator[Finding]:
    address = facts.address
    if facts.near == "here":
        yield Finding(check="transport", severity="ok", seen="on this machine")
        return
    if not address.tls and facts.near == "public":
        yield Finding(
            check="transport", severity="warn", seen="not encrypted, to a public address",
            loss="no work; whoever is on the way reads payloads and the password",
            remedy="turn on TLS at the server and use rediss:// in the URL",
        )  # fmt: skip
    if address.password is None and not address.options.get("ssl_certfile"):
        yield Finding(
            check="transport", severity="warn", seen="no password",
            loss="all of it, to anybody who reaches the port and says FLUSHALL",
            remedy=f"{setting(facts, 'requirepass', '<password>')}; URL: redis://:<password>@host:6379/0",
        )  # fmt: skip
    elif address.tls or facts.near == "private":
        kind = "encrypted" if address.tls else "not encrypted, within a private network"
        yield Finding(check="transport", severity="ok", seen=kind)


def _settings(facts: Facts, _: int) -> Iterator[Finding]:
    if facts.config is None:
        yield Finding(
            check="settings", severity="warn",
            seen="CONFIG is forbidden: snapshots, appendfsync, timeouts and buffer limits cannot be seen",
            loss="not known; INFO has told the rest",
            remedy="allow it to this user (ACL SETUSER <user> +config|get), or read them in the provider's console",
        )  # fmt: skip
        return
    found = list(_harmful(facts))
    yield from found
    if not found:
        yield Finding(check="settings", severity="ok", seen="timeouts and buffer limits suit")


def _harmful(facts: Facts) -> Iterator[Finding]:
    config = facts.config or {}
    idle = whole(config.get("timeout")) or 0
    if 0 < idle < 300:
        yield Finding(
            check="settings", severity="warn", seen=f"timeout {idle}: idle connections are closed after {idle} s",
            loss="no work; clients that rest connect again and again, and results come later by that",
            remedy=setting(facts, "timeout", "0"),
        )  # fmt: skip
    alive = whole(config.get("tcp-keepalive"))
    if alive is not None and (alive == 0 or alive > 600):
        yield Finding(
            check="settings", severity="warn", seen=f"tcp-keepalive {alive}",
            loss="no work; a machine that vanished keeps its connections, so its worker is noticed by its lease alone",
            remedy=setting(facts, "tcp-keepalive", "60"),
        )  # fmt: skip
    words = config.get("client-output-buffer-limit", "").split()
    limits = {words[i]: whole(words[i + 1]) for i in range(0, len(words) - 3, 4)}
    for kind, least, default in (("normal", 64 * _MIB, "normal 0 0 0"), ("pubsub", _MIB, "pubsub 32mb 8mb 60")):
        limit = limits.get(kind)
        if limit and limit < least:
            yield Finding(
                check="settings", severity="warn", seen=f"client-output-buffer-limit {kind}: {size(limit)}",
                loss="no work; connections with large answers are cut and made again, over and over",
                remedy=setting(facts, "client-output-buffer-limit", default),
            )  # fmt: skip


def _workers(facts: Facts, _: int) -> Iterator[Finding]:
    if not facts.pings or facts.meta is None:
        return
    alive = [worker for worker in facts.workers if worker.alive]
    gone = len(facts.workers) - len(alive)
    if not alive:
        yield Finding(
            check="workers", severity="warn",
            seen="none is alive" + (f"; {gone} died or were cut off" if gone else ""),
            loss="nothing; what is sent is kept, and nothing runs, no timer fires and no deadline ends anything",
            remedy="start one: redurable worker module:handler",
        )  # fmt: skip
        return
    queues = sorted({queue for worker in alive for queue in worker.queues})
    shown = ", ".join(queues[:5]) + (f" and {len(queues) - 5} more" if len(queues) > 5 else "")
    yield Finding(
        check="workers", severity="ok",
        seen=f"{len(alive)} alive on {shown}" + (f"; {gone} gone, their work is taken over" if gone else ""),
    )  # fmt: skip


CONDITIONS: dict[str, Callable[[Facts, int], Iterator[Finding]]] = {
    "clock": _clock,
    "latency": _latency,
    "connections": _connections,
    "rights": _rights,
    "transport": _transport,
    "settings": _settings,
    "workers": _workers,
}
