"""Between images and a representation encoder's whitened latents: RAE as a denoiser's training and sampling use it."""

# N batch, C channels of an image, Z channels of a latent, H height, W width, h and w a latent's height and width

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.codec import Codec, exactly
from harness.encoder import Encoder
from harness.mae_decoder import MaeDecoder
from harness.rae import LatentForm, Whitening, decode, encode

TILE = 32
MOST_KEPT = 16 * 2**30


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder with its registers, the form of its latents, and a digest of all that decides them."""

    encoder: Encoder
    form: LatentForm
    digest: str

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Latents before whitening, (N, Z, h, w), of images in [0, 1]."""
        with torch.no_grad():
            return encode(self.encoder(self.encoder.normalised(images_NCHW)), self.form).values


class RaeCodec(Codec):
    """Moments are latents before whitening, which statistics turn into what the denoiser sees.

    They are kept on disk unless those of `num_images` would take more than 16 GiB, as ImageNet's would.
    """

    def __init__(
        self, frozen: FrozenEncoder, whitening: Whitening, decoder: MaeDecoder, num_images: int, device: torch.device
    ) -> None:
        self._frozen, self._whitening, self._decoder = frozen, whitening, decoder.to(device)
        side = frozen.encoder.definition.grid
        shape = (frozen.encoder.width, side, side)
        self.is_cached = num_images * frozen.encoder.width * side**2 * 4 <= MOST_KEPT
        super().__init__({"kind": "rae", "encoder": frozen.digest}, shape, device)

    def moments(self, images_NCHW: Tensor) -> Tensor:
        return exactly(lambda tile: self._frozen((tile + 1) / 2), images_NCHW, TILE)

    def latents(self, moments: Tensor, noise_NZhw: Tensor) -> Tensor:
        del noise_NZhw
        return self._whitening.whiten(moments)

    def decode(self, latents_NZhw: Tensor) -> Tensor:
        return exactly(lambda tile: 2 * decode(tile, self._decoder, self._whitening) - 1, latents_NZhw, TILE)
