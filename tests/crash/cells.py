"""The crash matrix as a table: every activity, at every moment, and how its order must end."""

from dataclasses import dataclass, field, replace

from tests.switches import guards

BEFORE = "killed before its effect"
AFTER = "killed after its effect and before it answers"
LOST = "effect done, answer lost"
LATE = "delayed past its undo, or its repeat"
MOMENTS = (BEFORE, AFTER, LOST, LATE)

# How an order gets to the activity.
FORWARD = "forward"
DECLINED = "declined by the gateway"
CANCELLED = "cancelled when complete"
# Turned back in the saga's very first workflow task: when its worker dies there is no history of that.
SOLD_OUT = "out of stock"
RESENT = "mail sent again"

# Seconds until the gateway gets what the network has delayed: longer than a cancel takes.
NETWORK_DELAY = 8
DELAYED_CHARGE = f"tok_delayed_s{NETWORK_DELAY}_x1__error_500"


@dataclass(frozen=True)
class Outcome:
    """What the books, the gateway and the mail sink say of an order in the end."""

    status: str
    gateway: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    mails: tuple[str, ...] = ()
    delivered: tuple[str, ...] = ()
    undos: dict[str, str] = field(default_factory=dict)
    attention: tuple[str, ...] = ()


COMPLETE = Outcome(
    "completed",
    gateway=("charge",),
    events=("charged",),
    holds=("held",),
    mails=("confirmation sent",),
    delivered=("confirmation",),
)
CLOSED = Outcome(
    "cancelled",
    mails=("cancellation sent",),
    delivered=("cancellation",),
    undos={"cancel_order": "done", "send_cancellation_email": "done"},
)
NOTHING_HELD = replace(CLOSED, undos={"release_inventory": "nothing_to_undo", **CLOSED.undos})
NOT_CHARGED = replace(
    CLOSED,
    gateway=("closed",),
    events=("closed",),
    holds=("released",),
    undos={"refund_payment": "nothing_to_undo", "release_inventory": "done", **CLOSED.undos},
)
TURNED_BACK = replace(NOT_CHARGED, gateway=("declined", "closed"), events=("declined", "closed"))
GIVEN_BACK = replace(
    NOT_CHARGED,
    gateway=("charge", "refund"),
    events=("charged", "refunded"),
    undos={**NOT_CHARGED.undos, "refund_payment": "done"},
)
UNDONE = replace(
    GIVEN_BACK,
    mails=("cancellation sent", "confirmation sent"),
    delivered=("cancellation", "confirmation"),
)
COPIED = replace(
    COMPLETE, mails=("confirmation sent", "confirmation sent"), delivered=("confirmation", "confirmation.1")
)
GIVEN_UP = replace(COMPLETE, mails=("confirmation refused", "confirmation sent"), attention=("sent again",))

END_OF = {
    FORWARD: COMPLETE,
    DECLINED: TURNED_BACK,
    CANCELLED: UNDONE,
    RESENT: COPIED,
    SOLD_OUT: NOTHING_HELD,
}


@dataclass(frozen=True)
class Cell:
    """One case: an order whose activity meets this moment at this point, and how it must end."""

    activity: str
    moment: str
    point: str
    route: str
    end: Outcome
    token: str = "tok_ok"
    # What the relay does to mails to this customer (tests.faults.Relay).
    mail: str = ""
    without: str = ""

    @property
    def is_killed(self) -> bool:
        return self.moment in (BEFORE, AFTER)

    def __str__(self) -> str:
        how = self.point or self.mail or self.token
        unguarded = f", without {self.without}" if self.without else ""
        return f"{self.activity} | {self.moment} | {how} | {self.route}{unguarded}"


def list_killed(activity: str, route: str, before: list[str], after: list[str]) -> list[Cell]:
    """The cells in which the worker dies."""
    moments = [(BEFORE, point) for point in before] + [(AFTER, point) for point in after]
    return [Cell(activity, moment, point, route, END_OF[route]) for moment, point in moments]


def list_database_cells(activity: str, route: str) -> list[Cell]:
    """Of an activity that is one transaction: dead before it, in it, and after it; its COMMIT unanswered."""
    return [
        *list_killed(activity, route, ["begins", "commit 1 before"], ["commit 1 after"]),
        Cell(activity, LOST, "commit 1 lost", route, END_OF[route]),
    ]


def list_mail_cells(activity: str, route: str, kind: str, last: str) -> list[Cell]:
    """Of an activity that sends a mail: around the mail server's answer and around its record."""
    return [
        *list_killed(
            activity,
            route,
            ["begins", "request mail before"],
            ["request mail after", f"commit {last} before", f"commit {last} after"],
        ),
        Cell(activity, LOST, "", route, END_OF[route], mail=f"lose-{kind}"),
        Cell(activity, LOST, f"commit {last} lost", route, END_OF[route]),
    ]


STEPS = [
    *list_database_cells("create_order", FORWARD),
    Cell("create_order", LATE, "begins", FORWARD, CLOSED),
    *list_database_cells("reserve_inventory", FORWARD),
    # Tried in one go with create_order, of which nothing was heard either: the order turns back there.
    Cell("reserve_inventory", LATE, "begins", FORWARD, CLOSED),
    *list_killed(
        "process_payment",
        FORWARD,
        ["begins", "commit 1 before", "request charge before"],
        ["request charge after", "commit 2 before", "commit 2 after"],
    ),
    *list_killed("process_payment", DECLINED, ["commit 2 before"], ["commit 2 after"]),
    Cell("process_payment", LOST, "commit 2 lost", DECLINED, TURNED_BACK),
    Cell("process_payment", LOST, "", FORWARD, COMPLETE, token="tok_answer_lost_x1"),
    Cell("process_payment", LOST, "commit 2 lost", FORWARD, COMPLETE),
    Cell("process_payment", LATE, "begins", FORWARD, replace(NOT_CHARGED, events=())),
    Cell("process_payment", LATE, "request charge before", FORWARD, NOT_CHARGED),
    Cell("process_payment", LATE, "request charge after", FORWARD, GIVEN_BACK),
    Cell("process_payment", LATE, "", FORWARD, NOT_CHARGED, token=DELAYED_CHARGE),
    *list_mail_cells("send_confirmation_email", FORWARD, "confirmation", "2"),
    Cell("send_confirmation_email", LATE, "begins", FORWARD, GIVEN_BACK),
    Cell(
        "send_confirmation_email",
        LATE,
        "request mail before",
        FORWARD,
        replace(UNDONE, attention=("after the order was cancelled",)),
    ),
    Cell(
        "send_confirmation_email",
        LATE,
        "",
        FORWARD,
        replace(UNDONE, mails=("cancellation sent", "confirmation pending")),
        mail="delay-confirmation",
    ),
    *list_database_cells("complete_order", FORWARD),
    Cell("complete_order", LATE, "begins", FORWARD, UNDONE),
]

UNDOS = [
    *(cell for route in (DECLINED, CANCELLED) for cell in list_database_cells("begin_rollback", route)),
    Cell("begin_rollback", LATE, "begins", DECLINED, TURNED_BACK),
    *list_killed(
        "refund_payment",
        DECLINED,
        ["begins", "request close before"],
        ["request close after", "commit 2 before", "commit 2 after"],
    ),
    *list_killed(
        "refund_payment",
        CANCELLED,
        ["begins", "commit 1 before", "request close before", "request refund before"],
        [
            "request close after",
            "commit 2 after",
            "request refund after",
            "commit 3 before",
            "commit 3 after",
        ],
    ),
    Cell("refund_payment", LOST, "", DECLINED, TURNED_BACK, token="tok_ok__close_answer_lost_x1"),
    Cell("refund_payment", LOST, "", CANCELLED, UNDONE, token="tok_ok__close_answer_lost_x1"),
    Cell("refund_payment", LOST, "", CANCELLED, UNDONE, token="tok_ok__refund_answer_lost_x1"),
    Cell("refund_payment", LOST, "commit 3 lost", CANCELLED, UNDONE),
    Cell("refund_payment", LATE, "begins", CANCELLED, UNDONE),
    Cell("refund_payment", LATE, "request refund before", CANCELLED, UNDONE),
    Cell("refund_payment", LATE, "", CANCELLED, UNDONE, token=f"tok_ok__refund_delayed_s{NETWORK_DELAY}_x1"),
    *(
        cell
        for undo in ("release_inventory", "cancel_order")
        for route in (DECLINED, CANCELLED)
        for cell in list_database_cells(undo, route)
    ),
    Cell("release_inventory", LATE, "begins", CANCELLED, UNDONE),
    Cell("cancel_order", LATE, "begins", CANCELLED, UNDONE),
    *(
        cell
        for route in (DECLINED, CANCELLED)
        for cell in list_mail_cells("send_cancellation_email", route, "cancellation", "2")
    ),
    Cell("send_cancellation_email", LATE, "begins", CANCELLED, UNDONE),
    *(
        cell
        for undo in ("begin_rollback", "release_inventory", "cancel_order")
        for cell in list_database_cells(undo, SOLD_OUT)
    ),
    *list_mail_cells("send_cancellation_email", SOLD_OUT, "cancellation", "2"),
]

COPIES = [
    *list_mail_cells("resend_email", RESENT, "copy", "3"),
    Cell(
        "resend_email",
        LATE,
        "begins",
        RESENT,
        replace(UNDONE, mails=("cancellation sent", "confirmation sent", "confirmation withdrawn")),
    ),
    *(
        replace(cell, end=GIVEN_UP, mail="refuse-copy")
        for cell in [
            *list_database_cells("give_up_copy", RESENT),
            Cell("give_up_copy", LATE, "begins", RESENT, GIVEN_UP),
        ]
    ),
]

CELLS = [*STEPS, *UNDOS, *COPIES]

# Cells once more, each without one guard. Their orders must end wrong, or the matrix would see nothing.
CONTROLS = [
    Cell(
        "process_payment", AFTER, "request charge after", FORWARD, COMPLETE, without=guards.CHARGE_KEY
    ),  # charged twice
    Cell(
        "process_payment", LOST, "commit 2 lost", FORWARD, COMPLETE, without=guards.CHARGE_KEY
    ),  # charged twice
    Cell(
        "reserve_inventory", LATE, "begins", FORWARD, CLOSED, without=guards.TOMBSTONE
    ),  # holds stock for a cancelled order
    Cell(
        "process_payment", LATE, "", FORWARD, NOT_CHARGED, token=DELAYED_CHARGE, without=guards.CLOSE
    ),  # charges for a cancelled order
]
