# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Saving a pipeline and loading it back, from a folder and from a Hub, the latter in other processes."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import asking_a_hub
import forked_python
import pytest
import safetensors.torch
import torch
from hub_server import HubServer
from random_tiny import random_tiny_pipeline

from hia_diffusers import HIAPipeline, MotionBlurConditioner, ShiftedSNRScheduler


SOURCE = Path(__file__).parents[1] / "src"

# What every fresh process starts with: the frames of a pipeline, as a digest of their bytes.
DIGEST = """
import hashlib, torch

def digest(pipe):
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(0))
    condition = torch.rand(2, 6, 64, 48, generator=torch.Generator().manual_seed(1))
    seed = torch.Generator().manual_seed(2)
    frames = pipe(image, condition, num_inference_steps=2, generator=seed, output_type="pt").frames
    return hashlib.sha256(frames.contiguous().numpy().tobytes()).hexdigest()
"""
exec(DIGEST)  # the same function in this process
digest = globals()["digest"]


@pytest.fixture(scope="module")
def half_pipe():
    return random_tiny_pipeline(seed=0).to(torch.float16)


@pytest.fixture(scope="module")
def hub(tmp_path_factory, half_pipe):
    """Repositories: whole with an fp16 variant, sharded, a component alone, and a broken one."""
    root = tmp_path_factory.mktemp("hub")
    pipe = random_tiny_pipeline(seed=0)
    half_pipe.save_pretrained(root / "user" / "hia", variant="fp16")
    pipe.save_pretrained(root / "user" / "hia")  # last: transformers' config holds the dtype of the last save
    pipe.save_pretrained(root / "user" / "sharded", max_shard_size="300KB")
    pipe.unet.save_pretrained(root / "user" / "unet")
    MotionBlurConditioner(max_motion=2.0).save_pretrained(root / "user" / "unet" / "conditioner")
    pipe.save_pretrained(root / "user" / "broken")
    weights = root / "user" / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.torch.load_file(weights)
    tensors.pop("conv_in.bias")
    safetensors.torch.save_file(tensors, weights, metadata={"format": "pt"})
    return root


@pytest.fixture(scope="module")
def expected():
    return digest(random_tiny_pipeline(seed=0))


def run_fresh(program, endpoint, home):
    """Run a program in a process of its own that knows no hub but `endpoint` and no cache but `home`."""
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": str(SOURCE),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    environment.pop("HF_HUB_OFFLINE", None)
    result = subprocess.run(
        [sys.executable, "-c", DIGEST + program], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


def run_forked(program, endpoint, home):
    """The same in a process forked from one that has done the imports, where these do not matter."""
    home.mkdir(exist_ok=True)
    script = home / "program.py"
    script.write_text(f"{DIGEST}\ntorch.set_num_threads({torch.get_num_threads()})\n{program}")
    result = forked_python.run(asking_a_hub.__file__, endpoint, home / "hub", script)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


# From a Hub


def test_whole_pipeline_from_the_hub_then_offline(hub, expected, tmp_path):
    with HubServer(hub) as server:
        program = """
import json
from hia_diffusers import HIAPipeline

pipe = HIAPipeline.from_pretrained("user/hia")
print(json.dumps([digest(pipe), pipe.name_or_path, {k: type(v).__name__ for k, v in pipe.components.items()}]))
"""
        frames, name, components = run_forked(program, server.endpoint, tmp_path)
        downloaded = [path for method, path in server.requests if method == "GET" and "/resolve/" in path]
        assert not any("fp16" in path for path in downloaded)
        endpoint = server.endpoint
    assert frames == expected
    assert name == "user/hia"
    assert components["unet"] == "HIAUNetMotionModel" and components["scheduler"] == "ShiftedSNRScheduler"

    offline = program.replace('"user/hia")', '"user/hia", local_files_only=True)')
    assert run_forked(offline, endpoint, tmp_path)[0] == expected  # the server is gone


def test_variants_shards_components_and_errors_from_the_hub(hub, expected, half_pipe, tmp_path):
    program = """
import json
from diffusers import AutoencoderKL, DiffusionPipeline
from hia_diffusers import *

report = {}
half = HIAPipeline.from_pretrained("user/hia", variant="fp16", dtype=torch.float16)
report["fp16"] = digest(half)
report["sharded"] = digest(HIAPipeline.from_pretrained("user/sharded"))
for custom_pipeline in ("pipeline", "user/hia"):
    custom = DiffusionPipeline.from_pretrained("user/hia", custom_pipeline=custom_pipeline, trust_remote_code=True)
    report[f"custom {custom_pipeline}"] = [digest(custom), type(custom).__name__]
try:
    DiffusionPipeline.from_pretrained("user/hia", custom_pipeline="pipeline")
except Exception as error:
    report["untrusted"] = str(error)

parts = {
    "unet": HIAUNetMotionModel.from_pretrained("user/hia", subfolder="unet"),
    "appearance_encoder": HIAAppearanceEncoder.from_pretrained("user/sharded", subfolder="appearance_encoder"),
    "controlnet": HIAControlNetModel.from_pretrained("user/hia", subfolder="controlnet"),
    "scheduler": ShiftedSNRScheduler.from_pretrained("user/hia", subfolder="scheduler"),
    "vae": AutoencoderKL.from_pretrained("user/hia", subfolder="vae"),
}
report["parts"] = digest(HIAPipeline.from_pretrained("user/hia", **parts))
alone = HIAUNetMotionModel.from_pretrained("user/unet").state_dict()
report["alone"] = all(torch.equal(value, alone[name]) for name, value in parts["unet"].state_dict().items())
report["conditioner"] = MotionBlurConditioner.from_pretrained("user/unet", subfolder="conditioner").config.max_motion
half_unet = HIAUNetMotionModel.from_pretrained("user/hia", subfolder="unet", variant="fp16", dtype=torch.float16)
report["half unet"] = str(half_unet.dtype)
for name, load in (
    ("broken", lambda: HIAPipeline.from_pretrained("user/broken")),
    ("class", lambda: HIAUNetMotionModel.from_pretrained("user/hia", subfolder="appearance_encoder")),
):
    try:
        load()
    except ValueError as error:
        report[name] = str(error)
print(json.dumps(report))
"""
    with HubServer(hub) as server:
        report = run_forked(program, server.endpoint, tmp_path)
    assert report["fp16"] == digest(half_pipe)
    assert report["sharded"] == report["parts"] == expected
    assert report["custom pipeline"] == report["custom user/hia"] == [expected, "HIAPipeline"]
    assert "trust_remote_code" in report["untrusted"]
    assert report["conditioner"] == 2.0
    assert report["alone"] and report["half unet"] == "torch.float16"
    assert "HIAUNetMotionModel" in report["broken"] and "1 missing keys: conv_in.bias" in report["broken"]
    assert "holds a HIAAppearanceEncoder, not a HIAUNetMotionModel" in report["class"]


MODULAR_DIGEST = """
def digest_modular(pipe):
    pipe.load_components()
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(0))
    condition = torch.rand(2, 6, 64, 48, generator=torch.Generator().manual_seed(1))
    inputs = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(2), "output_type": "pt"}
    frames = pipe(image=image, conditioning_frames=condition, output="frames", **inputs)
    return hashlib.sha256(frames.contiguous().numpy().tobytes()).hexdigest()
"""


def test_a_modular_pipeline_is_uploaded_and_loaded_from_the_hub(hub, expected, tmp_path):
    upload = f"""
import json
from hia_diffusers import HIAModularPipeline

pipe = HIAModularPipeline.from_pretrained("user/hia")
frames = digest_modular(pipe)
pipe.save_pretrained({str(tmp_path / "saved")!r}, push_to_hub=True, repo_id="user/modular", token="users-token")
print(json.dumps(frames))
"""
    load = """
import json
from diffusers import ModularPipeline

report = {"loaded": digest_modular(ModularPipeline.from_pretrained("user/modular", trust_remote_code=True))}
try:
    ModularPipeline.from_pretrained("user/modular")
except ValueError as error:
    report["untrusted"] = str(error)
from hia_diffusers import HIAModularPipeline

report["own code"] = digest_modular(HIAModularPipeline.from_pretrained("user/modular"))
print(json.dumps(report))
"""
    with HubServer(hub, {"users-token": "user"}) as server:
        assert run_forked(MODULAR_DIGEST + upload, server.endpoint, tmp_path / "home") == expected
        shutil.rmtree(tmp_path / "saved")
        report = run_fresh(MODULAR_DIGEST + load, server.endpoint, tmp_path / "other_home")
    assert report["loaded"] == report["own code"] == expected
    assert "trust_remote_code" in report["untrusted"]


# From a folder


def test_diffusers_loads_a_saved_folder_by_its_custom_pipeline(tmp_path, expected):
    random_tiny_pipeline(seed=0).save_pretrained(tmp_path / "hia")
    program = f"""
import json
from diffusers import DiffusionPipeline

folder = {str(tmp_path / "hia")!r}
pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
try:
    DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline")
except ValueError as error:
    print(json.dumps([digest(pipe), type(pipe).__name__, str(error)]))
"""
    frames, name, error = run_fresh(program, "http://127.0.0.1:1", tmp_path / "home")
    assert (frames, name) == (expected, "HIAPipeline")
    assert "trust_remote_code" in error


def test_saved_pipelines_give_the_same_frames_bit_for_bit(tmp_path, expected):
    random_tiny_pipeline(seed=0).save_pretrained(tmp_path)
    assert digest(HIAPipeline.from_pretrained(tmp_path)) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_round_trip(dtype, tmp_path):
    pipe = random_tiny_pipeline(seed=0).to(dtype)
    pipe.save_pretrained(tmp_path)
    reloaded = HIAPipeline.from_pretrained(tmp_path, dtype=dtype)
    assert {c.dtype for c in reloaded.components.values() if isinstance(c, torch.nn.Module)} == {dtype}
    assert digest(reloaded) == digest(pipe)


def test_the_scheduler_of_a_saved_pipeline_keeps_its_gamma(tmp_path):
    pipe = random_tiny_pipeline(seed=0)
    pipe.scheduler = ShiftedSNRScheduler(snr_shift_factor=0.2)
    pipe.save_pretrained(tmp_path)
    reloaded = HIAPipeline.from_pretrained(tmp_path).scheduler
    assert reloaded.config.snr_shift_factor == 0.2
    assert torch.equal(reloaded.alphas_cumprod, pipe.scheduler.alphas_cumprod)


def test_reference_timestep_is_saved(tmp_path):
    pipe = random_tiny_pipeline(seed=0)
    pipe.register_to_config(reference_timestep="current")
    pipe.save_pretrained(tmp_path)
    assert HIAPipeline.from_pretrained(tmp_path).config.reference_timestep == "current"


def test_components_are_saved_under_the_package_not_its_files(tmp_path):
    random_tiny_pipeline(seed=0).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for name in ("unet", "appearance_encoder", "controlnet", "scheduler"):
        assert index[name][0] == "hia_diffusers"


@pytest.mark.parametrize(
    ("component", "file"),
    [
        ("vae", "diffusion_pytorch_model"),
        ("image_encoder", "model"),
        ("controlnet", "diffusion_pytorch_model"),
    ],
)
@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_weights_that_do_not_match_are_an_error(component, file, fault, tmp_path):
    random_tiny_pipeline(seed=0).save_pretrained(tmp_path)
    path = tmp_path / component / f"{file}.safetensors"
    tensors = safetensors.torch.load_file(path)
    name = sorted(tensors)[0]
    tensors["stray.weight" if fault == "unexpected" else name] = torch.zeros(1)
    if fault == "missing":
        tensors.pop(name)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"1 {fault} keys: {'stray.weight' if fault == 'unexpected' else name}"):
        HIAPipeline.from_pretrained(tmp_path)


def test_pickled_weights_are_not_loaded_by_default(tmp_path):
    random_tiny_pipeline(seed=0).save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        HIAPipeline.from_pretrained(tmp_path)


def test_a_saved_folder_has_a_model_card(tmp_path):
    pipe = random_tiny_pipeline(seed=0)
    pipe.save_pretrained(tmp_path / "my-hia")
    card = (tmp_path / "my-hia" / "README.md").read_text()
    assert 'HIAPipeline.from_pretrained("my-hia")' in card and "OpenRAIL" in card
    pipe.save_pretrained(tmp_path / "my-hia-half", variant="fp16")
    assert 'from_pretrained("my-hia-half", variant="fp16")' in (tmp_path / "my-hia-half" / "README.md").read_text()

    pipe.register_to_config(call_defaults={"guidance_scale": 7.5, "pose_map": "densepose"})
    pipe.save_pretrained(tmp_path / "densepose")
    card = (tmp_path / "densepose" / "README.md").read_text()
    assert "`guidance_scale=7.5`, `pose_map='densepose'`." in card and 'driving_type="densepose"' in card

    (tmp_path / "my-hia" / "README.md").write_text("mine")
    pipe.save_pretrained(tmp_path / "my-hia")
    assert (tmp_path / "my-hia" / "README.md").read_text() == "mine"


def test_the_uploaded_folder_has_the_model_card_too(tmp_path, monkeypatch):
    from diffusers.utils import hub_utils

    uploaded = {}
    monkeypatch.setattr(
        hub_utils,
        "upload_folder",
        lambda repo_id, folder_path, **kw: uploaded.update({repo_id: Path(folder_path, "README.md").read_text()}),
    )
    (tmp_path / "README.md").write_text("# an empty card")
    random_tiny_pipeline(seed=0)._upload_folder(tmp_path, "user/hia")
    assert 'HIAPipeline.from_pretrained("user/hia")' in uploaded["user/hia"]


def test_a_deep_copy_is_independent():
    pipe = random_tiny_pipeline(seed=0)
    other = copy.deepcopy(pipe)
    torch.nn.init.zeros_(other.unet.conv_out.weight)
    assert hashlib.sha256(digest(pipe).encode()) and digest(pipe) != digest(other)
