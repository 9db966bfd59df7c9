# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Still images of all kinds: the colours that a browser shows, or one sentence that names the argument."""

import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from dancing_videos import dancer_boxes, keypoints_of
from icc_profiles import cmyk_profile, grey_profile, rgb_profile
from PIL import Image

from hia_diffusers import HIAAnimator, MotionBlurConditioner
from hia_diffusers.app.limits import Limits
from hia_diffusers.app.readers import read_image
from hia_diffusers.images import image_tensor, image_tensors, load_image
from hia_diffusers.metrics.folders import load_frame
from hia_diffusers.video.reading import read_video
from hia_diffusers.video.writing import write_video


RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
CORNERS = [RED, GREEN, BLUE, YELLOW]  # upper left, upper right, lower left, lower right

# EXIF orientation -> which of the stored corners is seen in each corner.
SEEN = {
    1: [0, 1, 2, 3],
    2: [1, 0, 3, 2],
    3: [3, 2, 1, 0],
    4: [2, 3, 0, 1],
    5: [0, 2, 1, 3],
    6: [2, 0, 3, 1],
    7: [3, 1, 2, 0],
    8: [1, 3, 0, 2],
}


def quarters():
    """40 wide and 20 high, a colour in each corner."""
    image = Image.new("RGB", (40, 20))
    for colour, place in zip(CORNERS, [(0, 0), (20, 0), (0, 10), (20, 10)], strict=True):
        image.paste(colour, (*place, place[0] + 20, place[1] + 10))
    return image


def ramp(dtype=np.uint8, top=255):
    """Dark on the left and bright on the right, 40 wide and 20 high."""
    return np.tile(np.linspace(0, top, 40), (20, 1)).round().astype(dtype)


def write_png(path, bits, colour_type, pixels, transparency=None):
    """A PNG file of any depth; Pillow writes few of them."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in pixels)
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))]
    if transparency is not None:
        chunks.append(chunk(b"tRNS", np.array(transparency, ">u2").tobytes()))
    chunks += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_is_upright(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format, {})
    quarters().save(tmp_path / "image", format, exif=exif, **lossless)
    shown = load_image(tmp_path / "image")
    assert shown.size == ((40, 20) if orientation < 5 else (20, 40))
    width, height = shown.size
    corners = [shown.getpixel(place) for place in ((2, 2), (width - 3, 2), (2, height - 3), (width - 3, height - 3))]
    np.testing.assert_allclose(corners, [CORNERS[corner] for corner in SEEN[orientation]], atol=3)
    with Image.open(tmp_path / "image") as opened:
        given = load_image(opened)
    assert given == shown == load_image(shown)  # what is upright stays so


@pytest.mark.parametrize("depth", [8, 16])
def test_orientation_of_grey(tmp_path, depth):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    grey = ramp() if depth == 8 else ramp(np.uint16, 65535)
    Image.fromarray(grey).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_allclose(np.asarray(load_image(tmp_path / "image.png"))[..., 0], np.rot90(ramp(), -1), atol=1)


# Colours in a profile, and the same in sRGB. Of Adobe RGB (1998), Display P3 and grey of gamma 1.8, by their formulas;
# the CMYK profile says that cyan is 0.8 of white's lightness L*, and so on.
@pytest.mark.parametrize(
    ("profile", "mode", "colours"),
    [
        ("Adobe RGB", "RGB", {(128, 128, 128): (129, 129, 129), (150, 100, 100): (167, 100, 100)}),
        ("Display P3", "RGB", {(128, 128, 128): (128, 128, 128), (200, 120, 60): (213, 115, 42)}),
        ("grey 1.8", "L", {0: (0, 0, 0), 128: (145, 145, 145), 255: (255, 255, 255)}),
        ("CMYK", "CMYK", {(0, 0, 0, 0): (255, 255, 255), (0, 0, 0, 255): (0, 0, 0), (255, 0, 0, 0): (119, 119, 119)}),
    ],
)
def test_colour_profiles_become_srgb(tmp_path, profile, mode, colours):
    content = {
        "Adobe RGB": rgb_profile([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 563 / 256),
        "Display P3": rgb_profile([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], None),
        "grey 1.8": grey_profile(1.8),
        "CMYK": cmyk_profile(),
    }[profile]
    for colour, expected in colours.items():
        image = Image.new(mode, (8, 8), colour)
        image.save(tmp_path / "image.tif", icc_profile=content)
        shown = load_image(tmp_path / "image.tif")
        np.testing.assert_allclose(shown.getpixel((4, 4)), expected, atol=2, err_msg=f"{profile} {colour}")
        assert load_image(shown) == shown  # and no second time


def test_a_profile_does_not_touch_transparency_and_a_damaged_one_is_left_out(tmp_path, caplog):
    profile = rgb_profile([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], None)
    image = Image.new("RGBA", (8, 8), (200, 120, 60, 255))
    image.paste((200, 120, 60, 0), (0, 0, 4, 8))
    image.save(tmp_path / "image.png", icc_profile=profile)
    shown = load_image(tmp_path / "image.png")
    assert shown.getpixel((1, 1)) == (255, 255, 255)
    np.testing.assert_allclose(shown.getpixel((6, 1)), (213, 115, 42), atol=2)
    image.save(tmp_path / "image.png", icc_profile=profile[:200])
    assert load_image(tmp_path / "image.png").getpixel((6, 1)) == (200, 120, 60)
    assert "The colour profile of an image is damaged and ignored" in caplog.text


def test_a_profile_of_other_pixels_is_left_out():
    image = Image.new("CMYK", (8, 8), (255, 0, 0, 0)).convert("RGB")
    image.info["icc_profile"] = cmyk_profile()  # as `diffusers.utils.load_image` leaves it
    assert load_image(image).getpixel((1, 1)) == (0, 255, 255)
    grey = Image.new("L", (8, 8), 128)
    grey.info["icc_profile"] = rgb_profile([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], 563 / 256)
    np.testing.assert_allclose(load_image(grey).getpixel((1, 1)), (129, 129, 129), atol=1)


@pytest.mark.parametrize("name", ["grey.png", "grey16.png", "grey16.tiff", "grey32.tiff"])
def test_greys_of_8_and_16_bits(tmp_path, name):
    grey = {"grey.png": ramp(), "grey32.tiff": ramp(np.int32, 65535)}.get(name, ramp(np.uint16, 65535))
    Image.fromarray(grey).save(tmp_path / name)
    shown = load_image(tmp_path / name)
    assert shown.mode == "RGB" and shown.size == (40, 20)
    np.testing.assert_allclose(np.asarray(shown), np.stack([ramp()] * 3, axis=-1), atol=1)
    with Image.open(tmp_path / name) as opened:
        np.testing.assert_array_equal(image_tensor(opened), np.asarray(shown).transpose(2, 0, 1) / np.float32(255))


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L"])
def test_integers_are_scaled_and_not_clipped(mode):
    assert load_image(Image.new(mode, (4, 4), 51400)).getpixel((0, 0)) == (200, 200, 200)
    if mode == "I":  # as Pillow converts 8 bits
        assert load_image(Image.new("L", (4, 4), 200).convert("I")).getpixel((0, 0)) == (200, 200, 200)
    with pytest.raises(ValueError, match="its values are not of 8 or 16 bits"):
        load_image(Image.new("F", (4, 4), 0.5))


@pytest.mark.parametrize(
    ("colour_type", "pixel", "transparency", "seen"),
    [
        (0, (51400,), None, (200, 200, 200)),
        (0, (51400,), 51400, (255, 255, 255)),
        (2, (51400, 25700, 0), None, (200, 100, 0)),
        (2, (51400, 25700, 0), (51400, 25700, 0), (255, 255, 255)),
        (4, (51400, 32896), None, (227, 227, 227)),
        (6, (51400, 0, 0, 32896), None, (227, 127, 127)),
        (6, (51400, 0, 0, 0), None, (255, 255, 255)),
    ],
)
def test_png_files_of_16_bits(tmp_path, colour_type, pixel, transparency, seen):
    write_png(tmp_path / "deep.png", 16, colour_type, np.full((4, 4, len(pixel)), pixel), transparency)
    np.testing.assert_allclose(load_image(tmp_path / "deep.png").getpixel((1, 1)), seen, atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "transparent RGB", "transparent L", "transparent P"])
def test_transparency_is_white(tmp_path, mode):
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    image.paste((30, 30, 30, 255), (20, 0, 40, 20))
    if mode.startswith("transparent"):
        kind = mode.split()[1]
        colour = (0, 0, 0) if kind == "RGB" else 0
        buffer = io.BytesIO()
        plain = image.convert("RGB").quantize(2) if kind == "P" else image.convert("RGB").convert(kind)
        plain.save(buffer, "PNG", transparency=plain.getpixel((0, 0)) if kind == "P" else colour)
        image = Image.open(buffer)
    else:
        image = image.convert(mode) if mode != "PA" else image.convert("P").convert("PA")
    pixels = np.asarray(load_image(image), dtype=int)
    assert pixels.shape == (20, 40, 3)
    assert (pixels[:, :20] == 255).all() and np.abs(pixels[:, 20:] - 30).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "RGBa"])
def test_half_transparency_is_mixed_with_white(mode):
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 128)).convert(mode)
    np.testing.assert_allclose(load_image(image).getpixel((0, 0)), [227, 127, 127], atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_every_mode_of_pillow(mode):
    image = Image.new("RGB", (4, 4), "white").convert(mode)
    np.testing.assert_allclose(load_image(image).getpixel((0, 0)), (255, 255, 255), atol=1)
    assert load_image(Image.new("LAB", (4, 4), (128, 128, 128))).getpixel((0, 0)) == (119, 119, 119)


ARRAYS = {
    "a reversed view": (np.dstack([ramp(), 0 * ramp(), 255 - ramp()])[..., ::-1], [255, 0, 0]),
    "upside down": (np.dstack([ramp()] * 3)[::-1], [0, 0, 0]),
    "8 bits": (np.full((20, 40, 3), (200, 100, 0), np.uint8), [200, 100, 0]),
    "16 bits": (np.full((20, 40, 3), (51400, 25700, 0), np.uint16), [200, 100, 0]),
    "16 bits, big-endian": (np.full((20, 40, 3), (51400, 25700, 0), ">u2"), [200, 100, 0]),
    "float16": (np.full((20, 40, 3), 0.5, np.float16), [127.5] * 3),
    "big-endian": (np.full((20, 40, 3), 0.5, ">f4"), [127.5] * 3),
    "longdouble": (np.full((20, 40, 3), 0.5, np.longdouble), [127.5] * 3),
    "Fortran order": (np.asfortranarray(np.full((20, 40, 3), 0.5)), [127.5] * 3),
    "grey": (np.full((20, 40), 0.5), [127.5] * 3),
    "one channel": (np.full((20, 40, 1), 100, np.uint8), [100] * 3),
    "grey and alpha": (np.full((20, 40, 2), (200, 128), np.uint8), [227.4] * 3),
    "colour and alpha": (np.full((20, 40, 4), (200, 0, 0, 128), np.uint8), [227.4, 127, 127]),
    "nothing masked": (np.ma.masked_equal(np.full((20, 40, 3), 0.5), 0.7), [127.5] * 3),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_as_people_have_them(name):
    array, expected = ARRAYS[name]
    tensor = image_tensor(array)
    assert tensor.shape == (3, 20, 40) and tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor[:, 0, 0] * 255, expected, atol=0.1)
    np.testing.assert_allclose(load_image(array).getpixel((0, 0)), expected, atol=0.6)
    channels_first = np.moveaxis(array, -1, 0) if array.ndim == 3 else array
    if array.dtype.isnative and array.dtype != np.longdouble:
        torch.testing.assert_close(image_tensor(torch.from_numpy(np.array(channels_first))), tensor)


def test_tensors_of_half_precision_and_batches():
    half = torch.full((2, 3, 4, 5), 0.5, dtype=torch.bfloat16, requires_grad=True)
    tensors = image_tensors(half)
    assert [tuple(tensor.shape) for tensor in tensors] == [(3, 4, 5)] * 2
    assert tensors[0].dtype == torch.float32 and not tensors[0].requires_grad
    assert len(image_tensors([Image.new("L", (4, 4)), np.zeros((6, 6, 3))])) == 2


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.full((4, 5, 3), 0.5 + 0.5j), TypeError, "floating-point numbers .* got complex128"),
        (np.full((4, 5, 3), 0.5, object), TypeError, "got object"),
        (np.full((4, 5, 3), 100), TypeError, "got int64"),
        (np.full((4, 5, 3), True), TypeError, "got bool"),
        (torch.full((3, 4, 5), 0.5j), TypeError, "got torch.complex64"),
        (torch.zeros((3, 4, 5), dtype=torch.int32), TypeError, "got torch.int32"),
        (torch.zeros((3, 4, 5), device="meta"), ValueError, "must be a dense tensor with data"),
        (torch.zeros((3, 4, 5)).to_sparse(), ValueError, "must be a dense tensor with data"),
        (np.ma.masked_equal(np.full((4, 5, 3), 0.5), 0.5), ValueError, "is a masked array"),
        (np.full((4, 5, 3), np.nan), ValueError, r"must be finite and in \[0, 1\], got nan"),
        (np.full((4, 5, 3), 255.0), ValueError, r"must be finite and in \[0, 1\], got 255 to 255"),
        (np.zeros((4, 5, 5)), ValueError, r"must have the shape .* got \(4, 5, 5\)"),
        (torch.zeros((5, 4, 3)), ValueError, r"must have the shape .* got \(5, 4, 3\)"),
        (np.zeros((0, 5, 3)), ValueError, r"got \(0, 5, 3\)"),
        (np.zeros(5), ValueError, r"got \(5,\)"),
        (Image.new("RGB", (0, 4)), ValueError, "its sides must be from 1 to 65535 pixels, not 0x4"),
        (3, TypeError, "got int"),
    ],
)
def test_what_is_no_image(image, error, message):
    for read in (image_tensor, load_image):
        with pytest.raises(error, match=f"^`image`.*{message}"):
            read(image)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_no_image():
    for read in (image_tensor, image_tensors, load_image):
        for shape in ((4, 5), (3, 4, 5)):
            with pytest.raises(ValueError, match="^`image` must be a dense tensor with data"):
                read(torch.nested.nested_tensor([torch.zeros(shape)] * 3))


def test_files_that_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    (tmp_path / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    (tmp_path / "qoi.png").write_bytes(b"qoif" + struct.pack(">IIBB", 4, 4, 3, 0) + b"\xff")
    for name in ("pipe.png", "text.png", "cut.png", "program.png", "qoi.png", ".", "a\0b", 300 * "x"):
        with pytest.raises(ValueError, match="^`image`: .* cannot be read as an image"):
            load_image(tmp_path / name)
    with pytest.raises(ValueError, match="'/dev/null' cannot be read as an image"):
        load_image("/dev/null")
    with pytest.raises(FileNotFoundError, match="`face`: there is no file .*missing.png"):
        load_image(tmp_path / "missing.png", "face")


def test_heic_is_read_with_its_orientation_and_profile(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[274] = 6
    image = Image.fromarray(np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8))
    image.save(tmp_path / "phone.jpg", exif=exif, quality=95)
    pillow_heif.from_pillow(image).save(tmp_path / "phone.HEIC", exif=exif.tobytes(), quality=95)
    shown = load_image(tmp_path / "phone.HEIC")
    assert (shown.mode, shown.size) == ("RGB", (48, 64))
    difference = np.asarray(shown, int) - np.asarray(load_image(tmp_path / "phone.jpg"))
    assert np.abs(difference).mean() < 5
    content = (tmp_path / "phone.HEIC").read_bytes()
    (tmp_path / "cut.heic").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut.heic' cannot be read as an image"):
        load_image(tmp_path / "cut.heic")


def test_heic_without_the_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "phone.jpg").write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(12))
    with pytest.raises(ValueError, match="phone.jpg' cannot be read as an image .it is HEIC, which needs the `pose`"):
        load_image(tmp_path / "phone.jpg")


@pytest.fixture(scope="module")
def cutout(tmp_path_factory):
    """Stored on its side and mirrored, red in a profile of its own and transparent green; and what is seen of it."""
    pixels = np.zeros((48, 64, 4), np.uint8)
    pixels[...] = (0, 255, 0, 0)
    pixels[:, :16] = (200, 120, 60, 255)
    exif = Image.Exif()
    exif[0x0112] = 5
    path = tmp_path_factory.mktemp("cutout") / "cutout.png"
    profile = rgb_profile([(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], None)
    Image.fromarray(pixels).save(path, exif=exif, icc_profile=profile)
    seen = np.full((64, 48, 3), 255, np.uint8)
    seen[:16] = (213, 115, 42)
    return path, seen


def test_every_way_in_sees_the_same(pipe, cutout, tmp_path):
    path, seen = cutout
    opened = Image.open(path)
    animation = HIAAnimator().prepare(path, keypoints_of(dancer_boxes(1)), height=64, width=48)
    write_video(tmp_path / "written.mp4", [opened], 30)
    ways = {
        "animator": animation.image,
        "page": read_image(path, Limits())[1]["pixels"],
        "evaluation": load_frame(path),
        "pose map": MotionBlurConditioner().from_pose_video([opened]).pose[0],
        "video": read_video(tmp_path / "written.mp4").frames[0][8::48, 8::16],
    }
    for name, shown in ways.items():
        expected = seen[8::48, 8::16] if name == "video" else seen
        np.testing.assert_allclose(np.asarray(shown, int), expected, atol=4, err_msg=name)
    plain = pipe.encode_reference_latents(animation.image, 64, 48)
    torch.testing.assert_close(pipe.encode_reference_latents(opened, 64, 48), plain, rtol=0, atol=0)
    context = pipe.encode_image(animation.image)[0]
    torch.testing.assert_close(pipe.encode_image(Image.open(path))[0], context, rtol=0, atol=0)
