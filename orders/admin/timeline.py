"""The saga of one order as its page shows it: the trail by row, the plan by step, and where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from orders.admin.words import name_error, name_step, say_duration, spell_out
from orders.models import (
    FINISHED_STATES,
    STEP_OF_UNDO,
    STEPS,
    Order,
    OrderStatus,
    StepKind,
    StepState,
    TrailEntry,
)
from orders.selectors import TrailStep, is_settled

WAITING = "waiting"
# The undos that close a rollback run for every order, after those of the steps that have begun.
CLOSING = ("cancel_order", "send_cancellation_email")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the timeline: an entry of the trail, or a step or undo still to come."""

    key: str
    name: str
    title: str
    kind: str
    state: str
    label: str
    attempts: int = 0
    took: str = ""
    error: str = ""
    error_type: str = ""
    # The error of an attempt before the one the row is about.
    is_past: bool = False
    worker: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the plan, with what has become of it."""

    title: str
    state: str
    label: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the saga stands: a badge, and a sentence."""

    state: str
    label: str
    sentence: str
    is_final: bool


def list_rows(order: Order) -> list[Row]:
    """The trail in the order it was written, then what is still to come."""
    entries = list(order.trail.all())
    rows = [_read_entry(entry, order) for entry in entries]
    return rows + [
        Row(
            key=f"waiting-{name}",
            name=name,
            title=name_step(name),
            kind=StepKind.UNDO if name in STEP_OF_UNDO else StepKind.STEP,
            state=WAITING,
            label=WAITING,
        )
        for name in _list_waiting(order, {entry.name for entry in entries})
    ]


def _read_entry(entry: TrailEntry, order: Order) -> Row:
    words = name_error(entry.error_type)
    # A step whose order turns back is not tried again, whatever it was waiting for.
    # A step is tried again only while the saga goes forward, whatever its last failure noted.
    is_over = entry.kind == StepKind.STEP and order.status not in (OrderStatus.PENDING, OrderStatus.CREATED)
    return Row(
        key=str(entry.pk),
        name=entry.name,
        title=name_step(entry.name),
        kind=entry.kind,
        state=entry.state,
        label=spell_out(entry.state).lower(),
        attempts=entry.attempts,
        took=say_duration(entry.ms) if entry.ms is not None else "",
        error=f"{words}: {entry.error}" if words and entry.error else words or entry.error,
        error_type=entry.error_type,
        is_past=entry.state not in (StepState.FAILED, StepState.LOST),
        worker=entry.worker,
        started_at=entry.started_at,
        finished_at=entry.finished_at,
        retry_at=entry.retry_at if entry.state == StepState.FAILED and not is_over else None,
    )


def _list_waiting(order: Order, begun: set[str]) -> list[str]:
    """The steps still to come while the saga goes forward, the undos still due while it goes back."""
    match order.status:
        case OrderStatus.PENDING | OrderStatus.CREATED if order.cancel_requested_at is None:
            due = list(STEPS)
        case OrderStatus.CANCELLING:
            effects = [undo for step, undo in reversed(STEPS.items()) if undo and step in begun]
            due = [*(undo for undo in effects if undo not in CLOSING), *CLOSING]
        case OrderStatus.CANCELLED:
            due = [CLOSING[-1]]
        case _:
            due = []
    return [name for name in due if name not in begun]


def list_stages(order: Order, steps: Sequence[TrailStep]) -> list[Stage]:
    """The plan of the saga with what has become of each step."""
    states = {step.name: step.status for step in steps}
    is_back = order.rollback_started_at is not None
    return [Stage(name_step(step), *_read_stage(step, undo, states, is_back)) for step, undo in STEPS.items()]


def _read_stage(step: str, undo: str | None, states: dict[str, str], is_back: bool) -> tuple[str, str]:
    """(state, label) of a step of the plan."""
    state = states.get(step)
    if not is_back:
        return (state, spell_out(state).lower()) if state else (WAITING, WAITING)
    match states.get(undo or ""):
        case _ if state == StepState.FAILED and states.get(undo or "") in (None, *FINISHED_STATES):
            return "failed", "failed"
        case StepState.DONE:
            return ("undone", "undone") if state else ("skipped", "not run")
        case StepState.NOTHING_TO_UNDO:
            return "undone", "nothing to undo"
        case StepState.RESOLVED:
            return "resolved", "resolved by hand"
        case StepState.RUNNING:
            return "running", "being undone"
        case StepState.FAILED | StepState.LOST:
            return "failed", "undo is stuck"
    if state is None:
        return "skipped", "not run"
    return (WAITING, "to be undone") if undo else ("undone", "taken back")


def read_standing(order: Order, steps: Sequence[TrailStep], stuck: Sequence[str]) -> Standing:
    """Where the saga stands, in a badge and a sentence."""
    finished = {step.name for step in steps if step.status in FINISHED_STATES}
    is_final = is_settled(order, steps)
    match order.status:
        case OrderStatus.CANCELLED if is_final:
            sentence = "Rolled back: whatever had been done is undone, and the customer has been told."
        case OrderStatus.CANCELLING | OrderStatus.CANCELLED if stuck:
            names = " and ".join(
                f"\N{LEFT DOUBLE QUOTATION MARK}{name_step(name)}\N{RIGHT DOUBLE QUOTATION MARK}"
                for name in stuck
            )
            return Standing("incomplete", "ROLLBACK INCOMPLETE", f"{names} has not succeeded yet.", is_final)
        case OrderStatus.CANCELLING | OrderStatus.CANCELLED:
            due = _list_waiting(order, {step.name for step in steps})
            undos = set(due) | {step.name for step in steps if step.kind == StepKind.UNDO}
            sentence = f"Rolling back: {len(undos & finished)} of {len(undos)} undos are done."
        case OrderStatus.PENDING | OrderStatus.CREATED if order.cancel_requested_at is not None:
            sentence = "A cancel was asked for: it turns back as soon as the attempt in flight has ended."
        case OrderStatus.PENDING | OrderStatus.CREATED:
            done = [step for step in STEPS if step in finished]
            sentence = f"{len(done)} of {len(STEPS)} steps are done."
        case OrderStatus.SHIPPED:
            sentence = "All steps are done, and the order has left the house."
        case _:
            sentence = "All steps are done."
    return Standing(order.status, order.status, sentence, is_final)
