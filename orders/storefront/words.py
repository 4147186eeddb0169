"""What the shop says to its customers: payments, availability, and every step of an order in their words."""

from typing import NamedTuple


class Payment(NamedTuple):
    """A way to pay: the gateway's token, and what it does."""

    title: str
    effect: str
    token: str


# The sandbox's cards. What is sent by a form is the key, never a token.
PAYMENTS: dict[str, Payment] = {
    "pays": Payment("A card that pays", "The payment is taken at once.", "tok_ok"),
    "declined": Payment(
        "A card that is declined", "The bank refuses it: the order is cancelled.", "tok_declined"
    ),
    "answer_lost": Payment(
        "A card whose answer gets lost",
        "The bank takes the money, and its answer never arrives. We ask again; you pay once.",
        "tok_answer_lost_x1",
    ),
    "slow": Payment(
        "A bank that is slow",
        "It leaves two questions unanswered and pays at the third. You see us trying meanwhile.",
        "tok_hang_s3_x2",
    ),
}
FIRST_PAYMENT = "pays"


class Words(NamedTuple):
    """A step or an undo as a customer reads it in each of its states. `{money}` is the amount in question."""

    to_come: str
    now: str
    late: str
    done: str
    failed: str = ""


KEEP_TRYING = "we keep trying"

STEPS: dict[str, Words] = {
    "create_order": Words(
        "Check your order",
        "We are checking your order",
        f"We cannot check your order yet; {KEEP_TRYING}",
        "Your order is checked",
        "Something in your order is no longer sold",
    ),
    "reserve_inventory": Words(
        "Set your items aside",
        "We are setting your items aside",
        f"We cannot set your items aside yet; {KEEP_TRYING}",
        "Your items are set aside",
        "Your items could not be set aside",
    ),
    "process_payment": Words(
        "Take the payment of {money}",
        "We are asking the bank for {money}",
        f"The bank does not answer yet; {KEEP_TRYING}",
        "Payment of {money} taken",
        "The payment did not go through",
    ),
    "send_confirmation_email": Words(
        "Send your confirmation",
        "We are sending your confirmation",
        f"Your confirmation could not be sent yet; {KEEP_TRYING}",
        "Confirmation sent",
        "Your confirmation could not be sent",
    ),
    "complete_order": Words(
        "Ready to be shipped",
        "We are getting your order ready",
        f"Your order is not ready yet; {KEEP_TRYING}",
        "Your order is ready to be shipped",
        "Your order could not be completed",
    ),
}

UNDOS: dict[str, Words] = {
    "refund_payment": Words(
        "Give back what was paid",
        "We are giving back what was paid",
        f"The refund has not gone through yet; {KEEP_TRYING}",
        "{money} refunded",
    ),
    "release_inventory": Words(
        "Put your items back on sale",
        "We are putting your items back on sale",
        f"Your items are not back on sale yet; {KEEP_TRYING}",
        "Your items are back on sale",
    ),
    "cancel_order": Words(
        "Close your order",
        "We are closing your order",
        f"Your order is not closed yet; {KEEP_TRYING}",
        "Your order is cancelled",
    ),
    "send_cancellation_email": Words(
        "Tell you by mail",
        "We are telling you by mail",
        f"Our mail to you could not be sent yet; {KEEP_TRYING}",
        "Cancellation sent",
    ),
}
# The same undo where nothing was charged: it asks the bank, and shuts the payment.
SHUT_PAYMENT = Words(
    "Make sure that nothing is charged",
    "We are making sure that nothing is charged",
    f"The bank does not answer yet; {KEEP_TRYING}",
    "Nothing was charged",
)
ASKED_BY_CUSTOMER = "You asked us to cancel your order"
ASKED_BY_SHOP = "The shop began to cancel your order"
TOLD_BY_HAND = "We have told you about the cancellation"

# What a refusal of a step says instead of its general words.
REFUSALS: dict[str, str] = {
    "PaymentRefused": "The bank declined the payment",
    "OutOfStock": "Something in your order has just been sold out",
    "OrderNotSellable": "Something in your order is no longer sold",
    "EmailRefused": "Your confirmation could not be delivered",
}

# Why an order was cancelled, by what its rollback began with.
REASONS: dict[str, str] = {
    "PaymentRefused": "The bank declined the payment.",
    "OutOfStock": "Something in it was sold out before we could set it aside.",
    "OrderNotSellable": "Something in it is no longer sold.",
    "EmailRefused": "Our confirmation could not be delivered to {email}.",
    "DeadlineExceeded": "It could not be completed in time.",
}
BY_CUSTOMER = "You requested it."
BY_SHOP = "The shop cancelled it."
OUR_FAULT = "It could not be completed. That was not your fault."

LOOKED_AFTER = (
    "This takes longer than usual. Somebody at the shop looks after it; there is nothing you need to do."
)


def mask_email(address: str) -> str:
    """The address as it may be shown to whoever has an order's link: a…@example.com."""
    name, _, domain = address.rpartition("@")
    return f"{name[:1]}…@{domain}"


def say_availability(available: int, low_stock_at: int) -> tuple[str, str]:
    """(state, words) of how much there is of a product."""
    if available <= 0:
        return "none", "Sold out"
    if available <= low_stock_at:
        return "low", f"Only {available} left"
    return "plenty", "In stock"
