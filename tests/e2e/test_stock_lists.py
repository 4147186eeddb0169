"""The admin's lists of holds and of the stock ledger."""

import re
from typing import Any

import pytest
from django.test import Client as Browser

from inventory import services
from inventory.models import Hold, StockMovement
from tests.e2e.doors import page_of
from tests.e2e.stockroom import (
    HOLDS,
    LEDGER,
    PRODUCTS,
    booking,
    get_product,
    hold,
    list_results,
    page_of_product,
    stock_page,
)

# --- holds and ledger -----------------------------------------------------------------------------------


def test_holds_are_filtered_by_state_and_product(boss: Browser) -> None:
    kept, given_back, other = hold("MUG-STONE", 1), hold("MUG-STONE", 2), hold("TEE-M", 3)
    services.release_inventory(order_id=given_back.pk)

    def orders(query: str) -> list[Any]:
        return [found.order for found in list_results(boss, f"{HOLDS}?{query}")]

    assert orders("") == [other, given_back, kept]
    assert orders("sku=MUG-STONE&state=held") == [kept]
    assert orders("state=released") == [given_back]
    assert orders(f"q={other.number}") == [other]
    assert orders("sku=NO-SUCH") == []
    page = boss.get(HOLDS).content.decode()
    assert f'<a href="{page_of(kept)}">{kept.number}</a>' in page
    moment = re.search(r'class="field-since[^"]*">([^<]+)<', page)
    assert moment is not None


def test_the_ledger_is_filtered_by_kind_product_and_date_and_has_signs(boss: Browser) -> None:
    order = hold("MUG-STONE", 4)
    product = get_product()
    services.adjust_stock(product_id=product.pk, change=-2, note="broken")

    def kinds(query: str) -> list[str]:
        return [found.kind for found in list_results(boss, f"{LEDGER}?{query}")]

    assert kinds("sku=MUG-STONE") == ["adjusted", "reserved", "received"]
    assert kinds("sku=MUG-STONE&kind=reserved") == ["reserved"]
    assert kinds("q=broken") == ["adjusted"]
    assert kinds(f"q={order.number}") == ["reserved"]
    assert kinds("at__gte=2100-01-01 00:00:00%2B00:00") == []
    page = boss.get(f"{LEDGER}?sku=MUG-STONE").content.decode()
    assert '<td class="field-on_hand_signed">\u22122</td>' in page
    assert '<td class="field-held_signed">+4</td>' in page
    assert page_of(order) in page
    assert page_of_product(product) in page


def test_nothing_that_happened_to_stock_can_be_changed_or_deleted(boss: Browser) -> None:
    hold("MUG-STONE", 1)
    rows = {HOLDS: Hold.objects.get().pk, LEDGER: StockMovement.objects.all()[0].pk}
    for address, pk in rows.items():
        assert b"delete_selected" not in boss.get(address).content
        assert boss.get(f"{address}add/").status_code == 403
        assert boss.get(f"{address}{pk}/change/").status_code == 200
        assert boss.post(f"{address}{pk}/change/", {"quantity": 9, "note": "x"}).status_code == 403
        assert boss.post(f"{address}{pk}/delete/", {"post": "yes"}).status_code == 403


@pytest.mark.parametrize(
    "address",
    [
        f"{PRODUCTS}?sku__exact=%00",
        f"{PRODUCTS}?low_stock_at=999999999999999999999",
        f"{PRODUCTS}?price__gt=x",
        f"{PRODUCTS}?stock=%00&on_sale=x&q=%00&p=99999999999&o=99.x",
        f"{HOLDS}?sku=%00",
        f"{HOLDS}?state=%00",
        f"{HOLDS}?quantity=x",
        f"{LEDGER}?kind=%00",
        f"{LEDGER}?kind__exact=%00",
        f"{LEDGER}?at__gte=x",
        f"{LEDGER}?at__year=99999999999999",
        f"{LEDGER}?sku={'x' * 4000}&kind=nonsense",
        f"{PRODUCTS}999999999999999999999/change/",
        f"{PRODUCTS}x/change/",
    ],
)
def test_senseless_parameters_never_break_a_page(boss: Browser, address: str) -> None:
    assert boss.get(address, follow=True).status_code == 200


def test_no_page_carries_inline_script_or_style(boss: Browser) -> None:
    product = get_product()
    hold("MUG-STONE", 1)
    addresses = (PRODUCTS, HOLDS, LEDGER, page_of_product(product), stock_page(product))
    pages = [boss.get(address).content.decode() for address in addresses]
    pages.append(boss.post(stock_page(product), booking("received", 1)).content.decode())
    for page in pages:
        assert not re.search(r"<style|<script(?![^>]*\bsrc=)[^>]*>\s*[^\s<]|\sstyle=|\son\w+=", page)
