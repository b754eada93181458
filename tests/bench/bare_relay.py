"""`python -m tests.bench.bare_relay SOCKET`: bytes from clients to a socket and back, and nothing else.

What no gateway written in Python comes below: one wait, one read and one write for each event.
"""

from __future__ import annotations

import select
import socket
import sys
from typing import Final

PIECE_BYTES: Final = 65536


def relay(listener: socket.socket, target: str) -> None:
    """Until the process is ended."""
    ready = select.epoll()
    ready.register(listener.fileno(), select.EPOLLIN)
    ways: dict[int, tuple[socket.socket, socket.socket]] = {}
    while True:
        for descriptor, _ in ready.poll():
            if descriptor == listener.fileno():
                client, server = listener.accept()[0], socket.socket(socket.AF_UNIX)
                server.connect(target)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for way in ((client, server), (server, client)):
                    ways[way[0].fileno()] = way
                    ready.register(way[0].fileno(), select.EPOLLIN)
            elif descriptor in ways:
                source, destination = ways[descriptor]
                if data := source.recv(PIECE_BYTES):
                    destination.sendall(data)
                else:
                    for end in (source, destination):
                        del ways[end.fileno()]
                        end.close()


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=128) as bound:
        print(bound.getsockname()[1], flush=True)
        relay(bound, sys.argv[1])
