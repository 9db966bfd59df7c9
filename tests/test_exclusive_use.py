# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""One pipeline, or two that share components, in several threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from modular_tiny import modular_of

from hia_diffusers import HIAPipeline
from hia_diffusers.exclusive_use import exclusive_use
from hia_diffusers.models.deep_cache import DeepCacheConfig


LONGEST = 120.0  # seconds, after which a test takes it that threads wait for each other for ever


def at_once(*functions):
    """What the functions return, which begin at the same time in threads of their own."""
    begin = threading.Barrier(len(functions))
    threads = ThreadPoolExecutor(len(functions))
    running = [
        threads.submit(lambda function=function: (begin.wait(LONGEST), function())[1]) for function in functions
    ]
    threads.shutdown(wait=False)
    return [thread.result(LONGEST) for thread in running]


OPTIONS = ({"num_inference_steps": 3}, {"num_inference_steps": 2, "seed": 1})


def test_calls_of_one_pipeline_in_two_threads_give_what_they_give_alone(pipe, animate):
    pipe.unet.enable_cache(DeepCacheConfig(interval=2))
    expected = [animate(pipe, **options) for options in OPTIONS]
    for _ in range(2):
        made = at_once(*(lambda options=options: animate(pipe, **options) for options in OPTIONS))
        assert all(map(torch.equal, made, expected))


def test_pipelines_that_share_components_take_turns(pipe, animate, image, condition):
    shared = HIAPipeline(**{**pipe.components, "scheduler": type(pipe.scheduler)()})
    shared.set_progress_bar_config(disable=True)
    modular = modular_of(pipe)
    inputs = {"num_inference_steps": 2, "output_type": "pt", "guidance_scale": 2.0}

    def blocks():
        return modular(
            image=image,
            conditioning_frames=condition,
            generator=torch.Generator().manual_seed(0),
            output="frames",
            **inputs,
        )

    pipe.unet.enable_cache(DeepCacheConfig(interval=3))
    calls = (lambda: animate(pipe, num_inference_steps=3), lambda: animate(shared, **inputs), blocks)
    expected = [call() for call in calls]
    assert all(map(torch.equal, at_once(*calls), expected))


def test_a_stream_is_read_while_another_call_runs(pipe, animate, image, condition):
    options = {"num_inference_steps": 1, "output_type": "pt", "decode_chunk_size": 1}

    def stream():
        frames = pipe.stream(image, condition, generator=torch.Generator().manual_seed(0), **options)
        return torch.stack(list(frames))

    expected = stream(), animate(pipe)
    assert all(map(torch.equal, at_once(stream, lambda: animate(pipe)), expected))
    beside = []
    for _ in pipe.stream(image, condition, **options):  # and from between two frames in one thread
        beside.append(animate(pipe))
    assert all(torch.equal(frames, expected[1]) for frames in beside)


@pytest.mark.parametrize("call", ["pipe", "shared", "stream"])
def test_a_call_inside_a_call_is_refused_in_one_sentence(pipe, animate, image, condition, call):
    expected = animate(pipe)
    stream = pipe.stream(image, condition, num_inference_steps=1)
    shared = HIAPipeline(**pipe.components)

    def callback(pipe_, step, timestep, tensors):
        pipe_.decode_latents(tensors["latents"])  # as for a preview
        if call == "stream":
            next(stream)
        else:
            animate(pipe if call == "pipe" else shared)

    def outer():
        with pytest.raises(RuntimeError, match="cannot be called, nor its stream be read, inside a call of itself"):
            animate(pipe, callback_on_step_end=callback)

    at_once(outer)
    assert torch.equal(animate(pipe), expected)


def test_a_stream_may_be_dropped_inside_a_call(pipe, animate, image, condition):
    streams = [pipe.stream(image, condition, num_inference_steps=1, decode_chunk_size=1)]
    next(streams[0])

    def callback(pipe_, step, timestep, tensors):
        streams.clear()

    at_once(lambda: animate(pipe, callback_on_step_end=callback))
    assert streams == []


def test_whoever_waits_says_so(pipe, caplog):
    caplog.set_level("INFO", "hia_diffusers")
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with exclusive_use([pipe.unet, pipe.vae]):
            inside.set()
            leave.wait(LONGEST)

    def want():
        inside.wait(LONGEST)
        threading.Timer(0.2, leave.set).start()
        with exclusive_use([pipe.vae, pipe.scheduler]):
            return leave.is_set()

    assert at_once(hold, want)[1]
    assert "in use in another thread" in caplog.text


def test_an_error_ends_the_use(pipe, animate):
    with pytest.raises(ValueError, match="eta"):
        animate(pipe, eta=5)
    at_once(lambda: animate(pipe))
