"""Three who race for every order: the customer cancels, the warehouse ships, support retries stuck undos."""

import heapq
import queue
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from uuid import UUID

import httpx

from orders.management.storms.clients import ANSWER_SECONDS, Shop, Shoppers
from orders.management.storms.course import Course, StormAborted, have_ended

ACT = "/admin/orders/order/act/"
UNDOS = ("refund_payment", "release_inventory")
# Seconds after an order is accepted at which the three meet: amid its saga, or when it is complete.
MOMENTS = (0.0, 0.2, 1.0, 3.0, 5.0, 8.0)
SHIPPED = re.compile(r"Order (\d+): marked as shipped\.")
# How often support looks at an order.
LOOKS = 4
# Acts on an order; gives the seconds after which to do so again, if at all.
Act = Callable[[UUID], float | None]


class Staff:
    """Somebody logged in to the admin, who acts on orders there."""

    def __init__(self, address: str, *, user: str, password: str, course: Course) -> None:
        self.course = course
        self.user = user
        self.password = password
        self.http = httpx.Client(
            base_url=address, timeout=ANSWER_SECONDS, follow_redirects=True, trust_env=False
        )

    def log_in(self) -> None:
        """As a person does it: the form first, for its token."""
        self.http.get("/admin/login/").raise_for_status()
        form = {"username": self.user, "password": self.password, **self._make_token()}
        answer = self.http.post("/admin/login/?next=/admin/", data=form).raise_for_status()
        if "sessionid" not in self.http.cookies:
            raise RuntimeError(f"{self.user} could not log in: {answer.status_code}")

    def act(self, slug: str, targets: list[str], *, reason: str) -> str:
        """Confirm an action; gives the page that follows, and nothing when there was no answer."""
        form = {"target": targets, "reason": reason, **self._make_token()}
        try:
            answer = self.http.post(f"{ACT}{slug}/", data=form)
        except httpx.TransportError:
            self.course.count("requests without an answer")
            return ""
        if answer.status_code != 200:
            self.course.count(f"answers {answer.status_code}")
            return ""
        return answer.text

    def _make_token(self) -> dict[str, str]:
        return {"csrfmiddlewaretoken": self.http.cookies["csrftoken"]}

    def close(self) -> None:
        self.http.close()


class Actors:
    """The three threads, and what each order's actors were told: what was promised must be kept."""

    def __init__(self, course: Course, shoppers: Shoppers, *, secret: str, staff: dict[str, str]) -> None:
        self.course = course
        self.shoppers = shoppers
        self.secret = secret
        self.people = {
            role: Staff(shoppers.address, user=f"storm-{role}", password=password, course=course)
            for role, password in staff.items()
        }
        self.told_cancelled: set[UUID] = set()
        self.told_shipped: set[int] = set()  # by the order's number
        acts: dict[str, Callable[[], Act]] = {
            "customer": self._make_customer,
            "warehouse": self._make_warehouse,
            "support": self._make_support,
        }
        self.inboxes: dict[str, queue.SimpleQueue[tuple[float, UUID] | None]] = {
            name: queue.SimpleQueue() for name in acts
        }
        self.threads = [
            threading.Thread(target=self._deal_out, name="actors", daemon=True),
            *(
                threading.Thread(target=self._race, args=(name, make), name=name, daemon=True)
                for name, make in acts.items()
            ),
        ]

    def start(self) -> None:
        for person in self.people.values():
            person.log_in()
        for thread in self.threads:
            thread.start()

    def are_done(self) -> bool:
        return have_ended(self.threads)

    def _deal_out(self) -> None:
        """Each order goes to all three for the same moment: during its saga, or soon after."""
        dice = self.course.make_random("actors")
        try:
            while True:
                try:
                    order_id = self.shoppers.news.get(timeout=0.1)
                except queue.Empty:
                    if self.shoppers.are_done() and self.shoppers.news.empty():
                        break
                    self.course.pause(0)
                    continue
                moment = time.monotonic() + dice.choice(MOMENTS)
                for inbox in self.inboxes.values():
                    inbox.put((moment + dice.uniform(0, 0.02), order_id))
        except StormAborted:
            pass
        for inbox in self.inboxes.values():
            inbox.put(None)

    def _race(self, name: str, make: Callable[[], Act]) -> None:
        inbox = self.inboxes[name]
        due: list[tuple[float, UUID]] = []
        is_open = True
        try:
            act = make()
            while is_open or due:
                while is_open and not (due and due[0][0] <= time.monotonic()):
                    wait = max(due[0][0] - time.monotonic(), 0) if due else 0.1
                    try:
                        item = inbox.get(timeout=min(wait, 0.1))
                    except queue.Empty:
                        self.course.pause(0)
                        continue
                    if item is None:
                        is_open = False
                    else:
                        heapq.heappush(due, item)
                if due:
                    moment, order_id = heapq.heappop(due)
                    self.course.pause(moment - time.monotonic())
                    again = act(order_id)
                    if again is not None:
                        heapq.heappush(due, (time.monotonic() + again, order_id))
        except StormAborted:
            return
        except BaseException as error:
            self.course.fail(error)

    def _make_customer(self) -> Act:
        shop = Shop(self.shoppers.address, self.secret, self.course)
        dice = self.course.make_random("customer")

        def cancel(order_id: UUID) -> float | None:
            if dice.random() < 0.35:
                return None
            answer = shop.post(f"/orders/{order_id}/cancel/", json={"reason": "changed my mind"})
            if answer.status_code in (200, 202):
                self.told_cancelled.add(order_id)
                self.course.count("cancels accepted")
            elif answer.status_code == 409:
                self.course.count("cancels refused")
            else:
                self.course.violate(f"cancelling {order_id} was answered {answer.status_code}")
            return None

        return cancel

    def _make_warehouse(self) -> Act:
        warehouse = self.people["warehouse"]
        dice = self.course.make_random("warehouse")

        def ship(order_id: UUID) -> float | None:
            for _ in range(dice.choice([1, 1, 2])):
                page = warehouse.act("ship", [str(order_id)], reason="Handed to the carrier")
                # By its number: where an answer was lost, the next page says it of the order before.
                told = {int(number) for number in SHIPPED.findall(page)}
                self.course.count("shipments accepted", len(told - self.told_shipped))
                self.told_shipped |= told
                if told:
                    return None
                self.course.count("shipments refused")
            return None

        return ship

    def _make_support(self) -> Act:
        support = self.people["support"]
        dice = self.course.make_random("support")

        looks: Counter[UUID] = Counter()

        def retry(order_id: UUID) -> float | None:
            targets = [f"{order_id} {undo}" for undo in UNDOS]
            page = support.act("retry", targets, reason="To see whether it works")
            accepted = page.count("is tried again now.")
            self.course.count("retries accepted", accepted)
            self.course.count("retries refused", len(UNDOS) - accepted)
            looks[order_id] += 1
            # What the customer has cancelled is looked at again: its undos may be stuck by then.
            is_open = order_id in self.told_cancelled and looks[order_id] < LOOKS
            return dice.uniform(0.2, 2.5) if is_open else None

        return retry
