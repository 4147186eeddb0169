"""Refusals: answers that no retry will change. They start a rollback; outages are retried instead."""


class Refusal(Exception):
    """A business refusal. Its class name is the error type that the trail and Temporal show."""


class AlreadyUndone(Refusal):
    """The step arrived after its undo had begun, so it must not take effect any more."""


class CancelRequested(Refusal):
    """Somebody asked to cancel the order before it was complete."""


class OrderNotSellable(Refusal):
    """The order's total is not the sum of its lines, or a product is not sold (any more)."""


class OutOfStock(Refusal):
    """A line asks for more than is available."""


class PaymentRefused(Refusal):
    """The gateway declined the charge."""


class RefundRefused(Refusal):
    """The gateway refuses the refund for good: a person has to settle it."""


class EmailRefused(Refusal):
    """The mail server refuses the recipient for good."""


class StateConflict(Exception):
    """What a person asked for does not fit the order's present state. The message says why."""
