"""The plan that the machine follows is the one that real sagas follow."""

import json
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.history.v1 import MarkerRecordedEventAttributes
from temporalio.client import WorkflowHistory

from orders.in_turn import Attempted
from orders.models import STEP_OF_UNDO, STEPS
from orders.trail import IN_TURN
from tests.properties import plan
from tests.properties.plan import ENDED, FORWARD, Saga

HISTORIES = Path(__file__).parents[1] / "saga" / "histories"
# The machine's shop requires the confirmation mail.
OTHER_SHOPS = {"completed_without_mail"}
FOLLOWED = sorted(path for path in HISTORIES.glob("*.json") if path.stem not in OTHER_SHOPS)
SAGAS = {"PlaceOrderSaga": False, "CancelOrderSaga": True}


def follow(path: Path) -> Saga | None:
    """Lead the plan through a saved history: each activity must be one that the plan has ready then."""
    saga: Saga | None = None
    scheduled: dict[int, str] = {}
    for event in WorkflowHistory.from_json(path.stem, path.read_text()).events:
        if event.HasField("workflow_execution_started_event_attributes"):
            workflow = event.workflow_execution_started_event_attributes.workflow_type.name
            if workflow not in SAGAS:
                return None
            saga = Saga(path.stem, cancels=SAGAS[workflow])
        assert saga is not None
        if event.HasField("activity_task_scheduled_event_attributes"):
            name = event.activity_task_scheduled_event_attributes.activity_type.name
            assert name in saga.list_ready(), f"{name} is not ready at event {event.event_id}"
            saga.begin(name)
            saga.in_flight[name] = scheduled[event.event_id] = name
        elif event.HasField("marker_recorded_event_attributes"):
            follow_quick_attempts(saga, event.marker_recorded_event_attributes)
        elif event.HasField("activity_task_completed_event_attributes"):
            done = event.activity_task_completed_event_attributes
            name = scheduled[done.scheduled_event_id]
            del saga.in_flight[name]
            saga.succeed(name, read_answer(done.result.payloads))
        elif event.HasField("activity_task_failed_event_attributes"):
            failed = event.activity_task_failed_event_attributes
            name = scheduled[failed.scheduled_event_id]
            del saga.in_flight[name]
            saga.refuse(name, failed.failure.application_failure_info.type, failed.failure.message)
        elif event.HasField("activity_task_canceled_event_attributes"):
            name = scheduled[event.activity_task_canceled_event_attributes.scheduled_event_id]
            del saga.in_flight[name]
            saga.lose(name)
        elif event.HasField("activity_task_timed_out_event_attributes"):
            name = scheduled[event.activity_task_timed_out_event_attributes.scheduled_event_id]
            del saga.in_flight[name]
            saga.give_up()
        elif event.HasField("workflow_execution_cancel_requested_event_attributes"):
            saga.cancel()
        elif event.HasField("workflow_execution_signaled_event_attributes"):
            signal = event.workflow_execution_signaled_event_attributes
            if signal.signal_name == "cancel":
                saga.cancel()
            else:
                saga.retry(json.loads(signal.input.payloads[0].data))
        elif event.HasField("workflow_execution_completed_event_attributes"):
            assert saga.phase == ENDED, f"the saga has ended, the plan is {saga.phase}"
    return saga


def follow_quick_attempts(saga: Saga, marker: MarkerRecordedEventAttributes) -> None:
    """Lead the plan through attempts that were carried out within a workflow task."""
    assert marker.marker_name == "core_local_activity"
    name = json.loads(marker.details["data"].payloads[0].data)["activity_type"]
    if name == IN_TURN:
        tried = [Attempted(**attempted) for attempted in read_answer(marker.details["result"].payloads)]
    elif marker.HasField("failure"):
        info = marker.failure.application_failure_info
        tried = [Attempted(name, None, info.type, marker.failure.message, info.non_retryable)]
    else:
        tried = [Attempted(name, read_answer(marker.details["result"].payloads))]
    for attempted in tried:
        assert attempted.name in saga.list_ready(), f"{attempted.name} is not ready at a marker"
        saga.begin(attempted.name)
        if attempted.is_refusal:
            saga.refuse(attempted.name, attempted.error_type, attempted.error)
        elif attempted.error_type:
            saga.lose(attempted.name)
        else:
            saga.succeed(attempted.name, attempted.answer)


def read_answer(payloads: Any) -> Any:
    return json.loads(payloads[0].data or b"null") if payloads else None


@pytest.mark.parametrize("path", FOLLOWED, ids=lambda path: path.stem)
def test_plan_is_the_plan_of_the_saved_histories(path: Path) -> None:
    saga = follow(path)
    assert saga is None or saga.phase == ENDED


def test_plan_that_leaves_a_step_out_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""
    shorter = {step: undo for step, undo in STEPS.items() if step != "reserve_inventory"}
    monkeypatch.setattr(plan, "STEPS", shorter)
    with pytest.raises(AssertionError, match="reserve_inventory is not ready"):
        follow(HISTORIES / "completed.json")


def test_every_undo_of_the_plan_is_ready_at_some_time() -> None:
    saga = Saga("1")
    assert saga.phase == FORWARD
    while saga.list_ready() != ["complete_order"]:
        saga.succeed(saga.step, None)
    saga.refuse("complete_order", "CancelRequested", "late")
    saga.succeed("begin_rollback", [])
    seen: list[str] = []
    while saga.phase != ENDED:
        [undo] = saga.list_ready()
        seen.append(undo)
        saga.begin(undo)
        saga.succeed(undo, "done")
    assert set(seen) == set(STEP_OF_UNDO)
