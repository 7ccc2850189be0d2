"""Small real things for tests: configurations that train in a second, and a way to call the command line."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from harness.denoiser import Denoiser
from harness.latents import plain_codec
from harness.resolve import Request, resolve
from harness.sample import Sampled
from harness.spec import Execution, RaeLatents, RunConfig
from tests.nursery import command

PATIENCE = 300.0

QUICK = (
    "network.width=16",
    "network.depth=3",
    "network.num_heads=2",
    "recipe.steps=6",
    "recipe.batch_size=8",
    "recipe.warmup_steps=2",
    "recipe.ema_decay=0.5",
    "protocol.num_images=30",
    "protocol.outlier_images=4",
    "protocol.noise_levels=[0.2,0.8]",
)
QUICK_SAMPLING = {"dit": ("sampler.respacing=3",)}

STAND_IN = ("latents.kind=stand-in", "latents.patch=2")


def quick_changes(backbone: str) -> tuple[str, ...]:
    """Changes that make a run of a family small: one over an encoder's latents works on a stand-in's."""
    return (*QUICK, *QUICK_SAMPLING.get(backbone, ("sampler.points=3",)), *(STAND_IN if "rae" in backbone else ()))


def quick_config(
    place: Path, backbone: str = "sit", registers: str = "none", *changes: str, seed: int = 0
) -> RunConfig:
    """A resolved run on the digits that takes about a second, its folders below `place`."""
    execution = Execution(results=str(place / "results"), runs=str(place / "runs"), threads=1, device="cpu")
    return resolve(
        Request(
            backbone=backbone,
            registers=registers,
            seed=seed,
            changes=(*quick_changes(backbone), *changes),
            execution=execution,
        )
    )


def sampled(config: RunConfig, denoiser: Denoiser) -> Sampled:
    """What images of a run are made from, with this denoiser."""
    assert not isinstance(config.latents, RaeLatents), "no encoder in quick tests"
    return Sampled(denoiser, plain_codec(config.latents, config.task, torch.device("cpu")))


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def harness(*words: str, cwd: Path) -> Said:
    """`python -m harness ...` in a process of its own, forked with all imports done.

    They have seen the environment of the first such call: what a library reads when it is imported needs
    `harness_afresh`.
    """
    with TemporaryDirectory() as place:
        out, err = Path(place) / "out", Path(place) / "err"
        done = command(words, cwd, out, err)
        try:
            code = done.wait(PATIENCE)
        finally:
            done.kill()
        return Said(code, out.read_text(), err.read_text())


def harness_afresh(*words: str, cwd: Path) -> Said:
    """`python -m harness ...` as everybody starts it."""
    python = [sys.executable, "-m", "harness"]
    done = subprocess.run([*python, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=PATIENCE)
    return Said(done.returncode, done.stdout, done.stderr)


def quick_words(backbone: str = "sit", registers: str = "none", *changes: str) -> Sequence[str]:
    """The command line of a quick run."""
    sets = [word for change in (*quick_changes(backbone), *changes) for word in ("--set", change)]
    return ["run", "--backbone", backbone, "--registers", registers, "--threads", "1", *sets]


def image_folder(root: Path, classes: int = 3, per_class: int = 5, size: tuple[int, int] = (40, 50)) -> Path:
    """A folder of real PNG files in class subfolders."""
    random = np.random.default_rng(0)
    for label in range(classes):
        (root / f"class{label}").mkdir(parents=True)
        for index in range(per_class):
            pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class{label}" / f"{index}.png")
    return root
