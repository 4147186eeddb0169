"""The API's views: one call of the desk or one read each."""

from typing import Any, cast
from uuid import UUID

from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from rest_framework import generics, status
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from inventory import selectors as inventory_selectors
from inventory.models import Product
from orders import desk, selectors
from orders.api.serializers import CancelSerializer, OrderSerializer, PlaceOrderSerializer, ProductSerializer
from orders.models import Order
from orders.services import Item


def _get_user(request: Request) -> User:
    """The user: every view here asks for one (DEFAULT_PERMISSION_CLASSES)."""
    return cast("User", request.user)


def _find_order(request: Request, order_id: UUID) -> Order:
    """The order, or 404 also when it is somebody else's."""
    return get_object_or_404(selectors.list_visible_orders(_get_user(request)), pk=order_id)


def _show(request: Request, order_id: UUID, *, accepted: bool) -> Response:
    """The order as it is now: 202 and where to look again when something was set going, 200 otherwise."""
    data = OrderSerializer(selectors.get_order(order_id), context={"request": request}).data
    if not accepted:
        return Response(data)
    return Response(data, status=status.HTTP_202_ACCEPTED, headers={"Location": data["links"]["self"]})


class ProductListView(generics.ListAPIView[Product]):
    """What the shop sells, with prices and availability."""

    serializer_class = ProductSerializer

    def get_queryset(self) -> QuerySet[Product]:
        return inventory_selectors.list_products()


class OrderListView(APIView):
    """Place an order."""

    def post(self, request: Request) -> Response:
        serializer = PlaceOrderSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        wanted = serializer.validated_data
        decision = desk.place_order(
            customer_email=wanted["customer_email"],
            items=[Item(sku=item["sku"], quantity=item["quantity"]) for item in wanted["items"]],
            payment_token=wanted["payment_token"],
            actor=_get_user(request).get_username(),
            placed_by=_get_user(request),
        )
        return _show(request, decision.order.pk, accepted=True)


class OrderView(APIView):
    """One order with its trail."""

    def get(self, request: Request, order_id: UUID) -> Response:
        return _show(request, _find_order(request, order_id).pk, accepted=False)


class OrderCancelView(APIView):
    """Cancel an order: one's own, or any with the permission that the admin asks for, too.

    What staff cancel may await a second person's approval first; the answer then says so.
    """

    def post(self, request: Request, order_id: UUID) -> Response:
        order = _find_order(request, order_id)
        user = _get_user(request)
        if order.placed_by_id != user.pk and not user.has_perm("orders.cancel_order"):
            raise PermissionDenied("You may not cancel other people's orders.")
        serializer = CancelSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        reason = serializer.validated_data["reason"]
        if user.is_staff or order.placed_by_id != user.pk:
            decision = desk.cancel_order_as_staff(order_id=order.pk, staff=user, reason=reason)
        else:
            decision = desk.cancel_order(order_id=order.pk, actor=user.get_username(), reason=reason)
        return _show(request, order.pk, accepted=decision.changed)


class NowhereView(APIView):
    """Any other address: a problem like every other error."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound("There is nothing at this address. Addresses end with a slash, order ids are UUIDs.")
