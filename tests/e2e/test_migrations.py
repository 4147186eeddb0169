"""The schema is brought up to date while orders are placed, and by two commands at once."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from tests.own_services import Postgres, own_postgres
from tests.processes import PROJECT, build_environment, wait_until

PREPARE = "from orders.management.stack import prepare_database; prepare_database()"
NEWEST_INDEX = "order_by_client"


@pytest.fixture
def postgres(db: None) -> Iterator[Postgres]:
    with own_postgres() as server:
        yield server


@pytest.fixture
def manage(postgres: Postgres) -> Callable[..., "subprocess.Popen[str]"]:
    """Starts a command of manage.py on the server's database."""

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env={**os.environ, **build_environment(), "DATABASE_URL": postgres.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def finish(process: "subprocess.Popen[str]") -> None:
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 0, output


def connect(server: Postgres) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(server.url, autocommit=True)


def has_valid_index(server: Postgres) -> bool:
    with closing(connect(server)) as db:
        found = db.execute(
            "SELECT indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relname = %s",
            [NEWEST_INDEX],
        ).fetchone()
    return found == (True,)


@pytest.mark.timeout(300)
def test_commands_that_prepare_the_database_at_once_do_not_get_in_each_others_way(
    postgres: Postgres, manage: Callable[..., "subprocess.Popen[str]"]
) -> None:
    for process in [manage("shell", "-v0", "-c", PREPARE) for _ in range(2)]:
        finish(process)
    assert has_valid_index(postgres)


@pytest.mark.timeout(300)
def test_orders_are_written_while_the_index_is_built(
    postgres: Postgres, manage: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """A transaction is under way for as long as the test wants: the index waits for it, and writers do not
    wait for the index. What an earlier try has left half built does not stand in its way."""
    finish(manage("migrate", "-v0", "orders", "0009_webhooks"))
    with closing(connect(postgres)) as db:
        db.execute(f"CREATE INDEX {NEWEST_INDEX} ON orders_order (client_id)")
        db.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [NEWEST_INDEX])
    assert not has_valid_index(postgres)
    order = (
        "INSERT INTO orders_order (id, customer_email, status, currency, total, payment_token,"
        " failed_step, failure_type, failure) VALUES (gen_random_uuid(), 'a@b.example', 'pending', 'EUR',"
        " 1, 't', '', '', '')"
    )
    with closing(connect(postgres)) as slow, closing(connect(postgres)) as other:
        slow.execute("BEGIN")
        slow.execute(order)
        migrating = manage("migrate", "-v0")

        def waits() -> bool:
            row = other.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%INDEX CONCURRENTLY%'"
                " AND wait_event_type = 'Lock'"
            ).fetchone()
            return row == (1,)

        wait_until(waits, "the index waits for the transaction")
        writing = threading.Thread(target=other.execute, args=[order])
        writing.start()
        writing.join(5)
        assert not writing.is_alive()
        slow.execute("COMMIT")
        finish(migrating)
    assert has_valid_index(postgres)
