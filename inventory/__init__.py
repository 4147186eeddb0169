"""Inventory: products, stock, holds and the ledger of every movement."""
