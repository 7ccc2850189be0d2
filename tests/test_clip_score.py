"""CLIPScore is transformers' own CLIP's, for every image alone, and its mean knows which images share a prompt."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from harness.comparability import UNGUIDED, ReferenceIdentity
from harness.errors import UserError
from harness.metrics.clip import FILES, Clip, open_clip
from harness.metrics.clip_score import PromptScores, basis_of, measurement, score_prompt
from tests.clip_builders import SIDE, WIDTH, save_clip

CPU = torch.device("cpu")
SHORT, LONG = "a red cup", "a red cup and a blue book on a table"
PROMPTS = ReferenceIdentity(name="two", sha256="0" * 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Clip:
    return open_clip(str(folder), CPU)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Of several sizes and modes: wide, tall, grey, with alpha, and as small as CLIP's own."""
    random = np.random.default_rng(0)
    sizes = ((64, 48), (33, 72), (100, 101), (SIDE, SIDE), (51, 51), (40, 90))
    colours = [Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
    return [*colours[:3], colours[3].convert("L"), colours[4].convert("RGBA"), colours[5]]


def _official(folder: Path, image: Image.Image, text: str) -> float:
    """The score by transformers' model, tokenizer and preparation of images, Pillow's."""
    model: Any = transformers.CLIPModel
    model = model.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    # Since transformers 5 the one without a suffix resizes by torch.
    kind: Any = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    processor = kind(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    limit = model.config.text_config.max_position_embeddings
    seen = model(
        **processor(images=image.convert("RGB"), return_tensors="pt"),
        **tokenizer(text, truncation=True, max_length=limit, padding="max_length", return_tensors="pt"),
    )
    cosine = torch.nn.functional.cosine_similarity(seen.image_embeds, seen.text_embeds).item()
    return 100 * max(cosine, 0)


@pytest.mark.parametrize("text", [SHORT, LONG])
def test_a_score_is_that_of_transformers(clip: Clip, folder: Path, images: list[Image.Image], text: str) -> None:
    found = score_prompt(clip, images, text).scores
    assert list(found) == pytest.approx([_official(folder, image, text) for image in images], abs=2e-3)
    assert max(found) > 1
    assert len(set(found)) > 2


def test_an_image_that_points_away_from_its_prompt_has_no_score_below_zero(clip: Clip) -> None:
    many = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("black", "white", "red", "green", "blue", "yellow")]
    texts = list("abcdefgh")
    cosines = clip.image_features(many) @ clip.text_features(texts).T
    assert cosines.min() < 0 < cosines.max()
    scores = np.array([score_prompt(clip, many, text).scores for text in texts])
    assert np.allclose(scores.T, 100 * np.maximum(cosines, 0), atol=1e-4)


def test_features_have_length_one_and_are_the_same_bits_in_any_batch(clip: Clip, images: list[Image.Image]) -> None:
    together = clip.image_features(images)
    assert together.shape == (len(images), WIDTH)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(together, np.concatenate([clip.image_features([image]) for image in images]))
    texts = clip.text_features([SHORT, LONG])
    assert np.linalg.norm(texts, axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(texts[:1], clip.text_features([SHORT]))


def test_a_prompt_that_is_cut_is_said_to_be(clip: Clip, images: list[Image.Image]) -> None:
    found = [score_prompt(clip, images[:2], text) for text in (SHORT, LONG)]
    assert [each.is_cut for each in found] == [False, True]
    assert "1 of 2 prompts" in measurement(found, basis_of(clip, PROMPTS, UNGUIDED)).note
    assert not measurement(found[:1], basis_of(clip, PROMPTS, UNGUIDED)).note
    assert np.array_equal(clip.text_features([LONG]), clip.text_features([LONG[: LONG.index("table")]]))


def test_the_mean_is_over_images_and_its_error_over_prompts(clip: Clip) -> None:
    basis = basis_of(clip, PROMPTS, UNGUIDED)
    uneven = [PromptScores(scores=(10.0, 20.0, 30.0)), PromptScores(scores=(50.0,))]
    assert measurement(uneven, basis).value == pytest.approx(27.5)
    assert measurement(uneven, basis).num_images == 4
    assert measurement(uneven[:1], basis).standard_error is None
    random = np.random.default_rng(2)
    means = random.normal(25, 4, 400)
    equal = [PromptScores(scores=(float(mean),) * 4) for mean in means]
    of_means = float(means.std(ddof=1) / len(means) ** 0.5)
    assert measurement(equal, basis).standard_error == pytest.approx(of_means, rel=1e-6)


def test_the_value_rests_on_this_clip_and_these_prompts(clip: Clip, folder: Path, tmp_path: Path) -> None:
    basis = basis_of(clip, PROMPTS, UNGUIDED)
    assert basis.extractor is not None
    assert (clip.name, basis.extractor.name) == ("tiny-clip", "clip")
    assert basis.reference == PROMPTS
    other = open_clip(str(save_clip(tmp_path / "tiny-clip", seed=1)), CPU)
    assert basis_of(other, PROMPTS, UNGUIDED) != basis
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "another-name")
    assert basis_of(open_clip(str(moved), CPU), PROMPTS, UNGUIDED) == basis


def test_without_a_network_the_published_clip_is_asked_for_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="openai/clip-vit-large-patch14") as stopped:
        open_clip("openai/clip-vit-large-patch14", CPU)
    assert "a folder with config.json" in stopped.value.remedy


def test_a_folder_that_lacks_a_file_names_it(folder: Path, tmp_path: Path) -> None:
    partial = shutil.copytree(folder, tmp_path / "partial")
    (partial / FILES[-1]).unlink()
    with pytest.raises(UserError, match=f"it lacks {FILES[-1]}"):
        open_clip(str(partial), CPU)


def test_weights_that_are_missing_are_never_drawn(folder: Path, tmp_path: Path) -> None:
    partial = shutil.copytree(folder, tmp_path / "partial")
    state = load_file(partial / FILES[-1])
    del state["text_projection.weight"]
    save_file(state, partial / FILES[-1], {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 weights: text_projection\.weight"):
        open_clip(str(partial), CPU)


def test_a_damaged_file_and_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (damaged / FILES[-1]).write_bytes((folder / FILES[-1]).read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read"):
        open_clip(str(damaged), CPU)
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="of the kind bert"):
        open_clip(str(other), CPU)


def test_code_that_comes_with_a_folder_is_neither_run_nor_asked_about(folder: Path, tmp_path: Path) -> None:
    place = shutil.copytree(folder, tmp_path / "with-code")
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    for name, further in (
        (FILES[0], {"auto_map": {"AutoConfig": "evil.Evil"}}),
        (FILES[2], {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}}),
    ):
        (place / name).write_text(json.dumps(json.loads((place / name).read_text()) | further))
    open_clip(str(place), CPU)
    (place / FILES[0]).write_text(json.dumps({"model_type": "my-clip", "auto_map": {"AutoConfig": "evil.Evil"}}))
    with pytest.raises(UserError, match="of the kind my-clip, not clip"):
        open_clip(str(place), CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("config.json", '{"model_type": "clip", "vision_config": 5}'),
        ("config.json", '{"model_type": "clip", "vision_config": {"image_size": "x"}}'),
        ("tokenizer_config.json", "[]"),
        ("tokenizer.json", "{}"),
    ],
)
def test_damaged_settings_are_the_folders_fault(folder: Path, tmp_path: Path, name: str, content: str) -> None:
    place = shutil.copytree(folder, tmp_path / "damaged")
    (place / name).write_text(content)
    with pytest.raises(UserError, match=r"cannot be read|of the kind None"):
        open_clip(str(place), CPU)


def test_the_hub_is_asked_once_and_not_at_all_for_what_is_cached(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def refuse(_: object, place: str, **__: object) -> None:
        asked.append(place)
        raise OSError("403 forbidden")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", refuse)
    with pytest.raises(UserError, match="403 forbidden"):
        open_clip("some/clip", CPU)
    assert asked == ["some/clip"]
    shutil.copytree(folder, tmp_path / "models--some--clip" / "snapshots" / "0a")
    assert open_clip("some/clip", CPU).name == "some/clip"
    assert len(asked) == 1
