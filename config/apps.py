"""What the admin's overview calls an app that is not ours."""

from axes.apps import AppConfig


class LogInsConfig(AppConfig):  # type: ignore[misc]
    """django-axes, under a name staff understand."""

    verbose_name = "Log-ins"
