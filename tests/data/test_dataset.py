# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The images of the prepared clips say in their colours which pixel of which frame one looks at."""

import json
import os
import shutil
import struct

import fsspec
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from hia_diffusers.conditioning import whole_body as kp
from hia_diffusers.conditioning.keypoints import WholeBodyKeypoints
from hia_diffusers.conditioning.motion_blur import MotionBlurConditioner
from hia_diffusers.data.aspect_buckets import AspectBucketBatchSampler
from hia_diffusers.data.clip_sources import ClipFrames, PreparedClips, ProceduralClips, UnreadableClipError
from hia_diffusers.data.dataset import HIADataset
from hia_diffusers.preparation.clip_preparation import PreparationOptions
from hia_diffusers.preparation.clip_rules import ClipRules
from hia_diffusers.preparation.prepare_dataset import prepare_dataset
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.writing import write_video


NUM_FRAMES, HEIGHT, WIDTH, FPS = 12, 96, 120, 60.0
COLOR_PER_PIXEL, COLOR_PER_FRAME = 2, 20
LEFT_STEP, RIGHT_STEP = np.array([1.5, -1.0]), np.array([-0.5, 0.75])
LEFT_SHARPNESS, RIGHT_SHARPNESS = 0.75, 0.25
HAND_SIDE = 14.0
PER_FRAME = {"xy": (133, 2), "score": (133,), "hand_boxes": (2, 4), "hand_sharpness": (2,), "face_boxes": (4,)}


def coded_images(height=HEIGHT, width=WIDTH, num_frames=NUM_FRAMES):
    """Red tells the column, green the row, blue the frame."""
    images = np.empty((num_frames, height, width, 3), dtype=np.uint8)
    images[..., 0] = COLOR_PER_PIXEL * np.arange(width)
    images[..., 1] = COLOR_PER_PIXEL * np.arange(height)[:, None]
    images[..., 2] = COLOR_PER_FRAME * np.arange(num_frames)[:, None, None]
    return images


def straight(values):
    """The straight lines nearest to rows of values: compression errors average out."""
    positions = np.arange(values.shape[1])
    slope, start = np.polyfit(positions, values.T, 1)
    return start[:, None] + slope[:, None] * positions


def decoded(pixels):
    """Which x `(F, W)`, y `(F, H)` and frame `(F,)` of the clip images `(F, 3, H, W)` in [-1, 1] show."""
    red, green, blue = ((pixels + 1) * 127.5).numpy().transpose(1, 0, 2, 3)
    x, y = straight(red.mean(axis=1)), straight(green.mean(axis=2))
    return x / COLOR_PER_PIXEL + 0.5, y / COLOR_PER_PIXEL + 0.5, blue.mean(axis=(1, 2)) / COLOR_PER_FRAME


def person(center, num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH, fps=FPS):
    """Someone who stands around `center`; the hands move steadily, the jaw opens."""
    xy = np.full((num_frames, 133, 2), np.nan)
    frame = np.arange(num_frames)[:, None, None]
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 3)), axis=-1).reshape(-1, 2)
    xy[:, kp.LEFT_HAND] = (12, 4) + HAND_SIDE / 2.8 * grid + LEFT_STEP * frame
    xy[:, kp.RIGHT_HAND] = (-12, 4) + HAND_SIDE / 2.8 * grid + RIGHT_STEP * frame
    xy[:, kp.FACE] = np.random.default_rng(0).uniform((-5, -25), (5, -15), (68, 2)) + (0, 0.2) * frame
    xy[:, kp.LEFT_SHOULDER], xy[:, kp.RIGHT_SHOULDER] = (8, -10), (-8, -10)
    xy[:, kp.LEFT_ANKLE], xy[:, kp.RIGHT_ANKLE] = (5, 40), (-5, 40)
    return WholeBodyKeypoints(xy + center, np.ones(xy.shape[:2]), height, width, fps)


def video_of(root, clip):
    (path,) = (root / "clips").glob(f"{clip}-*.mp4")
    return path


def change_annotations(root, clip, **arrays):
    path = video_of(root, clip).with_suffix(".safetensors")
    safetensors.numpy.save_file({**safetensors.numpy.load_file(path), **arrays}, path)


def prepare(folder, clips):
    """A prepared dataset of clips by name, each images and keypoints; encoded only once, and of known sharpness."""
    videos, root = folder / "videos", folder / "prepared"
    videos.mkdir()
    for name, (images, keypoints) in clips.items():
        write_video(videos / f"{name}.mp4", images, keypoints.fps)
        keypoints.save(videos / f"{name}.safetensors")
    anything = ClipRules(min_seconds=0, min_person_height=0, min_score=0, max_outside_ratio=1, min_motion=0)
    options = PreparationOptions(cut_threshold=255.0, smooth=False, keypoints=str(videos), rules=anything)
    assert prepare_dataset(videos, root, options)["clips"] == len(clips)
    for name, (images, keypoints) in clips.items():
        write_video(video_of(root, name), images, keypoints.fps, keyframe_interval=4)
        sharpness = np.tile(np.float32([LEFT_SHARPNESS, RIGHT_SHARPNESS]), (len(images), 1))
        change_annotations(root, name, hand_sharpness=sharpness)
    return root


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A wide clip, the person left of its middle."""
    return prepare(tmp_path_factory.mktemp("wide"), {"dance": (coded_images(), person((44, 46)))})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Five tall clips, 0 to 4, and three wide ones."""
    shapes = [(112, 80)] * 5 + [(96, 120)] * 3
    return prepare(
        tmp_path_factory.mktemp("mixed"),
        {
            f"clip{number}": (coded_images(height, width), person((40, 46), height=height, width=width))
            for number, (height, width) in enumerate(shapes)
        },
    )


@pytest.fixture
def mixed_copy(mixed, tmp_path):
    """To damage."""
    return shutil.copytree(mixed, tmp_path / "prepared")


def same(sample, other):
    return sample.keys() == other.keys() and all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in sample.items()
    )


def samples(dataset, epochs):
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        yield from (dataset[index] for index in range(len(dataset)))


# What a sample holds


@pytest.mark.parametrize("num_frames", [1, 5])
@pytest.mark.parametrize("kind", ["prepared", "procedural"])
def test_sample_has_the_documented_shapes_and_ranges(prepared, kind, num_frames):
    source = PreparedClips(prepared) if kind == "prepared" else ProceduralClips(num_clips=2, num_frames=20)
    dataset = HIADataset(source, [(64, 48)], num_frames)
    sample = dataset[len(dataset) - 1]
    ranges = {
        "reference_pixel_values": ((3, 64, 48), -1, 1),
        "pixel_values": ((num_frames, 3, 64, 48), -1, 1),
        "conditioning": ((num_frames, 6, 64, 48), 0, 1),
        "face_mask": ((num_frames, 1, 64, 48), 0, 1),
        "hand_masks": ((num_frames, 2, 64, 48), 0, 1),
    }
    for name, (shape, low, high) in ranges.items():
        assert sample[name].dtype == torch.float32 and sample[name].shape == shape, name
        assert sample[name].min() >= low and sample[name].max() <= high, name
        assert sample[name].unique().numel() > 1, name
    assert sample["face_landmarks"].shape == (num_frames, 68, 3) and sample["face_landmarks"].isfinite().all()
    assert sample["reference_face_landmarks"].shape == (68, 3)
    assert sample["drop_conditions"].dtype == torch.bool and sample["drop_conditions"].shape == ()
    assert sample["frames"].dtype == torch.int64 and sample["frames"].shape == (num_frames,)
    assert sample["clip"] == source.name(len(dataset) - 1) and sample["skipped"] == ""
    assert set(sample) == {
        *ranges,
        *("face_landmarks", "reference_face_landmarks", "drop_conditions"),
        *("clip", "frames", "reference_frame", "skipped"),
    }


@pytest.mark.parametrize("flip", [0.0, 1.0], ids=["as is", "mirrored"])
@pytest.mark.parametrize("size", [(64, 40), (40, 64), (192, 160)], ids=["tall", "wide", "enlarged"])
def test_everything_lies_where_the_image_shows_it(prepared, size, flip):
    keypoints = person((44, 46))
    boxes = safetensors.numpy.load_file(video_of(prepared, "dance").with_suffix(".safetensors"))
    mirrored_face = keypoints.flip_horizontal().xy[:, kp.FACE]
    mirrored_face[..., 0] = WIDTH - mirrored_face[..., 0]
    face = mirrored_face if flip else keypoints.xy[:, kp.FACE]
    dataset = HIADataset(PreparedClips(prepared), [size], 3, horizontal_flip_probability=flip)
    for sample in samples(dataset, epochs=3):
        x, y, shown = decoded(torch.cat([sample["reference_pixel_values"][None], sample["pixel_values"]]))
        frames = [int(sample["reference_frame"]), *sample["frames"].tolist()]
        np.testing.assert_allclose(shown, frames, atol=0.3)
        assert (np.diff(x).mean() < 0) == bool(flip)
        np.testing.assert_allclose(x, x[:1].repeat(4, axis=0), atol=0.75)
        np.testing.assert_allclose(y, y[:1].repeat(4, axis=0), atol=0.75)

        landmarks = torch.cat([sample["reference_face_landmarks"][None], sample["face_landmarks"]]).numpy()
        for position, frame in enumerate(frames):
            found_x = np.interp(landmarks[position, :, 0], np.arange(size[1]) + 0.5, x[position])
            found_y = np.interp(landmarks[position, :, 1], np.arange(size[0]) + 0.5, y[position])
            assert np.abs(np.stack([found_x, found_y], axis=-1) - face[frame]).max() < 0.75

        for position, frame in enumerate(frames[1:]):
            masks = [sample["face_mask"][position, 0], *sample["hand_masks"][position].flip(0 if flip else ())]
            for mask, (x0, y0, x1, y1) in zip(
                masks, [boxes["face_boxes"][frame], *boxes["hand_boxes"][frame]], strict=True
            ):
                from_sides = np.minimum(x[position + 1] - x0, x1 - x[position + 1])
                from_ends = np.minimum(y[position + 1] - y0, y1 - y[position + 1])
                depth = np.minimum(from_sides, from_ends[:, None])
                assert set(mask.unique().tolist()) == {0, 1}
                assert depth[mask == 1].min() > -0.75 and depth[mask == 0].max() < 0.75


def test_a_mirrored_sample_mirrors_every_value(prepared):
    as_is, mirrored = (
        HIADataset(PreparedClips(prepared), [(64, 56)], 4, horizontal_flip_probability=probability)[0]
        for probability in (0.0, 1.0)
    )
    for key in ("reference_pixel_values", "pixel_values", "face_mask"):
        assert torch.equal(mirrored[key], as_is[key].flip(-1)), key
    assert torch.equal(mirrored["hand_masks"], as_is["hand_masks"].flip(1, -1))
    expected = as_is["conditioning"].flip(-1)
    in_hand = expected[:, 5] > 0
    expected[:, 3] = torch.where(in_hand, 1 - expected[:, 3], 0)
    torch.testing.assert_close(mirrored["conditioning"][:, 3:], expected[:, 3:], atol=1e-5, rtol=0)
    assert (as_is["conditioning"][:, 3][in_hand.flip(-1)] - 0.5).abs().min() > 0.01
    assert set(as_is["conditioning"][:, 5].unique().tolist()) == {0, LEFT_SHARPNESS, RIGHT_SHARPNESS}


def hand_values(sample, hand):
    """Channels 3-5 of each frame at the centre of a hand's mask."""
    values = []
    for maps, mask in zip(sample["conditioning"], sample["hand_masks"][:, hand], strict=True):
        row, column = mask.nonzero().float().mean(dim=0).int().tolist()
        values.append(maps[3:, row, column])
    return torch.stack(values).numpy()


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_motion_is_that_since_the_clips_previous_frame_whatever_the_stride(prepared, stride):
    dataset = HIADataset(PreparedClips(prepared), [(96, 120)], 3, frame_stride=stride)
    box_side = HAND_SIDE / 1.4 * 1.4
    starts = set()
    for sample in samples(dataset, epochs=12):
        first = int(sample["frames"][0])
        starts.add(first > 0)
        assert sample["frames"].tolist() == [first, first + stride, first + 2 * stride]
        for hand, step in enumerate((LEFT_STEP, RIGHT_STEP)):
            motion = np.repeat([0.5 + 0.5 * step / box_side * FPS / 30], 3, axis=0)
            if first == 0:
                motion[0] = 0.5
            np.testing.assert_allclose(hand_values(sample, hand)[:, :2], motion, atol=1e-3)
            assert (hand_values(sample, hand)[:, 2] == (LEFT_SHARPNESS, RIGHT_SHARPNESS)[hand]).all()
    assert starts == {True, False}


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_frames_far_apart_have_the_motion_of_neighbours(stride):
    """Of people whose hands do not move steadily: the whole clip's condition says what each frame's motion is."""
    size, source = (80, 48), ProceduralClips(num_clips=4, num_frames=60)
    dataset = HIADataset(source, [size], 3, frame_stride=stride)
    found, expected = [], []
    for index, sample in enumerate(samples(dataset, epochs=1)):
        scene = ProceduralScene(split="train", identity=index, motion=index, setting=index)
        first, *_, last = sample["frames"].tolist()
        clip = scene.render(range(max(first - 1, 0), last + 1), *size)
        condition = MotionBlurConditioner.for_size(*size)(clip.keypoints, clip.frames).to_tensor()
        condition = condition[sample["frames"] - max(first - 1, 0)]
        assert torch.equal(sample["conditioning"], condition)
        in_hand = condition[:, 5] > 0
        found.append(sample["conditioning"].transpose(0, 1)[3:5, in_hand])
        expected.append(condition.transpose(0, 1)[3:5, in_hand])
    found, expected = torch.cat(found, dim=1), torch.cat(expected, dim=1)
    assert expected.std() > 0.01
    for channel in range(2):
        assert np.corrcoef(found[channel], expected[channel])[0, 1] == pytest.approx(1.0, abs=1e-9)


def test_single_frames_have_motion_too(prepared):
    dataset = HIADataset(PreparedClips(prepared), [(96, 120)])
    moving = [not np.allclose(hand_values(sample, 0)[:, :2], 0.5) for sample in samples(dataset, epochs=40)]
    first = [int(sample["frames"][0]) for sample in samples(dataset, epochs=40)]
    assert moving == [frame > 0 for frame in first] and 0 in first


def test_lines_get_thinner_with_the_image_unless_a_conditioner_is_given(prepared):
    def drawn(**options):
        sample = HIADataset(PreparedClips(prepared), [(96, 80)], **options)[0]
        return sample["conditioning"][0, :3].amax(dim=0).count_nonzero()

    thin = drawn(conditioner=MotionBlurConditioner(line_scale=80 / 512))
    assert drawn() == thin < drawn(conditioner=MotionBlurConditioner())


def test_a_person_who_is_missing_brings_no_nan(mixed_copy):
    nothing = {name: np.full((NUM_FRAMES, *shape), np.nan, np.float32) for name, shape in PER_FRAME.items()}
    change_annotations(mixed_copy, "clip0", **nothing)
    dataset = HIADataset(PreparedClips(mixed_copy), [(32, 32)], 2)
    rows = set()
    for epoch in range(6):
        dataset.set_epoch(epoch)
        sample = dataset[0]
        assert all(value.isfinite().all() for value in sample.values() if isinstance(value, torch.Tensor))
        for key in ("conditioning", "face_mask", "hand_masks", "face_landmarks", "reference_face_landmarks"):
            assert not sample[key].any(), key
        rows.add(round(float(decoded(sample["pixel_values"])[1].min())))
    assert len(rows) > 3


# Which frames


def test_reference_is_never_a_target_unless_asked(prepared):
    def chosen(**options):
        dataset = HIADataset(PreparedClips(prepared), [(16, 16)], 2, frame_stride=(1, 6), **options)
        return [(int(sample["reference_frame"]), sample["frames"].tolist()) for sample in samples(dataset, epochs=50)]

    others = chosen()
    assert all(reference not in frames for reference, frames in others)
    assert {reference for reference, _ in others} == set(range(NUM_FRAMES))
    assert {frames[1] - frames[0] for _, frames in others} == set(range(1, 7))
    assert any(reference in frames for reference, frames in chosen(allow_same_frame=True))


def test_a_stride_that_does_not_fit_is_not_drawn(prepared):
    dataset = HIADataset(PreparedClips(prepared), [(16, 16)], 6, frame_stride=(2, 5))
    assert {int(sample["frames"].diff()[0]) for sample in samples(dataset, epochs=10)} == {2}


def test_static_clips_stand_still(prepared):
    dataset = HIADataset(PreparedClips(prepared), [(96, 120)], 4, static_clip_probability=1.0)
    firsts = set()
    for sample in samples(dataset, epochs=20):
        assert len(set(sample["frames"].tolist())) == 1 and sample["reference_frame"] not in sample["frames"]
        for key in ("pixel_values", "conditioning", "face_mask", "hand_masks", "face_landmarks"):
            assert torch.equal(sample[key], sample[key][:1].expand_as(sample[key])), key
        np.testing.assert_array_equal(hand_values(sample, 0), [[0.5, 0.5, LEFT_SHARPNESS]] * 4)
        firsts.add(int(sample["frames"][0]))
    assert len(firsts) > 6


def test_clips_that_are_too_short_are_left_out_with_a_warning():
    class Uneven(ProceduralClips):
        def num_frames(self, clip) -> int:
            return (4, 6)[clip]

    source = Uneven(num_clips=2)
    with pytest.warns(UserWarning, match="1 of 2 clips are too short for 4 frames"):
        dataset = HIADataset(source, [(32, 32)], 4, samples_per_clip=2)
    assert [sample["clip"] for sample in samples(dataset, epochs=1)] == ["procedural-train-1"] * 2
    assert len(HIADataset(source, [(32, 32)], 4, allow_same_frame=True)) == 2
    with pytest.raises(ValueError, match="`num_frames`.*too short for 4 with a stride of 2"):
        HIADataset(source, [(32, 32)], 4, frame_stride=2)


# Crops and sizes


def test_the_crop_keeps_the_person_and_varies(prepared):
    keypoints = person((44, 46))
    lefts = set()
    for sample in samples(HIADataset(PreparedClips(prepared), [(96, 72)], 2), epochs=30):
        x = decoded(sample["pixel_values"])[0][0]
        frames = [*sample["frames"], sample["reference_frame"]]
        low, high = np.nanmin(keypoints.xy[frames, :, 0]), np.nanmax(keypoints.xy[frames, :, 0])
        assert x.min() - 2 < low and high < x.max() + 2
        lefts.add(round(float(x.min())))
    assert len(lefts) > 8


def test_a_person_too_large_for_the_crop_is_in_its_middle(prepared):
    for sample in samples(HIADataset(PreparedClips(prepared), [(96, 24)]), epochs=5):
        frames = [*sample["frames"], sample["reference_frame"]]
        keypoints = person((44, 46)).xy[frames]
        middle = (np.nanmin(keypoints[..., 0]) + np.nanmax(keypoints[..., 0])) / 2
        assert decoded(sample["pixel_values"])[0].mean() == pytest.approx(middle, abs=1.5)


def test_a_clip_goes_to_the_size_of_the_nearest_aspect(mixed):
    dataset = HIADataset(PreparedClips(mixed), [(32, 48), (48, 32), (96, 24)], resolution_scale=0.5)
    sizes = [dataset.size(index) for index in range(8)]
    assert sizes == [(24, 16)] * 5 + [(16, 24)] * 3
    assert [tuple(dataset[index]["pixel_values"].shape[-2:]) for index in range(8)] == sizes


@pytest.mark.parametrize("scale, expected", [(0.5, (50, 30)), (0.55, (55, 33)), (0.7, (70, 42)), (1.1, (110, 66))])
def test_a_scale_that_is_no_binary_fraction_gives_whole_sizes(scale, expected):
    assert HIADataset(ProceduralClips(), [(100, 60)], resolution_scale=scale).size(0) == expected


def test_procedural_people_come_in_every_size():
    dataset = HIADataset(ProceduralClips(num_clips=4, num_frames=5), [(48, 32), (32, 48)])
    assert [tuple(dataset[index]["pixel_values"].shape[-2:]) for index in range(4)] == [(48, 32), (32, 48)] * 2


# Dropout


def test_dropout_comes_as_often_as_asked_and_changes_nothing_else(prepared):
    options = {"condition_dropout": 0.3, "blur_condition_dropout": 0.6, "samples_per_clip": 60}
    plain = HIADataset(PreparedClips(prepared), [(16, 16)], samples_per_clip=60)
    dropped = HIADataset(PreparedClips(prepared), [(16, 16)], **options)
    conditions, blurs = [], []
    for one, other in zip(samples(plain, epochs=1), samples(dropped, epochs=1), strict=True):
        assert not one["drop_conditions"]
        conditions.append(bool(other["drop_conditions"]))
        blurs.append(not other["conditioning"][:, 3:].any())
        if blurs[-1]:
            one["conditioning"][:, 3:] = 0
        assert same({**one, "drop_conditions": other["drop_conditions"]}, other)
    assert np.mean(conditions) == pytest.approx(0.3, abs=0.15) and np.mean(blurs) == pytest.approx(0.6, abs=0.15)
    assert abs(np.corrcoef(conditions, blurs)[0, 1]) < 0.3


# Determinism


def test_a_sample_depends_on_seed_epoch_and_index_only(mixed):
    def dataset(seed):
        return HIADataset(PreparedClips(mixed), [(24, 16), (16, 24)], 2, horizontal_flip_probability=0.5, seed=seed)

    first = dataset(seed=3)
    forwards = [first[index] for index in range(8)]
    second = dataset(seed=3)
    assert all(same(second[index], forwards[index]) for index in reversed(range(8)))
    first.set_epoch(1)
    others = [first[index] for index in range(8)], [dataset(seed=4)[index] for index in range(8)]
    assert not any(same(one, other) for other in others for one, other in zip(forwards, other, strict=True))
    first.set_epoch(0)
    assert same(first[5], forwards[5])


def test_samples_of_one_clip_differ(prepared):
    dataset = HIADataset(PreparedClips(prepared), [(16, 16)], samples_per_clip=6)
    moments = {(int(sample["frames"]), int(sample["reference_frame"])) for sample in samples(dataset, epochs=1)}
    assert len(dataset) == 6 and len(moments) > 3


def test_workers_give_what_one_process_gives_in_every_epoch(mixed):
    options = {"sizes": [(24, 16), (16, 24)], "num_frames": 2, "horizontal_flip_probability": 0.5}
    dataset = HIADataset(PreparedClips(mixed), **options)
    sampler = AspectBucketBatchSampler(dataset, batch_size=2, seed=1)
    loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler, num_workers=2, persistent_workers=True)
    alone = HIADataset(PreparedClips(mixed), **options)
    for epoch in (0, 1, 5):
        sampler.set_epoch(epoch)
        alone.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == len(sampler) == 5
        for batch, indices in zip(batches, sampler, strict=True):
            assert same(batch, torch.utils.data.default_collate([alone[index] for index in indices]))


# Batches


def epoch_of(sampler, epoch, position=0):
    sampler.set_epoch(epoch, position)
    return list(sampler)


def test_batches_are_of_one_size_and_hold_every_sample(mixed):
    dataset = HIADataset(PreparedClips(mixed), [(24, 16), (16, 24)], samples_per_clip=3)
    sampler = AspectBucketBatchSampler(dataset, batch_size=4, seed=0)
    orders = [epoch_of(sampler, epoch) for epoch in range(3)]
    for batches in orders:
        assert len(batches) == len(sampler) == 4 + 3
        assert all(len(batch) == 4 and len({dataset.size(index) for index in batch}) == 1 for batch in batches)
        assert {index for batch in batches for index in batch} == set(range(24))
        shapes = [dataset.size(batch[0]) for batch in batches]
        assert shapes != sorted(shapes) and shapes != sorted(shapes, reverse=True)
    assert len({frozenset(map(frozenset, batches)) for batches in orders}) == 3
    assert epoch_of(sampler, 0) == orders[0] and epoch_of(sampler, 2) == orders[2]
    assert epoch_of(AspectBucketBatchSampler(dataset, batch_size=4, seed=1), 0) != orders[0]


def test_ranks_share_the_batch_of_a_single_rank(mixed):
    dataset = HIADataset(PreparedClips(mixed), [(24, 16), (16, 24)], samples_per_clip=3)
    single = epoch_of(AspectBucketBatchSampler(dataset, batch_size=6), 2)
    ranks = [epoch_of(AspectBucketBatchSampler(dataset, 2, num_replicas=3, rank=rank), 2) for rank in range(3)]
    assert [sum(parts, []) for parts in zip(*ranks, strict=True)] == single


def test_an_epoch_goes_on_at_a_position(mixed):
    sampler = AspectBucketBatchSampler(HIADataset(PreparedClips(mixed), [(24, 16), (16, 24)]), batch_size=1)
    whole = epoch_of(sampler, 4)
    for position in (0, 3, len(whole) - 1):
        assert epoch_of(sampler, 4, position) == whole[position:]
        assert len(sampler) == len(whole)
    assert epoch_of(sampler, 5)[3:] == epoch_of(sampler, 5, 3)


# Unreadable clips


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def drop_face_boxes(path):
    arrays = safetensors.numpy.load_file(path)
    del arrays["face_boxes"]
    safetensors.numpy.save_file(arrays, path)


def replace_by(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


def to_bfloat16(path):
    arrays = safetensors.torch.load_file(path)
    safetensors.torch.save_file({**arrays, "xy": arrays["xy"].bfloat16()}, path)


def promise_a_terabyte(path):
    header = {"xy": {"dtype": "F32", "shape": [10**9, 133, 2], "data_offsets": [0, 1064 * 10**9]}}
    content = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content)


def of_video(damage):
    return lambda root: damage(video_of(root, "clip0"))


def of_annotations(damage):
    return lambda root: damage(video_of(root, "clip0").with_suffix(".safetensors"))


DAMAGES = {
    "no video": lambda root: video_of(root, "clip0").unlink(),
    "half a video": lambda root: cut_in_half(video_of(root, "clip0")),
    "no byte of a video": lambda root: video_of(root, "clip0").write_bytes(b""),
    "one frame": lambda root: write_video(video_of(root, "clip0"), coded_images(112, 80, 1), FPS),
    "smaller frames": lambda root: write_video(video_of(root, "clip0"), coded_images(110, 80), FPS),
    "no annotations": of_annotations(lambda path: path.unlink()),
    "half the annotations": of_annotations(cut_in_half),
    "no face boxes": of_annotations(drop_face_boxes),
    "fewer keypoints": lambda root: change_annotations(
        root, "clip0", xy=np.zeros((NUM_FRAMES - 1, 133, 2), np.float32)
    ),
    "a sharpness of 2": lambda root: change_annotations(
        root, "clip0", hand_sharpness=np.full((NUM_FRAMES, 2), 2, np.float32)
    ),
    "a negative width": lambda root: change_annotations(root, "clip0", width=np.asarray(-3)),
    "a broken width": lambda root: change_annotations(root, "clip0", width=np.asarray(80.5)),
    "several widths": lambda root: change_annotations(root, "clip0", width=np.arange(3)),
    "another frame rate": lambda root: change_annotations(root, "clip0", fps=np.asarray(59.0)),
    "half-precise keypoints": of_annotations(to_bfloat16),
    "complex boxes": lambda root: change_annotations(
        root, "clip0", face_boxes=np.zeros((NUM_FRAMES, 4), np.complex64)
    ),
    "whole scores": lambda root: change_annotations(root, "clip0", score=np.ones((NUM_FRAMES, 133), np.int64)),
    "a header of a terabyte": of_annotations(promise_a_terabyte),
    "gigabytes of annotations": of_annotations(lambda path: os.truncate(path, 2**33)),
    "a FIFO for annotations": of_annotations(replace_by(os.mkfifo)),
    "a FIFO for a video": of_video(replace_by(os.mkfifo)),
    "a folder for annotations": of_annotations(replace_by(os.mkdir)),
    "a folder for a video": of_video(replace_by(os.mkdir)),
    "a page for a video": of_video(lambda path: path.write_text("<html>404</html>")),
    "a list of other videos": of_video(
        lambda path: path.write_text(f"#EXTM3U\n#EXTINF:1,\n{path}.ts\n#EXT-X-ENDLIST\n")
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_clip_is_named_or_skipped(mixed_copy, damage):
    options = {"sizes": [(32, 24), (24, 32)], "num_frames": 2}
    source = PreparedClips(mixed_copy)
    DAMAGES[damage](mixed_copy)
    with pytest.raises(UnreadableClipError, match=r"^Clip 'clip0-.*' of .* cannot be read: .") as raised:
        HIADataset(source, **options)[0]
    dataset = HIADataset(source, **options, on_error="skip")
    sample = dataset[0]
    assert sample["clip"][:5] in ("clip1", "clip2", "clip3", "clip4") and sample["pixel_values"].shape[-2:] == (32, 24)
    assert sample["skipped"] == str(raised.value) and "\n" not in sample["skipped"]
    assert same(sample, HIADataset(source, **options, on_error="skip")[0])
    assert all(same(dataset[index], HIADataset(source, **options)[index]) for index in (1, 5))


def test_another_clip_of_the_same_size_takes_the_place_as_long_as_there_is_one(mixed_copy):
    dataset = HIADataset(PreparedClips(mixed_copy), [(32, 24), (24, 32)], on_error="skip")
    for clip in range(4):
        video_of(mixed_copy, f"clip{clip}").unlink()
    for sample in [dataset[index] for index in range(5)]:
        assert sample["clip"].startswith("clip4") and len(sample["skipped"].splitlines()) <= 4
    video_of(mixed_copy, "clip4").unlink()
    with pytest.raises(UnreadableClipError, match="5 clips in a row cannot be read. Clip 'clip"):
        dataset[0]
    assert dataset[7]["clip"].startswith("clip7")


def test_only_a_few_clips_in_a_row_are_skipped():
    class Broken(ProceduralClips):
        def load(self, clip, frames, size, rng, with_previous=False) -> ClipFrames:
            raise UnreadableClipError(f"Clip {clip} is broken.")

    dataset = HIADataset(Broken(num_clips=50, num_frames=4), [(16, 16)], on_error="skip")
    with pytest.raises(UnreadableClipError, match="8 clips in a row"):
        dataset[0]


# Storage


@pytest.fixture
def bucket(prepared):
    """A storage that is no folder of this machine."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(str(prepared), "/bucket/dances", recursive=True)
    yield filesystem
    filesystem.rm("/bucket", recursive=True)


@pytest.mark.parametrize("root", ["memory://bucket/dances", "simplecache::memory://bucket/dances"])
def test_clips_are_read_from_any_file_system(prepared, bucket, root):
    options = {"sizes": [(32, 24)], "num_frames": 2}
    remote = HIADataset(PreparedClips(root), **options)
    assert same(remote[0], HIADataset(PreparedClips(prepared), **options)[0])


def test_a_clip_that_is_gone_from_the_storage_is_named(bucket):
    dataset = HIADataset(PreparedClips("memory://bucket/dances"), [(32, 24)])
    bucket.rm(bucket.glob("/bucket/dances/clips/*.mp4"))
    with pytest.raises(UnreadableClipError, match="'dance-.*' of memory://bucket/dances"):
        dataset[0]


def test_a_root_without_an_index_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="`root`"):
        PreparedClips(tmp_path)


# Bad input


@pytest.mark.parametrize(
    "argument, value",
    [
        ("num_frames", 0),
        ("num_frames", 2.0),
        ("frame_stride", 0),
        ("frame_stride", (3, 2)),
        ("frame_stride", (1, 2.5)),
        ("frame_stride", 2.0),
        ("frame_stride", (1, 2, 3)),
        ("sizes", []),
        ("sizes", [(64, 0)]),
        ("sizes", (64, 48)),
        ("sizes", [(64, 48, 3)]),
        ("sizes", [(64.0, 48)]),
        ("sizes", None),
        ("sizes", 64),
        ("resolution_scale", "0.5"),
        ("resolution_scale", None),
        ("resolution_scale", float("nan")),
        ("conditioner", MotionBlurConditioner),
        ("samples_per_clip", 0),
        ("static_clip_probability", 1.1),
        ("horizontal_flip_probability", -0.1),
        ("condition_dropout", float("nan")),
        ("condition_dropout", "0.1"),
        ("blur_condition_dropout", 2),
        ("on_error", "ignore"),
        ("seed", -1),
        ("seed", None),
    ],
)
def test_bad_options_are_named(argument, value):
    source = ProceduralClips(num_clips=1, num_frames=8)
    with pytest.raises((ValueError, TypeError), match=f"`{argument}`"):
        HIADataset(source, **{"sizes": [(16, 16)], argument: value})


def test_more_bad_input_is_named():
    dataset = HIADataset(ProceduralClips(num_clips=2, num_frames=8), [(16, 16)])
    with pytest.raises(ValueError, match="`sizes`"):
        HIADataset(dataset.source, [(33, 32)], resolution_scale=0.5)
    with pytest.raises(TypeError, match="`source`"):
        HIADataset("data/dance", [(32, 32)])
    for fps in (float("nan"), "30"):
        with pytest.raises((ValueError, TypeError), match="`fps`"):
            ProceduralClips(fps=fps)
    with pytest.raises(ValueError, match="`split`"):
        ProceduralClips("testing")
    with pytest.raises(ValueError, match="`num_clips`"):
        ProceduralClips(num_clips=0)
    for index in (-1, 2):
        with pytest.raises(IndexError, match="`index`"):
            dataset[index]
    with pytest.raises(ValueError, match="`epoch`"):
        dataset.set_epoch(-1)
    with pytest.raises(TypeError, match="`dataset`"):
        AspectBucketBatchSampler(torch.utils.data.Subset(dataset, [0]), 1)
    with pytest.raises(ValueError, match="`batch_size`"):
        AspectBucketBatchSampler(dataset, 0)
    with pytest.raises(ValueError, match="`rank`"):
        AspectBucketBatchSampler(dataset, 1, num_replicas=2, rank=2)
    with pytest.raises(ValueError, match="`position`"):
        AspectBucketBatchSampler(dataset, 1).set_epoch(0, position=2)
