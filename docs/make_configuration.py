"""Writes docs/configuration.md from the docstrings of harness/config.py; run it after a change there."""

import ast
from pathlib import Path

from harness import config

HEAD = """\
# Configuration

`.autoresearch/config.toml` is written by `harness init` with every key of its profile. A key that is left out
takes the profile's default. `harness doctor` checks the file. A change of most keys makes another setting.
Scores before and after it don't compare, and `main` is measured again.

This page is made from the code by `python docs/make_configuration.py`.
"""
SECTIONS = {
    "task": "TaskConfig",
    "data": "DataConfig",
    "trial": "RunConfig",
    "gate": "GateConfig",
    "notify": "NotifyConfig",
}


def docstrings() -> dict[str, dict[str, str]]:
    """What stands below each field, by class and field."""
    tree = ast.parse(Path(config.__file__).read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            pairs = zip(node.body, node.body[1:], strict=False)
            found[node.name] = {
                field.target.id: " ".join(said.value.value.split())
                for field, said in pairs
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
                and isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant)
            }  # fmt: skip
    return found


def page() -> str:
    lines, said = [HEAD], docstrings()
    lines.append("`profile` is `gpu` or `cpu`: which defaults hold.\n")
    for section, name in SECTIONS.items():
        lines.append(f"## [{section}]\n")
        lines.append("| key | gpu | cpu | what it is |\n|---|---|---|---|")
        gpu, cpu = getattr(config.GPU, section), getattr(config.CPU, section)
        for key, text in said[name].items():
            text = text.replace("|", "\\|")
            lines.append(f"| `{key}` | {getattr(gpu, key)} | {getattr(cpu, key)} | {text} |")
        lines.append("")
    lines.append("## [data] of other tasks\n")
    names = ("images", "tabular", "toy")
    lines.append(f"| key | {' | '.join(names)} | what it is |\n|---|---|---|---|---|")
    for key, text in said["ItemsConfig"].items():
        values = (getattr(config.ITEMS[name][0], key) for name in names)
        lines.append(f"| `{key}` | {' | '.join(map(str, values))} | {text} |")
    budgets = ", ".join(f"{name} {config.ITEMS[name][1]:g} and {config.ITEMS[name][2]:g}" for name in names)
    lines.append(f"\nTheir budgets, with a GPU and without, in seconds: {budgets}.\n")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(page(), encoding="utf-8")
