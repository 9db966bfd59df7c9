# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The nodes, each of which is a step of `hia_diffusers.HIAAnimator`.

As in ComfyUI, an IMAGE is float32 `(B, H, W, 3)` in [0, 1]. Without ComfyUI, the nodes work as plain classes.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hia_diffusers import HIA_TINY, HIAAnimation, HIAAnimator, HIAPipeline, checks
from hia_diffusers.animation.driving import KINDS, MAPS, Driving
from hia_diffusers.conversion.published import PUBLISHED
from hia_diffusers.images import image_tensors
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import Video


try:
    import comfy.model_management
    import comfy.utils
    import folder_paths

    IN_COMFYUI = True
except ImportError:
    IN_COMFYUI = False

CATEGORY = "HIA"
TINY = "hia-tiny"
DTYPES = ["float32", "float16", "bfloat16"]
TINY_SIZE = {"height": 160, "width": 96}
MAX_SEED = 2**64 - 1
REFERENCE_FRAME = 60  # of an example, beyond its motion


def to_image(images: Any) -> torch.Tensor:
    """Convert uint8 images to an IMAGE."""
    return torch.from_numpy(np.stack(images)).float() / 255


def to_arrays(image: torch.Tensor) -> np.ndarray:
    """Convert an IMAGE, greyscale or RGB, with or without alpha, to uint8 images `(B, H, W, 3)` on white."""
    images = image_tensors(image.clamp(0, 1).movedim(-1, 1), "image")
    return (torch.stack(images).movedim(1, -1) * 255).round().byte().cpu().numpy()


def default_device() -> Any:
    if IN_COMFYUI:
        return comfy.model_management.get_torch_device()
    return "cuda" if torch.cuda.is_available() else "cpu"


def input_path(file: str) -> Path:
    """Return the path of a file; a relative path is one in ComfyUI's input folder."""
    return Path(folder_paths.get_input_directory() if IN_COMFYUI else "", os.path.expanduser(file))


def step_callback(num_steps: int) -> Callable[..., dict]:
    """Create a callback that updates ComfyUI's progress bar, and stops if the user requests it."""
    bar = comfy.utils.ProgressBar(num_steps) if IN_COMFYUI else None

    def on_step_end(pipe: HIAPipeline, step: int, timestep: Any, tensors: dict) -> dict:
        if bar is not None:
            bar.update_absolute(step + 1)
            comfy.model_management.throw_exception_if_processing_interrupted()
        return {}

    return on_step_end


class HIALoadPipeline:
    DESCRIPTION = "An HIA pipeline in diffusers' format: hia-tiny, a Hub id, or a folder."
    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = ("HIA_PIPELINE",)
    RETURN_NAMES = ("pipeline",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        about = (
            "hia-tiny is in the package and supports drawn people at 96x160 only. Otherwise a published checkpoint, "
            "such as moore-animate-anyone, an id on the Hub or a folder."
        )
        return {"required": {"model": ("STRING", {"default": TINY, "tooltip": about}), "dtype": (DTYPES,)}}

    def load(self, model: str, dtype: str) -> tuple[HIAPipeline]:
        load = HIAPipeline.from_published if model in PUBLISHED else HIAPipeline.from_pretrained
        pipe = load(HIA_TINY if model == TINY else model, dtype=getattr(torch, dtype))
        return (pipe.to(default_device()),)


class HIALoadMotion:
    DESCRIPTION = "The motion of a file: a video of a person, keypoints, or an OpenPose-style or DensePose video."
    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = ("HIA_MOTION",)
    RETURN_NAMES = ("motion",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        about = (
            "A video, keypoints as .safetensors or .npz, or a pose file: OpenPose's .json, one with all frames or a "
            "folder of them, MMPose's .json, DWPose's .npz or .npy. A relative path is one in ComfyUI's input folder."
        )
        pose_fps = "Frames per second of a pose file that does not state them; 0 for all other files"
        pose_side = "Side of the image of a pose file that does not state its size, in pixels; 0 for all other files"
        side = {"default": 0, "min": 0, "max": 16384, "tooltip": pose_side}
        return {
            "required": {
                "file": ("STRING", {"default": "", "tooltip": about}),
                "kind": (["auto", *KINDS],),
                "max_frames": ("INT", {"default": 0, "min": 0, "max": 10**6, "tooltip": "0: no limit"}),
                "pose_fps": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 240.0, "step": 0.01, "tooltip": pose_fps}),
                "pose_width": ("INT", side),
                "pose_height": ("INT", side),
            }
        }

    @classmethod
    def IS_CHANGED(cls, file: str, **_: Any) -> float:
        path = input_path(file)
        return path.stat().st_mtime if path.is_file() else float("nan")

    def load(
        self, file: str, kind: str, max_frames: int, pose_fps: float, pose_width: int, pose_height: int
    ) -> tuple[Driving]:
        if bool(pose_width) != bool(pose_height):
            raise ValueError("`pose_width` and `pose_height` must both be given, or both be 0.")
        size = (pose_height, pose_width) if pose_width else None
        try:
            return (Driving.load(input_path(file), kind, max_frames or None, pose_fps or None, size),)
        except ValueError as error:
            message = str(error).replace("`driving_fps`", "`pose_fps`")
            raise ValueError(message.replace("`driving_size`", "`pose_width` and `pose_height`")) from error


class HIAMotionFromFrames:
    DESCRIPTION = "The motion of a batch of frames: a video of a person, or an OpenPose-style or DensePose video."
    CATEGORY = CATEGORY
    FUNCTION = "read"
    RETURN_TYPES = ("HIA_MOTION",)
    RETURN_NAMES = ("motion",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "frames": ("IMAGE",),
                "fps": ("FLOAT", {"default": 30.0, "min": 1.0, "max": 240.0, "step": 0.01}),
                "kind": (["auto", "video", *MAPS],),
            }
        }

    def read(self, frames: torch.Tensor, fps: float, kind: str) -> tuple[Driving]:
        return (Driving.load(Video(to_arrays(frames), fps), kind),)


class HIAExampleMotion:
    DESCRIPTION = "A drawn person and the dance of another, which hia-tiny can animate, without any files."
    CATEGORY = CATEGORY
    FUNCTION = "draw"
    RETURN_TYPES = ("IMAGE", "HIA_MOTION")
    RETURN_NAMES = ("image", "motion")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "person": ("INT", {"default": 0, "min": 0, "max": 9999}),
                "dance": ("INT", {"default": 0, "min": 0, "max": 9999}),
                "frames": ("INT", {"default": 16, "min": 1, "max": REFERENCE_FRAME}),
            }
        }

    def draw(self, person: int, dance: int, frames: int) -> tuple[torch.Tensor, Driving]:
        person, dance = checks.integer("person", person, 0, 9999), checks.integer("dance", dance, 0, 9999)
        frames = checks.integer("frames", frames, 1, REFERENCE_FRAME)
        scene = ProceduralScene("test", identity=person, motion=dance, setting=person)
        image = scene.render([REFERENCE_FRAME], **TINY_SIZE).frames
        return to_image(image), Driving.load(scene.keypoints(range(frames), **TINY_SIZE))


class HIACondition:
    DESCRIPTION = "Fits image and motion to each other, and creates the conditioning frames. The preview shows them."
    CATEGORY = CATEGORY
    FUNCTION = "prepare"
    RETURN_TYPES = ("HIA_CONDITION", "IMAGE")
    RETURN_NAMES = ("condition", "preview")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        sharpness = (
            "Sharpness of the hands. auto: as a camera would show them at their speed; driving: as in the video of a "
            "person; value: as below; unknown: the blur condition is off, as it always is with pose videos."
        )
        retarget = "Adapts the motion to the proportions of the person in the image. auto: for videos of a person."
        side = {"default": 0, "min": 0, "max": 4096, "step": 8, "tooltip": "0: size of the motion"}
        pipeline = "Draws the motion, and chooses the size if both sides are 0, as this pipeline was trained."
        return {
            "required": {
                "image": ("IMAGE",),
                "motion": ("HIA_MOTION",),
                "sharpness": (["auto", "driving", "value", "unknown"], {"tooltip": sharpness}),
                "sharpness_value": ("FLOAT", {"default": 0.8, "min": 0.0, "max": 1.0, "step": 0.05}),
                "width": ("INT", side),
                "height": ("INT", side),
                "retarget": (["auto", "yes", "no"], {"tooltip": retarget}),
            },
            "optional": {"pipeline": ("HIA_PIPELINE", {"tooltip": pipeline})},
        }

    def prepare(
        self,
        image: torch.Tensor,
        motion: Driving,
        sharpness: str,
        sharpness_value: float,
        width: int,
        height: int,
        retarget: str,
        pipeline: HIAPipeline | None = None,
    ) -> tuple[HIAAnimation, torch.Tensor]:
        if len(image) != 1:
            raise ValueError(f"`image` must be one image, got a batch of {len(image)}.")
        animation = HIAAnimator(pipeline).prepare(
            Image.fromarray(to_arrays(image)[0]),
            motion,
            sharpness=sharpness_value if sharpness == "value" else sharpness,
            retarget={"auto": None, "yes": True, "no": False}[retarget],
            width=width or None,
            height=height or None,
        )
        return animation, to_image(animation.preview())


class HIAAnimate:
    DESCRIPTION = "Runs the pipeline. Returns the frames of the video and the frames per second."
    CATEGORY = CATEGORY
    FUNCTION = "animate"
    RETURN_TYPES = ("IMAGE", "FLOAT")
    RETURN_NAMES = ("frames", "fps")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "pipeline": ("HIA_PIPELINE",),
                "condition": ("HIA_CONDITION",),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: the default of the model"}),
                "guidance_scale": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": "0: the default of the model"},
                ),
                "seed": ("INT", {"default": 0, "min": 0, "max": MAX_SEED, "control_after_generate": True}),
            }
        }

    def animate(
        self, pipeline: HIAPipeline, condition: HIAAnimation, steps: int, guidance_scale: float, seed: int
    ) -> tuple[torch.Tensor, float]:
        maps = condition.condition
        steps = checks.integer("steps", steps, 0, 1000) or pipeline.call_default("num_inference_steps")
        guidance_scale = guidance_scale or pipeline.call_default("guidance_scale")
        seed = checks.integer("seed", seed, 0, MAX_SEED)
        frames = pipeline(
            condition.image,
            maps,
            height=maps.height,
            width=maps.width,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="pt",
            callback_on_step_end=step_callback(steps),
        ).frames[0]
        return frames.permute(0, 2, 3, 1).float().cpu().contiguous(), float(condition.fps)


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (HIALoadPipeline, HIALoadMotion, HIAMotionFromFrames, HIAExampleMotion, HIACondition, HIAAnimate)
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "HIALoadPipeline": "Load HIA Pipeline",
    "HIALoadMotion": "Load HIA Motion",
    "HIAMotionFromFrames": "HIA Motion from Frames",
    "HIAExampleMotion": "HIA Example Motion",
    "HIACondition": "HIA Condition",
    "HIAAnimate": "HIA Animate",
}
