"""A receiver of webhooks on a real socket, which answers as the address it is called by says."""

import base64
import hashlib
import hmac
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HUGE = 64 * 1024 * 1024


@dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def event_id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """What a running receiver has seen: every connection, and the requests on them."""

    url: str
    port: int
    calls: list[Call] = field(default_factory=list)
    connections: int = 0
    # How many bytes of an endless answer were taken from it.
    sent: int = 0
    closing: threading.Event = field(default_factory=threading.Event)

    def paths(self) -> list[str]:
        return [call.path for call in list(self.calls)]

    def to(self, path: str) -> list[Call]:
        return [call for call in list(self.calls) if call.path == path]


def is_signed(call: Call, secret: str) -> bool:
    """The signature checked by what the specification says, and by none of our own code."""
    key = base64.b64decode(secret[len("whsec_") :])
    content = f"{call.headers['webhook-id']}.{call.headers['webhook-timestamp']}.{call.body}"
    expected = base64.b64encode(hmac.new(key, content.encode(), hashlib.sha256).digest()).decode()
    return f"v1,{expected}" in call.headers["webhook-signature"].split(" ")


class Handler(BaseHTTPRequestHandler):
    server: "Server"

    def log_message(self, *arguments: Any) -> None:
        """Says nothing: the calls are kept."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        seen = self.server.receiver
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen.calls.append(Call(self.path, headers, body))
        what, _, about = self.path.partition("?")[0].strip("/").partition("/")
        with suppress(ConnectionError):
            self.answer(what, about)

    def answer(self, what: str, about: str) -> None:
        seen = self.server.receiver
        match what:
            case "ok":
                self.reply(204)
            case "status":
                self.reply(int(about), b"because of \x1b[31m the weather\x00")
            case "flaky":
                self.reply(204 if len(seen.to(self.path)) > int(about) else 503)
            case "redirect":
                self.reply(302, headers={"Location": f"{seen.url}/secret"})
            case "hang":
                seen.closing.wait(60)
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case "drip":
                for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Slow: " + b"x" * 100:
                    self.wfile.write(bytes([byte]))
                    if seen.closing.wait(0.1):
                        return
            case "huge":
                self.send_response(int(about))
                self.send_header("Content-Length", str(HUGE))
                self.end_headers()
                for _ in range(HUGE // 65536):
                    self.wfile.write(b"x" * 65536)
                    seen.sent += 65536
            case _:
                self.reply(404)

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    receiver: Receiver

    def process_request(self, request: Any, client_address: Any) -> None:
        self.receiver.connections += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a caller that goes away in the middle is part of the tests."""


@contextmanager
def receiving(
    host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Receiver]:
    """A running receiver on that address, on a free port unless one is named."""
    with Server((host, port), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        port = server.server_address[1]
        server.receiver = Receiver(f"{'https' if tls else 'http'}://{host}:{port}", port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.receiver
        finally:
            server.receiver.closing.set()
            server.shutdown()
            thread.join(10)
