"""The tables of this app; who imports a model need not know in which of the modules it is."""

from orders.models.audit import AuditRun, AuditViolation
from orders.models.clients import API_MARK, ApiClient, ApiKey, IdempotentRequest, RateLimit, Scope
from orders.models.order import ALLOWED_MOVES, Order, OrderLine, OrderQuerySet, OrderStatus, Rollback
from orders.models.outbox import OUTBOX_CHANNEL, STARTS, OutboxKind, OutboxMessage, RepairRound
from orders.models.people import (
    CUSTOMER,
    ActionKind,
    AttentionFlag,
    CancelRequest,
    CancelRequestState,
    OrderAction,
)
from orders.models.trail import (
    ALREADY_FINAL,
    FINISHED_STATES,
    SAGA_LOST,
    STEP_OF_UNDO,
    STEPS,
    StepKey,
    StepKind,
    StepState,
    TrailEntry,
    under_key,
)
from orders.models.webhooks import (
    DeliveryState,
    DisabledBy,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)

__all__ = [
    "ALLOWED_MOVES",
    "ALREADY_FINAL",
    "API_MARK",
    "CUSTOMER",
    "FINISHED_STATES",
    "OUTBOX_CHANNEL",
    "SAGA_LOST",
    "STARTS",
    "STEPS",
    "STEP_OF_UNDO",
    "ActionKind",
    "ApiClient",
    "ApiKey",
    "AttentionFlag",
    "AuditRun",
    "AuditViolation",
    "CancelRequest",
    "CancelRequestState",
    "DeliveryState",
    "DisabledBy",
    "IdempotentRequest",
    "Order",
    "OrderAction",
    "OrderLine",
    "OrderQuerySet",
    "OrderStatus",
    "OutboxKind",
    "OutboxMessage",
    "RateLimit",
    "RepairRound",
    "Rollback",
    "Scope",
    "StepKey",
    "StepKind",
    "StepState",
    "TrailEntry",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookEvent",
    "under_key",
]
