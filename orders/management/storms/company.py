"""Who plays which storm on which stack: each has its own at full size; short ones share theirs."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from orders.management.storms.plans import SHORT, Storm
from orders.management.storms.results import Result
from orders.management.storms.running import Backdrop, count_scarce, run_storm
from orders.management.storms.servers import Scene, opened


class Company:
    """Runs storms below `place`. Whatever it has started is stopped when its `with` ends."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.open = ExitStack()
        self.shared: Backdrop | None = None

    def __enter__(self) -> "Company":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.open.__exit__(kind, error, trace)
        if error is None and self.shared is not None:
            self.shared.scene.remove()

    def run(self, storm: Storm, *, seed: int, commit: str) -> Result:
        """Play the storm. The data of one with violations is kept, to be looked at."""
        if storm.is_short:
            return self._run_shared(storm, seed=seed, commit=commit)
        with opened(Scene(self.place / storm.name, workers=storm.workers)) as scene:
            scene.play(scarce=count_scarce(storm))
            result = run_storm(storm, Backdrop(scene), seed=seed, commit=commit)
        if result.is_clean:
            scene.remove()
        return result

    def _run_shared(self, storm: Storm, *, seed: int, commit: str) -> Result:
        if self.shared is None:
            scene = Scene(self.place / "short", workers=storm.workers)
            self.shared = Backdrop(self.open.enter_context(opened(scene)))
            scene.play(scarce=sum(map(count_scarce, SHORT.values())))
        result = run_storm(storm, self.shared, seed=seed, commit=commit)
        if not result.is_clean:  # what is wrong here is not to be found again by the next
            self.open.close()
            self.shared = None
        return result
