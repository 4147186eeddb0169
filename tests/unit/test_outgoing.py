"""Connections to the mail server: kept, closed when idle, and replaced without a mail being sent twice."""

import smtplib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.mail import EmailMessage

from notifications import outgoing
from notifications.outgoing import send_message
from tests.faults import MailServer
from tests.processes import wait_until


class Server:
    """A mail server: the subjects it took, by connection, and how many connections said that they close."""

    def __init__(self) -> None:
        self.taken: dict[object, list[str]] = {}
        self.closed = 0
        self.most = 1000  # mails on one connection
        self.cuts = False

    async def handle_MAIL(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if len(self.taken.setdefault(session.peer, [])) == self.most:
            return "421 Enough"
        envelope.mail_from = address
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.taken[session.peer].append(envelope.rcpt_tos[0].partition("@")[0])
        if self.cuts:
            server.transport.abort()
        return "250 OK"

    async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:
        self.closed += 1
        return "221 Bye"

    def listen(self, port: int) -> MailServer:
        controller = MailServer(self, port)
        controller.start()
        return controller

    def list_taken(self) -> list[list[str]]:
        return [taken for taken in self.taken.values() if taken]


@pytest.fixture
def port(settings: Any) -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings.EMAIL_PORT = probe.getsockname()[1]
    settings.EMAIL_HOST = "127.0.0.1"
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    yield settings.EMAIL_PORT
    outgoing.close_idle()


@pytest.fixture
def server(port: int) -> Iterator[Server]:
    server = Server()
    controller = server.listen(port)
    yield server
    controller.stop()


def send(*names: str) -> None:
    for name in names:
        send_message(EmailMessage("Hello", "Hello.", "desk@example.com", [f"{name}@example.com"]))


def test_mails_go_over_one_connection(server: Server) -> None:
    send("first", "second", "third")
    assert server.list_taken() == [["first", "second", "third"]]


def test_connection_without_mails_is_closed_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "IDLE_FOR", 0.05)
    send("first")
    wait_until(lambda: server.closed == 1, "the connection is closed")
    send("second")
    assert server.list_taken() == [["first"], ["second"]]


def test_connection_that_the_server_has_closed_is_replaced(port: int) -> None:
    before, after = Server(), Server()
    controller = before.listen(port)
    send("first")
    controller.stop()
    controller = after.listen(port)
    try:
        send("second")
    finally:
        controller.stop()
    assert (before.list_taken(), after.list_taken()) == ([["first"]], [["second"]])


def test_connection_of_which_the_server_has_enough_is_replaced(server: Server) -> None:
    server.most = 2
    send("first", "second", "third")
    assert server.list_taken() == [["first", "second"], ["third"]]


def test_mail_that_the_server_may_have_taken_is_not_sent_again(server: Server) -> None:
    send("first")
    server.cuts = True
    with pytest.raises(smtplib.SMTPServerDisconnected):
        send("second")
    assert server.list_taken() == [["first", "second"]]
    server.cuts = False
    send("third")
    assert server.list_taken() == [["first", "second"], ["third"]]


def test_other_settings_take_another_connection(server: Server, settings: Any) -> None:
    send("first")
    settings.EMAIL_HOST = "localhost"
    send("second")
    assert server.list_taken() == [["first"], ["second"]]
