"""
An agent is killed at each of its paid calls, and the bill is what it would have been.

    uv run python -m workers.agent

starts a server of its own, the fake model server and a worker of two processes; sends a question and lets it be
answered; sends it again and kills, with SIGKILL, whichever process waits for an answer: once in every call, when the
money is taken and the answer has not left yet, and in the middle of the streamed one. All the while somebody reads the
answer as it is written. Exit code 1 if a call was paid twice, or if the answers, or what the reader has, differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from redurable.store.private import PrivateServer
from redurable.sync import Client
from workers.agent.bed import Bed, until

QUESTION = "Compare Acme and Globex."
KILLS = [
    ("plan", "paid"),
    *((f"{what} {company}", "paid") for what in ("search", "fetch", "summarise") for company in ("Acme", "Globex")),
    ("take notes", "paid"),
    ("write", "middle"),
    ("write", "paid"),
]


def read(client: Client, intent: str) -> tuple[str, int]:
    """Follow the answer as it is written; return it, and how often it began anew."""
    pieces: list[str] = []
    resets = 0
    for event in client.stream(intent, "model stream"):
        if event.kind == "reset":
            del pieces[event.offset :]
            resets += 1
        else:
            pieces.append(event.value)
    return "".join(pieces), resets


def main() -> int:
    """Show it; return the exit code."""
    words = argparse.ArgumentParser(prog="python -m workers.agent")
    words.add_argument("--kills", type=int, default=len(KILLS), help="only the first so many (default: %(default)s)")
    kills = KILLS[: words.parse_args().kills]
    say = Console(highlight=False, soft_wrap=True).print
    with (
        tempfile.TemporaryDirectory(prefix="redurable-agent-") as room,
        PrivateServer() as server,
        Client(server.url) as client,
        Bed(server.url, "rd", Path(room)) as bed,
        ThreadPoolExecutor(1) as reader,
    ):
        parent = bed.work(2)
        until(lambda: sum(worker.alive for worker in client.workers()) == 2, 60.0)
        say(f"a worker of two processes (pid {parent.pid}), a model server at {bed.base_url}")
        calm = client.send("analyst", QUESTION)
        expected = client.wait_for(calm, 60.0)
        say(f"undisturbed: {expected['text']}\n")
        hunted = client.send("analyst", QUESTION)
        reading = reader.submit(read, client, hunted)
        for killed in bed.hunt(kills):
            call, at = killed.place
            say(f"SIGKILL to {killed.pid}: it waited for {call}, {'paid' if at == 'paid' else 'half of it received'}")
        found = client.wait_for(hunted, 60.0)
        say(f"\nkilled {len(kills)} times: {found['text']}\n")
        seen, resets = reading.result(30.0)
        say(f"who read it as it was written has the same: {seen == found['text']} (it began anew {resets} times)\n")
        table = Table("paid call", "asked", "paid", "asked, with kills", "paid, with kills")
        bills = bed.bill(calm), bed.bill(hunted)
        for name in {**bills[0], **bills[1]}:
            table.add_row(name, *(str(n) for bill in bills for n in bill.get(name, (0, 0))))
        say(table)
        paid = [{name: times for name, (_, times) in bill.items()} for bill in bills]
        say(f"the same bill: {paid[0] == paid[1]}; the same answer: {found == expected}")
    return 0 if paid[0] == paid[1] and found == expected and seen == found["text"] else 1


if __name__ == "__main__":
    sys.exit(main())
