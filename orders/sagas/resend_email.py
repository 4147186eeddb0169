"""The workflow that sends a mail again because a person asked for it."""

from datetime import timedelta

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, TimeoutError

from orders.sagas.policy import SagaInput

with workflow.unsafe.imports_passed_through():
    from notifications.activities import give_up_copy, resend_email

GIVEN_UP = "given_up"


@workflow.defn
class ResendEmail:
    """Tries until the mail server has taken or refused the copy, or a step's deadline has passed."""

    @workflow.run
    async def run(self, saga: SagaInput, email_id: str) -> str:
        """Send the copy with this id. Returns how it ended: sent, refused, withdrawn or given up."""
        policy = saga.policy
        retries = RetryPolicy(
            initial_interval=timedelta(seconds=policy.retry_initial),
            maximum_interval=timedelta(seconds=policy.retry_maximum),
        )
        attempt_timeout = timedelta(seconds=policy.attempt_timeout)
        try:
            return await workflow.execute_activity(
                resend_email,
                args=[saga.order_id, int(email_id)],
                start_to_close_timeout=attempt_timeout,
                schedule_to_close_timeout=timedelta(seconds=policy.step_deadline),
                retry_policy=retries,
            )
        except ActivityError as error:
            last = error.cause.cause if isinstance(error.cause, TimeoutError) else error.cause
            await workflow.execute_activity(
                give_up_copy,
                args=[saga.order_id, int(email_id), str(last or "it did not answer")],
                start_to_close_timeout=attempt_timeout,
                retry_policy=retries,
            )
            return GIVEN_UP
