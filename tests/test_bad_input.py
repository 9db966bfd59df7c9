# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Bad calls of the pipeline: an error that names the argument, before any network runs.

The conditioner's, the keypoints' and the command line's bad calls are beside their other tests.
"""

import numpy as np
import PIL.Image
import pytest
import torch

from hia_diffusers import HIAPipeline


CLIP = torch.rand(2, 6, 64, 48, generator=torch.Generator().manual_seed(0))
PICTURE = PIL.Image.new("RGB", (48, 64))

BAD_CALLS = [
    # image
    ("image", {"image": None}),
    ("image", {"image": "person.png"}),
    ("image", {"image": []}),
    ("image", {"image": [PICTURE, None]}),
    ("image", {"image": np.zeros((64, 48, 5), np.float32)}),
    ("image", {"image": np.full((64, 48, 3), 255, np.int64)}),
    ("image", {"image": np.full((64, 48, 3), 0.5 + 0.5j)}),
    ("image", {"image": np.ma.masked_equal(np.zeros((64, 48, 3)), 0)}),
    ("image", {"image": torch.zeros((3, 64, 48), device="meta")}),
    ("image", {"image": np.full((64, 48, 3), np.nan, np.float32)}),
    ("image", {"image": torch.full((3, 64, 48), -1.0)}),
    ("image", {"image": torch.zeros(64, 48, 3)}),
    ("image", {"image": torch.zeros(3, 0, 48)}),
    ("image", {"image": [PICTURE] * 3, "conditioning_frames": CLIP.expand(2, -1, -1, -1, -1)}),
    # conditioning_frames
    ("conditioning_frames", {"conditioning_frames": None}),
    ("conditioning_frames", {"conditioning_frames": []}),
    ("conditioning_frames", {"conditioning_frames": [[]]}),
    ("conditioning_frames", {"conditioning_frames": "pose.mp4"}),
    ("conditioning_frames", {"conditioning_frames": [1, 2]}),
    ("conditioning_frames", {"conditioning_frames": CLIP[0]}),
    ("conditioning_frames", {"conditioning_frames": CLIP[:0]}),
    ("conditioning_frames", {"conditioning_frames": CLIP[None, :0]}),
    ("conditioning_frames", {"conditioning_frames": CLIP[:, :4]}),
    ("conditioning_frames", {"conditioning_frames": CLIP * 255}),
    ("conditioning_frames", {"conditioning_frames": CLIP - 0.5}),
    ("conditioning_frames", {"conditioning_frames": CLIP * float("nan")}),
    ("conditioning_frames", {"conditioning_frames": CLIP + 0.5j}),
    ("conditioning_frames", {"conditioning_frames": CLIP.to("meta")}),
    ("conditioning_frames", {"conditioning_frames": CLIP[None].to_sparse()}),
    ("conditioning_frames", {"conditioning_frames": [CLIP, CLIP[:1]]}),
    ("conditioning_frames", {"conditioning_frames": [PICTURE, PIL.Image.new("RGB", (8, 8))]}),
    # size
    ("height", {"height": 60}),
    ("height", {"height": 0}),
    ("height", {"height": -64}),
    ("height", {"height": 64.0}),
    ("width", {"width": 50}),
    ("width", {"conditioning_frames": CLIP[..., :41]}),
    # numbers
    ("num_inference_steps", {"num_inference_steps": 0}),
    ("num_inference_steps", {"num_inference_steps": 2.5}),
    ("num_videos_per_prompt", {"num_videos_per_prompt": 0}),
    ("decode_chunk_size", {"decode_chunk_size": 0}),
    ("context_frames", {"context_frames": 0}),
    ("context_frames", {"context_frames": 64, "conditioning_frames": CLIP[:1].expand(40, -1, -1, -1)}),
    ("context_overlap", {"context_overlap": 16}),
    ("context_overlap", {"context_overlap": -1}),
    ("guidance_scale", {"guidance_scale": "high"}),
    ("guidance_scale", {"guidance_scale": float("nan")}),
    ("controlnet_conditioning_scale", {"controlnet_conditioning_scale": None}),
    ("control_guidance_start", {"control_guidance_start": 0.9, "control_guidance_end": 0.1}),
    ("control_guidance_end", {"control_guidance_end": 1.5}),
    ("guidance_interval", {"guidance_interval": 0.5}),
    ("guidance_interval", {"guidance_interval": (0.5, 0.5)}),
    ("guidance_interval", {"guidance_interval": (0.0, "1")}),
    ("context_batch_size", {"context_batch_size": 0}),
    ("deep_cache_interval", {"deep_cache_interval": 0}),
    ("control_guidance_start", {"control_guidance_start": -0.5}),
    # the rest
    ("generator", {"generator": 42}),
    ("generator", {"generator": [torch.Generator(), torch.Generator()]}),
    ("generator", {"generator": [42]}),
    ("generator", {"generator": []}),
    ("latents", {"latents": torch.zeros(1, 4, 2, 4, 4)}),
    ("latents", {"latents": "noise"}),
    ("image_embeds", {"image_embeds": torch.zeros(1, 1, 32), "prompt_embeds": torch.zeros(1, 1, 32)}),
    ("image_embeds", {"image_embeds": torch.zeros(1, 32)}),
    ("image_embeds", {"image_embeds": torch.zeros(1, 1, 8)}),
    ("prompt_embeds", {"prompt_embeds": torch.zeros(5, 1, 32)}),
    ("ip_adapter_image", {"ip_adapter_image": PICTURE}),
    ("ip_adapter_image_embeds", {"ip_adapter_image_embeds": [torch.zeros(1, 1, 32)]}),
    ("output_type", {"output_type": "gif"}),
    ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": ["noise"]}),
    ("timesteps", {"timesteps": [1, 2, 3]}),
    ("sigmas", {"sigmas": [1.0, 0.5]}),
    ("sigmas", {"timesteps": [2, 1], "sigmas": [1.0, 0.5]}),
]


@pytest.fixture
def untouched(pipe):
    """The pipeline, and what of it has run."""
    ran = []
    for name in ("unet", "appearance_encoder", "controlnet", "vae", "image_encoder"):
        network = getattr(pipe, name)
        network.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        if name == "vae":
            network.encoder.register_forward_pre_hook(lambda *_: ran.append("vae encoder"))
    return pipe, ran


@pytest.mark.parametrize(
    ("named", "arguments"), BAD_CALLS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BAD_CALLS)]
)
def test_bad_calls_are_refused_before_anything_runs(untouched, named, arguments):
    pipe, ran = untouched
    call = {"image": PICTURE, "conditioning_frames": CLIP, "num_inference_steps": 1} | arguments
    with pytest.raises((ValueError, TypeError), match=rf"\b{named}\b"):
        pipe(**call)
    assert ran == []


def test_the_good_call_runs_everything(untouched):
    pipe, ran = untouched
    pipe(image=PICTURE, conditioning_frames=CLIP, num_inference_steps=1)
    assert set(ran) == {"unet", "appearance_encoder", "controlnet", "vae encoder", "image_encoder"}


def bad_parts(pipe):
    from diffusers import AutoencoderKL, ControlNetModel

    from hia_diffusers import HIAAppearanceEncoder, HIAControlNetModel

    def small(cls, **kwargs):
        return cls(
            block_out_channels=(8, 8),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=32,
            attention_head_dim=2,
            **kwargs,
        )

    vae = {"block_out_channels": (8,) * 4, "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return [
        ("vae", {"vae": pipe.unet}),
        ("unet", {"unet": pipe.vae}),
        ("appearance_encoder", {"appearance_encoder": pipe.unet}),
        ("controlnet", {"controlnet": small(ControlNetModel, conditioning_embedding_out_channels=(8,) * 4)}),
        ("controlnet", {"controlnet": small(HIAControlNetModel, conditioning_embedding_out_channels=(8, 8))}),
        ("vae", {"vae": AutoencoderKL(latent_channels=8, **vae, **blocks)}),
        (
            "appearance_encoder",
            {"appearance_encoder": small(HIAAppearanceEncoder, up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))},
        ),
        ("text_encoder", {"text_encoder": pipe.image_encoder}),
        ("reference_timestep", {"reference_timestep": "always"}),
    ]


@pytest.mark.parametrize("case", range(9))
def test_parts_that_do_not_fit_are_named(pipe, case):
    named, parts = bad_parts(pipe)[case]
    with pytest.raises((ValueError, TypeError), match=f"`{named}`"):
        HIAPipeline(**{**pipe.components, **parts})


def test_context_without_a_source_is_an_error(pipe):
    for missing, named in (
        ({"image_encoder": None, "feature_extractor": None}, "image_embeds"),
        ({"feature_extractor": None}, "feature_extractor"),
    ):
        with pytest.raises(ValueError, match=named):
            HIAPipeline(**{**pipe.components, **missing})(PICTURE, CLIP)
