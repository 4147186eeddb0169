"""The API's views: one call of the desk or one read each."""

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import Http404, HttpResponse
from django.urls import reverse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import generics, status
from rest_framework.exceptions import NotFound
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inventory import selectors as inventory_selectors
from inventory.models import Product
from orders import desk, idempotency, reports
from orders.api import schema
from orders.api.authentication import get_client, name_actor
from orders.api.errors import KEY_IN_USE, KEY_REQUIRED, KEY_REUSED, SHORT_OF_STOCK, STATE_CONFLICT, Problem
from orders.api.filters import OrderFilter, check_parameters, filter_orders
from orders.api.pagination import OrderPagination, ProductPagination
from orders.api.serializers import (
    CancelOrderSerializer,
    OrderRowSerializer,
    OrderSerializer,
    PlaceOrderSerializer,
    ProductSerializer,
    TrailSerializer,
)
from orders.api.waiting import answer_if_new, knows, make_etag, poll, read_wait, take_place
from orders.models import Order, Scope
from orders.reports import OrderReport, Progress
from orders.services import Item

PAGE = ("cursor", "page_size")


def _read_report(request: Request, order_id: UUID) -> OrderReport:
    """The client's order, or 404: also when it is another client's."""
    try:
        return reports.get_report(client=get_client(request), order_id=order_id)
    except Order.DoesNotExist as missing:
        raise Http404 from missing


class ProductListView(generics.ListAPIView[Product]):
    """What the shop sells, by SKU, with prices and availability. It needs no key."""

    permission_classes = [AllowAny]
    serializer_class = ProductSerializer
    pagination_class = ProductPagination

    def get_queryset(self) -> QuerySet[Product]:
        return inventory_selectors.list_products()

    @extend_schema(operation_id="list_products", summary="List what is sold", tags=["Products"], auth=[])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        check_parameters(request, known=PAGE)
        return super().get(request, *args, **kwargs)


class OrderListView(generics.GenericAPIView[Order]):
    scopes = {"GET": Scope.READ, "POST": Scope.PLACE}
    serializer_class = OrderRowSerializer
    pagination_class = OrderPagination
    problems = {"POST": [KEY_REQUIRED, SHORT_OF_STOCK, KEY_IN_USE, KEY_REUSED]}
    # For the schema; what is read is `list_client_orders`.
    queryset = Order.objects.none()

    @extend_schema(
        operation_id="list_orders",
        summary="List your orders",
        tags=["Orders"],
        parameters=schema.FILTERS,
        responses=OrderRowSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        """The orders that your client has placed, the newest first, one row each. An order in the list meets
        all filters that are given."""
        check_parameters(request, known=(*OrderFilter.base_filters, *PAGE), repeatable=("status",))
        orders = filter_orders(request, reports.list_client_orders(get_client(request)))
        page = self.paginate_queryset(orders)
        return self.get_paginated_response(self.get_serializer(page, many=True).data)

    @extend_schema(
        operation_id="place_order",
        summary="Place an order",
        tags=["Orders"],
        parameters=[schema.IDEMPOTENCY_KEY, *schema.PLACED_HEADERS],
        request=PlaceOrderSerializer,
        responses={
            202: OpenApiResponse(OrderSerializer, description=schema.PLACED, examples=[schema.ACCEPTED])
        },
    )
    def post(self, request: Request) -> HttpResponse:
        """Accepts the order and starts its saga: follow it at `links.trail`. Stock is looked at before, as
        advice; the saga reserves it, and cancels the order when somebody else was faster."""
        key = _read_key(request)
        serializer = PlaceOrderSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        answer = idempotency.answer_once(
            request=idempotency.KeyedRequest(
                client=get_client(request), method="POST", path=request.path, key=key, body=request.data
            ),
            carry_out=lambda: self._place(request, serializer.validated_data),
        )
        return HttpResponse(
            answer.body,
            status=answer.status,
            content_type="application/json",
            headers={
                "Location": request.build_absolute_uri(answer.location),
                **({"Idempotent-Replayed": "true"} if answer.is_replay else {}),
            },
        )

    def _place(self, request: Request, wanted: dict[str, Any]) -> idempotency.Answer:
        items = [Item(sku=item["sku"], quantity=item["quantity"]) for item in wanted["items"]]
        _check_stock(items)
        client = get_client(request)
        decision = desk.place_order(
            customer_email=wanted["customer_email"],
            items=items,
            payment_token=wanted["payment_token"],
            actor=name_actor(client),
            client=client,
        )
        report = reports.report_accepted(decision.order)
        data = OrderSerializer(report, context=self.get_serializer_context()).data
        return idempotency.Answer(
            order=decision.order,
            status=status.HTTP_202_ACCEPTED,
            location=reverse("api-order", args=[decision.order.pk]),
            body=JSONRenderer().render(data).decode(),
        )


def _read_key(request: Request) -> str:
    key: str = request.headers.get("Idempotency-Key", "").strip()
    if not (1 <= len(key) <= idempotency.MAX_KEY and key.isascii() and key.isprintable()):
        detail = (
            "Send a header Idempotency-Key of 1 to 255 printable ASCII characters: a new one for each order, "
            "such as a random UUID. Repeating a request with its key never places a second order."
        )
        raise Problem(KEY_REQUIRED, errors=[{"header": "Idempotency-Key", "detail": detail}])
    return key


def _check_stock(items: list[Item]) -> None:
    """Refuse what cannot be had at this moment, with how much there is. Advice: the saga decides."""
    quantities: dict[str, int] = {}
    for item in items:
        quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
    shortages = inventory_selectors.find_shortages(quantities)
    if shortages:
        raise Problem(
            SHORT_OF_STOCK,
            errors=[
                {
                    "pointer": f"#/items/{index}/quantity",
                    "detail": f"{quantities[item.sku]} asked for, {shortages[item.sku]} available.",
                    "sku": item.sku,
                    "available": shortages[item.sku],
                }
                for index, item in enumerate(items)
                if item.sku in shortages
            ],
        )


class OrderView(APIView):
    scopes = {"GET": Scope.READ}

    @extend_schema(
        operation_id="read_order",
        summary="Read an order",
        tags=["Orders"],
        parameters=[schema.ORDER_ID, schema.IF_NONE_MATCH, schema.ETAG],
        responses={200: OpenApiResponse(OrderSerializer, description="The order."), 304: schema.NOT_MODIFIED},
    )
    def get(self, request: Request, order_id: UUID) -> Response:
        """The order with its lines, payment, mails and trail."""
        data = OrderSerializer(_read_report(request, order_id), context={"request": request}).data
        return answer_if_new(request, data, make_etag(data))


class OrderTrailView(APIView):
    scopes = {"GET": Scope.READ}

    @extend_schema(
        operation_id="follow_order",
        summary="Follow an order",
        tags=["Orders"],
        parameters=[schema.ORDER_ID, schema.IF_NONE_MATCH, schema.PREFER, *schema.TRAIL_HEADERS],
        responses={
            200: OpenApiResponse(TrailSerializer, description="How far the order is."),
            304: schema.NOT_MODIFIED,
        },
    )
    def get(self, request: Request, order_id: UUID) -> Response:
        """How far the order's saga is. With `Prefer: wait=N` the answer comes when there is news. With
        `If-None-Match` that is as soon as the trail differs from the one you have (304 when the time is up);
        without, as soon as the order is settled (when the time is up: as far as it has come)."""

        client = get_client(request)
        known: tuple[Progress, dict[str, Any], str] | None = None

        def read() -> tuple[Progress, dict[str, Any], str]:
            nonlocal known
            progress = reports.find_progress(client=client, order_id=order_id)
            if progress is None:
                raise Http404
            # Written anew only when it has changed: most looks of a wait find what the last one found.
            if known is None or known[0] != progress:
                data = TrailSerializer(progress, context={"request": request}).data
                known = progress, data, make_etag(data)
            return known

        def is_news(found: tuple[Progress, dict[str, Any], str]) -> bool:
            progress, _, etag = found
            return not knows(request, etag) if request.headers.get("If-None-Match") else progress.is_settled

        with take_place(read_wait(request), client_id=client.pk) as wait:
            _, data, etag = poll(read, is_news, seconds=wait)
        response = answer_if_new(request, data, etag)
        if wait:
            response.headers["Preference-Applied"] = f"wait={wait}"
        return response


class OrderCancelView(APIView):
    scopes = {"POST": Scope.CANCEL}
    problems = {"POST": [STATE_CONFLICT]}

    @extend_schema(
        operation_id="cancel_order",
        summary="Cancel an order",
        tags=["Orders"],
        parameters=[schema.ORDER_ID, schema.CANCELLED_LOCATION],
        request=CancelOrderSerializer,
        responses={
            200: OpenApiResponse(OrderSerializer, description="It was already cancelled, or being so."),
            202: OpenApiResponse(OrderSerializer, description="Everything that was done is being undone."),
        },
    )
    def post(self, request: Request, order_id: UUID) -> Response:
        """Cancels an order, running or completed: what was taken is given back. Repeating it changes
        nothing. A shipped order can no longer be cancelled (409)."""
        client = get_client(request)
        order = _read_report(request, order_id).order
        serializer = CancelOrderSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        decision = desk.cancel_order(
            order_id=order.pk, actor=name_actor(client), reason=serializer.validated_data["reason"]
        )
        data = OrderSerializer(_read_report(request, order_id), context={"request": request}).data
        if not decision.changed:
            return Response(data)
        headers = {"Location": data["links"]["self"]}
        return Response(data, status=status.HTTP_202_ACCEPTED, headers=headers)


class NowhereView(APIView):
    """Any other address: a problem like every other error, to everybody."""

    permission_classes = [AllowAny]
    authentication_classes: list[Any] = []
    schema = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound("There is nothing at this address. Order ids are UUIDs.")
