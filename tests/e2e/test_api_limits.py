"""Rate limits of the API: whose allowance a request spends, in every process, and what a refusal says."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError
from django.utils import timezone
from rest_framework.test import APIClient

from config.environment import read_count
from orders.clients import create_key
from orders.models import ApiClient, Order, RateLimit, Scope
from tests.e2e.api import ORDERS, PRODUCTS, client_of, make_client, order_body, read_problem
from tests.web import serving

UNKNOWN = "Bearer odk_" + "x" * 43


def count_answers(http: APIClient, times: int, **headers: Any) -> Counter[int]:
    return Counter(http.get(PRODUCTS, **headers).status_code for _ in range(times))


# --- in every process -------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_key", [True, False])
def test_exactly_the_allowance_gets_through_over_all_processes(transactional_db: None, has_key: bool) -> None:
    till = ApiClient.objects.create(name="till", requests_per_minute=4)
    headers = {}
    if has_key:
        headers = {"Authorization": f"Bearer {create_key(client=till, name='x', scopes=['read']).secret}"}
    limits: Any = {"API_REQUESTS_PER_MINUTE": "3", "API_ANONYMOUS_REQUESTS_PER_MINUTE": "4"}
    with serving(**limits) as address, ThreadPoolExecutor(40) as callers:
        asked = [
            callers.submit(httpx.get, f"{address}{PRODUCTS}", headers=headers, timeout=60) for _ in range(40)
        ]
        answers = [each.result() for each in asked]
    assert Counter(answer.status_code for answer in answers) == {200: 4, 429: 36}
    waits = {int(answer.headers["Retry-After"]) for answer in answers if answer.status_code == 429}
    assert waits <= set(range(1, 16))


# --- whose allowance --------------------------------------------------------------------------------------


def test_a_refusal_is_a_problem_that_says_when_to_come_back(counter: None) -> None:
    till = make_client("till")
    ApiClient.objects.filter(pk=till.pk).update(requests_per_minute=6)
    api = client_of(till)
    assert count_answers(api, 6) == {200: 6}
    refused = api.post(ORDERS, order_body(), format="json", HTTP_IDEMPOTENCY_KEY="1")
    problem = read_problem(refused, 429)
    wait = int(refused.headers["Retry-After"])
    assert 5 < wait <= 10
    assert problem["detail"] == f"At most 6 requests a minute: try again in {wait} s."
    assert not Order.objects.exists()


def test_all_keys_of_a_client_spend_one_allowance_and_no_other(counter: None, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = 4
    till = make_client("till")
    assert count_answers(client_of(till), 3) == {200: 3}
    assert count_answers(client_of(till, Scope.READ), 2) == {200: 1, 429: 1}
    assert count_answers(client_of(make_client("other")), 4) == {200: 4}


def test_a_clients_own_number_goes_before_the_setting(counter: None, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = 2
    ApiClient.objects.create(name="bulk", requests_per_minute=5)
    assert count_answers(client_of(make_client("bulk")), 6) == {200: 5, 429: 1}
    assert count_answers(client_of(make_client("till")), 3) == {200: 2, 429: 1}


def test_a_limit_of_zero_is_none(counter: None, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = settings.API_ANONYMOUS_REQUESTS_PER_MINUTE = 0
    assert count_answers(client_of(make_client()), 30) == {200: 30}
    assert count_answers(APIClient(), 30) == {200: 30}
    assert not RateLimit.objects.exists()
    ApiClient.objects.create(name="slow", requests_per_minute=1)
    assert count_answers(client_of(make_client("slow")), 2) == {200: 1, 429: 1}


def test_guessing_keys_is_limited_by_address_and_locks_no_client_out(counter: None, settings: Any) -> None:
    settings.API_ANONYMOUS_REQUESTS_PER_MINUTE = 5
    guesser = APIClient()
    assert count_answers(guesser, 8, HTTP_AUTHORIZATION=UNKNOWN) == {401: 5, 429: 3}
    assert count_answers(guesser, 2, HTTP_AUTHORIZATION="Bearer short") == {429: 2}
    assert count_answers(guesser, 2) == {429: 2}
    assert count_answers(guesser, 1, REMOTE_ADDR="192.0.2.7") == {200: 1}
    assert count_answers(client_of(make_client()), 3) == {200: 3}


def test_what_is_refused_for_another_reason_counts_too(counter: None, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = settings.API_ANONYMOUS_REQUESTS_PER_MINUTE = 3
    reader, nobody = client_of(make_client(), Scope.READ), APIClient()
    for http, status in ((reader, 403), (nobody, 401)):
        answers = [http.post(ORDERS, order_body(), format="json").status_code for _ in range(4)]
        assert answers == [status] * 3 + [429]


# --- by which address -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("", "nonsense", True),
        (None, "", True),
    ],
)
def test_an_address_counts_with_those_that_one_caller_can_have(
    counter: None, settings: Any, first: Any, second: Any, together: bool
) -> None:
    settings.API_ANONYMOUS_REQUESTS_PER_MINUTE = 1
    assert count_answers(APIClient(), 1, REMOTE_ADDR=first) == {200: 1}
    assert count_answers(APIClient(), 1, REMOTE_ADDR=second) == {429 if together else 200: 1}


@pytest.mark.parametrize("is_behind_proxy", [True, False])
def test_behind_a_proxy_the_address_is_what_the_proxy_says(
    counter: None, settings: Any, is_behind_proxy: bool
) -> None:
    settings.BEHIND_PROXY = is_behind_proxy
    settings.API_ANONYMOUS_REQUESTS_PER_MINUTE = 1
    said = [f"10.0.0.1, 192.0.2.{number}" for number in range(3)]
    answers = [APIClient().get(PRODUCTS, HTTP_X_FORWARDED_FOR=each).status_code for each in said]
    assert answers == ([200, 200, 200] if is_behind_proxy else [200, 429, 429])


# --- trouble ----------------------------------------------------------------------------------------------


def test_a_database_that_does_not_answer_is_told_as_such(
    counter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure itself is made here: an outage of the whole database is tested elsewhere."""

    def fail(**_: Any) -> int:
        raise OperationalError("the connection is closed")

    monkeypatch.setattr("orders.limits.spend", fail)
    answer = APIClient().get(PRODUCTS)
    assert "connection" not in read_problem(answer, 503)["detail"]
    assert answer.headers["Retry-After"]


def test_an_allowance_that_is_whole_again_may_be_tidied_up(counter: None, settings: Any) -> None:
    """What housekeeping deletes by `full_at` gives nobody a second allowance."""
    settings.API_ANONYMOUS_REQUESTS_PER_MINUTE = 2
    assert count_answers(APIClient(), 3) == {200: 2, 429: 1}
    RateLimit.objects.filter(full_at__lt=timezone.now()).delete()
    assert count_answers(APIClient(), 1) == {429: 1}
    RateLimit.objects.update(full_at=timezone.now() - timedelta(seconds=1))
    RateLimit.objects.filter(full_at__lt=timezone.now()).delete()
    assert count_answers(APIClient(), 3) == {200: 2, 429: 1}


@pytest.mark.parametrize("value", ["-1", "1.5", "many", "\u0663", " "])
def test_a_limit_that_is_no_number_is_refused_at_the_start(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_REQUESTS_PER_MINUTE", value)
    with pytest.raises(ImproperlyConfigured, match="API_REQUESTS_PER_MINUTE takes a whole number such as 5"):
        read_count("API_REQUESTS_PER_MINUTE", default="5")
