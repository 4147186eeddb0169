"""The workflow that audits the books, started by a schedule."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from orders.activities import audit_books

ATTEMPT_TIMEOUT = timedelta(minutes=10)
ATTEMPTS = 3


@workflow.defn
class AuditBooks:
    """Audits all books once and keeps what was found. The next one is due soon enough, so it gives up."""

    @workflow.run
    async def run(self) -> int:
        """Returns how many violations were found."""
        return await workflow.execute_activity(
            audit_books,
            start_to_close_timeout=ATTEMPT_TIMEOUT,
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=10), maximum_attempts=ATTEMPTS),
        )
