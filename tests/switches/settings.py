"""The project's settings with the switches: for processes that a test starts on its own database.

CRASH_POINTS names the directory that says where attempts are held; UNGUARDED, separated by commas, the
guards to go without.
"""

import os

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS as APPS

INSTALLED_APPS = [*APPS, "tests.switches.apps.SwitchesConfig"]
CRASH_POINTS = os.environ.get("CRASH_POINTS", "")
UNGUARDED = [name for name in os.environ.get("UNGUARDED", "").split(",") if name]
