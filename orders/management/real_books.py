"""Keeps what nobody ordered out of books that count: the one check of all commands that make orders up."""

from urllib.parse import urlsplit

from django.conf import settings
from django.core.management.base import CommandError
from django.db import connection

HERE = ("", "localhost", "127.0.0.1", "::1")


def refuse_real_books(doing: str) -> None:
    """Return on a developer's machine only: services that manage.py starts, and none elsewhere.

    `doing` is what the command does, for the sentence. Raises CommandError, exit code 2.
    """
    host = connection.settings_dict["HOST"]
    # One outside service is enough to have real books, money or mail, so each must be on this machine.
    hosts = [
        "" if host.startswith("/") else host,
        settings.TEMPORAL_ADDRESS.rpartition(":")[0].strip("[]"),
        urlsplit(settings.PAYMENT_GATEWAY_URL).hostname or "",
        settings.EMAIL_HOST,
    ]
    if not settings.EMBEDDED or any(each not in HERE for each in hosts):
        raise CommandError(
            f"This {doing}, so it only runs on a developer's machine, with the local services that manage.py "
            "starts.",
            returncode=2,
        )
