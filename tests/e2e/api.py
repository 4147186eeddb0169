"""What the tests of the API share: clients, bodies, and reading its problems."""

import json
from typing import Any

from rest_framework.test import APIClient

from orders import desk
from orders.clients import create_key
from orders.models import ApiClient as MachineClient
from orders.models import Order, OrderStatus, Scope
from orders.services import Item
from tests.e2e.doors import set_status

PRODUCTS = "/api/v1/products/"
ORDERS = "/api/v1/orders/"
MISSING = "/api/v1/orders/00000000-0000-4000-8000-000000000000/"


def make_client(name: str = "shop") -> MachineClient:
    """A machine client, the same for the same name."""
    return MachineClient.objects.get_or_create(name=name)[0]


def client_of(client: MachineClient, *scopes: Scope) -> APIClient:
    """A browserless client that shows a key with these scopes; with all of them when none are named."""
    new = create_key(client=client, name="test", scopes=scopes or Scope.values)
    http = APIClient()
    http.credentials(HTTP_AUTHORIZATION=f"Bearer {new.secret}")
    return http


def order_body(**changes: Any) -> dict[str, Any]:
    return {"customer_email": "ada@example.com", "items": [{"sku": "MUG-STONE", "quantity": 2}], **changes}


def make_order(client: MachineClient | None, status: str = OrderStatus.PENDING) -> Order:
    """An order of two mugs as the saga would have left it in `status`."""
    order = desk.place_order(
        customer_email="ada@example.com", items=[Item("MUG-STONE", 2)], actor="test", client=client
    ).order
    set_status(order, status)
    return order


def read_problem(response: Any, status: int) -> dict[str, Any]:
    """The problem in the answer, checked for what RFC 9457 and this API promise of every error."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(response.content)
    assert problem["status"] == status
    assert problem["type"]
    assert problem["title"]
    assert problem["instance"].startswith("/api/v1/")
    return problem


def read_pointers(response: Any) -> set[str]:
    return {error["pointer"] for error in read_problem(response, 400)["errors"]}
