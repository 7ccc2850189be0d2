"""Classifier-free guidance (arXiv 2207.12598), as the official DiT and SiT apply it."""

# N batch, C channels of the prediction

from torch import Tensor

MOST_GUIDED_CHANNELS = 3


def classifier_free(conditional_NC: Tensor, unconditional_NC: Tensor, scale: float, data_channels: int) -> Tensor:
    """u + scale (c - u) on the first three data channels; the rest, variance logits included, stays conditional.

    That the fourth latent channel goes unguided is a quirk of the official code, and part of its numbers.  With fewer
    than three data channels, which it never has, the official code would guide variance logits too; this does not.
    """
    guided = min(MOST_GUIDED_CHANNELS, data_channels)
    c, u = conditional_NC[:, :guided], unconditional_NC[:, :guided]
    out_NC = conditional_NC.clone()
    out_NC[:, :guided] = u + scale * (c - u)
    return out_NC
