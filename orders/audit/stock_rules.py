"""Rules about stock: every number is the sum of its ledger, and every hold belongs to a line."""

from orders.audit.rule import Rule

_MOVED = """(
    SELECT product_id, sum(on_hand_change) AS on_hand, sum(reserved_change) AS reserved
    FROM inventory_stockmovement GROUP BY product_id
)"""

STOCK_RULES = (
    Rule(
        name="stock_on_hand",
        says="The units on hand of a product are the sum of its movements.",
        finding="{sku}: the stock row says {on_hand} on hand, its movements add up to {moved}.",
        cause="Likely the stock row was changed without a movement, or a movement was lost or changed.",
        sql=f"""
            SELECT NULL::bigint AS number, NULL::uuid AS order_id, p.sku,
                coalesce(s.on_hand, 0) AS on_hand, coalesce(m.on_hand, 0) AS moved
            FROM {{products}} p
            LEFT JOIN inventory_stockitem s ON s.product_id = p.id
            LEFT JOIN {_MOVED} m ON m.product_id = p.id
            WHERE coalesce(s.on_hand, 0) <> coalesce(m.on_hand, 0)
        """,  # noqa: S608 - our own text
    ),
    Rule(
        name="stock_reserved",
        says="The reserved units of a product are the sum of its movements.",
        finding="{sku}: the stock row says {reserved} reserved, its movements add up to {moved}.",
        cause="Likely the stock row was changed without a movement, or a movement was lost or changed.",
        sql=f"""
            SELECT NULL::bigint AS number, NULL::uuid AS order_id, p.sku,
                coalesce(s.reserved, 0) AS reserved, coalesce(m.reserved, 0) AS moved
            FROM {{products}} p
            LEFT JOIN inventory_stockitem s ON s.product_id = p.id
            LEFT JOIN {_MOVED} m ON m.product_id = p.id
            WHERE coalesce(s.reserved, 0) <> coalesce(m.reserved, 0)
        """,  # noqa: S608
    ),
    Rule(
        name="stock_held",
        says="The reserved units of a product are the sum of its open holds.",
        finding="{sku}: the stock row says {reserved} reserved, its open holds add up to {held}.",
        cause="Likely a hold was opened, closed or changed without the stock row.",
        sql="""
            SELECT NULL::bigint AS number, NULL::uuid AS order_id, p.sku,
                coalesce(s.reserved, 0) AS reserved, coalesce(h.held, 0) AS held
            FROM {products} p
            LEFT JOIN inventory_stockitem s ON s.product_id = p.id
            LEFT JOIN (
                SELECT product_id, sum(quantity) AS held
                FROM inventory_hold WHERE state = 'held' GROUP BY product_id
            ) h ON h.product_id = p.id
            WHERE coalesce(s.reserved, 0) <> coalesce(h.held, 0)
        """,
    ),
    Rule(
        name="hold_lines",
        says="An order holds all of its lines or none of them, and every line once it is completed.",
        finding=(
            "Order {number} ({status}): {ordered} x {sku} ordered, {held} held or once held (order "
            "{order_id})."
        ),
        cause="Likely a hold or a line was added, lost or changed by hand.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, coalesce(l.sku, h.sku) AS sku,
                coalesce(l.quantity, 0) AS ordered, coalesce(h.quantity, 0) AS held
            FROM {lines} l
            FULL JOIN (
                SELECT h.order_id, coalesce(p.sku, 'product ' || h.product_id) AS sku, h.quantity
                FROM {holds} h LEFT JOIN inventory_product p ON p.id = h.product_id
            ) h ON h.order_id = l.order_id AND h.sku = l.sku
            JOIN {orders} o ON o.id = coalesce(l.order_id, h.order_id)
            WHERE l.quantity IS DISTINCT FROM h.quantity
                AND (
                    h.order_id IS NOT NULL OR o.status IN ('completed', 'shipped')
                    OR EXISTS (SELECT 1 FROM {holds} other WHERE other.order_id = l.order_id)
                )
        """,
    ),
    Rule(
        name="hold_state",
        says=(
            "Holds are as their order's status asks: none while it is pending, open until it is shipped or "
            "released, sold once shipped, and none open once cancelled or released."
        ),
        finding=(
            "Order {number} is {status}, and {quantity} x {sku} are {state}"
            "{after_release} (hold {hold}, order {order_id})."
        ),
        cause="Likely the order or the hold was moved by hand, or one of the two transactions was lost.",
        sql="""
            SELECT o.number, o.id AS order_id, o.status, h.id AS hold, h.quantity, h.state,
                coalesce(p.sku, 'product ' || h.product_id) AS sku,
                CASE WHEN k.order_id IS NOT NULL THEN ' although the release has run' ELSE '' END AS
                    after_release
            FROM {holds} h
            JOIN {orders} o ON o.id = h.order_id
            LEFT JOIN inventory_product p ON p.id = h.product_id
            LEFT JOIN {keys} k ON k.order_id = h.order_id AND k.step = 'reserve_inventory'
                AND h.state = 'held' AND (k.undone_at IS NOT NULL OR k.resolved_at IS NOT NULL)
            WHERE k.order_id IS NOT NULL OR NOT CASE o.status
                WHEN 'created' THEN h.state = 'held'
                WHEN 'completed' THEN h.state = 'held'
                WHEN 'shipped' THEN h.state = 'sold'
                WHEN 'cancelling' THEN h.state IN ('held', 'released', 'settled_by_hand')
                WHEN 'cancelled' THEN h.state IN ('released', 'settled_by_hand')
                ELSE false
            END
        """,
    ),
    Rule(
        name="hold_movements",
        says="Every hold has the movements of its story: reserved, then released, sold or settled by hand.",
        finding=(
            "Order {number}: {held} x {sku} are {state}, and the movements say {reserved} reserved, "
            "{released} released, {sold} sold, {settled} settled by hand, {other} others (order {order_id})."
        ),
        cause="Likely a movement or a hold was lost, added or changed by hand.",
        sql="""
            SELECT o.number, o.id AS order_id, coalesce(h.quantity, 0) AS held,
                coalesce(h.state, 'not held at all') AS state, coalesce(p.sku, 'an unknown product') AS sku,
                coalesce(m.reserved, 0) AS reserved, -coalesce(m.released, 0) AS released,
                -coalesce(m.sold, 0) AS sold, -coalesce(m.settled, 0) AS settled, coalesce(m.other,
                    0) AS other
            FROM (
                SELECT order_id, product_id,
                    sum(reserved_change) FILTER (WHERE kind = 'reserved') AS reserved,
                    sum(reserved_change) FILTER (WHERE kind = 'released') AS released,
                    sum(reserved_change) FILTER (WHERE kind = 'sold') AS sold,
                    sum(reserved_change) FILTER (WHERE kind = 'settled_by_hand') AS settled,
                    sum(on_hand_change) AS on_hand,
                    count(*) FILTER (WHERE kind IN ('received', 'adjusted')) AS other
                FROM {movements} WHERE order_id IS NOT NULL GROUP BY order_id, product_id
            ) m
            FULL JOIN {holds} h ON h.order_id = m.order_id AND h.product_id = m.product_id
            JOIN {orders} o ON o.id = coalesce(m.order_id, h.order_id)
            LEFT JOIN inventory_product p ON p.id = coalesce(m.product_id, h.product_id)
            WHERE coalesce(m.reserved, 0) <> coalesce(h.quantity, 0)
                OR -coalesce(m.released, 0) <> CASE WHEN h.state = 'released' THEN h.quantity ELSE 0 END
                OR -coalesce(m.sold, 0) <> CASE WHEN h.state = 'sold' THEN h.quantity ELSE 0 END
                OR -coalesce(m.on_hand, 0) <> CASE WHEN h.state = 'sold' THEN h.quantity ELSE 0 END
                OR -coalesce(m.settled, 0) <> CASE WHEN h.state = 'settled_by_hand' THEN h.quantity ELSE 0 END
                OR coalesce(m.other, 0) <> 0
        """,
    ),
)
