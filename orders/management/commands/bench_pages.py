"""How fast pages and API answer on the orders of this database, and how often each asks it."""

import json
import statistics
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import Enum
from itertools import chain
from typing import Any, NamedTuple, cast
from urllib.parse import quote, urlencode

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.views.main import ORDER_VAR, PAGE_VAR, SEARCH_VAR, ChangeList
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.db.models import Count, Model
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext, override_settings
from django.urls import Resolver404, resolve, reverse
from django.utils import timezone

from inventory.models import Product
from orders.clients import create_key
from orders.links import ORDER_PATH, sign_order
from orders.models import ApiClient, Order, OrderStatus, Rollback, Scope, TrailEntry
from orders.services import MAX_LINES
from payments.models import Payment

FEWEST = 1000
EXPORTS = 2  # rounds of the export, which takes as long as a hundred pages
EXPORT = "export (CSV)"


# The shop's pages, where there is a shop.
SHOP = {"catalogue": "/", "cart": "/cart/", "checkout": "/checkout/"}
FILLING = "/cart/add/"
FILLED_WITH = 5  # products in the cart, and so in the checkout


class Door(Enum):
    """Who asks for a page: a log-in, a key, or a session with a cart."""

    STAFF = "staff"
    PROGRAM = "a machine client"
    CUSTOMER = "a customer"
    LARGE_CUSTOMER = "a customer with all the products a cart takes"


class Page(NamedTuple):
    """What a page is called in the report, where it is, and for whom."""

    name: str
    url: str
    door: Door = Door.STAFF


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of a page. Times are milliseconds in this process, network excluded."""

    page: str
    url: str
    status: int
    best: float
    p50: float
    p95: float
    queries: int
    sql: float
    kilobytes: float
    rows_a_second: int | None = None


class Command(BaseCommand):
    help = (
        "Measure how long the pages of admin and shop and the reads of the API take on the orders of this "
        "database, in this process and one after the other. It logs in as an administrator that is there, "
        "makes a key for the machine client with the most orders, and fills a cart: log-in, key and cart are "
        "deleted at the end, and nothing else is written. `seed_orders` makes orders."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--rounds", type=int, default=20, help="requests a page (default 20)")
        parser.add_argument("--only", default="", help="only pages whose name contains this")
        parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["rounds"] <= 10_000:
            raise CommandError("--rounds takes a number from 1 to 10000.", returncode=2)
        orders = Order.objects.count()
        if orders < FEWEST:
            raise CommandError(
                f"There are {orders} orders; figures mean something from {FEWEST} on: run seed_orders first."
            )
        user = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
        if user is None:
            raise CommandError("There is no administrator to log in as: run createsuperuser first.")
        with ExitStack() as stack:
            # Requests are still counted, but none is refused for being one too many.
            stack.enter_context(override_settings(API_REQUESTS_PER_MINUTE=10**9))
            staff = stack.enter_context(logged_in(user))
            self.clients = {Door.STAFF: staff}
            pages = [list_pages(user, staff)]
            machine = find_busiest_client()
            if machine is not None:
                self.clients[Door.PROGRAM] = stack.enter_context(showing_a_key(machine))
                pages.append(list_api(self.clients[Door.PROGRAM], machine))
            if is_there(SHOP["cart"]):
                self.clients[Door.CUSTOMER] = stack.enter_context(filling_a_cart(FILLED_WITH))
                self.clients[Door.LARGE_CUSTOMER] = stack.enter_context(filling_a_cart(MAX_LINES))
                pages.append(list_shop())
            measured = [
                self.measure(page, options["rounds"])
                for page in chain.from_iterable(pages)
                if options["only"] in page.name
            ]
        if options["json"]:
            self.stdout.write(json.dumps({"orders": orders, "pages": [asdict(one) for one in measured]}))
        else:
            self.show(orders, measured)
        broken = [one.page for one in measured if one.status >= 400]
        if broken:
            raise CommandError(f"These pages did not answer: {', '.join(broken)}.")

    def measure(self, page: Page, rounds: int) -> Figures:
        """Ask for the page: once to warm up and count queries, then `rounds` times."""
        print(f"{page.name} ...", file=sys.stderr)
        client = self.clients[page.door]
        with CaptureQueriesContext(connection) as captured:
            answer = get_page(client, page.url)
        queries = [float(query["time"]) for query in captured]  # the next request clears the log
        taken = [get_page(client, page.url) for _ in range(EXPORTS if page.name == EXPORT else rounds)]
        times = [one.first_byte for one in taken]
        return Figures(
            page=page.name,
            url=page.url,
            status=answer.status,
            best=round(min(times) * 1000, 1),
            p50=round(statistics.median(times) * 1000, 1),
            p95=round((statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]) * 1000, 1),
            queries=len(queries),
            sql=round(sum(queries) * 1000, 1),
            kilobytes=round(answer.size / 1024, 1),
            rows_a_second=(
                round(answer.lines / min(one.seconds for one in taken))
                if page.name == EXPORT and answer.status == 200
                else None
            ),
        )

    def show(self, orders: int, measured: list[Figures]) -> None:
        """The figures as a table."""
        width = max((len(one.page) for one in measured), default=4)
        self.stdout.write(f"{orders} orders; milliseconds\n")
        self.stdout.write(f"{'page':<{width}}  status    best     p50     p95  queries     SQL      kB")
        for one in measured:
            rows = f"  {one.rows_a_second} rows a second" if one.rows_a_second else ""
            self.stdout.write(
                f"{one.page:<{width}}  {one.status:>6} {one.best:>7.1f} {one.p50:>7.1f} "
                f"{one.p95:>7.1f}  {one.queries:>7} {one.sql:>7.1f} {one.kilobytes:>7.1f}{rows}"
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its status, seconds to its first byte and to its end, bytes and lines."""

    status: int
    first_byte: float
    seconds: float
    size: int
    lines: int


def get_page(client: Client, url: str) -> Answer:
    """Ask for a page and read it to its end; only a streamed one has a first byte before that."""
    began = time.perf_counter()
    response = cast("HttpResponseBase", client.get(url, secure=settings.HTTPS))
    if isinstance(response, StreamingHttpResponse):
        size = lines = 0
        first_byte = None
        for part in cast("Iterator[bytes]", response.streaming_content):
            first_byte = first_byte or time.perf_counter()
            size, lines = size + len(part), lines + part.count(b"\n")
    else:
        first_byte = time.perf_counter()
        content = cast("HttpResponse", response).content
        size, lines = len(content), content.count(b"\n")
    ended = time.perf_counter()
    return Answer(response.status_code, (first_byte or ended) - began, ended - began, size, lines)


def build_client(**headers: str) -> Client:
    """A browser or program in this process, at a host the site answers to."""
    return Client(SERVER_NAME=settings.ALLOWED_HOSTS[0].lstrip(".*") or "localhost", headers=headers)


@contextmanager
def logged_in(user: User) -> Iterator[Client]:
    """A browser that is logged in as `user`."""
    client = build_client()
    client.force_login(user)
    try:
        yield client
    finally:
        client.logout()


def find_busiest_client() -> ApiClient | None:
    """The machine client with the most orders; None if none has any."""
    return (
        ApiClient.objects.annotate(placed=Count("orders"))
        .filter(placed__gt=0)
        .order_by("-placed", "pk")
        .first()
    )


@contextmanager
def showing_a_key(machine: ApiClient) -> Iterator[Client]:
    """A program with a key of the machine client's that is gone afterwards."""
    new = create_key(client=machine, name="bench_pages", scopes=[Scope.READ])
    try:
        yield build_client(Authorization=f"Bearer {new.secret}")
    finally:
        new.key.delete()


@contextmanager
def filling_a_cart(count: int) -> Iterator[Client]:
    """A customer with so many products in the cart, or as many as there are."""
    client = build_client()
    sold = Product.objects.filter(is_active=True, stock__available__gt=0).order_by("sku")
    for sku in sold.values_list("sku", flat=True)[:count]:
        client.post(FILLING, {"sku": sku, "quantity": 1}, secure=settings.HTTPS)
    try:
        yield client
    finally:
        client.logout()


def is_there(path: str) -> bool:
    """Whether the site has a page at the address."""
    try:
        resolve(path)
    except Resolver404:
        return False
    return True


def list_api(client: Client, machine: ApiClient) -> Iterator[Page]:
    """The reads of the API, as the machine client with the most orders asks for them."""

    def read(path: str) -> dict[str, Any]:
        answer = client.get(path, secure=settings.HTTPS)
        found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
        return found

    orders = reverse("api-orders")
    yield Page("API: products", reverse("api-products"), Door.PROGRAM)
    if first := read(orders):
        yield Page("API: orders", orders, Door.PROGRAM)
        yield Page("API: orders, 100 a page", f"{orders}?page_size=100", Door.PROGRAM)
        yield Page("API: orders, next page", first["next"], Door.PROGRAM)
        for status in (OrderStatus.CANCELLED, OrderStatus.PENDING):
            yield Page(f"API: orders, {status}", f"{orders}?status={status}", Door.PROGRAM)
    own = Order.objects.filter(client=machine).order_by("-number")
    longest = own.annotate(rows=Count("trail")).order_by("-rows", "pk")
    for name, found in {"newest": own, "long trail": longest}.items():
        path = reverse("api-order", args=[found.values_list("pk", flat=True)[0]])
        yield Page(f"API: order, {name}", path, Door.PROGRAM)
        if read(f"{path}trail/"):
            yield Page(f"API: trail, {name}", f"{path}trail/", Door.PROGRAM)


def list_shop() -> Iterator[Page]:
    """The pages of the shop, as a customer with something in the cart asks for them."""
    for name, path in SHOP.items():
        yield Page(f"shop: {name}", path, Door.CUSTOMER)
    for name in ("cart", "checkout"):
        yield Page(f"shop: {name}, full", SHOP[name], Door.LARGE_CUSTOMER)
    newest = Order.objects.order_by("-number").values_list("pk", flat=True)
    orders = {"newest order": newest, "order rolled back": newest.filter(status=OrderStatus.CANCELLED)}
    for name, found in orders.items():
        yield Page(f"shop: {name}", f"/{ORDER_PATH.format(signed=sign_order(found[0]))}", Door.CUSTOMER)


def list_pages(user: User, client: Client) -> Iterator[Page]:
    """Every page of the admin that is measured, with examples from the middle of what the database holds."""
    orders, rollbacks = reverse("admin:orders_order_changelist"), reverse("admin:orders_rollback_changelist")
    yield Page("front page", reverse("admin:index"))
    changelist = open_list(Order, user)
    yield Page("orders", orders)
    yield Page("orders: page 50", f"{orders}?{urlencode({PAGE_VAR: 50})}")
    by_total = find_column(changelist, "total")
    if by_total is not None:
        yield Page("orders: by total", f"{orders}?{urlencode({ORDER_VAR: f'-{by_total}'})}")
    yield from list_filters("orders", orders, changelist, client)
    yield from list_searches(orders)
    yield Page("rollbacks", rollbacks)
    yield from list_filters("rollbacks", rollbacks, open_list(Rollback, user), client)
    yield Page(EXPORT, reverse("admin:orders_order_export"))
    long_trail = TrailEntry.objects.values("order").annotate(rows=Count("pk")).order_by("-rows", "order")[0]
    yield Page("order: long trail", reverse("admin:orders_order_change", args=[long_trail["order"]]))
    newest = Order.objects.order_by("-accepted_at").values_list("pk", flat=True)[0]
    yield Page("order: newest", reverse("admin:orders_order_change", args=[newest]))
    yield Page("place an order", reverse("admin:orders_order_add"))
    product = Product.objects.order_by("pk")[0]
    yield Page("product", reverse("admin:inventory_product_change", args=[product.pk]))
    for model in admin.site._registry:
        meta = model._meta
        if meta.app_label != "auth" and model not in (Order, Rollback):
            name = str(meta.verbose_name_plural)
            yield Page(f"list: {name}", reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist"))


def list_searches(orders: str) -> Iterator[Page]:
    """One search of each kind of thing that staff search for."""
    middle = Order.objects.order_by("-accepted_at").only("number", "customer_email")[FEWEST // 2]
    charged = Payment.objects.exclude(charge_id="").order_by("-pk").values_list("charge_id", flat=True)
    wanted = {
        "number": str(middle.number),
        "e-mail": middle.customer_email,
        "part of an e-mail": middle.customer_email.partition("@")[0][:6],
        "SKU": Product.objects.order_by("sku").values_list("sku", flat=True)[0],
        "payment reference": charged[0],
        "nothing found": "no such thing",
    }
    for name, text in wanted.items():
        yield Page(f"search: {name}", f"{orders}?{SEARCH_VAR}={quote(text)}")


def open_list(model: type[Model], user: User) -> ChangeList:
    """The admin's list of a model as `user` opens it."""
    request = RequestFactory().get("/")
    request.user = user
    return admin.site._registry[model].get_changelist_instance(request)


def find_column(changelist: ChangeList, field: str) -> int | None:
    """The number of the column that sorts by `field`."""
    for number, name in enumerate(changelist.list_display):
        if changelist.get_ordering_field(name) == field:
            return number
    return None


def list_filters(name: str, url: str, changelist: ChangeList, client: Client) -> Iterator[Page]:
    """Of each filter the choice that takes longest, and a month and a day of the date hierarchy."""
    for spec in changelist.filter_specs:
        queries = {str(choice["query_string"]) for choice in spec.choices(changelist)} - {"?"}
        if queries:
            slowest = max(sorted(queries), key=lambda query: get_page(client, f"{url}{query}").seconds)
            yield Page(f"{name}: {slowest.lstrip('?')}", f"{url}{slowest}")
    field = changelist.date_hierarchy
    if isinstance(field, str):
        newest = changelist.root_queryset.order_by(f"-{field}").values_list(field, flat=True)[0]
        day = timezone.localtime(cast("datetime", newest))
        month = {f"{field}__year": day.year, f"{field}__month": day.month}
        yield Page(f"{name}: a month", f"{url}?{urlencode(month)}")
        yield Page(f"{name}: a day", f"{url}?{urlencode(month | {f'{field}__day': day.day})}")
