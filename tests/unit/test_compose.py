"""docker-compose.yml, Dockerfile and .env.example agree with each other, the settings and the code."""

import ast
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands, load_command_class
from gunicorn.app.wsgiapp import WSGIApplication  # type: ignore[import-untyped]
from gunicorn.config import Config  # type: ignore[import-untyped]

from orders.api.waiting import MAX_WAIT
from orders.supervisor import SUPERVISOR_MARGIN

PROJECT = Path(__file__).resolve().parents[2]
COMPOSE = (PROJECT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("order-desk:")]
ONE_SHOT = [name for name, service in SERVICES.items() if service["restart"] == "no"]
LONG_RUNNING = [name for name in SERVICES if name not in ONE_SHOT]

# NAME, and the default after :- or - where there is one.
VARIABLE = re.compile(r"\$\{(\w+)(?:(:\?|:-|-)([^}]*))?\}")
SECRET_NAME = re.compile(r"PASSWORD|PWD|SECRET|_KEY$")


def read_gunicorn(command: list[str]) -> Config:
    """What gunicorn makes of its command line and the settings file it names."""
    program, *arguments = command
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *arguments])
        patch.chdir(PROJECT)
        return WSGIApplication(prog=program).cfg


WEB = read_gunicorn(SERVICES["web"]["command"])


def read_seconds(duration: str) -> float:
    """A compose duration such as 40s or 1m30s."""
    assert re.fullmatch(r"(\d+[ms])+", duration), duration
    return sum(int(number) * {"m": 60, "s": 1}[unit] for number, unit in re.findall(r"(\d+)([ms])", duration))


def read_example() -> dict[str, str]:
    """The variables of .env.example with their values, those that are commented out included."""
    lines = (PROJECT / ".env.example").read_text().splitlines()
    found = (re.fullmatch(r"(?:# )?([A-Z_]+)=(.*)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def read_settings_variables() -> dict[str, str | None]:
    """Every variable config/settings.py reads, with its default where that is text or a flag."""
    variables: dict[str, str | None] = {}
    for call in ast.walk(ast.parse((PROJECT / "config" / "settings.py").read_text())):
        if not isinstance(call, ast.Call):
            continue
        readers = {"os.environ.get", "read_flag", "read_list", "read_amount", "read_count", "read_seconds"}
        if ast.unparse(call.func) not in readers:
            continue
        if not isinstance(call.args[0], ast.Constant):
            continue
        default = call.args[1] if len(call.args) > 1 else next((word.value for word in call.keywords), None)
        value = default.value if isinstance(default, ast.Constant) else None
        variables[str(call.args[0].value)] = str(int(value)) if isinstance(value, bool) else value  # type: ignore[assignment]
    return variables


def list_environment() -> list[tuple[str, str, str | None]]:
    return [
        (name, variable, value)
        for name, service in SERVICES.items()
        for variable, value in service.get("environment", {}).items()
    ]


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
    assert not WEB.preload_app


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


# --- the outside: ports, images, rights ---


def test_ports_are_those_of_the_design_and_local() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "postgres": ["127.0.0.1:5432:5432"],
        "temporal": ["127.0.0.1:7233:7233"],
        "temporal-ui": ["127.0.0.1:8080:8080"],
        "mail": ["127.0.0.1:1025:1025", "127.0.0.1:8025:8025"],
        "web": ["127.0.0.1:8000:8000"],
    }


def test_workers_can_be_scaled() -> None:
    assert not {"container_name", "hostname", "ports"} & set(SERVICES["workers"])


def test_one_service_builds_our_image() -> None:
    # Several that build the same tag at the same time fail with "already exists".
    assert [name for name, service in SERVICES.items() if "build" in service] == ["migrate"]


def test_images_are_pinned() -> None:
    images = [service["image"] for name, service in SERVICES.items() if name not in OURS]
    images += re.findall(r"^FROM (\S+)", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image
    assert len({image for image in images if image.startswith("python:")}) == 1
    assert (
        len({image.split(":")[1] for image in images if "/admin-tools" in image or "/server" in image}) == 1
    )


@pytest.mark.parametrize("name", SERVICES)
def test_containers_have_no_more_rights_than_they_need(name: str) -> None:
    service = SERVICES[name]
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name != "temporal-ui":  # writes its configuration when it starts
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert "/tmp" in service["tmpfs"]  # noqa: S108
    if name in OURS:
        users = re.findall(r"^USER (\d+)", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)
        assert users
        assert int(users[-1]) >= 1000
    elif not service["image"].startswith("temporalio/"):  # those have an unprivileged user of their own
        assert service["user"] not in {"root", "0", "0:0"}


def test_mounted_files_exist() -> None:
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if volume.startswith(".")
    ]
    assert mounted
    assert [path for path in mounted if not (PROJECT / path).is_file()] == []
    volumes = {
        volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])
    } - set(mounted)
    assert volumes == set(yaml.safe_load(COMPOSE)["volumes"])


def test_temporal_reads_our_dynamic_configuration() -> None:
    temporal = SERVICES["temporal"]
    (mount,) = temporal["volumes"]
    source, target, _ = mount.split(":")
    assert temporal["environment"]["DYNAMIC_CONFIG_FILE_PATH"] == target
    values = yaml.safe_load((PROJECT / source).read_text())
    assert values["history.transferProcessorMaxPollRPS"] == [{"value": 2000}]


def test_database_has_connections_for_four_worker_containers() -> None:
    limit = int(SERVICES["postgres"]["command"][-1].removeprefix("max_connections="))
    example = read_example()
    workers = 4 * int(example["WORKER_COUNT"]) * int(example["WORKER_DB_THREADS"])
    # A web process has its threads, and those of the background loop that hands orders to Temporal.
    web = WEB.workers * (WEB.threads + settings.WORKER_DB_THREADS)
    temporal = SERVICES["temporal"]["environment"]
    parts = 4 * (int(temporal["SQL_MAX_CONNS"]) + int(temporal["SQL_VIS_MAX_CONNS"]))
    in_reserve = 20  # the superuser's own three, migrate, a person's psql, a backup
    assert workers + web + parts + in_reserve <= limit


def test_image_holds_the_code_and_nothing_else() -> None:
    lines = (PROJECT / ".dockerignore").read_text().splitlines()
    allowed = {line.strip("!/") for line in lines if line.startswith("!")}
    apps = {app for app in settings.INSTALLED_APPS if (PROJECT / app).is_dir()}
    assert next(line for line in lines if not line.startswith("#")) == "*"
    assert len(apps) >= 4
    assert allowed == apps | {"config", "templates", "manage.py", "requirements.lock", "LICENSE"}
