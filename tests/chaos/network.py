"""A network that can be spoilt: it carries connections to a server, and loses, delays or breaks them as it is told."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress

SLOW_S = 0.2
SOME = 3
_RESET = struct.pack("ii", 1, 0)


class Network:
    """Listens on a port of its own. Bytes that are held up by a cut arrive when it is mended, as in a real one."""

    KINDS = ("cut", "no requests", "no answers", "slow", "resets", "half-open", "dropped replies")

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._changed = threading.Condition()
        self._kind: str | None = None
        self._to_drop = 0
        self._links: set[_Link] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def spoil(self, kind: str) -> None:
        """Begin a fault: one of KINDS."""
        with self._changed:
            self._kind = kind
            self._to_drop = SOME if kind == "dropped replies" else 0
            links = set(self._links)
        for link in links:
            if kind == "resets":
                link.reset()
            if kind == "half-open":
                link.halve()

    def lead_to(self, port: int) -> None:
        """Lead connections that are made from now on to another server, as an address does after a failover."""
        self._port = port

    def mend(self) -> None:
        """End the fault. What is half-open stays so: that is for its ends to find out."""
        with self._changed:
            self._kind = None
            self._changed.notify_all()

    def close(self) -> None:
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # a thread that waits in accept does not notice a mere close
        self._listener.close()
        self.mend()
        for link in set(self._links):
            link.reset()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                near.close()
                continue
            link = _Link(near, far)
            self._links.add(link)
            if self._closed:
                link.reset()
                return
            for requests in (True, False):
                threading.Thread(target=self._carry, args=(link,), kwargs={"requests": requests}, daemon=True).start()

    def _carry(self, link: _Link, *, requests: bool) -> None:
        """Carry what one side says to the other, until a side has enough."""
        source, target = (link.near, link.far) if requests else (link.far, link.near)
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._hold_up(requests=requests)
                if not requests and self._drops():
                    break
                target.sendall(data)
        if not link.halved:
            link.reset()
            self._links.discard(link)

    def _hold_up(self, *, requests: bool) -> None:
        with self._changed:
            held = ("cut", "no requests" if requests else "no answers")
            self._changed.wait_for(lambda: self._kind not in held)
            slow, resets = self._kind == "slow", self._kind == "resets"
        if slow:
            time.sleep(SLOW_S)
        if resets:
            raise ConnectionResetError

    def _drops(self) -> bool:
        with self._changed:
            self._to_drop -= 1
            return self._to_drop >= 0


class _Link:
    """A connection to us, and ours to the server."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.halved = False
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reset(self) -> None:
        """Break it, so that both sides hear of that."""
        for end in (self.near, self.far):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)  # refused where the other side broke it first
            end.close()

    def halve(self) -> None:
        """Break the server's side alone: the other waits for answers that cannot come."""
        self.halved = True
        with suppress(OSError):
            self.far.shutdown(socket.SHUT_RDWR)
        self.far.close()
