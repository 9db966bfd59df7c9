# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints by name: their files, their license, their purpose, and their converters."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .converted import Conversion


@dataclass(frozen=True)
class HubFiles:
    """Files of one repository on the Hub that a converter reads.

    Args:
        repo_id (`str`):
            The repository.
        sizes (`Mapping[str, float]`):
            Paths of the files in the repository, and their sizes in bytes, rounded as in listings.
        folder (`str`, *optional*, defaults to `""`):
            Folder in the repository that is passed to the converter.
    """

    repo_id: str
    sizes: Mapping[str, float]
    folder: str = ""


@dataclass(frozen=True)
class PublishedCheckpoint:
    """A published checkpoint of another project.

    Args:
        title (`str`):
            Its name in text.
        converter (`str`):
            Module of `hia_diffusers.conversion` and function in it, such as `"magic_animate.convert_magic_animate"`.
        sources (`Mapping[str, HubFiles]`):
            Arguments of the converter, and the files that each reads. `"weights"` is the checkpoint's own repository.
        license (`str`):
            License of the weights, and of those that they were trained from.
        purpose (`str`):
            What the checkpoint is suitable for.
        memory (`tuple[float, float]`):
            GiB that a call of one window needs in float16 at the size of the checkpoint, counted by
            [`~hia_diffusers.memory.fitting.count_call`]: with all weights on the device, and with one layer at a time.
        missing (`str`, *optional*):
            Why the result cannot animate without training. It is then a starting point for training.
        pose_map (`str`, *optional*, defaults to `"openpose"`):
            The `"pose_map"` in the `call_defaults` of the result: what its ControlNet or pose guider reads.
        area (`int`, *optional*, defaults to 401408):
            The `"area"` in these, in pixels; the default is 512x784.
    """

    title: str
    converter: str
    sources: Mapping[str, HubFiles] = field(repr=False)
    license: str
    purpose: str
    memory: tuple[float, float]
    missing: str | None = None
    pose_map: str = "openpose"
    area: int = 512 * 784

    @property
    def download_size(self) -> float:
        """Size of all files in bytes, rounded as in listings."""
        return sum(sum(files.sizes.values()) for files in self.sources.values())

    def convert(self, folders: Mapping[str, Path], **options: Any) -> "Conversion":
        """Convert downloaded files.

        Args:
            folders (`Mapping[str, Path]`):
                Folders by the names of the converter's arguments, as [`~hub_downloads.download_checkpoint`] returns
                them.
            options:
                Other options of the converter, such as `dtype`.
        """
        module, function = self.converter.split(".")
        converter = getattr(importlib.import_module(f".{module}", __package__), function)
        return converter(**folders, **options)


GB, MB, KB = 1e9, 1e6, 1e3

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"

# Only the configuration is read if the weights of a UNet come from another source.
UNET_CONFIG = HubFiles(STABLE_DIFFUSION, {"unet/config.json": 1 * KB})
TEXT_TO_IMAGE = HubFiles(
    STABLE_DIFFUSION,
    {
        "unet/config.json": 1 * KB,
        "unet/diffusion_pytorch_model.safetensors": 3.44 * GB,
        "text_encoder/config.json": 1 * KB,
        "text_encoder/model.safetensors": 492 * MB,
        "tokenizer/merges.txt": 525 * KB,
        "tokenizer/special_tokens_map.json": 1 * KB,
        "tokenizer/tokenizer_config.json": 1 * KB,
        "tokenizer/vocab.json": 1.06 * MB,
    },
)
VAE = HubFiles("stabilityai/sd-vae-ft-mse", {"config.json": 1 * KB, "diffusion_pytorch_model.safetensors": 335 * MB})
IMAGE_ENCODER = HubFiles(
    "lambdalabs/sd-image-variations-diffusers",
    {
        "feature_extractor/preprocessor_config.json": 1 * KB,
        "image_encoder/config.json": 1 * KB,
        "image_encoder/pytorch_model.bin": 1.22 * GB,
    },
)


def _moore_sources(repo_id: str, sizes: Mapping[str, float], folder: str = "") -> dict[str, HubFiles]:
    """Return the files of a project with Moore-AnimateAnyone's layout, and of the parts that it needs."""
    prefix = f"{folder}/" if folder else ""
    weights = HubFiles(repo_id, {f"{prefix}{name}.pth": size for name, size in sizes.items()}, folder)
    return {"weights": weights, "base": UNET_CONFIG, "image_encoder": IMAGE_ENCODER, "vae": VAE}


UNETS = {"denoising_unet": 3.44 * GB, "reference_unet": 3.44 * GB, "motion_module": 1.82 * GB}
MOORE_MEMORY, MUSEPOSE_MEMORY, MAGIC_MEMORY = (7.5, 2.8), (12.6, 7.9), (6.4, 1.4)
OPENRAIL = "trained from Stable Diffusion 1.5 (CreativeML OpenRAIL-M: not for the uses in its attachment A)"
NO_POSE = "and the pose guider in its place is untrained; train it before it can animate"

PUBLISHED = {
    "moore-animate-anyone": PublishedCheckpoint(
        title="Moore-AnimateAnyone",
        converter="moore_animate_anyone.convert_moore_animate_anyone",
        sources=_moore_sources("patrolli/AnimateAnyone", UNETS | {"pose_guider": 4.35 * MB}),
        license=f"Apache-2.0, {OPENRAIL}",
        purpose="whole-body dances, driven by a skeleton; 512x784",
        pose_map="moore-animate-anyone",
        memory=MOORE_MEMORY,
    ),
    "musepose": PublishedCheckpoint(
        title="MusePose",
        converter="moore_animate_anyone.convert_musepose",
        sources=_moore_sources(
            "TMElyralab/MusePose",
            {
                "denoising_unet": 3402758813,
                "reference_unet": 3440402647,
                "motion_module": 916202377,
                "pose_guider": 3402614286,
            },
            folder="MusePose",
        ),
        license=f"CreativeML OpenRAIL-M, {OPENRAIL}",
        purpose="whole-body dances, driven by a skeleton that is aligned with the reference image",
        pose_map="musepose",
        area=768 * 768,
        memory=MUSEPOSE_MEMORY,
    ),
    "dynamicpose": PublishedCheckpoint(
        title="DynamicPose",
        converter="moore_animate_anyone.convert_dynamicpose",
        sources=_moore_sources("DynamicXLAB/DynamicPose", UNETS | {"pose_guider": 4.35 * MB}),
        license=f"none stated for the weights (the code is MIT), {OPENRAIL}",
        purpose="people and objects in fast motion, driven by a skeleton",
        pose_map="dynamicpose",
        memory=MOORE_MEMORY,
    ),
    "magic-animate": PublishedCheckpoint(
        title="MagicAnimate",
        converter="magic_animate.convert_magic_animate",
        sources={
            "weights": HubFiles(
                "zcxu-eric/MagicAnimate",
                {
                    "appearance_encoder/config.json": 1 * KB,
                    "appearance_encoder/diffusion_pytorch_model.safetensors": 3.43 * GB,
                    "densepose_controlnet/config.json": 1 * KB,
                    "densepose_controlnet/diffusion_pytorch_model.safetensors": 1.45 * GB,
                    "temporal_attention/temporal_attention.ckpt": 5.11 * GB,
                },
            ),
            "base": TEXT_TO_IMAGE,
            "vae": VAE,
        },
        license=f"BSD-3-Clause, {OPENRAIL}",
        purpose="motion given as DensePose videos, which keypoints cannot replace; 512x512",
        pose_map="densepose",
        area=512 * 512,
        memory=MAGIC_MEMORY,
    ),
    "champ": PublishedCheckpoint(
        title="Champ",
        converter="moore_animate_anyone.convert_champ",
        sources=_moore_sources("fudan-generative-ai/champ", UNETS, folder="champ"),
        license=f"Apache-2.0, {OPENRAIL}",
        purpose="a starting point for training",
        memory=MOORE_MEMORY,
        missing=f"its four guidance encoders have attention that no class here has, {NO_POSE}",
    ),
    "aniportrait": PublishedCheckpoint(
        title="AniPortrait",
        converter="moore_animate_anyone.convert_champ",
        sources=_moore_sources("ZJYang/AniPortrait", UNETS),
        license=f"Apache-2.0, {OPENRAIL}",
        purpose="a starting point for training portraits",
        memory=MOORE_MEMORY,
        missing=f"its pose guider reads face meshes and the reference image's mesh at every level, {NO_POSE}",
    ),
}


def published_checkpoint(name: str) -> PublishedCheckpoint:
    """Return a checkpoint of `PUBLISHED`.

    Args:
        name (`str`):
            Its name.

    Raises:
        ValueError: If there is no checkpoint of that name.
    """
    if name not in PUBLISHED:
        raise ValueError(f"`name` must be one of {', '.join(PUBLISHED)}, got {name!r}.")
    return PUBLISHED[name]


def check_can_animate(name: str) -> None:
    """Refuse a checkpoint that needs training before it can animate.

    Args:
        name (`str`):
            Its name in `PUBLISHED`.

    Raises:
        ValueError: If it needs training, or there is no checkpoint of that name.
    """
    if (missing := published_checkpoint(name).missing) is not None:
        raise ValueError(
            f"{name} cannot animate: {missing}. `hia-diffusers convert {name}` creates a starting point for training."
        )
