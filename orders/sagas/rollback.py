"""How a saga turns back: which undos run, in which order, and what happens when one is stuck."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from orders.sagas.policy import ALREADY_FINAL, CANCELLED, RollbackCause, SagaInput
from orders.sagas.quick import NotThisTime, QuickAttempts, is_quick, try_locally

with workflow.unsafe.imports_passed_through():
    from inventory.activities import release_inventory
    from notifications.activities import send_cancellation_email
    from orders.activities import begin_rollback, cancel_order
    from payments.activities import refund_payment

Undo = Callable[[str], Coroutine[Any, Any, str]]


# The undos of effects, in the order of their steps.
EFFECTS: dict[str, Undo] = {"reserve_inventory": release_inventory, "process_payment": refund_payment}
# What closes every rollback.
CLOSING = [cancel_order.__name__, send_cancellation_email.__name__]


class Rollback:
    """The backward part of a saga. `due` names the steps with an effect that were started."""

    def __init__(self, saga: SagaInput, quick: QuickAttempts, due: set[str]) -> None:
        self.saga = saga
        self.quick = quick
        self.due = due
        self.attempts: dict[str, workflow.ActivityHandle[str]] = {}
        self.begun: set[str] = set()
        self.wanted_now: set[str] = set()

    async def run(self, cause: RollbackCause) -> str:
        """Undo in reverse: the effects first, then close the order, then tell the customer."""
        begun = await self.begin(cause)
        if begun is None:
            return ALREADY_FINAL
        # Also what was tried ahead, and what an earlier run of this saga began, should Temporal have lost it.
        self.due.update(self.quick.begun, begun)
        await self.undo_effects()
        await self.undo(cancel_order, then=CLOSING[1:])
        await self.undo(send_cancellation_email)
        return CANCELLED

    async def undo_effects(self) -> None:
        """Undo the effects in reverse order. A stuck one delays the next a little and stops none of them."""
        running: list[asyncio.Task[str]] = []
        due = [EFFECTS[step] for step in reversed(EFFECTS) if step in self.due]
        for effect in due:
            is_last_open = effect is due[-1] and all(task.done() for task in running)
            task = asyncio.create_task(self.undo(effect, then=CLOSING if is_last_open else []))
            running.append(task)
            try:
                await workflow.wait_condition(task.done, timeout=self.saga.policy.release_after)
            except TimeoutError:
                continue
        for task in running:
            await task

    async def undo(self, activity: Undo, *, then: Sequence[str] = ()) -> str:
        """Run one undo until it is done or resolved, however long that takes. `then` may follow in one go.

        Temporal retries it by itself. `retry_now` cuts the wait short; a permanent refusal waits for it.
        """
        name = activity.__name__
        self.begun.add(name)
        try:
            if is_quick(activity):
                return str(await self.quick.attempt(activity, then=then))
        except NotThisTime:
            self.wanted_now.discard(name)
        except ApplicationError:
            await self.until_wanted(name)
        while True:
            self.attempts[name] = workflow.start_activity(
                activity,
                self.saga.order_id,
                start_to_close_timeout=timedelta(seconds=self.saga.policy.attempt_timeout),
                retry_policy=self.retry_policy(),
                cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
            )
            try:
                return await self.attempts[name]
            except (ActivityError, asyncio.CancelledError) as error:
                # Our own cancel of the wait may surface as either; any other cancellation is not ours.
                if isinstance(error, asyncio.CancelledError) and name not in self.wanted_now:
                    raise
                await self.until_wanted(name)

    async def until_wanted(self, undo: str) -> None:
        """Wait for a person's word."""
        await workflow.wait_condition(lambda: undo in self.wanted_now)
        self.wanted_now.discard(undo)

    def retry_now(self, undo: str) -> None:
        """Try `undo` again at once: called for `retry_undo`, and for `resolve_undo`, whose booking in the
        database makes the next attempt stop."""
        if undo in self.begun:
            self.wanted_now.add(undo)
        if undo in self.attempts:
            self.attempts[undo].cancel()

    async def begin(self, cause: RollbackCause) -> list[str] | None:
        """Move the order to `cancelling`. The steps begun so far, or None when it is final already."""
        args = [self.saga.order_id, cause.step, cause.type, cause.message]
        try:
            begun: list[str] | None = await try_locally(begin_rollback, *args, policy=self.saga.policy)
            return begun
        except NotThisTime:
            pass
        return await workflow.execute_activity(
            begin_rollback,
            args=args,
            start_to_close_timeout=timedelta(seconds=self.saga.policy.attempt_timeout),
            retry_policy=self.retry_policy(),
        )

    def retry_policy(self) -> RetryPolicy:
        """Back-off from the policy; no limit of attempts."""
        return RetryPolicy(
            initial_interval=timedelta(seconds=self.saga.policy.retry_initial),
            maximum_interval=timedelta(seconds=self.saga.policy.retry_maximum),
        )


async def see_through(rollback: Coroutine[Any, Any, str]) -> str:
    """Run a rollback to its end: further cancels do not interrupt it."""
    task = asyncio.create_task(rollback)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
