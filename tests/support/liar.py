"""
A proxy that changes what a server says of itself: a TCP port before a real server, in threads of the test's process.

What it puts in the place of a text must be as long as the text, so that no length of the protocol is wrong.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from redurable.store.server import PrivateServer

__all__ = ["lying"]


@contextmanager
def lying(server: PrivateServer, said: bytes, instead: bytes) -> Iterator[str]:
    """Give the URL at which *server* answers with *instead* wherever it says something that matches *said*."""
    pattern = re.compile(said)
    gate = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []

    def change(found: re.Match[bytes]) -> bytes:
        text = found.expand(instead)
        assert len(text) == len(found[0]), f"{text!r} is not as long as {found[0]!r}"
        return text

    def pump(source: socket.socket, sink: socket.socket, backward: bool) -> None:
        try:
            while data := source.recv(1 << 20):
                sink.sendall(pattern.sub(change, data) if backward else data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()

    def serve() -> None:
        while True:
            try:
                near, _ = gate.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(server.socket)
            ends.extend((near, far))
            for words in ((near, far, False), (far, near, True)):
                threading.Thread(target=pump, args=words, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{gate.getsockname()[1]}/0"
    finally:
        gate.shutdown(socket.SHUT_RDWR)
        gate.close()
        for end in ends:
            end.close()
