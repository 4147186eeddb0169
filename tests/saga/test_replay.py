"""Saved histories replayed against this code: a deploy must not break the sagas that are running."""

from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer, UnsandboxedWorkflowRunner
from temporalio.workflow import NondeterminismError

from orders.sagas.place_order import PlaceOrderSaga
from orders.sagas.policy import COMPLETED, SagaInput
from orders.worker import SAGAS
from tests.conftest import working
from tests.saga.scenarios import SCENARIOS

with workflow.unsafe.imports_passed_through():
    from inventory.activities import reserve_inventory
    from orders.activities import complete_order, create_order
    from payments.activities import process_payment, refund_payment

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def load(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(f"order-{path.stem}", path.read_text())


def test_there_is_a_history_of_every_story() -> None:
    assert {path.stem for path in HISTORIES} >= set(SCENARIOS)
    assert len(HISTORIES) >= 20


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_history_says_what_the_sdk_is_to_check(path: Path) -> None:
    """Without these flags a replay does not notice when one activity stands in the place of another."""
    tasks = [
        event.workflow_task_completed_event_attributes
        for event in load(path).events
        if event.HasField("workflow_task_completed_event_attributes")
    ]
    assert tasks[0].sdk_metadata.core_used_flags


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_history_replays(path: Path) -> None:
    await Replayer(workflows=SAGAS).replay_workflow(load(path))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_story_without_the_workflow_cache(shop: None, temporal: Client, name: str) -> None:
    """Every task replays the whole history, so anything that is not deterministic fails here."""
    carry_out, ending = SCENARIOS[name]
    async with working(temporal, max_cached_workflows=0):
        assert await (await carry_out(temporal)).result() == ending


@workflow.defn(name="PlaceOrderSaga")
class ReorderedSaga(PlaceOrderSaga):
    """The control: pays before anything else, as no running saga expects."""

    @workflow.init
    def __init__(self, saga: SagaInput) -> None:
        super().__init__(saga)

    @workflow.run
    async def run(self, saga: SagaInput) -> str:
        await self.step(process_payment)
        await self.step(create_order)
        await self.step(reserve_inventory)
        await self.step(complete_order)
        return COMPLETED


@workflow.defn(name="PlaceOrderSaga")
class SwappedSaga(PlaceOrderSaga):
    """The control of what is scheduled: another activity in the payment's place."""

    @workflow.init
    def __init__(self, saga: SagaInput) -> None:
        super().__init__(saga)

    @workflow.run
    async def run(self, saga: SagaInput) -> str:
        await self.step(create_order)
        await self.step(reserve_inventory)
        await self.step(refund_payment)
        await self.step(complete_order)
        return COMPLETED


@pytest.mark.parametrize(
    ("saga", "message"),
    [
        (ReorderedSaga, r"Missing associated machine for LocalActivity"),
        (SwappedSaga, r"'process_payment' does not match .* 'refund_payment'"),
    ],
)
async def test_control_a_changed_saga_does_not_replay(saga: type, message: str) -> None:
    completed = next(path for path in HISTORIES if path.stem == "completed")
    replayer = Replayer(workflows=[saga], workflow_runner=UnsandboxedWorkflowRunner())
    with pytest.raises(NondeterminismError, match=message):
        await replayer.replay_workflow(load(completed))
