"""The sandbox payment gateway: a real HTTP process with its own ledger and fault switches; no card, no bank.

    python -m payments.gateways.sandbox_server --host 127.0.0.1 --port 8090 --ledger .local/sandbox.sqlite

POST /charges {amount_minor, currency, token}, POST /refunds {charge_id, amount_minor} and POST /close take
their key from the Idempotency-Key header. GET /charges?key=, GET /ledger?key_prefix=, GET /health.
POST, GET and DELETE /faults[?id=] set, list and clear faults for everyone; tokens carry faults for one
payment (`sandbox_faults` has the grammar). Errors: {"error": {"code", "message"}}; 400 malformed,
402 declined, 409 refund refused, 410 key closed, 422 key reused with other parameters.
"""

import argparse
import json
import os
import re
import select
import signal
import socket
import socketserver
import struct
import sys
import threading
import traceback
from decimal import Decimal, InvalidOperation
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from payments.gateways.sandbox_bank import Bank, Request, Silence
from payments.gateways.sandbox_ledger import Answer, Ledger

DECLINE_ABOVE = "1000.00"  # the shop's story: an order above this cannot be paid
MAX_AMOUNT_MINOR = 10**12
MAX_BODY_BYTES = 64 * 1024


class BadRequest(Exception):
    """The request itself is wrong; the message says how. Answered with 400."""


class SandboxServer(ThreadingHTTPServer):
    """One thread per connection; survives a burst of a few hundred connections at once."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], bank: Bank) -> None:
        self.bank = bank
        super().__init__(address, SandboxHandler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's reverse DNS lookup, which can take seconds and is not needed."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what a connection's thread died of, unless the client simply left."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            traceback.print_exc()


class SandboxHandler(BaseHTTPRequestHandler):
    """Reads one HTTP request after the other from a connection and writes the answers, or does not."""

    server: SandboxServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one packet
    timeout = 120  # seconds of idleness; longer than our client keeps a connection, so it closes first

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the ledger is the record."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server refuses by itself in our own error format."""
        self.close_connection = True
        self._send(Answer.of_error(code, "bad_request", message or explain or "Bad request."))

    def _serve(self) -> None:
        try:
            outcome = self._route()
        except BadRequest as exc:
            outcome = Answer.of_error(400, "bad_request", str(exc))
        except OSError:
            raise  # the client left
        except Exception:
            traceback.print_exc()
            outcome = Answer.of_error(500, "internal_error", "The gateway failed.")
        if isinstance(outcome, Silence):
            self._drop(outcome)
        else:
            self._send(outcome)

    def _route(self) -> Answer | Silence:
        body = self._read_body()  # first, always: what is left unread would be taken for the next request
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        bank = self.server.bank
        match self.command, url.path:
            case "POST", "/charges":
                return bank.answer(
                    Request(
                        operation="charge",
                        key=self._read_key(),
                        amount_minor=_read_amount(body),
                        currency=_read_currency(body),
                        token=_read_text(body, "token"),
                    )
                )
            case "POST", "/refunds":
                return bank.answer(
                    Request(
                        operation="refund",
                        key=self._read_key(),
                        amount_minor=_read_amount(body),
                        charge_id=_read_text(body, "charge_id"),
                    )
                )
            case "POST", "/close":
                return bank.answer(Request(operation="close", key=self._read_key()))
            case "GET", "/charges":
                return bank.answer(Request(operation="find", key=_check_key(query.get("key"), "key")))
            case "GET", "/ledger":
                found = bank.ledger.list_entries(
                    query.get("key_prefix", ""),
                    after=_read_number(query, "after", default=0),
                    limit=_read_number(query, "limit", default=-1),
                )
                return Answer(200, {"entries": found})
            case "POST", "/faults":
                try:
                    return Answer(200, {"fault": bank.faults.add_fault(body)})
                except ValueError as exc:
                    raise BadRequest(f"{exc}.") from exc
            case "GET", "/faults":
                return Answer(200, {"faults": bank.faults.list_faults()})
            case "DELETE", "/faults":
                chosen = _read_number(query, "id", default=0) if "id" in query else None
                return Answer(200, {"cleared": bank.faults.clear_faults(chosen)})
            case "GET", "/health":
                bank.ledger.find_token_of_key("")  # healthy means: the ledger answers
                return Answer(200, {"status": "ok", "pid": os.getpid()})
        return Answer.of_error(404, "not_found", f"There is no {self.command} {url.path}.")

    def _read_body(self) -> dict[str, Any]:
        try:
            length = int(self.headers.get("Content-Length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY_BYTES or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # its end is unknown, so the next request's beginning is, too
            raise BadRequest(f"Content-Length is needed, at most {MAX_BODY_BYTES}.")
        text = self.rfile.read(length)
        if len(text) < length:
            raise ConnectionResetError("the client left in the middle of its request")
        if not text:
            return {}
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as exc:
            raise BadRequest("The body is not JSON.") from exc
        if not isinstance(body, dict):
            raise BadRequest("The body must be a JSON object.")
        return body

    def _read_key(self) -> str:
        return _check_key(self.headers.get("Idempotency-Key"), "the Idempotency-Key header")

    def _send(self, answer: Answer) -> None:
        body = json.dumps(answer.body).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if answer.retry_after is not None:
            self.send_header("Retry-After", f"{answer.retry_after:g}")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _drop(self, silence: Silence) -> None:
        """Answer nothing and end the connection with a TCP reset instead of an orderly close."""
        self.close_connection = True
        if silence.hold_seconds:
            # Anything to read means the client gave up: its thread here need not wait any longer.
            poller = select.poll()
            poller.register(self.connection, select.POLLIN)
            poller.poll(silence.hold_seconds * 1000)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Detached and closed here: socketserver would say goodbye properly (FIN) first.
        os.close(self.connection.detach())


def _read_amount(body: dict[str, Any]) -> int:
    amount = body.get("amount_minor")
    if not isinstance(amount, int) or isinstance(amount, bool) or not 0 < amount <= MAX_AMOUNT_MINOR:
        raise BadRequest(f"amount_minor must be a whole number of minor units, 1 to {MAX_AMOUNT_MINOR}.")
    return amount


def _read_currency(body: dict[str, Any]) -> str:
    currency = body.get("currency")
    if not isinstance(currency, str) or not re.fullmatch("[A-Za-z]{3}", currency):
        raise BadRequest("currency must be an ISO 4217 code, three letters.")
    return currency.upper()


def _read_text(body: dict[str, Any], name: str) -> str:
    text = body.get(name)
    # Printable rules out lone surrogates, which JSON can carry and SQLite cannot store.
    if not isinstance(text, str) or not text.isprintable():
        raise BadRequest(f"{name} must be printable text.")
    return text


def _read_number(query: dict[str, str], name: str, *, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,15}", text):
        raise BadRequest(f"{name} must be a whole number, 0 or more.")
    return int(text)


def _check_key(key: str | None, where: str) -> str:
    if not key or not re.fullmatch(r"[!-~]{1,255}", key):
        raise BadRequest(f"A key is needed in {where}: 1 to 255 printable ASCII characters, no spaces.")
    return key


def _read_limit(text: str) -> int:
    """Return an amount such as 1000.00 in minor units (hundredths)."""
    try:
        minor = Decimal(text).scaleb(2)
        if minor == minor.to_integral_value() and minor >= 0:
            return int(minor)
    except (InvalidOperation, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"not an amount with at most two places: {text}")


def _read_latency(text: str) -> float:
    """Return milliseconds as seconds."""
    try:
        seconds = float(text) / 1000
        if 0 <= seconds <= 3600:
            return seconds
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"not a latency in milliseconds: {text}")


def _stop_at_stdin_eof() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    """Serve until SIGTERM, SIGINT or, if asked for, the end of standard input; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m payments.gateways.sandbox_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one; it is printed")
    parser.add_argument("--ledger", type=Path, required=True, help="SQLite file, created if missing")
    parser.add_argument(
        "--decline-above",
        type=_read_limit,
        default=os.environ.get("SANDBOX_DECLINE_ABOVE", DECLINE_ABOVE),
        metavar="AMOUNT",
        help="decline higher amounts (default: SANDBOX_DECLINE_ABOVE or 1000.00)",
    )
    parser.add_argument(
        "--latency-ms",
        type=_read_latency,
        dest="latency_seconds",
        default=os.environ.get("SANDBOX_LATENCY_MS", "0"),
        metavar="N",
        help="a slow bank: wait before each charge and refund (default: SANDBOX_LATENCY_MS or 0)",
    )
    parser.add_argument(
        "--exit-on-stdin-eof", action="store_true", help="stop when whoever started this is gone"
    )
    options = parser.parse_args()

    # Blocked in every thread and waited for below: no handler that could run in the middle of something.
    stop_signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    ledger = Ledger(options.ledger)
    bank = Bank(ledger, decline_above_minor=options.decline_above, latency_seconds=options.latency_seconds)
    with SandboxServer((options.host, options.port), bank) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        if options.exit_on_stdin_eof:
            threading.Thread(target=_stop_at_stdin_eof, daemon=True).start()
        host, port = server.server_address[:2]
        print(f"sandbox gateway on http://{host!s}:{port}, ledger {options.ledger}", flush=True)
        signal.sigwait(stop_signals)
        server.shutdown()
        ledger.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
