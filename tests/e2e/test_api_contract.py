"""The API keeps to its own description: thousands of made-up requests, as three kinds of callers."""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies
from rest_framework.test import APIClient
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.parameters import ParameterLocation
from schemathesis.core.result import Ok

from config.wsgi import application
from inventory.models import Product, StockItem
from orders.api.docs import describe_api
from orders.clients import create_key
from orders.models import ApiClient as MachineClient
from orders.models import OrderStatus, Scope
from orders.webhooks import registry
from tests.e2e.api import ORDERS, PRODUCTS, make_client, make_order
from tests.e2e.hooks import add_endpoint

CALLERS = ("anonymous", "client", "other client")
EXAMPLES = 40  # of each operation and mode
CASES = 2000
# Deleted ones are no longer found, so there are many.
WEBHOOKS = 300
# Public, and looked up without asking anybody.
RECEIVER = "https://93.184.216.34/"
AnyCase = Case[Any]


@pytest.fixture
def world(shop: None, settings: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A client with an order of each status and plenty of webhooks, plenty of stock, and another client."""
    settings.API_ANONYMOUS_REQUESTS_PER_MINUTE = 0
    monkeypatch.setattr(registry, "MAX_LIVE", 1_000_000)
    settings.API_LONG_POLLS = 0  # made-up waits would be waited for
    settings.ALLOWED_HOSTS = ["localhost", "testserver"]
    StockItem.objects.update(on_hand=10_000_000)
    clients = {"client": make_client("shop"), "other client": make_client("other")}
    MachineClient.objects.update(requests_per_minute=1_000_000)
    orders = [str(make_order(clients["client"], status).pk) for status in OrderStatus.values]
    keys = {
        name: create_key(client=client, name="test", scopes=Scope.values).secret
        for name, client in clients.items()
    }
    webhooks = [str(add_endpoint("shop", f"{RECEIVER}{number}").pk) for number in range(WEBHOOKS)]
    return {
        # What exists, by the name it has in an address.
        "ids": {"order_id": orders, "webhook_id": webhooks},
        "keys": keys,
        "skus": list(Product.objects.values_list("sku", flat=True)),
        "cursors": {ORDERS: read_cursor(ORDERS, keys["client"]), PRODUCTS: read_cursor(PRODUCTS)},
    }


def read_cursor(address: str, key: str = "") -> str:
    """The cursor of the second page of a list."""
    http = APIClient()
    if key:
        http.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    following = http.get(f"{address}?page_size=2").json()["next"]
    return str(parse_qs(urlsplit(following).query)["cursor"][0])


def list_operations() -> Iterator[Any]:
    document, _ = describe_api()
    # A key may be one that was used before, as the description says.
    accepted = {"expected-statuses": ["2xx", 304, 401, 403, 404, 409, 422]}
    config = schemathesis.Config.from_dict({"checks": {"positive_data_acceptance": accepted}})
    # A copy: what `fit` puts in would become the example of this process's own description.
    schema = schemathesis.openapi.from_dict(copy.deepcopy(document), config=config)
    schema.app = application
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        yield found.ok()


def fit(case: AnyCase, world: dict[str, Any], pick: int) -> None:
    """Put what exists into a well-formed request, else no order would ever be found or placed; and what no
    schema can say of a text or a number."""
    for name in case.path_parameters:
        if pick % 8:
            case.path_parameters[name] = world["ids"][name][pick % len(world["ids"][name])]
    if "cursor" in case.query:
        case.query["cursor"] = world["cursors"][case.path]
    body: Any = case.body
    if isinstance(body, dict):
        if "reason" in body:
            body["reason"] = f"because {body['reason']}"[:1000].replace("\0", "")
        if "url" in body:
            body["url"] = f"{RECEIVER}new/{pick}"
        for item in body.get("items", []):
            item["sku"] = world["skus"][pick % len(world["skus"])]
            item["quantity"] = 1 + int(item["quantity"]) % 5


@dataclass
class Caller:
    """Who asks, what was answered how often, and which promises of the description were broken."""

    headers: dict[str, str]
    world: dict[str, Any]
    seen: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def explore(self, operation: Any, mode: GenerationMode) -> None:
        """Ask EXAMPLES made-up requests, the same ones in every run."""

        @hypothesis.settings(
            max_examples=EXAMPLES,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(
            case=operation.as_strategy(generation_mode=mode), pick=strategies.integers(0, 10_000)
        )
        def ask_each(case: AnyCase, pick: int) -> None:
            if mode is GenerationMode.POSITIVE:
                fit(case, self.world, pick)
            else:
                # Empty lists are not sent at all, and then nothing is wrong with the address.
                hypothesis.assume(all(case.query.values()))
                assert case.meta is not None
                body = case.meta.components.get(ParameterLocation.BODY)
                if body is not None and body.mode is GenerationMode.NEGATIVE and pick % 2:
                    # What is wrong with the body is only looked at where there is an order.
                    for name in case.path_parameters:
                        case.path_parameters[name] = self.world["ids"][name][0]
            self.ask(case, mode)

        ask_each()

    def ask(self, case: AnyCase, mode: GenerationMode) -> None:
        response = case.call(headers=self.headers)
        self.seen[case.operation.label, str(mode), response.status_code] += 1
        try:
            case.validate_response(response, headers=self.headers)
        except FailureGroup as failures:
            # With the request as a curl command.
            self.broken.append(str(failures))

    def list_statuses(self, operation: Any) -> set[int]:
        return {status for label, _, status in self.seen if label == operation.label}

    def __str__(self) -> str:
        return "\n".join(
            f"{' '.join(map(str, what))}: {count} times" for what, count in sorted(self.seen.items())
        )


@pytest.mark.parametrize("name", CALLERS)
@pytest.mark.timeout(300)
def test_every_answer_is_as_described(world: dict[str, Any], name: str) -> None:
    secret = world["keys"].get(name)
    caller = Caller({"Authorization": f"Bearer {secret}"} if secret else {}, world)
    # What deletes comes last: what it has deleted is not found any more.
    operations = sorted(list_operations(), key=lambda operation: operation.method == "delete")
    for operation in operations:
        for mode in GenerationMode:
            caller.explore(operation, mode)
    first_ones = "\n\n".join(caller.broken[:3])
    assert not caller.broken, f"{len(caller.broken)} broken promises, the first:\n{first_ones}"
    assert caller.seen.total() >= CASES / len(CALLERS), caller
    print(f"{name}: {caller.seen.total()} cases\n{caller}")
    for operation in operations:
        statuses = caller.list_statuses(operation)
        if name == "client" or operation.label == "GET /api/v1/products/":
            assert statuses & {200, 201, 202, 204}, f"{operation.label} never succeeded:\n{caller}"
        elif name == "anonymous":
            assert statuses <= {401, 404}, caller
        elif "_id}" in operation.label:
            assert statuses <= {400, 401, 404}, caller  # what is another client's does not exist
