"""Rules about money: what was charged, given back and settled is what the order says."""

from orders.audit.rule import Rule

MONEY_RULES = (
    Rule(
        name="order_total",
        says="An order's total is the sum of its lines, and it has at least one.",
        finding=(
            "Order {number}: its total is {total} {currency}, its lines ({lines}) add up to {sum} "
            "(order {order_id})."
        ),
        cause="Likely the total, a price or a quantity was changed by hand after the order was accepted.",
        sql="""
            SELECT o.number, o.id AS order_id, o.total, o.currency, coalesce(l.lines, 0) AS lines,
                coalesce(l.sum, 0.00) AS sum
            FROM {orders} o
            LEFT JOIN (
                SELECT order_id, count(*) AS lines, sum(unit_price * quantity) AS sum
                    FROM {lines} x GROUP BY order_id
            ) l ON l.order_id = o.id
            WHERE l.sum IS DISTINCT FROM o.total
        """,
    ),
    Rule(
        name="payment_terms",
        says="A payment is over its order's total, in its currency, with its token.",
        finding=(
            "Order {number} over {total} {order_currency}: payment {payment} is over {amount} "
            "{currency}{token} (order {order_id})."
        ),
        cause="Likely the order or the payment was changed by hand.",
        sql="""
            SELECT o.number, o.id AS order_id, o.total, o.currency AS order_currency, p.id AS payment,
                p.amount,
                p.currency, CASE WHEN p.token <> o.payment_token THEN ' with another token' ELSE '' END AS
                    token
            FROM {payments} p JOIN {orders} o ON o.id = p.order_id
            WHERE (p.amount, p.currency, p.token) IS DISTINCT FROM (o.total, o.currency, o.payment_token)
        """,
    ),
    Rule(
        name="payment_events",
        says=(
            "A payment is charged at most once, in full; what was refunded or settled outside is what was "
            "charged."
        ),
        finding=(
            "Order {number}: payment {payment} over {amount} {currency} was charged {charges} times "
            "({charged}), refunded {refunds} times ({refunded}) and settled outside {settlements} times "
            "({settled}) (order {order_id})."
        ),
        cause=(
            "Likely an event was added, lost or changed by hand, or the gateway took another amount than "
            "asked."
        ),
        sql="""
            SELECT o.number, p.order_id, p.id AS payment, p.amount, p.currency, m.charges, m.charged,
                m.refunds,
                m.refunded, m.settlements, m.settled
            FROM {payments} p
            JOIN {orders} o ON o.id = p.order_id
            JOIN {money} m ON m.payment_id = p.id
            WHERE m.charges > 1 OR m.refunds > 1 OR m.settlements > 1 OR m.declines > 1 OR m.closures > 1
                OR m.charges = 1 AND m.charged <> p.amount
                OR m.settlements = 1 AND m.settled <> -m.charged
                -- What the gateway gave back beside a settlement outside is as much as it said.
                OR m.refunds = 1 AND (m.charges = 0 OR m.settlements = 0 AND m.refunded <> -m.charged)
        """,
    ),
    Rule(
        name="payment_state",
        says="A payment's state and charge are what its events say.",
        finding=(
            "Order {number}: payment {payment} is {state} with charge {charge}, and its events are: {events} "
            "(order {order_id})."
        ),
        cause="Likely the payment's row was changed by hand, or an event was lost.",
        sql="""
            SELECT o.number, p.order_id, p.id AS payment, p.state, coalesce(nullif(p.charge_id, ''),
                'none') AS charge,
                concat_ws(', ',
                    CASE WHEN m.charges > 0 THEN 'charged as ' || m.charge_reference END,
                    CASE WHEN m.declines > 0 THEN 'declined' END,
                    CASE WHEN m.closures > 0 THEN 'closed' END,
                    CASE WHEN m.refunds > 0 THEN 'refunded' END,
                    CASE WHEN m.settlements > 0 THEN 'settled outside' END,
                    CASE WHEN m.payment_id IS NULL THEN 'none' END
                ) AS events
            FROM {payments} p
            JOIN {orders} o ON o.id = p.order_id
            LEFT JOIN {money} m ON m.payment_id = p.id
            WHERE p.charge_id <> coalesce(m.charge_reference, '') OR p.state <> CASE
                WHEN m.payment_id IS NULL THEN 'started'
                WHEN m.settlements > 0 THEN 'settled_outside'
                WHEN m.refunds > 0 THEN 'refunded'
                WHEN m.charges > 0 THEN 'charged'
                -- Which of the two came first is what the payment was closed by.
                WHEN m.declines > 0 AND p.state <> 'closed' THEN 'declined'
                WHEN m.closures > 0 THEN 'closed'
                ELSE 'started'
            END
        """,
    ),
    Rule(
        name="order_paid",
        says="A completed or shipped order has exactly one charge, of its total, and nothing was given back.",
        finding=(
            "Order {number} is {status} over {total} {currency}. It was charged {charges} times, {charged} "
            "in all; events that refuse it or give it back: {back} (order {order_id})."
        ),
        cause="Likely the order was moved by hand, or its charge was lost or given back without a cancel.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, o.total, o.currency, coalesce(m.charges,
                0) AS charges,
                coalesce(m.charged, 0.00) AS charged,
                coalesce(m.refunds + m.settlements + m.closures + m.declines, 0) AS back
            FROM {orders} o
            LEFT JOIN {payments} p ON p.order_id = o.id
            LEFT JOIN {money} m ON m.payment_id = p.id
            WHERE o.status IN ('completed', 'shipped')
                AND (
                    coalesce(m.charges, 0) <> 1 OR m.charged <> o.total
                    OR m.refunds + m.settlements + m.closures + m.declines > 0
                )
        """,
    ),
    Rule(
        name="order_refunded",
        says=(
            "A cancelled order nets to zero, counting what was settled outside, and its payment was closed: "
            "refunded, settled, or never charged by the gateway's word."
        ),
        finding=(
            "Order {number} is cancelled: {charged} {currency} charged, {refunded} refunded, {settled} "
            "settled outside, net {net}; the payment is {state} (order {order_id})."
        ),
        cause=(
            "Likely the refund's booking was lost, the order was moved by hand, or the gateway took or gave "
            "back money after the rollback."
        ),
        sql="""
            SELECT o.number, o.id AS order_id, p.currency, p.state, coalesce(m.charged, 0.00) AS charged,
                coalesce(-m.refunded, 0.00) AS refunded, coalesce(-m.settled, 0.00) AS settled,
                coalesce(m.charged + m.refunded + m.settled, 0.00) AS net
            FROM {orders} o
            JOIN {payments} p ON p.order_id = o.id
            LEFT JOIN {money} m ON m.payment_id = p.id
            WHERE o.status = 'cancelled'
                AND (
                    coalesce(m.refunds + m.settlements + m.closures, 0) = 0
                    OR m.charged + m.refunded + m.settled <> 0
                    -- Refunded by the gateway as well as settled outside: known, and flagged for a person.
                    AND NOT (
                        m.settlements = 1 AND m.charged + m.settled = 0
                        AND EXISTS (
                            SELECT 1 FROM {flags} f WHERE f.order_id = o.id AND f.subject = 'refunded_twice'
                        )
                    )
                )
        """,
    ),
    Rule(
        name="payment_too_early",
        says=(
            "Nothing is charged before the stock is held, and nothing is given back before the rollback has "
            "begun."
        ),
        finding="Order {number} is {status}{held}, and payment {payment} is {state} (order {order_id}).",
        cause="Likely the order was moved back by hand, or its holds were lost.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, p.id AS payment, p.state,
                CASE WHEN h.order_id IS NULL THEN ' and holds nothing' ELSE '' END AS held
            FROM {payments} p
            JOIN {orders} o ON o.id = p.order_id
            LEFT JOIN (SELECT DISTINCT order_id FROM {holds} x) h ON h.order_id = o.id
            LEFT JOIN {money} m ON m.payment_id = p.id
            WHERE o.status = 'pending'
                OR o.status = 'created'
                    AND (h.order_id IS NULL OR coalesce(m.refunds + m.settlements + m.closures, 0) > 0)
        """,
    ),
    Rule(
        name="settled_by_nobody",
        says="What was settled by hand has the action of the person who did.",
        finding="Order {number}: {what}, and nobody has resolved {undo} (order {order_id}).",
        cause="Likely the booking was made by hand, past the desk.",
        sql="""
            SELECT o.number, o.id AS order_id, s.what, s.undo
            FROM (
                SELECT p.order_id, 'refund_payment' AS undo,
                    -e.amount || ' ' || p.currency || ' was settled outside (' || e.reference || ')' AS what
                FROM {events} e JOIN {payments} p ON p.id = e.payment_id WHERE e.kind = 'settled_outside'
                UNION ALL
                SELECT h.order_id, 'release_inventory', h.quantity || ' units were settled by hand (hold ' ||
                    h.id || ')'
                FROM {holds} h WHERE h.state = 'settled_by_hand'
                UNION ALL
                SELECT k.order_id, CASE k.step
                    WHEN 'process_payment' THEN 'refund_payment'
                    WHEN 'reserve_inventory' THEN 'release_inventory'
                    WHEN 'send_confirmation_email' THEN 'send_cancellation_email'
                    ELSE k.step
                END, 'the undo of ' || k.step || ' counts as resolved'
                FROM {keys} k WHERE k.resolved_at IS NOT NULL
                UNION ALL
                SELECT e.order_id, 'send_cancellation_email', 'mail ' || e.id || ' was settled by hand'
                FROM {mails} e
                WHERE e.kind = 'cancellation' AND e.state = 'settled_by_hand'
            ) s
            JOIN {orders} o ON o.id = s.order_id
            WHERE NOT EXISTS (
                SELECT 1 FROM {actions} a WHERE a.order_id = s.order_id AND a.kind = 'resolve_undo'
                    AND a.undo = s.undo
            )
        """,
    ),
)
