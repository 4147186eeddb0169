"""SHOP_URL: the address that stands in mails."""

import os
import subprocess
import sys

import pytest

from tests.processes import PROJECT


def read_shop_url(value: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from config import settings; print(settings.SHOP_URL)"],
        cwd=PROJECT, env={**os.environ, "SHOP_URL": value}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("https://shop.example/", "https://shop.example"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("", ""),
    ],
)
def test_shop_url_is_an_address_without_a_slash_at_its_end(value: str, read: str) -> None:
    assert read_shop_url(value).stdout.strip() == read


def test_shop_url_that_is_no_address_stops_the_process() -> None:
    ended = read_shop_url("shop.example")
    assert ended.returncode != 0
    assert "SHOP_URL begins with https://" in ended.stderr
