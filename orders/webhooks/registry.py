"""Who is told: endpoints registered, rotated, disabled and enabled, and deliveries begun anew."""

from collections.abc import Collection
from datetime import timedelta
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Max, QuerySet

from orders.models import (
    ActionKind,
    ApiClient,
    DeliveryState,
    DisabledBy,
    OrderAction,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from orders.refusals import StateConflict
from orders.webhooks.selectors import read_clock
from orders.webhooks.signing import make_secret
from orders.webhooks.targets import read_target

MAX_LIVE = 10
# How many a client is shown: those that have ended are listed after the others, and only so many.
MAX_SHOWN = 100
# For how long the secret before a rotation signs beside the new one.
OLD_SECRET_FOR = timedelta(hours=24)
# Each is one more signature on every request.
MAX_OLD_SECRETS = 5


class EndpointConflict(StateConflict):
    """The endpoint cannot be had beside those that there are. The message says why."""


def list_client_endpoints(client: ApiClient) -> "QuerySet[WebhookEndpoint]":
    """The endpoints the client sees: all but those it has deleted, the live ones and the newest first."""
    mine = WebhookEndpoint.objects.filter(client=client)
    live_first = F("disabled_at").desc(nulls_first=True)
    return mine.exclude(disabled_by=DisabledBy.CLIENT).order_by(live_first, "-created_at")


def register_endpoint(
    *, client: ApiClient, url: str, events: Collection[WebhookEvent | str]
) -> WebhookEndpoint:
    """Register an address for the client. Its `secret` is to be shown now, and never again.

    The name is not looked up: a name server that hangs would hold up the caller, and what it answers today
    says nothing of tomorrow. Each delivery looks it up. Locks the client's row, so that its endpoints are
    counted right. Raises BadTarget, ValueError for no or an unknown event, EndpointConflict.
    """
    wanted = [event for event in WebhookEvent.values if event in set(events)]
    if not wanted or len(wanted) != len(set(events)):
        raise ValueError(f"Choose at least one event of {', '.join(WebhookEvent.values)}.")
    target = read_target(url)
    with transaction.atomic():
        _check_room(client.pk, str(target))
        mine = WebhookEndpoint.objects.filter(client=client, url=str(target))
        if mine.filter(disabled_by=DisabledBy.STAFF).exists():
            raise EndpointConflict("The shop has disabled this address: ask its staff to enable it again.")
        return WebhookEndpoint.objects.create(
            client=client, url=str(target), events=wanted, secret=make_secret()
        )


def _check_room(client_id: int, url: str) -> None:
    """Raise EndpointConflict if the client has as many endpoints as it may, or this one. Locks its row."""
    ApiClient.objects.select_for_update(no_key=True).get(pk=client_id)
    live = WebhookEndpoint.objects.filter(client=client_id, disabled_at=None)
    if live.filter(url=url).exists():
        raise EndpointConflict("This address is registered already: delete that endpoint first.")
    if live.count() >= MAX_LIVE:
        raise EndpointConflict(f"There are {MAX_LIVE} endpoints already: delete one first.")


@transaction.atomic
def rotate_secret(*, endpoint_id: UUID) -> WebhookEndpoint:
    """Give the endpoint a new secret, to be shown now and never again. Locks its row.

    The one before signs beside it for OLD_SECRET_FOR, also if it is rotated again: the receiver may never
    have seen the new one. Raises EndpointConflict while MAX_OLD_SECRETS sign already.
    """
    endpoint = WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=endpoint_id)
    now = read_clock()
    old = endpoint.list_old_secrets(now)
    if len(old) >= MAX_OLD_SECRETS:
        raise EndpointConflict(
            f"The secret was changed {len(old)} times of late, and each of those before still signs. Change "
            f"it again after {old[-1][1]:%Y-%m-%d %H:%M} UTC, or delete this webhook and register it anew."
        )
    kept = [(endpoint.secret, now + OLD_SECRET_FOR), *old]
    endpoint.old_secrets = [[secret, until.isoformat()] for secret, until in kept]
    endpoint.secret = make_secret()
    endpoint.save(update_fields=["old_secrets", "secret"])
    return endpoint


@transaction.atomic
def disable_endpoint(
    *, endpoint_id: UUID, by: DisabledBy, because: str, keep: WebhookDelivery | None = None
) -> bool:
    """Disable the endpoint and withdraw what waits for it, but for the delivery to `keep`. Locks the
    endpoint's row, then those of its deliveries. Returns whether this call changed anything.

    What its receiver has ended, the client still deletes. Raises EndpointConflict when the client is to
    delete what staff have disabled: deleted, it would not keep the address from being registered again.
    """
    endpoint = WebhookEndpoint.objects.select_for_update(no_key=True).get(pk=endpoint_id)
    if by == DisabledBy.CLIENT and endpoint.disabled_by == DisabledBy.STAFF:
        raise EndpointConflict("The shop has disabled this webhook, and keeps it: nothing is sent there.")
    deletes = by == DisabledBy.CLIENT and endpoint.disabled_by != DisabledBy.CLIENT
    if endpoint.disabled_at is not None and not deletes:
        return False
    endpoint.disabled_at = endpoint.disabled_at or read_clock()
    endpoint.disabled_by = by
    endpoint.disabled_because = because[:300]
    endpoint.save(update_fields=["disabled_at", "disabled_by", "disabled_because"])
    waiting = WebhookDelivery.objects.filter(endpoint=endpoint, state=DeliveryState.WAITING)
    if keep is not None:
        waiting = waiting.exclude(pk=keep.pk)
    waiting.update(state=DeliveryState.WITHDRAWN)
    return True


@transaction.atomic
def enable_endpoint(*, endpoint_id: UUID) -> bool:
    """Enable an endpoint that staff or its receiver has disabled. What was withdrawn stays so. Locks the
    client's row. Returns whether this call did it. Raises StateConflict for one that the client has deleted,
    and EndpointConflict."""
    endpoint = WebhookEndpoint.objects.get(pk=endpoint_id)
    if endpoint.disabled_by == DisabledBy.CLIENT:
        raise StateConflict("The client has deleted this endpoint; it can register the address anew.")
    if endpoint.disabled_at is None:
        return False
    _check_room(endpoint.client_id, endpoint.url)
    return bool(
        WebhookEndpoint.objects.filter(pk=endpoint_id, disabled_at__isnull=False)
        .exclude(disabled_by=DisabledBy.CLIENT)
        .update(disabled_at=None, disabled_by="", disabled_because="", failing_since=None)
    )


@transaction.atomic
def redeliver(*, delivery_id: int, actor: str, reason: str = "") -> WebhookDelivery:
    """Have an event delivered again: the same id and body, as a delivery of its own. One that still waits is
    only made due now. Who asked stays with the order. Locks the delivery's row.

    Raises StateConflict while it is being sent, and for a disabled endpoint.
    """
    delivery = (
        WebhookDelivery.objects.select_related("endpoint")
        .select_for_update(of=("self",), no_key=True)
        .get(pk=delivery_id)
    )
    now = read_clock()
    if delivery.endpoint.disabled_at is not None:
        raise StateConflict("Its endpoint is disabled, so nothing is sent there. Enable the endpoint first.")
    if delivery.state == DeliveryState.WAITING:
        if delivery.leased_until is not None and delivery.leased_until > now:
            raise StateConflict("It is being sent at this moment; see what comes of it.")
        again = delivery
        WebhookDelivery.objects.filter(pk=delivery.pk).update(next_attempt_at=now)
    else:
        again = _copy(delivery)
    OrderAction.objects.create(
        order_id=delivery.order_id, kind=ActionKind.REDELIVER_WEBHOOK, actor=actor, reason=reason
    )
    return again


def _copy(delivery: WebhookDelivery) -> WebhookDelivery:
    same = WebhookDelivery.objects.filter(endpoint=delivery.endpoint_id, event_id=delivery.event_id)
    if same.filter(state=DeliveryState.WAITING).exists():
        raise StateConflict("It is on its way again already.")
    last = same.aggregate(last=Max("redelivery"))["last"]
    try:
        with transaction.atomic():
            return WebhookDelivery.objects.create(
                endpoint_id=delivery.endpoint_id,
                order_id=delivery.order_id,
                event_id=delivery.event_id,
                redelivery=last + 1,
                event=delivery.event,
                body=delivery.body,
                next_attempt_at=read_clock(),
            )
    except IntegrityError:  # somebody began the same by another delivery of this event
        raise StateConflict("Somebody else is having it delivered again at this moment.") from None
