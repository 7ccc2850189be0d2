"""The adversarial part of RAE's stage 1: a discriminator that learns beside the decoder, and what it says of it."""

# N batch, K channels of an image, H height, W width, J judgements of an image

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.decoders import DecoderRecipe
from harness.discriminator import Discriminator

MOST_WEIGHT, GRADIENT_EPSILON = 1e4, 1e-6


class Opponent(ABC):
    """What judges decoded images during a training; epochs are counted from 0."""

    @abstractmethod
    def verdict(self, epoch: int, decoded_NKHW: Tensor, reconstruction: Tensor, last_weight: Tensor) -> Tensor:
        """What is added to the decoder's loss, in relation to `reconstruction` by the gradients at `last_weight`."""

    @abstractmethod
    def learn(self, epoch: int, images_NKHW: Tensor, decoded_NKHW: Tensor, rate: float) -> None:
        """Take one step of the opponent's own training, if its time has come."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Come back to a kept state."""


class Nobody(Opponent):
    """None."""

    def verdict(self, epoch: int, decoded_NKHW: Tensor, reconstruction: Tensor, last_weight: Tensor) -> Tensor:
        del epoch, decoded_NKHW, last_weight
        return reconstruction.new_zeros(())

    def learn(self, epoch: int, images_NKHW: Tensor, decoded_NKHW: Tensor, rate: float) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        assert not state, "a checkpoint with a discriminator"


def opponent_of(discriminator: Discriminator | None, recipe: DecoderRecipe) -> Opponent:
    """The opponent of a recipe: nobody where its adversarial weight is 0."""
    if discriminator is None or recipe.adversarial_weight == 0:
        return Nobody()
    return _Adversary(discriminator, recipe)


def optimizer_of(recipe: DecoderRecipe, weights: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """The recipe's AdamW, for the decoder and the discriminator alike."""
    return torch.optim.AdamW(
        list(weights), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
    )


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    """One step at a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def discriminator_loss(real_NJ: Tensor, fake_NJ: Tensor) -> Tensor:
    """The hinge loss: real judgements want to be above 1, those of decoded images below -1."""
    loss: Tensor = functional.relu(1 - real_NJ).mean() + functional.relu(1 + fake_NJ).mean()
    return loss / 2


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_weight: Tensor) -> Tensor:
    """|gradient of one loss| / |gradient of the other| at the decoder's last layer, at most 10,000 (VQGAN)."""
    (wanted,) = torch.autograd.grad(reconstruction, last_weight, retain_graph=True)
    (judged,) = torch.autograd.grad(adversarial, last_weight, retain_graph=True)
    ratio: Tensor = torch.linalg.vector_norm(wanted) / (torch.linalg.vector_norm(judged) + GRADIENT_EPSILON)
    return ratio.clamp(max=MOST_WEIGHT).detach()


class _Adversary(Opponent):
    def __init__(self, discriminator: Discriminator, recipe: DecoderRecipe) -> None:
        self._discriminator, self._recipe = discriminator, recipe
        self._optimizer = optimizer_of(recipe, discriminator.parameters())

    def verdict(self, epoch: int, decoded_NKHW: Tensor, reconstruction: Tensor, last_weight: Tensor) -> Tensor:
        if epoch < self._recipe.adversarial_from:
            return reconstruction.new_zeros(())
        self._discriminator.eval().requires_grad_(requires_grad=False)
        adversarial = -self._discriminator(decoded_NKHW).mean()
        weight = adaptive_weight(reconstruction, adversarial, last_weight)
        added: Tensor = self._recipe.adversarial_weight * weight * adversarial
        return added

    def learn(self, epoch: int, images_NKHW: Tensor, decoded_NKHW: Tensor, rate: float) -> None:
        if epoch < self._recipe.discriminator_from:
            return
        self._discriminator.train().requires_grad_()
        real_NJ, fake_NJ = self._discriminator(images_NKHW), self._discriminator(_as_8_bits(decoded_NKHW))
        descend(self._optimizer, discriminator_loss(real_NJ, fake_NJ), rate)

    def state(self) -> dict[str, Any]:
        return {"model": self._discriminator.state_dict(), "optimizer": self._optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self._discriminator.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])


def _as_8_bits(images_NKHW: Tensor) -> Tensor:
    """Images with the grey levels that real ones have, lest finer ones give decoded images away."""
    return (images_NKHW.detach().clamp(0, 1) * 255).round() / 255
