"""Refuses to load anywhere but beside a test's database; otherwise puts the switches in."""

from pathlib import Path

from django.apps import AppConfig
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


class SwitchesConfig(AppConfig):
    name = "tests.switches"
    label = "switches"

    def ready(self) -> None:
        database = settings.DATABASES["default"].get("NAME", "")
        if not (settings.EMBEDDED and database.startswith("test_")):
            raise ImproperlyConfigured(
                "tests.switches stops and breaks things on purpose. It loads only beside the local services, "
                f"with a database whose name begins with test_; this one is {database!r}. "
                "Set DJANGO_SETTINGS_MODULE to config.settings."
            )
        # These load models, which a settings module must not.
        from tests.switches import guards, points

        directory, unguarded = settings.CRASH_POINTS, settings.UNGUARDED  # type: ignore[misc]
        if directory:
            points.put_in(Path(directory))
        guards.put_in(lambda guard: guard in unguarded or points.goes_without(guard))
