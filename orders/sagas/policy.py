"""What a saga is started with. Frozen in its history: a running saga never reads settings."""

from dataclasses import dataclass

from temporalio import workflow

COMPLETED = "completed"
CANCELLED = "cancelled"
ALREADY_FINAL = "already_final"

# The refusal of a step whose order has turned back already (orders.refusals.AlreadyUndone).
ALREADY_UNDONE = "AlreadyUndone"


@dataclass(frozen=True)
class SagaPolicy:
    """Timeouts and retries in seconds, and the rules that may differ between shops."""

    version: int = 1
    # One attempt. Longer than the gateway's HTTP timeout; a killed worker is noticed only when it ends.
    attempt_timeout: float = 15
    # All attempts of one step together. Undos have no deadline.
    step_deadline: float = 86_400
    retry_initial: float = 1
    retry_maximum: float = 60
    # How long the release waits for the refund before it goes ahead without it.
    release_after: float = 20
    # Whether an order whose confirmation mail cannot be delivered is rolled back.
    email_required: bool = True


@dataclass(frozen=True)
class SagaInput:
    """An order's id, and nothing personal: payloads are readable in Temporal."""

    order_id: str
    policy: SagaPolicy


@dataclass(frozen=True)
class RollbackCause:
    """Why a rollback began: the step that failed, the type of its error, and the error in words."""

    step: str
    type: str
    message: str


class StepFailed(Exception):
    """A step has failed for good, so the saga turns back."""

    def __init__(self, cause: RollbackCause) -> None:
        super().__init__(cause.message)
        self.cause = cause


def cancel_is_requested(asked: bool) -> bool:
    """Whether a cancel came, by our signal or by Temporal's own request: both mean the same."""
    return asked or workflow.cancellation_reason() is not None
