"""Rules about mail: every customer is told once what happened, and nobody is told what did not."""

from orders.audit.rule import Rule

MAIL_RULES = (
    Rule(
        name="confirmation_missing",
        says="A completed or shipped order has its confirmation mail sent, or a flag that says it was not.",
        finding=(
            "Order {number} is {status}, its confirmation mail is {state}, and nobody was told (order "
            "{order_id})."
        ),
        cause="Likely the mail's row was lost or changed by hand, or its flag was cleared by hand.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, coalesce(e.state, 'missing') AS state
            FROM {orders} o
            LEFT JOIN {mails} e ON e.order_id = o.id AND e.kind = 'confirmation' AND e.copy = 0
            WHERE o.status IN ('completed', 'shipped')
                AND coalesce(e.state, 'missing') NOT IN ('sent', 'settled_by_hand')
                AND NOT EXISTS (
                    SELECT 1 FROM {flags} f
                    WHERE f.order_id = o.id AND f.subject = 'send_confirmation_email' AND f.cleared_at IS NULL
                )
                AND NOT EXISTS (
                    SELECT 1 FROM {actions} a
                    WHERE a.order_id = o.id AND a.kind = 'acknowledge'
                        AND a.reference = 'send_confirmation_email'
                )
        """,
    ),
    Rule(
        name="cancellation_missing",
        says="A cancelled order whose rollback has ended has its cancellation mail sent, or settled by hand.",
        finding=(
            "Order {number}: the trail says that its cancellation mail is {trail}, and the mail is {state} "
            "(order {order_id})."
        ),
        cause="Likely the mail's row was lost or changed by hand.",
        sql="""
            SELECT o.number, o.id AS order_id, t.state AS trail, coalesce(e.state, 'missing') AS state
            FROM {trail} t
            JOIN {orders} o ON o.id = t.order_id
            LEFT JOIN {mails} e ON e.order_id = t.order_id AND e.kind = 'cancellation' AND e.copy = 0
            WHERE t.name = 'send_cancellation_email' AND t.state IN ('done', 'resolved', 'nothing_to_undo')
                AND coalesce(e.state, 'missing') NOT IN ('sent', 'settled_by_hand')
        """,
    ),
    Rule(
        name="mail_unfounded",
        says=(
            "A confirmation is only written once the payment is taken, a cancellation only once the order is "
            "cancelled, and a copy only when a person asked for it."
        ),
        finding=(
            "Order {number} is {status}{paid}, and it has a {kind} mail{copy} that is {state} (mail {mail}, "
            "order {order_id})."
        ),
        cause="Likely the order was moved back by hand, or the mail was written past the desk.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, e.id AS mail, e.kind, e.state,
                CASE WHEN m.charges > 0 THEN ' and was paid' ELSE ' and was never paid' END AS paid,
                CASE WHEN e.copy > 0 THEN ' (copy ' || e.copy || ')' ELSE '' END AS copy
            FROM {mails} e
            JOIN {orders} o ON o.id = e.order_id
            LEFT JOIN {payments} p ON p.order_id = o.id
            LEFT JOIN {money} m ON m.payment_id = p.id
            WHERE e.kind = 'cancellation' AND o.status <> 'cancelled'
                OR e.kind = 'confirmation' AND (o.status = 'pending' OR coalesce(m.charges, 0) = 0)
                OR e.copy > 0 AND NOT EXISTS (
                    SELECT 1 FROM {actions} a
                    WHERE a.order_id = e.order_id AND a.kind = 'resend_email' AND a.reference = e.message_id
                )
        """,
    ),
    Rule(
        name="mail_twice",
        says="An order has one mail of each kind, and one of each copy.",
        finding="Order {number} has {mails} {kind} mails numbered {copy} (order {order_id}).",
        cause="Likely a row was added by hand, or a unique index was lost in a restore.",
        sql="""
            SELECT o.number, o.id AS order_id, e.kind, e.copy, count(*) AS mails
            FROM {mails} e JOIN {orders} o ON o.id = e.order_id
            GROUP BY o.number, o.id, e.kind, e.copy
            HAVING count(*) > 1
        """,
    ),
    Rule(
        name="mail_address",
        says="A mail goes to its order's customer, under the Message-ID of its order and kind.",
        finding=(
            "Order {number}: its {kind} mail {mail} goes to {whom}, under {message_id} (order {order_id})."
        ),
        cause="Likely the mail's or the order's row was changed by hand.",
        # Addresses stay out of what is kept and logged.
        sql="""
            SELECT o.number, o.id AS order_id, e.id AS mail, e.kind, e.message_id,
                CASE WHEN e.recipient = o.customer_email THEN 'its customer' ELSE 'somebody else' END AS whom
            FROM {mails} e JOIN {orders} o ON o.id = e.order_id
            WHERE e.recipient <> o.customer_email
                OR NOT starts_with(
                    e.message_id,
                    '<' || e.kind || '.' || o.id || CASE WHEN e.copy > 0 THEN '.' || e.copy ELSE '' END || '@'
                )
        """,
    ),
)
