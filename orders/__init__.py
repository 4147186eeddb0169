"""Orders: what a customer buys, the saga that carries it, the trail staff read, the doors in."""
