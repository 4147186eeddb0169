"""docker-compose.yml, Dockerfile and .env.example agree with each other, the settings and the code."""

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands, load_command_class
from gunicorn.config import Config  # type: ignore[import-untyped]

from orders.api.waiting import MAX_WAIT
from orders.supervisor import SUPERVISOR_MARGIN
from tests.compose import (
    COMPOSE,
    LONG_RUNNING,
    ONE_SHOT,
    OURS,
    PROJECT,
    SECRET_NAME,
    SERVICES,
    VARIABLE,
    WEB,
    list_environment,
    read_example,
    read_seconds,
    read_settings_variables,
)

# --- order of start, health, end ---


def test_dependencies_exist_and_are_waited_for() -> None:
    for name, service in SERVICES.items():
        for needed, wait in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
            assert needed in SERVICES, f"{name} needs {needed}"
            assert wait == {"condition": expected}, f"{name} needs {needed}"


def test_whoever_uses_the_database_waits_for_its_schema() -> None:
    for name in ("web", "workers"):
        assert "migrate" in SERVICES[name]["depends_on"]
    assert "temporal-schema" in SERVICES["temporal"]["depends_on"]
    assert "temporal-namespace" in SERVICES["workers"]["depends_on"]


@pytest.mark.parametrize("name", LONG_RUNNING)
def test_long_running_services_are_checked_and_restarted(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert len(check["test"]) > 1
    assert read_seconds(check["timeout"]) <= read_seconds(check["interval"])
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_postgres_is_asked_by_tcp() -> None:
    # On its socket file it already answers while the first start is still making the databases.
    assert "-h 127.0.0.1" in " ".join(SERVICES["postgres"]["healthcheck"]["test"])


def test_workers_have_time_to_drain() -> None:
    workers = SERVICES["workers"]
    grace = float(workers["environment"]["WORKER_GRACE"])
    assert grace >= settings.WORKER_GRACE
    # The supervisor ends everything after grace and margin; the rest is for its last words.
    assert read_seconds(workers["stop_grace_period"]) >= grace + SUPERVISOR_MARGIN + 5
    assert workers["init"] is True


def test_web_has_time_to_drain() -> None:
    assert read_seconds(SERVICES["web"]["stop_grace_period"]) > WEB.graceful_timeout


# --- variables and secrets ---


def test_example_has_exactly_the_variables_of_compose() -> None:
    used = {match[1] for match in VARIABLE.finditer(COMPOSE)}
    passed_on = {variable for _, variable, value in list_environment() if value is None}
    assert set(read_example()) == used | passed_on


def test_example_shows_the_defaults() -> None:
    example = read_example()
    defaults = {match[1]: match[3] for match in VARIABLE.finditer(COMPOSE) if match[2] in {":-", "-"}}
    passed_on = {variable for _, variable, value in list_environment() if value is None}
    read = read_settings_variables()
    expected = defaults | {variable: read[variable] for variable in passed_on}
    # The one the example sets, so that a first try on one machine needs no certificate.
    assert {name for name, value in expected.items() if example[name] != value} == {"DJANGO_HTTPS"}
    assert expected["DJANGO_HTTPS"] == "1"


def test_our_containers_get_only_variables_the_settings_read() -> None:
    given = {variable for name, variable, _ in list_environment() if name in OURS}
    assert len(given) > 20
    assert given <= set(read_settings_variables())


def test_our_containers_are_told_every_service() -> None:
    # manage.py would otherwise try to start one of its own.
    for name in set(OURS) - {"payment-gateway"}:
        given = SERVICES[name]["environment"]
        for variable in ("DATABASE_URL", "TEMPORAL_ADDRESS", "PAYMENT_GATEWAY_URL", "EMAIL_HOST"):
            assert given[variable], f"{name}: {variable}"
        assert "ORDER_DESK_EMBEDDED" not in given
        assert "DJANGO_DEBUG" not in given


def test_no_secret_is_written_down() -> None:
    for name, variable, value in list_environment():
        if SECRET_NAME.search(variable):
            assert re.fullmatch(r"\$\{\w+(:\?set it in \.env|:-)\}", str(value)), f"{name}: {variable}"
        if variable == "DATABASE_URL":
            assert re.match(r"postgresql://orders:\$\{ORDERS_DB_PASSWORD:\?set it in \.env\}@", str(value))
    for variable, value in read_example().items():
        assert not (SECRET_NAME.search(variable) and value), variable
    dockerfile = (PROJECT / "Dockerfile").read_text()
    assert not re.search(r"^(ENV|ARG).*(PASSWORD|SECRET|_KEY)", dockerfile, re.MULTILINE)


def test_missing_secret_stops_compose() -> None:
    required = {match[1] for match in VARIABLE.finditer(COMPOSE) if match[2] == ":?"}
    optional = {match[1] for match in VARIABLE.finditer(COMPOSE) if match[2] != ":?"}
    secrets = {variable for variable in read_example() if SECRET_NAME.search(variable)}
    assert required & optional == set()
    assert secrets - {"EMAIL_HOST_PASSWORD", "DJANGO_SECRET_KEY_FALLBACKS"} <= required
    assert "DJANGO_ALLOWED_HOSTS" in required


# --- commands ---


def test_our_management_commands_parse() -> None:
    for name in OURS:
        command = SERVICES[name]["command"]
        if command[:2] == ["python", "manage.py"]:
            verb, *arguments = command[2:]
            parser = load_command_class(get_commands()[verb], verb).create_parser("manage.py", verb)
            parser.parse_args(arguments)  # raises CommandError for an option that does not exist


def test_gunicorn_is_configured_as_it_must_be() -> None:
    assert SERVICES["web"]["command"][0] == "gunicorn"
    assert WEB.wsgi_app == "config.wsgi"
    assert WEB.bind == ["0.0.0.0:8000"]
    assert WEB.worker_class_str == "gthread"
    assert WEB.control_socket_disable is True
    assert WEB.worker_tmp_dir == "/tmp"  # noqa: S108
    assert WEB.preload_app


def test_gunicorn_keeps_connections_longer_than_proxies_and_clients() -> None:
    # nginx keeps those to its upstreams for 60 s.
    assert WEB.keepalive > 60
    assert WEB.worker_connections >= 10 * WEB.threads


def test_gunicorn_has_time_and_threads_left_beside_long_polls() -> None:
    assert WEB.graceful_timeout > MAX_WAIT
    assert WEB.threads >= 2 * settings.API_LONG_POLLS


def test_everybody_serves_by_the_same_settings() -> None:
    image = re.findall(r"^CMD (.*)", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    assert yaml.safe_load(image[0]) == SERVICES["web"]["command"]
    assert '"config" / "gunicorn.py"' in (PROJECT / "orders" / "management" / "stack.py").read_text()
    # One place only: an option on the command line would win over the file.
    assert [option.partition("=")[0] for option in SERVICES["web"]["command"][1:]] == ["--config", "--bind"]


def test_gunicorn_settings_are_all_known_to_it() -> None:
    # gunicorn passes over names that it does not know, so a slip would go unnoticed.
    path = PROJECT / "config" / "gunicorn.py"
    names = [
        target.id
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]
    assert len(names) > 10
    assert [name for name in names if name not in Config().settings] == []


def test_gateway_starts_and_passes_its_health_check(tmp_path: Path) -> None:
    service = SERVICES["payment-gateway"]
    command = " ".join(service["command"]).replace("--port=8090", "--port=0")
    ledger = "/var/lib/payment-gateway/ledger.sqlite"
    assert ledger in command
    assert any(volume.endswith(f":{Path(ledger).parent}") for volume in service["volumes"])
    command = command.replace(ledger, str(tmp_path / "ledger.sqlite")).replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    with subprocess.Popen(
        [sys.executable, *command.split()[1:]], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    ) as gateway:
        try:
            assert gateway.stdout is not None
            address = re.search(r"http://127\.0\.0\.1:\d+", gateway.stdout.readline())
            assert address
            assert run_check("payment-gateway", "http://127.0.0.1:8090", address[0]) == 0
        finally:
            gateway.terminate()
    assert run_check("payment-gateway", "http://127.0.0.1:8090", address[0]) == 1


def run_check(name: str, here: str, there: str) -> int:
    """The exit code of a service's health check, with one of its words replaced."""
    program, flag, script = SERVICES[name]["healthcheck"]["test"][1:]
    assert (program, flag) == ("python", "-c")
    assert here in script
    done = subprocess.run([sys.executable, "-c", script.replace(here, there)], capture_output=True)
    return done.returncode


def test_workers_health_check_reads_the_age_of_the_heartbeat(tmp_path: Path) -> None:
    file = tmp_path / "ready"
    option = next(word for word in SERVICES["workers"]["command"] if word.startswith("--heartbeat="))
    path = option.removeprefix("--heartbeat=")
    assert run_check("workers", path, str(file)) == 1
    file.touch()
    assert run_check("workers", path, str(file)) == 0
    past = time.time() - 30
    os.utime(file, (past, past))
    assert run_check("workers", path, str(file)) == 1


# A crew of two; the second says that it is ready once a file is there, and ends once that is gone.
CREW = """
import sys
from pathlib import Path
from orders import supervisor

supervisor.HEARTBEAT_INTERVAL = 0.05
supervisor.FIRST_PAUSE = 30.0  # a dead child stays dead for as long as the test looks
child = '''
import sys, time
from pathlib import Path
go = Path(sys.argv[1])
while not go.exists():
    time.sleep(0.02)
print("ready: yes", flush=True)
while go.exists():
    time.sleep(0.02)
'''
folder = Path(sys.argv[1])
sys.exit(
    supervisor.supervise(
        lambda index: [sys.executable, "-c", child, str(folder / ("." if index == 1 else "go"))],
        count=2, grace=0.5, directory=folder, heartbeat=folder / "heartbeat",
    )
)
"""


def test_heartbeat_needs_every_worker(tmp_path: Path) -> None:
    heartbeat, go = tmp_path / "heartbeat", tmp_path / "go"

    def is_renewed(within: float) -> bool:
        heartbeat.unlink(missing_ok=True)
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and not heartbeat.exists():
            time.sleep(0.02)
        return heartbeat.exists()

    crew = subprocess.Popen([sys.executable, "-c", CREW, str(tmp_path)], cwd=PROJECT, stderr=subprocess.PIPE)
    try:
        assert crew.stderr is not None
        assert b"[worker-1] ready: yes" in crew.stderr.readline()
        assert not is_renewed(within=0.5)  # one of two
        go.touch()
        assert is_renewed(within=10)
        assert is_renewed(within=10)  # and again
        go.unlink()
        time.sleep(0.5)
        assert not is_renewed(within=0.5)
    finally:
        crew.terminate()
        crew.communicate(timeout=20)
