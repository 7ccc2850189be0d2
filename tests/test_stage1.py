"""Stage 1: a decoder learns from a frozen encoder's latents, stops anywhere, and goes on to the same bytes."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from harness import decoders
from harness.checkpoint import Checkpoints, State
from harness.data import Images, digits
from harness.decoders import DecoderRecipe, DecoderShape
from harness.discriminator import Discriminator, fresh_discriminator
from harness.encoder import Encoder
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.mae_decoder import MaeDecoder, fresh_decoder
from harness.opponent import adaptive_weight, discriminator_loss
from harness.perceptual import NoPerceptual, Perceptual, perceptual_of, weights_file
from harness.rae import as_grid, decode
from harness.reconstruction import measure
from harness.stage1 import Lesson, Trained, train_decoder

torch.set_num_threads(1)

CPU = torch.device("cpu")
DIGITS = decoders.recipe("digits")
SHORT = DIGITS.model_copy(update={"epochs": 6, "warmup_epochs": 1, "batch_size": 16})
ADVERSARIAL = SHORT.model_copy(
    update={"epochs": 4, "adversarial_weight": 0.75, "discriminator_from": 1, "adversarial_from": 2}
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A vision transformer of random weights that sees the digits."""
    definition = EncoderDefinition(
        name="random",
        family="timm",
        channels=1,
        image_size=8,
        patch=2,
        width=32,
        depth=3,
        heads=4,
        hidden=64,
        table=4,
        mean=(0.5,),
        std=(0.5,),
    )
    torch.manual_seed(0)
    vit = VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, embed_dim=32, depth=3, num_heads=4, mlp_ratio=2, num_classes=0
    )
    return Encoder(definition, vit)


@pytest.fixture(scope="module")
def few() -> Images:
    """64 digits: four steps of 16."""
    return Images([digits().pixels(np.arange(64))], np.zeros(64, np.int64))


def _latents(encoder: Encoder, images_NKHW: Tensor) -> Tensor:
    return as_grid(encoder(encoder.normalised(images_NKHW)).normed)


def _decoder(encoder: Encoder) -> MaeDecoder:
    definition = encoder.definition
    shape = DecoderShape(
        **decoders.size("tiny").model_dump(),
        patch=2,
        latent_channels=definition.width,
        tokens=encoder.num_patches,
        mean=definition.mean,
        std=definition.std,
    )
    return fresh_decoder(shape, 0)


def _train(encoder: Encoder, images: Images, lesson: Lesson, folder: Path) -> tuple[Trained, MaeDecoder]:
    decoder = _decoder(encoder)
    checkpoints = Checkpoints(folder, "test")
    return train_decoder(lambda x: _latents(encoder, x), decoder, images, lesson, checkpoints), decoder


def test_the_official_recipe_is_the_default() -> None:
    recipe = decoders.recipe("rae")
    assert recipe == DecoderRecipe()
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.final_learning_rate) == (16, 512, 2e-4, 2e-5)
    assert (recipe.betas, recipe.weight_decay, recipe.ema_decay, recipe.noise_tau) == ((0.9, 0.95), 0, 0.9978, 0.8)
    assert (recipe.discriminator_from, recipe.adversarial_from, recipe.adversarial_weight) == (6, 8, 0.75)
    assert recipe.steps_per_epoch(1_281_167) == 2502


@pytest.mark.parametrize(
    "change", [{"l1_weight": 0.0}, {"adversarial_from": 3}, {"epochs": 1}, {"noise_tau": -1.0}, {"unknown": 1}]
)
def test_recipes_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DecoderRecipe(**change)


def test_a_decoder_learns_the_digits(tmp_path: Path, encoder: Encoder) -> None:
    recipe = DIGITS.model_copy(update={"epochs": 3})
    trained, decoder = _train(encoder, digits(), Lesson(recipe, 0), tmp_path)
    assert len(trained.losses) == 3 * 28
    assert trained.losses[-10:].mean() < 0.2 * trained.losses[0]
    assert trained.lpips_weight == 0
    found = measure(lambda x: decode(_latents(encoder, x), decoder), digits(), np.arange(100), CPU)
    fresh = measure(lambda x: decode(_latents(encoder, x), _decoder(encoder)), digits(), np.arange(100), CPU)
    assert found.psnr.mean() > fresh.psnr.mean() + 8
    assert not any(parameter.requires_grad for parameter in decoder.parameters())
    assert not any(parameter.grad is not None for parameter in encoder.parameters())


class _KilledError(Exception):
    """Stands for a kill."""


class _Mortal(Checkpoints):
    """Saves as soon as it can, and dies of it."""

    def due(self) -> bool:
        return True

    def save(self, step: int, state: State) -> None:
        super().save(step, state)
        raise _KilledError


@pytest.mark.parametrize("recipe", [SHORT, ADVERSARIAL], ids=["plain", "adversarial"])
def test_a_killed_training_goes_on_to_the_same_bytes(
    tmp_path: Path, encoder: Encoder, few: Images, recipe: DecoderRecipe
) -> None:
    def lesson() -> Lesson:
        return Lesson(recipe, 5, discriminator=fresh_discriminator(encoder, 1, blocks=(0, 2)))

    whole, unbroken = _train(encoder, few, lesson(), tmp_path / "whole")
    mortal = _Mortal(tmp_path / "killed", "test")
    with pytest.raises(_KilledError):
        train_decoder(lambda x: _latents(encoder, x), _decoder(encoder), few, lesson(), mortal)
    assert len(list((tmp_path / "killed").glob("step-000000010-*"))) == 1
    resumed, decoder = _train(encoder, few, lesson(), tmp_path / "killed")
    assert torch.equal(whole.losses, resumed.losses)
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), decoder.parameters(), strict=True))


def test_another_seed_is_another_training(tmp_path: Path, encoder: Encoder, few: Images) -> None:
    recipe = SHORT.model_copy(update={"epochs": 2, "horizontal_flip": True})
    losses = [_train(encoder, few, Lesson(recipe, seed), tmp_path / str(seed))[0].losses for seed in (0, 1)]
    assert not torch.equal(*losses)


def test_a_finished_training_is_not_repeated(tmp_path: Path, encoder: Encoder, few: Images) -> None:
    recipe = SHORT.model_copy(update={"epochs": 2})
    first, decoder = _train(encoder, few, Lesson(recipe, 0), tmp_path)
    again, same = _train(encoder, few, Lesson(recipe, 0), tmp_path)
    assert torch.equal(first.losses, again.losses)
    assert first.seconds == again.seconds
    assert torch.equal(decoder.decoder_pred.weight, same.decoder_pred.weight)


def test_the_average_is_what_stays(tmp_path: Path, encoder: Encoder, few: Images) -> None:
    """With a decay of almost 1 the average has hardly left the fresh weights."""
    recipe = SHORT.model_copy(update={"epochs": 2, "ema_decay": 0.9999999})
    _, decoder = _train(encoder, few, Lesson(recipe, 0), tmp_path)
    torch.testing.assert_close(decoder.decoder_pred.weight, _decoder(encoder).decoder_pred.weight, rtol=0, atol=1e-5)


def test_a_training_that_diverges_says_what_to_do(tmp_path: Path, encoder: Encoder, few: Images) -> None:
    recipe = SHORT.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(UserError, match=r"loss is no number at step \d+ of 24") as caught:
        _train(encoder, few, Lesson(recipe, 0), tmp_path)
    assert "1e+30" in caught.value.remedy
    assert not list(tmp_path.glob("step-*")), "a diverged state was kept"


def test_a_divergence_in_the_last_step_is_seen(tmp_path: Path, encoder: Encoder, few: Images) -> None:
    """One step: its loss is a number, what it makes of the weights is none."""
    recipe = SHORT.model_copy(update={"epochs": 1, "warmup_epochs": 0, "batch_size": 64, "learning_rate": 1e39})
    with pytest.raises(UserError, match="diverged"):
        _train(encoder, few, Lesson(recipe, 0), tmp_path)


def test_images_of_another_shape_are_refused(tmp_path: Path, encoder: Encoder) -> None:
    images = Images([np.zeros((4, 3, 8, 8), np.uint8)], np.zeros(4, np.int64))
    with pytest.raises(UserError, match=r"\(1, 8, 8\), the task's are \(3, 8, 8\)"):
        _train(encoder, images, Lesson(SHORT, 0), tmp_path)


def test_a_wanted_discriminator_must_be_there(tmp_path: Path, encoder: Encoder, few: Images) -> None:
    with pytest.raises(UserError, match="no encoder for its discriminator"):
        _train(encoder, few, Lesson(ADVERSARIAL, 0), tmp_path)
    with pytest.raises(UserError, match="looks at block 11, random has 3 blocks"):
        fresh_discriminator(encoder, 0)


def test_the_adversary_joins_at_its_epochs(tmp_path: Path, encoder: Encoder, few: Images) -> None:
    """The discriminator learns from the second epoch on; the decoder feels it from the third on."""
    discriminator = fresh_discriminator(encoder, 1, blocks=(0, 2))
    before = [weight.clone() for weight in discriminator.parameters()]
    with_it, _ = _train(encoder, few, Lesson(ADVERSARIAL, 0, discriminator=discriminator), tmp_path / "with")
    plain = ADVERSARIAL.model_copy(update={"adversarial_weight": 0.0})
    without, _ = _train(encoder, few, Lesson(plain, 0), tmp_path / "without")
    assert torch.equal(with_it.losses[:8], without.losses[:8])
    assert not torch.equal(with_it.losses[8:], without.losses[8:])
    assert any(not torch.equal(a, b) for a, b in zip(before, discriminator.parameters(), strict=True))
    assert with_it.losses.isfinite().all()


def test_a_discriminator_judges_each_patch_of_each_block(encoder: Encoder) -> None:
    discriminator = fresh_discriminator(encoder, 0, blocks=(0, 2))
    same = fresh_discriminator(encoder, 0, blocks=(0, 2))
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    judgements = discriminator.eval()(images)
    assert judgements.shape == (8, 2 * 16)
    assert torch.equal(judgements, same.eval()(images))
    judgements.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(name.startswith("heads.") for name, _ in discriminator.named_parameters())


def test_a_discriminator_learns_to_tell_digits_from_noise(encoder: Encoder, few: Images) -> None:
    discriminator: Discriminator = fresh_discriminator(encoder, 0, blocks=(0, 2))
    real = torch.from_numpy(few.pixels(np.arange(16))) / 255
    fake = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss = discriminator_loss(discriminator(real), discriminator(fake))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_losses_are_the_formulas() -> None:
    real, fake = torch.tensor([[0.0, 2.0]]), torch.tensor([[-2.0, 1.0]])
    assert discriminator_loss(real, fake).item() == 0.75
    weight = torch.ones(2, requires_grad=True)
    assert adaptive_weight((6 * weight).sum(), (2 * weight).sum(), weight).item() == pytest.approx(3)
    assert adaptive_weight((6 * weight).sum(), (0 * weight).sum(), weight).item() == 1e4


LARGE = DecoderShape(width=16, layers=1, heads=2, hidden=16, patch=16, latent_channels=4, tokens=16)
WANTS = DecoderRecipe(lpips="where-present")


def test_lpips_is_left_out_or_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    assert isinstance(perceptual_of(WANTS, LARGE, CPU), NoPerceptual)
    with pytest.raises(UserError, match=r"weights of VGG-16, and there is no .*hub/checkpoints/vgg16-\w+\.pth"):
        perceptual_of(DecoderRecipe(), LARGE, CPU)
    assert perceptual_of(DecoderRecipe(lpips_weight=0), LARGE, CPU).weight == 0
    weights_file().parent.mkdir(parents=True)
    weights_file().write_bytes(b"half of it")
    with pytest.raises(UserError, match="damaged"):
        perceptual_of(DecoderRecipe(), LARGE, CPU)


def test_lpips_needs_images_that_it_can_see(encoder: Encoder) -> None:
    with pytest.raises(UserError, match="1 channels of 8 x 8"):
        perceptual_of(DecoderRecipe(), _decoder(encoder).shape, CPU)
    assert perceptual_of(WANTS, _decoder(encoder).shape, CPU).weight == 0


def test_lpips_needs_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(UserError, match="torchvision, which cannot be imported"):
        perceptual_of(DecoderRecipe(), LARGE, CPU)
    assert perceptual_of(WANTS, LARGE, CPU).weight == 0


class _Darkness(Perceptual):
    """Wants dark images."""

    weight = 2.0

    def __call__(self, images_NKHW: Tensor, decoded_NKHW: Tensor) -> Tensor:
        return decoded_NKHW.square().mean()


def test_what_looks_different_counts_in_the_loss(tmp_path: Path, encoder: Encoder, few: Images) -> None:
    recipe = SHORT.model_copy(update={"epochs": 2})
    plain, _ = _train(encoder, few, Lesson(recipe, 0), tmp_path / "plain")
    dark, decoder = _train(encoder, few, Lesson(recipe, 0, _Darkness()), tmp_path / "dark")
    assert dark.losses[0] > plain.losses[0]
    assert dark.lpips_weight == 2
    assert decoder.shape.image_channels == 1
