"""The storms there are: how many orders, what strikes while they run, at full size and in short."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

# The environment of a storm's web process and workers: as in production, with shorter waits, so that more
# is tried again, and more arrives too late, in the minutes that a storm lasts.
SETTINGS = {
    "SAGA_ATTEMPT_TIMEOUT": "6",
    "PAYMENT_GATEWAY_TIMEOUT": "3",
    "DATABASE_LOCK_TIMEOUT": "4",
    "SAGA_RETRY_INITIAL": "0.5",
    "SAGA_RETRY_MAXIMUM": "5",
    "SAGA_RELEASE_AFTER": "5",
    # The storm's one client asks as much as a whole day's customers.
    "API_REQUESTS_PER_MINUTE": "0",
    "WORKER_DB_THREADS": "4",
    "WORKER_GRACE": "5",
    "LOG_LEVEL": "INFO",
}
# Seconds of calm after which no order may be stuck.
CALM = 60.0
# Longer than the gateway's time-out above, so that a client has gone when an answer comes.
HANG = 4.0


@dataclass(frozen=True, slots=True)
class Storm:
    """What one storm does. Kills are spread over the orders: none strikes a system at rest."""

    name: str
    title: str
    orders: int
    # The least that placing the orders takes; a storm that kills waits for its kills besides.
    seconds: float
    workers: int = 4
    worker_kills: int = 0
    # Seconds between two kills of workers, at least and at most. A supervisor whose workers all die within
    # ten seconds, again and again, takes the code for broken and ends, as it should.
    worker_pause: tuple[float, float] = (2.5, 5.5)
    postgres_kills: int = 0
    temporal_kills: int = 0
    # Seconds for which a killed server stays away, at least and at most.
    outage: tuple[float, float] = (2.0, 8.0)
    # The share of requests to the gateway that meet a fault.
    fault_rate: float = 0.0
    # The three who race for each order: customer, warehouse, support.
    has_actors: bool = False
    is_short: bool = False


FULL: Mapping[str, Storm] = {
    storm.name: storm
    for storm in (
        Storm("workers", "workers killed", orders=200, seconds=60, worker_kills=24),
        Storm("postgres", "PostgreSQL killed", orders=100, seconds=45, postgres_kills=3),
        Storm("temporal", "Temporal killed", orders=100, seconds=45, temporal_kills=3),
        Storm("gateway", "gateway faults", orders=500, seconds=120, fault_rate=0.3),
        Storm("actors", "three actors race", orders=100, seconds=45, has_actors=True),
        Storm(
            "all",
            "everything at once",
            orders=900,
            seconds=600,
            worker_kills=60,
            worker_pause=(5.0, 11.0),
            postgres_kills=4,
            temporal_kills=4,
            fault_rate=0.3,
            has_actors=True,
        ),
    )
}

_IN_SHORT: Mapping[str, dict[str, Any]] = {
    "workers": {"orders": 24, "seconds": 6, "worker_kills": 4, "worker_pause": (0.5, 1.5)},
    "postgres": {"orders": 20, "seconds": 5, "postgres_kills": 1},
    "temporal": {"orders": 20, "seconds": 5, "temporal_kills": 1},
    "gateway": {"orders": 30, "seconds": 5},
    "actors": {"orders": 20, "seconds": 5},
    "all": {
        "orders": 30,
        "seconds": 15,
        "worker_kills": 3,
        "worker_pause": (2.0, 4.0),
        "postgres_kills": 1,
        "temporal_kills": 1,
    },
}
SHORT: Mapping[str, Storm] = {
    name: replace(FULL[name], workers=2, is_short=True, outage=(1.0, 2.0), **changes)
    for name, changes in _IN_SHORT.items()
}
