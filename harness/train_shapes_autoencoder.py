"""Train the autoencoder of drawn shapes once, and write the weights that come with the project.

    python -m harness.train_shapes_autoencoder

It learns to give images back from whitened latents to which some noise was added, so that a denoiser's small errors
stay small.  Its weights are part of the task: a new file makes results over its latents incomparable.
"""

# N batch

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.files import sha256_of, write_whole
from harness.images import to_uint8, to_unit
from harness.metrics.geneval.exact_detector import detect
from harness.metrics.geneval.rules import decide
from harness.progress import Progress
from harness.shapes.drawing import DrawnImages
from harness.shapes.grammar import training_scenes
from harness.shapes_autoencoder import FILE, ShapesAutoencoder

SEED, STEPS, BATCH_SIZE, RATE, WARMUP, NOISE = 0, 4000, 64, 3e-3, 100, 0.1
# Every so many steps learn from images of twice the size, a quarter as many.
LARGE_EVERY = 4
# Of a seed that no run draws from.
DRAWN_SEED, MOST = 7, 1_000_000
WHITENED_OVER, HELD_OUT = 4096, 500


def main() -> None:
    """Train, whiten, and print how many held-out drawings are still right after being encoded and decoded."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    autoencoder = ShapesAutoencoder()
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=WARMUP / STEPS)
    drawn = {side: DrawnImages(side, MOST, DRAWN_SEED) for side in (32, 64)}
    with Progress("autoencoder", STEPS) as progress:
        for step in range(STEPS):
            side, count = (64, BATCH_SIZE // 4) if step % LARGE_EVERY == 0 else (32, BATCH_SIZE)
            loss = _loss(autoencoder, _images(drawn[side], step * BATCH_SIZE, count))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress.advance(1, f"loss {float(loss):.4f}")
    _whiten(autoencoder, _images(drawn[32], STEPS * BATCH_SIZE, WHITENED_OVER))
    write_whole(FILE, lambda part: save_file(autoencoder.state_dict(), part))
    for side, images in drawn.items():
        share = _right(autoencoder, images, np.arange(MOST - HELD_OUT, MOST))
        print(f"right after decoding, of {HELD_OUT} drawings of {side} x {side}: {share:.3f}")
    print(f"{FILE.name}: SHA-256 {sha256_of(FILE)}")


def _images(drawn: DrawnImages, start: int, count: int) -> Tensor:
    return torch.from_numpy(to_unit(drawn.pixels(np.arange(start, start + count))))


def _loss(autoencoder: ShapesAutoencoder, images_N3HH: Tensor) -> Tensor:
    """Absolute plus square error of images from latents with noise, in units of the batch's own latents."""
    latents = autoencoder.encoder(images_N3HH)
    std, mean = torch.std_mean(latents, dim=(0, 2, 3), keepdim=True)
    whitened = (latents - mean) / std
    error = autoencoder.images(whitened + NOISE * torch.randn_like(whitened)) - images_N3HH
    return error.abs().mean() + error.square().mean()


@torch.no_grad()
def _whiten(autoencoder: ShapesAutoencoder, images_N3HH: Tensor) -> None:
    std, mean = torch.std_mean(autoencoder.encoder(images_N3HH), dim=(0, 2, 3), keepdim=True)
    autoencoder.get_buffer("mean").copy_(mean)
    autoencoder.get_buffer("std").copy_(std)


@torch.no_grad()
def _right(autoencoder: ShapesAutoencoder, drawn: DrawnImages, indices: "np.typing.NDArray[np.int64]") -> float:
    """The share of drawings that still show what their caption says once they were encoded and decoded."""
    images = torch.from_numpy(to_unit(drawn.pixels(indices)))
    decoded = to_uint8(autoencoder.images(autoencoder.whitened(images)).numpy(), "round").transpose(0, 2, 3, 1)
    prompts = [training_scenes()[label].prompt for label in drawn.labels[indices]]
    return float(
        np.mean([decide(prompt, *detect(image)).correct for prompt, image in zip(prompts, decoded, strict=True)])
    )


if __name__ == "__main__":
    main()
