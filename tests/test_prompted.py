"""Prompts in denoisers: both ways in, on every backbone, beside registers, and what a number of a prompt means."""

import numpy as np
import pytest
import torch

from harness import data, registry
from harness.build import build, size_of
from harness.denoiser import Denoiser
from harness.describe import describe
from harness.errors import UserError
from harness.metrics import outliers
from harness.open_codec import open_codec
from harness.prompted import EMPTY_PROMPT, TextPrompts
from harness.resolve import Request, resolve
from harness.sample import label_of
from harness.source import Source
from harness.spec import Execution, RunConfig
from harness.texts import first_caption, prompts_of, texts_of

SMALL = ("network.depth=2", "text.depth=1", "text.width=16")
ENTRIES = ("cross-attention", "in-context")


def _config(backbone: str = "sit", registers: str = "none", *changes: str) -> RunConfig:
    request = Request(backbone, registers, "shapes-t2i", changes=(*SMALL, *changes), execution=Execution(threads=1))
    return resolve(request)


def _asked(denoiser: Denoiser, config: RunConfig, *numbers: int) -> torch.Tensor:
    channels, side = config.latents.shape(config.task)
    x = torch.linspace(-1, 1, channels * side * side).reshape(1, channels, side, side).repeat(len(numbers), 1, 1, 1)
    with torch.no_grad():
        made: torch.Tensor = denoiser.eval()(x, torch.full((len(numbers),), 0.4), torch.tensor(numbers))
    return made


def _stirred(config: RunConfig) -> Denoiser:
    """With weights that are none of those zeros with which networks begin."""
    denoiser = build(config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return denoiser


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("backbone", registry.families())
def test_every_backbone_follows_prompts_with_registers_and_without(backbone: str, entry: str) -> None:
    for registers in ("none", "denoiser"):
        config = _config(backbone, registers, f"text.entry={entry}")
        denoiser = _stirred(config)
        seen: list[int] = []
        channels, side = config.latents.shape(config.task)
        with torch.no_grad():
            denoiser(
                torch.zeros(1, channels, side, side),
                torch.zeros(1),
                torch.tensor([3]),
                lambda _, tokens_NLD, seen=seen: seen.append(tokens_NLD.shape[1]),
            )
        one, other, empty = _asked(denoiser, config, 1, 2, EMPTY_PROMPT)
        assert one.shape[1:] == (side, side)
        assert len({tuple(each.flatten()[:50].tolist()) for each in (one, other, empty)}) == 3
        text = config.text.tokens if config.text and entry == "in-context" else 0
        own = config.registers.native_tokens + (config.registers.denoiser.count if config.registers.denoiser else 0)
        assert seen[-1] == denoiser.patch_tokens + own + text


@pytest.mark.parametrize("entry", ENTRIES)
def test_padding_says_nothing(entry: str) -> None:
    short = _config("sit", "none", f"text.entry={entry}")
    denoiser, prompts = _stirred(short), prompts_of(short.task)
    number = 1 + min(range(len(prompts)), key=lambda index: len(prompts[index].prompt))
    before = _asked(denoiser, short, number)
    assert isinstance(denoiser.prompts, TextPrompts)
    with torch.no_grad():
        denoiser.prompts.reader.get_parameter("embedding.weight")[0] += 7.0
    assert torch.equal(_asked(denoiser, short, number), before)


def test_the_weights_of_arms_are_the_same_with_text_but_for_the_registers() -> None:
    none, dsr = build(_config("jit")), build(_config("jit", "dsr"))
    shared, with_registers = none.state_dict(), dsr.state_dict()
    assert {name for name in with_registers if name not in shared} == {
        name for name in with_registers if name.startswith("registers.")
    }
    assert all(torch.equal(value, with_registers[name]) for name, value in shared.items())


def test_each_prompt_is_asked_for_as_often_as_the_others() -> None:
    config = _config()
    prompts = len(prompts_of(config.task))
    numbers = label_of(config, np.arange(config.protocol.num_images))
    assert np.bincount(numbers).tolist() == [0, *[config.protocol.num_images // prompts] * prompts]
    with pytest.raises(UserError, match="prompts"):
        _config("sit", "none", "protocol.num_images=301")


def test_images_are_labelled_by_the_numbers_of_their_captions() -> None:
    from harness.shapes.grammar import captions

    config = _config()
    images = data.load(config.task, None, None)  # type: ignore[arg-type]
    texts = texts_of(config.task, captions())
    assert texts[EMPTY_PROMPT] == ""
    assert images.labels.min() >= first_caption(config.task)
    assert images.labels.max() < len(texts)
    assert images.pixels(np.arange(3)).shape == (3, 3, 32, 32)


def test_text_tokens_are_counted_apart() -> None:
    config = _config("jit", "denoiser", "text.entry=in-context", "protocol.outlier_images=2")
    told = describe(config)
    assert config.text is not None
    assert told["text_tokens"] == config.text.tokens
    counted = told["patch_tokens"] + told["register_tokens"] + told["native_tokens"]
    assert told["tokens"] == counted + config.text.tokens
    codec, _ = open_codec(config, torch.device("cpu"))
    source = Source(data.load_few(config.task, None, 2), codec)
    last = outliers.probe(config, _stirred(config), source)[-1]
    shares = [last.attention_patches, last.attention_native, last.attention_text, last.attention_registers]
    assert None not in shares
    assert sum(share for share in shares if share) == pytest.approx(1, abs=1e-4)


def test_cross_attention_costs_what_it_computes() -> None:
    plain, with_text = (size_of(config) for config in (_config(), _config("sit", "none", "text.width=32")))
    assert with_text.flops > plain.flops
    assert size_of(_config("sit", "none", "text.entry=in-context")).parameters < plain.parameters


def test_a_table_too_short_for_the_prompts_is_a_mistake() -> None:
    with pytest.raises(UserError, match="the longest prompt has"):
        build(_config("sit", "none", "text.tokens=4"))
