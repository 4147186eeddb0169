"""The connections to the mail server: kept open for a while, because making one costs more than a mail."""

import atexit
import select
import smtplib
import threading
import time
from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend

# For how many seconds a connection without a mail is kept.
IDLE_FOR = 5.0

# SMTP's code for "closing the channel".
CLOSING = 421

# Which settings say where a connection leads.
_ADDRESS = ("EMAIL_BACKEND", "EMAIL_HOST", "EMAIL_PORT")
_Address = tuple[Any, ...]

# The kept ones, each with where it leads and since when it is idle; the one used last is used next.
_idle: list[tuple[BaseEmailBackend, _Address, float]] = []
_timer: threading.Timer | None = None
_lock = threading.Lock()


def send_message(message: EmailMessage) -> None:
    """Send the mail over a connection of before, if one is open, or over a new one, which is then kept.

    May be called on any thread. Once the mail server may have taken the mail nothing is tried again here.
    Raises what the e-mail backend raises: OSError, smtplib.SMTPException.
    """
    address = tuple(getattr(settings, name) for name in _ADDRESS)
    kept = _take(address)
    if kept is not None:
        try:
            return _send(message, kept, address)
        except smtplib.SMTPSenderRefused as refused:
            # The server has had enough of this connection, before it was told anything of the mail.
            if refused.smtp_code != CLOSING:
                raise
    return _send(message, get_connection(), address)


def _send(message: EmailMessage, connection: BaseEmailBackend, address: _Address) -> None:
    """Send the mail over this connection, and keep it unless that fails."""
    message.connection = connection
    try:
        connection.open()
        message.send()
    except BaseException:
        connection.close()
        raise
    _keep(connection, address)


def _take(address: _Address) -> BaseEmailBackend | None:
    """A kept connection to this server that is still open."""
    while True:
        with _lock:
            if not _idle:
                return None
            connection, leads_to, _ = _idle.pop()
        if leads_to == address and _is_open(connection):
            return connection
        connection.close()


def _is_open(connection: BaseEmailBackend) -> bool:
    """Whether the mail server has said nothing since the last mail: it would only say that it closes."""
    session = getattr(connection, "connection", None)  # smtplib's; other backends have none
    if session is None:
        return True
    poll = select.poll()
    poll.register(session.sock, select.POLLIN)
    return not poll.poll(0)


def _keep(connection: BaseEmailBackend, address: _Address) -> None:
    with _lock:
        _idle.append((connection, address, time.monotonic()))
        _look_again()


def close_idle(*, idle_for: float = 0.0) -> None:
    """Close the connections that nobody has used for so many seconds."""
    before = time.monotonic() - idle_for
    with _lock:
        closing = [connection for connection, _, since in _idle if since <= before]
        _idle[:] = [kept for kept in _idle if kept[2] > before]
    for connection in closing:
        with suppress(OSError, smtplib.SMTPException):
            connection.close()


def _look_again() -> None:
    """See to it that kept connections are closed in time. The caller has the lock."""
    global _timer
    if _timer is None and _idle:
        _timer = threading.Timer(IDLE_FOR, _close_in_time)
        _timer.daemon = True
        _timer.start()


def _close_in_time() -> None:
    global _timer
    try:
        close_idle(idle_for=IDLE_FOR)
    finally:
        with _lock:
            _timer = None
            _look_again()


atexit.register(close_idle)
