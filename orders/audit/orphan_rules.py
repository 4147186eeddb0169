"""Rules about rows that no order explains. The database refuses them: a restore in parts can bring them."""

from orders.audit.rule import Rule


def _find(*tables: tuple[str, str]) -> str:
    """Rows whose order is missing, by (table, what a row of it is called)."""
    return " UNION ALL ".join(
        f"""
            SELECT NULL::bigint AS number, r.order_id, '{what} ' || r.id AS what
            FROM {{{table}}} r LEFT JOIN orders_order o ON o.id = r.order_id
            WHERE r.order_id IS NOT NULL AND o.id IS NULL
        """  # noqa: S608 - our own names
        for table, what in tables
    )


_FINDING = "There is {what}, and no order {order_id} that explains it."
_CAUSE = "Likely the order was deleted by hand, or a restore left it out."

ORPHAN_RULES = (
    Rule(
        name="charge_without_order",
        says="No payment without an order, and no event without a payment.",
        finding="There is {what}, and no order or payment that explains it (order {order_id}).",
        cause=_CAUSE,
        whole_only=True,
        sql=f"""
            {_find(("payments", "payment"))}
            UNION ALL
            SELECT NULL::bigint, NULL::uuid, e.kind || ' event ' || e.id || ' over ' || e.amount || ' of
                payment '
                || e.payment_id
            FROM {{events}} e LEFT JOIN payments_payment p ON p.id = e.payment_id
            WHERE p.id IS NULL
        """,  # noqa: S608
    ),
    Rule(
        name="stock_without_order",
        says="No hold without an order, and no movement of an order's without one.",
        finding=_FINDING,
        cause=_CAUSE,
        whole_only=True,
        sql=f"""
            {_find(("holds", "hold"), ("movements", "movement"))}
            UNION ALL
            SELECT NULL::bigint, NULL::uuid, kind || ' movement ' || id || ' of product ' || product_id
            FROM {{movements}} x
            WHERE order_id IS NULL AND kind NOT IN ('received', 'adjusted')
        """,  # noqa: S608
    ),
    Rule(
        name="mail_without_order",
        says="No mail without an order.",
        finding=_FINDING,
        cause=_CAUSE,
        whole_only=True,
        sql=_find(("mails", "mail")),
    ),
    Rule(
        name="record_without_order",
        says="No line, trail, key, flag, action, request, message or webhook without an order.",
        finding=_FINDING,
        cause=_CAUSE,
        whole_only=True,
        sql=_find(
            ("lines", "order line"),
            ("trail", "trail entry"),
            ("keys", "step key"),
            ("flags", "attention flag"),
            ("actions", "action"),
            ("requests", "request to cancel"),
            ("outbox", "message to Temporal"),
            ("deliveries", "webhook"),
        ),
    ),
)
