"""What a client can filter its orders by."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any, NoReturn

import django_filters
from django import forms
from django.db.models import QuerySet
from django.utils.dateparse import parse_datetime
from rest_framework.request import Request

from orders.api.errors import INVALID_REQUEST, Problem
from orders.models import Order, OrderStatus


def check_parameters(request: Request, *, known: Collection[str], repeatable: Collection[str] = ()) -> None:
    """Refuse query parameters that the address does not have: a slip must not pass for no filter at all."""
    errors = []
    for name, values in request.query_params.lists():
        if name not in known:
            offer = f"There is no such parameter; there are {', '.join(known)}."
            errors.append({"parameter": name, "detail": offer})
        elif len(values) > 1 and name not in repeatable:
            errors.append({"parameter": name, "detail": "Give it once."})
        elif not all(values):
            errors.append({"parameter": name, "detail": "Give a value, or leave it out."})
    if errors:
        raise Problem(INVALID_REQUEST, errors=errors)


class StatusField(forms.Field):
    """Several statuses, as a list the widget has read."""

    def clean(self, value: list[str] | None) -> list[str]:
        names = [part for given in value or [] for part in given.split(",")]
        for name in names:
            if name not in OrderStatus.values:
                raise forms.ValidationError(
                    f"There is no status {name!r}; there are {', '.join(OrderStatus.values)}."
                )
        return names


class StatusFilter(django_filters.Filter):  # type: ignore[misc]
    field_class = StatusField

    def __init__(self, **options: Any) -> None:
        super().__init__(widget=forms.MultipleHiddenInput, **options)

    def filter(self, qs: QuerySet[Any], value: list[str]) -> QuerySet[Any]:
        return qs.filter(status__in=value) if value else qs


class MomentField(forms.CharField):
    """RFC 3339: a time with its offset."""

    def clean(self, value: str | None) -> datetime | None:
        text = super().clean(value)
        if not text:
            return None
        try:
            moment = parse_datetime(text)
            # The database takes smaller offsets than the RFC, and near the ends of time there is no UTC.
            return (
                moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else self._refuse()
            )
        except (ValueError, OverflowError):
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise forms.ValidationError(
            "Give a time with its offset, for example 2026-11-23T08:00:00Z (in an address, + is %2B)."
        )


class MomentFilter(django_filters.Filter):  # type: ignore[misc]
    field_class = MomentField


class FlagField(forms.Field):
    """`true` or `false`."""

    def clean(self, value: str | None) -> bool | None:
        if value not in (None, "true", "false"):
            raise forms.ValidationError("Say true or false.")
        return None if value is None else value == "true"


class FlagFilter(django_filters.Filter):  # type: ignore[misc]
    field_class = FlagField


class EmailFilter(django_filters.Filter):  # type: ignore[misc]
    field_class = forms.EmailField


class OrderFilter(django_filters.FilterSet):  # type: ignore[misc]
    """Filters of the list of orders; all of them together must be met."""

    status = StatusFilter()
    accepted_after = MomentFilter(field_name="accepted_at", lookup_expr="gte")
    accepted_before = MomentFilter(field_name="accepted_at", lookup_expr="lt")
    customer_email = EmailFilter()
    needs_attention = FlagFilter(field_name="attention")

    class Meta:
        model = Order
        fields: list[str] = []


def filter_orders(request: Request, orders: QuerySet[Order]) -> QuerySet[Order]:
    """The orders that the query parameters ask for. Raises Problem for a bad value."""
    filters = OrderFilter(request.query_params, queryset=orders)
    if not filters.is_valid():
        raise Problem(
            INVALID_REQUEST,
            errors=[
                {"parameter": name, "detail": " ".join(messages)} for name, messages in filters.errors.items()
            ],
        )
    found: QuerySet[Order] = filters.qs
    return found
