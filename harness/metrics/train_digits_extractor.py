"""Train the digits extractor once, and print the hash that `digits.py` names.

    python -m harness.metrics.train_digits_extractor

Its weights are part of the metric: a new file makes every FD-digits measured before incomparable.
"""

import hashlib

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from harness.data import digits
from harness.images import to_unit
from harness.metrics.digits import WEIGHTS, DigitsExtractor
from harness.progress import Progress

SEED, STEPS, BATCH_SIZE, RATE, WEIGHT_DECAY, HELD_OUT = 0, 3000, 128, 2e-3, 1e-2, 5
SHIFT = 1


def main() -> None:
    """Train on four fifths of the digits, with shifts by a pixel; print the accuracy on the rest and the hash."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    images = digits()
    data = torch.from_numpy(to_unit(images.pixels(np.arange(len(images)))))
    labels = torch.from_numpy(images.labels)
    held_out = torch.arange(len(data)) % HELD_OUT == 0
    network = DigitsExtractor()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    seen, known = data[~held_out], labels[~held_out]
    with Progress("extractor", STEPS) as progress:
        for _ in range(STEPS):
            rows = torch.randint(len(seen), (BATCH_SIZE,))
            across, down = (int(shift) for shift in torch.randint(-SHIFT, SHIFT + 1, (2,)))
            loss = functional.cross_entropy(network(torch.roll(seen[rows], (down, across), (2, 3))), known[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress.advance(1, f"loss {float(loss):.4f}")
    right = (network(data[held_out]).argmax(1) == labels[held_out]).float().mean()
    save_file(network.state_dict(), WEIGHTS)
    print(f"accuracy on {int(held_out.sum())} digits that were held out: {float(right):.4f}")
    print(f'WEIGHTS_SHA256 = "{hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()}"')


if __name__ == "__main__":
    main()
