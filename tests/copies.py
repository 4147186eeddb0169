"""A copy of the project to try changes on: the worked examples of the docs are carried out there."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.processes import PROJECT, build_environment

IGNORED = shutil.ignore_patterns(".git", ".venv", ".local", ".*_cache", "__pycache__")


class ProjectCopy:
    """The project's files in a folder of their own, with the test's database and services."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        # So that git sees a plain folder, and not a repository above the copy.
        self.ceiling = str(folder)
        shutil.copytree(PROJECT, self.folder, ignore=IGNORED)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, **build_environment(), "GIT_CEILING_DIRECTORIES": self.ceiling}

    def try_run(
        self, *command: str, text: str | None = None, timeout: float = 250
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy, however it ends."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def run(self, *command: str, text: str | None = None) -> str:
        """Run a command that has to succeed, and return its output."""
        done = self.try_run(*command, text=text)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def apply_example(self, page: str) -> None:
        """Apply the patch that stands in this page of the docs."""
        patch = re.search(r"```diff\n(.*?)```", (PROJECT / "docs" / page).read_text(), re.DOTALL)
        assert patch is not None
        self.run("git", "apply", "-", text=patch[1])
