"""Tiny pipelines of random weights, saved to disk as diffusers saves real ones."""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

# Neither says the types of what it holds.
diffusers: Any = importlib.import_module("diffusers")
transformers: Any = importlib.import_module("transformers")

WORDS = ["a", "photo", "of", "dog", "cat", "and", "red", "bench", "an", "the", "two", "cups"]
WIDTH = 32
TEXT_LENGTH = 6
SIZE = 32


def save_sd3(folder: Path) -> Path:
    """Two joint blocks; text of 2 x 77 tokens beside 64 patches; no third text encoder, as many run SD3 itself."""
    torch.manual_seed(0)
    clips = [_clip() for _ in range(2)]
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=_sd3_transformer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(16),
        text_encoder=clips[0],
        tokenizer=_clip_tokenizer(),
        text_encoder_2=clips[1],
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.save_pretrained(folder)
    return folder


def save_pixart(folder: Path) -> Path:
    """Three blocks of patches alone, text by cross-attention, a diffusion's noise levels."""
    torch.manual_seed(0)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=3,
        patch_size=2,
        attention_head_dim=16,
        num_attention_heads=2,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        in_channels=4,
        out_channels=8,
    )
    pipeline = diffusers.PixArtAlphaPipeline(
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
        vae=_vae(4),
        text_encoder=_t5(),
        tokenizer=_t5_tokenizer(),
    )
    pipeline.save_pretrained(folder)
    return folder


def write_index(folder: Path, index: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def flux_transformer() -> Any:
    """One joint and two single blocks, on packed latents of 4 values a patch."""
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    )


def save_flux(folder: Path) -> Path:
    torch.manual_seed(0)
    pipeline = diffusers.FluxPipeline(
        transformer=flux_transformer(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4),
        text_encoder=_clip(has_projection=False),
        tokenizer=_clip_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=_t5_tokenizer(),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_sana(folder: Path) -> Path:
    """Two blocks of linear attention, their patches one latent pixel each."""
    torch.manual_seed(0)
    pipeline = diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
            sample_size=8,
            patch_size=1,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            num_attention_heads=2,
            attention_head_dim=16,
            num_cross_attention_heads=2,
            cross_attention_head_dim=16,
            cross_attention_dim=WIDTH,
            caption_channels=WIDTH,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=diffusers.AutoencoderDC(
            in_channels=3,
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "ResBlock"),
            decoder_block_types=("ResBlock", "ResBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            upsample_block_type="interpolate",
            downsample_block_type="stride_conv",
            decoder_act_fns="silu",
        ),
        text_encoder=_gemma(),
        tokenizer=_t5_tokenizer(),
    )
    pipeline.save_pretrained(folder)
    return folder


def save_auraflow(folder: Path) -> Path:
    """One joint block, and two on one sequence of registers, text and patches."""
    torch.manual_seed(0)
    pipeline = diffusers.AuraFlowPipeline(
        transformer=diffusers.AuraFlowTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_mmdit_layers=1,
            num_single_dit_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            caption_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=256,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4),
        text_encoder=_umt5(),
        tokenizer=_t5_tokenizer(),
    )
    pipeline.save_pretrained(folder)
    return folder


def _sd3_transformer() -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        out_channels=16,
        pos_embed_max_size=32,
    )


def _vae(channels: int) -> Any:
    """Two levels: a latent pixel is two pixels wide."""
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=channels,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def _clip(*, has_projection: bool = True) -> Any:
    config = transformers.CLIPTextConfig(
        bos_token_id=0,
        eos_token_id=1,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        pad_token_id=1,
        vocab_size=len(WORDS) + 4,
        projection_dim=WIDTH,
    )
    if has_projection:
        return transformers.CLIPTextModelWithProjection(config).eval()
    return transformers.CLIPTextModel(config).eval()


def _t5() -> Any:
    config = transformers.T5Config(
        vocab_size=len(WORDS) + 4, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=1, num_heads=4, is_encoder_decoder=False
    )
    return transformers.T5EncoderModel(config).eval()


def _umt5() -> Any:
    config = transformers.UMT5Config(
        vocab_size=len(WORDS) + 4, d_model=WIDTH, d_kv=8, d_ff=37, num_layers=1, num_heads=4, is_encoder_decoder=False
    )
    return transformers.UMT5EncoderModel(config).eval()


def _gemma() -> Any:
    config = transformers.Gemma2Config(
        vocab_size=len(WORDS) + 4,
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    return transformers.Gemma2Model(config).eval()


def _clip_tokenizer() -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=_words(),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        model_max_length=77,
    )


def _t5_tokenizer() -> Any:
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=_words(), eos_token="</s>", unk_token="<unk>", pad_token="<pad>", model_max_length=TEXT_LENGTH
    )


def _words() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(["<s>", "</s>", "<unk>", "<pad>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer
