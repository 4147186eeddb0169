"""Plain words for what the code calls by name: steps, undos, errors, findings and what people did."""

# Written as what is done, so that they read well after "Retry now:" as well.
STEPS_IN_WORDS = {
    "create_order": "Check the order",
    "reserve_inventory": "Reserve the stock",
    "process_payment": "Take the payment",
    "send_confirmation_email": "Send the confirmation",
    "complete_order": "Complete the order",
    "refund_payment": "Refund the payment",
    "release_inventory": "Release the stock",
    "cancel_order": "Close the order as cancelled",
    "send_cancellation_email": "Tell the customer",
    "begin_rollback": "Begin the rollback",
}

FINDINGS_IN_WORDS = {
    "late_charge": "Charged after the refund began",
    "refunded_twice": "Refunded twice",
    "refund_unchecked": "Refund not checked",
    "late_confirmation": "Confirmation sent too late",
    "saga_lost": "Saga lost",
}

ERRORS_IN_WORDS = {
    "AlreadyUndone": "It came after its undo",
    "CancelRequested": "The order was cancelled",
    "ConnectionRefusedError": "The connection was refused",
    "DatabaseBusy": "The database was busy",
    "DeadlineExceeded": "It did not succeed in time",
    "EmailRefused": "The mail server refuses the address",
    "GatewayUnavailable": "The payment gateway did not answer as it should",
    "OrderNotSellable": "The order cannot be sold as it stands",
    "OutOfStock": "There was not enough stock",
    "PaymentRefused": "The payment was declined",
    "RefundRefused": "The gateway refuses the refund",
    "SagaLost": "Temporal lost the saga",
    "TimeoutError": "There was no answer in time",
    "WorkerLost": "The worker never reported back",
}

ACTIONS_IN_WORDS = {
    "place_order": "Placed the order",
    "cancel_order": "Cancelled the order",
    "request_cancel": "Asked for the cancel",
    "approve_cancel": "Approved the cancel",
    "reject_cancel": "Rejected the cancel",
    "withdraw_cancel": "Withdrew the cancel",
    "ship_order": "Marked the order as shipped",
    "retry_undo": "Tried again",
    "resolve_undo": "Resolved by hand",
    "resend_email": "Sent a mail again",
    "acknowledge": "Acknowledged",
    "redeliver_webhook": "Had a webhook delivered again",
}


def name_step(name: str) -> str:
    """A step, an undo or a finding in plain words; the code's own name, spelled out, for a new one."""
    return STEPS_IN_WORDS.get(name) or FINDINGS_IN_WORDS.get(name) or spell_out(name)


def name_error(error_type: str) -> str:
    """The type of an error in plain words, empty where there are none: then its message has to do."""
    return ERRORS_IN_WORDS.get(error_type, "")


def name_action(kind: str) -> str:
    """What a person did, in plain words."""
    return ACTIONS_IN_WORDS.get(kind) or spell_out(kind)


def spell_out(name: str) -> str:
    """`nothing_to_undo` as `Nothing to undo`."""
    return name.replace("_", " ").capitalize()


def say_duration(ms: int) -> str:
    """Milliseconds as a person says them."""
    if ms < 1000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms // 60_000} min {ms % 60_000 // 1000} s"
