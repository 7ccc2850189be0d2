"""How much attention each token receives, in networks that use torch's fused attention."""

# N images, H heads, T tokens, E width of a head

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# A matrix of attention weights has T x T numbers for each head: 2^24 of them, 64 MiB, are in memory at a time.
NUMBERS_AT_ONCE = 2**24


class ReceivedAttention(TorchFunctionMode):
    """While it is entered, it looks at every call of scaled_dot_product_attention, and changes none.

    No module is patched, so it sees whatever network runs, and only attention that is computed by that function:
    timm's, unless TIMM_FUSED_ATTN is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self._received: list[Tensor] = []

    def take(self) -> Tensor | None:
        """What each token received, (N, T), in the one call since the last take; None where there was not one."""
        received, self._received = self._received, []
        return received[0] if len(received) == 1 else None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            self._received.append(_of_call(*args, **kwargs))
        return func(*args, **kwargs)


@torch.no_grad()
def attention_received(query_NHTE: Tensor, key_NHTE: Tensor, scale: float) -> Tensor:
    """softmax(query key^T * scale), mean over queries and heads, (N, T), float32: each row sums to 1."""
    N, H, T, E = query_NHTE.shape
    heads_at_once = max(1, NUMBERS_AT_ONCE // T**2)
    queries, keys = (torch.split(x.reshape(N * H, T, E), heads_at_once) for x in (query_NHTE, key_NHTE))
    with torch.autocast(query_NHTE.device.type, enabled=False):
        means = [
            (query.float() @ key.float().transpose(1, 2) * scale).softmax(dim=-1).mean(dim=1)
            for query, key in zip(queries, keys, strict=True)
        ]
    return torch.cat(means).reshape(N, H, T).mean(dim=1)


def _of_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,  # noqa: ARG001
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001
    *,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """`attention_received` for the arguments of torch's function."""
    assert attn_mask is None, "an encoder of images masks nothing"
    assert not is_causal, "an encoder of images masks nothing"
    assert query.shape == key.shape, "an encoder of images attends to itself, every head to its own keys"
    return attention_received(query, key, 1 / math.sqrt(query.shape[-1]) if scale is None else scale)
