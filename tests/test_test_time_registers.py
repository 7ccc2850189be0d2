"""Test-time registers on encoders of every kind: they move neurons, leave no trace, and compile."""

import pytest
import torch
from torch import Tensor

from dsr import attach_to_encoder
from dsr.encoder import Rule, redirected
from harness.encoder import Encoder
from harness.encoders import EncoderDefinition
from harness.errors import UserError
from harness.registers import AddedRegisters, TrainedRegisters
from tests.encoder_builders import FIRST, SECOND, definition, images, planted_encoder, small_encoder

BOTH = {**FIRST, **SECOND}
KINDS = {
    "patches alone": definition(),
    "class token": definition(class_token=True, family="clip"),
    "class token and registers": definition(class_token=True, registers=4, family="dinov2"),
    "rotary": definition(class_token=True, registers=4, family="dinov3"),
}


def _registers(**changes: object) -> AddedRegisters:
    given = {"kind": "test-time", "neuron_list": "test", "neurons": BOTH} | changes
    return AddedRegisters.model_validate(given)


def _pixels(encoder: Encoder, count: int = 3) -> Tensor:
    return encoder.normalised(images(count))


@pytest.mark.parametrize("kind", KINDS)
def test_registers_leave_no_trace_when_they_are_taken_out(kind: str) -> None:
    encoder = small_encoder(KINDS[kind])
    pixels, keys = _pixels(encoder), list(encoder.state_dict())
    plain = encoder(pixels)
    attach_to_encoder(_registers(count=2), encoder)
    moved = encoder(pixels)
    assert moved.normed.shape == plain.normed.shape
    assert not torch.allclose(moved.normed, plain.normed, atol=1e-3)
    attach_to_encoder(None, encoder)
    assert torch.equal(encoder(pixels).normed, plain.normed)
    assert list(encoder.state_dict()) == keys


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_attached_twice_acts_once(kind: str) -> None:
    encoder = small_encoder(KINDS[kind])
    pixels = _pixels(encoder)
    attach_to_encoder(_registers(), encoder)
    once = encoder(pixels).normed
    attach_to_encoder(_registers(), encoder)
    assert torch.equal(encoder(pixels).normed, once)
    assert not any(len(encoder.activation_point(layer)._forward_pre_hooks) > 1 for layer in range(encoder.depth))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_does_not_depend_on_its_batch(kind: str) -> None:
    encoder = small_encoder(KINDS[kind])
    pixels = _pixels(encoder, 5)
    attach_to_encoder(_registers(count=3), encoder)
    together = encoder(pixels).normed
    torch.testing.assert_close(torch.cat([encoder(one[None]).normed for one in pixels]), together)


def test_registers_are_turned_by_no_position() -> None:
    """In a rotary encoder the order of equal registers does not matter, as they have no place."""
    encoder = small_encoder(KINDS["rotary"])
    pixels = _pixels(encoder)
    seen: list[Tensor] = []
    attach_to_encoder(_registers(count=3), encoder)
    encoder(pixels, lambda _, tokens: seen.append(tokens[:, -3:]))
    for registers in seen:
        torch.testing.assert_close(registers, registers[:, :1].expand(-1, 3, -1))


def test_outliers_move_into_the_register() -> None:
    encoder = planted_encoder()
    pixels, norms = _pixels(encoder), {}
    for name, registers in (("plain", None), ("moved", _registers())):
        attach_to_encoder(registers, encoder)
        last: list[Tensor] = []
        encoder(pixels, lambda _, tokens, last=last: last.append(tokens))
        norms[name] = last[-1].norm(dim=-1)
    assert (norms["plain"].amax(1) > 5 * norms["plain"].median(1).values).all()
    patches, register = norms["moved"][:, :-1], norms["moved"][:, -1]
    assert (patches.amax(1) < 2 * patches.median(1).values).all()
    assert (register > 5 * patches.median(1).values).all()


def test_the_official_codes_spare_the_first_patch() -> None:
    activation, neurons = torch.rand(2, 6, 8) + 1, torch.tensor([1, 5])
    spared = redirected(activation, neurons, Rule(1, 1))
    assert torch.equal(spared[:, 0], activation[:, 0])
    treated = redirected(activation, neurons, Rule(1, 0))
    assert not treated[:, 0][:, neurons].any()
    encoder = planted_encoder()
    attach_to_encoder(_registers(first_patch="kept"), encoder)
    kept = encoder(_pixels(encoder)).normed
    attach_to_encoder(_registers(), encoder)
    assert not torch.equal(encoder(_pixels(encoder)).normed, kept)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_registers_compile_as_one_graph_and_stay_compiled(precision: str) -> None:
    encoder = planted_encoder()
    attach_to_encoder(_registers(), encoder)
    pixels = _pixels(encoder)
    torch._dynamo.reset()
    compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
    with (
        torch.no_grad(),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        torch._dynamo.config.patch(error_on_recompile=True),
    ):
        plain = encoder(pixels).normed
        for _ in range(2):
            torch.testing.assert_close(
                compiled(pixels).normed, plain, atol=0.1 if precision == "bf16" else 1e-5, rtol=0
            )


def test_attention_stays_fused() -> None:
    encoder = planted_encoder()
    attach_to_encoder(_registers(), encoder)
    calls: list[str] = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            calls.append(function.__name__)
            return function(*args, **(kwargs or {}))

    with Watching():
        encoder(_pixels(encoder))
    assert calls.count("scaled_dot_product_attention") == encoder.depth


@pytest.mark.parametrize(("neurons", "words"), [({4: (0,)}, "layers 0 to 3"), ({1: (64,)}, "neurons 0 to 63")])
def test_neurons_that_there_are_not_are_refused(neurons: dict[int, tuple[int, ...]], words: str) -> None:
    encoder = small_encoder()
    with pytest.raises(UserError, match=words):
        attach_to_encoder(_registers(neurons=neurons), encoder)


def test_trained_registers_are_there_already() -> None:
    chosen: EncoderDefinition = KINDS["class token and registers"]
    encoder = small_encoder(chosen)
    before = encoder(_pixels(encoder)).normed
    attach_to_encoder(TrainedRegisters(kind="trained", encoder=chosen.name, count=4), encoder)
    assert torch.equal(encoder(_pixels(encoder)).normed, before)
