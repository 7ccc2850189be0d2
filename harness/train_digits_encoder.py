"""Train the encoder of the task `digits` once, and write the weights that come with the project.

    python -m harness.train_digits_encoder

It learns to tell the ten digits from all of its tokens, weighed by one learned query, and from every token the pixels
of its patch, seen or hidden.  Its weights are part of the task: a new file makes results over its latents incomparable.
"""

# N batch, L patches, D width, P pixels of a patch

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from harness import encoder_network, encoders
from harness.data import digits
from harness.encoder_weights import shipped_file
from harness.files import sha256_of, write_whole
from harness.images import to_unit
from harness.progress import Progress

SEED, STEPS, BATCH_SIZE, RATE, WARMUP, WEIGHT_DECAY, HELD_OUT = 0, 2500, 128, 2e-3, 100, 0.05, 5
HIDDEN_SHARE, CLASSES, START = 0.3, 10, 0.02


class Student(nn.Module):
    """The network with what only its training needs: a mask token, a query, and two linear heads."""

    def __init__(self, definition: encoders.EncoderDefinition) -> None:
        super().__init__()
        self.patch = definition.patch
        self.vit = encoder_network.build(definition)
        self.mask = nn.Parameter(torch.zeros(definition.width))
        self.query = nn.Parameter(START * torch.randn(definition.width))
        self.classes = nn.Linear(definition.width, CLASSES)
        self.pixels = nn.Linear(definition.width, definition.channels * definition.patch**2)

    def forward(self, images_NCHW: Tensor, hidden_NL: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the classes, (N, 10), and the pixels of every patch, (N, L, P)."""
        patches_NLD = self.vit.patch_embed(images_NCHW)
        seen_NLD = torch.where(hidden_NL[..., None], self.mask, patches_NLD)
        tokens_NLD = self.vit.norm(self.vit.blocks(self.vit._pos_embed(seen_NLD)))  # noqa: SLF001
        weights_NL = (tokens_NLD @ self.query).softmax(dim=1)
        logits: Tensor = self.classes((weights_NL[..., None] * tokens_NLD).sum(dim=1))
        pixels_NLP: Tensor = self.pixels(tokens_NLD)
        return logits, pixels_NLP

    def loss(self, images_NCHW: Tensor, labels_N: Tensor, hidden_NL: Tensor) -> Tensor:
        """Cross-entropy of the classes, and the mean square error of the pixels, hidden or seen."""
        logits, pixels_NLP = self(images_NCHW, hidden_NL)
        wanted_NLP = functional.pixel_unshuffle(images_NCHW, self.patch).flatten(2).transpose(1, 2)
        error = (pixels_NLP - wanted_NLP).square().mean()
        loss: Tensor = functional.cross_entropy(logits, labels_N) + error
        return loss


def main() -> None:
    """Train on four fifths of the digits; print the accuracy on the rest, and the digest of the file."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    definition = encoders.find("digits-vit")
    images = digits()
    data = torch.from_numpy(to_unit(images.pixels(np.arange(len(images)))))
    labels = torch.from_numpy(images.labels)
    held_out = torch.arange(len(data)) % HELD_OUT == 0
    student = Student(definition)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=WARMUP / STEPS)
    seen, known = data[~held_out], labels[~held_out]
    with Progress("encoder", STEPS) as progress:
        for _ in range(STEPS):
            rows = torch.randint(len(seen), (BATCH_SIZE,))
            hidden_NL = torch.rand(BATCH_SIZE, definition.grid**2) < HIDDEN_SHARE
            loss = student.loss(seen[rows], known[rows], hidden_NL)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.advance(1, f"loss {float(loss):.4f}")
    with torch.no_grad():
        logits, _ = student(data[held_out], torch.zeros(int(held_out.sum()), definition.grid**2, dtype=torch.bool))
    file = shipped_file(definition)
    write_whole(file, lambda part: save_file(student.vit.state_dict(), part))
    right = float((logits.argmax(1) == labels[held_out]).float().mean())
    print(f"accuracy on {int(held_out.sum())} digits that were held out: {right:.4f}")
    print(f"{file.name}: SHA-256 {sha256_of(file)}")


if __name__ == "__main__":
    main()
