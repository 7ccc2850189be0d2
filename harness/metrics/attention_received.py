"""How much attention each token receives, in networks that use torch's fused attention."""

# N images, H heads, T queries, S keys, E width of a head

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# A matrix of attention weights has T x S numbers for each head: 2^24 of them, 64 MiB, are in memory at a time.
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
        """What each key received, (N, S), in the one call since the last take; None where there was not one.

        The tokens are the first keys; what follows are sinks, which are no token (a key bias, softmax off by one).
        """
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
def attention_received(query_NHTE: Tensor, key_NHSE: Tensor, scale: float, mask_NHTS: Tensor | None = None) -> Tensor:
    """softmax(query key^T * scale + mask), mean over queries and heads, (N, S), float32: each row sums to 1.

    A mask is added to the logits or, where it is of booleans, says which keys a query may see.
    """
    N, H, T, S = *query_NHTE.shape[:3], key_NHSE.shape[2]
    rows_at_once = max(1, NUMBERS_AT_ONCE // (T * S))
    means = []
    with torch.autocast(query_NHTE.device.type, enabled=False):
        for rows in torch.split(torch.arange(N * H, device=query_NHTE.device), rows_at_once):
            images, heads = rows // H, rows % H
            logits = query_NHTE[images, heads].float() @ key_NHSE[images, heads].float().transpose(1, 2) * scale
            if mask_NHTS is not None:
                logits = _masked(logits, mask_NHTS.expand(N, H, T, S)[images, heads])
            means.append(logits.softmax(dim=-1).mean(dim=1))
    return torch.cat(means).reshape(N, H, S).mean(dim=1)


def _masked(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask.float()


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
    assert not is_causal, "images have no order that attention could follow"
    assert query.shape[:2] == key.shape[:2], "every head attends to keys of its own"
    assert query.shape[2] <= key.shape[2], "every token is a key"
    return attention_received(query, key, 1 / math.sqrt(query.shape[-1]) if scale is None else scale, attn_mask)
