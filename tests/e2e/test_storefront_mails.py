"""The link to the order's page in the mails, as they are stored and arrive."""

import os
import re
import signal
import subprocess
import sys
from typing import Any

import httpx
import pytest

from notifications import services
from notifications.models import EmailMessage
from tests.desk import place
from tests.e2e.storefront import page_of
from tests.processes import PROJECT, build_environment

counter = pytest.mark.usefixtures("counter")


def prepare(order_id: Any) -> tuple[EmailMessage, EmailMessage]:
    confirmation = services.prepare_confirmation(order_id=order_id).email
    return confirmation, services.prepare_cancellation(order_id=order_id).email


@counter
def test_mails_link_to_the_orders_page(settings: Any) -> None:
    settings.SHOP_URL = "https://shop.example"
    placed = place()
    for mail in prepare(placed.pk):
        address = f"https://shop.example{page_of(placed)}"
        assert mail.text.count(address) == 1
        assert f'href="{address}"' in mail.html
        # A line of its own, short enough for SMTP's limit of 998.
        line = next(line for line in mail.text.splitlines() if address in line)
        assert line.endswith(address)
        assert len(line) < 200
        assert str(placed.pk) in mail.message_id
        message = services.build_message(mail).message()
        assert message["Message-ID"] == mail.message_id


@counter
def test_mails_carry_no_link_while_the_shops_address_is_not_known() -> None:
    placed = place()
    confirmation, cancellation = prepare(placed.pk)
    for mail in (confirmation, cancellation):
        assert "/order/" not in mail.text + mail.html
        assert "href" not in mail.html
    assert "We will tell you when it ships." in confirmation.text


@counter
def test_a_mail_stays_as_it_was_stored(settings: Any) -> None:
    placed = place()
    first = services.prepare_confirmation(order_id=placed.pk).email
    settings.SHOP_URL = "https://shop.example"
    again = services.prepare_confirmation(order_id=placed.pk).email
    assert (again.pk, again.text, again.html) == (first.pk, first.text, first.html)


@pytest.mark.usefixtures("shop")
def test_the_demos_mails_lead_to_its_shop() -> None:
    with subprocess.Popen(
        [sys.executable, "manage.py", "demo", "--workers", "1"],
        cwd=PROJECT, env={**os.environ, **build_environment()}, stdout=subprocess.PIPE, text=True,
    ) as demo:  # fmt: skip
        assert demo.stdout is not None
        try:
            printed: list[str] = []
            for line in demo.stdout:
                printed.append(line)
                if "Ctrl-C" in line:
                    break
            shop = re.search(r"Shop +(http://\S+)/\n", "".join(printed))
            assert shop is not None, printed
            for kind, headline in (
                ("confirmation", "Your order is confirmed"),
                ("cancellation", "Your order was cancelled"),
            ):
                link = re.search(rf"{re.escape(shop[1])}/order/\S+", EmailMessage.objects.get(kind=kind).text)
                assert link is not None
                page = httpx.get(link[0])
                assert (page.status_code, headline in page.text) == (200, True)
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(60)
    assert demo.returncode == 0
