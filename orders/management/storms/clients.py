"""The clients of a storm: they place orders over HTTP and, as the docs tell them, ask again when in doubt."""

import queue
import random
import threading
import time
from dataclasses import dataclass, field
from uuid import UUID

import httpx

from orders.management.storms.course import Course, StormAborted, have_ended

API = "/api/v1"
# Seconds a client waits for an answer, and goes on asking, before it calls the shop broken.
ANSWER_SECONDS = 5.0
PATIENCE = 240.0
CLIENTS = 8
# Buyers who want the same two units at the same moment.
RIVALS = 4
# What every storm buys, at prices of 12 to 200, so that a few pieces stay below what the bank declines.
GOODS = ["TEE-M", "MUG-STONE", "NOTE-A5", "PEN-BRASS", "HEAD-ANC", "KEYB-75"]
# How its payment goes, of a hundred orders.
TOKENS = {"tok_ok": 82, "tok_declined": 12, "tok_answer_lost_x1": 6}
TOKENS_FOR_ACTORS = {
    "tok_ok": 30,
    "tok_declined": 5,
    "tok_answer_lost_x1": 5,
    # Undos that stay stuck for some seconds, so that there is something to retry.
    "tok_ok__refund_error_500_x4": 30,
    "tok_ok__refund_reset_x4": 20,
    "tok_ok__close_hang_s4_x1": 10,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """An order somebody wants to place, at `due` seconds after the beginning."""

    index: int
    key: str
    kind: str  # plain, declined, too dear, scarce
    due: float
    items: tuple[tuple[str, int], ...]
    token: str


@dataclass
class Placed:
    """Orders that were accepted, by their Idempotency-Key. Written under the lock."""

    orders: dict[str, UUID] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, key: str, order_id: UUID) -> UUID:
        """Keep the order of this key; gives the one that is known."""
        with self.lock:
            return self.orders.setdefault(key, order_id)


def make_wishes(course: Course, *, goods: list[str], scarce: list[str]) -> list[Wish]:
    """The storm's orders, drawn from its seed: good ones, declined ones, too dear ones, and rivals."""
    storm, dice = course.storm, course.make_random("wishes")
    tokens = TOKENS_FOR_ACTORS if storm.has_actors else TOKENS
    rare = list(scarce)
    wishes: list[Wish] = []
    while len(wishes) < storm.orders:
        index = len(wishes)
        due = storm.seconds * index / storm.orders
        key = f"{storm.name}-{course.seed}-{index}"
        if rare and index >= storm.orders * (len(scarce) - len(rare) + 0.5) / len(scarce):
            sku = rare.pop()
            rivals = min(RIVALS, storm.orders - index)
            wishes += [
                Wish(index + n, f"{key}-{n}", "scarce", due, ((sku, 1),), "tok_ok") for n in range(rivals)
            ]
            continue
        if dice.random() < 0.05:  # 2700.00: the mission's own declined order
            wishes.append(Wish(index, key, "too dear", due, (("LAPTOP-14", 2),), "tok_ok"))
            continue
        token = dice.choices(list(tokens), weights=list(tokens.values()))[0]
        skus = dice.sample(goods, k=dice.choice([1, 1, 2]))
        items = tuple((sku, dice.randint(1, 2)) for sku in skus)
        kind = "declined" if token == "tok_declined" else "plain"  # noqa: S105 - not a password
        wishes.append(Wish(index, key, kind, due, items, token))
    return wishes


class Shop:
    """The shop as clients of one API key see it. Each thread has one of its own."""

    def __init__(self, address: str, secret: str, course: Course) -> None:
        self.course = course
        self.http = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {secret}"},
            timeout=ANSWER_SECONDS,
            trust_env=False,
        )

    def post(self, path: str, *, json: dict[str, object], key: str = "") -> httpx.Response:
        """Ask until there is a verdict: after a lost connection, a time-out, a 5xx, 429 or a key in use
        the same request goes out again. Raises StormAborted when the storm ends, and TimeoutError.
        """
        headers = {"Idempotency-Key": key} if key else {}
        deadline = time.monotonic() + PATIENCE
        pause = 0.2
        while time.monotonic() < deadline:
            try:
                answer = self.http.post(f"{API}{path}", json=json, headers=headers)
            except httpx.TransportError:
                self.course.count("requests without an answer")
            else:
                if not self._is_in_doubt(answer):
                    return answer
                self.course.count(f"answers {answer.status_code}")
            self.course.pause(pause)
            pause = min(pause * 2, 2.0)
        raise TimeoutError(f"no verdict within {PATIENCE:.0f} s on {path} {key}")

    def _is_in_doubt(self, answer: httpx.Response) -> bool:
        if answer.status_code >= 500 or answer.status_code == 429:
            return True
        return answer.status_code == 409 and answer.json()["type"].endswith("idempotency-key-in-use")

    def place(self, wish: Wish, *, placed: Placed, is_repeat: bool = False) -> UUID | None:
        """Place the order; None when it was refused, which stock advice may do. `is_repeat`: sent before."""
        body: dict[str, object] = {
            "customer_email": f"{wish.key}@storm.example",
            "items": [{"sku": sku, "quantity": quantity} for sku, quantity in wish.items],
            "payment_token": wish.token,
        }
        answer = self.post("/orders/", json=body, key=wish.key)
        if answer.status_code == 409 and answer.json()["type"].endswith("short-of-stock"):
            self.course.count("refused for stock before they were accepted")
            return None
        if answer.status_code != 202:
            self.course.violate(f"placing {wish.key} was answered {answer.status_code}: {answer.text[:300]}")
            return None
        order_id = UUID(answer.json()["id"])
        known = placed.note(wish.key, order_id)
        if known != order_id:
            self.course.violate(f"key {wish.key} made two orders: {known} and {order_id}")
        if "Idempotent-Replayed" in answer.headers and not is_repeat:
            self.course.count("accepted orders whose first answer was lost")
        return order_id

    def close(self) -> None:
        self.http.close()


class Shoppers:
    """The threads that place a storm's orders."""

    def __init__(
        self, course: Course, *, wishes: list[Wish], address: str, secret: str, goods: list[str]
    ) -> None:
        self.course = course
        self.placed = Placed()
        self.goods = goods
        self.address = address
        self.secret = secret
        self.wishes: queue.SimpleQueue[Wish] = queue.SimpleQueue()
        # For the actors: each order as soon as its client knows it.
        self.news: queue.SimpleQueue[UUID] = queue.SimpleQueue()
        for wish in wishes:
            self.wishes.put(wish)
        self.threads = [
            threading.Thread(target=self._shop, args=(number,), name=f"client-{number}", daemon=True)
            for number in range(CLIENTS)
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def are_done(self) -> bool:
        return have_ended(self.threads)

    def _shop(self, number: int) -> None:
        shop = Shop(self.address, self.secret, self.course)
        try:
            while True:
                try:
                    wish = self.wishes.get_nowait()
                except queue.Empty:
                    return
                self.course.wait_to_place(wish.index, wish.due)
                self._place(shop, wish)
        except StormAborted:
            return
        except BaseException as error:
            self.course.fail(error)
        finally:
            shop.close()

    def _place(self, shop: Shop, wish: Wish) -> None:
        order_id = shop.place(wish, placed=self.placed)
        if order_id is None:
            # Every wish becomes an accepted order, so that a storm is as large as it says.
            dice = self.course.make_random(f"instead of {wish.key}")
            wish = Wish(
                wish.index, f"{wish.key}-instead", "plain", 0.0, ((dice.choice(self.goods), 1),), "tok_ok"
            )
            order_id = shop.place(wish, placed=self.placed)
            if order_id is None:
                self.course.violate(f"{wish.key}, which can be had, was refused")
                return
        self._ask_again(shop, wish)
        self.course.count(f"{wish.kind} orders")
        self.news.put(order_id)
        self.course.note_accepted()

    def _ask_again(self, shop: Shop, wish: Wish) -> None:
        """Some clients lose the answer and send the request again: the same order, not another."""
        dice: random.Random = self.course.make_random(f"again {wish.key}")
        if dice.random() < 0.15:
            shop.place(wish, placed=self.placed, is_repeat=True)
            self.course.count("orders sent once more")
