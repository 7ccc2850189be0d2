"""Encoders' weights: the same features as transformers', from the hub, a file or a folder, and back."""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from harness import encoder_network, encoder_weights
from harness.data import digits
from harness.encoder import Encoder, Features
from harness.encoder_folder import definition_in, timm_definition
from harness.encoder_names import to_official
from harness.encoder_weights import WEIGHTS_FILE, encoder_of, load, save, shipped_file
from harness.encoders import ENCODERS, HALF, IMAGENET_MEAN, EncoderDefinition
from harness.errors import UserError
from harness.files import sha256_of

torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}
TINY = EncoderDefinition(
    name="tiny",
    family="siglip",
    image_size=16,
    patch=8,
    width=8,
    depth=2,
    heads=2,
    hidden=12,
    table=2,
    activation="gelu-tanh",
    class_token=False,
)


class Official(NamedTuple):
    """A model of transformers: its class, its settings, and what of its weights no patch token needs."""

    model: str
    settings: Mapping[str, Any]
    unused: frozenset[str] = frozenset()


OFFICIAL = {
    "siglip": Official("SiglipVisionModel", {"vision_use_head": False}),
    "dinov2": Official("Dinov2Model", {"mlp_ratio": 2}, frozenset({"embeddings.mask_token"})),
    "dinov2-gated": Official("Dinov2Model", {"use_swiglu_ffn": True}, frozenset({"embeddings.mask_token"})),
    "dinov2-reg": Official(
        "Dinov2WithRegistersModel",
        {"mlp_ratio": 2, "num_register_tokens": 3},
        frozenset({"embeddings.mask_token"}),
    ),
    "dinov3": Official("DINOv3ViTModel", {"num_register_tokens": 2}, frozenset({"embeddings.mask_token"})),
    "dinov3-gated": Official(
        "DINOv3ViTModel",
        {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
        frozenset({"embeddings.mask_token"}),
    ),
    "dinov3-none": Official(
        "DINOv3ViTModel",
        {"use_gated_mlp": True},
        frozenset({"embeddings.mask_token", "embeddings.register_tokens"}),
    ),
    "mae": Official("ViTMAEModel", {"mask_ratio": 0.0}),
    "clip": Official("CLIPVisionModel", {}),
}


def _official(kind: str) -> Any:
    """A model of transformers with random weights, none of them at a value that hides it."""
    transformers = pytest.importorskip("transformers")
    official = OFFICIAL[kind]
    settings = {**SMALL, **({"hidden_size": 32, "num_attention_heads": 4} if "dinov3" in kind else {})}
    network = getattr(transformers, official.model)
    model = network(network.config_class(**settings, **official.settings)).eval()
    return _with_random_weights(model)


def _with_random_weights(model: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(4)
    for name, value in model.named_parameters():
        is_norm = re.search(r"norm\w*\.weight|gamma|lambda", name) is not None
        value.data = 0.3 * torch.randn(value.shape, generator=generator) + is_norm
    return model


def _pixels(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))


@torch.no_grad()
def _official_features(model: Any, pixels: Tensor) -> Features:
    """The patch tokens of transformers' model: with the affine of its final norm, and before it."""
    name = type(model).__name__
    settings: dict[str, Any] = {}
    if name in ("SiglipVisionModel", "ViTMAEModel", "CLIPVisionModel"):
        settings["interpolate_pos_encoding"] = True
    grid = pixels.shape[-1] // model.config.patch_size
    if name == "ViTMAEModel":
        settings["noise"] = torch.arange(grid**2).expand(len(pixels), -1).float()
    said = model(pixel_values=pixels, output_hidden_states=True, **settings)
    raw = said.hidden_states[-1]
    normed = model.post_layernorm(raw) if name == "CLIPVisionModel" else said.last_hidden_state
    return Features(normed[:, -(grid**2) :], raw[:, -(grid**2) :])


def _assert_same(ours: Features, theirs: Features) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", OFFICIAL)
@pytest.mark.parametrize("size", [32, 48, 24])
def test_a_folder_of_transformers_gives_its_features(tmp_path: Path, kind: str, size: int) -> None:
    model = _official(kind)
    model.save_pretrained(tmp_path)
    definition = definition_in(tmp_path).model_copy(update={"image_size": size})
    theirs = _official_features(model, _pixels(size))
    _assert_same(load(definition, str(tmp_path), final_norm="affine").encoder(_pixels(size)), theirs)
    plain = load(definition, str(tmp_path)).encoder(_pixels(size))
    without_affine = functional.layer_norm(theirs.raw, theirs.raw.shape[-1:], eps=definition.epsilon)
    _assert_same(plain, Features(without_affine, theirs.raw))


@pytest.mark.parametrize("kind", OFFICIAL)
def test_the_names_go_there_and_back(tmp_path: Path, kind: str) -> None:
    model = _official(kind)
    model.save_pretrained(tmp_path)
    definition, given = definition_in(tmp_path), load_file(tmp_path / WEIGHTS_FILE)
    encoder = encoder_of(definition, given)
    named = to_official(definition, encoder.vit.state_dict())
    bare = {key.removeprefix("vision_model.").removeprefix("vit."): value for key, value in named.items()}
    assert set(given) - set(bare) == OFFICIAL[kind].unused
    for key in set(bare) - {"embeddings.cls_token", "embeddings.position_embeddings"}:
        assert torch.equal(bare[key], given[key]), key
    for key, value in encoder_of(definition, named).vit.state_dict().items():
        assert torch.equal(value, encoder.vit.state_dict()[key]), key
    save(encoder, tmp_path / "own")
    for key, value in load(definition, str(tmp_path / "own")).encoder.vit.state_dict().items():
        assert torch.equal(value, encoder.vit.state_dict()[key]), key

    save_file(named, tmp_path / WEIGHTS_FILE)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) <= OFFICIAL[kind].unused
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    theirs, ours = _official_features(model, _pixels()), _official_features(again, _pixels())
    _assert_same(ours, theirs)


def test_what_patch_tokens_do_not_need_may_be_there() -> None:
    transformers = pytest.importorskip("transformers")
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for tower, whole, kind in [("SiglipVisionModel", "Siglip", "siglip"), ("CLIPVisionModel", "CLIP", "clip")]:
        vision = _official(kind).config.to_dict()
        config = getattr(transformers, f"{whole}Config")(text_config=text | {"vocab_size": 9}, vision_config=vision)
        both = _with_random_weights(getattr(transformers, f"{whole}Model")(config).eval())
        definition = _definition_of(config)
        alone = _official_features(_tower(transformers, tower, vision, both), _pixels())
        _assert_same(encoder_of(definition, both.state_dict(), final_norm="affine")(_pixels()), alone)


def _definition_of(config: Any) -> EncoderDefinition:
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return definition_in(Path(folder))


def _tower(transformers: Any, name: str, settings: Mapping[str, Any], both: torch.nn.Module) -> Any:
    network = getattr(transformers, name)
    tower = network(network.config_class(**settings)).eval()
    state = {key.removeprefix("vision_model."): value for key, value in both.state_dict().items()}
    tower.load_state_dict({key: state[key] for key in tower.state_dict()}, strict=True)
    return tower


@pytest.mark.parametrize("kind", [kind for kind in OFFICIAL if kind != "dinov2-gated"])
def test_the_names_of_a_newer_transformers_are_known(kind: str) -> None:
    model = _official(kind)
    definition = _definition_of(model.config)
    encoder = encoder_of(definition, model.state_dict(), final_norm="affine")
    _assert_same(encoder(_pixels()), _official_features(model, _pixels()))


def test_mae_s_decoder_is_not_needed() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"decoder_num_hidden_layers": 1, "decoder_hidden_size": 16, "decoder_num_attention_heads": 2}
    config = transformers.ViTMAEConfig(**SMALL, **small, mask_ratio=0.0)
    model = _with_random_weights(transformers.ViTMAEForPreTraining(config).eval())
    encoder = encoder_of(_definition_of(config), model.state_dict(), final_norm="affine")
    _assert_same(encoder(_pixels()), _official_features(model.vit, _pixels()))


def test_the_shipped_encoder_is_there_and_knows_its_digits() -> None:
    definition = ENCODERS["digits-vit"]
    loaded = load(definition, None)
    assert loaded.sha256 == sha256_of(shipped_file(definition))
    images = digits()
    pixels = torch.from_numpy(images.pixels(np.arange(len(images)))) / 255
    features = loaded.encoder(loaded.encoder.normalised(pixels)).normed.mean(dim=1).numpy()
    held_out = np.arange(len(images)) % 5 == 0
    probe = LogisticRegression(max_iter=300).fit(features[~held_out], images.labels[~held_out])
    assert probe.score(features[held_out], images.labels[held_out]) > 0.95


@pytest.mark.parametrize("name", [name for name, definition in ENCODERS.items() if not definition.shipped])
def test_every_definition_has_the_shapes_of_its_published_weights(name: str) -> None:
    definition = ENCODERS[name]
    with torch.device("meta"):
        ours: Any = encoder_network.build(definition)
        theirs: Any = timm.create_model(
            definition.timm.partition(".")[0], pretrained=False, num_classes=0, img_size=definition.image_size
        )
    unused = ("attn_pool.", "head.", "fc_norm.")
    wanted = {key: value.shape for key, value in theirs.state_dict().items() if not key.startswith(unused)}
    assert {key: value.shape for key, value in ours.state_dict().items()} == wanted
    cfg = theirs.pretrained_cfg
    assert ours.num_prefix_tokens == definition.num_prefix_tokens == theirs.num_prefix_tokens
    assert ours.blocks[0].attn.num_heads == definition.heads == theirs.blocks[0].attn.num_heads
    assert ours.blocks[0].mlp.fc2.in_features == definition.hidden
    if definition.family not in ("dinov3", "mae"):
        assert cfg["input_size"][1] == definition.table * definition.patch


@pytest.mark.parametrize("hidden", range(1, 200, 7))
def test_an_mlp_has_the_width_that_is_said(hidden: int) -> None:
    with torch.device("meta"):
        vit: Any = encoder_network.build(TINY.model_copy(update={"hidden": hidden, "width": 88}))
    assert vit.blocks[0].mlp.fc2.in_features == hidden


@pytest.fixture
def encoder() -> Encoder:
    return _made(TINY)


def _made(definition: EncoderDefinition) -> Encoder:
    return Encoder(definition, _with_random_weights(encoder_network.build(definition)))  # type: ignore[arg-type]


def test_what_is_saved_is_what_is_loaded(tmp_path: Path, encoder: Encoder) -> None:
    for changes in [{}, {"table": 3, "epsilon": 1e-12, "mean": (0.1, 0.2, 0.3)}]:
        definition = TINY.model_copy(update=changes)
        made = _made(definition)
        save(made, tmp_path / "own")
        assert definition_in(tmp_path / "own") == definition
        loaded = load(definition_in(tmp_path / "own"), str(tmp_path / "own"))
        assert loaded.name == "own"
        for key, value in loaded.encoder.vit.state_dict().items():
            assert torch.equal(value, made.vit.state_dict()[key])
        assert torch.equal(loaded.encoder(_pixels(16)).normed, made(_pixels(16)).normed)


def test_loading_uses_up_no_random_number(tmp_path: Path, encoder: Encoder) -> None:
    save(encoder, tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(TINY, str(tmp_path))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth", ".bin"])
def test_a_file_is_taken_alone(tmp_path: Path, encoder: Encoder, suffix: str) -> None:
    state, path = encoder.vit.state_dict(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    loaded = load(TINY, str(path))
    assert loaded.name == path.name
    assert re.fullmatch("[0-9a-f]{64}", loaded.sha256)
    assert torch.equal(loaded.encoder(_pixels(16)).normed, encoder(_pixels(16)).normed)


def test_a_folder_may_hold_shards(tmp_path: Path, encoder: Encoder) -> None:
    state = encoder.vit.state_dict()
    shards = [dict(list(state.items())[part::2]) for part in (0, 1)]
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file(shard, tmp_path / name)
        places |= dict.fromkeys(shard, name)
    (tmp_path / f"{WEIGHTS_FILE}.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(load(TINY, str(tmp_path)).encoder(_pixels(16)).raw, encoder(_pixels(16)).raw)


@pytest.mark.parametrize("kept", ["norm", "fc_norm", ""])
def test_the_final_norm_may_lie_elsewhere_or_be_absent(encoder: Encoder, kept: str) -> None:
    state = encoder.vit.state_dict()
    norm = {kind: state.pop(f"norm.{kind}") for kind in ("weight", "bias")}
    state |= {f"{kept}.{kind}": value for kind, value in norm.items() if kept}
    loaded = encoder_of(TINY, state).vit.state_dict()
    assert torch.equal(loaded["norm.weight"], norm["weight"] if kept else torch.ones(8))
    assert torch.equal(loaded["norm.bias"], norm["bias"] if kept else torch.zeros(8))


def _without_a_key(state: dict[str, Tensor]) -> None:
    del state["blocks.1.mlp.fc1.bias"]


def _with_a_key(state: dict[str, Tensor]) -> None:
    state["blocks.2.mlp.fc1.bias"] = torch.zeros(1)


def _of_another_width(state: dict[str, Tensor]) -> None:
    state["blocks.0.attn.proj.weight"] = torch.zeros(9, 9)


def _with_another_table(state: dict[str, Tensor]) -> None:
    state["pos_embed"] = torch.zeros(1, 25, 8)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_without_a_key, r"1 missing: blocks\.1\.mlp\.fc1\.bias"),
        (_with_a_key, r"1 unexpected: blocks\.2\.mlp\.fc1\.bias"),
        (_of_another_width, r"another shape: blocks\.0\.attn\.proj\.weight"),
        (_with_another_table, r"another shape: pos_embed \(1, 25, 8\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, encoder: Encoder, change: Callable[[dict[str, Tensor]], None], word: str
) -> None:
    state = encoder.vit.state_dict()
    change(state)
    save_file(state, tmp_path / "some.safetensors")
    with pytest.raises(UserError, match=f"some.safetensors is no tiny: .*{word}"):
        load(TINY, str(tmp_path / "some.safetensors"))


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("encoder.layers.1.self_attn.k_proj.weight", None, "missing: blocks.1.attn.qkv.weight"),
        ("encoder.layers.1.self_attn.k_proj.weight", torch.zeros(8, 7), "unexpected: .*self_attn.k_proj.weight"),
        ("embeddings.position_embedding.weight", torch.zeros(()), "another shape: pos_embed"),
        ("embeddings.other", torch.zeros(1), "unexpected: vision_model.embeddings.other"),
    ],
)
def test_official_weights_that_do_not_fit_are_refused(
    encoder: Encoder, key: str, value: Tensor | None, word: str
) -> None:
    state = to_official(TINY, encoder.vit.state_dict())
    state.pop(f"vision_model.{key}", None)
    if value is not None:
        state[f"vision_model.{key}"] = value
    with pytest.raises(UserError, match=word):
        encoder_of(TINY, state)


def test_weights_of_another_family_are_refused(encoder: Encoder) -> None:
    other = TINY.model_copy(update={"family": "mae", "class_token": True})
    with pytest.raises(UserError, match=r"missing.*unexpected"):
        encoder_of(other, to_official(TINY, encoder.vit.state_dict()))


def test_a_folder_that_says_another_number_of_heads_is_refused(tmp_path: Path, encoder: Encoder) -> None:
    save(encoder, tmp_path)
    for changes in ({"heads": 4}, {"epsilon": 1e-5}, {"activation": "gelu"}):
        with pytest.raises(UserError, match=next(iter(changes))):
            load(TINY.model_copy(update=changes), str(tmp_path))


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"weight": Code()}, tmp_path / "code.pt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name, word in [
        ("code.pt", "could run code"),
        ("absent.pt", "there are no weights"),
        ("empty", f"holds no {WEIGHTS_FILE}"),
        ("text.safetensors", "damaged"),
    ]:
        with pytest.raises(UserError, match=word):
            load(TINY, str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the hub's cache, empty, and no network."""
    package = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(package.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(package.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


PUBLISHED = TINY.model_copy(update={"timm": "vit_tiny.some", "hub": "owner/vit-tiny"})


def test_without_a_network_the_way_by_hand_is_said(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    package = pytest.importorskip("huggingface_hub")
    started, real = time.monotonic(), package.HfApi
    monkeypatch.setattr(package, "HfApi", lambda: real(endpoint="http://127.0.0.1:9"))
    for offline in (True, False):
        monkeypatch.setattr(package.constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(UserError, match=r"timm/vit_tiny\.some.*owner/vit-tiny") as error:
            load(PUBLISHED, None)
        assert "--encoder-weights PATH" in error.value.remedy
        assert WEIGHTS_FILE in error.value.remedy
    assert time.monotonic() - started < 10
    assert not list(hub.glob("**/*")), "nothing half-made is left"


def test_weights_that_nobody_published_are_asked_for(hub: Path) -> None:
    with pytest.raises(UserError, match="none are published"):
        load(TINY, None)


@pytest.mark.parametrize("repository", ["timm/vit_tiny.some", "owner/vit-tiny"])
def test_what_the_hub_s_cache_holds_needs_no_network(hub: Path, encoder: Encoder, repository: str) -> None:
    snapshot = hub / f"models--{repository.replace('/', '--')}" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file(encoder.vit.state_dict(), snapshot / WEIGHTS_FILE)
    loaded = load(PUBLISHED, None)
    assert loaded.name == repository
    assert torch.equal(loaded.encoder(_pixels(16)).raw, encoder(_pixels(16)).raw)


def test_the_second_repository_is_asked_where_the_first_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Path, encoder: Encoder
) -> None:
    save(encoder, tmp_path / "there")

    def locate(text: str) -> Path:
        if text.startswith("timm/"):
            raise UserError("none there", "try another")
        assert text == f"owner/vit-tiny/{WEIGHTS_FILE}"
        return tmp_path / "there" / WEIGHTS_FILE

    monkeypatch.setattr(encoder_weights, "locate", locate)
    assert load(PUBLISHED, None).name == "owner/vit-tiny"


NAMED = [
    "vit_tiny_patch16_224",
    "vit_base_patch16_siglip_gap_224",
    "eva02_tiny_patch14_224",
    "vit_wee_patch16_reg1_gap_256",
]


@pytest.mark.parametrize("name", NAMED)
def test_any_vision_transformer_of_timm_s_has_a_definition(name: str) -> None:
    definition = timm_definition(name)
    assert (definition.name, definition.architecture, definition.family) == (name, name, "timm")
    with torch.device("meta"):
        theirs: Any = timm.create_model(name, num_classes=0)
    assert definition.timm == f"{name}.{theirs.pretrained_cfg['tag']}"
    assert definition.num_prefix_tokens == theirs.num_prefix_tokens
    assert definition.mean == tuple(theirs.pretrained_cfg["mean"])
    assert definition.grid**2 == theirs.patch_embed.num_patches
    with torch.device("meta"):
        encoder_network.build(definition)


def test_a_named_model_computes_what_timm_computes(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    theirs: Any = _with_random_weights(timm.create_model(name, num_classes=7)).eval()
    save_file(theirs.state_dict(), tmp_path / "file.safetensors")
    definition = timm_definition(name)
    ours = load(definition, str(tmp_path / "file.safetensors"), final_norm="affine").encoder
    with torch.no_grad():
        expected = theirs.forward_features(_pixels(224)[:1])[:, 1:]
    torch.testing.assert_close(ours(_pixels(224)[:1]).normed, expected)
    smaller = load(definition.model_copy(update={"image_size": 64}), str(tmp_path / "file.safetensors"))
    assert smaller.encoder(_pixels(64)).normed.shape == (2, 16, 192)
    save(smaller.encoder, tmp_path / "small")
    again = load(definition_in(tmp_path / "small"), str(tmp_path / "small"))
    assert torch.equal(again.encoder(_pixels(64)).raw, smaller.encoder(_pixels(64)).raw)


def test_a_model_that_normalises_after_pooling_keeps_that_norm() -> None:
    name = "vit_wee_patch16_reg1_gap_256"
    definition = timm_definition(name)
    theirs = _with_random_weights(timm.create_model(name, num_classes=0, global_pool="avg", fc_norm=True)).state_dict()
    ours = encoder_of(definition, theirs).vit.state_dict()
    assert torch.equal(ours["norm.weight"], theirs["fc_norm.weight"])


@pytest.mark.parametrize(
    ("name", "word", "remedy"),
    [
        ("vit_bse_patch16_224", "no model of that name", "vit_base_patch16_224"),
        ("vit_pwee_patch16_reg1_gap_256", "no plain vision transformer", "fc2"),
        ("resnet50", "no plain vision transformer", "fc2"),
        ("vit_base_patch16_224.never", "no weights never", "augreg"),
    ],
)
def test_a_name_that_timm_does_not_have_is_refused(name: str, word: str, remedy: str) -> None:
    with pytest.raises(UserError, match=word) as error:
        timm_definition(name)
    assert remedy in error.value.remedy


def _write(folder: Path, config: Any, preprocessor: Any = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def test_a_folder_in_timm_s_format_is_read(tmp_path: Path) -> None:
    published = {"input_size": [3, 96, 96], "mean": [0.5, 0.5, 0.5], "std": [0.1, 0.2, 0.3], "tag": "own"}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "pretrained_cfg": published}
    definition = definition_in(_write(tmp_path, config))
    assert definition.name == tmp_path.name
    assert (definition.image_size, definition.table, definition.patch) == (96, 6, 16)
    assert (definition.mean, definition.std) == (HALF, (0.1, 0.2, 0.3))
    with_arguments = definition_in(_write(tmp_path, config | {"model_args": {"img_size": 64}}))
    assert (with_arguments.image_size, with_arguments.table) == (64, 4)
    with pytest.raises(UserError, match="qkv_bias"):
        definition_in(_write(tmp_path, config | {"model_args": {"qkv_bias": False}}))


def test_a_config_that_says_little_means_what_transformers_takes_as_given(tmp_path: Path) -> None:
    siglip = definition_in(_write(tmp_path, {"model_type": "siglip", "vision_config": {"image_size": 256}}))
    assert siglip == ENCODERS["siglip2-b"].model_copy(
        update={"name": tmp_path.name, "title": "", "hub": "", "timm": ""}
    )
    clip = definition_in(_write(tmp_path, {"model_type": "clip", "vision_config_dict": {"patch_size": 16}}))
    assert clip == ENCODERS["clip-b"].model_copy(update={"name": tmp_path.name, "title": "", "hub": "", "timm": ""})


def test_the_preprocessor_says_mean_and_deviation(tmp_path: Path) -> None:
    config = {"model_type": "dinov2", "image_size": 518}
    assert definition_in(_write(tmp_path, config)).mean == IMAGENET_MEAN
    said = definition_in(_write(tmp_path, config, {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}))
    assert (said.mean, said.std) == ((0.1, 0.2, 0.3), (1, 2, 3))
    assert (said.grid, said.table, said.antialias) == (37, 37, False)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({}, "no model"),
        ([], "no JSON object"),
        ({"model_type": "bert"}, "bert"),
        ({"model_type": "siglip2", "vision_config": {"num_patches": 256}}, "NaFlex"),
        ({"model_type": "dinov3_vit", "key_bias": True}, "key_bias is True"),
        ({"model_type": "dinov3_vit", "rope_theta": 10.0}, "rope_theta is 10"),
        ({"model_type": "dinov2", "hidden_act": "relu"}, "activation relu"),
        ({"model_type": "dinov2", "hidden_size": "wide"}, "hidden_size is wide"),
        ({"model_type": "dinov2", "hidden_size": 100}, "12 heads"),
        ({"model_type": "dinov2", "num_hidden_layers": 0}, "depth"),
        ({"model_type": "vit_mae", "image_size": [224, 196]}, "side of a square"),
        ({"architecture": "vit_unheard"}, "no model of that name"),
        ({"dsr_bench": {"name": "x"}}, "family"),
    ],
)
def test_a_folder_that_describes_no_encoder_is_refused(tmp_path: Path, config: Any, word: str) -> None:
    with pytest.raises(UserError, match=word):
        definition_in(_write(tmp_path, config))


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        definition_in(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        definition_in(tmp_path)


def test_a_definition_is_read_without_torch() -> None:
    code = "import sys, harness.encoder_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
