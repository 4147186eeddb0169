"""The saga of an order: forward step by step, and back when a step fails for good."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    TimeoutError,
    is_cancelled_exception,
)

from orders.sagas.policy import (
    ALREADY_FINAL,
    ALREADY_UNDONE,
    COMPLETED,
    RollbackCause,
    SagaInput,
    StepFailed,
    cancel_is_requested,
)
from orders.sagas.quick import NotThisTime, QuickAttempts, is_quick
from orders.sagas.rollback import Rollback, see_through

with workflow.unsafe.imports_passed_through():
    from inventory.activities import reserve_inventory
    from notifications.activities import send_confirmation_email
    from orders.activities import complete_order, create_order
    from orders.in_turn import list_followers
    from payments.activities import process_payment

Step = Callable[[str], Coroutine[Any, Any, Any]]


@workflow.defn
class PlaceOrderSaga:
    """Carries one order to `completed`, or rolls it back to `cancelled`."""

    @workflow.init
    def __init__(self, saga: SagaInput) -> None:
        self.saga = saga
        self.quick = QuickAttempts(saga)
        self.rollback = Rollback(saga, self.quick, due=set())
        self.cancel_asked = False
        self.current: workflow.ActivityHandle[Any] | None = None

    @workflow.run
    async def run(self, saga: SagaInput) -> str:
        """The order's story. Returns how it ended: completed, cancelled or already final."""
        try:
            if not await self.step(create_order):
                return ALREADY_FINAL
            await self.step(reserve_inventory)
            await self.step(process_payment)
            await self.step(send_confirmation_email, required=saga.policy.email_required)
            await self.step(complete_order)
        except StepFailed as failed:
            if failed.cause.type == ALREADY_UNDONE:
                # A worker may have died over a task that went here and back: quick attempts of such a task
                # have left no history. Whatever was scheduled has, and what has begun the database knows.
                self.rollback.due.add(reserve_inventory.__name__)
            return await see_through(self.rollback.run(failed.cause))
        return COMPLETED

    @workflow.signal
    def cancel(self) -> None:
        """Turn back: the wait for a retry is cut short, an attempt in flight is awaited."""
        self.cancel_asked = True
        if self.current is not None:
            self.current.cancel()

    @workflow.signal
    def retry_undo(self, undo: str) -> None:
        """Try a stuck undo again now."""
        self.rollback.retry_now(undo)

    @workflow.signal
    def resolve_undo(self, undo: str) -> None:
        """A person has settled the undo: its next attempt finds the booking and stops."""
        self.rollback.retry_now(undo)

    async def step(self, activity: Step, *, required: bool = True) -> Any:
        """Run one step and return its answer. Raises StepFailed when it has failed for good.

        Its undo is due from before the step runs: a step that timed out may have taken effect.
        """
        name = activity.__name__
        self.turn_back_if_cancelled(name)
        self.rollback.due.add(name)
        answer = None
        try:
            answer = await self.carry_out(activity)
        except (FailureError, asyncio.CancelledError) as error:
            self.turn_back_if_cancelled(name)
            if required or not isinstance(error, FailureError):
                raise StepFailed(describe_failure(name, error)) from error
        self.turn_back_if_cancelled(name)
        return answer

    async def carry_out(self, activity: Step) -> Any:
        """Try a quick activity at once, and have it scheduled when that attempt fails; the others from the
        start. Returns the answer; raises the failure that is final."""
        policy = self.saga.policy
        if is_quick(activity):
            try:
                return await self.quick.attempt(activity, then=list_followers(activity.__name__))
            except NotThisTime:
                self.turn_back_if_cancelled(activity.__name__)
        self.current = workflow.start_activity(
            activity,
            self.saga.order_id,
            start_to_close_timeout=timedelta(seconds=policy.attempt_timeout),
            schedule_to_close_timeout=timedelta(seconds=policy.step_deadline),
            retry_policy=RetryPolicy(
                initial_interval=timedelta(seconds=policy.retry_initial),
                maximum_interval=timedelta(seconds=policy.retry_maximum),
            ),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )
        return await self.current

    def turn_back_if_cancelled(self, step: str) -> None:
        """Raise StepFailed when a cancel was asked for, at the step about to run or just ended."""
        if cancel_is_requested(self.cancel_asked):
            raise StepFailed(RollbackCause(step, "CancelRequested", "the order was cancelled while it ran"))


def describe_failure(step: str, error: BaseException) -> RollbackCause:
    """Why a step failed, as staff will read it."""
    cause = error.__cause__ if isinstance(error, ActivityError) else error
    if isinstance(cause, ApplicationError):
        return RollbackCause(step, cause.type or "Error", cause.message)
    if isinstance(cause, TimeoutError):
        return RollbackCause(step, "DeadlineExceeded", f"{step} did not succeed before its deadline")
    if is_cancelled_exception(error):
        return RollbackCause(step, "CancelRequested", "the order was cancelled while it ran")
    return RollbackCause(step, type(cause or error).__name__, str(cause or error))
