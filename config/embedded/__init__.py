"""Real PostgreSQL, Temporal, payment sandbox and mail sink for a machine that has none.

Public door: the names in `__all__`. Imports neither Django nor an app.
"""

from config.embedded.catalogue import EmbeddedServiceError, find_data_dir
from config.embedded.client import attach_services, is_connection_lost, read_status

__all__ = ["EmbeddedServiceError", "attach_services", "find_data_dir", "is_connection_lost", "read_status"]
