"""The experiment: a GPT for one GPU, in one file. Edit anything here; nothing else counts.

Covers the model, its optimizer, the schedule and the loop. Doesn't cover the clock, the data, or the
score: those are the harness's, and `run` is all that this file knows of it. Every run trains for the
same wall time, so a change has to pay for itself in seconds.
"""

import json
from dataclasses import asdict, dataclass
from functools import partialmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from harness import trial

try:  # the fused kernels; without it, or on another GPU than they are for, plain PyTorch does the same
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
except ImportError:
    triton = None

ON_GPU = torch.cuda.is_available()
GENERATION = torch.cuda.get_device_capability()[0] if ON_GPU else 0
HAS_KERNELS = triton is not None and GENERATION == 9  # Hopper

# ── hyperparameters ───────────────────────────────────────────────────────────────────────────

if ON_GPU:
    DEPTH = 8
    WIDTH = 512
    HEAD_WIDTH = 128
    SHORT_WINDOW = 128  # tokens a short-window layer looks back
    KEEP_ONE_OF = 2  # channels of what a layer adds, as dropout, if the corpus is small; it divides WIDTH
    BATCH_ROWS = 256  # rows of one optimizer step
    MICRO_BATCH_ROWS = 128  # rows of one forward and backward pass
else:
    DEPTH = 3
    WIDTH = 64
    HEAD_WIDTH = 32
    SHORT_WINDOW = 128
    KEEP_ONE_OF = 1
    BATCH_ROWS = 8
    MICRO_BATCH_ROWS = 8

MLP_RATIO = 4
WINDOW_PATTERN = "SSSL"  # repeated over the layers; S short, L the whole row; the last is always L
VALUE_EMBEDDING_EVERY = 2  # layers, counted back from the last one; 0 for none
LOGIT_CAP = 15.0
ROTARY_BASE = 10000.0
NORM_EPS = 1e-6

MATRIX_LR = 0.03
EMBEDDING_LR = 0.3
HEAD_LR = 0.006
SCALAR_LR = 0.03
WEIGHT_DECAY = 0.1  # of matrices
MOMENTUM = 0.95
ADAM_BETAS = (0.8, 0.95)
WARMUP = 0.0  # part of the budget
WARMDOWN = 0.5  # part of the budget, at its end
FINAL_LR = 0.0  # where the warm-down ends, as a part of the full rate
MAX_STEPS = None  # stop after so many steps, for runs that must be the same to the bit


# ── fused kernels ─────────────────────────────────────────────────────────────────────────────
# Where a large tensor would be read or written once more than it must be, or the compiler's kernel is slow;
# `capped` is for scoring, which isn't compiled. Each has a plain twin beside its use.

if HAS_KERNELS:

    @triton.jit
    def relu_squared_matmul_kernel(
        a, b, out, activations, rows, columns,
        inner: tl.constexpr, own_rows, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
        PROGRAMS: tl.constexpr, BACKWARD: tl.constexpr,
    ):  # fmt: skip
        across = tl.cdiv(columns, COLUMNS)
        tiles = tl.cdiv(rows, ROWS) * across
        half: tl.constexpr = COLUMNS // 2
        for tile in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=True):
            row, column = tile // across * ROWS, tile % across * COLUMNS
            sums = tl.zeros((ROWS, COLUMNS), tl.float32)
            for k in range(0, inner, INNER):
                part = b.load([row // own_rows * inner + k, column]) if BACKWARD else b.load([column, k]).T
                sums = tl.dot(a.load([row, k]), part, sums)
            # Stored by halves: what a store holds in shared memory is half as large.
            left, right = tl.split(tl.permute(tl.reshape(sums, (ROWS, 2, half)), (0, 2, 1)))
            if BACKWARD:
                left *= 2 * tl.sqrt(activations.load([row, column]).to(tl.float32))
                right *= 2 * tl.sqrt(activations.load([row, column + half]).to(tl.float32))
            else:
                left, right = tl.maximum(left, 0.0), tl.maximum(right, 0.0)
                left, right = left * left, right * right
            out.store([row, column], left.to(tl.bfloat16))
            out.store([row, column + half], right.to(tl.bfloat16))

    def relu_squared_matmul(a, b, activations=None):
        """relu(a @ b.T) ** 2, (N, K) by (M, K); or, by (B, K, M), its gradient through `activations`."""
        (rows, inner), columns = a.shape, len(b) if activations is None else b.size(-1)
        out = a.new_empty(rows, columns)
        block_rows, block_columns, block_inner = 128, 256, 64  # the fastest of 11 on an H200
        b_block = [block_columns, block_inner] if activations is None else [block_inner, block_columns]
        programs = torch.cuda.get_device_properties(a.device).multi_processor_count
        describe = TensorDescriptor.from_tensor
        relu_squared_matmul_kernel[(programs,)](
            describe(a, [block_rows, block_inner]), describe(b.flatten(0, -2), b_block),
            describe(out, [block_rows, block_columns // 2]),
            describe(out if activations is None else activations, [block_rows, block_columns // 2]),
            rows, columns, inner, rows if activations is None else rows // len(b), block_rows, block_columns,
            block_inner, programs, activations is not None, num_stages=3, num_warps=8,
        )  # fmt: skip
        return out

    @triton.jit
    def fast_tanh(x):
        return tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], tl.float32, True, 1)

    @triton.jit
    def cross_entropy_kernel(logits, targets, losses, cap, vocab_size: tl.constexpr, BLOCK: tl.constexpr):
        row, at = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
        inside, target = at < vocab_size, tl.load(targets + row).to(tl.int32)
        logits += row * vocab_size
        own = fast_tanh(tl.load(logits + target).to(tl.float32) * (1 / cap))
        tanh = fast_tanh(tl.load(logits + at, mask=inside, other=0.0).to(tl.float32) * (1 / cap))
        exps = tl.where(inside, tl.exp2(cap * 1.4426950408889634 * tanh), 0.0)  # capped: can't overflow
        total = tl.sum(exps, 0)
        tl.store(losses + row, tl.log(total) - cap * own)
        grad = tl.where(at == target, exps - total, exps) * (1 / total) * (1 - tanh * tanh)
        tl.store(logits + at, grad.to(logits.dtype.element_ty), mask=inside)

    def capped_cross_entropy_(logits, targets, cap):
        """Losses (N,) of raw logits (N, V), which are overwritten with their gradients."""
        rows, vocab_size = logits.shape
        losses, block = torch.empty(rows, device=logits.device), triton.next_power_of_2(vocab_size)
        warps = min(32, max(4, block // 1024))
        cross_entropy_kernel[(rows,)](logits, targets, losses, cap, vocab_size, block, num_warps=warps)
        return losses

    @triton.jit
    def norm_rotary_kernel(
        x, y, grad, cos, sin, tokens, seq_len, width, eps,
        D: tl.constexpr, TOKENS: tl.constexpr, BACKWARD: tl.constexpr,
    ):  # fmt: skip
        head, d = tl.program_id(1) * D, tl.arange(0, D)[None, :]
        partner = (d + D // 2) % D
        token = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS))[:, None].to(tl.int64)
        inside, row, at = token < tokens, token * 2 * width + head, token % seq_len * D + d
        y += token * width + head
        own = tl.load(x + row + d, mask=inside).to(tl.float32)
        scale = tl.rsqrt(tl.sum(own * own, 1) / D + eps)[:, None]
        if BACKWARD:
            turned = tl.load(y + d, mask=inside) * tl.load(cos + at)
            turned -= tl.load(y + partner, mask=inside) * tl.load(sin + at)
            turned -= own * (scale * scale / D * tl.sum(turned * own, 1)[:, None])
            tl.store(grad + row + d, (turned * scale).to(tl.bfloat16), mask=inside)
        else:
            turned = own * tl.load(cos + at) + tl.load(x + row + partner, mask=inside) * tl.load(sin + at)
            tl.store(y + d, (turned * scale).to(tl.bfloat16), mask=inside)

    def norm_rotary_(qk, cos, sin, y, grad):
        """Fill `y`, (B, T, C) twice, from (B, T, 2 C); or `grad`, if that isn't `qk`, from gradients `y`."""
        (batch, seq_len, width), head_width = y[0].shape, cos.size(-1)
        grid = triton.cdiv(batch * seq_len, 8), width // head_width  # larger tiles take longer to compile
        for x, out, g in zip(qk.chunk(2, -1), y, grad.chunk(2, -1), strict=True):
            norm_rotary_kernel[grid](
                x, out, g, cos, sin, batch * seq_len, seq_len, width, NORM_EPS, head_width, 8, grad is not qk
            )

    @triton.jit
    def cap_kernel(x, out, cap, count, BLOCK: tl.constexpr):
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
        tl.store(out + at, cap - 2 * cap / (1 + tl.exp(value * (2 / cap))), mask=at < count)

    def capped(x, cap):  # cap * tanh(x / cap) in float32
        out = torch.empty(x.shape, device=x.device)
        cap_kernel[(triton.cdiv(x.numel(), 1024),)](x, out, cap, x.numel(), 1024)
        return out


@torch.library.custom_op("train::mlp", mutates_args=())
def fused_mlp(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) by (F, C) and (B, D, F), all bf16: (N, D), and h, the only wide tensor that is kept."""
    h = relu_squared_matmul(x, up)
    return (h.view(len(down), -1, len(up)) @ down.mT).flatten(0, 1), h


@torch.library.custom_op("train::mlp_grad", mutates_args=())
def mlp_grad(grad: Tensor, x: Tensor, up: Tensor, down: Tensor, h: Tensor) -> list[Tensor]:
    grad = grad.contiguous()
    inner = relu_squared_matmul(grad, down, h)
    to_down = grad.view(len(down), -1, down.size(1)).mT @ h.view(len(down), -1, len(up))
    return [inner @ up, inner.T @ x, to_down]


@torch.library.custom_op("train::norm_rotary", mutates_args=())
def fused_norm_rotary(qk: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys, (B, T, C) each, normalised by head and rotated; from (B, T, 2 C), all bf16."""
    y = tuple(torch.empty_like(part) for part in qk.chunk(2, -1))
    norm_rotary_(qk, cos, sin, y, qk)
    return y


@torch.library.custom_op("train::norm_rotary_grad", mutates_args=())
def fused_norm_rotary_grad(qk: Tensor, cos: Tensor, sin: Tensor, q: Tensor, k: Tensor) -> Tensor:
    grad = torch.empty_like(qk)
    norm_rotary_(qk, cos, sin, (q.contiguous(), k.contiguous()), grad)
    return grad


@torch.library.custom_op("train::cross_entropy", mutates_args=())
def fused_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """Losses (N,) of capped logits, and the logits' gradients (N, V), made in the logits' memory."""
    logits = x @ weight.T
    return capped_cross_entropy_(logits, targets, cap), logits


def cross_entropy_backward(ctx, grad, _):
    x, weight, _, logit_grads = ctx.saved_tensors
    to_x = ((logit_grads @ weight) * grad[:, None]).to(x.dtype)
    return to_x, logit_grads.T @ (x * grad[:, None]).to(x.dtype), None, None


def keep(ctx, inputs, output):
    ctx.save_for_backward(*(x for x in (*inputs, output[-1]) if isinstance(x, Tensor)))


fused_norm_rotary.register_fake(lambda qk, cos, sin: tuple(torch.empty_like(x) for x in qk.chunk(2, -1)))
fused_norm_rotary_grad.register_fake(lambda qk, cos, sin, q, k: torch.empty_like(qk))
fused_mlp.register_fake(lambda x, up, down: (x.new_empty(len(x), down.size(1)), x @ up.T))
mlp_grad.register_fake(lambda grad, *inputs: [torch.empty_like(x) for x in inputs[:3]])
fused_cross_entropy.register_fake(lambda x, w, *_: (x.new_empty(len(x), dtype=torch.float), x @ w.T))
fused_norm_rotary.register_autograd(
    lambda ctx, q, k: (fused_norm_rotary_grad(*ctx.saved_tensors[:3], q, k), None, None), setup_context=keep
)
fused_mlp.register_autograd(lambda ctx, g, _: tuple(mlp_grad(g, *ctx.saved_tensors)), setup_context=keep)
fused_cross_entropy.register_autograd(cross_entropy_backward, setup_context=keep)


# ── model ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Config:  # everything that `load` needs to rebuild the model
    vocab_size: int
    seq_len: int
    depth: int = DEPTH
    width: int = WIDTH
    head_width: int = HEAD_WIDTH
    short_window: int = SHORT_WINDOW
    window_pattern: str = WINDOW_PATTERN
    value_embedding_every: int = VALUE_EMBEDDING_EVERY
    mlp_ratio: int = MLP_RATIO
    logit_cap: float = LOGIT_CAP
    keep_one_of: int = KEEP_ONE_OF
    rotary_base: float = ROTARY_BASE

    def window(self, layer: int) -> int:
        short = self.window_pattern[layer % len(self.window_pattern)] == "S" and layer < self.depth - 1
        return min(self.short_window, self.seq_len) if short else self.seq_len

    def has_value_embedding(self, layer: int) -> bool:
        every = self.value_embedding_every
        return every > 0 and (self.depth - 1 - layer) % every == 0


def norm(x: Tensor) -> Tensor:  # RMSNorm without a gain: https://arxiv.org/abs/1910.07467
    return F.rms_norm(x, (x.size(-1),), eps=NORM_EPS)


class Shuffle(torch.autograd.Function):  # x[order] along `dim`; autograd would add up gradients one by one
    @staticmethod
    def forward(ctx, x, dim, order, back):
        ctx.dim, ctx.back = dim, back
        return x.index_select(dim, order)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(ctx.dim, ctx.back), None, None, None


def narrow(weight: Tensor, kept: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """The rows that `GPT.thinned` keeps: (C, K) to (B, D, K)."""
    return (Shuffle.apply(weight, 0, order, back).view(*kept.shape[1:], -1) * kept.unsqueeze(-1)).sum(1)


def widen(y: Tensor, kept: Tensor, order: Tensor, back: Tensor) -> Tensor:
    """Outputs back in their places: (B, T, D) to (B, T, C)."""
    return Shuffle.apply((y.unsqueeze(2) * (kept.size(1) * kept.unsqueeze(1))).flatten(2), 2, back, order)


class Linear(nn.Linear):  # no bias; float32 weights, used in the dtype of the input (bf16 on a GPU)
    __init__ = partialmethod(nn.Linear.__init__, bias=False)

    def forward(self, x: Tensor, kept=None) -> Tensor:
        weight = self.weight.to(x.dtype)
        return F.linear(x, weight) if kept is None else widen(x @ narrow(weight, *kept).mT, *kept)

    def add_to(self, stream: Tensor, x: Tensor) -> Tensor:
        """The same added to `stream`, in its memory and inside the product; has no gradient."""
        return stream.flatten(0, 1).addmm_(x.flatten(0, -2), self.weight.to(x.dtype).T).view_as(stream)


class Rotary(nn.Module):  # rotary position embedding, https://arxiv.org/abs/2104.09864; tables computed once
    def __init__(self, head_width: int, seq_len: int, base: float) -> None:
        super().__init__()
        rates = base ** -(torch.arange(0, head_width, 2).float() / head_width)
        angles = torch.outer(torch.arange(seq_len).float(), rates)[:, None]  # (T, 1, D / 2)
        self.register_buffer("cos", torch.cat([angles, angles], dim=-1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angles, -angles], dim=-1).sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H, D)
        swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)  # by torch.cat it would be two kernels
        return (x * self.cos + swapped * self.sin).to(x.dtype)


def window_mask(seq_len: int, window: int, device: torch.device):
    """Which keys a query may see, itself and the `window - 1` before it: (T, T), on a GPU a block mask for
    FlexAttention, https://arxiv.org/abs/2412.05496; None if no mask is needed."""
    if window >= seq_len or (is_scoring(device) and GENERATION >= 8):
        return None

    def visible(batch, head, query, key):
        return (query >= key) & (query - key < window)

    if device.type != "cuda":
        at = torch.arange(seq_len, device=device)
        return visible(None, None, at[:, None], at)
    block = 64 if HAS_KERNELS else 128
    at, reach = torch.arange(0, seq_len, block, device=device) // block, (window + block - 2) // block
    # For each block of queries how many blocks of keys and which, in one run; all `visible` has to be there.
    met = (at.clamp(max=reach) + 1).int()[None, None]
    which = ((at - reach).clamp(min=0)[:, None] + at).clamp(max=len(at) - 1).int()[None, None]
    return BlockMask.from_kv_blocks(met, which, None, None, block, visible, (seq_len, seq_len))


compiled_flex_attention = torch.compile(flex_attention, dynamic=False) if ON_GPU else None
# The fastest of 26 on Hopper for heads of 128 and a window of 128, with blocks of 64 in one run.
TILES = {"fwd_BLOCK_M": 64, "fwd_BLOCK_N": 32, "bwd_BLOCK_M1": 32, "bwd_BLOCK_N1": 64, "bwd_BLOCK_M2": 64}
TILES |= {"bwd_BLOCK_N2": 32, "num_warps": 4, "num_stages": 3, "BLOCKS_ARE_CONTIGUOUS": True}
if HAS_KERNELS:  # PyTorch holds the mask's blocks against tiles of its own, which for Hopper are too large
    from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic, FlexBwDConfig

    CUDAConfigHeuristic.get_flex_attn_bwd_configs = lambda *_: [FlexBwDConfig(32, 64, 64, 32, 3, 4)]


def attend(q: Tensor, k: Tensor, v: Tensor, window: int, mask) -> Tensor:
    """Causal attention over `window` tokens, `mask` says the same; all but that (B, T, H, D)."""
    seq_len = q.size(1)
    if window < seq_len and is_scoring(q.device) and GENERATION >= 8:  # slower, but needs no compiling
        return torch.ops.aten._flash_attention_forward(
            q, k, v, None, None, seq_len, seq_len, 0.0, True, False,
            window_size_left=window - 1, window_size_right=0,
        )[0]  # fmt: skip
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
    if mask is not None and q.is_cuda:
        y = compiled_flex_attention(q, k, v, block_mask=mask, kernel_options=TILES if HAS_KERNELS else None)
    else:
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return y.transpose(1, 2)


def is_scoring(device: torch.device) -> bool:
    """Whether this is an uncompiled pass for its logits: then what has to be compiled doesn't pay."""
    return device.type == "cuda" and not torch.is_grad_enabled()


class Attention(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.heads, self.head_width = config.width // config.head_width, config.head_width
        self.window = config.window(layer)
        self.query = Linear(config.width, config.width)
        self.key = Linear(config.width, config.width)
        self.value = Linear(config.width, config.width)
        self.out = Linear(config.width, config.width)
        # How much of the value embedding each head mixes in, by what the token is about:
        # https://arxiv.org/abs/2410.17897 has the embedding, KellerJordan/modded-nanogpt the gate.
        self.gate = Linear(min(32, config.width), self.heads) if config.has_value_embedding(layer) else None

    def forward(self, x, value_embedding, rotary, mask):  # (B, T, C)
        shape = (*x.shape[:2], self.heads, self.head_width)
        # One product for both, which reads x once; as weights they stay apart, for Muon's sake.
        qk = F.linear(x, torch.cat([self.query.weight, self.key.weight]).to(x.dtype))
        if HAS_KERNELS and x.dtype == torch.bfloat16:  # normalised: https://arxiv.org/abs/2010.04245
            q, k = (part.view(shape) for part in fused_norm_rotary(qk, rotary.cos, rotary.sin))
        else:
            q, k = (rotary(norm(part.view(shape))) for part in qk.chunk(2, -1))
        v = self.value(x).view(shape)
        if self.gate is not None:
            gate = 2 * torch.sigmoid(self.gate(x[..., : self.gate.in_features]))  # (B, T, H)
            v = torch.addcmul(v, gate.unsqueeze(-1), value_embedding.view(shape))
        return attend(q, k, v, self.window, mask).flatten(2)  # for `out`


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = Linear(config.width, config.mlp_ratio * config.width)
        self.down = Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, x: Tensor, kept=None) -> Tensor:
        fits = kept is None or x.size(1) % 128 == 0  # a kernel's tile is of one row of the batch
        if HAS_KERNELS and fits and x.dtype == torch.bfloat16 and not is_scoring(x.device):
            up, down = self.up.weight.to(x.dtype), self.down.weight.to(x.dtype)
            down = down[None] if kept is None else narrow(down, *kept)
            y = fused_mlp(x.flatten(0, -2), up, down)[0].view(*x.shape[:2], -1)
            return y if kept is None else widen(y, *kept)
        return self.down(self.hidden(x), kept).view(x.shape)

    def hidden(self, x: Tensor) -> Tensor:
        """ReLU squared, https://arxiv.org/abs/2109.08668; (B, T, F), or (B T, F) while scoring."""
        if is_scoring(x.device):  # the ReLU inside the product, with a bias of nothing
            up = self.up.weight.to(x.dtype)
            return torch._addmm_activation(up.new_zeros(len(up)), x.flatten(0, 1), up.T).square_()
        return F.relu(self.up(x)).square()


class Block(nn.Module):
    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)
        # Weights of the stream and of the embedding it began as, after KellerJordan/modded-nanogpt.
        self.mix = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.fixed_mix: list[float] | None = None  # the same as numbers, where it doesn't change any more

    def forward(self, x, first, value_embedding, rotary, mask, kept=(None, None)):
        if self.fixed_mix is not None:  # scoring: must stay the same function as training's, below
            x = torch.add(self.fixed_mix[0] * x, first, alpha=self.fixed_mix[1])
            x = self.attention.out.add_to(x, self.attention(norm(x), value_embedding, rotary, mask))
            return self.mlp.down.add_to(x, self.mlp.hidden(norm(x)))
        mix = self.mix.to(x.dtype)
        x = mix[0] * x + mix[1] * first
        x = x + self.attention.out(self.attention(norm(x), value_embedding, rotary, mask), kept[0])
        return x + self.mlp(norm(x), kept[1])


class GPT(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers, table = range(config.depth), (config.vocab_size, config.width)
        self.embedding = nn.Embedding(*table)
        valued = [str(layer) for layer in layers if config.has_value_embedding(layer)]
        self.value_embeddings = nn.ModuleDict({layer: nn.Embedding(*table) for layer in valued})
        self.blocks = nn.ModuleList([Block(config, layer) for layer in layers])
        self.rotary = Rotary(config.head_width, config.seq_len, config.rotary_base)
        self.head = Linear(config.width, config.vocab_size)

    def prepare(self, device: torch.device) -> "GPT":
        """Move to the device and make what is not a weight: masks, and bf16 tables on a GPU."""
        self.to(device)
        if device.type == "cuda":
            self.embedding.bfloat16()
            self.value_embeddings.bfloat16()
        windows = [self.config.window(layer) for layer in range(self.config.depth)]
        made = {window: window_mask(self.config.seq_len, window, device) for window in set(windows)}
        self.masks = [made[window] for window in windows]
        return self

    @torch.no_grad()
    def initialize(self) -> None:
        for name, weight in self.named_parameters():
            if name.endswith(("out.weight", "down.weight", "gate.weight")):
                weight.zero_()  # every block begins as the identity
            elif name in ("embedding.weight", "head.weight"):
                weight.normal_(std=1.0 if name == "embedding.weight" else 0.001)
            elif weight.ndim == 2:
                weight.uniform_(-1, 1).mul_((3 / self.config.width) ** 0.5)

    def forward(self, tokens: Tensor, targets: Tensor | None = None, kept: list | None = None) -> Tensor:
        """Logits (B, T, V) in float32, or the mean loss if `targets` are given; tokens are (B, T)."""
        x = first = norm(self.embedding(tokens))
        values = {int(layer): table(tokens) for layer, table in self.value_embeddings.items()}
        kept = kept or [(None, None)] * self.config.depth
        for layer, block in enumerate(self.blocks):
            x = block(x, first, values.get(layer), self.rotary, self.masks[layer], kept[layer])
        x, cap = norm(x), self.config.logit_cap
        if targets is not None and HAS_KERNELS and x.dtype == torch.bfloat16:
            weight = self.head.weight.to(x.dtype)
            return fused_cross_entropy(x.flatten(0, 1), weight, targets.flatten(), cap)[0].mean()
        if HAS_KERNELS and is_scoring(x.device):
            return capped(self.head(x), cap)
        # Soft cap: Gemma 2, https://arxiv.org/abs/2408.00118.
        logits = cap * torch.tanh(self.head(x).float() / cap)
        return logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def thinned(self, rows: int) -> list | None:
        """Dropout, https://arxiv.org/abs/1512.05287, for attention and MLP of a layer. Of C channels n are
        of one of D slots; a row has one of them, no other is computed: (B, n, D) of 0 and 1, the channels
        in order, and back. Dealt anew each time, else a model writes the same to all of a slot."""
        n, like, sites = self.config.keep_one_of, self.embedding.weight, 2 * self.config.depth
        if n == 1:
            return None
        at = torch.arange(like.size(1), device=like.device).view(n, -1)
        slot, slots = at % at.size(1), at.size(1)
        one = torch.randint(n, (sites, rows, 1, slots), device=like.device)
        turn = torch.randint(slots, (sites, n, 1), device=like.device)  # turned: memory is read in order
        ways = [(at - slot + (slot + by) % slots).flatten(1).int() for by in (turn, -turn)]
        drawn = [*zip((one * slots == at[:, :1]).to(like.dtype), *ways, strict=True)]
        return [*zip(drawn[::2], drawn[1::2], strict=True)]

    def flops_per_token(self) -> float:
        """Forward and backward, embeddings left out: https://arxiv.org/abs/2204.02311, appendix B."""
        thin = 1 / self.config.keep_one_of  # of the products that `thinned` is for
        sizes = {n: p.numel() for n, p in self.named_parameters() if "embedding" not in n}
        matrices = sum(m * thin ** n.endswith(("out.weight", "down.weight")) for n, m in sizes.items())
        spans = sum(self.config.window(layer) for layer in range(self.config.depth))
        return 6 * matrices + 12 * self.config.width * spans


# ── optimizer ─────────────────────────────────────────────────────────────────────────────────


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: a quintic Newton-Schulz iteration, by K. Jordan et al.,
    "Muon", https://kellerjordan.github.io/posts/muon/."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if matrices.is_cuda else matrices  # (N, rows, columns)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised; for the matrices of the blocks, same shapes in one batch. Weight decay only
    where it pulls the way the step goes: https://arxiv.org/abs/2411.16085."""

    def __init__(self, matrices, lr: float, momentum: float, weight_decay: float) -> None:
        by_shape: dict[torch.Size, list] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        super().__init__([{"params": p, "full_lr": lr} for p in by_shape.values()], {"lr": lr})
        self.momentum, self.weight_decay = momentum, weight_decay
        self.update = torch.compile(self._update, dynamic=False) if ON_GPU else self._update

    @staticmethod
    def _update(weights, gradients, velocity, rate, momentum, decay):  # (N, rows, columns) each
        velocity.lerp_(gradients, 1 - momentum)
        step = orthogonalize(gradients.lerp(velocity, momentum)).to(weights.dtype)
        step = step * max(1.0, weights.size(-2) / weights.size(-1)) ** 0.5
        return weights - rate * (step + decay * weights * (step * weights > 0))

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
            new = self.update(weights, gradients, state["velocity"], rate, self.momentum, self.weight_decay)
            torch._foreach_copy_([p.data for p in params], list(new.unbind()))


def make_optimizers(model: GPT) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.blocks.named_parameters() if p.ndim == 2 and "gate" not in n]
    tables = [model.embedding.weight, *(e.weight for e in model.value_embeddings.values())]
    known = {id(p) for p in [*matrices, *tables, model.head.weight]}
    scalars = [p for p in model.parameters() if id(p) not in known]
    scale = (WIDTH / 512) ** -0.5  # rates are for a width of 512
    rates = (tables, EMBEDDING_LR * scale), ([model.head.weight], HEAD_LR * scale), (scalars, SCALAR_LR)
    groups = [{"params": params, "lr": lr, "full_lr": lr} for params, lr in rates]
    adam = torch.optim.AdamW(groups, betas=ADAM_BETAS, eps=1e-10, weight_decay=0.0, fused=True)
    return [adam, Muon(matrices, MATRIX_LR, MOMENTUM, WEIGHT_DECAY)]


def lr_scale(progress: float) -> float:
    """Trapezoid over the budget, https://arxiv.org/abs/2405.18392."""
    rise, fall = progress / WARMUP if WARMUP else 1.0, (1 - progress) / max(WARMDOWN, 1e-9)
    return min(1.0, rise, FINAL_LR + (1 - FINAL_LR) * fall)


# ── training ──────────────────────────────────────────────────────────────────────────────────


def train_step(model, optimizers, tokens, targets, scale: float) -> Tensor:
    """One optimizer step on (B, T) tokens in micro-batches; returns the mean loss, on the device."""
    total = torch.zeros((), device=tokens.device)
    for inputs, goals in zip(tokens.split(MICRO_BATCH_ROWS), targets.split(MICRO_BATCH_ROWS), strict=True):
        loss = model(inputs, goals, model.thinned(len(inputs))) * (len(inputs) / len(tokens))
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
    with device, torch.no_grad():  # much faster there to draw what is overwritten
        model = GPT(config).prepare(device)
    load_model(model, str(checkpoint_dir / "model.safetensors"))
    for block in model.blocks:
        block.fixed_mix = block.mix.tolist()
    return model.eval()


def main() -> None:
    run = trial.open()
    torch.manual_seed(run.seed)
    torch.set_float32_matmul_precision("high")
    keep_one_of = 1 if ON_GPU and run.train_tokens >= 200e6 else KEEP_ONE_OF  # less is seen many times
    with run.device:
        plain = GPT(Config(run.vocab_size, run.seq_len, keep_one_of=keep_one_of))
    plain.initialize()
    plain.prepare(run.device)
    optimizers = make_optimizers(plain)
    model = torch.compile(plain, dynamic=False) if run.device.type == "cuda" else plain

    # Compile and warm up before the clock starts: at a rate of 0 no weight moves.
    train_step(model, optimizers, *run.dummy_batch(BATCH_ROWS), scale=0.0)
    for optimizer in optimizers:
        optimizer.state.clear()
    with torch.no_grad():  # scoring's own kernels: they are kept for it
        plain(run.dummy_batch(1)[0])

    for (tokens, targets), step in zip(run.batches(BATCH_ROWS), range(MAX_STEPS or 10**9), strict=False):
        progress = step / MAX_STEPS if MAX_STEPS else run.progress
        run.log(step, train_step(model, optimizers, tokens, targets, lr_scale(progress)))

    (run.checkpoint_dir / "config.json").write_text(json.dumps(asdict(plain.config)))
    run.submit(plain, flops_per_token=plain.flops_per_token())


if __name__ == "__main__":
    main()
