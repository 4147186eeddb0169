"""The web process killed with -9 around the commit of an order, fifty times: none is lost, none is double."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
import pytest
from django.conf import settings

from config.temporal import connect_temporal
from orders.models import IdempotentRequest, Order, OrderStatus, OutboxMessage
from tests.crash.shopping import post_order, read_gateway, status_of
from tests.desk import STEPS, check_stock_sums, read_books, read_trail
from tests.faults import Pause, pausing, pausing_commit
from tests.own_services import Web, serving
from tests.processes import Crew, wait_until

ROUNDS = 50
# A killed worker is back in a moment; meanwhile others take the requests.
WEBS = 4

REPLAYED = "Idempotent-Replayed"


@dataclass
class Shopper:
    """Sends each order once, and again, with the same key, after the web process was killed under it."""

    webs: list[Web]
    secret: str
    before: Pause
    at_commit: Pause
    threads: ThreadPoolExecutor
    first_answers: dict[str, httpx.Response] = field(default_factory=dict)

    def send(self, number: int, *, again: bool = False) -> httpx.Response:
        """The order of this round: at first to one web process, then to the next, as a proxy does."""
        web = self.webs[(number + again) % len(self.webs)]
        return post_order(web.address, self.secret, key=f"round-{number}", email=name_customer(number))

    def send_until_it_counts(self, number: int) -> httpx.Response:
        """Again and again, as the 409 asks for while the database is still busy with the killed request."""
        answers: list[httpx.Response] = []

        def is_answered() -> bool:
            answers.append(self.send(number, again=True))
            return answers[-1].status_code != 409

        wait_until(is_answered, "the repeat is answered")
        return answers[-1]

    def start_sending(self, number: int) -> "Future[httpx.Response]":
        return self.threads.submit(self.send, number)

    def kill_web(self, number: int) -> None:
        self.webs[number % len(self.webs)].kill_worker()

    def kill_before_the_commit(self, number: int) -> None:
        """The control: what was not committed is gone, and the repeat is the first that counts."""
        self.before.arm()
        sending = self.start_sending(number)
        wait_until(self.before.is_reached, "the order is being written")
        self.kill_web(number)
        assert isinstance(sending.exception(20), httpx.TransportError)
        self.before.release()
        self.first_answers[name_customer(number)] = self.send_until_it_counts(number)

    def kill_while_it_commits(self, number: int) -> None:
        """The database is busy with the COMMIT of a client that is no more. A repeat comes in between."""
        self.at_commit.arm()
        sending = self.start_sending(number)
        wait_until(self.at_commit.is_reached, "the commit has begun")
        self.kill_web(number)
        assert isinstance(sending.exception(20), httpx.TransportError)
        too_early = self.send(number, again=True)
        assert too_early.status_code == 409, too_early.text
        assert int(too_early.headers["Retry-After"]) > 0
        assert not is_accepted(number)
        self.at_commit.release()

    def kill_before_it_knows(self, number: int) -> None:
        """The commit is done; the process that asked for it is dead before it hears so."""
        self.at_commit.arm()
        sending = self.start_sending(number)
        wait_until(self.at_commit.is_reached, "the commit has begun")
        self.webs[number % len(self.webs)].freeze_worker()
        self.at_commit.release()
        wait_until(lambda: is_accepted(number), "the order is committed")
        self.kill_web(number)
        assert isinstance(sending.exception(20), httpx.TransportError)

    def kill_when_the_row_appears(self, number: int) -> None:
        """Right after the commit, whatever it is doing then: the answer gets out, or does not."""
        sending = self.start_sending(number)
        wait_until(lambda: is_accepted(number), "the order is committed")
        self.kill_web(number)
        error = sending.exception(20)
        if error is None:
            self.first_answers[name_customer(number)] = sending.result()
        else:
            assert isinstance(error, httpx.TransportError), error

    def kill_after_the_answer(self, number: int) -> None:
        """As it goes back to waiting for the next one."""
        self.first_answers[name_customer(number)] = self.send(number)
        self.kill_web(number)


MOMENTS = [
    Shopper.kill_before_the_commit,
    Shopper.kill_while_it_commits,
    Shopper.kill_before_it_knows,
    Shopper.kill_when_the_row_appears,
    Shopper.kill_after_the_answer,
]


def name_customer(number: int) -> str:
    return f"round-{number}@example.com"


def is_accepted(number: int) -> bool:
    return Order.objects.filter(customer_email=name_customer(number)).exists()


async def count_sagas() -> Counter[str]:
    """Every workflow run that Temporal has for the test's task queue, by workflow id."""
    client = await connect_temporal()
    query = f"TaskQueue = '{settings.SAGA_TASK_QUEUE}'"
    return Counter([found.id async for found in client.list_workflows(query)])


# Fifty times a web process starts, on whatever else the machine has to do.
@pytest.mark.timeout(300)
def test_web_killed_fifty_times_around_the_commit_loses_and_doubles_nothing(
    start: Callable[..., Crew], secret: str
) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        webs = [stack.enter_context(serving()) for _ in range(WEBS)]
        before = stack.enter_context(pausing("orders_outboxmessage", "INSERT"))
        at_commit = stack.enter_context(pausing_commit("orders_outboxmessage"))
        before.release()
        at_commit.release()
        threads = stack.enter_context(ThreadPoolExecutor(1))
        shopper = Shopper(webs, secret, before, at_commit, threads)
        repeats: dict[str, httpx.Response] = {}
        for number in range(ROUNDS):
            MOMENTS[number % len(MOMENTS)](shopper, number)
            wait_until(lambda: is_accepted(number), "the order is committed")  # noqa: B023 - called here
            repeats[name_customer(number)] = shopper.send_until_it_counts(number)
    print(f"{ROUNDS} rounds in {time.monotonic() - began:.1f} s, {len(shopper.first_answers)} first answers")

    orders = {order.customer_email: order for order in Order.objects.all()}
    assert len(orders) == Order.objects.count() == IdempotentRequest.objects.count() == ROUNDS
    assert set(orders) == set(repeats)
    for customer, repeat in repeats.items():
        assert repeat.status_code == 202, repeat.text
        assert repeat.headers[REPLAYED] == "true"
        assert repeat.json()["id"] == str(orders[customer].pk)
        first = shopper.first_answers.get(customer)
        if first is not None:
            assert (first.status_code, REPLAYED in first.headers) == (202, False)
            assert repeat.content == first.content
    # Of the rounds that decide it by themselves, each did what its name says.
    each = ROUNDS // len(MOMENTS)
    assert 2 * each <= len(shopper.first_answers) <= 3 * each

    # Nobody has told Temporal yet; workers do.
    assert OutboxMessage.objects.filter(delivered_at=None, attempts=0).count() == ROUNDS
    start(2)
    wait_until(
        lambda: Order.objects.filter(status=OrderStatus.COMPLETED).count() == ROUNDS, "all are completed"
    )
    assert not OutboxMessage.objects.filter(delivered_at=None).exists()
    for order in orders.values():
        assert status_of(order.pk) == OrderStatus.COMPLETED
        assert read_gateway(order.pk) == ["charge"]
        assert read_trail(order) == [(step, "done") for step in STEPS]
        books = read_books(order.pk)
        assert (books.events, books.mails) == (["charged"], ["confirmation sent"])
    check_stock_sums()
    expected = Counter(f"order-{order.pk}" for order in orders.values())
    # Temporal's list follows its histories a moment later.
    wait_until(lambda: asyncio.run(count_sagas()).total() >= ROUNDS, "Temporal lists every saga")
    assert asyncio.run(count_sagas()) == expected
