# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The memory of a training step, counted without data, against real passes on the CPU."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderDC, UNet2DConditionModel
from pytorch_optimizer import Muon
from small_networks import autoencoder_dc

from hia_diffusers import HIAAppearanceEncoder, HIAControlNetModel, HIAUNetMotionModel
from hia_diffusers.memory.counting import LiveBytes
from hia_diffusers.memory.training_memory import (
    StepBytes,
    TrainingMemory,
    TrainingSetup,
    count_step,
    estimate_training_memory,
    out_of_memory_advice,
    run_step,
)
from hia_diffusers.models.denoiser import HIAConditions, HIADenoiser
from hia_diffusers.training.stages import STAGES, train_only, trained_parts


SPATIAL = TrainingSetup(trained_parts(STAGES["spatial"]), height=128, width=128)
TEMPORAL = TrainingSetup(trained_parts(STAGES["temporal-full"]), height=64, width=48, num_frames=3, batch_size=2)
REGIONAL = TrainingSetup(trained_parts(STAGES["regional"]), height=64, width=48)


@pytest.fixture(scope="module")
def denoiser():
    """One block of each kind, for speed."""
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=2,
    )
    return HIADenoiser(
        HIAAppearanceEncoder.from_unet(unet),
        HIAControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 16, 16)),
        HIAUNetMotionModel.from_unet2d(unet),
    )


@pytest.fixture(scope="module")
def spatial_step(denoiser):
    return count_step(denoiser, SPATIAL)


@pytest.fixture(scope="module")
def spatial(denoiser, spatial_step):
    return estimate_training_memory(denoiser, SPATIAL, step=spatial_step)


@pytest.fixture(scope="module")
def checkpointed(denoiser):
    return estimate_training_memory(denoiser, replace(SPATIAL, gradient_checkpointing=True))


@pytest.mark.parametrize(
    ("setup", "half", "vae"),
    [
        (replace(SPATIAL, gradient_checkpointing=True, mixed_precision="bf16"), (), None),
        (replace(TEMPORAL, mixed_precision="bf16"), ("appearance_encoder", "controlnet"), None),
        (
            replace(REGIONAL, windows=((1, 16, 16), (2, 8, 8)), mixed_precision="bf16"),
            ("controlnet", "unet", "vae"),
            "kl",
        ),
        (
            replace(REGIONAL, windows=((1, 16, 16), (2, 8, 8)), mixed_precision="bf16"),
            ("controlnet", "unet", "vae"),
            "dc",
        ),
    ],
)
def test_what_is_counted_without_data_is_what_real_tensors_take(denoiser, pristine_pipe, setup, half, vae):
    vae = {None: None, "kl": pristine_pipe.vae, "dc": deep_compression_autoencoder()}[vae]
    estimate = estimate_training_memory(denoiser, setup, vae)
    real = copy.deepcopy(denoiser).train()
    train_only(real, setup.parts)
    networks = dict(real.named_children())
    if vae is not None:
        networks["vae"] = copy.deepcopy(vae).requires_grad_(False).train()
    for name in half:
        networks[name].to(torch.bfloat16)
    step = run_step(real, setup, networks.get("vae"))
    assert estimate.activations == step.activations
    assert estimate.activations + estimate.working == max(step.peak, estimate.gradients)
    assert estimate.weights == sum(num_bytes(network) for network in networks.values())
    trained = [parameter.grad for parameter in real.parameters() if parameter.requires_grad]
    assert estimate.gradients == sum(gradient.nbytes for gradient in trained)


def deep_compression_autoencoder():
    """With attention at the lowest resolution, linear as the latents have more pixels than a head has channels."""
    blocks = ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"]
    return AutoencoderDC(**autoencoder_dc(decoder_block_types=blocks, attention_head_dim=8))


def num_bytes(network):
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def real_inputs(setup):
    generator = torch.Generator().manual_seed(0)
    batch_size, num_frames = setup.batch_size, setup.num_frames
    latent_size = (setup.height // 8, setup.width // 8)
    latents = torch.randn(batch_size, 4, num_frames, *latent_size, generator=generator)
    conditions = HIAConditions(
        torch.randn(batch_size, 1, 32, generator=generator),
        torch.randn(batch_size, 4, *latent_size, generator=generator),
        torch.rand(batch_size, num_frames, 6, setup.height, setup.width, generator=generator),
        unconditional=torch.zeros(batch_size, dtype=torch.bool),
    )
    return latents, torch.zeros(batch_size, dtype=torch.long), conditions


def test_activations_are_what_autograd_saves(denoiser):
    setup = TEMPORAL
    real = copy.deepcopy(denoiser).train()
    train_only(real, setup.parts)
    inputs = real_inputs(setup)
    given = [tensor for tensor in (*inputs, *vars(inputs[-1]).values()) if isinstance(tensor, torch.Tensor)]
    known = {tensor.untyped_storage()._cdata for tensor in (*real.parameters(), *real.buffers(), *given)}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = real(*inputs).square().mean()
    activations = estimate_training_memory(denoiser, setup).activations
    assert loss.requires_grad
    assert activations == pytest.approx(sum(storage.nbytes() for storage in saved.values()), rel=0.01)


def test_the_allocator_sees_the_same_peak(denoiser, checkpointed):
    setup = SPATIAL
    real = copy.deepcopy(denoiser).train()
    for parameter in train_only(real, setup.parts):
        parameter.grad = torch.zeros_like(parameter)
    for network in real.children():
        network.enable_gradient_checkpointing()
    inputs = real_inputs(setup)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        real(*inputs).square().mean().backward()
    live = peak = 0
    memory_events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(memory_events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    assert checkpointed.activations + checkpointed.working == pytest.approx(peak, rel=0.1)


def muon(parameters):
    groups = [[p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]]
    return Muon([{"params": group, "use_muon": index == 0} for index, group in enumerate(groups)])


@pytest.mark.parametrize(
    "name, optimizer_class", [("adamw", functools.partial(torch.optim.AdamW, foreach=True)), ("muon", muon)]
)
def test_weights_gradients_optimizer_and_ema_are_those_of_the_real_ones(denoiser, name, optimizer_class):
    real = copy.deepcopy(denoiser)
    parameters = train_only(real, SPATIAL.parts)
    optimizer = optimizer_class(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states = [state for states in optimizer.state.values() for key, state in states.items() if key != "step"]
    known = [*parameters, *states, *(parameter.grad for parameter in parameters)]
    with LiveBytes(known) as update:
        optimizer.step()

    estimate = estimate_training_memory(
        denoiser, replace(SPATIAL, optimizer=name, ema=True), step=StepBytes(1000, 2000)
    )
    assert estimate.weights == sum(tensor.nbytes for tensor in (*real.parameters(), *real.buffers()))
    assert estimate.gradients == estimate.ema == sum(parameter.grad.nbytes for parameter in parameters)
    assert estimate.optimizer == sum(state.nbytes for state in states)
    # Few activations at this size: the fullest moment is the optimizer's. Muon goes shape by shape, and needs less.
    fullest = estimate.activations + estimate.working
    assert fullest == pytest.approx(update.peak, rel=0.01) if name == "adamw" else fullest > update.peak


def test_parts_decide_what_has_gradients_and_the_networks_stay_as_they_are(denoiser, spatial, checkpointed):
    real = copy.deepcopy(denoiser).requires_grad_(False).eval()
    before = {name: value.clone() for name, value in real.state_dict().items()}
    motion = estimate_training_memory(real, replace(SPATIAL, parts=("motion_modules",), gradient_checkpointing=True))
    assert motion.gradients > 0
    assert motion.gradients + spatial.gradients == sum(parameter.nbytes for parameter in denoiser.parameters())
    assert 0 < motion.activations < checkpointed.activations
    assert all(torch.equal(value, before[name]) for name, value in real.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in real.parameters())
    assert not any(network.is_gradient_checkpointing for network in real.children())
    assert not real.training


def test_adam_with_8_bits_takes_two_bytes_per_weight_and_two_scales_per_block(denoiser, spatial, spatial_step):
    estimate = estimate_training_memory(denoiser, replace(SPATIAL, optimizer="adamw8bit"), step=spatial_step)
    trained = [p for name, p in denoiser.named_parameters() if ".motion_modules." not in name]
    large = sum(p.numel() for p in trained if p.numel() >= 4096)
    small = sum(p.numel() for p in trained if p.numel() < 4096)
    assert large and small
    assert estimate.optimizer == pytest.approx(large * (2 + 8 / 256) + small * 8, rel=0.01)
    assert estimate.optimizer < spatial.optimizer


def test_checkpointing_keeps_less_for_the_backward_pass(spatial, checkpointed):
    assert checkpointed.activations < spatial.activations / 2


def test_attention_keeps_no_scores(denoiser, spatial):
    assert count_step(denoiser, replace(SPATIAL, height=256)).activations < 2.01 * spatial.activations


def test_processes_divide_what_their_sharding_says(denoiser, pristine_pipe, spatial_step):
    encoder = pristine_pipe.image_encoder

    def estimate(**options):
        return estimate_training_memory(denoiser, replace(SPATIAL, **options), None, [encoder], spatial_step)

    alone = estimate(ema=True)
    ddp, zero2, fsdp = (
        estimate(ema=True, num_processes=2, sharding=sharding) for sharding in ("ddp", "zero2", "fsdp")
    )
    assert (ddp.gradients, ddp.optimizer, ddp.weights) == (2 * alone.gradients, alone.optimizer, alone.weights)
    assert 2 * zero2.gradients == 2 * fsdp.gradients == alone.gradients
    assert 2 * zero2.optimizer == 2 * fsdp.optimizer == alone.optimizer
    assert (zero2.weights, zero2.ema) == (alone.weights, alone.ema)
    assert fsdp.weights == num_bytes(denoiser) / 2 + num_bytes(encoder)  # which are not wrapped
    assert 2 * fsdp.ema == alone.ema
    assert ddp.activations == zero2.activations == fsdp.activations == spatial_step.activations


def test_sharded_weights_have_one_precision(denoiser, pristine_pipe):
    encoder = pristine_pipe.image_encoder
    ddp, fsdp = (
        estimate_training_memory(
            denoiser,
            replace(TEMPORAL, num_frames=1, mixed_precision="bf16", sharding=sharding, num_processes=2),
            frozen=[encoder],
            step=StepBytes(0, 0),
        ).weights
        for sharding in ("ddp", "fsdp")
    )
    half = sum(
        p.nbytes for network in (denoiser.appearance_encoder, denoiser.controlnet) for p in network.parameters()
    )
    assert fsdp == num_bytes(denoiser) / 2 + num_bytes(copy.deepcopy(encoder).bfloat16())
    assert ddp == num_bytes(denoiser) - half / 2 + num_bytes(copy.deepcopy(encoder).bfloat16())


def test_networks_beside_count_by_their_weights_in_the_mixed_dtype(denoiser, pristine_pipe, spatial, spatial_step):
    encoder = pristine_pipe.image_encoder
    for precision, size in (("no", num_bytes(encoder)), ("fp16", num_bytes(copy.deepcopy(encoder).half()))):
        setup = replace(SPATIAL, mixed_precision=precision)
        beside = estimate_training_memory(denoiser, setup, frozen=[encoder], step=spatial_step)
        assert beside.weights - spatial.weights == beside.total - spatial.total == size


def test_memory_as_text():
    memory = TrainingMemory(12 * 2**30, 2**30, 3 * 2**29, 0, 2**31, 2**26)
    assert memory.total == 12 * 2**30 + 2**30 + 3 * 2**29 + 2**31 + 2**26
    assert str(memory) == "16.6 GiB (weights 12.0, gradients 1.0, optimizer 1.5, activations 2.0, working 0.062)"


def test_advice_ends_with_the_first_option_that_is_enough(denoiser, spatial, checkpointed):
    assert checkpointed.total < spatial.total
    advice = out_of_memory_advice(denoiser, SPATIAL, device_bytes=checkpointed.total)
    assert advice.startswith(f"Out of memory: a step needs about {spatial} and the device has ")
    assert "use --gradient_checkpointing (" in advice and ", then --use_8bit_adam (" in advice
    assert "--mixed_precision" not in advice


def test_advice_where_nothing_is_enough_names_all_that_is_left(denoiser):
    setup = replace(TEMPORAL, gradient_checkpointing=True, optimizer="adamw8bit", mixed_precision="bf16")
    advice = out_of_memory_advice(denoiser, setup, device_bytes=1)
    assert "use --train_batch_size 1" in advice and "then --num_frames 1" in advice
    assert advice.endswith("then lower --sizes, or a larger device.")
    assert "checkpointing" not in advice and "adam" not in advice and "mixed" not in advice


@pytest.mark.parametrize(
    "change",
    [
        {"mixed_precision": "fp8"},
        {"optimizer": "sgd"},
        {"sharding": "zero3"},
        {"height": 0},
        {"batch_size": 0},
    ],
)
def test_unknown_values_are_errors(change):
    with pytest.raises(ValueError, match=f"`{next(iter(change))}` must be"):
        replace(SPATIAL, **change)


def test_unknown_parts_are_errors(denoiser):
    with pytest.raises(ValueError, match="`parts` must be"):
        estimate_training_memory(denoiser, replace(SPATIAL, parts=("vae",)))
