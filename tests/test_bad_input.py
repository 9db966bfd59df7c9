# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Bad calls of the pipeline: an error that names the argument, before any network runs.

The conditioner's, the keypoints' and the command line's bad calls are beside their other tests.
"""

import copy

import diffusers
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    FrequencyDecoupledGuidance,
    MagnitudeAwareGuidance,
    PerturbedAttentionGuidance,
)

from hia_diffusers import HIAPipeline, checks


CLIP = torch.rand(2, 6, 64, 48, generator=torch.Generator().manual_seed(0))
IMAGE = PIL.Image.new("RGB", (48, 64))
NOISE = torch.ones(1, 4, 2, 8, 6)

ONE_FRAME = {"context_frames": 1, "context_overlap": 0}
BAD_CALLS = [
    # image
    ("image", {"image": None}),
    ("image", {"image": "person.png"}),
    ("image", {"image": []}),
    ("image", {"image": [IMAGE, None]}),
    ("image", {"image": np.zeros((64, 48, 5), np.float32)}),
    ("image", {"image": np.full((64, 48, 3), 255, np.int64)}),
    ("image", {"image": np.full((64, 48, 3), 0.5 + 0.5j)}),
    ("image", {"image": np.ma.masked_equal(np.zeros((64, 48, 3)), 0)}),
    ("image", {"image": torch.zeros((3, 64, 48), device="meta")}),
    ("image", {"image": np.full((64, 48, 3), np.nan, np.float32)}),
    ("image", {"image": torch.full((3, 64, 48), -1.0)}),
    ("image", {"image": torch.zeros(64, 48, 3)}),
    ("image", {"image": torch.zeros(3, 0, 48)}),
    ("image", {"image": [IMAGE] * 3, "conditioning_frames": CLIP.expand(2, -1, -1, -1, -1)}),
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
    ("conditioning_frames", {"conditioning_frames": [IMAGE, PIL.Image.new("RGB", (8, 8))]}),
    # size
    ("height", {"height": 60}),
    ("height", {"height": 0}),
    ("height", {"height": -64}),
    ("height", {"height": 64.0}),
    ("height", {"height": 16392}),
    ("width", {"width": 99999992}),
    ("width", {"width": 8 * 10**400}),
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
    ("guidance_scale", {"guidance_scale": -1.0}),
    ("guidance_scale", {"guidance_scale": "high"}),
    ("guidance_scale", {"guidance_scale": float("nan")}),
    ("controlnet_conditioning_scale", {"controlnet_conditioning_scale": None}),
    ("control_guidance_start", {"control_guidance_start": 0.9, "control_guidance_end": 0.1}),
    ("control_guidance_end", {"control_guidance_end": 1.5}),
    ("guider", {"guider": 3.5}),
    ("guider", {"guider": FrequencyDecoupledGuidance.__new__(FrequencyDecoupledGuidance)}),
    ("guider", {"guider": ClassifierFreeGuidance(2.0), "guidance_scale": 2.0}),
    ("guider", {"guider": AdaptiveProjectedGuidance(adaptive_projected_guidance_momentum=-0.5)} | ONE_FRAME),
    ("guidance_scale", {"guider": ClassifierFreeGuidance(float("nan"))}),
    ("guider", {"guider": PerturbedAttentionGuidance(perturbed_guidance_layers=[0])}),
    ("guider", {"guider": MagnitudeAwareGuidance()}),
    ("context_batch_size", {"context_batch_size": 0}),
    ("control_guidance_start", {"control_guidance_start": -0.5}),
    ("eta", {"eta": 5}),
    ("eta", {"eta": -0.1}),
    ("shared_noise", {"shared_noise": 1.5}),
    ("shared_noise", {"shared_noise": 0.5, "latents": torch.zeros(1, 4, 3, 8, 6)}),
    # the rest
    ("generator", {"generator": 42}),
    ("generator", {"generator": [torch.Generator(), torch.Generator()]}),
    ("generator", {"generator": [42]}),
    ("generator", {"generator": []}),
    ("latents", {"latents": torch.zeros(1, 4, 2, 4, 4)}),
    ("latents", {"latents": "noise"}),
    ("latents", {"latents": NOISE.numpy()}),
    ("latents", {"latents": NOISE.long()}),
    ("latents", {"latents": NOISE.to(torch.complex64)}),
    ("latents", {"latents": NOISE.to("meta")}),
    ("latents", {"latents": NOISE.to_sparse()}),
    ("latents", {"latents": NOISE * float("nan")}),
    ("latents", {"latents": NOISE / 0}),
    ("latents", {"latents": NOISE.double() * 1e300}),
    ("latents", {"latents": NOISE[0]}),
    ("image_embeds", {"image_embeds": torch.zeros(1, 1, 32), "prompt_embeds": torch.zeros(1, 1, 32)}),
    ("image_embeds", {"image_embeds": torch.zeros(1, 32)}),
    ("image_embeds", {"image_embeds": torch.zeros(1, 1, 8)}),
    ("prompt_embeds", {"prompt_embeds": torch.zeros(5, 1, 32)}),
    ("prompt_embeds", {"prompt_embeds": torch.zeros(1, 0, 32)}),
    ("prompt_embeds", {"prompt_embeds": torch.full((1, 1, 32), float("inf"))}),
    ("image_embeds", {"image_embeds": torch.full((1, 1, 32), float("nan"))}),
    ("image_embeds", {"image_embeds": torch.zeros(1, 1, 32, dtype=torch.int64)}),
    ("image_embeds", {"image_embeds": np.zeros((1, 1, 32), np.float32)}),
    ("image_embeds", {"image_embeds": torch.tensor(0.0)}),
    ("ip_adapter_image", {"ip_adapter_image": IMAGE}),
    ("ip_adapter_image_embeds", {"ip_adapter_image_embeds": [torch.zeros(1, 1, 32)]}),
    ("output_type", {"output_type": "gif"}),
    ("output_type", {"output_type": np.zeros(2)}),
    ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": ["noise"]}),
    ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": "latents"}),
    ("callback_on_step_end_tensor_inputs", {"callback_on_step_end_tensor_inputs": [["latents"]]}),
    ("callback_on_step_end_tensor_inputs", {"callback_on_step_end": SDCFGCutoffCallback(cutoff_step_ratio=0.5)}),
    ("callback_on_step_end", {"callback_on_step_end": 5}),
    ("cross_attention_kwargs", {"cross_attention_kwargs": 5}),
    ("cross_attention_kwargs", {"cross_attention_kwargs": {"scale": "half"}}),
    ("cross_attention_kwargs", {"cross_attention_kwargs": {"scale": float("nan")}}),
    ("cross_attention_kwargs", {"cross_attention_kwargs": {"reference": None}}),
    ("cross_attention_kwargs", {"cross_attention_kwargs": {"skale": 0.5}}),
    ("timesteps", {"timesteps": [1, 2, 3]}),
    ("sigmas", {"sigmas": [1.0, 0.5]}),
    ("sigmas", {"timesteps": [2, 1], "sigmas": [1.0, 0.5]}),
]


# What each kind of argument is given instead of one of its kind.
NOT_WHOLE = (None, "2", True, 2.5, 2j, [2], np.array([2]), torch.tensor(2), float("nan"), 0, -1, 10**400, -(10**5000))
NOT_FINITE = (None, "1", True, 1j, [1], np.array([1]), torch.tensor(1), np.nan, np.inf, 10**400, 1e300, -1e300)
NO_FLAGS = (None, "no", 0, 1, np.array([True]))
WHOLE = (
    *("num_inference_steps", "num_videos_per_prompt", "decode_chunk_size", "context_frames", "context_batch_size"),
    "context_overlap",
)
ACCEPTED = (("context_overlap", 0), ("decode_chunk_size", None))
FINITE = (
    *("guidance_scale", "controlnet_conditioning_scale", "control_guidance_start", "control_guidance_end", "eta"),
    "shared_noise",
)
FLAGS = ("batch_guidance", "reference_noise", "context_shift", "return_dict")
VALUES = (
    [(name, value) for name in WHOLE for value in NOT_WHOLE if (name, value) not in ACCEPTED]
    + [(name, value) for name in ("height", "width") for value in NOT_WHOLE if value is not None]
    + [(name, value) for name in FINITE for value in NOT_FINITE]
    + [(name, value) for name in FLAGS for value in NO_FLAGS]
)


@pytest.fixture(scope="module")
def watched(pristine_pipe):
    """A pipeline, and what of it has run."""
    pipe, ran = copy.deepcopy(pristine_pipe), []
    for name in ("unet", "appearance_encoder", "controlnet", "vae", "image_encoder"):
        network = getattr(pipe, name)
        network.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        if name == "vae":
            network.encoder.register_forward_pre_hook(lambda *_: ran.append("vae encoder"))
    return pipe, ran


@pytest.fixture
def untouched(watched):
    watched[1].clear()
    return watched


def refused(untouched, named, arguments, method="__call__"):
    pipe, ran = untouched
    call = {"image": IMAGE, "conditioning_frames": CLIP, "num_inference_steps": 1} | arguments
    with pytest.raises((ValueError, TypeError), match=rf"`{named}\b") as error:
        getattr(pipe, method)(**call)
    assert ran == [] and len(str(error.value)) < 300
    return str(error.value)


@pytest.mark.parametrize(
    ("named", "arguments"), BAD_CALLS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BAD_CALLS)]
)
def test_bad_calls_are_refused_before_anything_runs(untouched, named, arguments):
    refused(untouched, named, arguments)


@pytest.mark.parametrize(
    ("named", "value"),
    VALUES,
    ids=[f"{name}-{checks.shown(value)[:30]}-{i}" for i, (name, value) in enumerate(VALUES)],
)
def test_arguments_of_another_kind_are_refused_before_anything_runs(untouched, named, value):
    refused(untouched, named, {named: value})


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("named", ["image", "conditioning_frames", "latents", "image_embeds"])
def test_nested_tensors_are_refused_before_anything_runs(untouched, named):
    refused(untouched, named, {named: torch.nested.nested_tensor([torch.zeros(1, 32)])})


@pytest.mark.parametrize(
    ("named", "arguments"),
    [
        ("num_videos_per_prompt", {"num_videos_per_prompt": "2"}),
        ("num_videos_per_prompt", {"num_videos_per_prompt": None}),
        ("num_videos_per_prompt", {"num_videos_per_prompt": 1.5}),
        ("output_type", {"output_type": "latent"}),
        ("output_type", {"output_type": None}),
        ("decode_chunk_size", {"decode_chunk_size": "4"}),
        ("guidance_scale", {"guidance_scale": 10**400}),
        ("image", {"image": [IMAGE, IMAGE]}),
    ],
)
def test_bad_streams_are_refused_before_anything_runs(untouched, named, arguments):
    refused(untouched, named, arguments, "stream")


def test_the_good_call_runs_everything(untouched):
    pipe, ran = untouched
    pipe(image=IMAGE, conditioning_frames=CLIP, num_inference_steps=1)
    assert set(ran) == {"unet", "appearance_encoder", "controlnet", "vae encoder", "image_encoder"}


def test_numbers_of_numpy_are_numbers(pipe, animate):
    whole = {"num_inference_steps": 2, "height": 64, "width": 48, "context_frames": 2, "context_overlap": 1}
    whole |= {"num_videos_per_prompt": 1, "decode_chunk_size": 2, "context_batch_size": 2}
    real = {"guidance_scale": 2.5, "controlnet_conditioning_scale": 0.5, "control_guidance_end": 0.5, "eta": 0.25}
    flags = {"context_shift": False, "batch_guidance": True}
    given = {name: np.int64(value) for name, value in whole.items()}
    given |= {name: np.float32(value) for name, value in real.items()}
    given |= {name: np.bool_(value) for name, value in flags.items()}
    expected = animate(pipe, **whole, **real, **flags)
    assert torch.equal(animate(pipe, **given), expected)
    frames = pipe.stream(IMAGE, CLIP, decode_chunk_size=np.int64(1), num_inference_steps=np.int32(1))
    assert len(list(frames)) == 2


@pytest.mark.parametrize("name", ["vae", "unet", "appearance_encoder", "controlnet", "scheduler"])
@pytest.mark.parametrize("method", ["__call__", "stream", "check_inputs"])
def test_a_component_that_is_missing_is_named(pristine_pipe, name, method):
    pipe = HIAPipeline(**pristine_pipe.components)
    setattr(pipe, name, None)
    sizes = {"height": None, "width": None} if method == "check_inputs" else {}
    with pytest.raises(ValueError, match=f"`{name}` is missing"):
        getattr(pipe, method)(IMAGE, CLIP, **sizes)


# What comes from callbacks


@pytest.mark.parametrize(
    ("named", "returned"),
    [
        ("callback_on_step_end` must return a dictionary", []),
        ("callback_on_step_end` must return a dictionary", 5),
        ("callback_on_step_end` must return a dictionary", {"noise": NOISE}),
        ("latents` of `callback_on_step_end", {"latents": NOISE[:, :, :1]}),
        ("latents` of `callback_on_step_end", {"latents": NOISE.long()}),
        ("latents` of `callback_on_step_end", {"latents": None}),
        ("latents` of `callback_on_step_end` must be finite", {"latents": NOISE * float("nan")}),
    ],
)
def test_what_a_callback_returns_is_checked_when_it_returns(pipe, named, returned):
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append(step)
        return returned

    with pytest.raises((TypeError, ValueError), match=f"`{named}"):
        pipe(IMAGE, CLIP, num_inference_steps=3, guidance_scale=1, callback_on_step_end=callback)
    assert steps == [0]


def test_latents_of_a_callback_may_be_of_another_precision(pipe):
    callback = {"callback_on_step_end": lambda pipe, step, timestep, tensors: {"latents": tensors["latents"].double()}}
    latents = pipe(IMAGE, CLIP, num_inference_steps=2, output_type="latent", **callback).frames
    assert latents.dtype == torch.float32


# Schedules


@pytest.fixture
def with_scheduler(untouched):
    """The pipeline with another scheduler for the time of a test."""
    pipe, own = untouched[0], untouched[0].scheduler

    def put(scheduler):
        pipe.scheduler = scheduler
        return untouched

    yield put
    pipe.scheduler = own


@pytest.mark.parametrize(
    "timesteps",
    [[], [5000], [999, -5], [1, 500, 999], [999, 999], [999.5, 2], ["999"], [None], [float("nan")], 999, "all"]
    + [[10**400], np.zeros((2, 2)), {999}, [[999, 1]]],
    ids=checks.shown,
)
def test_bad_timesteps_are_refused_before_anything_runs(with_scheduler, timesteps):
    refused(with_scheduler(DDPMScheduler()), "timesteps", {"timesteps": timesteps})


@pytest.mark.parametrize(
    "sigmas",
    [
        [],
        [np.inf, 0.0],
        [np.nan],
        [1.0, 0.0, 0.0],
        [1.0, 0.5],
        [0.5, 1.0],
        [1.0, -1.0],
        [1e300, 1.0],
        [10**400],
        ["1"],
        1.0,
        [True],
    ],
    ids=checks.shown,
)
def test_bad_sigmas_are_refused_before_anything_runs(with_scheduler, sigmas):
    refused(with_scheduler(EulerDiscreteScheduler()), "sigmas", {"sigmas": sigmas})


@pytest.mark.parametrize(
    "schedule",
    [
        {"timesteps": np.array([999, 500, 3])},
        {"timesteps": torch.tensor([700])},
        {"sigmas": (14.0, np.float32(0.5), 0.0)},
    ],
    ids=str,
)
def test_schedules_may_be_arrays(with_scheduler, schedule):
    pipe, _ = with_scheduler(EulerDiscreteScheduler())
    num_steps = len(schedule.get("timesteps", ())) or 2  # the last sigma is where the last step ends
    assert len(pipe.prepare_timesteps(25, **schedule)) == num_steps
    pipe(IMAGE, CLIP, guidance_scale=1, **schedule)


SCHEDULERS = sorted(name for name in dir(diffusers.schedulers) if name.endswith("Scheduler"))
FIT = {
    *("CogVideoXDDIMScheduler", "DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler"),
    *("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler"),
    *("DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler"),
    *("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LCMScheduler"),
    *("LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_scheduler_of_diffusers_runs_or_is_refused_before_anything_runs(pristine_pipe, with_scheduler, name):
    scheduler_class = getattr(diffusers, name, None) or getattr(diffusers.schedulers, name)
    try:
        config = pristine_pipe.scheduler.config
        scheduler = scheduler_class.from_config(config) if name in FIT else scheduler_class()
    except (ImportError, TypeError) as error:  # needs a library that is missing, or what only its own model has
        pytest.skip(f"{name} cannot be made: {error}")
    untouched = with_scheduler(scheduler)
    if name not in FIT:
        assert name in refused(untouched, "scheduler", {})
        return
    frames = untouched[0](IMAGE, CLIP, num_inference_steps=4, guidance_scale=1, output_type="np").frames
    assert np.isfinite(frames).all()


def test_steps_that_a_scheduler_cannot_take_are_refused_before_anything_runs(with_scheduler):
    untouched = with_scheduler(PNDMScheduler())
    assert "PNDMScheduler" in refused(untouched, "scheduler` with `num_inference_steps=2", {"num_inference_steps": 2})
    untouched = with_scheduler(DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"))
    refused(untouched, "scheduler", {})  # noise predicted from noise alone says nothing of the sample
    refused(untouched, "num_inference_steps", {"num_inference_steps": 1001})


def test_the_rehearsal_leaves_no_trace(pipe, animate):
    pipe.scheduler = DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++")
    expected, state = animate(pipe), torch.get_rng_state()
    pipe.check_inputs(IMAGE, CLIP, None, None, num_inference_steps=7)
    assert torch.equal(torch.get_rng_state(), state) and len(pipe.scheduler.timesteps) == 2
    assert torch.equal(animate(pipe), expected)


# Parts


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
            HIAPipeline(**{**pipe.components, **missing})(IMAGE, CLIP)
