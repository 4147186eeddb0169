"""The part of an order's page that follows the saga: sent again only when something has changed."""

import re
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client as Browser

from notifications.models import EmailMessage
from orders.models import (
    AttentionFlag,
    StepState,
)
from tests.desk import place
from tests.e2e.doors import LIST, log_in, set_status
from tests.e2e.order_page import (
    SECTION,
    ask_to_cancel,
    live_of,
    make_stuck,
    read,
    read_rows,
    write_mail,
    write_trail,
)

# --- the live fragment ----------------------------------------------------------------------------------


def test_the_fragment_is_sent_again_only_when_something_has_changed(boss: Browser) -> None:
    order = place()
    first = boss.get(live_of(order))
    assert first.status_code == 200
    assert {"private", "no-cache"} <= set(first.headers["Cache-Control"].split(", "))
    etag = first.headers["ETag"]
    assert etag.startswith('"')
    again = boss.get(live_of(order), headers={"If-None-Match": etag})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)

    write_trail(order, ("create_order", StepState.RUNNING))
    changed = boss.get(live_of(order), headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != etag
    assert ("create_order", "running") in read_rows(changed.content.decode())


def test_the_fragment_holds_the_same_sections_as_the_page_and_no_token(boss: Browser) -> None:
    order = make_stuck()
    AttentionFlag.objects.raise_flag(order.pk, "refund_payment", "refund_payment has failed 3 times")
    write_mail(order)
    fragment = boss.get(live_of(order)).content.decode()
    sections = {found[2]: found[0] for found in SECTION.finditer(read(boss, order))}
    assert sections == {found[2]: found[0] for found in SECTION.finditer(fragment)}
    assert set(sections) >= {"status", "attention", "act", "trail", "payment", "holds", "mails", "actions"}
    assert "csrf" not in fragment


def test_what_differs_between_people_differs_in_the_tag(boss: Browser) -> None:
    order = place()
    viewer = log_in("viewer", "view_order")
    assert boss.get(live_of(order)).headers["ETag"] != viewer.get(live_of(order)).headers["ETag"]


def test_the_fragment_opens_to_the_same_people_as_the_page(boss: Browser) -> None:
    order = place()
    assert boss.get(f"{LIST}{uuid4()}/live/").status_code == 404
    assert boss.get(f"{LIST}nonsense/live/").status_code != 200
    assert boss.post(live_of(order)).status_code == 405
    assert log_in("stranger", "add_order").get(live_of(order)).status_code == 403
    assert Browser().get(live_of(order)).status_code == 302


@pytest.mark.parametrize(
    ("status", "mail", "state"),
    [
        ("pending", "", "running"),
        ("created", "", "running"),
        ("completed", "", "final"),
        ("shipped", "", "final"),
        ("cancelling", "", "running"),
        ("cancelled", "failed", "running"),
        ("cancelled", "done", "final"),
        ("cancelled", "resolved", "final"),
    ],
)
def test_the_page_goes_on_asking_until_the_saga_has_nothing_left_to_do(
    boss: Browser, status: str, mail: str, state: str
) -> None:
    order = place()
    set_status(order, status)
    if mail:
        write_trail(order, ("send_cancellation_email", mail))
    for page in (read(boss, order), boss.get(live_of(order)).content.decode()):
        assert re.findall(r'data-live-state="(\w+)"', page) == [state]
    assert ("Reload" in read(boss, order)) == (state == "running")


def test_page_is_followed_while_something_that_a_person_set_going_is_under_way(boss: Browser) -> None:
    """The saga is final; a copy of its mail, or a cancel that awaits approval, is not."""
    order = place()
    set_status(order, "completed")
    mail = write_mail(order)

    def read_state() -> str:
        found = re.search(r'data-live-state="(\w+)"', boss.get(live_of(order)).content.decode())
        assert found is not None
        return found[1]

    assert read_state() == "final"
    copy = write_mail(order, copy=1, state="pending", sent_at=None)
    assert read_state() == "running"
    EmailMessage.objects.filter(pk=copy.pk).update(state="sent", sent_at=mail.sent_at)
    assert read_state() == "final"
    ask_to_cancel(order, User.objects.get(username="boss"))
    assert read_state() == "running"
