"""docker-compose.yml, .env.example and the variables of the settings, as data."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from gunicorn.app.wsgiapp import WSGIApplication  # type: ignore[import-untyped]
from gunicorn.config import Config  # type: ignore[import-untyped]

PROJECT = Path(__file__).resolve().parents[1]
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
    """Every variable the settings read, with its default where that is text or a flag."""
    variables: dict[str, str | None] = {}
    sources = [(PROJECT / "config" / name).read_text() for name in ("settings.py", "environment.py")]
    for call in ast.walk(ast.parse("\n".join(sources))):
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
