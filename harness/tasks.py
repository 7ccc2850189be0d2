"""The named tasks: which images are learnt, at what size of backbone, for how long, and how they are judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.backbone import Backbone
from harness.captions import list_captioned
from harness.errors import UserError, unknown_name
from harness.folder import list_images, training_images
from harness.spec import (
    DdimSampler,
    DdpmSampler,
    DrawnLatents,
    Guidance,
    Latents,
    PixelLatents,
    Protocol,
    RaeLatents,
    Recipe,
    Sampler,
    StandInLatents,
    Task,
)
from harness.text_config import TextConfig
from harness.texts import prompts_of

DIGITS_FINGERPRINT = "uci-optical-digits-1797"
DIGITS_IMAGES = 1797
BALANCED_AT_LEAST = 1000
SMALLEST = "tiny"
DRAWN_LATENTS = DrawnLatents(
    kind="shapes", weights_sha256="47a24e55b40be298b0808cc7450887675071ad9dae1e26f8579ba4f6bbdc8238"
)
SHAPES_FINGERPRINT = "drawn-shapes-1"
SHAPES_IMAGES = 100_000
IMAGES_PER_PROMPT = 4
DIGITS_LATENTS = RaeLatents(kind="rae", encoder="digits-vit", channels=32, patch=2, decoder="tiny")
IMAGENET_IMAGES, IMAGENET_CLASSES, IMAGENET_GENERATED = 1_281_167, 1000, 50_000


@dataclass(frozen=True)
class Located:
    """A task whose images were found, and how many there are."""

    task: Task
    num_images: int


@dataclass(frozen=True)
class TaskDefinition:
    """A task before a backbone is chosen.

    `locate` turns the user's --data (or None) into the Task; `size` is the size that a family name resolves to, None
    the one that the family is known for.  A task that is not `official` changes a family's training by `recipe`, its
    sampling to `evaluations` of the network, and its latents by `stand_ins`, by their kind.  `num_images` are made, of
    prompts four for each.  `words` is a text encoder that is trained with the denoiser; without it a frozen one is
    wanted.
    """

    title: str
    locate: Callable[[Path | None], Located]
    size: str | None
    official: bool
    recipe: Mapping[str, Any] = field(default_factory=dict)
    stand_ins: Mapping[str, Latents] = field(default_factory=dict)
    num_images: int = BALANCED_AT_LEAST
    evaluations: int = 40
    guidance: Guidance | None = None
    brings_images: bool = False
    has_prompts: bool = False
    words: Callable[[], TextConfig] | None = None

    def size_of(self, backbone: Backbone, task: Task) -> str:
        """The size that a family's name means here; a third party's family may have none but `tiny`."""
        if self.size is None:
            return backbone.headline(task.image_size)
        return self.size if self.size in backbone.sizes else SMALLEST

    def latents(self, backbone: Backbone) -> Latents:
        """What the denoiser sees."""
        return self.stand_ins.get(backbone.latents.kind, backbone.latents)

    def recipe_of(self, backbone: Backbone, num_images: int) -> Recipe:
        """The family's training, changed to fit."""
        return Recipe.model_validate(backbone.recipe(num_images).model_dump() | dict(self.recipe))

    def sampler_of(self, backbone: Backbone) -> Sampler:
        """The family's sampler, with fewer evaluations where a laptop has to do."""
        sampler = backbone.sampler
        if self.official:
            return sampler
        if isinstance(sampler, DdpmSampler):
            return sampler.model_copy(update={"respacing": f"{self.evaluations}"})
        if isinstance(sampler, DdimSampler):
            return sampler.model_copy(update={"respacing": f"ddim{self.evaluations}"})
        method = "heun" if sampler.method == "dopri5" else sampler.method
        steps = self.evaluations if method == "euler" else self.evaluations // 2
        return sampler.model_copy(update={"method": method, "points": steps + 1})

    def protocol(self, backbone: Backbone, size: str, task: Task) -> Protocol:
        """The least balanced number of images that is not below `num_images`; without guidance unless official."""
        kinds = len(prompts_of(task)) or task.num_classes
        guidance = self.guidance or backbone.guidance(size)
        if not self.official and self.guidance is None:
            guidance = Guidance(channels=guidance.channels, edges=guidance.edges)
        return Protocol(
            num_images=IMAGES_PER_PROMPT * kinds if task.prompts else -(-self.num_images // kinds) * kinds,
            guidance=guidance,
            uint8_rule=backbone.uint8_rule if self.official else "round",
        )


def find(name: str) -> TaskDefinition:
    """The definition of a task; raises UserError for a name that there is not."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def _digits(data: Path | None) -> Located:
    if data is not None:
        raise UserError(
            "the task digits brings its own images: --data has no effect on it",
            "leave --data out, or use --task folder for your own images",
        )
    task = Task(
        name="digits",
        channels=1,
        image_size=8,
        num_classes=10,
        data_fingerprint=DIGITS_FINGERPRINT,
        metric="fd_digits",
    )
    return Located(task, DIGITS_IMAGES)


def _captioned(data: Path | None) -> Located:
    if data is None:
        task = Task(name="t2i", channels=3, image_size=256, num_classes=1, prompts="geneval")
        return Located(task, IMAGENET_IMAGES)
    listing = list_captioned(data)
    task = Task(
        name="t2i",
        channels=3,
        image_size=256,
        num_classes=1,
        data_fingerprint=listing.fingerprint,
        num_training_images=len(listing.images),
        prompts="geneval",
    )
    return Located(task, len(listing.images))


def _shapes(data: Path | None) -> Located:
    if data is not None:
        raise UserError(
            "the task shapes-t2i draws its own images: --data has no effect on it",
            "leave --data out, or use --task t2i for your own images with captions",
        )
    task = Task(
        name="shapes-t2i",
        channels=3,
        image_size=32,
        num_classes=1,
        data_fingerprint=SHAPES_FINGERPRINT,
        metric="geneval_shapes",
        prompts="shapes",
    )
    return Located(task, SHAPES_IMAGES)


def words_of_shapes() -> TextConfig:
    """The small text encoder that is trained with the denoiser: a start, then the words of the shapes' captions."""
    from harness.shapes.grammar import LONGEST, VOCABULARY

    return TextConfig(width=64, tokens=LONGEST + 1, vocabulary=len(VOCABULARY) + 1, depth=2)


def _folder(data: Path | None) -> Located:
    if data is None:
        raise UserError("the task folder needs images", "add --data DIR, a folder that holds one subfolder per class")
    return _listed("folder", 32, data)


def _imagenet(image_size: int) -> Callable[[Path | None], Located]:
    """Without --data a description of ImageNet-1k, which can be shown but not run."""
    name = f"imagenet{image_size}"

    def locate(data: Path | None) -> Located:
        if data is not None:
            return _listed(name, image_size, training_images(data))
        task = Task(
            name=name,
            channels=3,
            image_size=image_size,
            num_classes=IMAGENET_CLASSES,
            horizontal_flip=True,
            num_training_images=IMAGENET_IMAGES,
        )
        return Located(task, IMAGENET_IMAGES)

    return locate


def _listed(name: str, image_size: int, folder: Path) -> Located:
    listing = list_images(folder)
    task = Task(
        name=name,
        channels=3,
        image_size=image_size,
        num_classes=len(listing.classes),
        horizontal_flip=True,
        class_names=listing.classes,
        data_fingerprint=listing.fingerprint,
        num_training_images=len(listing.images),
    )
    return Located(task, len(listing.images))


# What official recipes have beyond the plain one, undone where a training takes minutes.
_PLAIN: Mapping[str, Any] = {
    "warmup": "linear",
    "decay": "none",
    "decay_end": None,
    "final_learning_rate": 0.0,
    "second_ema_decay": None,
    "trains_fixed_tables": False,
}

TASKS: Mapping[str, TaskDefinition] = {
    "digits": TaskDefinition(
        title="1,797 real handwritten digits, 8 x 8 grey (UCI, shipped with scikit-learn): no download",
        locate=_digits,
        size="tiny",
        official=False,
        brings_images=True,
        recipe={
            **_PLAIN,
            "steps": 1100,
            "batch_size": 64,
            "learning_rate": 6e-3,
            "warmup_steps": 100,
            "betas": (0.9, 0.99),
            "gradient_clip": 1.0,
            "ema_decay": 0.995,
            "precision": "float32",
        },
        stand_ins={"sd-vae": PixelLatents(), "rae": DIGITS_LATENTS},
    ),
    "shapes-t2i": TaskDefinition(
        title="text to image, embedded: drawn shapes with captions, judged by GenEval's rules on held-out prompts",
        locate=_shapes,
        size="mini",
        official=False,
        brings_images=True,
        recipe={
            **_PLAIN,
            "steps": 1000,
            "batch_size": 32,
            "learning_rate": 3e-3,
            "warmup_steps": 40,
            "decay": "cosine",
            "betas": (0.9, 0.99),
            "gradient_clip": 1.0,
            "ema_decay": 0.98,
            "precision": "float32",
        },
        stand_ins={"sd-vae": DRAWN_LATENTS, "rae": StandInLatents(kind="stand-in", patch=4)},
        evaluations=20,
        guidance=Guidance(scale=2.0, channels="all"),
        has_prompts=True,
        words=words_of_shapes,
    ),
    "t2i": TaskDefinition(
        title="text to image on your own images with captions (--data DIR), at 256 x 256: each family's official "
        "recipe, four images for each of GenEval's 553 prompts",
        locate=_captioned,
        size=None,
        official=True,
        guidance=Guidance(scale=4.0, channels="all"),
        has_prompts=True,
    ),
    "folder": TaskDefinition(
        title="your own images in class subfolders (--data DIR): ADM crop to 32 x 32 RGB, flips; "
        "another size by --set task.image_size=64",
        locate=_folder,
        size="tiny",
        official=False,
        recipe={
            **_PLAIN,
            "steps": 2000,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "warmup_steps": 100,
            "betas": (0.9, 0.999),
            "gradient_clip": None,
            "ema_decay": 0.998,
            "precision": "auto",
        },
        stand_ins={"sd-vae": PixelLatents(), "rae": StandInLatents(kind="stand-in", patch=4)},
    ),
    **{
        f"imagenet{image_size}": TaskDefinition(
            title=f"ImageNet-1k at {image_size} x {image_size} (--data DIR with class folders, or with train/): "
            "each family's official recipe, 50,000 images",
            locate=_imagenet(image_size),
            size=None,
            official=True,
            num_images=IMAGENET_GENERATED,
        )
        for image_size in (256, 512)
    },
}
