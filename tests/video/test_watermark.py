# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import sys

import numpy as np
import pytest
import torch
from dancing_videos import dancer_boxes, keypoints_of
from imwatermark import WatermarkDecoder
from PIL import Image

from hia_diffusers import HIA_TINY, HIAAnimator
from hia_diffusers.animation.result import COMMENT
from hia_diffusers.commands import animate as animate_command
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_comment, read_video
from hia_diffusers.video.watermark import MESSAGE, METHOD, Watermark, read_watermark
from hia_diffusers.video.writing import write_video


HEIGHT, WIDTH = 320, 208
SCENE = ProceduralScene("test", identity=4, motion=1, setting=1)
HIDDEN = Watermark(text=None, invisible=True)


@pytest.fixture(scope="module")
def images():
    return [Image.fromarray(frame) for frame in SCENE.render(range(3), height=HEIGHT, width=WIDTH).frames]


def difference(one, other):
    return np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))


@pytest.mark.parametrize("size", [(96, 160), (512, 896)])
def test_the_label_is_in_the_corner_and_can_be_read(size):
    image = Image.new("RGB", size, (128, 128, 128))
    labelled = np.asarray(Watermark()(image))
    rows, columns, _ = np.nonzero(difference(labelled, image))
    width, height = size
    assert rows.min() > height * 0.9 and rows.max() < height
    assert columns.min() > width * 0.2 and width * 0.9 < columns.max() < width
    assert labelled.max() > 220 and labelled.min() < 20
    other = np.asarray(Watermark("AI generated")(image))
    assert not np.array_equal(other, labelled)


def test_the_invisible_mark_survives_the_video_file_and_its_own_library_reads_it(images, tmp_path):
    marked = [HIDDEN(image) for image in images]
    assert difference(marked[0], images[0]).mean() < 4
    write_video(tmp_path / "marked.mp4", marked, 30)
    write_video(tmp_path / "plain.mp4", images, 30)
    assert read_watermark(tmp_path / "marked.mp4") == 1
    assert read_watermark(tmp_path / "marked.mp4", max_frames=1) > 0.9
    assert 0.2 < read_watermark(tmp_path / "plain.mp4") < 0.8
    frame = read_video(tmp_path / "marked.mp4").frames[0]
    decoder = WatermarkDecoder("bytes", 8 * len(MESSAGE))
    assert decoder.decode(np.ascontiguousarray(frame[..., ::-1]), METHOD) == MESSAGE


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_hold_the_invisible_mark(tmp_path, level):
    flat = Image.new("RGB", (WIDTH, HEIGHT), (level,) * 3)
    write_video(tmp_path / "flat.mp4", [HIDDEN(flat)], 30)
    assert read_watermark(tmp_path / "flat.mp4") > 0.9


def test_both_marks_together(images, tmp_path):
    both = Watermark("generated", invisible=True)(images[0])
    label = difference(Watermark("generated")(images[0]), images[0]).max(axis=-1) > 100
    assert label.any() and difference(both, images[0]).max(axis=-1)[label].min() > 50
    write_video(tmp_path / "both.mp4", [both], 30)
    assert read_watermark(tmp_path / "both.mp4") > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": None}, "`watermark` must have a `text` or be `invisible`, got neither."),
        ({"text": " "}, "its text must be printable ASCII, as in Pillow's font, got ' '"),
        ({"text": "künstlich"}, "its text must be printable ASCII"),
        ({"text": "two\nlines"}, "its text must be printable ASCII"),
        ({"text": 20000 * "x"}, "x' does not fit into 16384x180 pixels"),
        ({"text": 5}, "`text` must be a str, got 5"),
        ({"invisible": "yes"}, "`invisible` must be True or False, got 'yes'"),
    ],
)
def test_marks_that_cannot_be(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Watermark(**arguments)


@pytest.mark.parametrize("max_frames", [0, 1.5, "2"])
def test_a_number_of_frames_that_cannot_be_read(tmp_path, max_frames):
    with pytest.raises((TypeError, ValueError), match="`max_frames` must be an integer from 1"):
        read_watermark(tmp_path / "any.mp4", max_frames)


def test_images_that_cannot_be_marked(images, tmp_path):
    with pytest.raises(ValueError, match="needs frames of at least 65536 pixels, got 96x160"):
        HIDDEN(Image.new("RGB", (96, 160)))
    with pytest.raises(ValueError, match="'made by a computer' does not fit into 64x160 pixels"):
        Watermark("made by a computer")(Image.new("RGB", (64, 160)))
    write_video(tmp_path / "small.mp4", [Image.new("RGB", (96, 160))], 30)
    with pytest.raises(ValueError, match="small.mp4' is too small for an invisible watermark: 96x160"):
        read_watermark(tmp_path / "small.mp4")


def test_the_missing_extra_is_named_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "imwatermark", None)
    Watermark()
    with pytest.raises(ImportError, match=r"the `watermark` extra: pip install \"hia-diffusers\[watermark\]\""):
        HIAAnimator(watermark=Watermark(invisible=True))


def test_a_comment_is_stored_where_it_is_given(images, tmp_path):
    write_video(tmp_path / "with.mp4", images, 30, comment="erzeugt: ü")
    write_video(tmp_path / "without.mp4", images, 30)
    assert read_comment(tmp_path / "with.mp4") == "erzeugt: ü"
    assert read_comment(tmp_path / "without.mp4") is None
    np.testing.assert_array_equal(
        read_video(tmp_path / "with.mp4").frames, read_video(tmp_path / "without.mp4").frames
    )


def test_the_animator_marks_frames_whether_kept_or_written(pipe, tmp_path):
    driving = keypoints_of(dancer_boxes(2))
    image = Image.new("RGB", (96, 64))
    size = {"height": 64, "width": 96}

    def steps():
        return {"num_inference_steps": 1, "guidance_scale": 1.0, "generator": torch.Generator().manual_seed(0)}

    plain = HIAAnimator(pipe)(image, driving, **size, **steps())
    animator = HIAAnimator(pipe, watermark=Watermark("AI"))
    kept = animator(image, driving, **size, **steps())
    for before, after in zip(plain.frames, kept.frames, strict=True):
        assert difference(after, Watermark("AI")(before)).max() == 0 < difference(after, before).max()
    kept.save(tmp_path / "kept.mp4")
    animator(image, driving, tmp_path / "written.mp4", **size, **steps())
    assert (tmp_path / "written.mp4").read_bytes() == (tmp_path / "kept.mp4").read_bytes()
    assert read_comment(tmp_path / "kept.mp4") == COMMENT
    hiding = HIAAnimator(pipe, watermark=HIDDEN)
    with pytest.raises(ValueError, match="needs frames of at least 65536 pixels, got 96x64"):
        hiding.prepare(image, driving, **size)


def test_the_command_marks_what_it_is_asked_to(tmp_path, capsys):
    clip = SCENE.render(range(1), height=160, width=96)
    clip.keypoints.save(tmp_path / "dance.npz")
    Image.fromarray(clip.frames[0]).save(tmp_path / "person.png")
    words = ["--image", str(tmp_path / "person.png"), "--driving", str(tmp_path / "dance.npz"), "--model", HIA_TINY]
    words += ["--num_inference_steps", "1", "--guidance_scale", "1", "--device", "cpu"]
    corners = {}
    for name, options in (("plain", []), ("default", ["--watermark"]), ("own", ["--watermark", "AI"])):
        animate_command.main([*words, "--output", str(tmp_path / f"{name}.mp4"), *options])
        assert read_comment(tmp_path / f"{name}.mp4") == COMMENT
        corners[name] = read_video(tmp_path / f"{name}.mp4").frames[0, 145:, :]
    assert difference(corners["default"], corners["plain"])[:, :60].max() > 100
    assert difference(corners["own"], corners["plain"])[:, 80:].max() > 100
    assert difference(corners["own"], corners["plain"])[:, :60].max() < 30
    with pytest.raises(SystemExit):
        animate_command.main([*words, "--output", str(tmp_path / "hidden.mp4"), "--invisible_watermark"])
    message = "error: --watermark: an invisible one needs frames of at least 65536 pixels, got 96x160."
    assert message in capsys.readouterr().err and not (tmp_path / "hidden.mp4").exists()
