"""Text encoders of a few thousand random weights, in the files in which transformers publishes them."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

LETTERS = string.ascii_lowercase
WORDS = "a photo of the red blue green square circle and two three dogs cat left above"
SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 64,
}
VISION = {**SIZES, "num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
KINDS = ("clip", "siglip", "t5", "qwen2", "llama")


def make_text_encoder(folder: Path, kind: str, *, seed: int = 0, **changes: Any) -> Path:
    """An encoder of a kind, with its tokenizer, as save_pretrained writes both."""
    torch.manual_seed(seed)
    {"clip": _clip, "siglip": _siglip, "t5": _t5, "qwen2": _language_model, "llama": _language_model}[kind](
        kind, changes
    ).save_pretrained(folder)
    _tokenizer(kind).save_pretrained(folder)
    return folder


def _clip(_: str, changes: dict[str, Any]) -> Any:
    # As an end, 2 would mean that the largest number is the end, as it is in OpenAI's vocabulary.
    text = {**SIZES, "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 3, **changes}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


def _siglip(_: str, changes: dict[str, Any]) -> Any:
    text = {**SIZES, "max_position_embeddings": 10, **changes}
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=VISION))


def _t5(_: str, changes: dict[str, Any]) -> Any:
    """Both halves, as the hub holds T5 v1.1."""
    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    gated: dict[str, Any] = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**{**sizes, **gated, **changes}))


def _language_model(kind: str, changes: dict[str, Any]) -> Any:
    name = {"qwen2": "Qwen2", "llama": "Llama"}[kind]
    sizes = {**SIZES, "num_key_value_heads": 1, "max_position_embeddings": 256, **changes}
    return getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**sizes))


def _tokenizer(kind: str) -> Any:
    """One of words, for Qwen of bytes, with the begin, the end and the padding of the kind: Llama's has no padding."""
    special = {
        "clip": (["<pad>", "<s>", "<unk>", "</s>"], ("<s>", "</s>"), {"pad_token": "</s>"}),
        "siglip": (["<pad>", "</s>", "<s>", "<unk>"], ("", "</s>"), {"pad_token": "<pad>"}),
        "t5": (["<pad>", "</s>", "<unk>"], ("", "</s>"), {"pad_token": "<pad>"}),
        "qwen2": (["</s>", "<unk>"], ("", ""), {"pad_token": "</s>", "padding_side": "left"}),
        "llama": (["<unk>", "<s>", "</s>"], ("<s>", ""), {"padding_side": "left"}),
    }
    first, (begin, end), settings = special[kind]
    tokenizer = _bytes(first) if kind == "qwen2" else _words(first, begin, end)
    begins = {"bos_token": begin} if begin else {}
    fast: Any = transformers.PreTrainedTokenizerFast
    return fast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", **begins, **settings)


def _words(first: Sequence[str], begin: str, end: str) -> Tokenizer:
    numbers = {word: number for number, word in enumerate([*first, *WORDS.split()])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join(filter(None, [begin, "$A", end])),
        special_tokens=[(each, numbers[each]) for each in (begin, end) if each],
    )
    return tokenizer


def _bytes(first: Sequence[str]) -> Tokenizer:
    """Bytes, which transformers 5 always makes of Qwen's vocabulary; those of small letters and of the blank."""
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate([*first, "Ġ", *LETTERS])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer
