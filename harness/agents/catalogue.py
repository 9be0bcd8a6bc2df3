"""Structural edits of the starter train.py that `search` tries besides its constants.

Each is a set of exact replacements; one that doesn't apply to the incumbent any more is skipped. Those of
text are here. Another task has its own in a file, `edits.toml`.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from harness.errors import HarnessError


@dataclass(frozen=True)
class Edit:
    title: str
    hypothesis: str
    changes: tuple[tuple[str, str], ...]

    def applied(self, source: str) -> str | None:
        """The edited program; None where some text to replace isn't there exactly once."""
        for old, new in self.changes:
            if source.count(old) != 1:
                return None
            source = source.replace(old, new)
        return source


def read(path: Path) -> tuple[Edit, ...]:
    """Of an `edits.toml`: a table `[[edit]]` each, `changes` are pairs of old and new text. None if it is
    missing.

    Raises:
        HarnessError: it is none; one line.
    """
    if not path.exists():
        return ()
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))["edit"]
        changes = [tuple((old, new) for old, new in each["changes"]) for each in found]
        said = [(str(each["title"]), str(each["hypothesis"])) for each in found]
        return tuple(Edit(*about, pairs) for about, pairs in zip(said, changes, strict=True))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise HarnessError(f"{path} is no list of edits: {error!r}", f"edit {path}") from None


MLP = "ops.relu_squared_mlp(x, self.up.weight, self.down.weight)"

CATALOGUE = (
    Edit(
        "Leave the value embeddings out",
        "They cost a lookup and optimizer time; with few steps they may not learn enough to pay for it.",
        (("VALUE_EMBEDDING_EVERY = 2 ", "VALUE_EMBEDDING_EVERY = 0 "),),
    ),
    Edit(
        "Give every layer a value embedding",
        "Value embeddings add capacity at hardly any computation.",
        (("VALUE_EMBEDDING_EVERY = 2 ", "VALUE_EMBEDDING_EVERY = 1 "),),
    ),
    Edit(
        "Look back over the whole row in every layer",
        "Rows are short enough that a window saves little and hides context.",
        (('WINDOW_PATTERN = "SSSL"', 'WINDOW_PATTERN = "L"'),),
    ),
    Edit(
        "Alternate short and long windows",
        "More layers with full context, at half of the price of all.",
        (('WINDOW_PATTERN = "SSSL"', 'WINDOW_PATTERN = "SL"'),),
    ),
    Edit(
        "Leave the soft cap of the logits out",
        "The cap is for stability; a short run may not need it, and it costs a pass over the logits.",
        (
            ("ops.softcap(self.head(x), self.config.softcap)", "self.head(x).float()"),
            (
                "ops.softcapped_cross_entropy(rows, self.head.weight, goal, self.config.softcap).mean()",
                "F.cross_entropy(self.head(rows).float(), goal)",
            ),
        ),
    ),
    Edit(
        "Use GELU in place of squared ReLU",
        "A smooth activation passes a gradient everywhere.",
        ((MLP, "self.down(F.gelu(self.up(x)))"),),
    ),
    Edit(
        "Use SiLU in place of squared ReLU",
        "A smooth activation passes a gradient everywhere, and its outputs have a smaller range.",
        ((MLP, "self.down(F.silu(self.up(x)))"),),
    ),
    Edit(
        "Do not normalise the first embedding",
        "Frequent and rare tokens could use the scale of their vectors.",
        (("x = first = norm(self.embedding(tokens))", "x = first = self.embedding(tokens)"),),
    ),
    Edit(
        "Mix half of the embedding into every block from the start",
        "What a token is stays useful in all layers; the weight is learned, but slowly.",
        (("torch.tensor([1.0, 0.0])", "torch.tensor([1.0, 0.5])"),),
    ),
    Edit(
        "Decay the learning rate by a cosine",
        "A cosine spends more time at middle rates than a trapezoid's straight end.",
        (
            (
                "    return min(1.0, rise, FINAL_LR_FRAC + (1 - FINAL_LR_FRAC) * fall)\n",
                "    left = 1 - math.cos(math.pi * min(1.0, fall))\n"
                "    return min(rise, FINAL_LR_FRAC + (1 - FINAL_LR_FRAC) * left / 2)\n",
            ),
            ("import json\n", "import json\nimport math\n"),
        ),
    ),
    Edit(
        "Orthogonalise with three iterations",
        "Fewer products a step; the singular values need not be exact.",
        (("steps: int = 5", "steps: int = 3"),),
    ),
    Edit(
        "Start the output projections small instead of at zero",
        "Blocks contribute from the first step, before the head has found its direction.",
        (
            (
                "            if name.endswith((\"out.weight\", \"down.weight\", \"gate.weight\")):\n"
                "                weight.zero_()",
                "            if name.endswith((\"out.weight\", \"down.weight\", \"gate.weight\")):\n"
                "                weight.normal_(std=0.02)",
            ),
        ),
    ),
)  # fmt: skip
