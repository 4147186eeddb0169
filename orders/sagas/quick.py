"""The first attempt of a short activity: in the workflow task itself, without a way through the server."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError, FailureError

from orders.sagas.policy import SagaPolicy

with workflow.unsafe.imports_passed_through():
    from orders.trail import QUICK


class NotThisTime(Exception):
    """The quick attempt failed in a way that a later one may not: from here on the activity is scheduled."""


def is_quick(activity: Callable[..., Any]) -> bool:
    """Whether the activity is tried in the workflow task first. The gateway's are not: they take too long."""
    return activity.__name__ in QUICK


async def try_quickly(
    activity: Callable[..., Coroutine[Any, Any, Any]], *args: Any, policy: SagaPolicy
) -> Any:
    """Run one attempt as a local activity and return its answer.

    Raises ApplicationError for a refusal, NotThisTime for everything else. A cancel waits until the attempt
    has ended, as it does for one that was scheduled; the caller looks for it. Where the worker dies, the
    workflow task times out and another worker carries out the task's attempts anew.
    """
    attempt = workflow.start_local_activity(
        activity,
        args=args,
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
