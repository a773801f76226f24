"""Image files to arrays and back, and the one way this project resizes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, features

from zsclib.checks import check_images, check_size

# What Pillow may try on a file of unknown origin. EPS, for instance, would start another program.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"}
if features.check("avif"):
    FORMATS, SUFFIXES = (*FORMATS, "AVIF"), SUFFIXES | {".avif"}
if features.check("jpg_2000"):
    FORMATS, SUFFIXES = (*FORMATS, "JPEG2000"), SUFFIXES | {".jp2", ".j2k"}


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resize the centre square of each image to size × size pixels, bicubic with anti-aliasing.

    Args:
        images: uint8 (n, h, w, 3).
        size: side of the result in pixels.

    Returns:
        uint8 (n, size, size, 3); `images` itself where nothing is to be done.
    """
    check_images(images, "resize")
    check_size(size)
    if images.shape[1:3] == (size, size):
        return images
    resized = [np.asarray(_centre_square(Image.fromarray(image), size)) for image in images]
    return np.stack(resized) if resized else np.empty((0, size, size, 3), np.uint8)


def decode(data: bytes | Path, where: str, size: int | None = None) -> np.ndarray:
    """Decode one image file to uint8 (h, w, 3), or to (size, size, 3) as `resize` does.

    The EXIF orientation is applied, grey and palette images become RGB, transparency is laid on white,
    grey of 9 to 16 bits is scaled to 8 bits, and of an animation the first frame is taken.

    Args:
        data: the file's bytes, or its path.
        where: how an error names the image.
        size: side in pixels, or None to keep the image's own.

    Raises:
        ValueError: the data is no image, is damaged, or has no defined range of values.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as opened:
            image = _to_rgb(ImageOps.exif_transpose(opened), opened.format)
    except Exception as error:  # Pillow's decoders raise many kinds: OSError, SyntaxError, struct.error, ...
        raise ValueError(
            f"{where}: not a readable image ({error}); replace or remove it (readable: {', '.join(FORMATS)})"
        ) from error
    return np.array(image if size is None else _centre_square(image, size))


def encode_png(image: np.ndarray) -> bytes:
    """Return `image`, uint8 (h, w, 3), as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _to_rgb(image: Image.Image, kind: str | None) -> Image.Image:
    # Pillow reads a PGM of more than 8 bits as mode I, its values brought to 0 … 65535
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PPM"):
        deep = np.asarray(image)  # Pillow's own conversion would clip at 255
        grey = np.rint(deep / 257).astype(np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):
            grey[deep == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode!r} has no defined range of values; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _centre_square(image: Image.Image, size: int) -> Image.Image:
    """Short side to `size` and crop the centre, in one resampling step."""
    side, (w, h) = min(image.size), image.size
    left, top = (w - side) / 2, (h - side) / 2
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
