"""The guards that the races and the crash matrix can go without, to show that each is needed.

Each is taken away by a patch that keeps everything of the original but the guard itself.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any
from unittest import mock
from uuid import UUID, uuid4

from django.db.models import F

from inventory import services as inventory
from inventory.models import Hold, StockItem, StockMovement
from inventory.services import WantedLine
from orders import dispatch, idempotency, repairs
from orders.idempotency import KeyedRequest
from orders.models import Order, OrderLine, OutboxMessage
from orders.models.trail import StepKeyManager
from payments import services as payments
from payments.gateways.protocol import Charge
from payments.gateways.sandbox import SandboxGateway

CONDITIONAL_UPDATE = "conditional update of stock"
ORDER_OF_LOCKS = "order of locks"
SKIP_LOCKED = "skip locked"
IDEMPOTENCY_LOCK = "idempotency lock"
CHARGE_KEY = "charge key"
REFUND_KEY = "refund key"
TOMBSTONE = "tombstone"
CLOSE = "close"
IN_FLIGHT = "in flight"

IsOff = Callable[[str], bool]


def put_in(is_off: IsOff) -> None:
    """Patch this process for good. `is_off` is asked on each use: a guard can be off for some orders."""
    for patch in build_patches(is_off):
        patch.start()


@contextmanager
def without(*guards: str) -> Iterator[None]:
    """This process goes without these guards while the block runs."""
    with ExitStack() as stack:
        for patch in build_patches(lambda guard: guard in guards):
            stack.enter_context(patch)
        yield


class SeenObjects:
    """A model's manager, some of whose methods are others."""

    def __init__(self, manager: Any, methods: dict[str, Callable[..., Any]]) -> None:
        self._manager = manager
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        return self._methods.get(name) or getattr(self._manager, name)


class Seen:
    """A model as one module sees it."""

    def __init__(self, model: Any, **methods: Callable[..., Any]) -> None:
        self._model = model
        self.objects = SeenObjects(model.objects, methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **fields: Any) -> Any:
        return self._model(**fields)


def build_patches(is_off: IsOff) -> Iterator[Any]:
    """The patches, not yet applied."""
    yield mock.patch.object(inventory, "take_stock", take_stock(is_off, inventory.take_stock))
    yield mock.patch.object(inventory, "list_wanted", list_wanted(is_off, inventory.list_wanted))
    yield mock.patch.object(
        dispatch, "OutboxMessage", Seen(OutboxMessage, select_for_update=lock_messages(is_off))
    )
    yield mock.patch.object(idempotency, "lock_key", lock_key(is_off, idempotency.lock_key))
    yield mock.patch.object(payments, "charge_key", vary_key(is_off, CHARGE_KEY, payments.charge_key))
    yield mock.patch.object(payments, "refund_key", vary_key(is_off, REFUND_KEY, payments.refund_key))
    yield mock.patch.object(
        StepKeyManager, "refuse_undone", refuse_undone(is_off, StepKeyManager.refuse_undone)
    )
    yield mock.patch.object(SandboxGateway, "close", close_key(is_off, SandboxGateway.close))
    yield mock.patch.object(repairs, "_check_stuck", check_stuck(is_off, repairs._check_stuck))


def take_stock(
    is_off: IsOff, original: Callable[[UUID | str, WantedLine], bool]
) -> Callable[[UUID | str, WantedLine], bool]:
    """Off: look whether there is enough, then take it, in two statements instead of one."""

    def take(order_id: UUID | str, line: WantedLine) -> bool:
        if not is_off(CONDITIONAL_UPDATE):
            return original(order_id, line)
        item = StockItem.objects.filter(product=line.product_id)
        if not item.filter(available__gte=line.quantity).exists():
            return False
        item.update(reserved=F("reserved") + line.quantity)
        of_line = {"order_id": order_id, "product_id": line.product_id}
        Hold.objects.create(**of_line, quantity=line.quantity)
        StockMovement.objects.create(**of_line, kind="reserved", reserved_change=line.quantity)
        return True

    return take


def list_wanted(
    is_off: IsOff, original: Callable[[UUID | str], list[WantedLine]]
) -> Callable[[UUID | str], list[WantedLine]]:
    """Off: the lines, and so the locks, in the order in which the customer named them."""

    def list_lines(order_id: UUID | str) -> list[WantedLine]:
        lines = original(order_id)
        if is_off(ORDER_OF_LOCKS):
            ids = dict(OrderLine.objects.filter(order_id=order_id).values_list("sku", "pk"))
            lines.sort(key=lambda line: ids[line.sku])
        return lines

    return list_lines


def lock_messages(is_off: IsOff) -> Callable[..., Any]:
    """Off: dispatchers read the outbox without a lock."""

    def select_messages(*arguments: Any, **options: Any) -> Any:
        if is_off(SKIP_LOCKED):
            return OutboxMessage.objects.all()
        return OutboxMessage.objects.select_for_update(*arguments, **options)

    return select_messages


def lock_key(is_off: IsOff, original: Callable[[KeyedRequest], bool]) -> Callable[[KeyedRequest], bool]:
    """Off: everybody gets the lock of an Idempotency-Key."""
    return lambda request: is_off(IDEMPOTENCY_LOCK) or original(request)


def vary_key(is_off: IsOff, guard: str, original: Callable[[UUID | str], str]) -> Callable[[UUID | str], str]:
    """Off: every call of the gateway has a key of its own."""
    return lambda order_id: original(order_id) + (f":{uuid4()}" if is_off(guard) else "")


def refuse_undone(is_off: IsOff, original: Callable[..., None]) -> Callable[..., None]:
    """Off: a step does not look whether it was undone, or its order has turned back."""

    def refuse(self: StepKeyManager, step: str, undone_at: datetime | None, status: str = "") -> None:
        if not is_off(TOMBSTONE):
            original(self, step, undone_at, status)

    return refuse


def close_key(is_off: IsOff, original: Callable[..., Any]) -> Callable[..., Any]:
    """Off: the refund asks whether there is a charge, and does not shut its key."""

    async def close(self: SandboxGateway, *, key: str) -> Charge | None:
        if is_off(CLOSE):
            return await self.find(key=key)
        found: Charge | None = await original(self, key=key)
        return found

    return close


def check_stuck(is_off: IsOff, original: Callable[..., Order]) -> Callable[..., Order]:
    """Off: an undo may be settled while an attempt of it is in flight."""

    def check(order_id: UUID | str, undo: str) -> Order:
        return Order.objects.get(pk=order_id) if is_off(IN_FLIGHT) else original(order_id, undo)

    return check
