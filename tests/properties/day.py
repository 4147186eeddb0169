"""A day at the desk: its orders, sagas and late attempts so far, and what must be true of them."""

from decimal import Decimal
from typing import Any, ClassVar

from django.conf import settings
from django.db.models import Sum
from django.utils import timezone
from hypothesis.stateful import RuleBasedStateMachine

from inventory.models import Hold, StockMovement
from orders import desk
from orders.models import CUSTOMER, AttentionFlag, CancelRequest, Order, OutboxKind, OutboxMessage
from orders.refusals import StateConflict
from orders.services import CANCEL_SAGA, Decision, Item
from payments.models import PaymentEvent
from payments.services import REFUNDED_TWICE
from tests.properties.attempts import ANSWER, Attempt
from tests.properties.model import ExpectedOrder, Model
from tests.properties.plan import BACK, ENDED, FORWARD, Saga
from tests.properties.shop import STOCK, SmallShop

# Errors that Temporal retries: outages of the gateway and of the mail server. Any other is a defect.
OUTAGES = ("GatewayUnavailable", "ConnectionRefusedError")
# Attempts that a saga may need to come to its end once nothing is in its way.
ENOUGH = 60


class Day(RuleBasedStateMachine):
    """What has happened so far, the model of it, and what is on its way."""

    shop: ClassVar[SmallShop]
    runs: ClassVar[int] = 0
    steps: ClassVar[int] = 0
    orders_placed: ClassVar[int] = 0
    late_effects: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        self.shop.clear()
        self.model = Model({sku: units for sku, (_, units) in STOCK.items()})
        self.sagas: dict[str, Saga] = {}
        self.messages: list[OutboxMessage] = []
        self.requests: list[CancelRequest] = []
        self.late: list[Attempt] = []
        self.is_sound = True

    # --- what there is to choose from --------------------------------------------------------------------

    def choose(self, options: list[Any], which: int) -> Any:
        return options[which % len(options)]

    def list_open(self) -> list[str]:
        """Orders that nobody has cancelled yet, shipped ones included."""
        return [key for key, order in self.model.orders.items() if not order.cancel_asked]

    def list_paid(self) -> list[str]:
        """Orders that may be shipped, or look so."""
        return [key for key, order in self.model.orders.items() if order.at_gateway]

    def list_live(self) -> list[Saga]:
        return [saga for saga in self.sagas.values() if saga.phase != ENDED]

    def list_ready(self) -> list[tuple[Saga, str]]:
        return [(saga, name) for saga in self.list_live() for name in saga.list_ready()]

    def list_unpaid(self) -> list[Saga]:
        """Sagas on their way to the payment, of orders that nobody has cancelled."""
        is_open = set(self.list_open())
        steps = ("create_order", "reserve_inventory", "process_payment")
        return [saga for saga in self.list_forward() if saga.step in steps and saga.order_id in is_open]

    def list_in_flight(self) -> list[tuple[Saga, Attempt]]:
        return [(saga, attempt) for saga in self.list_live() for attempt in saga.in_flight.values()]

    def list_forward(self) -> list[Saga]:
        """Sagas on their way forward that nobody has asked to turn back."""
        return [saga for saga in self.list_live() if saga.phase == FORWARD and not saga.cancel_asked]

    def list_tried_steps(self) -> list[Saga]:
        return [saga for saga in self.list_live() if saga.phase == FORWARD and saga.step in saga.tried]

    def list_undos(self) -> list[tuple[Saga, str]]:
        """Undos that have been tried and are not done."""
        return [
            (saga, name)
            for saga in self.list_live()
            if saga.phase == BACK
            for name in sorted({*saga.list_ready(), *saga.waiting, *saga.in_flight} & saga.tried)
        ]

    def list_losable(self) -> list[Saga]:
        return [saga for saga in self.list_live() if self.model.orders[saga.order_id].status != "cancelled"]

    # --- how it is done ----------------------------------------------------------------------------------

    def accept(self, lines: dict[str, int], token: str, recipient: str) -> None:
        address = f"{recipient}-{next(self.shop.numbers)}@example.com"
        decision = desk.place_order(
            customer_email=address,
            items=[Item(sku, quantity) for sku, quantity in lines.items()],
            actor=CUSTOMER,
            payment_token=token,
        )
        self.model.orders[str(decision.order.pk)] = ExpectedOrder(
            lines=lines, total=decision.order.total, token=token, recipient=address
        )
        type(self).orders_placed += 1
        self.note(decision)

    def note(self, decision: Decision, *, cancels: bool = False) -> None:
        """Remember what a decision changed and what Temporal must be told of it."""
        if decision.changed and cancels:
            self.model.cancel(str(decision.order.pk))
        if decision.message is not None:
            self.messages.append(decision.message)
        if decision.changed and decision.awaiting is not None:
            self.requests.append(decision.awaiting)

    def tell_temporal(self, message: OutboxMessage) -> None:
        self.messages.remove(message)
        OutboxMessage.objects.filter(pk=message.pk).update(delivered_at=timezone.now())
        saga = self.sagas.get(message.workflow_id)
        if message.kind == OutboxKind.START:
            # "Already started" is success.
            if saga is None:
                self.sagas[message.workflow_id] = Saga(
                    str(message.order_id), cancels=message.name == CANCEL_SAGA
                )
        elif saga is not None and saga.phase != ENDED:
            if message.name == "cancel":
                saga.cancel()
            else:
                saga.retry(message.argument)

    def open_attempt(self, saga: Saga, name: str) -> Attempt:
        attempt = Attempt(
            name=name,
            order_id=saga.order_id,
            number=saga.begin(name),
            worker=f"worker-{next(self.shop.numbers)}",
            arguments=saga.cause if name == "begin_rollback" else (),
        )
        saga.in_flight[name] = attempt
        self.shop.runner.run(attempt.open())
        return attempt

    def run_activity(self, saga: Saga, name: str) -> None:
        """One attempt from its beginning to its answer."""
        attempt = self.open_attempt(saga, name)
        while not attempt.has_ended:
            self.advance(saga, attempt, 1)

    def advance(self, saga: Saga | None, attempt: Attempt, effects: int) -> None:
        """Let an attempt have so many effects; hear its answer, unless it was given up."""
        for _ in range(effects):
            if attempt.has_ended:
                break
            passed = self.shop.runner.run(attempt.pass_gate())
            self.model.apply(attempt.order_id, passed)
            if saga is None and passed.kind != ANSWER:
                type(self).late_effects += 1
            if passed.kind == "gateway":
                self.check_gateway(attempt.order_id)
        if not attempt.has_ended:
            return
        if attempt.error is not None and not attempt.is_refused:
            kind = getattr(attempt.error, "type", None) or type(attempt.error).__name__
            if kind not in OUTAGES:
                raise attempt.error
        if saga is None:
            self.late.remove(attempt)
            return
        del saga.in_flight[attempt.name]
        if attempt.error is None:
            saga.succeed(attempt.name, attempt.value)
        elif attempt.is_refused:
            saga.refuse(attempt.name, str(attempt.error.type), str(attempt.error))  # type: ignore[attr-defined]
        else:
            saga.lose(attempt.name)

    def delay_and_cancel(self, saga: Saga, step: str, effects: int) -> None:
        """Carry the saga as far as that step. Its attempt has so many effects and is given up, its worker
        frozen or its request somewhere in the network, when the customer cancels."""
        while saga.phase == FORWARD and saga.step != step and saga.list_ready():
            self.run_activity(saga, saga.step)
        if saga.list_ready() != [step]:  # refused on its way, or in flight
            return
        attempt = self.open_attempt(saga, step)
        self.advance(saga, attempt, effects)
        if attempt.has_ended:
            return
        self.abandon(saga, step)
        saga.lose(step)
        decision = desk.cancel_order(order_id=saga.order_id, actor=CUSTOMER, reason="too slow for me")
        self.note(decision, cancels=True)
        for message in [each for each in self.messages if str(each.order_id) == saga.order_id]:
            self.tell_temporal(message)

    def abandon(self, saga: Saga, name: str) -> None:
        self.late.append(saga.in_flight.pop(name))

    def age(self, saga: Saga, undo: str) -> None:
        """An attempt that Temporal has given up began longer ago than an attempt may take."""
        in_flight = any(
            undo in each.in_flight for each in self.sagas.values() if each.order_id == saga.order_id
        )
        settings.SAGA_ATTEMPT_TIMEOUT = 3600.0 if in_flight else -3600.0

    def settle(self, saga: Saga, undo: str) -> None:
        """A person settles an undo outside, if the desk lets them."""
        self.age(saga, undo)
        try:
            decision = desk.resolve_undo(
                order_id=saga.order_id, undo=undo, actor="ada", reason="by transfer", reference="transfer 1"
            )
        except StateConflict:
            return
        self.model.resolve(saga.order_id, undo)
        self.note(decision)

    # --- what must be true -------------------------------------------------------------------------------

    def check_everything(self) -> None:
        """Stock, money and statuses are what the model says, and the sums of the ledgers agree."""
        expected = {sku: (self.model.on_hand[sku], self.model.held(sku)) for sku in STOCK}
        assert self.shop.read_stock() == expected
        orders = self.model.orders
        found = {str(pk): status for pk, status in Order.objects.values_list("pk", "status")}
        assert found == {order_id: order.status for order_id, order in orders.items()}
        holds = {(str(pk), state) for pk, state in Hold.objects.values_list("order_id", "state")}
        assert holds == {(order_id, order.hold) for order_id, order in orders.items() if order.hold}
        rows = PaymentEvent.objects.values_list("payment__order_id").annotate(net=Sum("amount")).order_by()
        net = {str(pk): amount for pk, amount in rows if amount}
        assert net == {order_id: order.in_books for order_id, order in orders.items() if order.in_books}
        mails = {f"<{kind}.{pk}@" for pk, order in orders.items() for kind in order.mails}
        assert {name.partition("@")[0] + "@" for name in self.shop.mailbox.received} == mails
        sums = StockMovement.objects.values_list("product__sku").order_by()
        totals = sums.annotate(on_hand=Sum("on_hand_change"), held=Sum("reserved_change"))
        assert {sku: (on_hand, held) for sku, on_hand, held in totals} == expected
        violations = self.shop.audit()
        assert not violations, f"the auditor: {violations}"

    def check_gateway(self, order_id: str) -> None:
        """The gateway has of this customer what it must have: one charge at most, refunded at most once."""
        order = self.model.orders[order_id]
        minor = {"charge": 1, "refund": -1}
        found = self.shop.list_money(order_id)
        taken = Decimal(sum(minor.get(kind, 0) * amount for kind, amount in found)) / 100
        assert taken == order.at_gateway, f"the gateway has {taken}: {found}"

    def check_end(self) -> None:
        """Nothing is left half done."""
        for order_id, order in self.model.orders.items():
            self.check_gateway(order_id)
            assert order.status in ("completed", "shipped", "cancelled"), f"left behind as {order.status}"
            is_kept = order.status != "cancelled"
            assert order.hold == {"completed": "held", "shipped": "sold"}.get(order.status, order.hold)
            assert is_kept or order.hold != "held", "a cancelled order holds stock"
            if order.settled:
                flags = AttentionFlag.objects.filter(order_id=order_id, subject=REFUNDED_TWICE)
                assert not order.booked_refund or flags.exists(), "refunded twice and nobody was told"
            else:
                kept = order.total if is_kept else 0
                assert (order.at_gateway, order.in_books) == (kept, kept)
            is_told = "confirmation" if is_kept else "cancellation"
            assert is_told in order.mails or "send_confirmation_email" in order.resolved, "not told by mail"

    def teardown(self) -> None:
        """Calm returns: what is late arrives, what is stuck is settled, and every saga must end."""
        try:
            if self.is_sound:
                self.calm_down()
                self.check_everything()
                self.check_end()
        finally:
            for attempt in [*self.late, *(attempt for _, attempt in self.list_in_flight())]:
                self.shop.runner.run(attempt.kill())

    def calm_down(self) -> None:
        """What is in flight ends, every saga ends, and only then comes what is late."""
        for saga, attempt in self.list_in_flight():
            self.advance(saga, attempt, ENOUGH)
        self.see_sagas_through()
        while self.late:
            self.advance(None, self.late[0], ENOUGH)
        self.see_sagas_through()

    def see_sagas_through(self) -> None:
        for _ in range(ENOUGH):
            while self.messages:
                self.tell_temporal(self.messages[0])
            for saga in self.list_live():
                for undo in sorted(saga.waiting):
                    self.settle(saga, undo)
            for saga, name in self.list_ready():
                if name in saga.list_ready():
                    self.run_activity(saga, name)
            if not self.list_live() and not self.messages:
                return
        left = [(saga.order_id, saga.phase, saga.waiting) for saga in self.list_live()]
        raise AssertionError(f"these sagas never end: {left}")
