"""The verdict on a storm finds what is wrong: each kind of wrong, one at a time, in books that balance."""

import subprocess
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from orders.management.storms.running import read_audit
from orders.management.storms.verdict import Facts, OrderFact, Promises, count_duplicates, judge

DONE, SHIPPED, GONE = uuid4(), uuid4(), uuid4()


def confirm(order_id: UUID) -> tuple[str, str, str]:
    return ("confirmation", "sent", f"<confirmation.{order_id}@shop.example>")


def apologise(order_id: UUID) -> tuple[str, str, str]:
    return ("cancellation", "sent", f"<cancellation.{order_id}@shop.example>")


def enter(kind: str, order_id: UUID, amount: int) -> dict[str, object]:
    return {"kind": kind, "key": f"order-{order_id}:{kind}", "amount_minor": amount}


@pytest.fixture
def facts() -> Facts:
    """Three orders that ended as they should: completed, shipped, cancelled with its money back."""
    return Facts(
        orders={
            DONE: OrderFact(1, "completed", 2040, False, mails=(confirm(DONE),)),
            SHIPPED: OrderFact(2, "shipped", 990, False, mails=(confirm(SHIPPED),)),
            GONE: OrderFact(3, "cancelled", 4000, True, mails=(confirm(GONE), apologise(GONE))),
        },
        ledger=[
            enter("charge", DONE, 2040),
            enter("charge", SHIPPED, 990),
            enter("charge", GONE, 4000),
            enter("refund", GONE, 4000),
        ],
        arrived=[mail[2] for mail in (confirm(DONE), confirm(SHIPPED), confirm(GONE), apologise(GONE))],
    )


@pytest.fixture
def promises() -> Promises:
    return Promises({"a": DONE, "b": SHIPPED, "c": GONE}, cancelled={GONE}, shipped={2})


def change(facts: Facts, order_id: UUID, **fields: object) -> None:
    facts.orders[order_id] = replace(facts.orders[order_id], **fields)  # type: ignore[arg-type]


def test_balanced_books_are_balanced(facts: Facts, promises: Promises) -> None:
    assert judge(facts, promises) == []


def test_a_mail_that_came_twice_is_counted_and_nothing_more(facts: Facts, promises: Promises) -> None:
    facts.arrived += [confirm(DONE)[2], confirm(DONE)[2]]
    assert (judge(facts, promises), count_duplicates(facts.arrived)) == ([], 2)


def test_a_confirmation_that_overlapped_the_rollback_is_explained(facts: Facts, promises: Promises) -> None:
    kind, _, message_id = confirm(GONE)
    change(facts, GONE, mails=((kind, "pending", message_id), apologise(GONE)))
    assert judge(facts, promises) == []


def test_an_order_that_waits_for_a_person_is_not_stuck(facts: Facts, promises: Promises) -> None:
    change(facts, DONE, flags=("late_charge",))
    assert judge(facts, promises) == []


@pytest.mark.parametrize("status", ["pending", "created", "cancelling"])
def test_an_order_on_its_way_is_stuck(facts: Facts, promises: Promises, status: str) -> None:
    change(facts, DONE, status=status)
    assert f"order {DONE} is still {status}" in judge(facts, promises)


def test_every_other_wrong_is_told(facts: Facts, promises: Promises) -> None:
    def expect(sentence: str, facts: Facts, promises: Promises = promises) -> None:
        assert any(sentence in each for each in judge(facts, promises)), (sentence, judge(facts, promises))

    orders, ledger, arrived = facts.orders, facts.ledger, facts.arrived

    def with_order(order_id: UUID, **fields: object) -> Facts:
        return replace(facts, orders={**orders, order_id: replace(orders[order_id], **fields)})  # type: ignore[arg-type]

    accepted = promises.accepted
    expect(
        "was accepted (202, key d) and does not exist",
        facts,
        replace(promises, accepted={**accepted, "d": uuid4()}),
    )
    expect("was given to several keys", facts, replace(promises, accepted={**accepted, "d": DONE}))
    expect("no client was told of it", facts, replace(promises, accepted={"a": DONE, "b": SHIPPED}))
    expect("needs attention for refund_payment", with_order(DONE, flags=("refund_payment",)))
    expect("its customer has not been told", with_order(GONE, is_told=False))
    expect("a message to Temporal is undelivered", with_order(DONE, is_undelivered=True))
    expect("was accepted, and it is completed", facts, replace(promises, cancelled={DONE}))
    expect("was reported as shipped, and it is completed", facts, replace(promises, shipped={1}))
    expect("was charged 2 times", replace(facts, ledger=[*ledger, enter("charge", DONE, 2040)]))
    expect("the gateway has kept 0.00", replace(facts, ledger=ledger[1:]))
    expect("the gateway has kept 40.00", replace(facts, ledger=ledger[:3]))
    expect("which is no order", replace(facts, ledger=[*ledger, enter("charge", uuid4(), 100)]))
    expect("is marked as sent and did not arrive", replace(facts, arrived=arrived[1:]))
    expect("arrived that no order has marked", replace(facts, arrived=[*arrived, "<other@shop.example>"]))
    expect("0 confirmation mails were sent", with_order(DONE, mails=()))
    expect("0 cancellation mails were sent", with_order(GONE, mails=(confirm(GONE),)))
    expect("and a cancellation was sent", with_order(DONE, mails=(confirm(DONE), apologise(DONE))))


@pytest.mark.parametrize(
    ("code", "stdout", "found"),
    [
        (0, '{"violations": [], "left_out": {}}', []),
        (
            1,
            '{"violations": [{"sentence": "Order 7 is odd."}], "left_out": {}}',
            ["auditor: Order 7 is odd."],
        ),
        (2, '{"violations": [], "left_out": {"Temporal": "away"}}', ["the auditor left out Temporal: away"]),
        (1, '{"violations": [], "left_out": {}}', ["the auditor ended with 1 and no finding: sorry"]),
        (0, "All is well.", ["the auditor ended with 0 and no report: sorry"]),
        (2, "", ["the auditor ended with 2 and no report: sorry"]),
    ],
)
def test_nothing_but_a_clean_report_of_the_auditor_is_clean(code: int, stdout: str, found: list[str]) -> None:
    assert read_audit(subprocess.CompletedProcess([], code, stdout, "sorry")) == found
