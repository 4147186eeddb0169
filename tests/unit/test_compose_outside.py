"""The ports, images, rights and mounts of docker-compose.yml, and what it gives the database."""

import re

import pytest
import yaml
from django.conf import settings

from tests.compose import COMPOSE, OURS, PROJECT, SERVICES, WEB, read_example


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
