"""Train a decoder on a frozen encoder's latents, from wherever the last attempt stopped: RAE's stage 1."""

# N batch, K channels of an image, H height, W width, C channels of a latent, h and w its height and width

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from harness.checkpoint import Checkpoints, State
from harness.data import Images
from harness.decoders import DecoderRecipe
from harness.discriminator import Discriminator
from harness.errors import UserError
from harness.mae_decoder import MaeDecoder
from harness.opponent import descend, opponent_of, optimizer_of
from harness.perceptual import NoPerceptual, Perceptual
from harness.progress import Progress
from harness.rae import Noise, decode, norms_of
from harness.randomness import Stream, generator
from harness.schedule import learning_rate
from harness.source import FLIP_SHARE, indices_of
from harness.spec import Recipe
from harness.train import autocast

LOG_EVERY = 10

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Lesson:
    """How a decoder is trained, and by whom it is judged; `discriminator` is None where there is none."""

    recipe: DecoderRecipe
    seed: int
    perceptual: Perceptual = field(default_factory=NoPerceptual)
    discriminator: Discriminator | None = None

    @property
    def identity(self) -> str:
        """A digest of what decides the numbers, beside the decoder and its images."""
        parts = (self.recipe.model_dump_json(), self.seed, self.perceptual.weight, self.discriminator is not None)
        return hashlib.sha256(repr(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Trained:
    """How a training ended: the loss of each step, the seconds of all attempts, and what LPIPS counted in the loss."""

    losses: Tensor
    seconds: float
    lpips_weight: float


def train_decoder(
    encode: Encode, decoder: MaeDecoder, images: Images, lesson: Lesson, checkpoints: Checkpoints
) -> Trained:
    """Train to the end of the recipe, and leave the EMA weights in the decoder.

    `encode` gives latents before whitening, (N, C, h, w), of images (N, K, H, W) in [0, 1] on the decoder's device.
    Killed at any moment and called again, it goes on to the same weights.

    Raises UserError where the decoder's images are not the task's, a discriminator is wanted and missing, or the
    training diverges.
    """
    _require_match(decoder, images, lesson)
    trainer = _Trainer(encode, decoder, images, lesson, checkpoints)
    trainer.run()
    trainer.finish()
    return Trained(trainer.losses, trainer.seconds, lesson.perceptual.weight)


def _require_match(decoder: MaeDecoder, images: Images, lesson: Lesson) -> None:
    shape, found = decoder.shape, images.shards[0].shape[1:]
    wanted = (shape.image_channels, shape.image_size, shape.image_size)
    if found != wanted:
        raise UserError(
            f"the decoder makes images of {wanted}, the task's are {found} (channels, height, width)",
            f"choose a patch of {found[1] / shape.grid:g} for {shape.tokens} latents, or another task",
        )
    if lesson.recipe.adversarial_weight and lesson.discriminator is None:
        raise UserError(
            "the recipe has an adversarial loss, and there is no encoder for its discriminator",
            "give the weights of DINO ViT-S/8, or train without it (adversarial_weight=0)",
        )


class _Trainer:
    """The state of a training between two steps."""

    def __init__(
        self, encode: Encode, decoder: MaeDecoder, images: Images, lesson: Lesson, checkpoints: Checkpoints
    ) -> None:
        self.encode, self.decoder, self.images = encode, decoder, images
        self.lesson, self.recipe, self.checkpoints = lesson, lesson.recipe, checkpoints
        self.device = decoder.mean.device
        self.epoch_steps = self.recipe.steps_per_epoch(len(images))
        self.rates = _rates(self.recipe, self.epoch_steps)
        self.decoder.train().requires_grad_()
        self.decoder.decoder_pos_embed.requires_grad = False
        self.weights = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
        self.ema = [weight.detach().clone() for weight in self.weights]
        self.optimizer = optimizer_of(self.recipe, self.weights)
        self.opponent = opponent_of(lesson.discriminator, self.recipe)
        self.losses = torch.full((self.rates.steps,), torch.nan)
        self.step, self.seconds = 0, 0.0
        state = checkpoints.load()
        if state is not None:
            self._restore(state)

    def run(self) -> None:
        """Train until the end, saving whenever it is time to.  Raises UserError where the loss is no number."""
        started = time.monotonic() - self.seconds
        recent: list[Tensor] = []
        with Progress("training the decoder", self.rates.steps, self.step) as progress:
            while self.step < self.rates.steps:
                recent.append(self._advance())
                last = self.step == self.rates.steps
                if last or self.step % LOG_EVERY == 0:
                    self._settle(recent)
                    progress.advance(len(recent), f"loss {self.losses[self.step - 1]:.4f}")
                    recent = []
                    self.seconds = time.monotonic() - started
                    if last or self.checkpoints.due():
                        self._save()

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the EMA weights in the decoder, fixed.  Raises UserError where the last step made them no numbers."""
        if not all(average.isfinite().all() for average in self.ema):
            raise self._diverged(self.step)
        for weight, average in zip(self.weights, self.ema, strict=True):
            weight.copy_(average)
        self.decoder.eval().requires_grad_(requires_grad=False)

    def _advance(self) -> Tensor:
        images_NKHW, latents_NChw = self._draw()
        epoch, rate = self.step // self.epoch_steps, learning_rate(self.rates, self.step)
        with autocast(self.device, self.recipe.precision):
            decoded_NKHW = decode(latents_NChw, self.decoder)
            loss = self._reconstruction_loss(images_NKHW, decoded_NKHW)
            loss = loss + self.opponent.verdict(epoch, decoded_NKHW, loss, self.decoder.decoder_pred.weight)
        descend(self.optimizer, loss, rate)
        torch._foreach_lerp_(self.ema, [weight.detach() for weight in self.weights], 1 - self.recipe.ema_decay)
        with autocast(self.device, self.recipe.precision):
            self.opponent.learn(epoch, images_NKHW, decoded_NKHW, rate)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def _draw(self) -> tuple[Tensor, Tensor]:
        """The images of a step and their noisy latents: a function of (seed, step) alone."""
        seed, step, size = self.lesson.seed, self.step, self.recipe.batch_size
        pixels = self.images.pixels(indices_of(seed, step, size, len(self.images)))
        if self.recipe.horizontal_flip:
            flipped = generator(seed, Stream.DATA_ORDER, 2 * step + 1).random(size) < FLIP_SHARE
            pixels[flipped] = pixels[flipped, :, :, ::-1]
        images_NKHW = torch.from_numpy(pixels).to(self.device) / 255
        latents_NChw = self.encode(images_NKHW)
        random = generator(seed, Stream.TRAINING, step)
        shape = tuple(latents_NChw.shape)
        draws = random.random(size, dtype=np.float32), random.standard_normal(shape, dtype=np.float32)
        uniform, normal = (torch.from_numpy(each).to(self.device) for each in draws)
        add_noise = Noise(self.recipe.noise_tau, uniform, normal, self.recipe.norm_scaled_noise)
        return images_NKHW, add_noise(latents_NChw, norms_of(latents_NChw, is_grid=True))

    def _reconstruction_loss(self, images_NKHW: Tensor, decoded_NKHW: Tensor) -> Tensor:
        recipe, perceptual = self.recipe, self.lesson.perceptual
        difference = decoded_NKHW - images_NKHW
        pixels = recipe.l1_weight * difference.abs().mean() + recipe.l2_weight * difference.square().mean()
        return pixels + perceptual.weight * perceptual(images_NKHW, decoded_NKHW)

    def _settle(self, recent: list[Tensor]) -> None:
        """Move the last losses off the device, the only time that it is waited for, and look for a divergence."""
        losses = torch.stack(recent).float().cpu()
        self.losses[self.step - len(recent) : self.step] = losses
        if not losses.isfinite().all():
            first = self.step - len(recent) + int((~losses.isfinite()).nonzero()[0]) + 1
            raise self._diverged(first)

    def _diverged(self, step: int) -> UserError:
        return UserError(
            f"the decoder diverged: its loss is no number at step {step} of {self.rates.steps}",
            f"lower its learning rate, {self.recipe.learning_rate:g} now, and train it anew",
        )

    def _save(self) -> None:
        state: State = {
            "identity": self.lesson.identity,
            "model": self.decoder.state_dict(),
            "ema": self.ema,
            "optimizer": self.optimizer.state_dict(),
            "opponent": self.opponent.state(),
            "losses": self.losses,
            "seconds": self.seconds,
        }
        self.checkpoints.save(self.step, state)

    @torch.no_grad()
    def _restore(self, state: State) -> None:
        assert state["identity"] == self.lesson.identity, "a checkpoint of another training"
        self.decoder.load_state_dict(state["model"])
        for average, stored in zip(self.ema, state["ema"], strict=True):
            average.copy_(stored)
        self.optimizer.load_state_dict(state["optimizer"])
        self.opponent.restore(state["opponent"])
        self.losses = state["losses"]
        self.step, self.seconds = state["step"], state["seconds"]


def _rates(recipe: DecoderRecipe, epoch_steps: int) -> Recipe:
    """The recipe in steps, of which one learning rate follows each."""
    return Recipe(
        steps=recipe.epochs * epoch_steps,
        warmup_steps=recipe.warmup_epochs * epoch_steps,
        decay="cosine",
        learning_rate=recipe.learning_rate,
        final_learning_rate=recipe.final_learning_rate,
    )
