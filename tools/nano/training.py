"""Parts of both trainings: the optimizer, a time budget, saving and resuming, and an image sampler.

Hidden matrices are trained with Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/), which here
needs half the steps of AdamW; everything else with AdamW.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAVE_EVERY = 120.0
"""Seconds between two saved states."""


def _orthogonal(gradient: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix to a (rows, columns) gradient, by the quintic Newton-Schulz iteration."""
    x = gradient.bfloat16()
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).float()


class Optimizer:
    """Muon on `matrices`, AdamW on `others`; both follow one schedule: warm-up, then a cosine down to 2 %."""

    def __init__(self, matrices: Iterable[nn.Parameter], others: Iterable[nn.Parameter], lr: float, muon_lr: float):
        self.matrices, self.others = list(matrices), list(others)
        self.lr, self.muon_lr = lr, muon_lr
        self.momentum = [torch.zeros_like(p) for p in self.matrices]
        self.adamw = torch.optim.AdamW(self.others, lr=lr, betas=(0.9, 0.98), weight_decay=1e-3)

    def step(self, progress: float, count: int, warm_up: int = 30) -> None:
        """Update the weights; `progress` is the share of the budget that is spent, `count` the steps done so far."""
        factor = min(1, (count + 1) / warm_up) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))
        if not nn.utils.clip_grad_norm_(self.others, 1.0).isfinite():
            self.adamw.zero_grad()
            return
        for group in self.adamw.param_groups:
            group["lr"] = self.lr * factor
        self.adamw.step()
        with torch.no_grad():
            for p, m in zip(self.matrices, self.momentum, strict=True):
                if p.grad is None:
                    continue
                m.lerp_(p.grad, 0.07)
                g = p.grad.lerp(m, 0.93).reshape(p.shape[0], -1)
                scale = self.muon_lr * factor * max(1, g.shape[0] / g.shape[1]) ** 0.5
                p.add_(_orthogonal(g).reshape(p.shape), alpha=-scale)
        for p in self.matrices + self.others:
            p.grad = None

    def state_dict(self) -> dict:
        """The momenta of both."""
        return {"momentum": self.momentum, "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Load the momenta from `state_dict`."""
        self.momentum = [m.to(p.device) for m, p in zip(state["momentum"], self.matrices, strict=True)]
        self.adamw.load_state_dict(state["adamw"])


class Run:
    """One stage of the training: counts its seconds across restarts, averages the weights, saves and resumes.

    `folder/state.pt` holds everything that a restart needs. `averaged` is the exponential average of `model`.
    """

    def __init__(self, folder: Path, model: nn.Module, optimizer: Optimizer, minutes: float, decay: float = 0.99):
        self.path, self.model, self.optimizer, self.decay = folder / "state.pt", model, optimizer, decay
        self.averaged = copy.deepcopy(model)
        self.budget, self.spent, self.count, self.loss = minutes * 60, 0.0, 0, None
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            state = torch.load(self.path, map_location=next(model.parameters()).device)
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.spent, self.count, self.loss = state["spent"], state["count"], state["loss"]
        torch.manual_seed(1 + self.count)

    @property
    def progress(self) -> float:
        """The share of the budget that is spent."""
        return self.spent / self.budget if self.budget else 1.0

    def save(self) -> None:
        """Replace `state.pt`."""
        temporary = self.path.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "spent": self.spent,
                "count": self.count,
                "loss": self.loss,
            },
            temporary,
        )
        temporary.replace(self.path)

    def __iter__(self) -> Iterator[int]:
        """Count the steps until the budget is spent, saving the state regularly and at the end."""
        last_save = started = time.monotonic()
        before, first = self.spent, self.count
        while self.progress < 1:
            yield self.count
            self.count += 1
            now = time.monotonic()
            self.spent = before + now - started
            if now - last_save > SAVE_EVERY:
                last_save = now
                self.save()
                print(f"{self.spent:6.0f} s  step {self.count}  loss {self.loss:.5f}", flush=True)
        if self.count > first:
            self.save()

    def learn(self, loss: Tensor) -> None:
        """One optimizer step on a scalar loss, and one step of the average."""
        loss.backward()
        self.optimizer.step(self.progress, self.count)
        value = loss.item()
        self.loss = value if self.loss is None else 0.98 * self.loss + 0.02 * value
        decay = min(self.decay, (1 + self.count) / (20 + self.count))
        with torch.no_grad():
            for average, p in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
                average.lerp_(p, 1 - decay)


class Crops:
    """Random, augmented crops of a bank of images, uint8 (count, height, width, 3)."""

    def __init__(self, bank: np.ndarray, device: torch.device):
        self.bank, self.device = torch.from_numpy(bank), device

    def __call__(self, count: int, height: int, width: int) -> Tensor:
        """(count, 3, height, width) in -1..1: flipped, turned, recolored, less or more contrast and saturation."""
        crops = torch.stack([self._one(height, width) for _ in range(count)])
        return (crops.permute(0, 3, 1, 2) * 2 - 1).contiguous().to(self.device)

    def _one(self, height: int, width: int) -> Tensor:
        image = self.bank[int(torch.randint(len(self.bank), ()))]
        turn = torch.rand(()) < 0.4 and max(height, width) <= min(image.shape[:2])
        if turn or (height > width and height > image.shape[0]):
            image = image.transpose(0, 1)
        y = int(torch.randint(image.shape[0] - height + 1, ()))
        x = int(torch.randint(image.shape[1] - width + 1, ()))
        crop = image[y : y + height, x : x + width]
        axes = [axis for axis in (0, 1) if torch.rand(()) < 0.5]
        crop = crop.flip(axes)[..., torch.randperm(3)].float() / 255
        grey = crop.mean(-1, keepdim=True)
        crop = grey + (crop - grey) * torch.rand(()) * 1.1
        mean = crop.mean()
        return ((crop - mean) * (0.6 + torch.rand(()) * 0.9) + mean + 0.15 * torch.randn(())).clamp(0, 1)


@contextmanager
def bfloat16(device: torch.device) -> Iterator[None]:
    """Autocast to bfloat16, with the norms in bfloat16 too: they would otherwise be cast back and forth on a CPU."""

    def group_norm(self: nn.GroupNorm, x: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)

    def layer_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            weight, bias = (None if p is None else p.to(x.dtype) for p in (self.weight, self.bias))
            return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)

    originals = nn.GroupNorm.forward, nn.LayerNorm.forward
    nn.GroupNorm.forward, nn.LayerNorm.forward = group_norm, layer_norm
    try:
        with torch.autocast(device.type, torch.bfloat16):
            yield
    finally:
        nn.GroupNorm.forward, nn.LayerNorm.forward = originals
