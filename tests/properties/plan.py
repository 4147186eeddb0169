"""What a saga may do next: the plan of `orders/sagas`, one decision at a time, without Temporal.

`test_plan_is_the_plan_of_the_saved_histories` holds it against what real sagas did.
"""

from dataclasses import dataclass, field
from typing import Any

from orders.models import STEP_OF_UNDO, STEPS

FORWARD, TURNING, BACK, ENDED = "forward", "turning", "back", "ended"
EFFECTS = ["refund_payment", "release_inventory"]  # the undos of effects, in the order they run


@dataclass(eq=False)
class Saga:
    """A saga of one order. `cancels` marks a CancelOrderSaga."""

    order_id: str
    cancels: bool = False
    phase: str = FORWARD
    position: int = 0
    due: set[str] = field(default_factory=set)
    undone: set[str] = field(default_factory=set)
    # Undos that were refused for good and wait for a person.
    waiting: set[str] = field(default_factory=set)
    # Undos a person wanted tried at once while an attempt was in flight.
    wanted_now: set[str] = field(default_factory=set)
    # How often the activity was tried since it was scheduled, and at all.
    number: dict[str, int] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    cancel_asked: bool = False
    in_flight: dict[str, Any] = field(default_factory=dict)
    cause: tuple[str, str, str] = ("", "CancelRequested", "the completed order was cancelled")

    def __post_init__(self) -> None:
        if self.cancels:
            self.phase = TURNING
            self.due = {"reserve_inventory", "process_payment"}
        else:
            self.due.add(self.step)

    @property
    def step(self) -> str:
        return list(STEPS)[self.position]

    def list_ready(self) -> list[str]:
        """The activities an attempt of which may begin now."""
        match self.phase:
            case "forward":
                names = [self.step]
            case "turning":
                names = ["begin_rollback"]
            case "back":
                names = self._list_undos()
            case _:
                names = []
        return [name for name in names if name not in self.in_flight and name not in self.waiting]

    def _list_undos(self) -> list[str]:
        due = [undo for undo in EFFECTS if STEP_OF_UNDO[undo] in self.due]
        if open_undos := [undo for undo in due if undo not in self.undone]:
            # The second begins when the first is done, or has not ended for a while.
            return [undo for undo in open_undos if undo == due[0] or due[0] in self.tried]
        return ["send_cancellation_email" if "cancel_order" in self.undone else "cancel_order"]

    def begin(self, name: str) -> int:
        """An attempt begins. Returns its number."""
        self.tried.add(name)
        self.number[name] = self.number.get(name, 0) + 1
        return self.number[name]

    def succeed(self, name: str, value: Any) -> None:
        """The activity answered."""
        if name == "begin_rollback":
            self.phase = ENDED if value is None else BACK
            self.due.update(value or ())
        elif self.phase == BACK:
            self.undone.add(name)
            if name == "send_cancellation_email":
                self.phase = ENDED
        elif name == "create_order" and value is False:
            self.phase = ENDED
        elif self.cancel_asked:
            self.turn_back("CancelRequested", "the order was cancelled while it ran")
        elif name == "complete_order":
            self.phase = ENDED
        else:
            # The next step is scheduled in the same breath, and its undo is due from then on.
            self.position += 1
            self.due.add(self.step)

    def refuse(self, name: str, error_type: str, message: str) -> None:
        """The activity was refused for good."""
        if self.phase == BACK:
            if name in self.wanted_now:
                self.wanted_now.discard(name)
            else:
                self.waiting.add(name)
            self.number.pop(name)
        else:
            self.turn_back(error_type, message)

    def lose(self, name: str) -> None:
        """An attempt failed or was lost: it is tried again, unless a cancel came meanwhile."""
        self.wanted_now.discard(name)
        if self.phase == FORWARD and self.cancel_asked:
            self.turn_back("CancelRequested", "the order was cancelled while it ran")

    def give_up(self) -> None:
        """The step's deadline has passed."""
        self.turn_back("DeadlineExceeded", f"{self.step} did not succeed before its deadline")

    def cancel(self) -> None:
        """The signal, or Temporal's own cancel. An attempt in flight is awaited."""
        if self.phase == FORWARD:
            self.cancel_asked = True
            if not self.in_flight:
                self.turn_back("CancelRequested", "the order was cancelled while it ran")

    def retry(self, undo: str) -> None:
        """The signals `retry_undo` and `resolve_undo`. May overtake the answer of an attempt in flight."""
        if undo in self.in_flight:
            self.wanted_now.add(undo)
        self.waiting.discard(undo)

    def turn_back(self, error_type: str, message: str) -> None:
        self.cause = (self.step, error_type, message)
        self.phase = TURNING
