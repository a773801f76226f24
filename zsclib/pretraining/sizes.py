"""How large pocket models are, and how much they see."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The shapes of the networks; what is not said here follows from it.

    Attributes:
        image_side: of images, in pixels.
        autoencoder_channels: at each resolution; each but the first halves the side.
        latent_channels: of a latent, whose side is `latent_side`.
        unet_channels: at each resolution.
        prompt_tokens: start and end included.
        width: of both of CLIP's towers, and of what the U-Net is conditioned on. heads: of attention.
        text_layers, image_layers: of the towers. patch: side of the image tower's patches, in pixels.
    """

    image_side: int = 32
    autoencoder_channels: tuple[int, ...] = (16, 48, 96)
    latent_channels: int = 4
    unet_channels: tuple[int, ...] = (64, 128)
    prompt_tokens: int = 32
    width: int = 128
    heads: int = 4
    text_layers: int = 4
    image_layers: int = 6
    patch: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            numbers = value if name.endswith("_channels") and name != "latent_channels" else [value]
            if not numbers or any(type(number) is not int or number < 1 for number in numbers):
                raise ValueError(f"{name}: positive whole numbers are expected, got {value!r}")
        object.__setattr__(self, "autoencoder_channels", tuple(self.autoencoder_channels))
        object.__setattr__(self, "unet_channels", tuple(self.unet_channels))
        halvings = len(self.autoencoder_channels) + len(self.unet_channels) - 2
        if self.image_side % 2**halvings:
            raise ValueError(
                f"image_side: autoencoder and U-Net halve it {halvings} times, so it must be a multiple of "
                f"{2**halvings}, got {self.image_side}; give another side, or channels of fewer resolutions"
            )
        if self.image_side % self.patch:
            raise ValueError(f"patch: {self.image_side} pixels do not divide into patches of {self.patch}")
        for name, each in (("autoencoder_channels", 8), ("unet_channels", 16)):  # groups that are normalised together
            if any(count % each for count in getattr(self, name)):
                raise ValueError(f"{name}: multiples of {each} are expected, got {list(getattr(self, name))}")
        if uneven := [count for count in (self.width, *self.unet_channels) if count % self.heads]:
            raise ValueError(f"heads: {uneven[0]} channels do not divide into {self.heads} heads")
        if self.prompt_tokens < 3:
            raise ValueError(f"prompt_tokens: start, end and a word are 3 at least, got {self.prompt_tokens}")

    @property
    def latent_side(self) -> int:
        """The side of a latent."""
        return self.image_side // 2 ** (len(self.autoencoder_channels) - 1)


POCKET = Sizes()  # of the models that ship


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How many images each training sees, one counted as often as it is seen."""

    autoencoder: int = 400_000
    clip: int = 2_000_000
    unet: int = 2_000_000


USUAL = Amounts()
