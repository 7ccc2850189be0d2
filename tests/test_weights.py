"""Official files: found, loaded strictly, told apart, never run."""

import argparse
import hashlib
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from baselines._dit import build_dit
from harness import released
from harness.build import build, identify
from harness.errors import UserError
from harness.released import choose, locate, mapping, read_released, require_same_network
from harness.resolve import Request, resolve_network
from harness.spec import RunConfig
from harness.weights import Row, fitted, load_official, read_official
from tests.builders import harness

EMA = {"weight": torch.full((2, 2), 0.25), "bias": torch.tensor([1.0, 3.0])}
RAW = {key: value + 1 for key, value in EMA.items()}
SMALL_DIT = {"input_size": 8, "in_channels": 3, "num_classes": 10, "patch_size": 2, "width": 32, "depth": 2}
State = dict[str, Tensor]


@pytest.fixture
def config() -> RunConfig:
    return resolve_network(Request("dit"))


@pytest.fixture
def state(config: RunConfig) -> dict[str, Tensor]:
    return build(config).state_dict()


def test_bare_files_and_training_checkpoints_fit(tmp_path: Path, config: RunConfig, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "bare.pt")
    save_file(state, tmp_path / "bare.safetensors")
    training = {"model": {}, "ema": state, "opt": {"step": 1}, "args": argparse.Namespace(lr=1e-4)}
    torch.save(training, tmp_path / "training.pt")
    for name in ("bare.pt", "bare.safetensors", "training.pt"):
        identify(config, str(tmp_path / name))
        assert torch.equal(read_official(tmp_path / name)["pos_embed"], state["pos_embed"])


def test_the_error_lists_what_does_not_fit(tmp_path: Path, config: RunConfig, state: dict[str, Tensor]) -> None:
    state["extra.weight"] = state.pop("pos_embed")
    state["final_layer.linear.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError) as error:
        identify(config, str(tmp_path / "other.pt"))
    for words in ("1 missing: pos_embed", "1 unexpected: extra.weight", "final_layer.linear.bias (3,) for (8,)"):
        assert words in error.value.problem


def test_official_register_names_are_known(tmp_path: Path) -> None:
    config = resolve_network(Request("sit", registers="dsr"))
    state = build(config).state_dict()
    state["register_tokens"] = state.pop("registers.sets.1.tokens")
    state["register_pos_embed"] = state.pop("registers.sets.1.position")
    torch.save(state, tmp_path / "dsr.pt")
    identify(config, str(tmp_path / "dsr.pt"))


def test_describe_says_whether_a_file_fits(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "dit.pt")
    assert "fits" in harness("describe", "--backbone", "dit", "--weights", "dit.pt", cwd=tmp_path).out
    said = harness("describe", "--backbone", "dit", "--registers", "dsr", "--weights", "dit.pt", cwd=tmp_path)
    assert (said.code, "2 missing: registers.sets.1.tokens" in said.err) == (2, True)
    missing = harness("describe", "--backbone", "dit", "--weights", "nowhere.pt", cwd=tmp_path)
    assert (missing.code, "no weights file" in missing.err) == (2, True)


def _below(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def _same(state: Any, expected: State) -> bool:
    return set(state) == set(expected) and all(torch.equal(state[key], expected[key]) for key in expected)


FORMATS: dict[str, tuple[Any, str]] = {
    "DiT and SiT, released": (EMA, "the whole file"),
    "DiT and SiT, trained": ({"model": RAW, "ema": EMA, "opt": {}, "args": argparse.Namespace(lr=1e-4)}, "ema"),
    "JiT": (
        {"model": RAW, "model_ema1": _below("net.", EMA), "model_ema2": RAW, "epoch": 3, "args": argparse.Namespace()},
        "model_ema1, without the prefix net.",
    ),
    "JiT, bare": (_below("net.", EMA), "the whole file, without the prefix net."),
    "RAE and DSR": ({"step": 5, "epoch": 1, "model": RAW, "ema": EMA, "optimizer": {}, "scheduler": {}}, "ema"),
    "in DDP": ({"ema": _below("module._orig_mod.", EMA)}, "ema, without the prefix module._orig_mod."),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_ema_of_every_release_is_read(tmp_path: Path, kind: str) -> None:
    content, entry = FORMATS[kind]
    for old in (False, True):
        path = tmp_path / f"{old}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=not old)
        found = read_released(path)
        assert _same(found.state, EMA)
        assert _same(read_official(path), EMA)
        assert (found.entry, found.name) == (entry, f"{old}.pt")
        assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_become_float32_and_say_so(tmp_path: Path, dtype: torch.dtype) -> None:
    save_file({key: value.to(dtype) for key, value in EMA.items()}, tmp_path / "other.safetensors")
    found = read_released(tmp_path / "other.safetensors")
    assert _same(found.state, EMA)
    assert {value.dtype for value in found.state.values()} == {torch.float32}
    assert found.entry == f"the whole file, {str(dtype)[6:]} cast to float32"


class _Trap:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.touch, ("sprung",)  # type: ignore[return-value]


WRONG: dict[str, tuple[Any, str]] = {
    "code": ({"ema": EMA, "args": _Trap()}, "could run code"),
    "a list": ([EMA["bias"]], "no state dict"),
    "numbers": ({"weight": 1.0}, "no state dict"),
    "nothing": ({}, "empty"),
    "an empty EMA": ({"model": RAW, "ema": {}}, "ema is empty"),
    "an EMA of numbers": ({"model": RAW, "ema": {"decay": 0.9}}, "no state dict"),
    "no EMA": ({"step": 1, "model": RAW, "optimizer": {}}, "holds model, optimizer, but no EMA"),
    "two EMAs": ({"ema": EMA, "model_ema1": RAW}, "model_ema1 and ema: which"),
    "an adapter": ({"blocks.0.attn.qkv.lora_A.weight": RAW["weight"]}, "LoRA"),
    "diffusers without its config": ({"transformer_blocks.0.norm1.linear.weight": RAW["weight"]}, "config.json"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_set_of_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = WRONG[kind]
    torch.save(content, "wrong.pt", pickle_module=pickle)
    with pytest.raises(UserError, match=words):
        read_released(Path("wrong.pt"))
    assert not Path("sprung").exists()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    torch.save(EMA, tmp_path / "whole.pt")
    torch.save(EMA, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(EMA, tmp_path / "whole.safetensors")
    for name in ("whole.pt", "old.pt", "whole.safetensors"):
        content = (tmp_path / name).read_bytes()
        for kept in range(0, len(content), len(content) // 40):
            cut = tmp_path / f"cut{Path(name).suffix}"
            cut.write_bytes(content[:kept])
            with pytest.raises(UserError, match="damaged"):
                read_released(cut)
    (tmp_path / "picture.pt").write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    with pytest.raises(UserError, match="no file of weights"):
        read_released(tmp_path / "picture.pt")
    with pytest.raises(UserError, match="no weights file"):
        read_released(tmp_path / "nowhere.pt")


def _sharded(folder: Path) -> Path:
    folder.mkdir()
    places = {key: f"model-0000{at}-of-00002.safetensors" for at, key in enumerate(EMA, 1)}
    for key, place in places.items():
        save_file({key: EMA[key]}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_shards_are_one_state_dict(tmp_path: Path) -> None:
    folder = _sharded(tmp_path / "sharded")
    for path in (folder, folder / "model.safetensors.index.json"):
        assert _same(read_released(path).state, EMA)
    both = b"".join(shard.read_bytes() for shard in sorted(folder.glob("*.safetensors")))
    assert read_released(folder).sha256 == hashlib.sha256(both).hexdigest()


def test_a_lost_shard_and_one_from_outside_are_refused(tmp_path: Path) -> None:
    folder = _sharded(tmp_path / "sharded")
    index = folder / "model.safetensors.index.json"
    (folder / "model-00002-of-00002.safetensors").rename(tmp_path / "outside.safetensors")
    with pytest.raises(UserError, match=r"needs 2 shards, and 1 are not beside it: model-00002"):
        read_released(folder)
    index.write_text(json.dumps({"weight_map": {"bias": "../outside.safetensors"}}))
    with pytest.raises(UserError, match="not beside it"):
        read_released(index)
    index.write_text(json.dumps({"weight_map": {"bias": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(UserError, match="lack tensors that it names: bias"):
        read_released(index)
    index.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_released(index)


def test_a_dry_run_says_what_becomes_of_every_tensor(tmp_path: Path) -> None:
    sizes = {"good": 2, "register_tokens": 3, "registers": 3, "table": 2, "wrong_table": 2, "long": 4, "extra": 1}
    torch.save({key: torch.ones(size) for key, size in sizes.items()}, tmp_path / "any.pt")
    ours = {"good": 2, "registers": 3, "long": 5, "lost": 1}
    wanted = {key: torch.zeros(size, device="meta") for key, size in ours.items()}
    names = {"register_tokens": "registers", "official_lost": "lost"}
    derived = {"table": torch.ones(2) + 1e-6, "wrong_table": torch.zeros(2), "absent_table": torch.ones(9)}
    assert mapping(read_released(tmp_path / "any.pt"), wanted, names, derived) == [
        Row("good", "good", "(2,)", "loads"),
        Row("register_tokens", "registers", "(3,)", "loads"),
        Row("registers", "registers", "(3,)", "given twice"),
        Row("table", "derived table: checked, not loaded", "(2,)", "checked"),
        Row("wrong_table", "derived table: must equal ours", "(2,)", "value differs"),
        Row("long", "long", "(4,) for (5,)", "shape differs"),
        Row("extra", "no such part in this network", "(1,)", "unexpected"),
        Row("official_lost", "lost", "(1,)", "missing"),
    ]


def test_derived_tables_are_checked_and_left_out() -> None:
    module, table = torch.nn.Linear(2, 2), torch.linspace(-1, 1, 8).cos()
    derived = {"rope": table}
    assert set(fitted(module, EMA, {}, derived)) == set(EMA)
    for stored in (table, table + 5e-6, table.bfloat16(), table.half()):
        assert set(fitted(module, {**EMA, "rope": stored}, {}, derived)) == set(EMA)
    for stored in (table + 1e-4, table.flip(0) * 2, torch.ones(8), torch.full((8,), float("nan")), table[:4]):
        with pytest.raises(UserError, match="rope"):
            fitted(module, {**EMA, "rope": stored}, {}, derived)
    with pytest.raises(UserError, match="1 unexpected: rope"):
        fitted(module, {**EMA, "rope": table}, {})


@pytest.fixture(scope="module")
def theirs() -> Any:
    """A tiny DiT of diffusers, its weights random and, as in the official network, one conditioning for all blocks."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 2, "num_embeds_ada_norm": 10}
    ends = {"in_channels": 3, "out_channels": 6, "sample_size": 8, "norm_eps": 1e-6}
    network = diffusers.DiTTransformer2DModel(**sizes, **ends).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    first = network.transformer_blocks[0].norm1.emb.state_dict()
    for block in network.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return network


def _spread(theirs: Any, shift: int) -> None:
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = shift


@pytest.mark.parametrize("kind", ["transformer", "pipeline", "file", "pickle", "fp16"])
def test_the_dit_of_diffusers_computes_the_same_here(tmp_path: Path, theirs: Any, kind: str) -> None:
    """To 1e-5, once it spaces its timestep frequencies as the official code does, and it does not by itself."""
    variant = {"variant": "fp16"} if kind == "fp16" else {}
    theirs.save_pretrained(tmp_path / "dit" / "transformer", safe_serialization=kind != "pickle", **variant)
    place = {"pipeline": "dit", "file": "dit/transformer/diffusion_pytorch_model.safetensors"}
    found = read_released(tmp_path / place.get(kind, "dit/transformer"))
    assert found.name == ("dit" if kind == "pipeline" else found.name)
    assert found.entry.startswith("diffusers folder")
    require_same_network(found, {**SMALL_DIT, "num_heads": 4})
    with pytest.raises(UserError, match="num_heads 4 for 8"):
        require_same_network(found, {**SMALL_DIT, "num_heads": 8})

    ours = build_dit({**SMALL_DIT, "num_heads": 4}).eval()
    load_official(ours, found.state, {})
    x_NCHW, t_N, y_N = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 250, 700, 999]), torch.tensor([0, 3, 9, 10, 5])
    with torch.no_grad():
        expected = ours(x_NCHW, t_N, y_N)
        _spread(theirs, 1)
        as_it_is = theirs(x_NCHW, t_N, y_N).sample
        _spread(theirs, 0)
        torch.testing.assert_close(theirs(x_NCHW, t_N, y_N).sample, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(as_it_is[0], expected[0], atol=1e-5, rtol=1e-5)
    assert (as_it_is[4] - expected[4]).abs().max() > 0.1, "diffusers now spaces them officially: say so in released.py"


def test_a_diffusers_network_that_dit_is_not_is_refused(tmp_path: Path, theirs: Any) -> None:
    theirs.save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "diffusion_pytorch_model.safetensors"
    stated = json.loads(config.read_text())
    wrong = {"activation_fn": "geglu", "norm_eps": 1e-3, "_class_name": "UNet2DModel", "patch_size": 0}
    for key, value in wrong.items():
        config.write_text(json.dumps({**stated, key: value}))
        with pytest.raises(UserError, match=str(value)):
            read_released(tmp_path)
    config.write_text(json.dumps(stated))
    state = load_file(weights)
    copy = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"
    save_file({**state, copy: state[copy] + 1}, weights)
    with pytest.raises(UserError, match=f"{copy} differs from its copy"):
        read_released(tmp_path)
    save_file({key: value for key, value in state.items() if "1.attn1.to_k.bias" not in key}, weights)
    ours = build_dit({**SMALL_DIT, "num_heads": 4})
    with pytest.raises(
        UserError, match=r"1 missing: blocks\.1\.attn\.qkv\.bias; 2 unexpected: blocks\.1\.attn\.to_q\.bias"
    ):
        fitted(ours, read_released(tmp_path).state, {})


def test_the_one_set_of_weights_in_a_folder_is_chosen(tmp_path: Path) -> None:
    pipeline = ["model_index.json", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors"]
    pipeline += ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    assert choose(pipeline, "it") == [pipeline[2], pipeline[1]]
    assert choose(["README.md", "stage2/model.pt"], "it") == ["stage2/model.pt"]
    for names in (["a.pt", "b/c.safetensors"], [*pipeline, "a.pt"]):
        with pytest.raises(UserError, match="2 files of weights"):
            choose(names, "it")
    with pytest.raises(UserError, match="no weights"):
        choose(["README.md"], "it")
    torch.save(EMA, tmp_path / "only.pt")
    assert _same(read_released(tmp_path).state, EMA)


def test_what_exists_is_taken_and_what_cannot_be_on_the_hub_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(released, "_fetch", lambda *_: pytest.fail("the hub was asked"))
    Path("owner/name").mkdir(parents=True)
    assert locate("owner/name") == Path("owner/name")
    assert locate(str(tmp_path)) == tmp_path
    for text in [
        "",
        "lost.pt",
        "runs/lost.pt",
        "owner/name/lost.pt",
        "/lost/lost",
        "./lost/lost",
        "a/b/../c",
        "~/lost",
    ]:
        with pytest.raises(UserError, match="no weights file"):
            locate(text)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """huggingface_hub, with an empty cache and no network."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return hub


@pytest.mark.parametrize("text", ["owner/name", "owner/name/some/file.pt"])
def test_without_a_network_the_hub_is_given_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Any, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    started, real = time.monotonic(), hub.HfApi
    monkeypatch.setattr(hub, "HfApi", lambda: real(endpoint="http://127.0.0.1:9"))
    for offline in (True, False):
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(UserError, match=text) as error:
            locate(text)
        assert "give its path" in error.value.remedy
    assert time.monotonic() - started < 5


def test_what_the_hub_s_cache_holds_needs_no_network(tmp_path: Path, hub: Any) -> None:
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / "abc"
    (snapshot / "some").mkdir(parents=True)
    torch.save(EMA, snapshot / "some" / "file.pt")
    for text in ("owner/name", "owner/name/some", "owner/name/some/file.pt"):
        assert read_released(locate(text)).name == "owner/name/some/file.pt"
    with pytest.raises(UserError, match=r"no other\.pt") as error:
        locate("owner/name/other.pt")
    assert "some/file.pt" in error.value.remedy


def test_only_what_is_needed_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Any) -> None:
    files = ["transformer/config.json", "transformer/diffusion_pytorch_model.bin", "vae/model.bin", "big.zip"]
    answer = SimpleNamespace(sha="abc", siblings=[SimpleNamespace(rfilename=name) for name in files])
    fetched: list[tuple[str, str]] = []

    def fetch(repository: str, name: str, revision: str) -> str:
        fetched.append((name, revision))
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "HfApi", lambda: SimpleNamespace(repo_info=lambda *_, **__: answer))
    monkeypatch.setattr(hub, "hf_hub_download", fetch)
    assert locate("owner/name") == tmp_path / files[1]
    assert fetched == [(name, "abc") for name in (files[1], files[0])]
    with pytest.raises(UserError, match="has no transformer/other"):
        locate("owner/name/transformer/other.pt")


def test_without_the_hub_s_package_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError) as error:
        locate("owner/name")
    assert "pip install diffusers" in error.value.remedy
