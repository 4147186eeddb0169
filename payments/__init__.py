"""Payments: what was charged and refunded, and the gateways that do it."""
