"""The blocking client: a Ctrl+C ends the wait, and leaves nothing behind that complains."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading
from redurable.sync import Client
with Client(sys.argv[1], namespace=sys.argv[2]) as client:
    intent = client.send("nobody")
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    client.wait_for(intent)
"""


@pytest.mark.parametrize("bare", [False, True], ids=["with", "bare"])
def test_ctrl_c_ends_a_wait_and_says_no_more_than_that(redis_url: str, namespace: str, bare: bool) -> None:
    program = PROGRAM.replace("with Client", "if client := Client").replace(" as client:", ":") if bare else PROGRAM
    words = [sys.executable, "-c", program, redis_url, namespace]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "Task was destroyed" not in done.stderr
    assert done.stderr.count("Traceback") == 1
