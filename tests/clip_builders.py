"""A CLIP of random weights that a test saves as transformers would: letters are its words."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

SIDE, LONGEST, WIDTH = 32, 16, 8
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LETTERS = [chr(code) for code in range(33, 127)]
WORDS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]


def save_clip(place: Path, seed: int = 0) -> Path:
    """The folder, with a model that reads at most LONGEST tokens and sees SIDE x SIDE pixels."""
    first, last = len(WORDS) - 2, len(WORDS) - 1
    text = {"vocab_size": len(WORDS), "max_position_embeddings": LONGEST, "bos_token_id": first, "eos_token_id": last}
    config: Any = transformers.CLIPConfig(
        text_config={**TOWER, **text, "pad_token_id": last},
        vision_config={**TOWER, "image_size": SIDE, "patch_size": 8},
        projection_dim=WIDTH,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = transformers.CLIPModel(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # far from what it begins at: images and texts then differ in both directions
                torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(place)
    _save_tokenizer(place)
    return place


def _save_tokenizer(place: Path) -> None:
    """CLIP's pieces of text, without its 49,152 of them."""
    tokenizer = Tokenizer(BPE({word: index for index, word in enumerate(WORDS)}, [], end_of_word_suffix="</w>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    first, last = WORDS[-2:]
    marks = [(first, len(WORDS) - 2), (last, len(WORDS) - 1)]
    tokenizer.post_processor = TemplateProcessing(single=f"{first} $A {last}", special_tokens=marks)
    network: Any = transformers.PreTrainedTokenizerFast
    whole = network(tokenizer_object=tokenizer, bos_token=first, eos_token=last, pad_token=last, unk_token=last)
    whole.save_pretrained(place)
