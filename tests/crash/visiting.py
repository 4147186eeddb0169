"""Somebody who uses every door of a running site: pages as staff, the API as a machine client."""

import re
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from uuid import uuid4

import httpx

from tests.crash.shopping import ask, post_order
from tests.processes import wait_until

PASSWORD = "a-good-password"

# Pages that read the database, whoever asks for them.
PAGES = [
    "/",
    "/cart/",
    "/checkout/",
    "/admin/",
    "/admin/orders/order/",
    "/admin/orders/rollback/",
    "/admin/inventory/product/",
]
OUTAGE = "We cannot reach our records just now"


class Visitor:
    """A logged-in member of staff with an API key. Waits for no answer longer than its time-outs."""

    def __init__(self, browser: httpx.Client, address: str, secret: str, *, user: str) -> None:
        self.browser = browser
        self.address = address
        self.secret = secret
        self.user = user

    def log_in(self) -> httpx.Response:
        """As a person does it: the form first, for its token."""
        self.browser.get("/admin/login/")
        token = {"csrfmiddlewaretoken": self.browser.cookies["csrftoken"]}
        form = {"username": self.user, "password": PASSWORD, **token}
        return self.browser.post("/admin/login/?next=/admin/", data=form)

    def read(self, path: str) -> str:
        """The page as a person reads it: without tags, on one line."""
        answer = self.browser.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:500])
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())

    def wait_for(self, path: str, text: str) -> None:
        """Until the page says so. What it says of Temporal may be some seconds old."""
        wait_until(lambda: text in self.read(path), f"{path} says: {text}")

    def place(self, key: str = "") -> str:
        """An order by the API; gives its id."""
        answer = post_order(self.address, self.secret, key=key or str(uuid4()))
        assert answer.status_code == 202, answer.text
        found: str = answer.json()["id"]
        return found

    def fetch(self, order_id: str) -> dict[str, object]:
        """The order as the API shows it."""
        answer = ask(self.address, self.secret, f"/orders/{order_id}/")
        assert answer.status_code == 200, answer.text
        found: dict[str, object] = answer.json()
        return found

    def check_everything_answers(self, order_id: str) -> None:
        """Every page and every read of the API is what it always is."""
        for page in [*PAGES, f"/admin/orders/order/{order_id}/change/"]:
            assert OUTAGE not in self.read(page)
        assert len(ask(self.address, self.secret, "/products/").content) > 1000
        assert self.fetch(order_id)["id"] == order_id

    def check_everything_says_so(self, order_id: str) -> None:
        """With the database away: problems with a time to come back from the API, plain pages elsewhere."""
        for path in ("/products/", f"/orders/{order_id}/"):
            check_problem(ask(self.address, self.secret, path))
        check_problem(post_order(self.address, self.secret, key=str(uuid4())))
        for page in [*PAGES, f"/admin/orders/order/{order_id}/change/"]:
            check_page(self.browser.get(page))
        token = {"csrfmiddlewaretoken": self.browser.cookies["csrftoken"]}
        form = {"username": self.user, "password": PASSWORD, **token}
        check_page(self.browser.post("/admin/login/", data=form))
        readiness = self.browser.get("/readyz")
        assert (readiness.status_code, readiness.text) == (503, "the database does not answer\n")
        health = self.browser.get("/healthz")
        assert (health.status_code, health.text) == (200, "ok\n")
        assert self.browser.get("/static/orders/failure.css").status_code == 200

    def check_every_thread_answers(self) -> None:
        """More at once than the web process has threads, so that each of them has to answer."""
        with ThreadPoolExecutor(30) as threads:
            answers = threads.map(lambda _: ask(self.address, self.secret, "/products/"), range(60))
            assert [answer.status_code for answer in answers] == [200] * 60


def check_problem(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["status"] == 503
    check_no_insides(answer)


def check_page(answer: httpx.Response) -> None:
    assert answer.status_code == 503, (str(answer.url), answer.status_code)
    assert OUTAGE in answer.text
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Cache-Control"] == "no-store"
    check_no_insides(answer)


def check_no_insides(answer: httpx.Response) -> None:
    """Nothing of the machinery is told to whoever asks."""
    assert answer.headers["X-Request-ID"]
    for word in ("Traceback", "psycopg", "OperationalError", "127.0.0.1", "connection", "File &quot;"):
        assert word not in answer.text, word
