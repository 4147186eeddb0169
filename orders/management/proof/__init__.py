"""The proof: every test of our promises at full size, and the table that shows what came of it."""
