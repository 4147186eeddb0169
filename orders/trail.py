"""The trail: what each attempt of a step or undo did, written in the transaction that did it."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db.models import F
from django.utils import timezone
from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from config.temporal import current_attempt, run_in_db
from orders.models import (
    ALREADY_FINAL,
    FINISHED_STATES,
    STEP_OF_UNDO,
    STEPS,
    AttentionFlag,
    StepKind,
    StepState,
    TrailEntry,
)
from orders.refusals import AlreadyUndone, Refusal

logger = logging.getLogger("orders.trail")

MAX_EXPONENT = 60

# Tried once inside the workflow task before they are scheduled (orders.sagas.quick): what is short and does
# not ask the gateway.
QUICK = frozenset({*STEPS, *STEP_OF_UNDO, "begin_rollback"} - {"process_payment", "refund_payment"})
# The local activity that makes such attempts (orders.in_turn). It has no line in the trail: they have.
IN_TURN = "try_in_turn"


@dataclass
class StepAttempt:
    """One attempt of a step or an undo, and the row it writes."""

    order_id: str
    name: str
    number: int
    worker: str
    started_at: datetime = field(default_factory=timezone.now)
    started: float = field(default_factory=time.monotonic)
    entry_id: int | None = None
    # The refusal that is written down already, with what the step has recorded of it.
    written: Refusal | None = None

    @property
    def kind(self) -> StepKind:
        return StepKind.UNDO if self.name in STEP_OF_UNDO else StepKind.STEP

    @property
    def ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)

    def flush(self, result: object, *, last: bool) -> None:
        """Write this attempt's row inside the transaction of its effect (config.temporal.run_in_db).

        A refusal is an outcome, too, where it is the answer and not raised.
        """
        if last and isinstance(result, Refusal):
            error_type, message = describe_error(result)
            self.write_failure(error_type=error_type, message=message, final=True, retry_at=None)
            self.written = result
        elif last:
            self.write_outcome(result)
        elif self.entry_id is None:
            self.write_ahead()

    def write_ahead(self) -> None:
        """Write the attempt as running. A row still open belongs to an attempt that was lost."""
        self.entry_id = TrailEntry.objects.begin(
            order_id=self.order_id,
            name=self.name,
            kind=self.kind,
            started_at=self.started_at,
            worker=self.worker,
        )
        if self.entry_id is not None:
            return
        latest = self.find_latest()
        if latest is not None and latest.state in FINISHED_STATES:
            return
        if latest is not None and latest.state == StepState.FAILED:
            self.continue_entry(latest, state=StepState.RUNNING, finished_at=None, retry_at=None)
            return
        self.close_lost(latest)
        entry = self.build_entry(state=StepState.RUNNING)
        entry.save()
        self.entry_id = entry.pk

    def write_outcome(self, result: object) -> None:
        """Write how the attempt ended; a repeated success only counts its attempt."""
        if result == ALREADY_FINAL:
            return
        state = result if isinstance(result, StepState) else StepState.DONE
        outcome: dict[str, Any] = {
            "state": state,
            "finished_at": timezone.now(),
            "ms": self.ms,
            "worker": self.worker,
        }
        may_be_flagged = self.number > 1 or self.kind == StepKind.UNDO
        entry: dict[str, Any] = {"order_id": self.order_id, "name": self.name, "kind": self.kind}
        if self.entry_id is not None:
            # Closed as lost meanwhile: then a later attempt has taken over, and the row stays as it is.
            flag = (self.order_id, self.name) if may_be_flagged else None
            TrailEntry.objects.finish(self.entry_id, clears_flag_of=flag, **outcome)
        elif not may_be_flagged:
            # A saga that was started anew may find the step done: then the row that says so stays.
            TrailEntry.objects.add_finished(**entry, started_at=self.started_at, **outcome)
        elif not TrailEntry.objects.add_first(**entry, started_at=self.started_at, **outcome):
            self.write_another(outcome)
            AttentionFlag.objects.clear_flag(self.order_id, self.name)
        self.log(state)

    def write_another(self, outcome: dict[str, Any]) -> None:
        """Write an attempt that has ended well where others have left a row."""
        latest = self.find_latest()
        if latest is not None and latest.state in FINISHED_STATES:
            TrailEntry.objects.filter(pk=latest.pk).update(attempts=F("attempts") + 1)
        elif latest is not None and latest.state == StepState.FAILED:
            self.continue_entry(latest, retry_at=None, **outcome)
        else:
            self.close_lost(latest)
            self.build_entry(**outcome).save()

    def write_failure(self, *, error_type: str, message: str, final: bool, retry_at: datetime | None) -> None:
        """Write the attempt as failed. Flags the order for a person when an undo was refused for good. An
        attempt that another has overtaken changes nothing. `retry_at` is when Temporal tries again, None when
        it will not by itself."""
        outcome: dict[str, Any] = {
            "finished_at": timezone.now(),
            "ms": self.ms,
            "worker": self.worker,
            "error_type": error_type[:60],
            "error": message,
            "retry_at": retry_at,
        }
        if self.entry_id is not None:
            is_latest = TrailEntry.objects.fail(self.entry_id, **outcome)
            # Without a row, what it was written ahead with was not committed.
            if not is_latest and not TrailEntry.objects.filter(pk=self.entry_id).exists():
                is_latest = self.add_failure(outcome)
        else:
            is_latest = self.add_failure(outcome)
        if is_latest and final and self.kind == StepKind.UNDO:
            AttentionFlag.objects.raise_flag(
                self.order_id, self.name, f"{self.name} was refused for good: {message}"
            )
        self.log(StepState.FAILED, error_type)

    def add_failure(self, outcome: dict[str, Any]) -> bool:
        """Write a failed attempt that has no row yet. False, and nothing written, after a success."""
        outcome = {"state": StepState.FAILED, **outcome}
        if TrailEntry.objects.add_first(
            order_id=self.order_id, name=self.name, kind=self.kind, started_at=self.started_at, **outcome
        ):
            return True
        latest = self.find_latest()
        if latest is not None and latest.state in FINISHED_STATES:
            return False
        if latest is not None and latest.state == StepState.FAILED:
            if outcome["error_type"] == AlreadyUndone.__name__:
                return False  # why it failed is what people want to read
            self.continue_entry(latest, **outcome)
        else:
            self.close_lost(latest)
            self.build_entry(**outcome).save()
        return True

    def find_latest(self) -> TrailEntry | None:
        return TrailEntry.objects.filter(order_id=self.order_id, name=self.name).order_by("-id").first()

    def build_entry(self, **outcome: Any) -> TrailEntry:
        return TrailEntry(
            order_id=self.order_id,
            name=self.name,
            kind=self.kind,
            started_at=self.started_at,
            **{"worker": self.worker, **outcome},
        )

    def continue_entry(self, entry: TrailEntry, **outcome: Any) -> None:
        TrailEntry.objects.filter(pk=entry.pk).update(
            attempts=F("attempts") + 1, **{"worker": self.worker, "started_at": self.started_at, **outcome}
        )
        self.entry_id = entry.pk

    def close_lost(self, entry: TrailEntry | None) -> None:
        """Close the row of an attempt that never reported back, if that is what this one finds."""
        if entry is None or entry.state != StepState.RUNNING:
            return
        TrailEntry.objects.filter(pk=entry.pk).update(
            state=StepState.LOST,
            finished_at=self.started_at,
            error_type="WorkerLost",
            error="the worker did not answer in time; the step was tried again",
        )

    def log(self, state: StepState, error_type: str = "") -> None:
        logger.info(
            "order=%s %s=%s attempt=%d state=%s ms=%d%s",
            self.order_id,
            self.kind,
            self.name,
            self.number,
            state,
            self.ms,
            f" error={error_type}" if error_type else "",
        )


def flag_repeated(*, order_id: str, activity: str, number: int) -> None:
    """Flag the order: attempt `number` of an activity begins, so all before it have failed or were lost.

    Asked before the attempt and not after it, because one that times out reports nothing.
    """
    entries = list(TrailEntry.objects.filter(order_id=order_id, name=activity).order_by("id"))
    said = f": {entries[-1].error}" if entries and entries[-1].error else ""
    # A retry by hand counts anew in Temporal, the trail counts on.
    failed = max(number - 1, sum(entry.attempts for entry in entries))
    AttentionFlag.objects.raise_flag(
        order_id, activity, f"{activity} has failed {failed} times and is retried{said}"
    )


def describe_error(error: Exception) -> tuple[str, str]:
    """The type and the message that the trail shows."""
    error_type = error.type if isinstance(error, ApplicationError) and error.type else type(error).__name__
    message = error.message if isinstance(error, ApplicationError) else str(error)
    return error_type, message.replace("\0", "\N{REPLACEMENT CHARACTER}")  # PostgreSQL stores no NUL


def count_attempts(info: activity.Info) -> int:
    """Which attempt this is, the quick one included: Temporal counts anew from the first it schedules."""
    return info.attempt + (info.activity_type in QUICK and not info.is_local)


def find_retry(info: activity.Info, error: Exception, *, now: datetime) -> datetime | None:
    """When Temporal tries this activity again after `error`: its own rule, reckoned where the attempt fails,
    because the server tells nobody. None when it will not, by itself, before the deadline."""
    if isinstance(error, Refusal) or (isinstance(error, ApplicationError) and error.non_retryable):
        return None
    if info.is_local:
        return now  # scheduled at once
    policy = info.retry_policy
    if policy is None:
        return None
    delay = error.next_retry_delay if isinstance(error, ApplicationError) else None
    if delay is None:
        # Days of attempts would overflow the power long after the maximum has decided.
        seconds = policy.initial_interval.total_seconds() * policy.backoff_coefficient ** min(
            info.attempt - 1, MAX_EXPONENT
        )
        maximum = policy.maximum_interval or 100 * policy.initial_interval
        delay = timedelta(seconds=min(seconds, maximum.total_seconds()))
    retry_at = now + delay
    deadline = info.schedule_to_close_timeout
    if deadline and retry_at > info.scheduled_time + deadline:
        return None
    return retry_at


class TrailInterceptor(Interceptor):
    """Opens a StepAttempt around every activity and turns refusals into non-retryable errors."""

    def __init__(self, worker: str) -> None:
        self.worker = worker

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return TrailInbound(next, self.worker)


class TrailInbound(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, worker: str) -> None:
        super().__init__(next)
        self.worker = worker

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        info = activity.info()
        call = partial(super().execute_activity, input)
        if info.activity_type == IN_TURN:
            return await call()
        return await run_attempt(
            call,
            name=info.activity_type,
            arguments=input.args,
            number=count_attempts(info),
            worker=self.worker,
        )


async def run_attempt(
    call: Callable[[], Awaitable[Any]], *, name: str, arguments: Sequence[Any], number: int, worker: str
) -> Any:
    """Carry out attempt `number` of the activity `name` and write its row. `arguments` begin with the order's
    id; what belongs to no order (the audit) has none.

    Raises what the activity raises, a refusal as a non-retryable ApplicationError.
    """
    attempt: StepAttempt | None = None
    if name in STEPS or name in STEP_OF_UNDO:
        attempt = StepAttempt(order_id=str(arguments[0]), name=name, number=number, worker=worker)
    if arguments and number > settings.SAGA_ATTENTION_AFTER:
        await run_in_db(flag_repeated, order_id=str(arguments[0]), activity=name, number=number)
    token = current_attempt.set(attempt)
    try:
        return await call()
    except Exception as error:
        current_attempt.reset(token)
        token = current_attempt.set(None)
        await record_failure(attempt, name, error)
        if isinstance(error, Refusal):
            raise ApplicationError(
                str(error),
                type=type(error).__name__,
                non_retryable=True,
                category=ApplicationErrorCategory.BENIGN,
            ) from None  # an answer has no stack to look into, and history would keep those of all causes
        raise
    finally:
        current_attempt.reset(token)


async def record_failure(attempt: StepAttempt | None, name: str, error: Exception) -> None:
    """Write the failure down. If that fails too, its error fails the attempt, which is retried."""
    final = isinstance(error, Refusal)
    error_type, message = describe_error(error)
    if not final:
        logger.warning("%s failed: %s: %s", name, error_type, message)
    if attempt is not None and attempt.written is not error:
        await run_in_db(
            attempt.write_failure,
            error_type=error_type,
            message=message,
            final=final,
            retry_at=find_retry(activity.info(), error, now=timezone.now()),
        )
