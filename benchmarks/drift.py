# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Whether long clips drift away from the person, and whether the borders of their windows are visible.

python benchmarks/drift.py [--model ID_OR_PATH] [--num_frames 256] [--clips 4] [--num_inference_steps 10]
    [--guidance_scale 1] [--dtype bfloat16] [--device cpu]

Clips of ProcDance-v1, extended, with prompt travelling, without it, and without motion modules, where nothing can
drift. Drift is the mean L1 of the last quarter divided by that of the first: in the face, for the identity, and
outside the box of the person, for the background. As the quarters contain different motion, it is given relative to
the clip without motion modules: 1 means no drift. Seams are the error of the change from frame to frame where, without
prompt travelling, a window begins or the previous one has ended, divided by that elsewhere: 1 means no seams.
"""

import argparse

import diffusers
import numpy as np
import torch

import hia_diffusers
from hia_diffusers import HIAPipeline, MotionBlurConditioner
from hia_diffusers.procedural.procdance import proc_dance_v1


HEIGHT, WIDTH = 160, 96
CONTEXT_FRAMES, CONTEXT_OVERLAP = 16, 4
MARGIN = 8  # pixels around the box of the keypoints
WAYS = ("with prompt travelling", "without prompt travelling", "without layers over time")


def outside_of_person(keypoints):
    """Return the pixels outside the box of each frame's keypoints, `(F, H, W)`."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    free = []
    for xy, score in zip(keypoints.xy, keypoints.score, strict=True):
        (left, top), (right, bottom) = xy[score > 0].min(axis=0) - MARGIN, xy[score > 0].max(axis=0) + MARGIN
        free.append((columns < left) | (columns > right) | (rows < top) | (rows > bottom))
    return np.stack(free)


def drift(errors, mask):
    """Return the error of the last quarter, relative to the first."""
    quarter = len(errors) // 4
    first, last = (errors[part][mask[part]].mean() for part in (slice(quarter), slice(-quarter, None)))
    return last / first


def seams(frames, truth):
    """Return the error of the change from frame to frame at the borders of windows, relative to other frames."""
    stride = CONTEXT_FRAMES - CONTEXT_OVERLAP
    starts = np.arange(stride, len(frames) - CONTEXT_FRAMES, stride)
    at_seam = np.zeros(len(frames), dtype=bool)
    at_seam[starts] = at_seam[starts + CONTEXT_OVERLAP] = True
    changes = np.abs(np.diff(frames, axis=0) - np.diff(truth, axis=0)).mean(axis=(1, 2, 3))
    return changes[at_seam[1:]].mean() / changes[~at_seam[1:]].mean()


def make_clip(pipe, clip, truth, way, args, seed):
    """Generate a clip in one of the ways."""
    reference = clip.target.render([clip.reference_frame], HEIGHT, WIDTH, clip.fps).frames[0]
    return pipe(
        reference / np.float32(255),
        MotionBlurConditioner.for_size(HEIGHT, WIDTH)(truth.keypoints, truth.frames),
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        context_frames=CONTEXT_FRAMES,
        context_overlap=CONTEXT_OVERLAP,
        context_shift=way == WAYS[0],
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).frames[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=hia_diffusers.HIA_TINY, help="a HIAPipeline (default: hia-tiny)")
    parser.add_argument("--num_frames", type=int, default=256, help="of each clip (default: 256)")
    parser.add_argument("--clips", type=int, default=4, help="(default: 4)")
    parser.add_argument("--num_inference_steps", type=int, default=10, help="denoising steps (default: 10)")
    parser.add_argument("--guidance_scale", type=float, default=1.0, help="guidance scale (default: 1)")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    diffusers.utils.logging.set_verbosity_error()
    found = {way: [] for way in WAYS}
    pipe = HIAPipeline.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    clips = proc_dance_v1()[: args.clips]
    truths = [clip.target.render(range(args.num_frames), HEIGHT, WIDTH, clip.fps) for clip in clips]
    for way in WAYS:
        if way == WAYS[-1]:
            pipe.unet.set_motion_modules(False)
        for index, (clip, truth) in enumerate(zip(clips, truths, strict=True)):
            images = truth.frames / np.float32(255)
            frames = make_clip(pipe, clip, truth, way, args, seed=index)
            errors = np.abs(frames - images).mean(axis=-1)
            outside = outside_of_person(truth.keypoints)
            found[way].append((drift(errors, truth.face_mask), drift(errors, outside), seams(frames, images)))
    print(
        f"{args.clips} clips of {args.num_frames} frames, {args.num_inference_steps} steps, "
        f"guidance {args.guidance_scale}, {args.dtype}"
    )
    print("| | drift of the face | drift of the background | seams |")
    print("| --- | --- | --- | --- |")
    still = np.array(found[WAYS[-1]])
    for way in WAYS:
        values = np.array(found[way])
        values[:, :2] /= still[:, :2]
        means, spreads = values.mean(axis=0), values.std(axis=0, ddof=1) / len(values) ** 0.5
        print(f"| {way} | {' | '.join(f'{m:.3f} ± {s:.3f}' for m, s in zip(means, spreads, strict=True))} |")


if __name__ == "__main__":
    main()
