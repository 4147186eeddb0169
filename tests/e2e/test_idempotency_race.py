"""One Idempotency-Key, sent fifty times at once to real web processes, is one order: thanks to the guard."""

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import httpx
import pytest
from django.db import connection

from orders.clients import create_key
from orders.models import IdempotentRequest, Order, OutboxMessage, Scope
from tests.e2e.api import ORDERS, make_client, order_body
from tests.processes import SWITCHED
from tests.switches.guards import IDEMPOTENCY_LOCK
from tests.web import serving

PARALLEL = 50
ROUNDS = 20


class Round(NamedTuple):
    """What fifty requests with one key were answered, and what they left."""

    answers: list[httpx.Response]
    orders: int
    messages: int
    keys: int


@pytest.fixture
def headers(shop: None) -> dict[str, str]:
    client = make_client()
    client.requests_per_minute = 1_000_000
    client.save()
    secret = create_key(client=client, name="race", scopes=[Scope.PLACE]).secret
    return {"Authorization": f"Bearer {secret}"}


def count_rows() -> tuple[int, int, int]:
    return Order.objects.count(), OutboxMessage.objects.count(), IdempotentRequest.objects.count()


def play(address: str, headers: dict[str, str], rounds: int) -> Iterator[Round]:
    """Rounds of fifty requests that leave at the same moment, each on a connection of its own."""
    with (
        ThreadPoolExecutor(PARALLEL) as pool,
        httpx.Client(
            base_url=address, headers=headers, timeout=60, limits=httpx.Limits(max_connections=PARALLEL)
        ) as http,
    ):
        for _ in range(rounds):
            key, together = str(uuid.uuid4()), threading.Barrier(PARALLEL)

            def send(_: int, key: str = key, together: threading.Barrier = together) -> httpx.Response:
                together.wait(20)
                return http.post(ORDERS, json=order_body(), headers={"Idempotency-Key": key})

            before = count_rows()
            answers = list(pool.map(send, range(PARALLEL)))
            yield Round(answers, *(now - then for now, then in zip(count_rows(), before, strict=True)))


def test_one_key_fifty_times_at_once_is_one_order(headers: dict[str, str]) -> None:
    refused = replayed = 0
    with serving() as address:
        for played in play(address, headers, ROUNDS):
            assert {answer.status_code for answer in played.answers} <= {202, 409}
            placed = [answer for answer in played.answers if answer.status_code == 202]
            assert len({answer.content for answer in placed}) == 1
            assert len({answer.headers["Location"] for answer in placed}) == 1
            firsts = [answer for answer in placed if "Idempotent-Replayed" not in answer.headers]
            assert len(firsts) == 1
            assert (played.orders, played.messages, played.keys) == (1, 1, 1)
            for answer in played.answers:
                if answer.status_code == 409:
                    assert answer.json()["type"].endswith(":idempotency-key-in-use")
                    assert answer.headers["Retry-After"] == "1"
            refused += len(played.answers) - len(placed)
            replayed += len(placed) - 1
    assert Order.objects.count() == ROUNDS
    # The requests did meet: some found the key in use, and some found the stored answer.
    assert refused > 0
    assert replayed > 0


@pytest.fixture
def without_unique_rows(shop: None) -> Iterator[None]:
    """The table of keys without its unique constraint, for the time of a test."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE orders_idempotentrequest DROP CONSTRAINT idempotent_request_once")
        try:
            yield
        finally:
            cursor.execute("DELETE FROM orders_idempotentrequest")
            cursor.execute(
                "ALTER TABLE orders_idempotentrequest ADD CONSTRAINT idempotent_request_once"
                " UNIQUE (client_id, method, path, key)"
            )


def test_without_the_guard_it_is_several(headers: dict[str, str], without_unique_rows: None) -> None:
    """The control: the same requests do race. The lock and the unique row are off, the look-up is not."""
    with serving(DJANGO_SETTINGS_MODULE=SWITCHED, UNGUARDED=IDEMPOTENCY_LOCK) as address:
        worst = 0
        for played in play(address, headers, ROUNDS):
            worst = max(worst, played.orders)
            if worst > 1:
                break
    assert worst > 1
