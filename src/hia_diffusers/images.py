# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Reading of still images as displayed by a browser, from files, PIL images, arrays and tensors.

Axes: C channels (grey, grey and alpha, RGB, or RGB and alpha), H, W.
"""

import io
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError


# Red, green and blue in the brightness of a pixel (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)

# Maximum side of a JPEG.
MAX_SIDE = 65535

# Pillow runs Ghostscript for these formats, which are programs.
PROGRAMS = ("EPS",)

# The mode in which Pillow applies a colour profile, by the mode of the image and the colour space of the profile; RGB
# for others.
PROFILED = {"1": "L", "L": "L", "LA": "L", "GRAY": "L", "CMYK": "CMYK", "LAB": "LAB", "Lab": "LAB", "RGB": "RGB"}

# Modes with premultiplied alpha, and the corresponding modes without.
UNMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}

# Numbers of channels with alpha in the last one.
ALPHA_CHANNELS = (2, 4)

# A format of phones that Pillow supports only with pillow-heif.
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
HEIC_REMEDY = 'it is HEIC, which needs the `pose` extra: pip install "hia-diffusers[pose]", or save it as JPEG or PNG'

logger = logging.getLogger(__name__)

# What [`load_image`] takes.
ImageInput = str | os.PathLike | Image.Image | np.ndarray | torch.Tensor


def load_image(image: ImageInput, name: str = "image") -> Image.Image:
    """Convert an image to 8-bit sRGB.

    EXIF orientation and colour profile are applied, transparency is composited on white, and 16 bits are scaled to 8.

    Args:
        image (`str`, `os.PathLike`, `PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A file that Pillow reads (its first frame is used), with the `pose` extra also HEIC; a PIL image of any
            mode; or an array or a tensor as for [`image_tensor`].
        name (`str`, *optional*, defaults to `"image"`):
            Name of the argument in error messages.

    Returns:
        `PIL.Image.Image`: The RGB image.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If `image` has another type.
        ValueError: If the file cannot be read as an image, its values exceed 16 bits, or as [`image_tensor`].
    """
    if isinstance(image, Image.Image):
        with _decoding(name, "the PIL image"):
            return _as_shown(image)
    if isinstance(image, (np.ndarray, torch.Tensor)):
        pixels = (image_tensor(image, name) * 255).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    if not isinstance(image, (str, os.PathLike)):
        raise TypeError(
            f"`{name}` must be a path, a PIL image, an array (H, W, C) or a tensor (C, H, W), got "
            f"{type(image).__name__}."
        )
    said = repr(str(image))
    with _decoding(name, said):
        # A pipe would never end, and reading a device may have side effects.
        if not stat.S_ISREG(os.stat(image).st_mode):
            raise ValueError("no regular file")
        try:
            opened: Image.Image = Image.open(image, formats=_formats())
        except UnidentifiedImageError as error:
            if not _is_heic(image):
                raise ValueError("of unknown format") from error
            opened = _open_heic(image)
        with opened:
            return _as_shown(opened)


def image_tensor(image: object, name: str = "image") -> torch.Tensor:
    """Convert an image to a tensor.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A PIL image, which is converted by [`load_image`]; an array `(H, W, C)` or `(H, W)`; or a tensor `(C, H,
            W)` or `(H, W)`. Arrays and tensors contain floating-point numbers in [0, 1], or unsigned 8 or 16 bits,
            which are scaled to [0, 1]. C is 1 to 4; alpha, the last of 2 or 4 channels, is composited on white.
        name (`str`, *optional*, defaults to `"image"`):
            Name of the argument in error messages.

    Returns:
        `torch.Tensor` of shape `(3, H, W)`: float32 in [0, 1]; on the device of a tensor.

    Raises:
        TypeError: If `image` has another type, or contains other numbers.
        ValueError: If it has another shape, is masked, or has values that are not finite or outside [0, 1].
    """
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(load_image(image, name))).permute(2, 0, 1).float() / 255
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        raise TypeError(
            f"`{name}` must be a PIL image, an array (H, W, C), a tensor (C, H, W), or a list of those, got "
            f"{type(image).__name__}."
        )
    pixels = number_tensor(image, name)
    if pixels.ndim == 3 and isinstance(image, np.ndarray):
        pixels = pixels.permute(2, 0, 1)
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or not 1 <= len(pixels) <= 4 or 0 in pixels.shape:
        raise ValueError(
            f"`{name}` must have the shape (H, W, C) as an array or (C, H, W) as a tensor, with 1 to 4 channels C, "
            f"and with a batch axis or without, got {tuple(image.shape)}."
        )
    low, high = pixels.aminmax()
    if not (low >= 0 and high <= 1):  # also true for NaN, which fails both comparisons
        raise ValueError(f"`{name}` must be finite and in [0, 1], got {low.item():g} to {high.item():g}.")
    if len(pixels) in ALPHA_CHANNELS:
        pixels = pixels[:-1] * pixels[-1:] + (1 - pixels[-1:])
    return pixels.expand(3, -1, -1)


def image_tensors(images: object, name: str = "image") -> list[torch.Tensor]:
    """Convert one or several images with [`image_tensor`].

    Args:
        images:
            An image, a list of images of any sizes, or an array or a tensor with a leading batch axis.
        name (`str`, *optional*, defaults to `"image"`):
            Name of the argument in error messages.

    Returns:
        `list[torch.Tensor]`: Tensors `(3, H, W)`.

    Raises:
        TypeError, ValueError: As [`image_tensor`], or if there is no image.
    """
    is_nested = isinstance(images, torch.Tensor) and images.is_nested
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4 and not is_nested:
        images = [*images]
    images = images if isinstance(images, list) else [images]
    if not images:
        raise ValueError(f"`{name}` must contain at least one image, got none.")
    return [image_tensor(image, name) for image in images]


def number_tensor(values: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    """Convert pixels of any memory layout to float32: unsigned 8 and 16 bits are scaled to [0, 1].

    Args:
        values (`np.ndarray` or `torch.Tensor`):
            Pixels of any shape.
        name (`str`):
            Name of the argument in error messages.

    Returns:
        `torch.Tensor`: Pixels of the same shape.

    Raises:
        TypeError: If they are neither unsigned 8 or 16 bits nor real floating-point numbers.
        ValueError: If an array is partly masked, or a tensor is sparse, nested or without data.
    """
    if isinstance(values, torch.Tensor):
        if values.layout != torch.strided or values.is_nested or values.is_meta:
            raise ValueError(f"`{name}` must be a dense tensor with data, got one on {values.device}.")
        steps = 0 if values.is_floating_point() else {torch.uint8: 255, torch.uint16: 65535}.get(values.dtype)
    else:
        if np.ma.is_masked(values):
            raise ValueError(f"`{name}` is a masked array; fill it first, for example with its method `filled`.")
        steps = 0 if values.dtype.kind == "f" else {"u1": 255, "u2": 65535}.get(values.dtype.str[1:])
    if steps is None:
        raise TypeError(
            f"`{name}` must contain floating-point numbers in [0, 1], or unsigned 8 or 16 bits, got {values.dtype}."
        )
    if isinstance(values, np.ndarray):  # torch supports neither negative strides nor foreign byte orders
        values = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    numbers = values.detach().float()
    return numbers / steps if steps else numbers


def _is_heic(path: str | os.PathLike) -> bool:
    with open(path, "rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:] in HEIC_BRANDS


def _open_heic(path: str | os.PathLike) -> Image.Image:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ValueError(HEIC_REMEDY) from error
    register_heif_opener()
    return Image.open(path, formats=["HEIF"])


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.OPEN if name not in PROGRAMS]


@contextmanager
def _decoding(name: str, said: str) -> Iterator[None]:
    """Convert errors of decoders, each of which raises its own kinds."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"`{name}`: there is no file {said}") from error
    except MemoryError as error:
        raise ValueError(f"`{name}`: {said} needs more memory than is available") from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"`{name}`: {said} cannot be read as an image ({reason})") from error


def _as_shown(image: Image.Image) -> Image.Image:
    width, height = image.size
    if not 1 <= min(image.size) <= max(image.size) <= MAX_SIDE:
        raise ValueError(f"its sides must be from 1 to {MAX_SIDE} pixels, not {width}x{height}")
    image = ImageOps.exif_transpose(image)
    if image.mode in UNMULTIPLIED:
        image = image.convert(UNMULTIPLIED[image.mode])
    cleared = _cleared(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _scaled_grey(image)
    image = _in_srgb(image)
    if cleared is not None:
        image.paste("white", mask=cleared)
    image.info = {}  # orientation and profile must not be applied again
    return image


def _cleared(image: Image.Image) -> Image.Image | None:
    """Return the opacity of each pixel."""
    colour = image.info.get("transparency")
    if image.mode.startswith("I") and colour is not None:
        return Image.fromarray(np.asarray(image) == colour)
    if isinstance(colour, tuple) and max(colour) > 255:  # stored with 16 bits, while the pixels have 8
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    return ImageOps.invert(image.convert("RGBA").getchannel("A")) if image.has_transparency_data else None


def _scaled_grey(image: Image.Image) -> Image.Image:
    grey = np.asarray(image)
    if grey.dtype.kind == "f" or grey.min() < 0 or grey.max() > 65535:
        raise ValueError("its values are not of 8 or 16 bits")
    # Pillow's 32-bit integers contain 16 bits for PNG files, or 8 after a conversion.
    step = 1 if image.mode == "I" and grey.max() <= 255 else 257
    scaled = Image.fromarray((grey / step).round().astype(np.uint8))
    scaled.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    return scaled


def _in_srgb(image: Image.Image) -> Image.Image:
    """Return the colours without transparency, which is applied after their conversion."""
    mode = PROFILED.get(image.mode, "RGB")
    content = image.info.get("icc_profile")
    image = image.convert(mode)
    if mode == "LAB":
        content = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    if not content:
        return image.convert("RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = PROFILED.get(profile.profile.xcolor_space.strip())
        if mode == "L" and space == "RGB":
            mode, image = "RGB", image.convert("RGB")
        if mode == space:
            converted: Any = ImageCms.profileToProfile(
                image,
                profile,
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            return converted
    except (ImageCms.PyCMSError, OSError, TypeError) as error:  # browsers ignore it, too
        logger.warning("The colour profile of an image is damaged and ignored (%s).", error)
    return image.convert("RGB")
