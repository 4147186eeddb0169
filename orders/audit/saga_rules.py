"""Rules about the saga: status, moments, trail and keys tell one story."""

from orders.audit.rule import Rule

_FINISHED = "('done', 'nothing_to_undo', 'resolved')"
# A step that comes after its order has turned back is refused, and has not begun.
_BEGUN = "t.error_type <> 'AlreadyUndone'"

SAGA_RULES = (
    Rule(
        name="order_moments",
        says="An order has the moments that its status asks for, and no others.",
        finding=(
            "Order {number} is {status}: completed {completed_at}, shipped {shipped_at}, rollback begun "
            "{rollback_started_at}, rolled back {rolled_back_at} (order {order_id})."
        ),
        cause="Likely the status or a moment was changed by hand.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status,
                coalesce(o.completed_at::text, 'never') AS completed_at,
                coalesce(o.shipped_at::text, 'never') AS shipped_at,
                coalesce(o.rollback_started_at::text, 'never') AS rollback_started_at,
                coalesce(o.rolled_back_at::text, 'never') AS rolled_back_at
            FROM {orders} o
            WHERE (o.status = 'shipped') <> (o.shipped_at IS NOT NULL)
                OR (o.status = 'cancelled') <> (o.rolled_back_at IS NOT NULL)
                OR (o.status IN ('cancelling', 'cancelled')) <> (o.rollback_started_at IS NOT NULL)
                OR o.status IN ('completed', 'shipped') AND o.completed_at IS NULL
                OR o.status IN ('pending', 'created') AND o.completed_at IS NOT NULL
        """,
    ),
    Rule(
        name="trail_steps",
        says=(
            "An order that was ever completed has the steps of that in its trail, and one that was not has "
            "not."
        ),
        finding=("Order {number} ({status}) was {completed}; done in its trail: {done} (order {order_id})."),
        cause="Likely a row of the trail was lost or changed by hand, or the order was moved past its saga.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status,
                CASE WHEN o.completed_at IS NULL THEN 'never completed' ELSE 'completed' END AS completed,
                coalesce(t.done, 'no step') AS done
            FROM {orders} o
            LEFT JOIN (
                -- Each of them is done at most once: the database sees to it.
                SELECT order_id, count(*) AS steps, bool_or(name = 'complete_order') AS completed,
                    string_agg(name, ', ') AS done
                FROM {trail} x
                WHERE state = 'done'
                    AND name IN ('create_order', 'reserve_inventory', 'process_payment', 'complete_order')
                GROUP BY order_id
            ) t ON t.order_id = o.id
            WHERE o.completed_at IS NOT NULL AND coalesce(t.steps, 0) <> 4
                OR o.completed_at IS NULL AND t.completed
        """,
    ),
    Rule(
        name="trail_undos",
        says=(
            "A cancelled order has in its trail exactly the undos of what had begun: cancel_order always, "
            "release_inventory from step 2 on, refund_payment from step 3 on. One that a saga of its own "
            "takes back is looked at when its customer has been told: until then that saga is at work."
        ),
        finding=(
            "Order {number} was cancelled at {failed_at}. Asked for: {due}. In its trail: {undone} "
            "(order {order_id})."
        ),
        cause=(
            "Likely the order was moved to cancelled by hand, the saga left an undo out, or a row of the "
            "trail was lost."
        ),
        sql=f"""
            SELECT d.number, d.order_id, coalesce(nullif(d.failed_step, ''), 'its end') AS failed_at,
                concat_ws(', ', CASE WHEN d.refund_due THEN 'refund_payment' END,
                    CASE WHEN d.release_due THEN 'release_inventory' END, 'cancel_order') AS due,
                coalesce(nullif(concat_ws(', ', CASE WHEN d.refunded THEN 'refund_payment' END,
                    CASE WHEN d.released THEN 'release_inventory' END,
                    CASE WHEN d.cancelled THEN 'cancel_order' END), ''), 'none') AS undone
            FROM (
                SELECT o.number, o.id AS order_id, o.failed_step,
                    o.failed_step NOT IN ('create_order', 'reserve_inventory')
                        OR coalesce(bool_or(t.name = 'process_payment' AND {_BEGUN}), false)
                        OR taken_back.order_id IS NOT NULL AS refund_due,
                    o.failed_step <> 'create_order'
                        OR coalesce(bool_or(t.name = 'reserve_inventory' AND {_BEGUN}), false)
                        OR taken_back.order_id IS NOT NULL AS release_due,
                    coalesce(bool_or(t.name = 'refund_payment'
                        AND t.state IN {_FINISHED}), false) AS refunded,
                    coalesce(bool_or(t.name = 'release_inventory'
                        AND t.state IN {_FINISHED}), false) AS released,
                    coalesce(bool_or(t.name = 'cancel_order' AND t.state IN {_FINISHED}), false) AS cancelled,
                    taken_back.order_id IS NULL
                        OR coalesce(bool_or(t.name = 'send_cancellation_email'
                            AND t.state IN {_FINISHED}), false) AS is_over
                FROM {{orders}} o
                LEFT JOIN {{trail}} t ON t.order_id = o.id
                LEFT JOIN (
                    SELECT DISTINCT order_id FROM {{outbox}} x WHERE name = 'CancelOrderSaga'
                ) taken_back ON taken_back.order_id = o.id
                WHERE o.status = 'cancelled'
                GROUP BY o.number, o.id, o.failed_step, taken_back.order_id
            ) d
            WHERE d.is_over
                AND (d.refund_due, d.release_due, true) IS DISTINCT FROM (d.refunded, d.released, d.cancelled)
        """,  # noqa: S608 - our own text
    ),
    Rule(
        name="undo_unfounded",
        says=(
            "Only an order whose rollback has begun has undos, and only a cancelled one has a done "
            "cancel_order."
        ),
        finding="Order {number} is {status}, and {what} (order {order_id}).",
        cause="Likely the order was moved back by hand.",
        sql=f"""
            SELECT o.number, o.id AS order_id, o.status, u.what
            FROM (
                SELECT order_id, name = 'cancel_order' AND state IN {_FINISHED} AS ends,
                    name = 'send_cancellation_email' AS tells,
                        'its trail has ' || name || ': ' || state AS what
                FROM {{trail}} x WHERE kind = 'undo'
                UNION ALL
                SELECT order_id, false, false, step || ' counts as undone'
                FROM {{keys}} x WHERE undone_at IS NOT NULL OR resolved_at IS NOT NULL
            ) u
            JOIN {{orders}} o ON o.id = u.order_id
            WHERE o.status NOT IN ('cancelling', 'cancelled')
                OR o.status = 'cancelling' AND (u.ends OR u.tells)
        """,  # noqa: S608
    ),
    Rule(
        name="undo_outcome",
        says="What the trail says of an undo is what the ledgers say.",
        finding="Order {number}: the trail says that {undo} is {state}, but {but} (order {order_id}).",
        cause="Likely the booking or the trail's row was lost or changed by hand.",
        sql="""
            SELECT o.number, o.id AS order_id, t.name AS undo, t.state, CASE t.state
                WHEN 'done' THEN 'no refund is booked'
                WHEN 'resolved' THEN 'nothing is booked as settled outside'
                ELSE m.charged || ' is booked as charged'
            END AS but
            FROM {trail} t
            JOIN {orders} o ON o.id = t.order_id
            LEFT JOIN {payments} p ON p.order_id = t.order_id
            LEFT JOIN {money} m ON m.payment_id = p.id
            WHERE t.name = 'refund_payment' AND CASE t.state
                WHEN 'done' THEN coalesce(m.refunds, 0) = 0
                WHEN 'resolved' THEN coalesce(m.settlements, 0) = 0
                WHEN 'nothing_to_undo' THEN coalesce(m.charges, 0) > 0
                ELSE false
            END
            UNION ALL
            SELECT o.number, o.id, t.name, t.state,
                CASE t.state WHEN 'done' THEN 'nothing was ever held' ELSE h.holds || ' products were held'
                    END
            FROM {trail} t
            JOIN {orders} o ON o.id = t.order_id
            LEFT JOIN (SELECT order_id, count(*) AS holds
                FROM {holds} x GROUP BY order_id) h ON h.order_id = o.id
            WHERE t.name = 'release_inventory'
                AND (t.state = 'done' AND h.holds IS NULL OR t.state = 'nothing_to_undo'
                    AND h.holds IS NOT NULL)
        """,
    ),
    Rule(
        name="step_keys",
        says=(
            "Every step that was done has its key, and the keys of a cancelled order are undone, so that no "
            "late attempt can take effect."
        ),
        finding="Order {number} is {status}, and the key of {step} is {key} (order {order_id}).",
        cause="Likely the key was lost or changed by hand: a late attempt of the step would not be stopped.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, s.step, 'missing' AS key
            FROM {orders} o
            CROSS JOIN (VALUES ('create_order'), ('reserve_inventory'), ('process_payment')) s (step)
            LEFT JOIN {keys} k ON k.order_id = o.id AND k.step = s.step
            WHERE k.id IS NULL AND (o.completed_at IS NOT NULL OR o.status = 'cancelled'
                AND s.step = 'create_order')
            UNION ALL
            SELECT o.number, o.id, o.status, k.step, 'not undone'
            FROM {keys} k
            JOIN {orders} o ON o.id = k.order_id
            WHERE o.status = 'cancelled' AND k.undone_at IS NULL AND k.resolved_at IS NULL
                AND (
                    k.step <> 'send_confirmation_email'
                    OR EXISTS (
                        SELECT 1 FROM {trail} t
                        WHERE t.order_id = k.order_id AND t.name = 'send_cancellation_email'
                            AND t.state = 'done'
                    )
                )
        """,
    ),
    Rule(
        name="step_left_running",
        says="No step of a cancelled order is running: every one has ended, or counts as lost.",
        finding=(
            "Order {number} is cancelled, and its trail says that {name} is running since {since} (order "
            "{order_id})."
        ),
        cause="Likely the trail's row was changed by hand, or the order was moved past its saga.",
        sql="""
            SELECT o.number, o.id AS order_id, t.name, t.started_at AS since
            FROM {trail} t JOIN {orders} o ON o.id = t.order_id
            WHERE o.status = 'cancelled' AND t.kind = 'step' AND t.state = 'running'
        """,
    ),
    Rule(
        name="acceptance",
        says="Every order was placed by somebody, and Temporal is told to start its saga.",
        finding=(
            "Order {number}: {placed} actions place it, and {started} messages start its saga (order "
            "{order_id})."
        ),
        cause=(
            "Likely the order was written past the desk, or its rows were lost: without the message it never "
            "moves."
        ),
        sql="""
            SELECT o.number, o.id AS order_id, coalesce(a.placed, 0) AS placed, coalesce(m.started,
                0) AS started
            FROM {orders} o
            LEFT JOIN (
                SELECT order_id, count(*) AS placed FROM {actions} x WHERE kind = 'place_order'
                    GROUP BY order_id
            ) a ON a.order_id = o.id
            LEFT JOIN (
                SELECT order_id, count(*) AS started FROM {outbox} x
                WHERE kind = 'start' AND name = 'PlaceOrderSaga' GROUP BY order_id
            ) m ON m.order_id = o.id
            WHERE coalesce(a.placed, 0) <> 1 OR m.started IS NULL
        """,
    ),
    Rule(
        name="cancel_recorded",
        says=(
            "A cancel has the action of who asked for it, no order was completed past it, and no request to "
            "cancel is open once the order is cancelled or shipped."
        ),
        finding="Order {number} is {status}, and {what} (order {order_id}).",
        cause="Likely the order, the action or the request was changed by hand.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, CASE
                WHEN o.cancel_requested_at IS NULL THEN 'somebody has cancelled it without effect'
                WHEN a.order_id IS NULL THEN 'it was cancelled by nobody'
                ELSE 'it was completed although it had been cancelled'
            END AS what
            FROM {orders} o
            LEFT JOIN (SELECT DISTINCT order_id FROM {actions} x
                WHERE kind = 'cancel_order') a ON a.order_id = o.id
            WHERE (o.cancel_requested_at IS NULL) <> (a.order_id IS NULL)
                OR o.cancel_requested_at IS NOT NULL AND o.status IN ('completed', 'shipped')
            UNION ALL
            SELECT o.number, o.id, o.status, 'request ' || r.id || ' to cancel it still awaits approval'
            FROM {requests} r JOIN {orders} o ON o.id = r.order_id
            WHERE r.state = 'awaiting_approval' AND o.status IN ('shipped', 'cancelling', 'cancelled')
        """,
    ),
    Rule(
        name="shipping_recorded",
        says="A shipped order has the action of who shipped it.",
        finding="Order {number} is {status}, and {shipped} actions ship it (order {order_id}).",
        cause="Likely the order was moved by hand, or the action was lost.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, coalesce(a.shipped, 0) AS shipped
            FROM {orders} o
            LEFT JOIN (
                SELECT order_id, count(*) AS shipped FROM {actions} x WHERE kind = 'ship_order'
                    GROUP BY order_id
            ) a ON a.order_id = o.id
            WHERE coalesce(a.shipped, 0) <> CASE WHEN o.status = 'shipped' THEN 1 ELSE 0 END
        """,
    ),
    Rule(
        name="webhook_unfounded",
        says="A client is told that its order is complete or cancelled only when it was.",
        finding=(
            "Order {number} is {status}, and its client was told {event} (delivery {delivery}, order "
            "{order_id})."
        ),
        cause="Likely the order was moved back by hand.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, d.event, d.id AS delivery
            FROM {deliveries} d JOIN {orders} o ON o.id = d.order_id
            WHERE d.event = 'order.completed' AND o.completed_at IS NULL
                OR d.event = 'order.cancelled' AND o.status <> 'cancelled'
        """,
    ),
)
