"""What strikes while orders are placed: kill -9 of workers and servers, and faults at the gateway."""

import threading
from collections.abc import Callable

import httpx

from orders.management.storms.course import Course, StormAborted, have_ended
from orders.management.storms.plans import HANG
from orders.management.storms.servers import Scene

# Each as likely as the others; together they are the storm's share. `answer_lost` does what it was asked
# for and then is silent: once until the client gives up, once with a reset at once.
FAULTS: list[dict[str, object]] = [
    {"fault": "answer_lost", "seconds": HANG},
    {"fault": "answer_lost"},
    {"fault": "error_500"},
    {"fault": "rate_limited", "seconds": 1},
    {"fault": "reset"},
    {"fault": "hang", "seconds": HANG},
]


def set_faults(address: str, *, rate: float, seed: int) -> None:
    """Let that share of the gateway's requests meet a fault."""
    each = rate / len(FAULTS)
    with httpx.Client(base_url=address, trust_env=False, timeout=10) as gateway:
        for number, fault in enumerate(FAULTS):
            # The gateway asks them in this order, so each is asked only when those before did not fire.
            share = each / (1 - each * number)
            wish = {"operation": "*", "rate": share, "seed": seed * 100 + number, **fault}
            gateway.post("/faults", json=wish).raise_for_status()


def clear_faults(address: str) -> int:
    """Calm: no more faults. Returns how many have struck."""
    with httpx.Client(base_url=address, trust_env=False, timeout=10) as gateway:
        struck = sum(fault["fired"] for fault in gateway.get("/faults").raise_for_status().json()["faults"])
        gateway.delete("/faults").raise_for_status()
        return int(struck)


class Killers:
    """The threads that kill; each ends when it has done its share."""

    def __init__(self, course: Course, scene: Scene) -> None:
        self.course = course
        self.scene = scene
        storm = course.storm
        todo: dict[str, tuple[int, Callable[[int], None]]] = {
            "worker": (storm.worker_kills, self._kill_workers),
            "postgres": (storm.postgres_kills, lambda kills: self._kill_server("postgres", kills)),
            "temporal": (storm.temporal_kills, lambda kills: self._kill_server("temporal", kills)),
        }
        course.kills = {kind: kills for kind, (kills, _) in todo.items() if kills}
        self.threads = [
            threading.Thread(target=self._guard, args=(kill, kills), name=f"{kind}-killer", daemon=True)
            for kind, (kills, kill) in todo.items()
            if kills
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def are_done(self) -> bool:
        return have_ended(self.threads)

    def _guard(self, kill: Callable[[int], None], kills: int) -> None:
        try:
            kill(kills)
        except StormAborted:
            return
        except BaseException as error:
            self.course.fail(error)

    def _kill_workers(self, kills: int) -> None:
        import psutil  # comes with the embedded services

        dice = self.course.make_random("worker kills")
        for number in range(kills):
            self.course.wait_to_kill(number, kills, dice)
            # One that is ready: killing an interpreter that still loads its modules proves little.
            while not (ready := self.scene.find_ready_workers()):
                self.scene.check_alive()
                self.course.pause(0.1)
            try:
                psutil.Process(dice.choice(ready)).kill()
            except psutil.NoSuchProcess:
                continue
            self.course.note_kill("worker")
            self.course.pause(dice.uniform(*self.course.storm.worker_pause))

    def _kill_server(self, name: str, kills: int) -> None:
        dice = self.course.make_random(f"{name} kills")
        server = self.scene.servers[name]
        for number in range(kills):
            self.course.wait_to_kill(number, kills, dice)
            self.course.count(f"processes of {name} killed", server.kill())
            away = dice.uniform(*self.course.storm.outage)
            try:
                self.course.pause(away)
            finally:
                server.start()
            self.course.note_kill(name)
