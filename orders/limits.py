"""How often a caller may ask: an allowance a minute for each, counted in the database for all processes."""

import math
from ipaddress import ip_address, ip_network

from django.db import connection

# One customer of a provider has a network of this size, and all of its addresses.
IPV6_NETWORK = 64

# GCRA: `full_at` is when the allowance is whole again. Each request moves it on by its share of the minute,
# and one that would move it further than a minute from now is refused, which leaves the row as it is.
# Row and clock are the database's, so that all processes and threads count together. A crash may forget the
# last requests: no request, and nobody who waits for the row, waits for the disk on their account.
SPEND = """
WITH commit AS MATERIALIZED (
    SELECT CASE WHEN %(is_alone)s THEN set_config('synchronous_commit', 'off', true) END
)
INSERT INTO orders_ratelimit AS kept (subject, full_at)
SELECT %(subject)s, statement_timestamp() + %(share)s::interval FROM commit
ON CONFLICT (subject) DO UPDATE
SET full_at = GREATEST(kept.full_at, statement_timestamp()) + %(share)s::interval
WHERE kept.full_at + %(share)s::interval <= statement_timestamp() + %(minute)s::interval
RETURNING full_at
"""
# Only an answer to whoever was refused; it decides nothing.
FIND_WAIT = """
SELECT EXTRACT(EPOCH FROM full_at + %(share)s::interval - %(minute)s::interval - statement_timestamp())
FROM orders_ratelimit WHERE subject = %(subject)s
"""


def spend(*, subject: str, per_minute: int) -> int:
    """Count one request of the subject. Returns 0 when it may be carried out, and otherwise after how many
    seconds the next one may be (at least 1).

    A whole minute's allowance may be spent at once; it comes back evenly. One statement decides, and locks
    the subject's row: outside of a transaction for that statement alone.
    """
    # Rounded down to what the database can tell apart, so that the last request of a burst still fits.
    share = f"{60_000_000 // per_minute} microseconds"
    values: dict[str, str | bool] = {
        "subject": subject,
        "share": share,
        "minute": "1 minute",
        # In a transaction the commit is not ours to hurry.
        "is_alone": connection.get_autocommit(),
    }
    with connection.cursor() as cursor:
        cursor.execute(SPEND, values)
        if cursor.fetchone():
            return 0
        cursor.execute(FIND_WAIT, values)
        row = cursor.fetchone()
    # No row any more: its minute was over, and it was tidied up.
    return max(1, math.ceil(row[0])) if row else 1


def name_network(address: str) -> str:
    """Whose allowance a request from that address spends: an IPv6 address counts with its network."""
    found = ip_address(address)
    if found.version == 4:
        return address
    return str(found.ipv4_mapped or ip_network((address, IPV6_NETWORK), strict=False))
