"""The saga that takes back a completed order."""

from temporalio import workflow

from orders.sagas.policy import RollbackCause, SagaInput
from orders.sagas.quick import QuickAttempts
from orders.sagas.rollback import Rollback, see_through


@workflow.defn
class CancelOrderSaga:
    """Refunds, releases, cancels and tells the customer. Nothing of it can be cancelled."""

    @workflow.init
    def __init__(self, saga: SagaInput) -> None:
        # A completed order has at least these; `begin_rollback` knows what else it began.
        self.rollback = Rollback(saga, QuickAttempts(saga), due={"reserve_inventory", "process_payment"})

    @workflow.run
    async def run(self, saga: SagaInput) -> str:
        """Roll the order back. Returns cancelled or already final."""
        cause = RollbackCause("", "CancelRequested", "the completed order was cancelled")
        return await see_through(self.rollback.run(cause))

    @workflow.signal
    def retry_undo(self, undo: str) -> None:
        """Try a stuck undo again now."""
        self.rollback.retry_now(undo)

    @workflow.signal
    def resolve_undo(self, undo: str) -> None:
        """A person has settled the undo: its next attempt finds the booking and stops."""
        self.rollback.retry_now(undo)
