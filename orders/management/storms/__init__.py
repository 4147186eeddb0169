"""Storms: everything that can die is killed while orders are placed, and then the books must balance."""
