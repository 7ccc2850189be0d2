"""The probe of denoisers: planted outliers, a slow count by hand, runs and released weights by command line."""

# N images, L patches, R registers, T tokens, D width, H heads, d width of a head

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from harness.build import build
from harness.cli import BAD_INPUT, main
from harness.data import digits, spread_evenly
from harness.denoiser import Denoiser, Trunk
from harness.errors import UserError
from harness.metrics import attention_received as attention_module
from harness.metrics import outliers
from harness.metrics.attention_received import ReceivedAttention, attention_received
from harness.objective import objective_of
from harness.open_codec import open_codec
from harness.outlier_records import OutlierStatistics, verdict_of, worst_of
from harness.randomness import Stream, generator
from harness.run import run
from harness.source import Source
from harness.spec import Protocol, RunConfig
from tests.builders import Said, harness, image_folder, quick_changes, quick_config

PLACE, SIZE = 5, 40.0
PATCHES = 16


class Planted(Denoiser):
    """Patches of norm 1, all of one direction each; after block 1 the patch PLACE is SIZE times as large.

    `channel` is made large for all patches instead.  Block 2 attends as the norms of its tokens say.
    """

    def __init__(self, *, channel: bool = False) -> None:
        super().__init__()
        self.trunks, self.patch_tokens, self.null_label = (Trunk(0, 3, 8),), PATCHES, None
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.channel = channel

    def embed_label(self, y_N: Tensor) -> Tensor:
        return torch.zeros(len(y_N), 8)

    def embed(self, x_NCHW: Tensor, t_N: Tensor, label_ND: Tensor) -> tuple[Tensor, Any]:
        return functional.normalize(x_NCHW.new_ones(len(x_NCHW), PATCHES, 8), dim=-1), None

    def step(self, index: int, tokens_NLD: Tensor, condition: Any) -> Tensor:
        heads = tokens_NLD[:, None]
        functional.scaled_dot_product_attention(heads, heads, heads, scale=1 / SIZE)
        if index != 1:
            return tokens_NLD
        grown = tokens_NLD.clone()
        if self.channel:
            grown[:, :, 2] *= SIZE
        else:
            grown[:, PLACE] *= SIZE
        return grown

    def decode(self, tokens_NLD: Tensor, condition: Any) -> Tensor:
        return tokens_NLD.sum(dim=(1, 2))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _source(config: RunConfig) -> Source:
    return Source(digits(), open_codec(config, torch.device("cpu"))[0])


def _by_block(statistics: list[OutlierStatistics]) -> dict[int, OutlierStatistics]:
    return {each.block: each for each in statistics if each.time == 0.2}


def test_a_planted_outlier_is_found_in_its_block(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    found = outliers.probe(config, Planted(), _source(config))
    before, planted, after = (_by_block(found)[block] for block in range(3))
    assert before.max_over_median == pytest.approx(1)
    assert before.has_outliers is False
    assert planted.max_over_median == pytest.approx(SIZE, rel=1e-5)
    assert planted.share_above_10x == planted.share_above_3x == 1 / PATCHES
    assert (planted.position_entropy_above_3x, planted.large_channels) == (0, 0)
    assert planted.channel_share == pytest.approx(3 / 8, rel=1e-5)
    assert (planted.attention_patches, planted.attention_outliers) == (1, 0)
    assert planted.attention_outliers_over_share is None
    assert (before.attention_outliers, before.attention_registers, before.attention_sink) == (None, None, None)
    # Of the 16 logits of the outlier's query one is SIZE and 15 are 1; of the others' one is 1 and 15 are 1 / SIZE.
    own, others = math.exp(SIZE), math.exp(1)
    received = (own / (own + 15 * math.e) + 15 * others / (others + 15 * math.exp(1 / SIZE))) / 16
    assert after.attention_outliers == pytest.approx(received, rel=1e-5)
    assert after.attention_outliers_over_share == pytest.approx(16 * received, rel=1e-5)
    assert verdict_of(found) == "outliers"


def test_a_planted_channel_is_no_token_outlier(tmp_path: Path) -> None:
    config = quick_config(tmp_path)
    found = outliers.probe(config, Planted(channel=True), _source(config))
    assert [_by_block(found)[block].large_channels for block in range(3)] == [0, 1, 1]
    assert _by_block(found)[2].channel_share > 0.99
    assert verdict_of(found) == "no outliers here"


def _tokens(config: RunConfig, denoiser: Denoiser, time: float, number: int) -> dict[int, Tensor]:
    """What every block puts out for one probe image alone, (T, D)."""
    source = _source(config)
    index = spread_evenly(config.protocol.outlier_images, len(source.images))[number : number + 1]
    clean = source.data(index, np.zeros(1, np.bool_))
    noise = generator(config.seed, Stream.PROBE, number).standard_normal(clean.shape[1:], np.float32)
    seen: dict[int, Tensor] = {}
    with torch.no_grad():
        x, t_N = objective_of(config).at_time(clean, torch.from_numpy(noise)[None], time)
        labels_N = torch.from_numpy(source.images.labels[index])
        denoiser.eval()(x, t_N, labels_N, lambda block, tokens: seen.update({block: tokens[0].double()}))
    return seen


def _scrambled(config: RunConfig) -> Denoiser:
    """A fresh network's blocks do nothing yet: give all its weights random values, so that norms differ much."""
    denoiser = build(config)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in denoiser.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=random))
    return denoiser


@pytest.mark.parametrize("backbone", ["sit", "jit", "rae-dit-dh"])
def test_statistics_agree_with_a_slow_count_image_by_image(
    tmp_path: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outliers, "AT_ONCE", 3)
    extra = ["network.head_depth=2", "network.head_width=32"] if "dh" in backbone else []
    config = quick_config(tmp_path, backbone, "denoiser", "protocol.outlier_images=7", *extra)
    denoiser: Any = _scrambled(config)
    with torch.no_grad():
        denoiser.pos_embed[0, [3, 9]] *= 3000
    found = outliers.probe(config, denoiser, _source(config))
    assert verdict_of(found) == "outliers"
    images = [_tokens(config, denoiser, 0.2, number) for number in range(7)]
    assert set(_by_block(found)) == set(images[0])
    for block, statistics in _by_block(found).items():
        expected = _by_hand([image[block] for image in images], denoiser.registers.present(block))
        told = statistics.model_dump(include=set(expected), exclude_none=True)
        assert told == pytest.approx(expected, rel=2e-5, abs=1e-6), block
        assert (statistics.position_entropy_above_3x is None) == ("position_entropy_above_3x" not in expected)


def _by_hand(tokens: list[Tensor], registers: int) -> dict[str, float]:
    """The means over images, of norms that are looked at one after the other."""
    rows: list[dict[str, float]] = []
    places: list[list[int]] = []
    for image in tokens:
        norms = [float((token**2).sum()) ** 0.5 for token in image]
        patches = norms[:PATCHES]
        median = float(np.median(patches))
        row = {
            "median_norm": median,
            "max_over_median": max(patches) / median,
            "top_over_median": max(patches) / median,
        }
        for times in (3, 5, 10):
            row[f"share_above_{times}x"] = sum(norm > times * median for norm in patches) / PATCHES
        row["share_above_tau"] = sum(norm > 100 for norm in patches) / PATCHES
        row["images_above_3x"] = float(max(patches) > 3 * median)
        energy = sorted((float(value) ** 2 for value in image[int(np.argmax(patches))]), reverse=True)
        row["channel_share"] = sum(energy[:3]) / sum(energy)
        if registers:
            row["register_max_over_median"] = max(norms[-registers:]) / median
            row["register_median_over_median"] = float(np.median(norms[-registers:])) / median
        rows.append(row)
        places.append([place for place in range(PATCHES) if patches[place] > 3 * median])
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    with_outliers = [each for each in places if each]
    return means | ({"position_entropy_above_3x": _entropy_by_hand(with_outliers)} if with_outliers else {})


def _entropy_by_hand(places: list[list[int]]) -> float:
    shares = [sum((place in each) / len(each) for each in places) / len(places) for place in range(PATCHES)]
    return -sum(share * math.log(share) for share in shares if share) / math.log(PATCHES)


def test_attention_is_shared_among_all_that_can_receive_it(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "jit", "denoiser", "network.in_context_start=0", "network.in_context_len=4")
    last = _by_block(outliers.probe(config, _scrambled(config), _source(config)))[2]
    shares = (last.attention_patches, last.attention_native, last.attention_registers)
    assert None not in shares
    assert sum(filter(None, shares)) == pytest.approx(1, abs=1e-5)
    assert last.attention_sink is None


@pytest.mark.parametrize("preset", ["sink-logit", "softmax-one", "kv-bias"])
def test_what_a_sink_receives_is_apart(tmp_path: Path, preset: str) -> None:
    config = quick_config(tmp_path, "sit", preset)
    denoiser = _scrambled(config)
    for block in _by_block(outliers.probe(config, denoiser, _source(config))).values():
        assert block.attention_patches is not None
        assert block.attention_sink is not None
        assert 0 < block.attention_sink < 1
        assert block.attention_patches + block.attention_sink == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("numbers_at_once", [1, 3 * 5 * 6, 2**24])
@pytest.mark.parametrize("kind", ["none", "added", "seen"])
def test_masked_attention_is_counted_as_it_is_computed(
    monkeypatch: pytest.MonkeyPatch, numbers_at_once: int, kind: str
) -> None:
    """The values are unit vectors: what torch's attention puts out is then the weights themselves."""
    monkeypatch.setattr(attention_module, "NUMBERS_AT_ONCE", numbers_at_once)
    random = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 5, 6, generator=random)
    key = torch.randn(2, 3, 6, 6, generator=random)
    added = torch.randn(1, 3, 1, 6, generator=random).expand(-1, -1, 5, -1)
    mask = {"none": None, "added": added, "seen": added > -0.5}[kind]
    value = torch.eye(6).expand(2, 3, 6, 6)
    with ReceivedAttention() as attention:
        weights = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    received = attention.take()
    assert received is not None
    torch.testing.assert_close(received, weights.mean(dim=(1, 2)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(received, attention_received(query, key, 6**-0.5, mask))


def test_batches_change_nothing_but_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = quick_config(tmp_path, "sit", "denoiser", "protocol.outlier_images=9")
    denoiser, source = _scrambled(config), _source(config)
    whole = outliers.probe(config, denoiser, source)
    monkeypatch.setattr(outliers, "AT_ONCE", 2)
    parts = outliers.probe(config, denoiser, source)
    for one, other in zip(whole, parts, strict=True):
        assert one.model_dump(exclude_none=True) == pytest.approx(
            other.model_dump(exclude_none=True), rel=2e-5, abs=1e-6
        )


def test_maps_are_of_images_that_were_probed(tmp_path: Path) -> None:
    config = quick_config(tmp_path, "sit", "denoiser", "protocol.outlier_images=5")
    denoiser, source = _scrambled(config), _source(config)
    worst = worst_of(outliers.probe(config, denoiser, source))
    assert worst is not None
    maps = outliers.norm_maps(config, denoiser, source, worst, 9)
    assert maps.indices.tolist() == spread_evenly(5, len(source.images)).tolist()
    assert float(maps.patches.amax(dim=1).mean()) == pytest.approx(worst.max_over_median, rel=1e-5)
    present = denoiser.registers.present(worst.block)
    assert maps.registers.shape == (5, present)
    three = outliers.norm_maps(config, denoiser, source, worst, 3)
    torch.testing.assert_close(three.patches, maps.patches[[0, 2, 4]])


def test_records_from_before_are_still_read() -> None:
    before = {
        "block": 1,
        "time": 0.3,
        "median_norm": 12.5,
        "max_over_median": 4.0,
        "share_above_3x": 0.1,
        "share_above_5x": 0.0,
        "channel_share": 0.6,
        "register_max_over_median": None,
    }
    read = OutlierStatistics.model_validate(before)
    assert (read.tau, read.images, read.has_outliers) == (None, None, None)
    assert verdict_of([read]) == verdict_of([]) == "not measured"
    assert outliers.summary(Protocol(), [read])[0].value == 4.0


def test_records_hold_no_more_digits_than_are_known_and_no_lists(tmp_path: Path) -> None:
    record = run(quick_config(tmp_path, "sit", "denoiser")).record
    for each in record.outliers:
        for name, value in each.model_dump().items():
            assert value is None or isinstance(value, int | float), name
            assert value is None or len(f"{value:.12g}".lstrip("0.").replace(".", "").split("e")[0]) <= 6, name
        assert each.images == 4
        assert each.has_outliers is not None


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with two finished runs and one that was cut short."""
    place = tmp_path_factory.mktemp("user")
    run(quick_config(place, "sit", "denoiser"))
    image_folder(place / "classes")
    (place / "runs" / ("0" * 12)).mkdir()
    return place


def _probed(said: Said) -> Any:
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_a_run_is_probed_again_by_its_id(user: Path) -> None:
    config = quick_config(user, "sit", "denoiser")
    words = ["probe", "--run", config.run_id, "--threads", "1", "--device", "cpu"]
    probed = _probed(harness(*words, "--json", "--out", "numbers.json", "--figure", "figures", cwd=user))
    recorded = json.loads((user / "runs" / config.run_id / "record.json").read_text())["outliers"]
    again = [{**each, **dict.fromkeys(recorded[0].keys() - each.keys())} for each in probed["outliers"]]
    assert again == recorded
    assert probed["verdict"] == "no outliers here"
    assert probed["images"] == 4
    assert json.loads((user / "numbers.json").read_text()) == probed
    _assert_picture(user / "figures" / f"probe-{config.run_id}.png")
    said = harness(*words, "--images", "6", "--figure", "mine.png", cwd=user)
    assert said.code == 0, said.err
    for words_said in ("6 images", "no outliers here", "0.01 % of the patches are above 3 medians", "t = 0.8"):
        assert words_said in said.out
    _assert_picture(user / "mine.png")


def _assert_picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 1000
    assert 0.01 < (pixels < 250).mean() < 0.9


def test_released_weights_are_probed(user: Path) -> None:
    config = quick_config(user, "sit", "denoiser")
    changes = [word for change in quick_changes("sit") for word in ("--set", change)]
    words = ["probe", "--backbone", "sit", "--registers", "denoiser", *changes, "--threads", "1", "--json"]
    weights = str(user / "runs" / config.run_id / "weights.safetensors")
    probed = _probed(harness(*words, "--weights", weights, cwd=user))
    recorded = json.loads((user / "runs" / config.run_id / "record.json").read_text())["outliers"]
    assert [each["max_over_median"] for each in probed["outliers"]] == [e["max_over_median"] for e in recorded]
    assert probed["name"] == "weights.safetensors"


def test_a_run_over_a_folder_needs_its_images_as_they_were(tmp_path: Path) -> None:
    from harness.resolve import Request, resolve
    from harness.spec import Execution

    images = image_folder(tmp_path / "images", size=(20, 20))
    results, runs = str(tmp_path / "results"), str(tmp_path / "runs")
    execution = Execution(threads=1, device="cpu", data=str(images), results=results, runs=runs)
    changes = (*quick_changes("sit"), "task.image_size=16")
    config = resolve(Request("sit", task="folder", changes=changes, execution=execution))
    run(config)
    words = ["probe", "--run", config.run_id, "--runs", runs, "--threads", "1"]
    assert "needs images" in _refused(*words)
    _probed(harness(*words, "--data", str(images), "--json", "--figure", "f.png", cwd=tmp_path))
    _assert_picture(tmp_path / "f.png")
    next(images.rglob("*.png")).unlink()
    assert "moved, added or changed" in _refused(*words, "--data", str(images))


def _refused(*words: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        import io
        import sys

        said = io.StringIO()
        patch.setattr(sys, "stderr", said)
        assert main(words) == BAD_INPUT
    return said.getvalue()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--run ffffffffffff", "there is no run 'ffffffffffff'"),
        ("--run ../elsewhere", "there is no run"),
        ("--run 000000000000", "is not finished"),
        ("--run ID --encoder digits-vit", "two different probes"),
        ("--run ID --backbone sit", "two different probes"),
        ("--run ID --weights x.pt", "--weights has no effect on probe --run"),
        ("--run ID --set recipe.steps=3", "no field named 'recipe'"),
        ("--run ID --data classes", "brings its own images"),
        ("--backbone sit", "no weights of sit"),
        ("--backbone sit --weights nowhere.pt", "there is no weights file"),
        ("--encoder digits-vit", "--data DIR"),
        ("--encoder digits-vit --data digits --registers dsr", "--registers has no effect on probe --encoder"),
        ("", "nothing is named"),
    ],
)
def test_mistakes_are_explained(user: Path, words: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(user)
    run_id = quick_config(user, "sit", "denoiser").run_id
    assert said in _refused("probe", *words.replace("ID", run_id).split())


def test_missing_and_damaged_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = run(quick_config(tmp_path, "sit")).record
    weights = tmp_path / "runs" / record.run_id / "weights.safetensors"
    state = load_file(weights)
    save_file(dict(list(state.items())[1:]), weights)
    assert "do not fit this network" in _refused("probe", "--run", record.run_id)
    weights.write_bytes(b"no weights")
    assert str(weights.name) in _refused("probe", "--run", record.run_id)
    weights.unlink()
    assert "are missing" in _refused("probe", "--run", record.run_id)


def test_what_cannot_be_measured_is_said_and_not_drawn(tmp_path: Path) -> None:
    from harness.denoiser_probing import _probe
    from harness.outlier_figure import draw
    from harness.outlier_report import report

    config = quick_config(tmp_path, "sit")
    denoiser = build(config)
    with torch.no_grad():
        next(p for p in denoiser.parameters() if p.requires_grad).fill_(torch.inf)
    probed = _probe("x", config, denoiser, None)
    assert probed.verdict == "not measured"
    assert "no block has norms that are finite numbers" in report(probed)
    with pytest.raises(UserError, match="can be drawn"):
        draw(probed, tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()
