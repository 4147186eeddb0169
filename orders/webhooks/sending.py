"""One attempt: a signed POST to one of the checked addresses, within a time limit, redirects not followed."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx
from django.conf import settings

from orders.models import WebhookDelivery, WebhookEndpoint
from orders.webhooks.signing import build_headers
from orders.webhooks.targets import BadTarget, Resolver, Target, read_target

logger = logging.getLogger("orders.webhooks")

USER_AGENT = "order-desk-webhooks/1"
# How much of an answer that is no success is read, and how much of it is kept (bytes, characters).
MAX_ANSWER = 4096
MAX_EXCERPT = 300
GONE = 410


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt: the status of the answer, if there was one, and why it is no success."""

    status: int | None
    error: str = ""

    @property
    def is_delivered(self) -> bool:
        return not self.error

    @property
    def is_gone(self) -> bool:
        """The receiver says that it wants no more, ever."""
        return self.status == GONE


class Sender:
    """Sends deliveries, each over a connection of its own.

    A transport and not a client: no cookies, redirects, proxies or passwords that a client might bring in.
    A connection that is kept could serve another host of the same address, unchecked.
    """

    def __init__(self) -> None:
        self.resolver = Resolver()
        self.transport = httpx.AsyncHTTPTransport(
            verify=httpx.create_ssl_context(),
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def aclose(self) -> None:
        await self.transport.aclose()

    async def send(self, delivery: WebhookDelivery, *, at: datetime) -> Outcome:
        """Send it, signed as of `at`. Whatever goes wrong is an outcome, not an error."""
        status: list[int] = []
        try:
            async with asyncio.timeout(settings.WEBHOOK_TIMEOUT):
                return await self._exchange(delivery, at, status)
        except (TimeoutError, httpx.TimeoutException):
            limit = f"within {settings.WEBHOOK_TIMEOUT:g} s"
            if status:
                return Outcome(status[0], f"It answered {status[0]}, and not the rest {limit}.")
            return Outcome(None, f"There was no answer {limit}.")
        except BadTarget as refusal:
            return Outcome(None, str(refusal))
        except httpx.ConnectError as error:
            return Outcome(None, f"No connection: {clean(str(error)) or type(error).__name__}")
        except httpx.HTTPError as error:
            found = clean(str(error)) or type(error).__name__
            return Outcome(status[0] if status else None, f"The connection broke: {found}")
        except Exception as error:  # a defect of ours: shown, logged, and tried again like any other
            logger.exception("a webhook could not be sent: delivery %s", delivery.pk)
            return Outcome(None, f"It could not be sent: {type(error).__name__}")

    async def _exchange(self, delivery: WebhookDelivery, at: datetime, status: list[int]) -> Outcome:
        target = read_target(delivery.endpoint.url)
        client_id = delivery.endpoint.client_id
        addresses = await self.resolver.find_addresses(target, client_id=client_id)
        body = delivery.body.encode()
        headers = {
            "Host": target.url.netloc.decode(),
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            "Accept-Encoding": "identity",
            "Connection": "close",
            **build_headers(
                event_id=str(delivery.event_id),
                at=at,
                body=body,
                secrets=list_secrets(delivery.endpoint, at),
            ),
        }
        response = await self._post(target, addresses, headers, body)
        try:
            status.append(response.status_code)
            return await _judge(response)
        finally:
            await response.aclose()

    async def _post(
        self, target: Target, addresses: list[str], headers: Mapping[str, str], body: bytes
    ) -> httpx.Response:
        """POST to the first of the addresses that can be connected to. The certificate must be the host's.

        Each gets its share of the time, so that one that does not answer leaves some to the others.
        """
        share = settings.WEBHOOK_TIMEOUT / len(addresses)
        for address in addresses:
            request = httpx.Request(
                "POST",
                target.url.copy_with(host=address),
                headers=headers,
                content=body,
                extensions={
                    "sni_hostname": target.host,
                    "timeout": {
                        "connect": share,
                        "read": settings.WEBHOOK_TIMEOUT,
                        "write": settings.WEBHOOK_TIMEOUT,
                        "pool": None,
                    },
                },
            )
            try:
                return await self.transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                # Nothing was sent yet.
                if address == addresses[-1]:
                    raise
                logger.info("%s at %s: %s; trying its next address", target.host, address, error)
        raise AssertionError("a target has at least one address")


def list_secrets(endpoint: WebhookEndpoint, at: datetime) -> list[str]:
    """What signs for the endpoint: its secret, and for a while after a rotation those before."""
    return [endpoint.secret, *(secret for secret, _ in endpoint.list_old_secrets(at))]


async def _judge(response: httpx.Response) -> Outcome:
    """Success is 2xx, whatever the body; of any other answer a little is read to tell people what it says."""
    status = response.status_code
    if response.is_success:
        return Outcome(status)
    if response.is_redirect:
        location = clean(response.headers.get("Location", ""))
        return Outcome(status, f"It answered {status}, to go to {location!r}: redirects are not followed.")
    text = clean((await _read_little(response)).decode(errors="replace"))
    return Outcome(status, f"It answered {status}{f': {text}' if text else '.'}")


async def _read_little(response: httpx.Response) -> bytes:
    found = bytearray()
    stream: Any = response.aiter_raw()
    async with aclosing(stream):
        async for part in stream:
            found += part[: MAX_ANSWER - len(found)]
            if len(found) >= MAX_ANSWER:
                break
    return bytes(found)


def clean(text: str) -> str:
    """Somebody else's text on one line of bearable length, without control characters."""
    words = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return words if len(words) <= MAX_EXCERPT else f"{words[:MAX_EXCERPT]}…"
