"""Real PostgreSQL, Temporal, payment sandbox and mail sink for a machine that has none.

Public door: `attach_services`, `read_status`, `EmbeddedServiceError`. Imports neither Django nor an app.
"""

from config.embedded.catalogue import EmbeddedServiceError, find_data_dir
from config.embedded.client import attach_services, read_status

__all__ = ["EmbeddedServiceError", "attach_services", "find_data_dir", "read_status"]
