"""The address of an order's page in the shop: a link that nobody can make from the order's id alone."""

from uuid import UUID

from django.conf import settings
from django.core.signing import BadSignature, Signer

# Where orders.storefront.urls answers. Mails carry it, and what writes them must not know the pages.
ORDER_PATH = "order/{signed}/"


def _signer() -> Signer:
    # A salt of its own: what is signed elsewhere with the same key opens no order.
    return Signer(salt="orders.links", sep=".")


def sign_order(order_id: UUID | str) -> str:
    """The order's id with its signature, as it stands in the address."""
    return _signer().sign(str(order_id))


def read_signed(signed: str) -> UUID | None:
    """The id of the order; None for anything this shop has not signed."""
    try:
        return UUID(_signer().unsign(signed))
    except (BadSignature, ValueError):
        return None


def find_order_url(order_id: UUID | str) -> str:
    """The page's whole address, for mails; empty while the shop's own address (SHOP_URL) is not set."""
    if not settings.SHOP_URL:
        return ""
    return f"{settings.SHOP_URL}/{ORDER_PATH.format(signed=sign_order(order_id))}"
