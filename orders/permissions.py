"""Which permission each action of the desk needs: one table for the pages that offer and those that act."""

PERMISSIONS: dict[str, str] = {
    "cancel": "orders.cancel_order",
    "ship": "orders.ship_order",
    "retry": "orders.retry_undo",
    "resolve": "orders.resolve_undo",
    "resend": "orders.resend_email",
    "acknowledge": "orders.retry_undo",
    "approve": "orders.approve_refund",
    "reject": "orders.approve_refund",
    # Only whoever asked for the cancel, on top of it.
    "withdraw": "orders.cancel_order",
    "stock": "inventory.adjust_stock",
}
# Cancelling an order whose payment has been taken gives money back, which takes a permission of its own.
REFUND = "orders.refund_order"
# Seeing an order does not include what was paid for it, who did what to it, and what was found amiss.
SEE_PAYMENTS = "payments.view_payment"
SEE_DEEDS = "orders.view_orderaction"
SEE_REQUESTS = "orders.view_cancelrequest"
SEE_FLAGS = "orders.view_attentionflag"
SEE_OUTBOX = "orders.view_outboxmessage"
# Keys of the API's clients, beside the stock permissions of the client itself.
SEE_KEYS = "orders.view_apikey"
ADD_KEY = "orders.add_apikey"
REVOKE_KEY = "orders.change_apikey"
# Webhooks: the endpoints of the API's clients, and what was sent there.
ADD_ENDPOINT = "orders.add_webhookendpoint"
CHANGE_ENDPOINT = "orders.change_webhookendpoint"
SEE_ENDPOINTS = "orders.view_webhookendpoint"
SEE_DELIVERIES = "orders.view_webhookdelivery"
SEE_ATTEMPTS = "orders.view_webhookattempt"
REDELIVER = "orders.redeliver_webhook"
# Audits of the books, and what they found.
SEE_AUDITS = "orders.view_auditrun"
SEE_VIOLATIONS = "orders.view_auditviolation"
