# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""What each branch of guidance sees, however its clips are put into batches."""

from dataclasses import replace

import pytest
import torch
from rounding import assert_equal_up_to_rounding

from hia_diffusers.models.conditioning_embedding import ConditioningEmbeddings
from hia_diffusers.models.denoiser import HIAConditions, HIADenoiser
from hia_diffusers.pipelines.guidance import classifier_free_guidance


NUM_FRAMES = 5
TIMESTEP = torch.tensor(500)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditions_of(num_images=2, num_clips=2):
    return HIAConditions(
        normal(num_clips, 1, 32, seed=1),
        normal(num_images, 4, 8, 6, seed=2),
        torch.rand(num_clips, NUM_FRAMES, 6, 64, 48, generator=torch.Generator().manual_seed(3)),
        null_encoder_hidden_states=normal(num_clips, 1, 32, seed=4),
    )


@pytest.fixture
def latents():
    return normal(2, 4, NUM_FRAMES, 8, 6)


@pytest.fixture(params=[False, True], ids=["plain", "unconditional-controlnet"])
def denoiser(pipe, request):
    pipe.register_to_config(unconditional_controlnet=request.param)
    return HIADenoiser.of_pipeline(pipe)


@torch.no_grad()
def test_the_unconditional_branch_is_the_unet_without_conditions(denoiser, latents):
    conditions = conditions_of()
    arguments = {}
    if denoiser.unconditional_controlnet:
        arguments = denoiser.control(latents, TIMESTEP, conditions)
        assert arguments.keys() == {"down_block_additional_residuals", "mid_block_additional_residual"}
    expected = denoiser.unet(latents, TIMESTEP, conditions.null_encoder_hidden_states, **arguments).sample
    assert torch.equal(denoiser(latents, TIMESTEP, conditions.drop()), expected)


@torch.no_grad()
def test_a_clip_of_a_mixed_batch_is_what_it_is_in_its_branch(denoiser, latents):
    """As training drops conditions: some clips of a batch."""
    conditions = conditions_of()
    branches = denoiser(latents, TIMESTEP, conditions), denoiser(latents, TIMESTEP, conditions.drop())
    assert (branches[0] - branches[1]).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-2
    for given in (conditions, denoiser.read_reference(conditions)):
        mixed = denoiser(latents, TIMESTEP, given.drop(torch.tensor([False, True])))
        assert torch.allclose(mixed[0], branches[0][0], atol=1e-5)
        assert torch.allclose(mixed[1], branches[1][1], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("is_read", [False, True])
def test_both_branches_are_one_batch(denoiser, latents, is_read):
    conditions = conditions_of()
    if is_read:
        conditions = denoiser.read_reference(conditions)
    expected = torch.cat([denoiser(latents, TIMESTEP, conditions), denoiser(latents, TIMESTEP, conditions.drop())])
    residuals = denoiser.control(latents, TIMESTEP, conditions)
    for given in (None, residuals):
        both = denoiser(latents.repeat(2, 1, 1, 1, 1), TIMESTEP, conditions.both_branches(), given)
        assert torch.allclose(both, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("batch_guidance", [False, True])
def test_guidance(denoiser, latents, batch_guidance):
    conditions = conditions_of()
    conditional, unconditional = (denoiser(latents, TIMESTEP, given) for given in (conditions, conditions.drop()))
    for scale in (0.0, 1.0):
        guider = classifier_free_guidance(scale)
        assert torch.equal(denoiser.guided(latents, TIMESTEP, conditions, guider, batch_guidance), conditional)
    guider = classifier_free_guidance(2.5)
    guided = denoiser.guided(latents, TIMESTEP, conditions, guider, batch_guidance)
    assert torch.allclose(guided, unconditional + 2.5 * (conditional - unconditional), atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("batch_guidance", [False, True])
def test_blocks_that_are_the_same_in_both_branches_run_once(pipe, latents, batch_guidance):
    """As of MagicAnimate: nothing before the middle block depends on the reference, and the context is one."""
    unet = type(pipe.unet).from_config(pipe.unet.config, reference_attention_blocks="midup").eval()
    unet.load_state_dict(pipe.unet.state_dict())
    pipe.unet = unet
    denoiser, conditions = HIADenoiser.of_pipeline(pipe), replace(conditions_of(), null_encoder_hidden_states=None)
    conditional, unconditional = (denoiser(latents, TIMESTEP, given) for given in (conditions, conditions.drop()))
    assert (conditional - unconditional).abs().max() > 1e-2
    calls, guider = [], classifier_free_guidance(2.5)
    for block in (*unet.down_blocks, unet.mid_block):
        block.resnets[0].register_forward_hook(lambda module, *_: calls.append(module))
    expected = unconditional + 2.5 * (conditional - unconditional)
    for given, times in ((conditions, 1), (replace(conditions, null_encoder_hidden_states=normal(2, 1, 32)), 2)):
        calls.clear()
        guided = denoiser.guided(latents, TIMESTEP, given, guider, batch_guidance)
        if times == 1:
            assert torch.allclose(guided, expected, atol=1e-4)
        if not batch_guidance:
            assert [calls.count(block.resnets[0]) for block in unet.down_blocks] == [times] * len(unet.down_blocks)
            assert calls.count(unet.mid_block.resnets[0]) == 2
    assert "forward" not in vars(unet.down_blocks[0])


@torch.no_grad()
def test_windows_of_conditions(pipe, latents):
    """One by one, several at a time, and by embeddings that are kept."""
    denoiser, conditions = HIADenoiser.of_pipeline(pipe), conditions_of()
    pixels = conditions.conditioning_frames
    embedded = HIAConditions(
        conditions.encoder_hidden_states,
        conditions.reference,
        ConditioningEmbeddings(lambda frames: pixels[:, frames], NUM_FRAMES),
    )
    windows = [range(0, 2), range(1, 3), range(3, 5)]
    expected = torch.cat(
        [
            denoiser(
                latents[:, :, window.start : window.stop],
                TIMESTEP,
                HIAConditions(
                    conditions.encoder_hidden_states, conditions.reference, pixels[:, window.start : window.stop]
                ),
            )
            for window in windows
        ]
    )
    samples = torch.cat([latents[:, :, window.start : window.stop] for window in windows])
    for given in (conditions, embedded, denoiser.read_reference(conditions), denoiser.read_reference(embedded)):
        assert torch.allclose(denoiser(samples, TIMESTEP, given.window(*windows)), expected, atol=1e-5)
    with pytest.raises(ValueError, match="`window`"):
        embedded.window(range(2)).window(range(1))


@torch.no_grad()
@pytest.mark.parametrize("form", ["pixels", "embeddings", "window"])
def test_repeated_clips(pipe, latents, form):
    denoiser, conditions = HIADenoiser.of_pipeline(pipe), conditions_of()
    expected = denoiser(latents, TIMESTEP, conditions).repeat(3, 1, 1, 1, 1)
    pixels = conditions.conditioning_frames
    if form != "pixels":
        embeddings = ConditioningEmbeddings(lambda frames: pixels[:, frames], NUM_FRAMES)
        conditions = HIAConditions(conditions.encoder_hidden_states, conditions.reference, embeddings)
    if form == "window":
        conditions = conditions.window(range(NUM_FRAMES))
    repeated = denoiser(latents.repeat(3, 1, 1, 1, 1), TIMESTEP, conditions.repeat(3))
    assert torch.allclose(repeated, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("reference_timestep", ["zero", "current"])
def test_the_clips_of_an_image_share_its_features(pipe, latents, reference_timestep):
    """The appearance encoder reads each image once, at timestep 0 or the current one, whatever the number of clips."""
    pipe.register_to_config(reference_timestep=reference_timestep)
    denoiser, conditions = HIADenoiser.of_pipeline(pipe), conditions_of(num_images=1)
    calls = []
    pipe.appearance_encoder.register_forward_pre_hook(lambda _, args: calls.append((len(args[0]), int(args[1]))))
    features = denoiser.read_reference(conditions, TIMESTEP).reference.features
    assert calls == [(1, 500 if reference_timestep == "current" else 0)]
    states = conditions.encoder_hidden_states[:1]
    expected = pipe.appearance_encoder(conditions.reference, calls[0][1], states).reference_features
    for name, values in features.items():
        assert_equal_up_to_rounding(values, expected[name].repeat(2, 1, 1))


def test_every_parameter_gets_a_gradient_whatever_is_dropped(denoiser, latents):
    """What a dropped clip does not see gets zeros, not none: distributed training waits for every parameter."""
    denoiser.train()
    denoiser(latents, torch.tensor([500, 3]), conditions_of().drop(torch.tensor([True, True]))).sum().backward()
    assert [name for name, parameter in denoiser.named_parameters() if parameter.grad is None] == []
    assert not any(parameter.grad.any() for parameter in denoiser.appearance_encoder.parameters())
    seen = any(parameter.grad.any() for parameter in denoiser.controlnet.parameters())
    assert seen == denoiser.unconditional_controlnet


@torch.no_grad()
def test_the_controlnet_does_not_run_at_a_scale_of_zero(pipe, latents):
    denoiser, conditions = HIADenoiser.of_pipeline(pipe), conditions_of()
    pipe.controlnet.register_forward_pre_hook(lambda *_: pytest.fail("the ControlNet runs"))
    expected = pipe.unet(
        latents,
        TIMESTEP,
        conditions.encoder_hidden_states,
        reference_features=denoiser.read_reference(conditions).reference,
    ).sample
    off = HIAConditions(
        conditions.encoder_hidden_states, conditions.reference, conditions.conditioning_frames, control_scale=0.0
    )
    assert torch.equal(denoiser(latents, TIMESTEP, off), expected)
