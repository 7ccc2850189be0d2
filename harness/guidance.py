"""Guidance: without a class (arXiv 2207.12598), by a weaker network (arXiv 2406.02507), by the registers; as official.

A guided model asks its network up to three times.  All scales are functions of the common time, 0 noise and 1 data,
compared in float32 on the network's own axis, because official intervals have ends that a time may hit.
"""

# N batch, C channels of the prediction, D of them data channels

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.registers import RegisterGuidance
from harness.spec import Guidance

FIRST_CHANNELS = 3

Ask = Callable[[Tensor, Tensor], Tensor]

# From a common time to the network's own.
TimeAxis = Callable[[float], float]


@dataclass(frozen=True)
class Asked:
    """The ways to ask: with the class, with what stands against it, and with the class but without registers."""

    conditional: Ask
    against: Ask
    without_registers: Ask


def guided(
    asked: Asked,
    guidance: Guidance,
    registers: RegisterGuidance | None,
    axis: TimeAxis,
    channels: int,
    *,
    scales: Iterable[float] = (),
) -> Ask:
    """One model from several: what guidance by a class, a guide or registers makes of their predictions.

    `channels` are the data channels.  No forward pass is made that a scale of 1 would throw away.  With both kinds of
    guidance v = v_against + scale (v_with - v_against) + register scale (v_with - v_without), as Register Guidance
    publishes it; with registers alone v = v_without + register scale (v_with - v_without).

    `scales` are those of the first calls, in their order, where they are known before: of any other call the time is
    read, for which a GPU would be waited for.
    """
    width, known = guided_channels(guidance, channels), iter(scales)

    def model(x: Tensor, t_N: Tensor) -> Tensor:
        conditional = asked.conditional(x, t_N)
        scale = next(known, None)
        if scale is None:
            scale = float(scale_at(guidance, t_N[:1], axis)[0])
        out = conditional if scale == 1 else classifier_free(conditional, asked.against(x, t_N), scale, width)
        if registers is None:
            return out
        added = registers.scale - 1 if scale == 1 else registers.scale
        return out if added == 0 else pushed(out, conditional - asked.without_registers(x, t_N), added, channels)

    return model


def scale_at(guidance: Guidance, t_N: Tensor, axis: TimeAxis) -> Tensor:
    """The scale at each of the network's own times, (N,)."""
    low, high = guidance.interval
    first, last = (float(np.float32(axis(end))) for end in (low, high))
    times_N = t_N.float()
    inside = (min(first, last) <= times_N) & (times_N <= max(first, last))
    if guidance.edges == "left-open" or (guidance.edges == "open" and low > 0):
        inside = inside & (times_N != first)
    if guidance.edges == "open":
        inside = inside & (times_N != last)
    return torch.where(inside, guidance.scale, guidance.outside)


def guided_channels(guidance: Guidance, data_channels: int) -> int:
    """How many channels guidance changes.

    That the fourth latent channel of DiT and SiT goes unguided is a quirk of the official code, and part of its
    numbers.  With fewer than three data channels, which it never has, the official code would guide variance logits
    too; this does not.
    """
    return data_channels if guidance.channels == "all" else min(FIRST_CHANNELS, data_channels)


def classifier_free(conditional_NC: Tensor, against_NC: Tensor, scale: float | Tensor, channels: int) -> Tensor:
    """u + scale (c - u) on the first channels; the rest, variance logits included, stays conditional."""
    c, u = conditional_NC[:, :channels], against_NC[:, :channels]
    out_NC = conditional_NC.clone()
    out_NC[:, :channels] = u + scale * (c - u)
    return out_NC


def pushed(prediction_NC: Tensor, direction_NC: Tensor, scale: float, channels: int) -> Tensor:
    """prediction + scale direction on the first channels."""
    out_NC = prediction_NC.clone()
    out_NC[:, :channels] += scale * direction_NC[:, :channels]
    return out_NC
