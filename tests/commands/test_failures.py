# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while a command computes is one line, too."""

import json
import shutil

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from hia_diffusers import HIA_TINY
from hia_diffusers.commands import animate, evaluate


@pytest.fixture
def calls(person_and_dance):
    """Of commands that run hia-tiny."""
    common = ["--model", str(HIA_TINY), "--steps", "1", "--device", "cpu", "--output"]
    return {
        animate: [*person_and_dance, *common, "out.mp4"],
        evaluate: ["--dataset", "procdance-v1", "--size", "32x48", *common, "out.json"],
    }


@pytest.mark.parametrize("command", [animate, evaluate])
@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), 2, "hia-diffusers {}: error: CUDA out of memory.\n"),
        (MemoryError(), 2, "hia-diffusers {}: error: there is not enough memory\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (KeyError("BF16"), 2, ": 'BF16' (PYTHONDEVMODE=1 shows the traceback)\n"),
    ],
    ids=["GPU memory", "memory", "interrupt", "unexpected"],
)
def test_failures_while_the_model_runs(calls, tmp_path, capsys, command, failure, status, said):
    def fail(module, inputs):
        raise failure

    hook = register_module_forward_pre_hook(fail)
    try:
        with pytest.raises(SystemExit) as exit:
            command.main(calls[command])
    finally:
        hook.remove()
    assert exit.value.code == status
    assert capsys.readouterr().err.endswith(said.format(command.__name__.split(".")[-1]))
    assert not list(tmp_path.glob("*out*"))


def test_a_model_whose_weights_do_not_fit_is_named(calls, tmp_path, capsys):
    """transformers raises a `RuntimeError` then."""
    shutil.copytree(HIA_TINY, tmp_path / "model")
    path = tmp_path / "model/image_encoder/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"projection_dim": 32}))
    with pytest.raises(SystemExit):
        animate.main([*calls[animate], "--model", "model"])
    assert "error: --model: 'model' cannot be loaded (" in capsys.readouterr().err.splitlines()[-1]
