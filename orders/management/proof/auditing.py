"""The auditor over a large made-up past: it finds nothing, and it is quick."""

import json
import time
from pathlib import Path

from orders.management.storms.results import Result
from orders.management.storms.running import read_audit
from orders.management.storms.servers import Scene, opened

ORDERS = 100_000
ORDERS_IN_SHORT = 2_000
# What the auditor may take, the services of others left out.
SECONDS = 10.0


def audit_seeded_orders(*, place: Path, seed: int, commit: str, is_full: bool) -> Result:
    """Seed orders on a stack of our own, which has the production's settings, and audit them."""
    began = time.monotonic()
    orders = ORDERS if is_full else ORDERS_IN_SHORT
    with opened(Scene(place / "auditor", variables={})) as scene:
        scene.manage("migrate", "--verbosity", "0")
        scene.manage("seed_orders", "--count", str(orders), "--seed", str(seed), timeout=1800)
        ended = scene.run_manage("audit", "--json")
    violations = read_audit(ended)
    report = json.loads(ended.stdout)
    if report["orders"] != orders:
        violations.append(f"{report['orders']} of {orders} orders were looked at")
    if report["seconds"] > SECONDS:
        violations.append(f"it took {report['seconds']:.1f} s, and may take {SECONDS:.0f}")
    if not violations:
        scene.remove()
    return Result(
        test="auditor",
        title="the auditor over seeded orders",
        n=report["orders"],
        of="orders",
        faults=0,
        violations=violations,
        seed=seed,
        seconds=round(time.monotonic() - began, 1),
        commit=commit,
        is_short=not is_full,
        counts={"rules": len(report["rules"]), "milliseconds": round(report["seconds"] * 1000)},
    )
