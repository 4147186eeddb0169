#!/usr/bin/env python
"""Django's command line; before Django loads it gets local services where no outside ones are named."""

import os
import signal
import sys
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent

COMMANDS_WITHOUT_SERVICES = {
    "check",
    "collectstatic",
    "compilemessages",
    "diffsettings",
    "findstatic",
    "help",
    "makemessages",
    "makemigrations",
    "squashmigrations",
    "startapp",
    "startproject",
    "proof",  # starts services of its own, as `storm` does
    "storm",  # starts services of its own, and kills them
    "test",  # the test suite attaches to services of its own
    "version",
}


def needs_services(arguments: list[str]) -> bool:
    """Asking for help, or a command that works on files alone, must not start a database."""
    if not arguments or arguments[0].startswith("-") or arguments[0] in COMMANDS_WITHOUT_SERVICES:
        return False
    return not {"-h", "--help", "--version"} & set(arguments)


def export_services(command: str) -> None:
    """Into the environment, so that `config/settings.py` reads local and outside services the same way."""
    from config.embedded import EmbeddedServiceError, attach_services

    try:
        environment = attach_services(BASE_DIR, command, report=lambda line: print(line, file=sys.stderr))
    except EmbeddedServiceError as error:
        print(f"manage.py {command}: {error}", file=sys.stderr)
        sys.exit(1)
    os.environ.update(environment)


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    arguments = sys.argv[1:]
    if needs_services(arguments):
        export_services(arguments[0])
    try:
        from django.core.management import execute_from_command_line
    except ImportError as error:
        raise ImportError(
            "Django cannot be imported: is it installed, and is the virtual environment active?"
        ) from error
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second one must not garble the exit
        sys.exit(130)
