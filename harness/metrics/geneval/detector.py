"""Find the objects of an image with a Mask2Former of transformers, as the official tool does with mmdet's."""

# N batch, Q queries, C classes, n pairs of query and class, h w size of the network's masks, H height, W width

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.nn import functional

from harness.data import Labels
from harness.errors import UserError, first_few
from harness.files import sha256_of
from harness.metrics.geneval.detections import Boxes, Detections, Masks, Objects
from harness.metrics.geneval.objects import OBJECTS
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

MASK2FORMER: Final = "facebook/mask2former-swin-small-coco-instance"
FILES: Final = (CONFIG, "preprocessor_config.json", WEIGHTS)
KIND: Final = NetworkKind("detector", "mask2former", FILES, MASK2FORMER)

InputSize = Literal["checkpoint", "official"]

# mmdet's test_cfg.max_per_image, and its test pipeline's scale.
MOST_PAIRS: Final = 100
OFFICIAL_SIZE: Final[Mapping[str, int]] = {"shortest_edge": 800, "longest_edge": 1333}
# Of what an input's sides are multiples: there as here, what is missing is filled up at its right and lower side.
DIVISOR: Final = 32
# How many images a GPU is given at first; where its memory is too small, half as many, and so on.
GPU_BATCH: Final = 8

_PIXEL_EPSILON: Final = 1e-6
# A mean of probabilities may exceed 1 by its rounding.
_ROUNDING: Final = 0.999
_SHOWN: Final = 4


class Frame(NamedTuple):
    """Where masks lie, as (height, width): the network's input, the part of it that is no filling, and the image."""

    input: tuple[int, ...]
    content: tuple[int, int]
    image: tuple[int, int]


@dataclass
class Detector:
    """A Mask2Former for instance segmentation that is open.

    `least` is the confidence below which nobody asks for an object.  On a CPU images pass one by one, so that what is
    found is bit for bit the same in any batch; on a GPU `batch` of them pass at once, which may move last digits.
    """

    name: str
    version: str
    weights_sha256: str
    device: torch.device
    batch: int
    least: float
    notes: tuple[str, ...]
    _model: Any = field(repr=False)
    _prepare: Any = field(repr=False)

    def detect(self, images: Sequence[Image.Image]) -> Iterator[Detections]:
        """The objects in each of RGB images of one size, in their order; no more than a batch is held at a time.

        Raises UserError where a GPU's memory is too small for one image.
        """
        start = 0
        while start < len(images):
            try:
                found = self._found(images[start : start + self.batch])
            except torch.OutOfMemoryError as error:
                self._halve(error)
                continue
            yield from found
            start += len(found)

    def _found(self, images: Sequence[Image.Image]) -> list[Detections]:
        W, H = images[0].size
        pixels_N3HW = torch.cat([self._prepare(image) for image in images]).to(self.device)
        height, width = pixels_N3HW.shape[-2:]
        filled_N3HW = functional.pad(pixels_N3HW, (0, -width % DIVISOR, 0, -height % DIVISOR))
        frame = Frame(tuple(filled_N3HW.shape[-2:]), (height, width), (H, W))
        with torch.inference_mode():
            seen = self._model(pixel_values=filled_N3HW)
            logits = zip(seen.class_queries_logits, seen.masks_queries_logits, strict=True)
            return [instances(classes_QC, masks_Qhw, frame, self.least) for classes_QC, masks_Qhw in logits]

    def _halve(self, error: torch.OutOfMemoryError) -> None:
        if self.batch == 1:
            raise UserError(
                "the GPU's memory is too small for the detector and one image",
                "close what else uses the GPU, or use --device cpu",
            ) from error
        self.batch //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def open_detector(place: str, device: torch.device, *, size: InputSize, least: float = 0.0) -> Detector:
    """The detector of a hub id, or of a folder that transformers' `save_pretrained` wrote.

    With `size` "checkpoint" images are resized as its own processor says (the released ones: to 384 x 384, whatever
    their shape); with "official" as mmdet's test pipeline does: to a shorter side of 800 and at most 1333.
    Raises UserError where it is not here and cannot be fetched, is damaged, is another kind of model, or does not have
    COCO's 80 classes in their order.
    """
    folder = find_folder(place, KIND)
    model, processor, unused = _read(folder)
    require_coco(model.config.id2label, place)
    with moving(KIND):
        model.to(device)
    resized = {} if size == "checkpoint" else {"size": dict(OFFICIAL_SIZE), "size_divisor": 0}

    def prepare(image: Image.Image) -> Tensor:
        pixels_13HW: Tensor = processor(images=[image], return_tensors="pt", **resized)["pixel_values"]
        return pixels_13HW

    return Detector(
        name=name_of(place),
        version=f"{size} size, instances as in mmdet 2",
        weights_sha256=sha256_of(folder / WEIGHTS),
        device=device,
        batch=GPU_BATCH if device.type == "cuda" else 1,
        least=least,
        notes=_about(unused),
        _model=model,
        _prepare=prepare,
    )


def instances(classes_QC: Tensor, masks_Qhw: Tensor, frame: Frame, least: float = 0.0) -> Detections:
    """The objects in one image, from the logits of its queries: classes (Q, C + 1), the last for none, and masks.

    As mmdet 2.x's instance segmentation: of all pairs of a query and a class the 100 most probable (softmax with "no
    object", which is then left out), so that a query may be several objects and nothing is suppressed; mask logits
    resized bilinearly, first to the network's input, from which the filling is cut off, then to the image; a mask is
    where they are above 0; confidence is the class's probability times the mean probability of the mask's pixels; a box
    is the mask's bounds, x2 and y2 one beyond it.  Two things differ from mmdet and change no verdict: a mask without a
    pixel, of confidence 0 there, is no object, and pairs that cannot reach `least` are left out before their masks are
    made.  transformers' own post_process_instance_segmentation is not used: it resizes masks to 384 x 384 whatever the
    input, thresholds them there, and takes as many pairs as there are queries.
    """
    num_classes = classes_QC.shape[1] - 1
    ranked = classes_QC.softmax(1)[:, :-1].flatten().sort(descending=True, stable=True)
    most = int((ranked.values[:MOST_PAIRS] >= least * _ROUNDING).sum())
    pairs_n = ranked.indices[:most]
    if not most:
        return {}
    masks_nHW = _resized(masks_Qhw[pairs_n // num_classes], frame)
    inside_nHW = masks_nHW > 0
    areas_n = inside_nHW.flatten(1).sum(1)
    sums_n = (masks_nHW.sigmoid() * inside_nHW).flatten(1).sum(1)
    scores_n = (ranked.values[:most] * sums_n / (areas_n + _PIXEL_EPSILON)).clamp(max=1)
    return _by_class((pairs_n % num_classes).cpu().numpy(), scores_n.cpu().numpy(), inside_nHW.cpu().numpy())


def require_coco(labels: Mapping[int, str], place: str) -> None:
    """Raise UserError unless a checkpoint's classes are COCO's 80, in COCO's order, under whatever names."""
    if len(labels) != len(OBJECTS):
        raise UserError(
            f"{place} knows {len(labels)} classes ({first_few(list(labels.values()), _SHOWN)}), and GenEval asks for "
            f"COCO's {len(OBJECTS)}",
            "give a Mask2Former for COCO instance segmentation: its hub id ends in coco-instance",
        )
    ours = {_spelled(name): index for index, name in enumerate(OBJECTS)}
    elsewhere = [name for index, name in sorted(labels.items()) if ours.get(_spelled(name), index) != index]
    if elsewhere:
        raise UserError(
            f"{place} has COCO's classes in another order: {first_few(elsewhere, _SHOWN)}",
            "give a Mask2Former for COCO instance segmentation as it was released",
        )


def _resized(masks_nhw: Tensor, frame: Frame) -> Tensor:
    height, width = frame.content
    in_input = functional.interpolate(masks_nhw[None], frame.input, mode="bilinear", align_corners=False)
    content = in_input[..., :height, :width]
    return functional.interpolate(content, frame.image, mode="bilinear", align_corners=False)[0]


def _by_class(classes_n: Labels, scores_n: Boxes, masks_nHW: Masks) -> Detections:
    found = {}
    for index in dict.fromkeys(classes_n.tolist()):
        rows = np.flatnonzero((classes_n == index) & masks_nHW.any((1, 2)))
        if len(rows):
            boxes_n5 = np.array([[*_bounds(masks_nHW[row]), scores_n[row]] for row in rows], np.float32)
            found[OBJECTS[index]] = Objects(boxes_n5, masks_nHW[rows])
    return found


def _bounds(mask_HW: Masks) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask_HW.any(0)), np.flatnonzero(mask_HW.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _spelled(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _read(folder: Path) -> tuple[Any, Any, list[str]]:
    """The model in float32, its processor, and the names of weights that it does not use."""
    network: Any = transformers.Mask2FormerForUniversalSegmentation
    # From transformers 5 on the plain name resizes with torchvision.
    processors: Any = getattr(transformers, "Mask2FormerImageProcessorPil", transformers.Mask2FormerImageProcessor)
    require_kind(folder, KIND)
    with reading(folder, KIND):
        model, found = network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        processor = processors.from_pretrained(folder, local_files_only=True)
    learned = {name for name, _ in model.named_parameters()}
    require_all(learned.intersection(found["missing_keys"]), folder / WEIGHTS)
    return model.float().eval(), processor, sorted(found["unexpected_keys"])


def _about(unused: Sequence[str]) -> tuple[str, ...]:
    if not unused:
        return ()
    return (f"the detector's file holds {len(unused)} weights that its network has not: {first_few(unused, _SHOWN)}",)
