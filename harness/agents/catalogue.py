"""Structural edits of the starter train.py that `search` tries besides its constants.

Each is a set of exact replacements; one that doesn't apply to the incumbent any more is skipped.
"""

from dataclasses import dataclass


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


# What a kernel does for one way of computing goes with it.
FUSED_MLP = (
    "        fits = kept is None or x.size(1) % 128 == 0  # a kernel's tile is of one row of the batch\n"
    "        if HAS_KERNELS and fits and x.dtype == torch.bfloat16 and not is_scoring(x.device):\n"
    "            up, down = self.up.weight.to(x.dtype), self.down.weight.to(x.dtype)\n"
    "            down = down[None] if kept is None else narrow(down, *kept)\n"
    "            y = fused_mlp(x.flatten(0, -2), up, down)[0].view(*x.shape[:2], -1)\n"
    "            return y if kept is None else widen(y, *kept)\n"
)
FUSED_RELU = (
    "        if is_scoring(x.device):  # the ReLU inside the product, with a bias of nothing\n"
    "            up = self.up.weight.to(x.dtype)\n"
    "            return torch._addmm_activation(up.new_zeros(len(up)), x.flatten(0, 1), up.T).square_()\n"
)
FUSED_LOSS = (
    "        if targets is not None and HAS_KERNELS and x.dtype == torch.bfloat16:\n"
    "            weight = self.head.weight.to(x.dtype)\n"
    "            return fused_cross_entropy(x.flatten(0, 1), weight, targets.flatten(), cap)[0].mean()\n"
)
FUSED_CAP = "        if HAS_KERNELS and is_scoring(x.device):\n            return capped(self.head(x), cap)\n"

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
            (FUSED_LOSS, ""),
            (FUSED_CAP, ""),
            ("logits = cap * torch.tanh(self.head(x).float() / cap)", "logits = self.head(x).float()"),
        ),
    ),
    Edit(
        "Use GELU in place of squared ReLU",
        "A smooth activation passes a gradient everywhere.",
        ((FUSED_MLP, ""), (FUSED_RELU, ""), ("F.relu(self.up(x)).square()", "F.gelu(self.up(x))")),
    ),
    Edit(
        "Use SiLU in place of squared ReLU",
        "A smooth activation passes a gradient everywhere, and its outputs have a smaller range.",
        ((FUSED_MLP, ""), (FUSED_RELU, ""), ("F.relu(self.up(x)).square()", "F.silu(self.up(x))")),
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
                "    return min(1.0, rise, FINAL_LR + (1 - FINAL_LR) * fall)\n",
                "    left = 1 - math.cos(math.pi * min(1.0, fall))\n"
                "    return min(rise, FINAL_LR + (1 - FINAL_LR) * left / 2)\n",
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
