"""Quick attempts of activities that follow each other: one local activity tries them in turn."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from orders import trail
from orders.models import STEPS


@dataclass(frozen=True)
class Attempted:
    """How one quick attempt ended: its answer, or the type and the words of its error. `is_refusal`: no retry
    changes that."""

    name: str
    answer: Any = None
    error_type: str = ""
    error: str = ""
    is_refusal: bool = False


def list_followers(step: str) -> list[str]:
    """The quick steps that come right after `step`, up to one that is not quick."""
    steps = list(STEPS)
    return list(takewhile(lambda name: name in trail.QUICK, steps[steps.index(step) + 1 :]))


class InTurn:
    """The activity of one worker, over the activities it offers."""

    def __init__(self, activities: Iterable[Callable[..., Any]], *, worker: str) -> None:
        self.activities = {one.__name__: one for one in activities}
        self.worker = worker

    @activity.defn(name=trail.IN_TURN)
    async def try_in_turn(self, order_id: str, names: list[str]) -> list[Attempted]:
        """Try each of the activities `names` once, as an attempt with a row of its own in the trail, until
        one fails or says that nothing follows (False). Answers with those that were tried."""
        tried: list[Attempted] = []
        for name in names:
            tried.append(await self.attempt(name, order_id))
            if tried[-1].error_type or tried[-1].answer is False:
                break
        return tried

    async def attempt(self, name: str, order_id: str) -> Attempted:
        call = partial(self.activities[name], order_id)
        try:
            answer = await trail.run_attempt(
                call, name=name, arguments=[order_id], number=1, worker=self.worker
            )
        except ApplicationError as error:
            return Attempted(
                name,
                error_type=error.type or "Error",
                error=error.message,
                is_refusal=error.non_retryable,
            )
        except Exception as error:
            # It is in the trail and in the log. The saga has the activity scheduled next.
            return Attempted(name, error_type=type(error).__name__, error=str(error))
        return Attempted(name, answer=answer)
