# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The CLIP image encoder of sd-image-variations, with its feature extractor."""

import os
from collections.abc import Collection
from pathlib import Path

import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from ..state_dicts import read_state_dict
from .converted import Conversion, ConversionReport
from .key_tables import ComponentKeys, KeyTable, fill
from .weight_files import as_folder, find_weights, read_config


# transformers no longer saves the indices of positions.
TABLE = KeyTable(unused=(r"\.position_ids$",))


def convert_image_encoder(
    weights: str | os.PathLike,
    allow: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> Conversion:
    """Convert a CLIP image encoder and its feature extractor to one folder with safetensors.

    Args:
        weights (`str` or `os.PathLike`):
            Folder of a pipeline with `image_encoder/` and `feature_extractor/`, such as sd-image-variations, or a
            folder that contains the files of both. Without a `preprocessor_config.json`, the feature extractor is that
            of CLIP with the encoder's image size.
        allow (`Collection[str]`, *optional*, defaults to `()`):
            Keys of the file that may be unused, and keys of the encoder that may be missing and are then initialized.
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Dtype of the weights.

    Returns:
        [`Conversion`]: The `CLIPVisionModelWithProjection`, with its `feature_extractor`.

    Raises:
        FileNotFoundError: If a folder or file is missing.
        ValueError: If a file cannot be read, or keys are unused or missing.
    """
    encoder, feature_extractor, rows = load_image_encoder(*find_image_encoder("weights", weights), allow, dtype)
    return Conversion(encoder, ConversionReport(tuple(rows)), feature_extractor)


def find_image_encoder(argument: str, weights: str | os.PathLike) -> tuple[str, Path, Path | None]:
    """Find the files of an image encoder, without reading them.

    Args:
        argument (`str`):
            Name of the argument for them, for error messages.
        weights (`str` or `os.PathLike`):
            As in [`convert_image_encoder`].

    Returns:
        `tuple[str, Path, Path | None]`: The argument, the folder of the encoder, and that of the feature extractor, if
            there is one.
    """
    folder = as_folder(argument, weights)
    encoder = folder / "image_encoder" if (folder / "image_encoder").is_dir() else folder
    find_weights(argument, encoder)
    for place in (folder / "feature_extractor", folder, folder.parent / "feature_extractor"):
        if (place / "preprocessor_config.json").is_file():
            return argument, encoder, place
    return argument, encoder, None


def check_kind(argument: str, folder: Path) -> None:
    """Refuse another model than a CLIP image encoder.

    Args:
        argument, folder:
            As in [`load_image_encoder`].

    Raises:
        ValueError: If the configuration is that of another model.
    """
    kind = read_config(argument, folder).get("model_type")
    if kind != "clip_vision_model":
        raise ValueError(
            f"`{argument}`: {folder} must contain a CLIPVisionModelWithProjection, got the model type {kind}."
        )


def load_image_encoder(
    argument: str, folder: Path, extractor_folder: Path | None, allow: Collection[str], dtype: torch.dtype
) -> tuple[CLIPVisionModelWithProjection, CLIPImageProcessor, list[ComponentKeys]]:
    """Load the files found by [`find_image_encoder`].

    Args:
        argument, folder, extractor_folder:
            Result of [`find_image_encoder`].
        allow, dtype:
            As in [`fill`].
    """
    check_kind(argument, folder)
    encoder = CLIPVisionModelWithProjection(CLIPVisionConfig.from_pretrained(folder))
    rows = []
    if extractor_folder is not None:
        extractor = CLIPImageProcessor.from_pretrained(extractor_folder)
    else:
        size = encoder.config.image_size
        extractor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        rows.append(ComponentKeys("feature_extractor", "new", made=(f"CLIP's at {size} x {size} pixels",)))
    state_dict = read_state_dict(argument, find_weights(argument, folder))
    return encoder, extractor, [*fill("image_encoder", encoder, [(state_dict, TABLE)], allow, dtype), *rows]
