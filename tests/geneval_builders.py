"""Folders in GenEval's layout, and a tiny detector that finds something in them, saved as transformers would."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from harness.metrics.geneval.objects import OBJECTS
from harness.metrics.geneval.official_prompts import lines
from harness.metrics.geneval.prompt import Clause, Prompt

SIDE, QUERIES = 64, 8
# What the tiny detector likes to see.
SEEN = ("person", "cup", "apple", "tv remote")
SPREAD, CLEAR_CLASSES = 0.4, 6.0


def save_detector(place: Path, labels: Sequence[str] = OBJECTS, seed: int = 2) -> Path:
    """The folder, with a Mask2Former of random weights whose queries are sure of one class of SEEN, or between two."""
    backbone: Any = transformers.SwinConfig
    swin = backbone(
        image_size=SIDE,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config: Any = transformers.Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=QUERIES,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = transformers.Mask2FormerForUniversalSegmentation(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # far from what it begins at: queries, and what they see in images, then differ
                torch.nn.init.normal_(parameter, std=SPREAD)
        with torch.no_grad():
            _plant(model.class_predictor, labels)
    model.save_pretrained(place)
    processors: Any = transformers.Mask2FormerImageProcessor
    processors(size={"height": SIDE, "width": SIDE}).save_pretrained(place)
    return place


def _plant(predictor: Any, labels: Sequence[str]) -> None:
    """Every class but those of SEEN is out of the question."""
    liked = [index for index, label in enumerate(labels) if label in SEEN] or [0]
    drawn = torch.randn(len(liked), predictor.weight.shape[1])
    predictor.weight.zero_()
    predictor.weight[liked] = drawn * CLEAR_CLASSES / predictor.weight.shape[1] ** 0.5
    predictor.bias.fill_(-20.0)
    predictor.bias[liked] = 0.0


def clause(name: str, count: int = 1, **further: Any) -> Clause:
    return Clause(object_class=name, count=count, **further)


def some_prompts() -> list[Prompt]:
    """One of each category, of what the tiny detector likes to see."""
    return [
        Prompt(tag="single_object", include=(clause("cup"),), prompt="a photo of a cup"),
        Prompt(tag="two_object", include=(clause("cup"), clause("apple")), prompt="a photo of a cup and an apple"),
        Prompt(
            tag="counting",
            include=(clause("person", 2),),
            exclude=(clause("person", 3),),
            prompt="a photo of two persons",
        ),
        Prompt(tag="colors", include=(clause("apple", color="red"),), prompt="a photo of a red apple"),
        Prompt(
            tag="position",
            include=(clause("cup"), clause("apple", position=("left of", 0))),
            prompt="a photo of an apple left of a cup",
        ),
        Prompt(
            tag="color_attr",
            include=(clause("cup", color="blue"), clause("person", color="black")),
            prompt="a photo of a blue cup and a black person",
        ),
    ]


def write_gallery(place: Path, prompts: Sequence[Prompt], each: int = 2, size: tuple[int, int] = (48, 40)) -> Path:
    """Blocks of random colours, and beside them what official folders have too."""
    W, H = size
    for index, prompt in enumerate(prompts):
        samples = place / f"{index:05d}" / "samples"
        samples.mkdir(parents=True)
        samples.with_name("metadata.jsonl").write_text(lines([prompt]).rstrip("\n"))
        samples.with_name("grid.png").write_bytes(b"no image, and nobody looks")
        for number in range(each):
            random = np.random.default_rng([index, number])
            coarse = random.integers(0, 256, (3, 4, 3), np.uint8)
            Image.fromarray(coarse).resize((W, H), Image.Resampling.NEAREST).save(samples / f"{number:04d}.png")
    return place


def rename_labels(place: Path, labels: Sequence[str]) -> None:
    """Let a saved detector call its classes otherwise."""
    path = place / "config.json"
    config = json.loads(path.read_text())
    config["id2label"] = {str(index): label for index, label in enumerate(labels)}
    config["label2id"] = {label: index for index, label in enumerate(labels)}
    path.write_text(json.dumps(config))
