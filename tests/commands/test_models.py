# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Which files a command loads, and how it runs them where nothing else is said."""

import pytest
import torch

from hia_diffusers import HIA_TINY, HIAPipeline
from hia_diffusers.commands import animate


@pytest.fixture
def call(person_and_dance, tmp_path):
    def run(*options):
        animate.main([*person_and_dance, "--num_inference_steps", "1", "--output", "out.mp4", *options])
        return (tmp_path / "out.mp4").read_bytes()

    return run


def test_a_variant_is_loaded_by_its_name(call, capsys):
    expected = call()
    pipe = HIAPipeline.from_pretrained(HIA_TINY, dtype=torch.float16)  # as it is stored
    pipe.save_pretrained("half", variant="fp16")
    assert call("--model", "half", "--variant", "fp16") == expected
    with pytest.raises(SystemExit):
        call("--model", "half")
    assert "error: --model: 'half' cannot be loaded (" in capsys.readouterr().err.splitlines()[-1]


def test_the_model_says_what_is_not_given(call):
    model = ["--model", str(HIA_TINY)]
    assert HIAPipeline.from_pretrained(HIA_TINY).call_default("guidance_scale") == 1.25
    assert call() == call(*model) == call("--guidance_scale", "1.25") != call("--guidance_scale", "3.5")
