"""Agents that are known by name: the keys of providers; coding agents, and whether they are signed in.

Each reads its task from standard input or from $HARNESS_PROMPT, edits, and commits. A file of theirs or a key
in the environment tells that they are signed in; nothing is asked of anybody.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Known:
    name: str
    """What `--command` takes, and the program's."""
    command: str
    signed_in_by: tuple[str, ...]
    """Files below home, or variables of the environment; any of them will do."""
    sign_in: str
    page: str

    @property
    def is_here(self) -> bool:
        return shutil.which(self.name) is not None

    @property
    def is_signed_in(self) -> bool:
        return any(self._is_there(mark) for mark in self.signed_in_by)

    @staticmethod
    def _is_there(mark: str) -> bool:
        return bool(os.environ.get(mark)) if mark.isupper() else (Path.home() / mark).exists()


PROVIDERS = {  # any of them, by what a model's name begins with; other providers have other ways
    "anthropic/": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "openai/": ("OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_BASE_URL"),
    "gemini/": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "openrouter/": ("OPENROUTER_API_KEY",),
}
KEYS = tuple(names[0] for names in PROVIDERS.values())
AGENTS = (
    Known(
        "claude", 'claude -p --permission-mode acceptEdits --allowedTools "Bash(git *)"',
        (".claude/.credentials.json", "ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"),
        "claude, then /login", "https://docs.claude.com/en/docs/claude-code",
    ),
    Known(
        "codex", "codex exec --sandbox danger-full-access -",
        (".codex/auth.json", "OPENAI_API_KEY", "CODEX_API_KEY"), "codex login", "https://developers.openai.com/codex",
    ),
    Known(
        "gemini", 'gemini --yolo --skip-trust -p "Do what standard input says."',
        (".gemini/oauth_creds.json", "GEMINI_API_KEY"), "gemini", "https://geminicli.com",
    ),
    Known(
        "opencode", 'opencode run "$(cat "$HARNESS_PROMPT")"',
        (".local/share/opencode/auth.json", *KEYS), "opencode auth login", "https://opencode.ai",
    ),
    Known(
        "aider", 'aider --yes-always --no-check-update --message-file "$HARNESS_PROMPT" train.py',
        (".aider.conf.yml", *KEYS), "export one of the keys that it takes", "https://aider.chat",
    ),
    Known(
        "goose", 'GOOSE_MODE=auto goose run --instructions "$HARNESS_PROMPT"',
        (".config/goose/config.yaml",), "goose configure", "https://block.github.io/goose",
    ),
)  # fmt: skip


def command_line(said: str) -> str:
    """What `--command` means: a name stands for that agent's command line."""
    return next((agent.command for agent in AGENTS if agent.name == said.strip()), said)
