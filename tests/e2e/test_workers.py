"""Real worker processes under `manage.py run_saga_workers`: killed, drained, and started before Temporal."""

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings

from orders.models import Order, OrderStatus, StepState, TrailEntry
from orders.services import Item
from tests.desk import LAPTOPS, check_stock_sums, place, read_books
from tests.faults import pausing
from tests.processes import GRACE, Crew, wait_until

PENS = [Item("PEN-BRASS", 1)]  # 32.00
FINAL = {OrderStatus.COMPLETED, OrderStatus.CANCELLED}


def count_final(orders: list[Order]) -> int:
    return Order.objects.filter(pk__in=[order.pk for order in orders], status__in=FINAL).count()


def check_nothing_was_lost(orders: list[Order], *, refused: list[Order]) -> None:
    """Every order is final, the right way; money and stock agree with it."""
    statuses = dict(Order.objects.values_list("pk", "status"))
    assert Counter(statuses[order.pk] for order in orders if order not in refused) == {
        OrderStatus.COMPLETED: len(orders) - len(refused)
    }
    assert all(statuses[order.pk] == OrderStatus.CANCELLED for order in refused)
    for order in orders:
        books = read_books(order.pk)
        assert books.net == (0 if order in refused else order.total)
        assert books.events.count("charged") == (order not in refused)
        assert books.held == (0 if order in refused else 1)
    check_stock_sums()


def find_payer(order: Order) -> tuple[str, int]:
    """The worker that has an attempt at the order's payment in flight: its name and process id."""

    def find() -> str | None:
        running = TrailEntry.objects.filter(order=order, name="process_payment", state=StepState.RUNNING)
        return running.values_list("worker", flat=True).first()

    wait_until(lambda: find() is not None, "a worker pays")
    identity = find()
    assert identity is not None, "the bank has answered, which it should not have"
    return identity.partition("@")[0], int(identity.rpartition(":")[2])


def test_killing_any_worker_loses_no_order_and_it_is_started_again_at_once(
    start: Callable[..., Crew],
) -> None:
    crew = start(4)
    crew.wait_ready(4)
    orders = [place(LAPTOPS if number % 5 == 4 else PENS) for number in range(49)]
    # The bank does not answer the first request about the last order.
    waiting = place(PENS, token="tok_hang_x1")
    orders.append(waiting)
    refused = orders[4:49:5]
    victim, pid = find_payer(waiting)
    assert pid in crew.pids_of(victim)

    os.kill(pid, signal.SIGKILL)
    took = wait_until(lambda: len(crew.pids_of(victim)) == 2, f"{victim} is back")
    print(f"{victim} was ready again after {took:.2f} s")
    # At once; how soon it is ready then depends on what else the machine does.
    assert crew.find(rf"({victim} was ended by SIGKILL; starting it again in 0.1 s)")

    # Temporal notices the lost work by its timeouts: a saga's task after 10 s, and its next one after 10 s.
    took = wait_until(lambda: count_final(orders) == len(orders), "every order is final", within=70)
    print(f"every order was final after {took:.1f} s")
    check_nothing_was_lost(orders, refused=refused)
    # The kill did hit work: what was in flight was noticed as lost, and done again.
    lost = TrailEntry.objects.filter(order=waiting, name="process_payment", state=StepState.LOST)
    assert [int(entry.worker.rpartition(":")[2]) for entry in lost] == [pid]
    # Nobody else was touched.
    assert len(crew.pids_of()) == 5


def test_drain_finishes_what_is_in_flight_and_exits_0(start: Callable[..., Crew]) -> None:
    crew = start(2)
    crew.wait_ready(2)
    with pausing("inventory_stockmovement", "INSERT") as pause:
        orders = [place(PENS) for _ in range(10)]
        wait_until(pause.is_reached, "a step is in the middle of its transaction")
        crew.process.send_signal(signal.SIGTERM)
        wait_until(lambda: len(crew.find(r"(draining: )")) == 2, "both workers drain")
        assert crew.process.poll() is None
        pause.release()
        took = wait_until(lambda: crew.process.poll() is not None, "the workers have ended", within=GRACE)
    assert crew.process.returncode == 0
    print(f"drained in {took:.2f} s")
    # What was begun was brought to its end: nobody has to find out later.
    in_flight = TrailEntry.objects.filter(name="reserve_inventory")
    assert in_flight.filter(state=StepState.DONE).exists()
    assert not TrailEntry.objects.filter(state__in=[StepState.RUNNING, StepState.LOST]).exists()
    assert count_final(orders) < len(orders)

    start(2)
    wait_until(lambda: count_final(orders) == len(orders), "every order is final")
    check_nothing_was_lost(orders, refused=[])


@contextmanager
def forwarding(port: int, address: str) -> Iterator[None]:
    """A listener on `port` that passes everything on to `address`."""
    host, _, target = address.rpartition(":")
    listener = socket.create_server(("127.0.0.1", port))
    sockets: list[socket.socket] = [listener]
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return  # closed below

    def accept() -> None:
        while True:
            try:
                inside, _ = listener.accept()
            except OSError:
                return
            outside = socket.create_connection((host, int(target)))
            sockets.extend((inside, outside))
            for pair in ((inside, outside), (outside, inside)):
                run(pump, *pair)

    def run(work: Callable[..., None], *arguments: Any) -> None:
        threads.append(threading.Thread(target=work, args=arguments))
        threads[-1].start()

    run(accept)
    try:
        yield
    finally:
        for each in list(sockets):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # the other side was faster
        for thread in list(threads):
            thread.join(10)
        for each in sockets:
            each.close()


def test_workers_started_before_temporal_begin_when_it_answers(start: Callable[..., Crew]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port: int = reserved.getsockname()[1]
    crew = start(2, TEMPORAL_ADDRESS=f"127.0.0.1:{port}")
    waiting = rf"(waiting for Temporal at 127\.0\.0\.1:{port}: Connection refused)"
    wait_until(lambda: bool(crew.find(waiting)), f"it says what it waits for: {crew.lines}")
    order = place(PENS)
    with forwarding(port, settings.TEMPORAL_ADDRESS):
        crew.wait_ready(2)
        wait_until(lambda: count_final([order]) == 1, "the order is final")
        assert len(crew.find(waiting)) == 1
        check_nothing_was_lost([order], refused=[])
        crew.process.send_signal(signal.SIGTERM)
        assert crew.process.wait(GRACE) == 0
