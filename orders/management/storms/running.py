"""One storm from its first order to its verdict."""

import json
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from orders.management.stack import StackError
from orders.management.storms.actors import Actors
from orders.management.storms.clients import GOODS, Shoppers, make_wishes
from orders.management.storms.course import Course
from orders.management.storms.havoc import Killers, clear_faults, set_faults
from orders.management.storms.plans import CALM, Storm
from orders.management.storms.progress import Progress
from orders.management.storms.results import Result
from orders.management.storms.servers import Scene
from orders.management.storms.verdict import (
    Promises,
    count_duplicates,
    find_unsettled,
    judge,
    read_facts,
    read_orders,
)

# A storm that takes longer has gone wrong in a way of its own.
LONGEST = 15 * 60.0
TICK = 0.25
# Seconds the actors have left when the last order is accepted and the last kill has struck.
OVERTIME = 60.0
# Rules that ask Temporal or the gateway leave out orders that have changed in the last minute.
AUDIT_AFTER = 62.0


def count_scarce(storm: Storm) -> int:
    """Products of two units, each wanted by four at once."""
    return max(2, storm.orders // 40)


@dataclass
class Backdrop:
    """A scene and what was promised on it, which several short storms share one after the other."""

    scene: Scene
    promises: Promises = field(default_factory=lambda: Promises(accepted={}))


def run_storm(storm: Storm, backdrop: Backdrop, *, seed: int, commit: str) -> Result:
    """Carry the storm out, wait for the calm, and judge. Raises StackError when the stack itself ends."""
    began = time.monotonic()
    scene, promises = backdrop.scene, backdrop.promises
    progress = Progress(storm.name)
    progress.say(f"{storm.orders} orders, {storm.title}, seed {seed}")
    course = Course(storm, seed)
    lost_before = read_facts(scene.environment).lost_attempts
    faults = _rage(course, backdrop, progress)
    calm_since = time.monotonic()
    left = _wait_for_calm(scene, progress)
    settled_after = time.monotonic() - calm_since
    counts = course.tally.counts
    counts["seconds of calm until all were settled"] = round(settled_after)
    facts = read_facts(scene.environment)
    violations = [*course.tally.notes, *judge(facts, promises)]
    if left and not violations:
        violations.append(f"{left} orders were not settled after {CALM:.0f} s of calm")
    if not storm.is_short:
        _wait_out(calm_since + AUDIT_AFTER, progress)
    violations += audit_books(scene)
    counts["attempts whose end nobody saw"] = facts.lost_attempts - lost_before
    counts["duplicate mails"] = count_duplicates(facts.arrived)
    for kind, number in course.killed.items():
        counts[f"{kind} kills"] = number
    if storm.fault_rate:
        counts["gateway faults"] = faults
    result = Result(
        test=storm.name,
        title=storm.title,
        n=course.accepted,
        of="orders",
        faults=course.killed.total() + faults,
        violations=violations,
        seed=seed,
        seconds=round(time.monotonic() - began, 1),
        commit=commit,
        is_short=storm.is_short,
        counts={name: number for name, number in sorted(counts.items()) if number},
    )
    progress.say(
        f"{result.n} orders, {result.faults} faults, {len(violations)} violations, "
        f"settled after {settled_after:.0f} s of calm, {result.seconds:.0f} s in all"
    )
    return result


def _rage(course: Course, backdrop: Backdrop, progress: Progress) -> int:
    """Until the last order is accepted and the last kill has struck. Returns the gateway's faults."""
    storm, scene = course.storm, backdrop.scene
    gateway = scene.environment["PAYMENT_GATEWAY_URL"]
    wishes = make_wishes(course, goods=GOODS, scarce=scene.take_scarce(count_scarce(storm)))
    shoppers = Shoppers(course, wishes=wishes, address=scene.address, secret=scene.supply["key"], goods=GOODS)
    actors = None
    killers = Killers(course, scene)
    try:
        if storm.has_actors:
            actors = Actors(course, shoppers, secret=scene.supply["key"], staff=scene.supply["staff"])
            actors.start()
        if storm.fault_rate:
            set_faults(gateway, rate=storm.fault_rate, seed=course.seed % 2**32)
        killers.start()
        shoppers.start()
        overtime: float | None = None
        while not _is_over(shoppers, killers, actors, overtime):
            if overtime is None and shoppers.are_done() and killers.are_done():
                overtime = time.monotonic() + OVERTIME
            if time.monotonic() - course.began > LONGEST:
                raise StackError(f"The storm {storm.name} has not ended within {LONGEST / 60:.0f} minutes.")
            if course.failure:
                raise StackError(f"The storm {storm.name} broke off: {course.failure!r}") from course.failure
            scene.check_alive()
            struck = ", ".join(f"{number} {kind} kills" for kind, number in course.killed.items())
            progress.show(course.accepted, storm.orders, struck)
            time.sleep(TICK)
        if course.failure:
            raise StackError(f"The storm {storm.name} broke off: {course.failure!r}") from course.failure
        if storm.fault_rate:
            _wait_until_paid(scene, progress)
            return clear_faults(gateway)
        return 0
    finally:
        course.end()
        # A server that is being started again must not outlive the stop of the others, and what an actor is
        # told by a request that is under way counts as well.
        for thread in (*killers.threads, *(actors.threads if actors else ())):
            if thread.ident is not None:
                thread.join()
        backdrop.promises.accepted |= shoppers.placed.orders
        if actors is not None:
            backdrop.promises.cancelled |= actors.told_cancelled
            backdrop.promises.shipped |= actors.told_shipped


def _is_over(shoppers: Shoppers, killers: Killers, actors: Actors | None, overtime: float | None) -> bool:
    """Whether everybody has done his part; actors who lag behind are sent home when `overtime` has passed."""
    if not (shoppers.are_done() and killers.are_done()):
        return False
    return actors is None or actors.are_done() or (overtime is not None and time.monotonic() > overtime)


def _wait_until_paid(scene: Scene, progress: Progress) -> None:
    """Until nine of ten orders are settled: a slow machine charges long after it has accepted, and faults
    that end before would strike few. At most as long as the calm."""
    deadline = time.monotonic() + CALM
    while time.monotonic() < deadline:
        orders = read_orders(scene.environment["DATABASE_URL"])
        left = len(find_unsettled(orders))
        progress.show(len(orders) - left, len(orders), "settled, with faults")
        if left * 10 <= len(orders):
            return
        time.sleep(TICK)


def _wait_for_calm(scene: Scene, progress: Progress) -> int:
    """Wait until every order is settled, CALM seconds at most. Returns how many are not."""
    deadline = time.monotonic() + CALM
    while True:
        with suppress(psycopg.OperationalError):  # it may still recover; the deadline decides
            orders = read_orders(scene.environment["DATABASE_URL"])
            left = len(find_unsettled(orders))
            progress.show(len(orders) - left, len(orders), "settled")
            if not left:
                return 0
            if time.monotonic() > deadline:
                return left
        if time.monotonic() > deadline + CALM:
            raise StackError("The database does not answer after the storm.")
        time.sleep(TICK)


def _wait_out(until: float, progress: Progress) -> None:
    while (left := until - time.monotonic()) > 0:
        progress.show(int(AUDIT_AFTER - left), int(AUDIT_AFTER), "seconds of calm before the audit")
        time.sleep(min(left, 1.0))


def audit_books(scene: Scene) -> list[str]:
    """What the auditor finds, the gateway's ledger included."""
    return read_audit(scene.run_manage("audit", "--gateway", "--json", "--told", "1000"))


def read_audit(ended: "subprocess.CompletedProcess[str]") -> list[str]:
    """The violations in an auditor's answer. Nothing may be left out, and its exit code must agree."""
    try:
        report = json.loads(ended.stdout)
        found = [f"auditor: {violation['sentence']}" for violation in report["violations"]]
        found += [f"the auditor left out {whom}: {why}" for whom, why in report["left_out"].items()]
    except (ValueError, KeyError, TypeError):
        return [f"the auditor ended with {ended.returncode} and no report: {ended.stderr[-500:]}"]
    if not found and ended.returncode != 0:
        found = [f"the auditor ended with {ended.returncode} and no finding: {ended.stderr[-500:]}"]
    return found
