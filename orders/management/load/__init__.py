"""Load: many orders at once on a real stack, and what they took in time, processor and memory."""
