"""The named tasks: which images are learnt, at what size of backbone, for how long, and how they are judged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UserError, unknown_name
from harness.folder import list_images
from harness.spec import Protocol, Task

DIGITS_FINGERPRINT = "uci-optical-digits-1797"
BALANCED_AT_LEAST = 1000


@dataclass(frozen=True)
class TaskDefinition:
    """A task before a backbone is chosen.

    `locate` turns the user's --data (or None) into the Task; `size` is the size that a family name resolves to;
    `recipe` and `samplers` are what the task changes of a family's official training and sampling, so that a run fits
    a laptop (`samplers` by the sampler's kind); `num_images` are generated for the metrics.
    """

    title: str
    locate: Callable[[Path | None], Task]
    size: str
    recipe: Mapping[str, Any]
    samplers: Mapping[str, Mapping[str, Any]]
    num_images: int = BALANCED_AT_LEAST

    def protocol(self, task: Task) -> Protocol:
        """The default protocol: the least balanced number of images that is not below `num_images`."""
        per_class = -(-self.num_images // task.num_classes)
        return Protocol(num_images=per_class * task.num_classes)


def find(name: str) -> TaskDefinition:
    """The definition of a task; raises UserError for a name that there is not."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def _digits(data: Path | None) -> Task:
    if data is not None:
        raise UserError(
            "the task digits brings its own images: --data has no effect on it",
            "leave --data out, or use --task folder for your own images",
        )
    return Task(
        name="digits",
        channels=1,
        image_size=8,
        num_classes=10,
        data_fingerprint=DIGITS_FINGERPRINT,
        metric="fd_digits",
    )


def _folder(data: Path | None) -> Task:
    if data is None:
        raise UserError("the task folder needs images", "add --data DIR, a folder that holds one subfolder per class")
    listing = list_images(data)
    return Task(
        name="folder",
        channels=3,
        image_size=32,
        num_classes=len(listing.classes),
        horizontal_flip=True,
        class_names=listing.classes,
        data_fingerprint=listing.fingerprint,
    )


_LAPTOP_SAMPLERS: Mapping[str, Mapping[str, Any]] = {
    "ode": {"method": "heun", "points": 21},
    "ddpm": {"respacing": "40"},
}

TASKS: Mapping[str, TaskDefinition] = {
    "digits": TaskDefinition(
        title="1,797 real handwritten digits, 8 x 8 grey (UCI, shipped with scikit-learn): no download",
        locate=_digits,
        size="tiny",
        recipe={
            "steps": 1100,
            "batch_size": 64,
            "learning_rate": 6e-3,
            "warmup_steps": 100,
            "betas": (0.9, 0.99),
            "gradient_clip": 1.0,
            "ema_decay": 0.995,
            "precision": "float32",
        },
        samplers=_LAPTOP_SAMPLERS,
    ),
    "folder": TaskDefinition(
        title="your own images in class subfolders (--data DIR): ADM crop to 32 x 32 RGB, flips; "
        "another size by --set task.image_size=64",
        locate=_folder,
        size="tiny",
        recipe={
            "steps": 2000,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "warmup_steps": 100,
            "ema_decay": 0.998,
            "precision": "auto",
        },
        samplers=_LAPTOP_SAMPLERS,
    ),
}
