# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The pipeline against its formulas, in one process."""

import copy
import functools
import gc
import sys
import weakref
from types import ModuleType

import accelerate
import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderDC,
    AutoencoderTiny,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import PipelineCallback
from diffusers.guiders import (
    AdaptiveProjectedGuidance,
    AdaptiveProjectedMixGuidance,
    ClassifierFreeGuidance,
    ClassifierFreeZeroStarGuidance,
    TangentialClassifierFreeGuidance,
)
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, XFormersAttnProcessor
from random_tiny import UNET
from rounding import assert_equal_up_to_rounding
from small_networks import autoencoder_dc
from text_parts import text_parts as tiny_text_parts

from hia_diffusers import HIAPipeline, HIAPipelineOutput, HIAUNetMotionModel, ShiftedSNRScheduler, images
from hia_diffusers.conditioning.motion_blur import MotionBlurConditioner
from hia_diffusers.models.conditioning_embedding import ConditioningEmbeddings
from hia_diffusers.models.deep_cache import DeepCacheConfig
from hia_diffusers.models.denoiser import HIAConditions, HIADenoiser
from hia_diffusers.pipelines.context_windows import context_windows
from hia_diffusers.pipelines.guidance import classifier_free_guidance


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def text_parts():
    return tiny_text_parts()


# Where frames are compared with `torch.equal`, both calls run the same kernels on the same shapes in the same order.


# Outputs


def test_output_types_agree(pipe, animate):
    pt = animate(pipe)
    assert pt.shape == (1, 3, 3, 64, 48) and 0 <= pt.min() < pt.max() <= 1
    array = animate(pipe, output_type="np")
    assert np.allclose(array, pt.permute(0, 1, 3, 4, 2).numpy(), atol=1e-6)
    pictures = animate(pipe, output_type="pil")
    assert [len(clip) for clip in pictures] == [3]
    assert np.abs(np.asarray(pictures[0][1]) / 255 - array[0, 1]).max() < 0.5 / 255 + 1e-6
    latents = animate(pipe, output_type="latent")
    assert latents.shape == (1, 4, 3, 8, 6)
    decoded = pipe.video_processor.postprocess_video(pipe.decode_latents(latents, 2), output_type="pt")
    assert torch.allclose(decoded, pt, atol=1e-5)


def test_return_dict(pipe, image, condition):
    arguments = (image, condition, None, None, 1)
    output = pipe(*arguments, generator=seeded(), output_type="pt")
    assert isinstance(output, HIAPipelineOutput)
    assert torch.equal(pipe(*arguments, generator=seeded(), output_type="pt", return_dict=False)[0], output.frames)


def test_tensors_stay_on_the_device(pipe):
    """Frames of `"pt"` only: pictures and arrays are made on the host, chunk by chunk."""
    pipe.vae.to("meta")
    frames = pipe.decode(torch.zeros(1, 4, 3, 8, 6, device="meta"), "pt", decode_chunk_size=2)
    assert frames.is_meta and frames.shape == (1, 3, 3, 64, 48)


def test_the_device_is_looked_up_once_a_call(pipe, animate, monkeypatch):
    """diffusers walks all modules of all networks for it."""
    looked_up = []
    monkeypatch.setattr(
        DiffusionPipeline, "_execution_device", property(lambda self: looked_up.append(1) or self.device)
    )
    animate(pipe, num_inference_steps=1)
    assert len(looked_up) == 1
    with pytest.raises(ZeroDivisionError):
        animate(pipe, callback_on_step_end=lambda *_: 1 / 0)
    assert len(looked_up) == 2
    pipe.to("meta")
    assert pipe._execution_device == torch.device("meta")


def test_images_are_parsed_once(pipe, animate, image, condition, monkeypatch):
    parsed, image_tensor = [], images.image_tensor
    monkeypatch.setattr(images, "image_tensor", lambda *args: parsed.append(args) or image_tensor(*args))
    animate(pipe, image=[image, image], num_inference_steps=1)
    assert len(parsed) == 2
    list(pipe.stream(image, condition, num_inference_steps=1))
    assert len(parsed) == 3


def test_same_seed_same_frames(pipe, animate):
    assert torch.equal(animate(pipe, seed=3), animate(pipe, seed=3))
    assert not torch.allclose(animate(pipe, seed=3), animate(pipe, seed=4), atol=1e-3)


def test_any_multiple_of_the_vae_factor_is_a_size(pipe, animate):
    assert animate(pipe, height=72, width=40, num_inference_steps=1).shape[-2:] == (72, 40)


def test_every_condition_changes_the_output(pipe, animate, image, condition):
    base = animate(pipe)
    other_picture = PIL.Image.fromarray(255 - np.asarray(image))
    for change in (
        {"image": other_picture},
        {"conditioning_frames": condition.flip(0)},
        {"conditioning_frames": torch.cat([condition[:, :3], 1 - condition[:, 3:]], 1)},
        {"guidance_scale": 6.0},
        {"controlnet_conditioning_scale": 0.5},
        {"control_guidance_end": 0.5},
        {"reference_noise": False},
        {"shared_noise": 0.5},
        {"image_embeds": torch.ones(1, 1, 32)},
    ):
        assert (animate(pipe, **change) - base).abs().max() > 1e-4, change


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_guidance": True, "context_batch_size": 2},
        {"guider": ClassifierFreeGuidance(start=0.3, stop=0.7)},
    ],
)
def test_nothing_waits_for_the_device(pipe, animate, monkeypatch, options):
    """On the meta device there are no values that the host could look at: who looks, fails."""
    monkeypatch.setattr(
        "hia_diffusers.pipelines.call_stages.ConditioningEmbeddings",  # of long clips are kept on the host
        functools.partial(ConditioningEmbeddings, device=torch.device("meta")),
    )
    for network in pipe.components.values():
        if isinstance(network, torch.nn.Module):
            network.to("meta")
    if "guider" in options:
        enable_deep_cache(pipe, 2)
    for num_frames in (6,) if options else (3, 6):
        pipe.scheduler = ShiftedSNRScheduler()  # the last one's numbers went to the device
        condition = torch.rand(num_frames, 6, 64, 48)
        windows = {"context_frames": 4, "context_overlap": 2}
        latents = animate(pipe, conditioning_frames=condition, output_type="latent", **windows, **options)
        assert latents.is_meta and latents.shape == (1, 4, num_frames, 8, 6)


# Forms of the inputs


def test_forms_of_the_picture_are_equal(pipe, animate, image):
    base = animate(pipe)
    array = np.asarray(image).astype(np.float32) / 255
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    for form in (array, array[None], tensor, tensor[None], [image], [array], [tensor]):
        assert_equal_up_to_rounding(animate(pipe, image=form), base)


def test_forms_of_the_conditioning_frames_are_equal(pipe, animate):
    maps = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), dtype=np.uint8)
    pictures = [PIL.Image.fromarray(frame) for frame in maps]
    base = animate(pipe, conditioning_frames=pictures)
    tensor = torch.from_numpy(maps).permute(0, 3, 1, 2) / 255
    blur_unknown = torch.cat([tensor, torch.zeros_like(tensor)], 1)
    condition = MotionBlurConditioner().from_pose_video(pictures)
    for form in (condition, tensor, blur_unknown, tensor[None], [pictures], [condition], [blur_unknown]):
        assert_equal_up_to_rounding(animate(pipe, conditioning_frames=form), base)


@torch.no_grad()
@pytest.mark.parametrize("form", ["pil", "array", "tensor"])
@pytest.mark.parametrize(("height", "width"), [(64, 48), (96, 72), (256, 192)])
def test_a_picture_is_resized_with_antialiasing_in_every_form(pipe, form, height, width):
    """Nearly as by Lanczos, and far from the nearest pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (192, 144, 3), dtype=np.uint8)
    forms = {"pil": PIL.Image.fromarray(noise), "array": noise.astype(np.float32) / 255}
    forms["tensor"] = torch.from_numpy(forms["array"]).permute(2, 0, 1)
    found, lanczos, nearest = (
        pipe.encode_reference_latents(image, height, width)
        for image in (
            forms[form],
            forms["pil"].resize((width, height), PIL.Image.Resampling.LANCZOS),
            forms["pil"].resize((width, height), PIL.Image.Resampling.NEAREST),
        )
    )
    assert (found - lanczos).square().mean() < 0.1 * (nearest - lanczos).square().mean()


def test_size_defaults_to_that_of_the_conditioning_frames(pipe, animate, condition):
    assert animate(pipe, image=PIL.Image.new("RGB", (100, 30))).shape[-2:] == condition.shape[-2:]


@pytest.mark.parametrize("output_type", ["pil", "np", "pt"])
def test_a_stream_is_the_call_frame_by_frame(pipe, image, condition, output_type):
    arguments = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": output_type, "decode_chunk_size": 2}
    whole = pipe(image, condition, generator=seeded(), **arguments).frames[0]
    decoded = []
    pipe.vae.decoder.register_forward_pre_hook(lambda module, args: decoded.append(len(args[0])))
    stream = pipe.stream(image, condition, generator=seeded(), **arguments)
    assert decoded == []
    for expected, got in zip(whole, stream, strict=True):
        assert type(got) is type(expected)
        assert np.allclose(np.asarray(got), np.asarray(expected), atol=1e-6)
    assert decoded == [2, 1]


@pytest.mark.parametrize(
    "named, changes",
    [
        ("output_type", {"output_type": "latent"}),
        ("decode_chunk_size", {"decode_chunk_size": 0}),
        ("conditioning_frames", {"num_videos_per_prompt": 2}),
        ("guidance_scale", {"guidance_scale": "high"}),
    ],
)
def test_a_stream_refuses_what_it_cannot_use_when_it_is_asked_for(pipe, image, condition, named, changes):
    with pytest.raises((TypeError, ValueError), match=f"`{named}`"):
        pipe.stream(image, condition, num_inference_steps=1, **changes)


@torch.no_grad()
def test_the_stages_called_one_by_one_are_the_call(pipe, animate, image, condition):
    frames = pipe.prepare_conditioning_frames(condition, height=64, width=48)
    assert torch.equal(frames.read(range(3)), condition[None])
    reference_latents = pipe.encode_reference_latents(image, height=64, width=48)
    conditions = pipe.prepare_conditions(pipe.encode_image(image), reference_latents, frames)
    times = pipe.prepare_timesteps(2)
    latents = pipe.prepare_latents((1, 4, 3, 8, 6), reference_latents, times[0], generator=seeded())
    clean = pipe.denoise(latents, times, conditions)
    video = pipe.video_processor.postprocess_video(pipe.decode_latents(clean), output_type="pt")
    assert torch.equal(video, animate(pipe))


# Guidance, reference noise, windows: each against its formula


@torch.no_grad()
def conditions_of(pipe, image, condition):
    """What the denoiser is given besides latents, with conditioning frames as plain pixels."""
    states, null_states = pipe.encode_image(image)
    conditions = HIAConditions(
        states,
        pipe.encode_reference_latents(image, 64, 48),
        condition[None],
        null_encoder_hidden_states=null_states,
    )
    return HIADenoiser.of_pipeline(pipe).read_reference(conditions)


@torch.no_grad()
def test_animation_cfg(pipe, condition, image):
    """Eq. 4 with its sign set right; the unconditional branch sees no reference, no ControlNet and no context."""
    sample = torch.randn(1, 4, 3, 8, 6, generator=seeded())
    conditions = conditions_of(pipe, image, condition)
    states = conditions.encoder_hidden_states
    down, mid = pipe.controlnet(
        sample.transpose(1, 2).flatten(0, 1), 500, states.repeat_interleave(3, 0), condition, return_dict=False
    )
    conditional = pipe.unet(
        sample,
        500,
        states,
        reference_features=conditions.reference.features,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample
    unconditional = pipe.unet(sample, 500, torch.zeros_like(states)).sample
    assert (conditional - unconditional).abs().max() > 1e-2
    denoiser = HIADenoiser.of_pipeline(pipe)
    for scale in (1.0, 3.5):
        predicted = denoiser.guided(sample, torch.tensor(500), conditions, classifier_free_guidance(scale))
        expected = unconditional + scale * (conditional - unconditional)
        assert torch.allclose(predicted, expected, atol=1e-5)


@pytest.mark.parametrize("adapter", [False, True])
def test_guidance_in_one_call_is_guidance_in_two(pipe, animate, adapter):
    extra = {}
    if adapter:
        add_ip_adapter(pipe)
        extra["ip_adapter_image"] = PIL.Image.new("RGB", (48, 64), "red")
    batches = []
    pipe.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    separate = animate(pipe, guidance_scale=2.0, **extra)
    assert batches == [1, 1, 1, 1]
    batches.clear()
    together = animate(pipe, guidance_scale=2.0, batch_guidance=True, **extra)
    assert batches == [2, 2]
    assert torch.allclose(together, separate, atol=1e-5)


def test_guidance_between_two_steps(pipe, animate):
    batches = []
    pipe.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    arguments = {"num_inference_steps": 4, "batch_guidance": True}
    inside = animate(pipe, guider=ClassifierFreeGuidance(2.0, start=0.25, stop=0.75), **arguments)
    assert batches == [1, 2, 2, 1]
    assert not torch.allclose(inside, animate(pipe, guidance_scale=2.0, **arguments), atol=1e-4)
    assert torch.equal(
        animate(pipe, guider=ClassifierFreeGuidance(2.0, start=0.0, stop=0.2), **arguments),
        animate(pipe, num_inference_steps=4, guidance_scale=1.0),
    )


@pytest.mark.parametrize(
    "guider",
    [
        AdaptiveProjectedGuidance(2.0, adaptive_projected_guidance_momentum=-0.5, eta=0.5),
        AdaptiveProjectedMixGuidance(2.0, adaptive_projected_guidance_start_step=0),
        ClassifierFreeZeroStarGuidance(2.0, zero_init_steps=0),
        ClassifierFreeGuidance(1.0, use_original_formulation=True, guidance_rescale=0.7),
        TangentialClassifierFreeGuidance(2.0),
    ],
    ids=lambda guider: type(guider).__name__,
)
def test_guiders_of_diffusers(pipe, animate, guider):
    """Each combines the branches in its own way, however they are batched, and stays as it is."""
    before = dict(vars(guider))
    base = animate(pipe, guidance_scale=2.0)
    guided = animate(pipe, guider=guider)
    assert guided.isfinite().all()
    assert not torch.allclose(guided, base, atol=1e-4)
    assert torch.allclose(animate(pipe, guider=guider, batch_guidance=True), guided, atol=1e-4)
    assert vars(guider) == before


def test_a_guider_with_the_same_scale_is_the_guidance_of_the_call(pipe, animate):
    assert torch.equal(animate(pipe, guider=ClassifierFreeGuidance(2.0)), animate(pipe, guidance_scale=2.0))


def test_no_unconditional_branch_at_guidance_of_one(pipe, animate):
    calls = []
    pipe.unet.register_forward_pre_hook(
        lambda m, args, kwargs: calls.append(kwargs.get("reference_features") is None), with_kwargs=True
    )
    animate(pipe, guidance_scale=1.0)
    assert calls == [False, False]
    calls.clear()
    animate(pipe, guidance_scale=2.0)
    assert calls == [False, True, False, True]


@torch.no_grad()
def test_initial_reference_noise(pipe, image):
    shape = (1, 4, 3, 8, 6)
    reference = pipe.encode_reference_latents(image, 64, 48)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    expected = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
    assert torch.allclose(reference, expected, atol=1e-6)

    noise = torch.randn(shape, generator=seeded())
    alpha = pipe.scheduler.alphas_cumprod[999]
    latents = pipe.prepare_latents(shape, reference, torch.tensor(999), generator=seeded())
    assert torch.allclose(latents, alpha.sqrt() * reference[:, :, None] + (1 - alpha).sqrt() * noise, atol=1e-6)
    assert torch.equal(pipe.prepare_latents(shape, reference, torch.tensor(999), False, seeded()), noise)
    assert torch.equal(pipe.prepare_latents(shape, reference, torch.tensor(999), latents=noise), latents)

    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(4)
    sigma = ((1 - alpha) / alpha).sqrt()
    latents = pipe.prepare_latents(shape, reference, pipe.scheduler.timesteps[0], generator=seeded())
    assert torch.allclose(latents, reference[:, :, None] + sigma * noise, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_frames_share_so_much_of_the_noise(pipe, image, share):
    shape = (2, 4, 2, 64, 48)
    reference = torch.zeros(1, 4, 64, 48)
    generators = [seeded(0), seeded(1)]
    noise = pipe.prepare_latents(shape, reference, torch.tensor(999), False, generators, shared_noise=share)
    first, second = noise.unbind(dim=2)
    assert abs(noise.var().item() - 1) < 0.02
    assert abs((first * second).mean().item() - share) < 0.02
    assert abs((first[0] * first[1]).mean().item()) < 0.02  # clips have nothing in common
    alone = pipe.prepare_latents((1, *shape[1:]), reference, torch.tensor(999), False, seeded(1), shared_noise=share)
    assert torch.equal(alone[0], noise[1])


def test_denoising_starts_at_999_from_the_reference(pipe, animate, image):
    seen = []

    def look(pipeline, step, timestep, tensors):
        seen.append(int(timestep))
        return {}

    animate(pipe, num_inference_steps=3, callback_on_step_end=look)
    assert seen[0] == 999


@pytest.mark.parametrize("shift", [False, True])
def test_long_clips_average_the_windows(pipe, shift, image):
    """Against a loop that predicts each window alone; with context_shift the windows move at each step."""
    num_frames, size, overlap, steps = 7, 4, 1, 2
    condition = torch.rand(num_frames, 6, 64, 48, generator=seeded(2))
    got = pipe(
        image,
        condition,
        num_inference_steps=steps,
        guidance_scale=1.0,
        context_frames=size,
        context_overlap=overlap,
        context_shift=shift,
        generator=seeded(),
        output_type="latent",
    ).frames
    disable_deep_cache(pipe)
    conditions, denoiser = conditions_of(pipe, image, condition), HIADenoiser.of_pipeline(pipe)
    with torch.no_grad():
        reference_latents = pipe.encode_reference_latents(image, 64, 48)
        pipe.scheduler.set_timesteps(steps)
        latents = pipe.prepare_latents(
            (1, 4, num_frames, 8, 6), reference_latents, pipe.scheduler.timesteps[0], generator=seeded()
        )
        offsets, plans = seeded(0), []
        for t in pipe.scheduler.timesteps:
            plans.append(context_windows(num_frames, size, overlap, shift, offsets))
            predictions = [[] for _ in range(num_frames)]
            for window in plans[-1]:
                frames = list(window)
                noise = denoiser(latents[:, :, frames], t, conditions.window(window))
                for i, frame in enumerate(frames):
                    predictions[frame].append(noise[:, :, i])
            mean = torch.stack([torch.stack(p).mean(0) for p in predictions], dim=2)
            latents = pipe.scheduler.step(mean, t, latents).prev_sample
    assert torch.allclose(got, latents, atol=1e-5)
    assert (plans[0] != plans[1]) == shift


@pytest.mark.parametrize("batch_guidance", [False, True])
def test_windows_at_a_time_change_nothing(pipe, image, condition, batch_guidance):
    """Two clips of 4 or 5 windows, 3 at a time, so that the last batch is smaller than the others."""
    conditions = torch.rand(2, 10, 6, 64, 48, generator=seeded(2))
    batches = []
    pipe.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    one, three = (
        pipe(
            image,
            conditions,
            num_inference_steps=2,
            guidance_scale=2.0,
            batch_guidance=batch_guidance,
            context_frames=4,
            context_overlap=2,
            context_batch_size=size,
            generator=[seeded(0), seeded(1)],
            output_type="pt",
        ).frames
        for size in (1, 3)
    )
    branches = 2 if batch_guidance else 1
    assert {2 * branches, 6 * branches} < set(batches)
    assert torch.allclose(one, three, atol=1e-5)


@pytest.mark.parametrize("num_frames", [1, 2, 3])
def test_short_clips_equal_the_plain_loop(pipe, image, num_frames):
    condition = torch.rand(num_frames, 6, 64, 48, generator=seeded(2))
    arguments = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    results = [
        pipe(image, condition, generator=seeded(), context_frames=size, context_shift=shift, **arguments).frames
        for size, shift in ((16, False), (16, True), (5, True))
    ]
    disable_deep_cache(pipe)
    conditions, denoiser = conditions_of(pipe, image, condition), HIADenoiser.of_pipeline(pipe)
    with torch.no_grad():
        reference_latents = pipe.encode_reference_latents(image, 64, 48)
        pipe.scheduler.set_timesteps(2)
        latents = pipe.prepare_latents(
            (1, 4, num_frames, 8, 6), reference_latents, pipe.scheduler.timesteps[0], generator=seeded()
        )
        for t in pipe.scheduler.timesteps:
            noise = denoiser(latents, t, conditions)
            latents = pipe.scheduler.step(noise, t, latents).prev_sample
    for result in results:
        assert_equal_up_to_rounding(result, latents)


def test_reference_is_encoded_and_projected_once_per_clip(pipe, image):
    """Over 2 steps and 3 windows: one pass of the appearance encoder, one extra call of each to_k and to_v."""
    encoded, projected = [], {}
    pipe.appearance_encoder.register_forward_hook(lambda *_: encoded.append(1))
    for name in pipe.unet.reference_names:
        attention = pipe.unet.get_submodule(name).attn1
        for layer in ("to_k", "to_v"):
            getattr(attention, layer).register_forward_hook(
                lambda *_, key=(name, layer): projected.update({key: projected.get(key, 0) + 1})
            )
    condition = torch.rand(10, 6, 64, 48, generator=seeded(2))
    pipe(image, condition, num_inference_steps=2, context_frames=4, context_overlap=1, context_shift=False)
    own = 2 * 3 * 2  # steps, windows, branches
    assert encoded == [1]
    assert set(projected) == {(name, layer) for name in pipe.unet.reference_names for layer in ("to_k", "to_v")}
    assert set(projected.values()) == {own + 1}


@pytest.mark.parametrize("shift", [False, True])
def test_each_conditioning_frame_is_embedded_once(pipe, image, shift):
    """Over 3 steps and windows that share frames; the tests above show that the result is that of plain frames."""
    embedded = []
    pipe.controlnet.controlnet_cond_embedding.conv_in.register_forward_pre_hook(
        lambda module, args: embedded.extend(args[0].flatten(1).mean(1).tolist())
    )
    condition = torch.rand(10, 6, 64, 48, generator=seeded(2))
    pipe(image, condition, num_inference_steps=3, context_frames=4, context_overlap=1, context_shift=shift)
    assert sorted(embedded) == pytest.approx(sorted(condition.flatten(1).mean(1).tolist()), rel=1e-5)


def test_reference_timestep_current_encodes_at_each_step(pipe, animate):
    times = []
    pipe.register_to_config(reference_timestep="current")
    pipe.appearance_encoder.register_forward_pre_hook(lambda m, args: times.append(int(args[1])))
    animate(pipe, num_inference_steps=2)
    assert times == [int(t) for t in pipe.scheduler.timesteps]


def test_control_guidance_window(pipe, animate):
    calls = []
    pipe.controlnet.register_forward_hook(lambda *_: calls.append(1))
    animate(pipe, num_inference_steps=4, control_guidance_start=0.25, control_guidance_end=0.75)
    assert len(calls) == 2


# Batches


def test_a_batch_of_two_clips_equals_the_clips_alone(pipe, image, condition):
    pictures = [image, PIL.Image.fromarray(255 - np.asarray(image))]
    conditions = [condition, condition.flip(0)]
    arguments = {"num_inference_steps": 2, "output_type": "pt", "context_frames": 2, "context_overlap": 1}
    batch = pipe(pictures, conditions, generator=[seeded(1), seeded(2)], **arguments).frames
    for i in range(2):
        alone = pipe(pictures[i], conditions[i], generator=[seeded(i + 1)], **arguments).frames
        assert torch.allclose(batch[i], alone[0], atol=1e-5)
    assert not torch.allclose(batch[0], batch[1], atol=1e-2)


def test_one_picture_with_two_motions_and_two_videos_of_each(pipe, image, condition):
    conditions = torch.stack([condition, condition.flip(0)])
    arguments = {"num_inference_steps": 1, "output_type": "pt"}
    generators = [seeded(i) for i in range(4)]
    batch = pipe(image, conditions, num_videos_per_prompt=2, generator=generators, **arguments).frames
    for i in range(4):
        alone = pipe(image, conditions[i // 2], generator=seeded(i), **arguments).frames
        assert torch.allclose(batch[i], alone[0], atol=1e-5)


# Reuse of deep blocks


def enable_deep_cache(pipe, interval):
    for network in (pipe.unet, pipe.controlnet):
        network.enable_cache(DeepCacheConfig(interval))


def disable_deep_cache(pipe):
    for network in (pipe.unet, pipe.controlnet):
        network.disable_cache()


def deep_blocks(unet):
    return [*unet.down_blocks[1:], unet.mid_block, *unet.up_blocks[:-1]]


def count_calls(**modules):
    calls = dict.fromkeys(modules, 0)
    for name, module in modules.items():
        module.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
    return calls


def test_deep_blocks_give_what_they_gave(pipe, image, condition, monkeypatch):
    """Two steps, of which the second reuses, against one whole step and one by blocks that are made to repeat."""
    enable_deep_cache(pipe, 2)
    got = pipe(
        image,
        condition,
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=seeded(),
        output_type="latent",
    ).frames
    disable_deep_cache(pipe)
    conditions, denoiser = conditions_of(pipe, image, condition), HIADenoiser.of_pipeline(pipe)
    with torch.no_grad():
        reference_latents = pipe.encode_reference_latents(image, 64, 48)
        pipe.scheduler.set_timesteps(2)
        first, second = pipe.scheduler.timesteps
        latents = pipe.prepare_latents((1, 4, 3, 8, 6), reference_latents, first, generator=seeded())
        outputs = {}
        hooks = [
            block.register_forward_hook(lambda block, args, output: outputs.update({block: output}))
            for block in (pipe.controlnet, *deep_blocks(pipe.unet))
        ]
        noise = denoiser(latents, first, conditions)
        latents = pipe.scheduler.step(noise, first, latents).prev_sample
        for hook in hooks:
            hook.remove()
        whole = denoiser(latents, second, conditions)
        for block, output in outputs.items():
            monkeypatch.setattr(block, "forward", lambda *args, output=output, **kwargs: output)
        noise = denoiser(latents, second, conditions)
    assert not torch.allclose(noise, whole, atol=1e-4)
    assert torch.allclose(got, pipe.scheduler.step(noise, second, latents).prev_sample, atol=1e-5)


def test_deep_blocks_run_in_every_third_step_and_where_settings_change(pipe, animate):
    unet = pipe.unet
    calls = count_calls(
        deep=unet.mid_block.resnets[0], outer=unet.up_blocks[-1], control=pipe.controlnet.mid_block.resnets[0]
    )
    enable_deep_cache(pipe, 3)
    cached = animate(pipe, num_inference_steps=6, guidance_scale=1.0)
    assert calls == {"deep": 2, "outer": 6, "control": 2}
    calls.update(dict.fromkeys(calls, 0))
    # Guidance sets in at the third of 6 steps: whole steps are 0, 2 and 5, the last two with both branches.
    animate(pipe, num_inference_steps=6, guider=ClassifierFreeGuidance(2.0, start=2 / 6))
    assert calls == {"deep": 1 + 2 + 2, "outer": 2 + 4 * 2, "control": 3}
    disable_deep_cache(pipe)
    calls.update(dict.fromkeys(calls, 0))
    whole = animate(pipe, num_inference_steps=6, guidance_scale=1.0)
    assert calls == {"deep": 6, "outer": 6, "control": 6}
    assert not torch.allclose(cached, whole, atol=1e-4)


def test_each_network_has_its_own_cache(pipe, animate):
    calls = count_calls(unet=pipe.unet.mid_block.resnets[0], control=pipe.controlnet.mid_block.resnets[0])
    pipe.unet.enable_cache(DeepCacheConfig(interval=2))
    animate(pipe, num_inference_steps=4, guidance_scale=1.0)
    assert calls == {"unet": 2, "control": 4}


@pytest.mark.parametrize("options", [{}, {"context_batch_size": 2}, {"batch_guidance": True}])
def test_windows_keep_their_own_deep_blocks(pipe, image, options):
    """Two windows that share no frame: each is what it is alone."""
    enable_deep_cache(pipe, 2)
    halves = [torch.rand(1, 6, 64, 48, generator=seeded(i)).expand(4, -1, -1, -1) for i in range(2)]
    noise = [torch.randn(1, 4, 1, 8, 6, generator=seeded(i)).expand(-1, -1, 4, -1, -1) for i in range(2)]
    arguments = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "latent"}
    together = pipe(
        image,
        torch.cat(halves),
        latents=torch.cat(noise, dim=2),
        context_frames=4,
        context_overlap=0,
        context_shift=False,
        **arguments,
        **options,
    ).frames
    alone = [pipe(image, half, latents=own, **arguments).frames for half, own in zip(halves, noise, strict=True)]
    assert torch.allclose(together, torch.cat(alone, dim=2), rtol=1e-4, atol=1e-3)


def test_nothing_is_kept_after_a_call_or_an_error(pipe, animate):
    base = animate(pipe)
    forwards = [block.forward for block in deep_blocks(pipe.unet)]
    enable_deep_cache(pipe, 2)
    kept = []
    pipe.unet.mid_block.register_forward_hook(lambda module, args, output: kept.append(weakref.ref(output)))

    def fail(*_):
        assert any(output() is not None for output in kept)
        raise KeyboardInterrupt

    animate(pipe, callback_on_step_end=None)
    assert all(output() is None for output in kept)
    with pytest.raises(KeyboardInterrupt):
        animate(pipe, callback_on_step_end=fail)
    gc.collect()
    assert all(output() is None for output in kept)
    disable_deep_cache(pipe)
    assert [block.forward for block in deep_blocks(pipe.unet)] == forwards
    assert torch.equal(animate(pipe), base)


# Schedulers, callbacks


@pytest.mark.parametrize(
    "scheduler",
    [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, LCMScheduler],
)
def test_other_schedulers_run(pipe, animate, scheduler):
    base = animate(pipe, num_inference_steps=4)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    frames = animate(pipe, num_inference_steps=4)
    assert frames.isfinite().all()
    if scheduler is DDIMScheduler:
        assert torch.equal(frames, base)


def test_custom_timesteps(pipe, animate):
    seen = []
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    animate(pipe, timesteps=[999, 500, 20], callback_on_step_end=lambda p, i, t, kw: seen.append(int(t)) or {})
    assert seen == [999, 500, 20]


def test_eta_draws_from_the_generator(pipe, animate):
    assert torch.equal(animate(pipe, eta=0.7), animate(pipe, eta=0.7))
    assert not torch.allclose(animate(pipe, eta=0.7), animate(pipe), atol=1e-3)


def test_callback_may_replace_latents_and_interrupt(pipe, animate):
    zeroed = animate(
        pipe, output_type="latent", callback_on_step_end=lambda p, i, t, kw: {"latents": kw["latents"] * 0}
    )
    assert not zeroed.any()

    steps = []

    def stop(pipeline, i, t, tensors):
        steps.append(i)
        pipeline._interrupt = True
        return {}

    animate(pipe, num_inference_steps=4, callback_on_step_end=stop)
    assert steps == [0]


def test_callback_may_change_guidance(pipe, animate):
    """By the attribute that diffusers' callbacks set, from the next step on."""
    batches = []
    pipe.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))

    def cut_off(pipeline, step, timestep, tensors):
        assert pipeline.guidance_scale == (2.0 if step == 0 else 0.0)
        pipeline._guidance_scale = 0.0
        return {}

    arguments = {"num_inference_steps": 3, "guidance_scale": 2.0, "batch_guidance": True}
    frames = animate(pipe, callback_on_step_end=cut_off, **arguments)
    assert batches == [2, 1, 1] and not pipe.do_classifier_free_guidance
    del arguments["guidance_scale"]
    assert torch.equal(frames, animate(pipe, guider=ClassifierFreeGuidance(2.0, stop=0.34), **arguments))


def test_what_a_callback_sees_of_the_call(pipe, animate):
    seen = []

    class Look(PipelineCallback):
        tensor_inputs = ["latents"]

        def callback_fn(self, pipeline, step, timestep, tensors):
            assert pipeline.current_timestep == timestep and tensors["latents"].shape == (1, 4, 3, 8, 6)
            seen.append((pipeline.num_timesteps, pipeline.cross_attention_kwargs, pipeline.interrupt))
            return tensors

    animate(pipe, cross_attention_kwargs={"scale": 0.5}, callback_on_step_end=Look(cutoff_step_ratio=1.0))
    assert seen == [(2, {"scale": 0.5}, False)] * 2


# Components


def test_text_context_is_the_same_in_both_branches(pipe, animate, text_parts, image):
    parts = {**pipe.components, **text_parts, "image_encoder": None, "feature_extractor": None}
    text_pipe = HIAPipeline(**parts)
    text_pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        conditional, unconditional = text_pipe.encode_image([image, image])
    assert conditional.shape == (2, 5, 32) and torch.equal(conditional, unconditional)
    frames = animate(text_pipe)
    assert_equal_up_to_rounding(frames, animate(text_pipe, prompt_embeds=conditional[:1]))


@torch.no_grad()
def test_image_context_is_zero_in_the_unconditional_branch(pipe, image):
    conditional, unconditional = pipe.encode_image(image)
    pixels = pipe.feature_extractor(images=image, return_tensors="pt").pixel_values
    assert torch.allclose(conditional[0, 0], pipe.image_encoder(pixels).image_embeds[0], atol=1e-4)
    assert conditional.shape == (1, 1, 32) and not unconditional.any()


def with_vae(pipe, autoencoder, **options):
    torch.manual_seed(0)
    other = HIAPipeline(**{**pipe.components, "vae": autoencoder(**options).eval()})
    other.set_progress_bar_config(disable=True)
    return other


def test_tiny_autoencoder(pipe, animate):
    blocks = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    small = with_vae(pipe, AutoencoderTiny, **blocks, num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4)
    assert animate(small).shape == (1, 3, 3, 64, 48)


@pytest.fixture
def dc_pipe(pipe):
    return with_vae(pipe, AutoencoderDC, **autoencoder_dc(scaling_factor=0.5))


@torch.no_grad()
def test_deep_compression_autoencoder(dc_pipe, animate, image, tmp_path):
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    reference = dc_pipe.encode_reference_latents(image, 64, 48)
    assert torch.allclose(reference, 0.5 * dc_pipe.vae.encode(pixels).latent, atol=1e-6)
    clean = animate(dc_pipe, output_type="latent")
    frames = animate(dc_pipe)
    expected = dc_pipe.vae.decode(clean[0].transpose(0, 1) / 0.5).sample
    assert torch.allclose(frames[0], (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)
    assert expected.std() > 1e-3
    dc_pipe.save_pretrained(tmp_path)
    again = HIAPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert isinstance(again.vae, AutoencoderDC)
    assert_equal_up_to_rounding(animate(again), frames)
    assert torch.allclose(animate(again.to(torch.bfloat16)), frames, atol=0.2)


def test_deep_compression_autoencoder_saves_memory_as_others_do(dc_pipe, animate):
    base = animate(dc_pipe)
    assert torch.allclose(animate(dc_pipe, decode_chunk_size=1), base, atol=1e-5)
    dc_pipe.vae.enable_slicing()
    assert torch.allclose(animate(dc_pipe), base, atol=1e-5)
    dc_pipe.vae.enable_tiling(48, 48, 32, 32)
    difference = (animate(dc_pipe) - base).abs()
    assert 0 < difference.mean() < 0.2 * base.std()
    dc_pipe.vae.disable_tiling()
    dc_pipe.enable_model_cpu_offload(device="cpu")
    assert torch.allclose(animate(dc_pipe), base, atol=1e-5)
    dc_pipe.remove_all_hooks()
    offload_sequentially(dc_pipe)
    assert torch.allclose(animate(dc_pipe), base, atol=1e-5)


def test_vae_slicing_and_chunks_change_nothing(pipe, animate):
    base = animate(pipe)
    assert torch.allclose(animate(pipe, decode_chunk_size=1), base, atol=1e-5)
    pipe.vae.enable_slicing()
    assert torch.allclose(animate(pipe), base, atol=1e-5)


def test_components_build_the_same_pipeline(pipe, animate):
    again = HIAPipeline(**pipe.components)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(animate(again), animate(pipe))


def test_plain_unets_are_converted(pipe):
    plain = UNet2DConditionModel(**UNET)
    for unet in (plain, UNetMotionModel.from_unet2d(plain)):
        converted = HIAPipeline(**{**pipe.components, "unet": unet}).unet
        assert type(converted) is HIAUNetMotionModel
        assert torch.equal(converted.conv_in.weight, plain.conv_in.weight)


def test_from_pipe_to_animatediff_and_back(pipe, animate, text_parts):
    base = animate(pipe)
    adapter = MotionAdapter(block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=8)
    # diffusers hands over components of exactly the annotated class, so the UNet, a subclass, is named.
    animatediff = AnimateDiffPipeline.from_pipe(
        pipe,
        unet=pipe.unet,
        motion_adapter=adapter,
        scheduler=DDIMScheduler.from_config(pipe.scheduler.config),
        **text_parts,
    )
    assert animatediff.unet is pipe.unet and animatediff.vae is pipe.vae
    animatediff.set_progress_bar_config(disable=True)
    clip = animatediff("a", num_frames=2, height=64, width=48, num_inference_steps=1, output_type="pt").frames
    assert clip.shape == (1, 2, 3, 64, 48) and clip.isfinite().all()

    back = HIAPipeline.from_pipe(
        animatediff,
        appearance_encoder=pipe.appearance_encoder,
        controlnet=pipe.controlnet,
        image_encoder=pipe.image_encoder,
        feature_extractor=pipe.feature_extractor,
        text_encoder=None,
        tokenizer=None,
        scheduler=ShiftedSNRScheduler(),
    )
    back.set_progress_bar_config(disable=True)
    assert back.unet is pipe.unet
    assert torch.equal(animate(back), base)


# Nothing drops a condition


def add_lora(pipe, scale=1.0):
    """A LoRA on the UNet's self- and cross-attention, saved and loaded as users do."""
    from peft import LoraConfig, get_peft_model_state_dict

    donor = copy.deepcopy(pipe.unet)
    donor.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    for name, parameter in donor.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=seeded(5))
    return get_peft_model_state_dict(donor)


def test_lora_loads_scales_and_unloads(pipe, animate, tmp_path):
    base = animate(pipe)
    HIAPipeline.save_lora_weights(tmp_path, unet_lora_layers=add_lora(pipe))
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    with_lora = animate(pipe)
    assert (with_lora - base).abs().max() > 1e-2
    half = animate(pipe, cross_attention_kwargs={"scale": 0.5})
    assert (half - base).abs().max() > 1e-3 and (half - with_lora).abs().max() > 1e-3
    assert torch.allclose(animate(pipe, cross_attention_kwargs={"scale": 0.0}), base, atol=1e-5)
    pipe.set_adapters(["style"], [0.5])
    assert torch.allclose(animate(pipe), half, atol=1e-5)
    pipe.unload_lora_weights()
    assert torch.allclose(animate(pipe), base, atol=1e-6)


def add_ip_adapter(pipe):
    """An IP-Adapter in its published key layout with random weights, for the UNet's cross-attentions."""
    torch.manual_seed(0)
    state = {
        "image_proj": {
            "proj.weight": torch.randn(4 * 32, 32) * 0.3,
            "proj.bias": torch.zeros(4 * 32),
            "norm.weight": torch.ones(32),
            "norm.bias": torch.zeros(32),
        },
        "ip_adapter": {},
    }
    key_id = 1
    for name in pipe.unet.attn_processors:
        if name.endswith("attn2.processor") and "motion_modules" not in name:
            attention = pipe.unet.get_submodule(name.removesuffix(".processor"))
            for layer in ("k", "v"):
                state["ip_adapter"][f"{key_id}.to_{layer}_ip.weight"] = torch.randn(attention.inner_dim, 32) * 0.3
            key_id += 2
    pipe.load_ip_adapter(state, subfolder="", weight_name="ip")


def offload_sequentially(pipe):
    """What `enable_sequential_cpu_offload` does to each network; itself it needs an accelerator."""
    for network in pipe.components.values():
        if isinstance(network, torch.nn.Module):
            accelerate.cpu_offload(network, torch.device("cpu"))


@pytest.mark.parametrize(
    "change",
    [
        lambda pipe: pipe.enable_attention_slicing(),
        lambda pipe: pipe.enable_attention_slicing("max"),
        lambda pipe: pipe.unet.fuse_qkv_projections(),
        lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.1, 1.2),
        lambda pipe: pipe.load_lora_weights(add_lora(pipe)),
        lambda pipe: add_ip_adapter(pipe),
        lambda pipe: pipe.enable_group_offload(
            onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
        ),
        lambda pipe: pipe.enable_model_cpu_offload(device="cpu"),
        offload_sequentially,
        lambda pipe: pipe.to(torch.bfloat16),
    ],
    ids=[
        "slicing",
        "slicing-max",
        "fused-qkv",
        "freeu",
        "lora",
        "ip-adapter",
        "group-offload",
        "model-offload",
        "sequential-offload",
        "bfloat16",
    ],
)
def test_picture_and_motion_keep_their_effect(pipe, animate, image, condition, change):
    change(pipe)
    extra = {"image_embeds": torch.ones(1, 1, 32)}
    if pipe.unet.encoder_hid_proj is not None:
        extra["ip_adapter_image"] = PIL.Image.new("RGB", (48, 64), "red")
    base = animate(pipe, **extra)
    # The reference attention alone: the encoder's features change, initial noise and context stay.
    hook = pipe.appearance_encoder.register_forward_hook(
        lambda module, args, output: type(output)({k: 2 * v for k, v in output.reference_features.items()})
    )
    assert (animate(pipe, **extra) - base).abs().max() > 1e-4
    hook.remove()
    assert (animate(pipe, conditioning_frames=condition.flip(0), **extra) - base).abs().max() > 1e-4


def test_ip_adapter_picture_counts_and_zero_scale_is_off(pipe, animate):
    base = animate(pipe)
    add_ip_adapter(pipe)
    red, blue = (PIL.Image.new("RGB", (48, 64), colour) for colour in ("red", "blue"))
    with_red = animate(pipe, ip_adapter_image=red)
    assert (with_red - animate(pipe, ip_adapter_image=blue)).abs().max() > 1e-4
    with pytest.raises(ValueError, match="ip_adapter_image"):
        animate(pipe)
    pipe.set_ip_adapter_scale(0.0)
    assert torch.allclose(animate(pipe, ip_adapter_image=red), base, atol=1e-5)
    pipe.unload_ip_adapter()
    assert torch.allclose(animate(pipe), base, atol=1e-6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="xformers may run here")
def test_xformers_is_an_error_where_it_cannot_run(pipe):
    with pytest.raises((ModuleNotFoundError, ValueError, RuntimeError), match="xformers"):
        pipe.enable_xformers_memory_efficient_attention()


def test_xformers_without_kernels_is_an_error_that_says_so(pipe, animate, monkeypatch):
    base = animate(pipe)
    package, library = ModuleType("xformers"), ModuleType("xformers._cpp_lib")
    package._cpp_lib = library
    library._cpp_library_load_exception = OSError("xFormers was built for PyTorch 2.10")
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers._cpp_lib", library)
    with pytest.raises(RuntimeError, match="stays on torch's SDPA.*built for PyTorch 2.10"):
        pipe.enable_xformers_memory_efficient_attention()
    assert torch.equal(animate(pipe), base)


def test_motion_modules_stay_on_sdpa_under_xformers(pipe, monkeypatch):
    """Where xformers can run; its processors are real, the check that it is installed is not."""
    monkeypatch.setattr(
        Attention,
        "set_use_memory_efficient_attention_xformers",
        lambda self, valid, attention_op=None: self.set_processor(XFormersAttnProcessor()),
    )
    for enabled in (pipe, pipe.unet):
        pipe.unet.set_attn_processor(AttnProcessor2_0())
        enabled.enable_xformers_memory_efficient_attention()
        for name, processor in pipe.unet.attn_processors.items():
            assert type(processor) is (AttnProcessor2_0 if "motion_modules" in name else XFormersAttnProcessor)


# Empty regions and memory


def test_no_nan_without_hands_face_or_person(pipe, image, animate):
    from hia_diffusers import WholeBodyKeypoints

    nothing = WholeBodyKeypoints(
        xy=np.full((1, 133, 2), np.nan), score=np.zeros((1, 133)), height=64, width=48, fps=30.0
    )
    condition = MotionBlurConditioner()(nothing, sharpness=0.5)
    assert condition.to_tensor().isfinite().all()
    assert animate(pipe, conditioning_frames=condition).isfinite().all()


def test_the_unet_never_sees_more_than_a_window(pipe, image):
    """What the networks are given does not grow with the clip."""
    lengths = {"unet": set(), "controlnet": set(), "vae": set()}
    pipe.unet.register_forward_pre_hook(lambda m, args, kw: lengths["unet"].add(args[0].shape[2]), with_kwargs=True)
    pipe.controlnet.register_forward_pre_hook(
        lambda m, args, kw: lengths["controlnet"].add(len(kw["sample"])), with_kwargs=True
    )
    pipe.vae.decoder.register_forward_pre_hook(lambda m, args: lengths["vae"].add(len(args[0])))
    condition = torch.rand(11, 6, 64, 48, generator=seeded(2))
    pipe(image, condition, num_inference_steps=1, context_frames=4, context_overlap=1, decode_chunk_size=2)
    assert lengths == {"unet": {4}, "controlnet": {4}, "vae": {1, 2}}
