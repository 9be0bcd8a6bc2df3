"""Where git finds its hooks in a repository."""

import os

from harness.store.repo import Repository


class Hooks:
    """Attributes: `own`, where git looks while `core.hooksPath` is not set."""

    def __init__(self, repository: Repository) -> None:
        self._config, self.own = repository.git.config, repository.common / "hooks"

    @property
    def path(self) -> str | None:
        """`core.hooksPath`, where it is set."""
        return self._config["core.hooksPath"] if "core.hooksPath" in self._config else None  # noqa: SIM401

    @path.setter
    def path(self, path: str) -> None:
        self._config["core.hooksPath"] = path

    @property
    def earlier(self) -> list[str]:
        """Names of the hooks that a person had there: our shims call them, so that they go on working."""
        if not self.own.is_dir():
            return []
        found = (path for path in self.own.iterdir() if path.suffix != ".sample")
        return sorted(path.name for path in found if os.access(path, os.X_OK))
