"""A local mail sink: an SMTP server that keeps everything and delivers nothing, and pages to read it.

`python -m config.embedded.mail_sink --smtp-port N --http-port M --maildir DIR`
"""

import argparse
import asyncio
import email.message
import email.policy
import json
import mailbox
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import getaddresses
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from aiosmtpd.smtp import SMTP, Envelope, Session

LISTED_ON_PAGE = 500
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
# The pages run no script at all. A caught HTML part is additionally cut off from everything by `sandbox`.
PAGE_POLICY = "default-src 'none'; style-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'self'"
PART_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; background: #f5f6f8; margin: 0 auto;
       max-width: 64rem; padding: 1.5rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
a { color: #0b57a4; } form { margin: 1rem 0; }
input, button { font: inherit; padding: .35rem .6rem; border: 1px solid #93a1b0; border-radius: .3rem; }
table { border-collapse: collapse; width: 100%; background: #fff; }
th, td { text-align: left; padding: .5rem .75rem; border-bottom: 1px solid #dde2e8; vertical-align: top;
         overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
pre { background: #fff; border: 1px solid #dde2e8; padding: 1rem; white-space: pre-wrap;
      overflow-wrap: anywhere; }
iframe { width: 100%; height: 32rem; background: #fff; border: 1px solid #dde2e8; }
"""


@dataclass(frozen=True)
class CaughtMessage:
    """What lists show; the message itself stays in the Maildir."""

    key: str
    message_id: str
    to: tuple[str, ...]
    sender: str
    subject: str
    received_at: datetime
    headers: dict[str, str]

    def describe(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "message_id": self.message_id,
            "to": ", ".join(self.to),
            "from": self.sender,
            "subject": self.subject,
            "received_at": self.received_at.isoformat(),
            "headers": self.headers,
        }


@dataclass(frozen=True, slots=True)
class UnreadMessage:
    """A message nobody has listed yet: its headers as they came. Most mail of a load test is never read,
    and decoding headers costs more than all the rest of catching a mail."""

    key: str
    head: bytes
    received_at: datetime


class CaughtMail:
    """The Maildir and an index of it in memory; safe to use from the SMTP and the HTTP threads."""

    def __init__(self, directory: Path) -> None:
        self.maildir = mailbox.Maildir(directory, create=True)
        self.new = directory / "new"
        self.lock = threading.Lock()
        self.index: dict[str, CaughtMessage | UnreadMessage] = {
            one.key: one for folder in ("new", "cur") for one in read_unread(directory / folder)
        }

    def keep(self, content: bytes, *, sender: str, recipients: list[str]) -> str:
        """On disk when this returns. The envelope is kept the way delivering servers do it.

        What is indexed comes from the bytes in hand: asked for one it has just added, the Maildir lists
        its whole directory.
        """
        envelope = f"Return-Path: <{sender}>\r\n" + "".join(f"Delivered-To: {to}\r\n" for to in recipients)
        message = envelope.encode() + content
        with self.lock:
            key = self.maildir.add(message)
            received_at = datetime.fromtimestamp((self.new / key).stat().st_mtime, UTC)
            self.index[key] = UnreadMessage(key, cut_head(message), received_at)
        return key

    def list_newest_first(self, *, to: str = "") -> list[CaughtMessage]:
        wanted = to.strip().casefold()
        with self.lock:
            indexed = list(self.index.values())
        # Without the lock: many may be unread, and the next mail is not to wait for them.
        caught = [summarize(one) if isinstance(one, UnreadMessage) else one for one in indexed]
        with self.lock:
            self.index.update((one.key, one) for one in caught)
        found = [one for one in caught if not wanted or wanted in (address.casefold() for address in one.to)]
        return sorted(found, key=lambda one: (one.received_at, one.key), reverse=True)

    def read(self, key: str) -> email.message.EmailMessage | None:
        with self.lock:
            if key not in self.index:
                return None
            return _parse(self.maildir.get_bytes(key))


def read_unread(folder: Path) -> Iterator[UnreadMessage]:
    """What a folder of a Maildir holds. The Maildir would parse each, and a load test leaves thousands."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # no mail, by the Maildir's rule: a file manager's
                continue
            key = entry.name.partition(mailbox.Maildir.colon)[0]
            head = cut_head(Path(entry.path).read_bytes())
            yield UnreadMessage(key, head, datetime.fromtimestamp(entry.stat().st_mtime, UTC))


def cut_head(message: bytes) -> bytes:
    """The headers of a message, without its body."""
    return _END_OF_HEAD.split(message, maxsplit=1)[0]


def summarize(unread: UnreadMessage) -> CaughtMessage:
    """Decode the headers for the lists."""
    headers = read_headers(_parse(unread.head + b"\r\n\r\n"))
    first = {name.casefold(): value.strip() for name, value in reversed(headers)}
    delivered = [value for name, value in headers if name == "Delivered-To"]
    addressed = [address for _, address in getaddresses([first.get("to", "")])]
    return CaughtMessage(
        key=unread.key,
        message_id=first.get("message-id", ""),
        to=tuple(delivered or addressed),
        sender=first.get("from", ""),
        subject=first.get("subject", ""),
        received_at=unread.received_at,
        headers=dict(headers),
    )


def _parse(content: bytes) -> email.message.EmailMessage:
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(parsed, email.message.EmailMessage)  # noqa: S101 - what this policy makes
    return parsed


def read_headers(message: email.message.EmailMessage) -> list[tuple[str, str]]:
    """Decoded for reading; one that Python cannot parse is shown as it came, so that no mail is lost."""
    headers = []
    for name, raw in message.raw_items():
        try:
            value = str(message.policy.header_fetch_parse(name, raw))
        except Exception:
            value = str(raw)
        headers.append((name, value))
    return headers


def read_part(message: email.message.EmailMessage, kind: str) -> str | None:
    """The text of the `plain` or `html` part; undecodable bytes are shown as replacement characters."""
    part = message.get_body((kind,))
    if part is None:
        return None
    content = part.get_payload(decode=True)
    charset = part.get_content_charset("utf-8")
    assert isinstance(content, bytes)  # noqa: S101 - a text part is never multipart
    try:
        return content.decode(charset, errors="replace")
    except LookupError:
        return content.decode("utf-8", errors="replace")


class SmtpReceiver:
    """aiosmtpd's handler: 250 is answered only once the message is on disk."""

    def __init__(self, mail: CaughtMail) -> None:
        self.mail = mail

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = envelope.original_content or b""
        key = await asyncio.to_thread(
            self.mail.keep, content, sender=envelope.mail_from or "", recipients=envelope.rcpt_tos
        )
        return f"250 kept as {key}"


def render_page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="stylesheet" href="/style.css"></head>'
        f"<body>{body}</body></html>"
    )


def render_list(messages: list[CaughtMessage], *, to: str) -> str:
    rows = "".join(
        f"<tr><td>{one.received_at:%Y-%m-%d %H:%M:%S}</td><td>{escape(', '.join(one.to))}</td>"
        f'<td><a href="/messages/{escape(one.key)}">{escape(one.subject) or "(no subject)"}</a></td></tr>'
        for one in messages[:LISTED_ON_PAGE]
    )
    head = "<tr><th>Received (UTC)</th><th>To</th><th>Subject</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    shown = str(len(messages))
    if len(messages) > LISTED_ON_PAGE:
        shown = f"the newest {LISTED_ON_PAGE} of {shown}"
    data = "/messages.json" + (f"?{urlencode({'to': to})}" if to else "")
    body = (
        "<h1>Caught mail</h1><p>Nothing sent here leaves this machine. "
        f'Messages: {shown} (<a href="{escape(data)}">as JSON</a>).</p>'
        f'<form action="/"><label>Recipient <input name="to" type="email" value="{escape(to)}"></label> '
        '<button>Show</button> <a href="/">all</a></form>'
        f"{table if messages else '<p>No message yet.</p>'}"
    )
    return render_page("Caught mail", body)


def render_message(key: str, message: email.message.EmailMessage) -> str:
    headers = read_headers(message)
    subject = next((value for name, value in headers if name.casefold() == "subject"), "(no subject)")
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in headers)
    text = read_part(message, "plain")
    html = read_part(message, "html")
    body = f'<p><a href="/">All caught mail</a></p><h1>{escape(subject)}</h1><table>{rows}</table>'
    if text is not None:
        body += f"<h2>Text</h2><pre>{escape(text)}</pre>"
    if html is not None:
        body += f'<h2>HTML</h2><iframe sandbox title="HTML part" src="/messages/{escape(key)}/html"></iframe>'
    return render_page(subject, body)


class PageHandler(BaseHTTPRequestHandler):
    server: "PageServer"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        to = parse_qs(address.query).get("to", [""])[0]
        match address.path.strip("/").split("/"):
            case [""]:
                self._answer(render_list(self.server.mail.list_newest_first(to=to), to=to))
            case ["messages.json"]:
                found = [one.describe() for one in self.server.mail.list_newest_first(to=to)]
                self._answer(json.dumps(found), kind="application/json")
            case ["health"]:
                self._answer('{"status": "ok"}', kind="application/json")
            case ["style.css"]:
                self._answer(STYLE, kind="text/css")
            case ["messages", key]:
                message = self.server.mail.read(key)
                self._answer(render_message(key, message) if message else None)
            case ["messages", key, "html"]:
                message = self.server.mail.read(key)
                self._answer(read_part(message, "html") if message else None, policy=PART_POLICY)
            case _:
                self._answer(None)

    def _answer(self, content: str | None, *, kind: str = "text/html", policy: str = PAGE_POLICY) -> None:
        """None is "there is no such thing"."""
        if content is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        encoded = content.encode(errors="replace")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(encoded)))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, format: str, *args: Any) -> None:
        """Only errors are worth a line; they arrive through log_error."""

    def log_error(self, format: str, *args: Any) -> None:
        print(f"mail sink: {self.path}: {format % args}", file=sys.stderr, flush=True)


class PageServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], mail: CaughtMail) -> None:
        super().__init__(address, PageHandler)
        self.mail = mail


async def run_sink(arguments: argparse.Namespace) -> None:
    """Until a signal, or until whoever started us is gone."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.exit_on_stdin_eof:
        loop.add_reader(sys.stdin, lambda: None if os.read(sys.stdin.fileno(), 4096) else stop.set())
    mail = CaughtMail(arguments.maildir)
    smtp = await loop.create_server(
        # A fixed host name: the default asks the DNS for ours.
        lambda: SMTP(SmtpReceiver(mail), hostname="localhost", enable_SMTPUTF8=True, loop=loop),
        arguments.host,
        arguments.smtp_port,
    )
    pages = PageServer((arguments.host, arguments.http_port), mail)
    pages.timeout = 0
    loop.add_reader(pages, pages.handle_request)  # unlike serve_forever, this sleeps without polling
    await stop.wait()
    smtp.close()
    pages.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--smtp-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    parser.add_argument("--maildir", type=Path, required=True)
    parser.add_argument("--exit-on-stdin-eof", action="store_true")
    asyncio.run(run_sink(parser.parse_args()))


if __name__ == "__main__":
    main()
