"""A residual convolutional network for small pictures, trained for a fixed time.

The harness gives pictures as bytes and takes logits; everything between is here to be changed. The recipe is
the one that fast CIFAR-10 training has settled on: SGD with Nesterov momentum, a triangular learning rate,
random shifts and flips on the device, and pictures scored together with their mirror images.
See https://github.com/KellerJordan/cifar10-airbench for what else is known to pay.
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load_model
from torch import nn

from harness import trial

# ── sizes ──────────────────────────────────────────────────────────────────────────────────────
WIDTH = 64  # channels of the first stage; each later one has twice as many
STAGES = 3  # each halves height and width
BLOCKS = 2  # residual blocks of a stage
BATCH_SIZE = 512

# ── optimization ───────────────────────────────────────────────────────────────────────────────
LEARNING_RATE = 0.4  # at its peak, for a mean loss
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
PEAK = 0.2  # of the budget, until the learning rate is highest
LABEL_SMOOTHING = 0.0
LOGIT_SCALE = 0.125  # small logits to begin with: a loss near that of a guess

# ── augmentation, on the device ────────────────────────────────────────────────────────────────
SHIFT = 2  # pixels, at most, in each direction
FLIPS = True  # left and right; also when scored, where both answers are averaged
ERASED = 8  # the side of a square that is blanked in a picture; 0 for none


class Block(nn.Module):
    """Two 3 x 3 convolutions around which the input is passed by."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(inner), nn.BatchNorm2d(outer)])
        self.past = nn.Conv2d(inner, outer, 1, bias=False) if inner != outer else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, H, W)
        y = self.first(F.relu(self.norms[0](x)))
        y = self.second(F.relu(self.norms[1](y)))
        return self.past(x) + y


class Network(nn.Module):
    """Logits of classes, from pictures as bytes."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("sd", torch.ones(channels, 1, 1))
        self.stem = nn.Conv2d(channels, WIDTH, 3, padding=1, bias=False)
        widths = [WIDTH * 2**stage for stage in range(STAGES)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(Block(inner if block == 0 else outer, outer) for block in range(BLOCKS)),
                nn.MaxPool2d(2, ceil_mode=True),  # a side of 1 stays 1
            )
            for inner, outer in zip([WIDTH, *widths], widths, strict=False)
        )
        self.norm = nn.BatchNorm1d(widths[-1])
        self.head = nn.Linear(widths[-1], classes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def normalized(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) bytes -> (B, C, H, W), of mean 0 and deviation 1."""
        x = pictures.permute(0, 3, 1, 2).float() / 255  # its memory is channels_last as it stands
        return (x - self.mean) / self.sd

    def logits(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, H, W) -> (B, K)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(self.norm(x.amax(dim=(2, 3)))).float() * LOGIT_SCALE

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) bytes -> (B, K): as it is scored, both ways round."""
        x = self.normalized(pictures)
        return (self.logits(x) + self.logits(x.flip(3))) / 2 if FLIPS else self.logits(x)


def augmented(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W), each picture shifted, perhaps flipped, and blanked somewhere, in its own way."""
    count, _, height, width = x.shape
    each = torch.arange(count, device=x.device)[:, None, None]
    rows = torch.arange(height, device=x.device) + torch.randint(2 * SHIFT + 1, (count, 1), device=x.device)
    columns = torch.arange(width, device=x.device) + torch.randint(2 * SHIFT + 1, (count, 1), device=x.device)
    if FLIPS:
        flipped = torch.rand(count, 1, device=x.device) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    padded = F.pad(x, (SHIFT, SHIFT, SHIFT, SHIFT), mode="reflect").permute(0, 2, 3, 1)
    x = padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if ERASED:
        y, z = (torch.randint(size, (count, 1), device=x.device) for size in (height, width))
        down = (torch.arange(height, device=x.device) - y).abs() < ERASED / 2  # (B, H)
        along = (torch.arange(width, device=x.device) - z).abs() < ERASED / 2
        x = x.masked_fill((down[:, :, None] & along[:, None, :])[:, None], 0.0)
    return x


def load(checkpoint_dir, device):
    """What was trained, for scoring: (B, H, W, C) bytes -> (B, K) logits."""
    channels, classes = map(int, (checkpoint_dir / "sizes.txt").read_text().split())
    model = Network(channels, classes)
    load_model(model, str(checkpoint_dir / "model.safetensors"))
    return model.to(device, memory_format=torch.channels_last)


def main() -> None:
    run = trial.open()
    torch.manual_seed(run.seed)
    torch.backends.cudnn.benchmark = True
    channels, classes = run.input_shape[2], len(run.classes)
    model = Network(channels, classes)
    model.mean.copy_(torch.tensor(run.channel_mean)[:, None, None])
    model.sd.copy_(torch.tensor(run.channel_sd)[:, None, None])
    model.to(run.device, memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=MOMENTUM, nesterov=True)
    on_gpu = run.device.type == "cuda"
    forward = torch.compile(model.logits) if on_gpu else model.logits

    def loss_of(pictures, targets):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=run.dtype == "bfloat16"):
            logits = forward(augmented(model.normalized(pictures)))
        return F.cross_entropy(logits, targets, label_smoothing=LABEL_SMOOTHING)

    def step(pictures, targets, rate):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(pictures, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    step(*run.dummy_batch(BATCH_SIZE), 0.0)  # compile, choose kernels; the clock hasn't started
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
    optimizer.state.clear()
    with torch.no_grad():  # as it is scored, and as `submit` asks for its loss: what that needs is loaded
        model.eval()(run.dummy_batch(64)[0])
    model.train()
    for count, (pictures, targets) in enumerate(run.batches(BATCH_SIZE)):
        rate = LEARNING_RATE * min(run.progress / PEAK, (1 - run.progress) / (1 - PEAK))
        run.log(count, step(pictures, targets, rate))
    (run.checkpoint_dir / "sizes.txt").write_text(f"{channels} {classes}")
    run.submit(model, loss=lambda pictures, targets: F.cross_entropy(model(pictures), targets))


if __name__ == "__main__":
    main()
