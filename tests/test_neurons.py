"""Register neurons: lists with their sources, a search in one pass, and its recursive form."""

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dsr import neurons
from dsr.neurons import NeuronList, Search, merged
from dsr.search import by_layer, ranked, score
from harness.encoder_weights import save
from harness.encoders import find
from harness.errors import UserError
from harness.finding import Finding, Wanted, find_neurons
from tests.encoder_builders import (
    FIRST,
    SECOND,
    block_of,
    definition,
    encoder_folder,
    image_files,
    images,
    make_sinks,
    plant,
    planted_encoder,
    small_encoder,
)

CPU = torch.device("cpu")
PLANTED = {(layer, neuron) for layers in (FIRST, SECOND) for layer, chosen in layers.items() for neuron in chosen}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A planted encoder and images, as a user has them."""
    root = tmp_path_factory.mktemp("planted")
    encoder_folder(root / "encoder")
    image_files(root / "images")
    return root


def _found(place: Path, **wanted: object) -> Finding:
    return find_neurons(Wanted(str(place / "encoder"), str(place / "images"), **wanted), CPU)  # type: ignore[arg-type]


def test_the_published_lists_are_the_facts() -> None:
    b, so400m = neurons.find("siglip2-b"), neurons.find("siglip2-so400m-twice")
    assert {layer: len(ours) for layer, ours in b.neurons.items()} == {1: 2, 2: 3, 3: 10, 4: 16, 5: 19}
    assert (b.count, b.rounds, so400m.count, so400m.rounds) == (50, 1, 72, 2)
    assert len(so400m.neurons[9]) == 28
    assert so400m.neurons[9][:3] == (766, 3708, 1281)
    assert {b.first_patch, so400m.first_patch} == {"kept"}


@pytest.mark.parametrize("found", neurons.shipped(), ids=lambda found: found.name)
def test_shipped_lists_fit_their_encoders_and_name_their_source(found: NeuronList) -> None:
    neurons.check(found.registers(), find(found.encoder))
    assert found.source
    assert found.rounds == 1 or found.name.endswith("-twice")


def test_planted_neurons_come_first_and_no_more_are_taken_than_needed(place: Path) -> None:
    found = _found(place)
    assert found.neurons is not None
    assert found.effect is not None
    best = [(layer, neuron) for layer, neuron, _ in found.neurons.found[0].ranked]
    assert set(best) == PLANTED
    assert found.verdict == "outliers"
    assert found.effect.before > 5
    assert found.effect.worst_after < 2
    assert found.effect.others is not None
    assert found.effect.others.cosine > 0.95
    assert found.effect.others_zeroing is not None


def test_where_tokens_attend_to_outliers_registers_keep_what_zeroing_destroys(tmp_path: Path, place: Path) -> None:
    encoder = small_encoder()
    plant(encoder, FIRST, strength=30.0)
    make_sinks(encoder, 1, FIRST[1])
    save(encoder, tmp_path / "sinks")
    effect = find_neurons(Wanted(str(tmp_path / "sinks"), str(place / "images")), CPU).effect
    assert effect is not None
    assert effect.worst_after < 2 < effect.before
    assert effect.others is not None
    assert effect.others_zeroing is not None
    assert effect.others.cosine > 0.95
    assert effect.others_zeroing.cosine < 0.8
    assert effect.others.relative_difference < effect.others_zeroing.relative_difference / 5


def test_recursion_removes_what_one_pass_leaves(place: Path) -> None:
    once, twice = _found(place, top_k=2), _found(place, top_k=2, rounds=3)
    for found in (once, twice):
        assert found.neurons is not None
        assert found.effect is not None
    assert once.effect is not None
    assert once.effect.after > 5
    assert twice.effect is not None
    assert twice.effect.after < 2
    assert twice.neurons is not None
    assert twice.neurons.rounds == 2
    named = {(layer, neuron) for layer, ours in twice.neurons.neurons.items() for neuron in ours}
    assert named >= PLANTED
    assert twice.neurons.count == 4


def test_no_outliers_is_an_answer(tmp_path: Path, place: Path) -> None:
    save(small_encoder(), tmp_path / "plain")
    found = find_neurons(Wanted(str(tmp_path / "plain"), str(place / "images")), CPU)
    assert (found.verdict, found.neurons, found.effect) == ("no outliers in this encoder", None, None)
    forced = find_neurons(Wanted(str(tmp_path / "plain"), str(place / "images"), threshold=1.0, top_k=3), CPU)
    assert forced.verdict == "no outliers in this encoder"
    assert forced.neurons is not None
    assert forced.neurons.count == 3
    assert "no outliers" in forced.neurons.source


def test_a_threshold_that_nothing_reaches_finds_nothing(place: Path) -> None:
    assert _found(place, threshold=1e6).neurons is None


def test_settings_bound_what_is_found(place: Path) -> None:
    found = _found(place, top_k=5, lowest_layer=2, highest_layer=2)
    assert found.neurons is not None
    assert set(found.neurons.neurons) == {2}
    assert found.neurons.found[0].search.layer == 3
    published = _found(place, top_k=3, as_published=True)
    assert published.neurons is not None
    assert published.neurons.first_patch == "kept"
    assert published.neurons.found[0].search.score == "activation"


def _busy(scores: str) -> list[tuple[int, int]]:
    """The best two where one neuron is always busy, and two make the outliers."""
    encoder = small_encoder()
    with torch.no_grad():
        block_of(encoder, 0).mlp.fc1.bias[3] = 6.0
    plant(encoder, FIRST, strength=30.0)
    search = Search.model_validate({"threshold": 12.0, "score": scores, "sparsity": None})
    best = ranked(score(encoder, [encoder.normalised(images(4))], search), search)
    return [(layer, neuron) for layer, neuron, _ in best[:2]]


def test_contributions_see_past_neurons_that_are_busy_everywhere() -> None:
    assert (0, 3) in _busy("activation")
    assert set(_busy("contribution")) < PLANTED


def test_batches_of_any_size_give_the_same_scores() -> None:
    encoder = planted_encoder()
    pixels = encoder.normalised(images(6))
    search = Search(threshold=12.0)
    whole, parts = (score(encoder, torch.split(pixels, size), search) for size in (6, 1))
    torch.testing.assert_close(whole.mean, parts.mean)
    assert by_layer(ranked(whole, search)) == by_layer(ranked(parts, search))
    assert (whole.images, whole.images_with_outliers) == (parts.images, parts.images_with_outliers) == (6, 6)


def test_a_search_keeps_the_activations_of_one_batch() -> None:
    encoder, alive = small_encoder(), []
    pixels = encoder.normalised(images(2))
    watched: list[weakref.ref[Tensor]] = []
    for layer in range(encoder.depth):
        point = encoder.activation_point(layer)
        point.register_forward_pre_hook(lambda _, inputs: watched.append(weakref.ref(inputs[0])))

    def batches() -> Iterator[Tensor]:
        for _ in range(10):
            yield pixels
            alive.append(sum(reference() is not None for reference in watched))

    scores = score(encoder, batches(), Search(threshold=1.0))
    assert scores.images == 20
    assert len(watched) == 10 * encoder.depth
    assert max(alive) <= encoder.depth
    assert scores.totals.numel() == encoder.depth * encoder.definition.hidden


def test_merging_keeps_the_order_and_names_none_twice() -> None:
    assert merged({3: (5, 1), 1: (2,)}, {3: (1, 7), 0: (4,)}) == {0: (4,), 1: (2,), 3: (5, 1, 7)}
    assert list(merged({3: (5,)}, {0: (4,)})) == [0, 3]


def test_a_list_survives_its_file(tmp_path: Path, place: Path) -> None:
    found = _found(place).neurons
    assert found is not None
    neurons.write(tmp_path / "list.json", found)
    assert neurons.read(tmp_path / "list.json") == found
    assert neurons.find(str(tmp_path / "list.json")) == found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "no JSON"),
        ('{"name": "x"}', "encoder"),
        (json.dumps({"name": "x", "encoder": "e", "source": "s", "neurons": {"1": [2, 2]}}), "twice"),
        (json.dumps({"name": "x", "encoder": "e", "source": "s", "neurons": {"1": [-2]}}), "neurons"),
        (json.dumps({"1": [2, 3]}), "no neuron list"),
    ],
)
def test_damaged_lists_are_refused(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "list.json"
    file.write_text(content)
    with pytest.raises(UserError, match=words):
        neurons.read(file)


def test_unknown_lists_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match="no neuron list") as caught:
        neurons.find("siglip3")
    assert "siglip2-b" in str(caught.value)


def test_what_neurons_write_counts_layer_scale() -> None:
    encoder = small_encoder(definition(class_token=True, family="dinov2"))
    block = block_of(encoder, 1)
    written: Tensor = (block.ls2.gamma[:, None] * block.mlp.fc2.weight).norm(dim=0)
    torch.testing.assert_close(encoder.written_norms(1), written)
    assert np.isfinite(encoder.written_norms(0).numpy()).all()
