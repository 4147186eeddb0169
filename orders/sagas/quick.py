"""The first attempts of short activities: in the workflow task itself, without a way through the server."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError

from orders.sagas.policy import SagaInput, SagaPolicy

with workflow.unsafe.imports_passed_through():
    from orders.in_turn import Attempted
    from orders.trail import IN_TURN, QUICK


class NotThisTime(Exception):
    """The quick attempt failed in a way that a later one may not: from here on the activity is scheduled."""


def is_quick(activity: Callable[..., Any]) -> bool:
    """Whether the activity is tried in the workflow task first. The gateway's are not: they take too long."""
    return activity.__name__ in QUICK


class QuickAttempts:
    """A saga's quick attempts. Those that follow each other are made in one go, each in a transaction of its
    own; what came of them waits here until the saga asks for it."""

    def __init__(self, saga: SagaInput) -> None:
        self.saga = saga
        # What was tried. Of a try that timed out nothing is heard; `begin_rollback` knows what it has begun.
        self.begun: set[str] = set()
        self.ahead: dict[str, Attempted] = {}

    async def attempt(self, activity: Callable[..., Any], *, then: Iterable[str] = ()) -> Any:
        """The answer of the activity's quick attempt. `then` names what follows if it succeeds.

        Raises ApplicationError for a refusal, NotThisTime for everything else.
        """
        name = activity.__name__
        if name not in self.ahead:
            tried = await try_locally(
                IN_TURN,
                self.saga.order_id,
                [name, *then],
                policy=self.saga.policy,
                result_type=list[Attempted],
            )
            self.ahead = {attempted.name: attempted for attempted in tried}
            self.begun.update(self.ahead)
        attempted = self.ahead.pop(name)
        if attempted.is_refusal:
            raise ApplicationError(attempted.error, type=attempted.error_type, non_retryable=True)
        if attempted.error_type:
            raise NotThisTime(attempted.error)
        return attempted.answer


async def try_locally(
    activity: str | Callable[..., Any], *args: Any, policy: SagaPolicy, result_type: type | None = None
) -> Any:
    """Run one attempt as a local activity and return its answer.

    Raises ApplicationError for a refusal, NotThisTime for everything else. A cancel waits until the attempt
    has ended, as it does for one that was scheduled; the caller looks for it. Where the worker dies, the
    workflow task times out and another worker carries out the task's attempts anew.
    """
    name = activity if isinstance(activity, str) else activity.__name__
    attempt = workflow.start_local_activity(
        name,
        args=args,
        result_type=result_type,
        start_to_close_timeout=timedelta(seconds=policy.attempt_timeout),
        retry_policy=RetryPolicy(maximum_attempts=1),
    )
    while not attempt.done():
        with suppress(asyncio.CancelledError):
            await workflow.wait([attempt])
    try:
        return attempt.result()
    except FailureError as error:
        # Unlike those of scheduled activities, these failures come without an ActivityError around them.
        if isinstance(error, ApplicationError) and error.non_retryable:
            raise
        raise NotThisTime from error
