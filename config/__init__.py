"""The project's frame: settings, the Temporal connection, embedded services, URLs."""
