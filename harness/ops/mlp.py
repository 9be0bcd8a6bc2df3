"""ReLU squared inside of the matrix product before it, in Triton, for Hopper's tensor descriptors.

Of the wide tensors only the squared activations are kept: the gradient of the ReLU is their root.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

ROWS, COLUMNS, INNER = 128, 256, 64  # the fastest of 11 on an H200


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    a, b, out, activations, rows, columns, inner: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PROGRAMS: tl.constexpr,
    BACKWARD: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(columns, COLUMNS)
    half: tl.constexpr = COLUMNS // 2
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS) * across, PROGRAMS, flatten=True):
        row, column = tile // across * ROWS, tile % across * COLUMNS
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, inner, INNER):
            part = b.load([k, column]) if BACKWARD else b.load([column, k]).T
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


def _product(a: Tensor, b: Tensor, activations: Tensor | None = None) -> Tensor:
    """relu(a @ b.T) ** 2, (N, K) by (M, K); or a @ b, by (K, M), as its gradient through `activations`."""
    (rows, inner), columns = a.shape, b.size(0 if activations is None else 1)
    out = a.new_empty(rows, columns)
    describe = TensorDescriptor.from_tensor
    b_block = [COLUMNS, INNER] if activations is None else [INNER, COLUMNS]
    programs = torch.cuda.get_device_properties(a.device).multi_processor_count
    _kernel[(programs,)](
        describe(a, [ROWS, INNER]), describe(b, b_block),
        describe(out, [ROWS, COLUMNS // 2]),
        describe(out if activations is None else activations, [ROWS, COLUMNS // 2]),
        rows, columns, inner, ROWS, COLUMNS, INNER, programs, activations is not None,
        num_stages=3, num_warps=8,
    )  # fmt: skip
    return out


@torch.library.custom_op("harness::relu_squared_mlp", mutates_args=())
def relu_squared_mlp(x: Tensor, up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) by (F, C) and (D, F), bfloat16: (N, D), and the activations (N, F)."""
    wide = _product(x.contiguous(), up.contiguous())
    return wide @ down.T, wide


@torch.library.custom_op("harness::relu_squared_mlp_grad", mutates_args=())
def relu_squared_mlp_grad(
    grad: Tensor, x: Tensor, up: Tensor, down: Tensor, wide: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad.contiguous()
    inner = _product(grad, down.contiguous(), wide)
    return inner @ up, inner.T @ x, grad.T @ wide


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs, output[1])


relu_squared_mlp.register_fake(
    lambda x, up, down: (x.new_empty(len(x), len(down)), x.new_empty(len(x), len(up)))
)
relu_squared_mlp_grad.register_fake(
    lambda grad, x, up, down, _: (torch.empty_like(x), torch.empty_like(up), torch.empty_like(down))
)
relu_squared_mlp.register_autograd(
    lambda ctx, grad, _: relu_squared_mlp_grad(grad, *ctx.saved_tensors), setup_context=_keep
)
