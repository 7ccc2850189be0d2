"""CLIP as transformers has it: the embeddings of images and texts in one space."""

# n images or texts, C channels, H height, W width, L tokens, D width of a tower, E width of an embedding

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from torch import Tensor
from torch.nn import functional
from torchvision import transforms  # type: ignore[import-untyped]

from harness.comparability import ExtractorIdentity
from harness.extractor import Matrix32
from harness.files import sha256_of
from harness.images import Pixels
from harness.metrics.judge_networks import (
    CONFIG,
    WEIGHTS,
    NetworkKind,
    find_folder,
    moving,
    name_of,
    reading,
    require_all,
    require_kind,
)
from harness.tiled_extractor import Seen, TiledExtractor

CLIP_L = "openai/clip-vit-large-patch14"
FILES = (CONFIG, "tokenizer.json", "tokenizer_config.json", WEIGHTS)
KIND = NetworkKind("CLIP", "clip", FILES, CLIP_L)

# As many images as GenEval has of a prompt: what fills a tile up costs as much as what was asked for.
TILE = 4


@dataclass(frozen=True)
class Clip:
    """A CLIP that is open.  What it makes of an image, or of a text, depends on that one alone, not on its batch.

    Images are prepared as OpenAI's own code does: resized by Pillow, bicubic, and cut to a square about their middle.
    Its `name` is a hub id or a folder's, and no part of its identity: equal weights are equal wherever they lie.
    """

    name: str
    identity: ExtractorIdentity
    longest_text: int
    _square: Callable[[Image.Image], Image.Image]
    _images: TiledExtractor
    _tokenizer: Any
    _model: Any

    def image_features(self, images: Sequence[Image.Image]) -> Matrix32:
        """The embeddings (n, E) of images of any size and mode, each of length 1."""
        pixels = [np.asarray(self._square(image.convert("RGB"))).transpose(2, 0, 1) for image in images]
        return self._images.extract(np.stack(pixels)).pooled

    def text_features(self, texts: Sequence[str]) -> Matrix32:
        """The embeddings (n, E) of texts, each of length 1; what a text has beyond `longest_text` tokens is cut off."""
        return np.stack([self._text_feature(text) for text in texts])

    def is_cut(self, text: str) -> bool:
        """Whether a text has more than `longest_text` tokens, so that its end is not seen."""
        return len(self._tokenizer(text, verbose=False)["input_ids"]) > self.longest_text

    def _text_feature(self, text: str) -> Matrix32:
        """Of one text without padding: its neighbours do not change even its shape."""
        encoded = self._tokenizer(text, truncation=True, max_length=self.longest_text, return_tensors="pt")
        tokens_1L: Tensor = encoded["input_ids"].to(self._images.device)
        with torch.inference_mode():
            seen_1D = self._model.text_model(input_ids=tokens_1L).pooler_output
            embedded_1E = functional.normalize(self._model.text_projection(seen_1D), dim=1)
        feature: Matrix32 = embedded_1E[0].cpu().numpy()
        return feature


def open_clip(place: str, device: torch.device) -> Clip:
    """The CLIP of a hub id, or of a folder in transformers' format.

    Raises UserError where it is not here and cannot be fetched, is damaged, or is another kind of model.
    """
    folder = find_folder(place, KIND)
    model, tokenizer = _read(folder)
    with moving(KIND):
        model.to(device)
    side = model.config.vision_config.image_size
    identity = ExtractorIdentity(
        name="clip",
        version=f"{side} x {side} bicubic (Pillow)",
        weights_sha256=sha256_of(folder / WEIGHTS),
    )
    normalise = transforms.Normalize(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)

    def prepare(pixels_CHW: Pixels) -> Tensor:
        prepared_CHW: Tensor = normalise(torch.from_numpy(pixels_CHW).float() / 255)
        return prepared_CHW

    def network(images_nCHW: Tensor) -> Seen:
        seen_nD = model.vision_model(pixel_values=images_nCHW).pooler_output
        return Seen(functional.normalize(model.visual_projection(seen_nD), dim=1))

    resize = transforms.Resize(side, transforms.InterpolationMode.BICUBIC)
    return Clip(
        name=name_of(place),
        identity=identity,
        longest_text=model.config.text_config.max_position_embeddings,
        _square=transforms.Compose([resize, transforms.CenterCrop(side)]),
        _images=TiledExtractor(identity, prepare, network, device, TILE),
        _tokenizer=tokenizer,
        _model=model,
    )


def _read(folder: Path) -> tuple[Any, Any]:
    """The model in float32 and its tokenizer."""
    network: Any = transformers.CLIPModel
    require_kind(folder, KIND)
    with reading(folder, KIND):
        model, found = network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    require_all(found["missing_keys"], folder / WEIGHTS)
    return model.float().eval(), tokenizer
