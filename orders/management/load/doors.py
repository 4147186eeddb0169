"""The doors a load comes in by: the desk in this process, or the REST API of a real web process."""

from abc import abstractmethod
from typing import Protocol
from uuid import UUID

import httpx
from django.db import DatabaseError, connection

from orders import desk
from orders.management.load.plan import Wish
from orders.services import InvalidOrder

API_ORDERS = "/api/v1/orders/"
# Seconds a client waits for an answer.
ANSWER_SECONDS = 30.0


class NotPlaced(Exception):
    """The order was refused, or there was no answer. The message is the kind, for counting."""


class Door(Protocol):
    """One client of a door. Each thread has one of its own."""

    @abstractmethod
    def place(self, wish: Wish, *, email: str) -> UUID:
        """Place the order; gives its id. Raises NotPlaced."""

    @abstractmethod
    def close(self) -> None: ...


class DeskDoor(Door):
    """The service itself, on a database connection of the thread."""

    def place(self, wish: Wish, *, email: str) -> UUID:
        try:
            return desk.place_order(
                customer_email=email, items=wish.items, actor="load test", payment_token=wish.token
            ).order.pk
        except (InvalidOrder, DatabaseError) as error:
            raise NotPlaced(type(error).__name__) from error

    def close(self) -> None:
        connection.close()


class ApiDoor(Door):
    """The API over HTTP, on a connection that is kept."""

    def __init__(self, address: str, secret: str) -> None:
        self.http = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {secret}"},
            timeout=ANSWER_SECONDS,
            trust_env=False,
        )

    def place(self, wish: Wish, *, email: str) -> UUID:
        body = {
            "customer_email": email,
            "items": [{"sku": item.sku, "quantity": item.quantity} for item in wish.items],
            "payment_token": wish.token,
        }
        try:
            answer = self.http.post(API_ORDERS, json=body, headers={"Idempotency-Key": wish.key})
        except httpx.TransportError as error:
            raise NotPlaced(type(error).__name__) from error
        if answer.status_code != 202:
            raise NotPlaced(name_problem(answer))
        return UUID(answer.json()["id"])

    def close(self) -> None:
        self.http.close()


def name_problem(answer: httpx.Response) -> str:
    """An answer that is none of the expected: its status and, of a problem document, its kind."""
    kind = ""
    if "problem+json" in answer.headers.get("content-type", ""):
        kind = str(answer.json().get("type", "")).rpartition(":")[2]
    return f"{answer.status_code} {kind}".rstrip()
