# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0

import torch

from hia_diffusers.training.noise import draw_noise, offset_noise, sample_generators


NUM_CLIPS = 5


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_noise_depends_on_seed_batch_and_sample_only():
    def drawn(seed, batch_number, rank, batch_size):
        return draw_noise(sample_generators(seed, batch_number, rank, batch_size), (2, 3, 3), 9, 0.1)

    noise, timesteps = drawn(0, 5, 0, 64)
    assert noise.shape == (64, 2, 3, 3) and set(timesteps.tolist()) == set(range(10))
    halves = [drawn(0, 5, rank, 32) for rank in (0, 1)]
    # Equal bits: the same draws, joined.
    assert torch.equal(noise, torch.cat([half[0] for half in halves]))
    assert torch.equal(timesteps, torch.cat([half[1] for half in halves]))
    for other in (drawn(1, 5, 0, 64), drawn(0, 6, 0, 64)):
        assert not any(torch.equal(one, another) for one, another in zip(noise, other[0], strict=True))


def test_frames_share_their_noise_in_the_given_fraction_of_samples():
    def drawn(probability):
        generators = sample_generators(0, 0, 0, 200)
        return draw_noise(generators, (2, 4, 3, 3), 9, shared_noise_probability=probability)

    separate, timesteps = drawn(0.0)
    noise, same_timesteps = drawn(0.3)
    assert torch.equal(timesteps, same_timesteps)
    is_shared = (noise == noise[:, :, :1]).flatten(1).all(dim=1)
    assert 40 <= is_shared.sum() <= 80
    assert torch.equal(noise[is_shared, :, 0], separate[is_shared, :, 0])
    assert torch.equal(noise[~is_shared], separate[~is_shared])


def test_offset_noise_moves_each_channel_of_a_clip_as_a_whole():
    noise = random(0, NUM_CLIPS, 4, 3, 6, 7)
    moved = offset_noise(noise, 0.1, torch.Generator().manual_seed(3)) - noise
    means = 0.1 * random(3, NUM_CLIPS, 4, 1, 1, 1)
    torch.testing.assert_close(moved, means.expand_as(moved), rtol=0, atol=1e-6)


def test_offset_noise_with_a_generator_per_clip_does_not_depend_on_the_batch():
    noise = random(0, NUM_CLIPS, 4, 3, 6, 7)
    together = offset_noise(noise, 0.1, [torch.Generator().manual_seed(seed) for seed in range(len(noise))])
    alone = offset_noise(noise[2:3], 0.1, [torch.Generator().manual_seed(2)])
    # Equal bits: a product and a sum of two numbers are rounded alike everywhere.
    assert torch.equal(together[2:3], alone)
    assert offset_noise(noise.bfloat16(), 0.1, torch.Generator()).dtype == torch.bfloat16
