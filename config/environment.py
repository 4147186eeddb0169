"""How the settings read the environment: each variable as what it is, with a clear error where it is not."""

import math
import os
from decimal import Decimal, InvalidOperation
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict


def read_flag(name: str, *, default: bool) -> bool:
    """The variable as a yes or no; unset or empty means `default`."""
    value = os.environ.get(name, "")
    return value.lower() in {"1", "true", "yes", "on"} if value else default


def read_list(name: str) -> list[str]:
    """A comma-separated variable as a list without blanks."""
    return [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]


def read_amount(name: str, *, default: str) -> Decimal | None:
    """The variable as an amount of the shop's currency; empty means none."""
    value = os.environ.get(name, default)
    try:
        amount = Decimal(value) if value else None
    except InvalidOperation:
        amount = Decimal("NaN")
    if amount is not None and not (amount.is_finite() and amount >= 0):
        raise ImproperlyConfigured(f"{name} takes an amount such as {default}, or nothing; not {value!r}.")
    return amount


def read_count(name: str, *, default: str) -> int:
    """The variable as a whole number, 0 included; unset or empty means `default`."""
    value = os.environ.get(name, "") or default
    if not (value.isascii() and value.isdecimal()):
        raise ImproperlyConfigured(f"{name} takes a whole number such as {default}, or 0; not {value!r}.")
    return int(value)


def read_seconds(name: str, *, default: str) -> float:
    """The variable as a time above 0; unset or empty means `default`."""
    value = os.environ.get(name, "") or default
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ImproperlyConfigured(f"{name} takes seconds above 0 such as {default}; not {value!r}.")
    return seconds


def read_database(url: str) -> dict[str, Any]:
    """Django's DATABASES entry for a postgresql:// URL; the dummy engine where there is none.

    Commands that touch no data (check, makemigrations, type checking) run without a database.
    """
    if not url:
        return {"ENGINE": "django.db.backends.dummy"}
    options: dict[str, Any] = dict(conninfo_to_dict(url))
    # Below the time-out of a saga's attempt: a blocked statement fails and says so, instead of holding a
    # database thread for an attempt that has been given up.
    timeout = round(float(os.environ.get("DATABASE_LOCK_TIMEOUT", "10")) * 1000)
    if timeout and "lock_timeout" not in options.get("options", ""):
        options["options"] = f"{options.get('options', '')} -c lock_timeout={timeout}".strip()
    # A database that is gone without a word, its machine included, is noticed in seconds, not in minutes:
    # what is answered meanwhile holds a thread. The URL may say otherwise. A socket file ignores these.
    for name, value in {
        "connect_timeout": "5",
        "tcp_user_timeout": "15000",
        "keepalives_idle": "15",
        "keepalives_interval": "5",
        "keepalives_count": "3",
    }.items():
        options.setdefault(name, value)
    # Planning costs PostgreSQL more than most of our statements do: a connection has each planned once.
    prepare_after = read_count("DATABASE_PREPARE_AFTER", default="0")
    if prepare_after:
        options.update(server_side_binding=True, prepare_threshold=prepare_after)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": options.pop("dbname", ""),
        "USER": options.pop("user", ""),
        "PASSWORD": options.pop("password", ""),
        "HOST": options.pop("host", ""),
        "PORT": options.pop("port", ""),
        # Connections live in fixed threads (web threads, worker threads), so keeping them pays.
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": options,
    }
