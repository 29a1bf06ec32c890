"""One training loop for every model of the course: seeded, and resumable to the bit."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from attncourse._shared.validate import require

DrawLoss = Callable[[nn.Module, torch.Generator], Float[Tensor, ""]]


@contextlib.contextmanager
def one_thread():
    """Let PyTorch use one thread: at these sizes a second one only waits for the first, and for whatever else runs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train(
    model: nn.Module,
    draw_loss: DrawLoss,
    *,
    steps: int,
    learning_rate: float = 3e-3,
    clip: float = 1.0,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    every: int = 100,
    progress: bool | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train by Adam with a cosine-decayed rate and clipped gradients; return the loss of every step.

    With a checkpoint, an interruption of any kind loses at most `every` steps: call again with the same arguments, and
    the result is that of a run without it, to the bit.

    Args:
        draw_loss: the loss of a fresh batch, from the model and a generator that decides everything drawn for it.
        steps: how many in all, those before an interruption included.
        clip: the longest gradient.
        seed: of the generator, and of PyTorch's own, which dropout uses; the caller's is left as it was.
        checkpoint: a file to continue from, if it exists, and to write after every `every` steps and at the end.
        progress: a bar on standard output; None shows it on terminals alone.
        on_step: called with step and loss after each step.

    Raises:
        ValueError: steps, every or clip is out of range; the checkpoint's folder is missing, or it belongs to another
            recipe or size of model.
    """
    require(steps >= 1 and every >= 1, f"steps and every must be at least 1, got {steps}, {every}")
    require(clip > 0, f"clip must be positive, got {clip}")
    path = None if checkpoint is None else Path(checkpoint)
    require(path is None or path.parent.is_dir(), f"a checkpoint needs a folder that exists, got {checkpoint}")
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    recipe = {"steps": steps, "learning_rate": learning_rate, "clip": clip, "seed": seed}
    recipe["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    losses: list[float] = []
    device = next(model.parameters()).device
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        if path is not None and path.exists():
            losses = _load(path, recipe, parts, rng, device)
        # disable=None is tqdm's own rule: no bar where the output is no terminal.
        bar = tqdm(
            total=steps, initial=len(losses), file=sys.stdout, disable=None if progress is None else not progress
        )
        try:
            for step in range(len(losses), steps):
                losses.append(_update(draw_loss(model, rng), model, optimizer, schedule, clip))
                bar.update()
                bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
                if on_step is not None:
                    on_step(step, losses[-1])
                if path is not None and (step + 1 == steps or (step + 1) % every == 0):
                    _save(path, recipe, parts, rng, losses, device)
        finally:
            bar.close()
            model.eval()
    return losses


def _update(loss, model, optimizer, schedule, clip) -> float:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    schedule.step()
    return loss.item()


def _save(path, recipe, parts, rng, losses, device):
    """Save whole or not at all: what is written beside the file is then put in its place."""
    saved = {name: part.state_dict() for name, part in parts.items()}
    saved |= {"recipe": recipe, "losses": losses, "rng": rng.get_state(), "torch_rng": torch.get_rng_state()}
    if device.type == "cuda":
        saved["cuda_rng"] = torch.cuda.get_rng_state(device)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        torch.save(saved, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _load(path, recipe, parts, rng, device):
    """Put everything back, and return the losses so far."""
    # Random states are bytes of the CPU wherever the model is, and optimizers move their own to it.
    saved = torch.load(path, map_location="cpu", weights_only=True)
    require(saved["recipe"] == recipe, f"{path} belongs to another run: it was made by {saved['recipe']}, got {recipe}")
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    rng.set_state(saved["rng"])
    torch.set_rng_state(saved["torch_rng"])
    if device.type == "cuda" and "cuda_rng" in saved:
        torch.cuda.set_rng_state(saved["cuda_rng"], device)
    return saved["losses"]


@torch.no_grad()
def mean_loss(model: nn.Module, draw_loss: DrawLoss, *, draws: int, seed: int = 0) -> float:
    """Return the mean of `draws` losses without training, say on held-out text.

    Raises:
        ValueError: no draw.
    """
    require(draws >= 1, f"draws must be at least 1, got {draws}")
    rng, training = torch.Generator().manual_seed(seed), model.training
    model.eval()
    total = sum(draw_loss(model, rng).item() for _ in range(draws))
    model.train(training)
    return total / draws
