"""Webhooks out: where they may go, how they are signed, who is told, and the couriers that deliver them."""
