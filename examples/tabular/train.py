"""An ensemble of small networks for a table, trained for a fixed time.

Tables are small, and what one network makes of them is luck: here many of them see the same rows, each with
its own weights and its own dropout, as one batched product. Their answers are averaged.
"""

import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import nn

from harness import trial

MEMBERS = 64  # networks
WIDTH = 64  # of the hidden layers
DEPTH = 2  # hidden layers
BATCH_SIZE = 64
LEARNING_RATE = 0.003
WEIGHT_DECAY = 0.1
DROPOUT = 0.3
NOISE = 0.2  # added to each input, in its standard deviations


class Layers(nn.Module):
    """A linear layer for each member: (M, B, I) -> (M, B, O)."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(MEMBERS, inner, outer) / math.sqrt(inner))
        self.bias = nn.Parameter(torch.zeros(MEMBERS, 1, outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Ensemble(nn.Module):
    """Rows of a table -> logits of classes, or a number."""

    def __init__(self, columns: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        sizes = [columns, *[WIDTH] * DEPTH, classes or 1]
        self.layers = nn.ModuleList(map(Layers, sizes, sizes[1:]))

    def members(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, F) -> (M, B, O)"""
        x = rows.expand(MEMBERS, *rows.shape)
        if self.training:
            x = x + NOISE * torch.randn_like(x)
        for layer in self.layers[:-1]:
            x = F.dropout(F.relu(layer(x)), DROPOUT, self.training)
        return self.layers[-1](x)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, F) -> (B, C) logits, or (B,) numbers: what the members say on average."""
        x = self.members(rows)
        if not self.classes:
            return x.mean(dim=0).squeeze(1)
        return x.log_softmax(dim=2).logsumexp(dim=0) - math.log(MEMBERS)


def load(checkpoint_dir, device):
    """What was trained, for scoring: (B, F) float32 -> (B, C) logits or (B,) numbers."""
    model = Ensemble(*map(int, (checkpoint_dir / "sizes.txt").read_text().split()))
    load_model(model, str(checkpoint_dir / "model.safetensors"))
    return model.to(device)


def main() -> None:
    run = trial.open()
    torch.manual_seed(run.seed)
    columns, classes = run.input_shape[0], len(run.classes)
    model = Ensemble(columns, classes).to(run.device)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def loss_of(replies, targets):
        """Of one member or of their average: (B, C) or (B,)."""
        return F.cross_entropy(replies, targets) if classes else F.mse_loss(replies, targets)

    for step, (rows, targets) in enumerate(run.batches(BATCH_SIZE)):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - run.progress))
        replies = model.members(rows)
        each = replies.flatten(0, 1) if classes else replies.flatten()
        loss = loss_of(each, targets.repeat(MEMBERS))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.log(step, loss)
    (run.checkpoint_dir / "sizes.txt").write_text(f"{columns} {classes}")
    run.submit(model, loss=lambda rows, targets: loss_of(model(rows), targets))


if __name__ == "__main__":
    main()
