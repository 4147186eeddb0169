"""The sagas: deterministic workflow code that reads nothing but its input."""
