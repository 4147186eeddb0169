"""Every kind of row, corrupted one at a time: what is done to which story's order, and which rule says so."""

from typing import NamedTuple


class Corruption(NamedTuple):
    """Statements about the order %(id)s of a story, each of which changes something; the rule they break."""

    rule: str
    story: str
    statements: tuple[str, ...]


_PAYMENT = "(SELECT id FROM payments_payment WHERE order_id = %(id)s)"
_ONE_LINE = "id = (SELECT min(id) FROM orders_orderline WHERE order_id = %(id)s)"
_ONE_HOLD = "id = (SELECT min(id) FROM inventory_hold WHERE order_id = %(id)s)"
_PRODUCT = f"(SELECT product_id FROM inventory_hold WHERE {_ONE_HOLD})"
_CANCELLED = "status = 'cancelled', rollback_started_at = now(), rolled_back_at = now()"
_OPEN = "rollback_started_at = NULL, rolled_back_at = NULL"


def on(rule: str, story: str, *statements: str) -> Corruption:
    return Corruption(rule, story, statements)


CORRUPTIONS: dict[str, Corruption] = {
    # --- stock
    "units on hand": on(
        "stock_on_hand",
        "completed",
        f"UPDATE inventory_stockitem SET on_hand = on_hand + 1 WHERE product_id = {_PRODUCT}",
    ),
    "units reserved": on(
        "stock_reserved",
        "completed",
        f"UPDATE inventory_stockitem SET reserved = reserved + 1 WHERE product_id = {_PRODUCT}",
    ),
    "a stock row lost": on(
        "stock_on_hand", "completed", f"DELETE FROM inventory_stockitem WHERE product_id = {_PRODUCT}"
    ),
    "a delivery lost": on(
        "stock_on_hand",
        "completed",
        f"DELETE FROM inventory_stockmovement WHERE kind = 'received' AND product_id = {_PRODUCT}",
    ),
    "a correction invented": on(
        "stock_on_hand",
        "completed",
        "INSERT INTO inventory_stockmovement (product_id, kind, on_hand_change, reserved_change, note, actor)"
        f" VALUES ({_PRODUCT}, 'adjusted', -1, 0, '', '')",
    ),
    "a hold lost": on("stock_held", "completed", f"DELETE FROM inventory_hold WHERE {_ONE_HOLD}"),
    "all holds lost": on("hold_lines", "shipped", "DELETE FROM inventory_hold WHERE order_id = %(id)s"),
    "a hold's quantity": on(
        "hold_lines", "shipped", f"UPDATE inventory_hold SET quantity = quantity + 1 WHERE {_ONE_HOLD}"
    ),
    "a hold's product": on(
        "hold_lines",
        "completed",
        "UPDATE inventory_hold SET product_id = (SELECT id FROM inventory_product WHERE sku = 'DESK-OAK')"
        f" WHERE {_ONE_HOLD}",
    ),
    "a completed order's hold released": on(
        "hold_state", "completed", f"UPDATE inventory_hold SET state = 'released' WHERE {_ONE_HOLD}"
    ),
    "a shipped order's hold open": on(
        "hold_state", "shipped", f"UPDATE inventory_hold SET state = 'held' WHERE {_ONE_HOLD}"
    ),
    "a cancelled order's hold open": on(
        "hold_state", "taken_back", f"UPDATE inventory_hold SET state = 'held' WHERE {_ONE_HOLD}"
    ),
    "a released hold open again": on(
        "hold_state", "refund_stuck", f"UPDATE inventory_hold SET state = 'held' WHERE {_ONE_HOLD}"
    ),
    "a hold before the first step": on(
        "hold_state",
        "accepted",
        "INSERT INTO inventory_hold (order_id, product_id, quantity, state)"
        " SELECT order_id, p.id, l.quantity, 'held'"
        " FROM orders_orderline l JOIN inventory_product p USING (sku)"
        " WHERE order_id = %(id)s",
    ),
    "a reservation's movement lost": on(
        "hold_movements",
        "paying",
        "DELETE FROM inventory_stockmovement WHERE order_id = %(id)s AND kind = 'reserved'",
    ),
    "a sale's movement lost": on(
        "hold_movements",
        "shipped",
        "DELETE FROM inventory_stockmovement WHERE order_id = %(id)s AND kind = 'sold'",
    ),
    "a sale's quantity": on(
        "hold_movements",
        "shipped",
        "UPDATE inventory_stockmovement SET on_hand_change = -9, reserved_change = -9"
        " WHERE order_id = %(id)s AND kind = 'sold'",
    ),
    "a release's kind": on(
        "hold_movements",
        "taken_back",
        "UPDATE inventory_stockmovement SET kind = 'settled_by_hand'"
        " WHERE order_id = %(id)s AND kind = 'released'",
    ),
    "a movement's order": on(
        "stock_without_order",
        "completed",
        "UPDATE inventory_stockmovement SET order_id = NULL WHERE order_id = %(id)s",
    ),
    # --- the order and its lines
    "an order's total": on(
        "order_total", "completed", "UPDATE orders_order SET total = total + 1 WHERE id = %(id)s"
    ),
    "a line's price": on(
        "order_total", "shipped", f"UPDATE orders_orderline SET unit_price = 0.01 WHERE {_ONE_LINE}"
    ),
    "a line's quantity": on(
        "order_total", "paying", f"UPDATE orders_orderline SET quantity = 9 WHERE {_ONE_LINE}"
    ),
    "a line lost": on("order_total", "accepted", f"DELETE FROM orders_orderline WHERE {_ONE_LINE}"),
    "a line's SKU": on(
        "hold_lines", "completed", f"UPDATE orders_orderline SET sku = 'DESK-OAK' WHERE {_ONE_LINE}"
    ),
    "an order lost": on("record_without_order", "accepted", "DELETE FROM orders_order WHERE id = %(id)s"),
    "a held order lost": on("stock_without_order", "paying", "DELETE FROM orders_order WHERE id = %(id)s"),
    "a paid order lost": on(
        "charge_without_order", "completed", "DELETE FROM orders_order WHERE id = %(id)s"
    ),
    "a told order lost": on("mail_without_order", "taken_back", "DELETE FROM orders_order WHERE id = %(id)s"),
    # --- money
    "a payment's amount": on(
        "payment_terms",
        "completed",
        "UPDATE payments_payment SET amount = amount - 1 WHERE order_id = %(id)s",
    ),
    "a payment's currency": on(
        "payment_terms", "taken_back", "UPDATE payments_payment SET currency = 'USD' WHERE order_id = %(id)s"
    ),
    "a payment's state": on(
        "payment_state", "taken_back", "UPDATE payments_payment SET state = 'charged' WHERE order_id = %(id)s"
    ),
    "a payment's charge": on(
        "payment_state", "completed", "UPDATE payments_payment SET charge_id = 'ch_x' WHERE order_id = %(id)s"
    ),
    "a payment lost": on(
        "charge_without_order", "shipped", "DELETE FROM payments_payment WHERE order_id = %(id)s"
    ),
    "a charge lost": on(
        "order_paid", "completed", f"DELETE FROM payments_paymentevent WHERE payment_id = {_PAYMENT}"
    ),
    "a charge's amount": on(
        "payment_events",
        "completed",
        f"UPDATE payments_paymentevent SET amount = amount - 1 WHERE payment_id = {_PAYMENT}",
    ),
    "a second charge": on(
        "payment_events",
        "shipped",
        "ALTER TABLE payments_paymentevent DROP CONSTRAINT payment_event_once",
        "INSERT INTO payments_paymentevent (payment_id, kind, amount, reference, note)"
        " SELECT payment_id, kind, amount, 'ch_2', '' FROM payments_paymentevent"
        f" WHERE payment_id = {_PAYMENT}",
    ),
    "a refund lost": on(
        "order_refunded",
        "taken_back",
        f"DELETE FROM payments_paymentevent WHERE payment_id = {_PAYMENT} AND kind = 'refunded'",
    ),
    "a refund's amount": on(
        "payment_events",
        "taken_back",
        "UPDATE payments_paymentevent SET amount = amount + 1"
        f" WHERE payment_id = {_PAYMENT} AND kind = 'refunded'",
    ),
    "a refund of a completed order": on(
        "order_paid",
        "completed",
        "INSERT INTO payments_paymentevent (payment_id, kind, amount, reference, note)"
        f" SELECT id, 'refunded', -amount, 're_x', '' FROM payments_payment WHERE id = {_PAYMENT}",
    ),
    "a closing lost": on(
        "order_refunded",
        "declined",
        f"DELETE FROM payments_paymentevent WHERE payment_id = {_PAYMENT} AND kind = 'closed'",
    ),
    "a charge after the closing": on(
        "order_refunded",
        "declined",
        "INSERT INTO payments_paymentevent (payment_id, kind, amount, reference, note)"
        f" SELECT id, 'charged', amount, 'ch_x', '' FROM payments_payment WHERE id = {_PAYMENT}",
    ),
    "a settlement's amount": on(
        "payment_events",
        "settled_outside",
        "UPDATE payments_paymentevent SET amount = amount + 1"
        f" WHERE payment_id = {_PAYMENT} AND kind = 'settled_outside'",
    ),
    "who settled it": on(
        "settled_by_nobody",
        "settled_outside",
        "DELETE FROM orders_orderaction WHERE order_id = %(id)s AND kind = 'resolve_undo'",
    ),
    "who released it": on(
        "settled_by_nobody",
        "released_by_hand",
        "UPDATE orders_orderaction SET undo = 'refund_payment'"
        " WHERE order_id = %(id)s AND kind = 'resolve_undo'",
    ),
    "the flag about a refund given twice": on(
        "order_refunded", "refunded_twice", "DELETE FROM orders_attentionflag WHERE order_id = %(id)s"
    ),
    "a payment before its holds": on(
        "payment_too_early", "paying", "DELETE FROM inventory_hold WHERE order_id = %(id)s"
    ),
    # --- mail
    "a confirmation lost": on(
        "confirmation_missing",
        "completed",
        "DELETE FROM notifications_emailmessage WHERE order_id = %(id)s",
    ),
    "a confirmation unsent": on(
        "confirmation_missing",
        "shipped",
        "UPDATE notifications_emailmessage SET state = 'pending' WHERE order_id = %(id)s",
    ),
    "the flag about an undelivered mail": on(
        "confirmation_missing",
        "completed_unconfirmed",
        "UPDATE orders_attentionflag SET cleared_at = now() WHERE order_id = %(id)s AND cleared_at IS NULL",
    ),
    "a cancellation lost": on(
        "cancellation_missing",
        "declined",
        "DELETE FROM notifications_emailmessage WHERE order_id = %(id)s AND kind = 'cancellation'",
    ),
    "a cancellation unsent": on(
        "cancellation_missing",
        "taken_back",
        "UPDATE notifications_emailmessage SET state = 'pending'"
        " WHERE order_id = %(id)s AND kind = 'cancellation'",
    ),
    "a cancellation of a completed order": on(
        "mail_unfounded",
        "completed",
        "UPDATE notifications_emailmessage SET kind = 'cancellation' WHERE order_id = %(id)s",
    ),
    "who had a mail sent again": on(
        "mail_unfounded",
        "resent",
        "DELETE FROM orders_orderaction WHERE order_id = %(id)s AND kind = 'resend_email'",
    ),
    "a mail's recipient": on(
        "mail_address",
        "completed",
        "UPDATE notifications_emailmessage SET recipient = 'eve@example.com' WHERE order_id = %(id)s",
    ),
    "a mail's Message-ID": on(
        "mail_address",
        "shipped",
        "UPDATE notifications_emailmessage SET message_id = '<x@shop.example>' WHERE order_id = %(id)s",
    ),
    "a mail twice": on(
        "mail_twice",
        "completed",
        "ALTER TABLE notifications_emailmessage DROP CONSTRAINT email_once_per_kind",
        "INSERT INTO notifications_emailmessage"
        " (order_id, kind, copy, state, message_id, recipient, subject, text, html, sent_at)"
        " SELECT order_id, kind, copy, state, message_id || 'x', recipient, subject, text, html, sent_at"
        " FROM notifications_emailmessage WHERE order_id = %(id)s",
    ),
    # --- status, trail and keys
    "a completed order moved to cancelled": on(
        "trail_undos", "completed", f"UPDATE orders_order SET {_CANCELLED} WHERE id = %(id)s"
    ),
    "a cancelled order moved to completed": on(
        "undo_unfounded",
        "taken_back",
        f"UPDATE orders_order SET status = 'completed', {_OPEN} WHERE id = %(id)s",
    ),
    "an order in flight moved to completed": on(
        "order_paid",
        "paying",
        "UPDATE orders_order SET status = 'completed', completed_at = now() WHERE id = %(id)s",
    ),
    "an order in flight moved to cancelled": on(
        "trail_undos", "paying", f"UPDATE orders_order SET {_CANCELLED} WHERE id = %(id)s"
    ),
    "a cancelled order moved back": on(
        "undo_unfounded",
        "taken_back",
        "UPDATE orders_order SET status = 'cancelling', rolled_back_at = NULL WHERE id = %(id)s",
    ),
    "a completed order moved back": on(
        "trail_steps",
        "completed",
        "UPDATE orders_order SET status = 'created', completed_at = NULL WHERE id = %(id)s",
    ),
    "a moment lost": on(
        "order_moments", "shipped", "UPDATE orders_order SET shipped_at = NULL WHERE id = %(id)s"
    ),
    "a moment invented": on(
        "order_moments", "paying", "UPDATE orders_order SET completed_at = now() WHERE id = %(id)s"
    ),
    "a step's trail lost": on(
        "trail_steps",
        "completed",
        "DELETE FROM orders_trailentry WHERE order_id = %(id)s AND name = 'process_payment'",
    ),
    "a step's outcome": on(
        "trail_steps",
        "shipped",
        "UPDATE orders_trailentry SET state = 'failed'"
        " WHERE order_id = %(id)s AND name = 'reserve_inventory'",
    ),
    "an undo's trail lost": on(
        "trail_undos",
        "taken_back",
        "DELETE FROM orders_trailentry WHERE order_id = %(id)s AND name = 'release_inventory'",
    ),
    "an undo that was not due": on(
        "trail_undos",
        "out_of_stock",
        "UPDATE orders_trailentry SET name = 'refund_payment' WHERE order_id = %(id)s"
        " AND name = 'release_inventory'",
    ),
    "an undo's outcome": on(
        "undo_outcome",
        "taken_back",
        "UPDATE orders_trailentry SET state = 'nothing_to_undo'"
        " WHERE order_id = %(id)s AND name = 'refund_payment'",
    ),
    "an undo of nothing": on(
        "undo_outcome",
        "out_of_stock",
        "UPDATE orders_trailentry SET state = 'done' WHERE order_id = %(id)s AND name = 'release_inventory'",
    ),
    "a step running for ever": on(
        "step_left_running",
        "declined",
        "UPDATE orders_trailentry SET state = 'running', finished_at = NULL"
        " WHERE order_id = %(id)s AND name = 'process_payment'",
    ),
    "a step's key lost": on(
        "step_keys",
        "completed",
        "DELETE FROM orders_stepkey WHERE order_id = %(id)s AND step = 'process_payment'",
    ),
    "a tombstone lost": on(
        "step_keys",
        "taken_back",
        "UPDATE orders_stepkey SET undone_at = NULL WHERE order_id = %(id)s AND step = 'process_payment'",
    ),
    "a tombstone invented": on(
        "undo_unfounded",
        "completed",
        "UPDATE orders_stepkey SET undone_at = now() WHERE order_id = %(id)s AND step = 'reserve_inventory'",
    ),
    # --- what people and Temporal were told
    "who placed it": on(
        "acceptance",
        "completed",
        "DELETE FROM orders_orderaction WHERE order_id = %(id)s AND kind = 'place_order'",
    ),
    "the message that starts it": on(
        "acceptance", "accepted", "DELETE FROM orders_outboxmessage WHERE order_id = %(id)s"
    ),
    "who cancelled it": on(
        "cancel_recorded",
        "taken_back",
        "DELETE FROM orders_orderaction WHERE order_id = %(id)s AND kind = 'cancel_order'",
    ),
    "a cancel without effect": on(
        "cancel_recorded",
        "completed",
        "UPDATE orders_order SET cancel_requested_at = now() WHERE id = %(id)s",
    ),
    "a cancel's moment": on(
        "cancel_recorded",
        "cancelled_paying",
        "UPDATE orders_order SET cancel_requested_at = NULL WHERE id = %(id)s",
    ),
    "a request to cancel left open": on(
        "cancel_recorded",
        "awaiting_approval",
        "UPDATE orders_order SET status = 'shipped', shipped_at = now() WHERE id = %(id)s",
    ),
    "who shipped it": on(
        "shipping_recorded",
        "shipped",
        "DELETE FROM orders_orderaction WHERE order_id = %(id)s AND kind = 'ship_order'",
    ),
    "a webhook about what did not happen": on(
        "webhook_unfounded",
        "of_a_client",
        "UPDATE orders_webhookdelivery SET event = 'order.cancelled' WHERE order_id = %(id)s",
    ),
}
