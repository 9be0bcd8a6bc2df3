"""The experiment: a GPT for one GPU, in one file. Edit anything here; nothing else counts.

Covers the model, its optimizer, the schedule and the loop. Doesn't cover the clock, the data, or the
score: those are the harness's, and `run` is all that this file knows of it. Every run trains for the
same time, so a change has to pay for itself in seconds. `ops` has fast versions of a few formulas; plain
PyTorch in their place gives the same, only slower.
"""

import json
from dataclasses import asdict, dataclass
from functools import partialmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import Tensor, nn

from harness import ops, trial

# ── hyperparameters; `harness init` fits those of the first part to the machine ───────────────

DEPTH = 8  # layers
WIDTH = 512  # channels of the residual stream
HEAD_DIM = 128
SHORT_WINDOW = 256  # tokens that a layer with a short window looks back
TOTAL_BATCH_SIZE = 262144  # tokens of an optimizer step
DEVICE_BATCH_SIZE = 128  # rows of one forward and backward pass; halved if they don't fit
DROPOUT = 0.5  # of what a layer adds, where a run sees its text often
NGRAM_ROWS = 1048576  # of a table of hashed n-grams, where it sees most of it once; 0 for no tables
TOKENS_A_SECOND = 1900000  # about what is trained here: with it a run knows how often it will see its text
COMPILE = torch.cuda.is_available()

MLP_RATIO = 4
WINDOW_PATTERN = "SSSL"  # repeated over the layers; S short, L the whole row; the last is always L
VALUE_EMBEDDING_EVERY = 2  # layers, counted back from the last one; 0 for none
NGRAM_ORDERS = (2, 3)  # tokens that an n-gram table looks at, its own and those before it
SOFTCAP = 15.0
ROPE_BASE = 200000.0

MATRIX_LR = 0.03
EMBEDDING_LR = 0.7  # this and the next for a width of 512
UNEMBEDDING_LR = 0.006
SCALAR_LR = 0.03
WEIGHT_DECAY = 0.1  # of matrices
MOMENTUM = 0.95
ADAM_BETAS = (0.8, 0.95)
WARMUP_RATIO = 0.0  # part of the budget
WARMDOWN_RATIO = 0.7  # part of the budget, at its end
FINAL_LR_FRAC = 0.05  # where the warm-down ends, as a part of the full rate
MAX_STEPS = None  # stop after so many steps, for runs that must be the same to the bit


# ── model ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Config:  # everything that `load` needs to rebuild the model
    vocab_size: int
    seq_len: int
    dtype: str  # of the stream and the products
    depth: int = DEPTH
    width: int = WIDTH
    head_dim: int = HEAD_DIM
    short_window: int = SHORT_WINDOW
    window_pattern: str = WINDOW_PATTERN
    value_embedding_every: int = VALUE_EMBEDDING_EVERY
    mlp_ratio: int = MLP_RATIO
    softcap: float = SOFTCAP
    rope_base: float = ROPE_BASE
    ngram_rows: int = 0
    ngram_orders: tuple[int, ...] = NGRAM_ORDERS

    @property
    def heads(self) -> int:
        return max(1, self.width // self.head_dim)

    def window(self, layer: int) -> int:
        short = self.window_pattern[layer % len(self.window_pattern)] == "S" and layer < self.depth - 1
        return min(self.short_window, self.seq_len) if short else self.seq_len

    def has_value_embedding(self, layer: int) -> bool:
        every = self.value_embedding_every
        return every > 0 and (self.depth - 1 - layer) % every == 0

    @property
    def orders(self) -> tuple[int, ...]:  # of the n-grams that there are tables of
        return tuple(self.ngram_orders) if self.ngram_rows else ()


def norm(x: Tensor) -> Tensor:  # RMSNorm without a gain: https://arxiv.org/abs/1910.07467
    return F.rms_norm(x, (x.size(-1),), eps=1e-6)


def hashed(tokens: Tensor, order: int, rows: int) -> Tensor:
    """Which row of a table each token (B, T) has with the `order - 1` before it in its row: (B, T) int64."""
    mixed = tokens.long()
    for back in range(1, order):
        mixed = mixed * 36313 + F.pad(tokens.long(), (back, 0))[:, : tokens.size(1)] + 1
    mixed = mixed * 2654435761
    return (mixed ^ (mixed >> 29)) % rows


class Linear(nn.Linear):  # no bias; float32 weights, used in the type of the input
    __init__ = partialmethod(nn.Linear.__init__, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.heads, self.window = config.heads, config.window(layer)
        inner = config.heads * config.head_dim  # as a rule the width
        self.query = Linear(config.width, inner)
        self.key = Linear(config.width, inner)
        self.value = Linear(config.width, inner)
        self.out = Linear(inner, config.width)
        # How much of each value embedding a head mixes in, by what the token is about: the embedding is of
        # https://arxiv.org/abs/2410.17897, the gate and the hashed n-grams of KellerJordan/modded-nanogpt.
        gates = (1 + len(config.orders)) * self.heads
        self.gate = Linear(min(32, config.width), gates) if config.has_value_embedding(layer) else None

    def forward(self, x: Tensor, embeddings: list[Tensor], cos: Tensor, sin: Tensor) -> Tensor:
        heads = (*x.shape[:2], self.heads, -1)  # (B, T, H, D)
        # One product for both, which reads x once; as weights they stay apart, for Muon's sake.
        qk = F.linear(x, torch.cat([self.query.weight, self.key.weight]).to(x.dtype))
        q, k = ops.norm_rope(qk.view(*x.shape[:2], 2, self.heads, -1), cos, sin)
        v = self.value(x).view(heads)
        if self.gate is not None:
            gates = 2 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))  # (B, T, H) each
            for gate, embedding in zip(gates.chunk(len(embeddings), -1), embeddings, strict=True):
                v = torch.addcmul(v, gate.unsqueeze(-1), embedding.view(heads))
        return self.out(ops.causal_attention(q, k, v, self.window).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = Linear(config.width, config.mlp_ratio * config.width)
        self.down = Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu_squared_mlp(x, self.up.weight, self.down.weight)


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)
        # Weights of the stream and of the embedding it began as, after KellerJordan/modded-nanogpt.
        self.mix = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.dropout = 0.0  # https://jmlr.org/papers/v15/srivastava14a.html

    def forward(self, x, first, embeddings, cos, sin):  # (B, T, C)
        mix = self.mix.to(x.dtype)
        x = mix[0] * x + mix[1] * first
        x = x + self.dropped(self.attention(norm(x), embeddings, cos, sin))
        return x + self.dropped(self.mlp(norm(x)))

    def dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout > 0 else x


class GPT(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers, inner = range(config.depth), config.heads * config.head_dim
        dtype = getattr(torch, config.dtype)
        self.embedding = nn.Embedding(config.vocab_size, config.width, dtype=dtype)
        valued = [str(layer) for layer in layers if config.has_value_embedding(layer)]
        self.value_embeddings = nn.ModuleDict(
            {layer: nn.Embedding(config.vocab_size, inner, dtype=dtype) for layer in valued}
        )
        ngrams = [nn.Embedding(config.ngram_rows, inner, dtype=dtype) for _ in config.orders]
        self.ngrams = nn.ModuleList(ngrams)
        self.blocks = nn.ModuleList([Block(config, layer) for layer in layers])
        self.head = Linear(config.width, config.vocab_size)
        cos, sin = ops.rope_tables(config.seq_len, config.head_dim, config.rope_base)  # (T, D)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def initialize(self) -> None:
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight", "gate.weight")):
                weight.zero_()  # every block begins as the identity
            elif name.startswith("ngrams"):
                weight.zero_()
            elif name in ("embedding.weight", "head.weight"):
                weight.normal_(std=1.0 if name == "embedding.weight" else 0.001)
            elif weight.ndim == 2:
                weight.uniform_(-1, 1).mul_((3 / self.config.width) ** 0.5)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) in float32, or the mean loss if `targets` are given; tokens are (B, T)."""
        x = first = norm(self.embedding(tokens))
        pairs = zip(self.ngrams, self.config.orders, strict=True)
        ngrams = [table(hashed(tokens, order, self.config.ngram_rows)) for table, order in pairs]
        values = {int(layer): [table(tokens), *ngrams] for layer, table in self.value_embeddings.items()}
        for layer, block in enumerate(self.blocks):
            x = block(x, first, values.get(layer, []), self.cos, self.sin)
        x = norm(x)
        if targets is None:
            return ops.softcap(self.head(x), self.config.softcap)
        rows, goal = x.flatten(0, 1), targets.flatten()
        return ops.softcapped_cross_entropy(rows, self.head.weight, goal, self.config.softcap).mean()

    def flops_per_token(self) -> float:
        """Forward and backward, embeddings left out: https://arxiv.org/abs/2204.02311, appendix B."""
        tables = "embedding", "value_embeddings", "ngrams"
        matrices = sum(p.numel() for n, p in self.named_parameters() if n.partition(".")[0] not in tables)
        spans = sum(self.config.window(layer) for layer in range(self.config.depth))
        return 6 * matrices + 12 * self.config.width * spans


# ── optimizer ─────────────────────────────────────────────────────────────────────────────────


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: a quintic Newton-Schulz iteration, by K. Jordan et al.,
    "Muon", https://kellerjordan.github.io/posts/muon/."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices  # (N, rows, columns)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised in `dtype`; for the matrices of the blocks, same shapes in one batch. Weight
    decay only where it pulls the way the step goes: https://arxiv.org/abs/2411.16085."""

    def __init__(self, matrices, lr: float, momentum: float, weight_decay: float, dtype: torch.dtype) -> None:
        by_shape: dict[torch.Size, list] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        super().__init__([{"params": p, "full_lr": lr} for p in by_shape.values()], {"lr": lr})
        self.momentum, self.weight_decay, self.dtype = momentum, weight_decay, dtype
        self.update = torch.compile(self._update, dynamic=False, disable=not COMPILE)

    def _update(self, weights, gradients, velocity, rate):  # (N, rows, columns) each
        velocity.lerp_(gradients, 1 - self.momentum)
        step = orthogonalize(gradients.lerp(velocity, self.momentum).to(self.dtype)).to(weights.dtype)
        step = step * max(1.0, weights.size(-2) / weights.size(-1)) ** 0.5
        return weights - rate * (step + self.weight_decay * weights * (step * weights > 0))

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            params = group["params"]
            weights = torch.stack([p.data for p in params])
            gradients = torch.stack([p.grad for p in params])
            state = self.state[params[0]]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(gradients)
            rate = torch.tensor(group["lr"])  # stays on the CPU: to copy it would wait for the GPU
            new = self.update(weights, gradients, state["velocity"], rate)
            torch._foreach_copy_([p.data for p in params], list(new.unbind()))


def make_optimizers(model: GPT) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.blocks.named_parameters() if p.ndim == 2 and "gate" not in n]
    tables = [e.weight for e in (model.embedding, *model.value_embeddings.values(), *model.ngrams)]
    known = {id(p) for p in [*matrices, *tables, model.head.weight]}
    scalars = [p for p in model.parameters() if id(p) not in known]
    scale = (WIDTH / 512) ** -0.5
    rates = (
        (tables, EMBEDDING_LR * scale),
        ([model.head.weight], UNEMBEDDING_LR * scale),
        (scalars, SCALAR_LR),
    )
    groups = [{"params": params, "lr": lr, "full_lr": lr} for params, lr in rates]
    adam = torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=1e-10, weight_decay=0.0, fused=True)
    return [adam, Muon(matrices, MATRIX_LR, MOMENTUM, WEIGHT_DECAY, model.embedding.weight.dtype)]


def lr_scale(progress: float) -> float:
    """Trapezoid over the budget, https://arxiv.org/abs/2405.18392."""
    rise = progress / WARMUP_RATIO if WARMUP_RATIO else 1.0
    fall = (1 - progress) / max(WARMDOWN_RATIO, 1e-9)
    return min(1.0, rise, FINAL_LR_FRAC + (1 - FINAL_LR_FRAC) * fall)


# ── training ──────────────────────────────────────────────────────────────────────────────────


def train_step(model, optimizers, tokens, targets, rows: int, scale: float) -> Tensor:
    """One optimizer step on (B, T) tokens, `rows` of them at a time; returns the mean loss, on the device."""
    total = torch.zeros((), device=tokens.device)
    for inputs, goals in zip(tokens.split(rows), targets.split(rows), strict=True):
        loss = model(inputs, goals) * (len(inputs) / len(tokens))
        loss.backward()
        total += loss.detach()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * scale
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total


def load(checkpoint_dir: Path, device: torch.device) -> GPT:
    """The trained model, for scoring: tokens (B, T) int64 -> logits (B, T, V)."""
    config = Config(**json.loads((checkpoint_dir / "config.json").read_text()))
    with device:
        model = GPT(config)
    load_model(model, str(checkpoint_dir / "model.safetensors"))
    return model.eval()


def main() -> None:
    run = trial.open()
    torch.manual_seed(run.seed)
    torch.set_float32_matmul_precision("high")
    passes = TOKENS_A_SECOND * run.budget_seconds / run.train_tokens
    ngram_rows = NGRAM_ROWS if passes < 1.6 else 0  # at a second pass they know the text by heart
    with run.device:
        config = Config(run.vocab_size, run.seq_len, run.dtype, ngram_rows=ngram_rows)
        plain = GPT(config)
    plain.initialize()
    for block in plain.blocks:
        block.dropout = DROPOUT if passes > 2.8 else 0.0
    optimizers = make_optimizers(plain)
    model = torch.compile(plain, dynamic=False, disable=not COMPILE)

    # Compile and warm up before the clock starts: at a rate of 0 no weight moves.
    batch_rows = TOTAL_BATCH_SIZE // run.seq_len
    rows = run.fit_rows(
        min(DEVICE_BATCH_SIZE, batch_rows),
        lambda rows: train_step(model, optimizers, *run.dummy_batch(batch_rows), rows, scale=0.0),
    )
    for optimizer in optimizers:
        optimizer.state.clear()
    plain(*run.dummy_batch(4))  # uncompiled, as `submit` asks it: what that loads is loaded
    with torch.no_grad():
        plain(run.dummy_batch(1)[0])  # scoring's own kernels: they are kept for it

    for (tokens, targets), step in zip(run.batches(batch_rows), range(MAX_STEPS or 10**9), strict=False):
        progress = step / MAX_STEPS if MAX_STEPS else run.progress
        run.log(step, train_step(model, optimizers, tokens, targets, rows, lr_scale(progress)))

    (run.checkpoint_dir / "config.json").write_text(json.dumps(asdict(plain.config)))
    run.submit(plain, flops_per_token=plain.flops_per_token(), loss=plain)


if __name__ == "__main__":
    main()
