"""Notifications: the mails a customer gets about an order."""
