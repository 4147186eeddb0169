"""The state machine: customers, staff, sagas and crashes in any order that a real day could bring.

After each step the books must be what the model says, and the auditor must find nothing.
"""

import functools
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from inventory import services as inventory_services
from inventory.models import Product
from orders import desk
from orders.models import CUSTOMER, STEP_OF_UNDO, Order, OutboxKind
from orders.refusals import StateConflict
from orders.services import CANCEL_SAGA, tell_temporal
from tests.properties.day import Day
from tests.properties.model import FULL, GONE, TOKENS
from tests.properties.shop import REFUND_LIMIT, STOCK

# Orders of one run at most.
MANY = 8
# A step, and how many of its effects an attempt has had when it is delayed.
DELAYED = [("reserve_inventory", 0), ("process_payment", 0), ("process_payment", 1)]

pick = st.integers(0, 30)
skus = st.sampled_from(sorted(STOCK))
effects = st.integers(0, 5)
lines = st.dictionaries(skus, st.integers(1, 3), min_size=1, max_size=3)
tokens = st.sampled_from(sorted(TOKENS))
recipients = st.sampled_from(["ada", "ada", "ada", FULL, GONE])


def step(*conditions: Callable[[Any], bool], **arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule after which everything is checked."""

    def decorate(act: Callable[..., None]) -> Any:
        @functools.wraps(act)
        def act_and_check(self: Day, **chosen: Any) -> None:
            self.is_sound = False
            act(self, **chosen)
            self.check_everything()
            self.is_sound = True
            type(self).steps += 1

        decorated = rule(**arguments)(act_and_check)  # type: ignore[no-untyped-call, unused-ignore]
        for condition in conditions:
            decorated = precondition(condition)(decorated)
        return decorated

    return decorate


class OrderDesk(Day):
    """Orders, stock and payments under everything that may happen to them."""

    # --- customers and staff -----------------------------------------------------------------------------

    @initialize(lines=lines, token=tokens, recipient=recipients, delayed=st.sampled_from([None, *DELAYED]))
    def place_the_first(
        self, lines: dict[str, int], token: str, recipient: str, delayed: tuple[str, int] | None
    ) -> None:
        """Many days begin with what takes many steps to come about: an attempt that is late for its undo."""
        self.accept(lines, token, recipient)
        if delayed is not None:
            self.tell_temporal(self.messages[0])
            self.delay_and_cancel(self.list_live()[0], *delayed)

    @step(lambda self: len(self.model.orders) < MANY, lines=lines, token=tokens, recipient=recipients)
    def place(self, lines: dict[str, int], token: str, recipient: str) -> None:
        self.accept(lines, token, recipient)

    @step(lambda self: self.list_open(), which=pick)
    def cancel_as_customer(self, which: int) -> None:
        order_id = self.choose(self.list_open(), which)
        is_shipped = self.model.orders[order_id].status == "shipped"
        try:
            decision = desk.cancel_order(order_id=order_id, actor=CUSTOMER, reason="changed my mind")
        except StateConflict:
            assert is_shipped, "a cancel was refused although the order is not shipped"
            return
        assert not is_shipped, "a shipped order was cancelled"
        self.note(decision, cancels=True)

    @step(lambda self: self.list_open(), which=pick)
    def cancel_as_staff(self, which: int) -> None:
        order_id = self.choose(self.list_open(), which)
        order = self.model.orders[order_id]
        try:
            decision = desk.cancel_order_as_staff(order_id=order_id, staff=self.shop.staff, reason="asked to")
        except StateConflict:
            assert order.status == "shipped"
            return
        if decision.changed and decision.awaiting is None:
            assert order.in_books <= REFUND_LIMIT, f"{order.in_books} is refunded on the word of one person"
        self.note(decision, cancels=decision.awaiting is None)

    @step(lambda self: self.requests, which=pick, verdict=st.sampled_from(["approve", "reject", "withdraw"]))
    def decide_request(self, which: int, verdict: str) -> None:
        """A second person decides; some decide what is decided already."""
        request = self.choose(self.requests, which)
        request.refresh_from_db()
        try:
            match verdict:
                case "approve":
                    decision = desk.approve_cancel(request_id=request.pk, staff=self.shop.second)
                    self.note(decision, cancels=True)
                case "reject":
                    desk.reject_cancel(request_id=request.pk, staff=self.shop.second, note="no")
                case "withdraw":
                    desk.withdraw_cancel(request_id=request.pk, staff=self.shop.staff)
        except StateConflict:
            assert request.state != "awaiting_approval"

    @step(lambda self: self.list_paid(), which=pick)
    def ship(self, which: int) -> None:
        order_id = self.choose(self.list_paid(), which)
        try:
            decision = desk.ship_order(order_id=order_id, actor="ada")
        except StateConflict:
            return
        if decision.changed:
            assert self.model.orders[order_id].status == "completed", "shipped without being complete"
            self.model.ship(order_id)

    @step(lambda self: self.list_undos(), which=pick)
    def retry_undo(self, which: int) -> None:
        saga, undo = self.choose(self.list_undos(), which)
        self.age(saga, undo)
        try:
            self.note(desk.retry_undo(order_id=saga.order_id, undo=undo, actor="ada"))
        except StateConflict:
            is_settled = STEP_OF_UNDO[undo] in self.model.orders[saga.order_id].resolved
            assert is_settled or undo not in saga.waiting, "a stuck undo cannot be retried"

    @step(lambda self: self.list_undos(), which=pick)
    def resolve_undo(self, which: int) -> None:
        saga, undo = self.choose(self.list_undos(), which)
        self.settle(saga, undo)

    @step(
        lambda self: self.list_live(),
        sku=skus,
        change=st.integers(-4, 4).filter(bool),
    )
    def adjust_stock(self, sku: str, change: int) -> None:
        product = Product.objects.get(sku=sku)
        fits = self.model.available(sku) + change >= 0
        try:
            inventory_services.adjust_stock(product_id=product.pk, change=change, note="counted")
        except StateConflict:
            assert not fits, "a correction was refused although nothing of it is held"
            return
        assert fits, "units that orders hold were booked away"
        self.model.on_hand[sku] += change

    # --- Temporal ----------------------------------------------------------------------------------------

    @step(lambda self: self.messages, which=pick)
    def deliver(self, which: int) -> None:
        """Temporal is told something; of one order in the order it was written."""
        chosen = self.messages[which % len(self.messages)]
        self.tell_temporal(next(each for each in self.messages if each.order_id == chosen.order_id))

    @step(lambda self: self.messages or self.list_ready(), which=pick, times=st.integers(1, 6))
    def run(self, which: int, times: int) -> None:
        """The usual: a saga is told what there is to tell, and does some of its work."""
        if self.messages and (times > 2 or not self.list_ready()):
            self.tell_temporal(self.messages[0])
        for _ in range(times):
            if ready := self.list_ready():
                saga, name = ready[which % len(ready)]
                self.run_activity(saga, name)

    @step(lambda self: self.list_ready(), which=pick)
    def work(self, which: int) -> None:
        """One saga goes on for a while, undisturbed."""
        saga, _ = self.choose(self.list_ready(), which)
        for _ in range(3):
            if ready := saga.list_ready():
                self.run_activity(saga, ready[-1])

    @step(lambda self: self.list_ready(), which=pick, effects=effects)
    def begin_attempt(self, which: int, effects: int) -> None:
        """An attempt begins, and is on its way when other things happen."""
        saga, name = self.choose(self.list_ready(), which)
        self.advance(saga, self.open_attempt(saga, name), effects)

    @step(lambda self: self.list_ready(), which=pick, effects=effects)
    def freeze(self, which: int, effects: int) -> None:
        """An attempt begins and does not come back in time: Temporal gives it up."""
        saga, name = self.choose(self.list_ready(), which)
        attempt = self.open_attempt(saga, name)
        self.advance(saga, attempt, effects)
        if not attempt.has_ended:
            self.abandon(saga, name)
            saga.lose(name)

    @step(lambda self: self.list_unpaid(), which=pick, delayed=st.sampled_from(DELAYED))
    def cancel_while_a_step_is_delayed(self, which: int, delayed: tuple[str, int]) -> None:
        self.delay_and_cancel(self.choose(self.list_unpaid(), which), *delayed)

    @step(lambda self: self.list_in_flight(), which=pick, effects=effects)
    def go_on(self, which: int, effects: int) -> None:
        saga, attempt = self.choose(self.list_in_flight(), which)
        self.advance(saga, attempt, effects + 1)

    @step(lambda self: self.list_in_flight(), which=pick)
    def crash(self, which: int) -> None:
        """kill -9 of the worker, between two effects, or after the last one and before the answer."""
        saga, attempt = self.choose(self.list_in_flight(), which)
        del saga.in_flight[attempt.name]
        self.shop.runner.run(attempt.kill())
        saga.lose(attempt.name)

    @step(lambda self: self.list_in_flight(), which=pick)
    def time_out(self, which: int) -> None:
        """Temporal gives an attempt up, which knows nothing of it and comes back later."""
        saga, attempt = self.choose(self.list_in_flight(), which)
        self.abandon(saga, attempt.name)
        saga.lose(attempt.name)

    @step(lambda self: self.late, which=pick, effects=effects, dies=st.booleans())
    def arrive_late(self, which: int, effects: int, dies: bool) -> None:
        """An attempt that was given up goes on: its worker was frozen, or its request slow."""
        attempt = self.late[which % len(self.late)]
        self.advance(None, attempt, effects + 1)
        if dies and not attempt.has_ended:
            self.shop.runner.run(attempt.kill())
            self.late.remove(attempt)

    @step(lambda self: self.list_tried_steps(), which=pick)
    def pass_deadline(self, which: int) -> None:
        """A step has been tried for a day."""
        saga = self.choose(self.list_tried_steps(), which)
        for name in list(saga.in_flight):
            self.abandon(saga, name)
        saga.give_up()

    @step(lambda self: self.list_forward(), which=pick)
    def cancel_in_temporal(self, which: int) -> None:
        """An operator cancels the workflow. (A rollback takes no notice of that.)"""
        self.choose(self.list_forward(), which).cancel()

    @step(lambda self: self.list_losable(), which=pick)
    def lose_sagas(self, which: int) -> None:
        """Temporal forgets an order's sagas. What is not final is rolled back, as a repair does it."""
        order_id = self.choose(self.list_losable(), which).order_id
        for workflow_id, saga in list(self.sagas.items()):
            if saga.order_id == order_id:
                for name in list(saga.in_flight):
                    self.abandon(saga, name)
                del self.sagas[workflow_id]
        if self.model.orders[order_id].status != "completed":
            order = Order.objects.get(pk=order_id)
            workflow_id = f"order-{order_id}-cancel"
            self.messages.append(
                tell_temporal(order, kind=OutboxKind.START, name=CANCEL_SAGA, workflow_id=workflow_id)
            )
