"""The autoencoder of drawn shapes: what SD-VAE is to photographs, small enough to come with the project."""

# N batch, H image side, Z channels of a latent, h its side

from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from harness.codec import Codec, exactly
from harness.errors import UserError
from harness.files import sha256_of
from harness.spec import DrawnLatents, Task

FILE: Final = Path(__file__).parent / "encoder_files" / "shapes-autoencoder.safetensors"
PATCH: Final = 4
WIDTH: Final = 96
CHANNELS: Final = 8
TILE: Final = 32


class ShapesAutoencoder(nn.Module):
    """Each 4 x 4 pixels and their surroundings to `CHANNELS` numbers, and back.

    `mean` and `std` are those of the latents over drawn images, (1, Z, 1, 1): a denoiser sees them whitened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, WIDTH, PATCH, stride=PATCH),
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, CHANNELS, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(WIDTH, WIDTH, 1),
            nn.GELU(),
            nn.Conv2d(WIDTH, 3 * PATCH**2, 1),
            nn.PixelShuffle(PATCH),
        )
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("std", torch.ones(1, CHANNELS, 1, 1))

    def whitened(self, images_N3HH: Tensor) -> Tensor:
        """Latents (N, Z, h, h) of images in [-1, 1]."""
        latents_NZhh: Tensor = (self.encoder(images_N3HH) - self.get_buffer("mean")) / self.get_buffer("std")
        return latents_NZhh

    def images(self, latents_NZhh: Tensor) -> Tensor:
        """Images, (N, 3, H, H), of whitened latents."""
        images_N3HH: Tensor = self.decoder(latents_NZhh)
        return images_N3HH


class ShapesCodec(Codec):
    """Images of drawn shapes as whitened latents of the autoencoder that comes with the project.

    Raises UserError where its weights are not those of the run.
    """

    def __init__(self, latents: DrawnLatents, task: Task, device: torch.device) -> None:
        channels, side = latents.shape(task)
        super().__init__(latents.model_dump(), (channels, side, side), device)
        self.weights_sha256 = sha256_of(FILE)
        if self.weights_sha256 != latents.weights_sha256:
            raise UserError(
                f"the autoencoder of drawn shapes is not the one of this run: {FILE.name} is another file",
                "use the version of the project that made the run, or start anew",
            )
        autoencoder = ShapesAutoencoder()
        autoencoder.load_state_dict(load_file(FILE), strict=True)
        self._autoencoder = autoencoder.eval().requires_grad_(requires_grad=False).to(device)

    def moments(self, images_NCHW: Tensor) -> Tensor:
        return exactly(self._autoencoder.whitened, images_NCHW, TILE)

    def latents(self, moments: Tensor, noise_NZhw: Tensor) -> Tensor:
        del noise_NZhw
        return moments

    def decode(self, latents_NZhw: Tensor) -> Tensor:
        return exactly(self._autoencoder.images, latents_NZhw, TILE)
