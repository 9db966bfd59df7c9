# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from hia_diffusers.models.denoiser import HIADenoiser
from hia_diffusers.training.batches import build_dataset, encode
from hia_diffusers.training.objective import HIALosses
from hia_diffusers.training.stages import STAGES


@pytest.mark.parametrize(("probability", "is_shared"), [(0.0, False), (1.0, True)])
def test_frames_of_a_clip_share_their_noise_if_asked(pipe, probability, is_shared):
    config = replace(
        STAGES["temporal-full"],
        procedural_clips=1,
        sizes=["32x48"],
        num_frames=3,
        static_clip_probability=1.0,
        shared_noise_probability=probability,
    )
    batch = torch.utils.data.default_collate([build_dataset(config)[0]])
    model = HIADenoiser.of_pipeline(pipe)
    inputs = []
    model.register_forward_pre_hook(lambda module, arguments: inputs.append(arguments[0]))
    with torch.no_grad():
        HIALosses(config, Accelerator(cpu=True), model, pipe)(0, encode(pipe, batch))
    noisy = inputs[0]
    # The clip is static, so that its frames differ by their noise only.
    assert torch.allclose(noisy, noisy[:, :, :1].expand_as(noisy), atol=1e-4) == is_shared
