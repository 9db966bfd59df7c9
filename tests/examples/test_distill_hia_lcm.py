# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The script as its users run it, in processes forked from one that has done its imports, and its formulas by hand."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, TCDScheduler
from forked_python import start
from safetensors.torch import load_file
from small_networks import NETWORKS, write_pipeline

from hia_diffusers import HIAPipeline, ShiftedSNRScheduler


SCRIPT = Path(__file__).parents[2] / "examples" / "distill_hia_lcm.py"
SCALED = Path(__file__).parents[1] / "scaled_training.py"


def load_script():
    spec = importlib.util.spec_from_file_location("example_distill_hia_lcm", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def options(teacher, **more):
    values = {
        "pretrained_model_name_or_path": teacher,
        "procedural_clips": 4,
        "sizes": "32x48",
        "num_frames": 2,
        "teacher_guidance_scale": 1,
        "num_ddim_timesteps": 20,
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 1,
        "lr_scheduler": "linear",
        "checkpointing_steps": 2,
        **more,
    }
    return [
        word
        for name, value in values.items()
        for word in (f"--{name}", *(value if isinstance(value, list) else [value]))
    ]


def distil(folder, teacher, *more, status=0, scale=None, **options_):
    """Run the script to its end, in fp16 where there is a `scale`; returns what it printed."""
    output = folder.with_name(f"{folder.name}.txt")
    script = [SCRIPT] if scale is None else [SCALED, SCRIPT, scale]
    process = start([*script, *options(teacher, **options_), *more, "--output_dir", folder], output)
    process.join()
    printed = output.read_text()
    assert process.exitcode == status, printed
    return printed


def tensors_of(folder):
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    networks = {**NETWORKS, "scheduler": {"prediction_type": "sample", "snr_shift_factor": 0.5}}
    return write_pipeline(folder, networks)


@pytest.fixture(scope="module")
def distilled(teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled") / "run"
    distil(folder, teacher)
    return folder


# Formulas


@pytest.fixture
def scheduler():
    return script.student_scheduler(ShiftedSNRScheduler(0.5, prediction_type="sample"), 50)


def test_the_student_has_the_schedule_of_the_teacher(scheduler):
    teacher = ShiftedSNRScheduler(0.5, prediction_type="sample")
    assert torch.equal(scheduler.alphas_cumprod, teacher.alphas_cumprod)
    assert not torch.equal(scheduler.alphas_cumprod, ShiftedSNRScheduler(1.0).alphas_cumprod)
    assert scheduler.config.prediction_type == "sample"
    for inference in (scheduler, TCDScheduler.from_config(scheduler.config)):
        inference.set_timesteps(4)
        assert inference.timesteps[0] == 999
        assert {(int(timestep) + 1) % 20 for timestep in inference.timesteps} == {0}, "the student knows no others"
        assert torch.equal(inference.alphas_cumprod, teacher.alphas_cumprod)


def test_a_path_ends_where_it_is_at_timestep_0(scheduler):
    noisy, answer = torch.tensor([3.0, 3.0]).reshape(2, 1, 1, 1, 1), torch.tensor([5.0, 5.0]).reshape(2, 1, 1, 1, 1)
    # At timestep 1 the scaled time is 10: c_skip = 0.25 / 100.25, c_out = 10 / sqrt(100.25).
    ends = script.consistency(scheduler, answer, noisy, torch.tensor([0, 1])).flatten()
    assert ends.tolist() == pytest.approx([3.0, 3 * 0.25 / 100.25 + 5 * 10 / 100.25**0.5])


def test_the_end_of_a_path_is_what_the_scheduler_makes_of_the_answer(scheduler):
    noisy, answer = torch.randn(2, 1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(4)
    timestep = scheduler.timesteps[2]
    expected = scheduler.step(answer, timestep, noisy).denoised
    assert torch.allclose(script.consistency(scheduler, answer, noisy, timestep.reshape(1)), expected, atol=1e-6)


def test_a_step_of_the_solver_by_hand():
    # abar = 0.5, 0.2: from timestep 1 to 0, and from 0 to the end.
    scheduler = LCMScheduler(num_train_timesteps=2, trained_betas=[0.5, 0.6], prediction_type="sample")
    clean, noisy = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])
    timesteps, previous = torch.tensor([1, 0]), torch.tensor([0, -1])
    noise = (2 - 0.2**0.5) / 0.8**0.5
    steps = script.solver_step(scheduler, clean, noisy, timesteps, previous)
    assert steps.tolist() == pytest.approx([0.5**0.5 + 0.5**0.5 * noise, 1.0])


@pytest.mark.parametrize("prediction_type", ["sample", "epsilon", "v_prediction"])
def test_the_solver_is_ddim(prediction_type):
    teacher = ShiftedSNRScheduler(0.5, prediction_type=prediction_type)
    scheduler = script.student_scheduler(teacher, 20)
    ddim = DDIMScheduler.from_config(teacher.config)
    ddim.set_timesteps(20)
    noisy, answer = torch.randn(2, 1, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    for timestep in (999, 499, 49):
        expected = ddim.step(answer, timestep, noisy)
        timesteps = torch.tensor([timestep])
        clean = script.predicted_latents(scheduler, answer, noisy, timesteps)
        step = script.solver_step(scheduler, clean, noisy, timesteps, timesteps - 50)
        assert torch.allclose(step, expected.prev_sample, rtol=1e-4, atol=1e-4)


def test_losses_by_hand():
    prediction, target = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 0.0])
    assert script.consistency_loss(parsed(loss_type="l2"), prediction, target) == 4.5
    assert script.consistency_loss(parsed(huber_c=4.0), prediction, target) == 0.5


def parsed(**more):
    return script.parse_args([*map(str, options("teacher", **more)), "--output_dir", "run"])


class Answers(torch.nn.Module):
    """Instead of a network: notes what it is asked, and answers with one number, another without conditions."""

    def __init__(self, answer, unconditional=None):
        super().__init__()
        self.answer, self.unconditional, self.asked = answer, unconditional, []

    def forward(self, noisy, timesteps, conditions):
        self.asked.append((noisy, timesteps.tolist(), conditions))
        return torch.full_like(noisy, self.unconditional if conditions.unconditional else self.answer)


@pytest.mark.parametrize(("scale", "guided"), [(1, 0.5), (3, 0.2 + 3 * 0.3)])
def test_the_target_is_the_average_on_the_next_point_of_the_teachers_path(scheduler, monkeypatch, scale, guided):
    args = parsed(teacher_guidance_scale=scale, num_ddim_timesteps=50, loss_type="l2")
    monkeypatch.setattr(
        script, "draw", lambda *_: (torch.ones(2, 1, 1, 1, 1), torch.tensor([10, 0]), torch.full((2,), float(scale)))
    )
    student, target, teacher = Answers(0.25), Answers(0.75), Answers(0.5, 0.2)
    accelerator = type("Accelerator", (), {"device": torch.device("cpu"), "process_index": 0})
    batch = {"latents": torch.full((2, 1, 1, 1, 1), 2.0), "context": torch.ones(2, 1, 1)}
    batch |= {
        "null_context": torch.zeros(2, 1, 1),
        "reference_latents": torch.zeros(1),
        "conditioning": torch.zeros(1),
    }
    loss = script.Distillation(args, accelerator, None, scheduler, student, target, teacher)(0, batch)

    alpha, earlier = scheduler.alphas_cumprod[219].item(), scheduler.alphas_cumprod[199].item()
    noisy = 2 * alpha**0.5 + (1 - alpha) ** 0.5
    less_noisy = earlier**0.5 * guided + (1 - earlier) ** 0.5 * (noisy - alpha**0.5 * guided) / (1 - alpha) ** 0.5
    (asked,), (asked_student,) = target.asked, student.asked
    assert asked_student[1] == [219, 19] and asked[1] == [199, 0]
    assert asked_student[0][0].item() == pytest.approx(noisy) and asked[0][0].item() == pytest.approx(less_noisy)
    # The last step leads to the end of the path, which no network has to tell.
    assert asked[0][1].item() == pytest.approx(guided)
    assert loss.item() == pytest.approx(((0.75 - 0.25) ** 2 + (guided - 0.25) ** 2) / 2, rel=1e-3)
    assert [asked[-1].unconditional for asked in teacher.asked] == [False, True][: 1 if scale == 1 else 2]
    for *_, conditions in (*teacher.asked, asked, asked_student):
        assert conditions.encoder_hidden_states is batch["context"]
        assert conditions.null_encoder_hidden_states is batch["null_context"]


def test_draws_depend_on_seed_batch_and_sample_only():
    args = parsed(teacher_guidance_scale=[2, 4])
    noise, steps, scales = script.draw(args, 5, 0, (64, 1, 1, 1, 1))
    assert set(steps.tolist()) <= set(range(20)) and len(set(steps.tolist())) > 10
    assert 2 <= scales.min() < 2.3 and 3.7 < scales.max() <= 4
    halves = [script.draw(args, 5, rank, (32, 1, 1, 1, 1)) for rank in (0, 1)]
    for whole, parts in zip((noise, steps, scales), zip(*halves, strict=True), strict=True):
        assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(noise, script.draw(args, 6, 0, (64, 1, 1, 1, 1))[0])


def test_the_average_moves_towards_the_network():
    average, network = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    for parameters, value in ((average, 1.0), (network, 2.0)):
        for parameter in parameters.parameters():
            torch.nn.init.constant_(parameter, value)
    script.move_towards(average, network, 0.75)
    assert average.weight.item() == average.bias.item() == 1.25 and network.weight.item() == 2


# Runs


@pytest.mark.parametrize("scheduler", [LCMScheduler, TCDScheduler])
def test_the_pipeline_makes_a_clip_in_4_steps(teacher, distilled, scheduler):
    assert json.loads((distilled / "model_index.json").read_text())["scheduler"] == ["diffusers", "LCMScheduler"]
    pipe = HIAPipeline.from_pretrained(distilled)
    assert pipe.scheduler.config.original_inference_steps == 20
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    assert torch.equal(pipe.scheduler.alphas_cumprod, HIAPipeline.from_pretrained(teacher).scheduler.alphas_cumprod)
    pipe.set_progress_bar_config(disable=True)

    def clip(seed):
        condition = torch.rand(3, 6, 48, 32, generator=torch.Generator().manual_seed(1))
        call = {"num_inference_steps": 4, "guidance_scale": 1, "output_type": "pt"}
        return pipe(torch.ones(3, 48, 32), condition, generator=torch.Generator().manual_seed(seed), **call).frames

    frames = clip(0)
    assert frames.shape == (1, 3, 3, 48, 32) and frames.isfinite().all()
    assert torch.equal(frames, clip(0)) and not torch.equal(frames, clip(1))


def test_a_run_changes_the_unet_and_nothing_else(teacher, distilled):
    before, after = tensors_of(teacher), tensors_of(distilled)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys() and len(moved) > 0.8 * len(before)
    for name in ("appearance_encoder", "controlnet", "vae"):
        files = [load_file(folder / name / "diffusion_pytorch_model.safetensors") for folder in (teacher, distilled)]
        assert all(torch.equal(files[0][key], files[1][key]) for key in files[0]), name
    card = (distilled / "README.md").read_text()
    assert "`num_inference_steps=4, guidance_scale=1`" in card and "| `num_ddim_timesteps` | 20 |" in card


def test_the_average_is_written(distilled):
    """It lags behind the student, whose weights the checkpoint has."""
    average, student = tensors_of(distilled), load_file(distilled / "checkpoint-4" / "model.safetensors")
    state = torch.load(distilled / "checkpoint-4" / "run.pt", weights_only=True)["ema"]
    assert all(torch.equal(average[name], state[name]) for name in average)
    assert any(not torch.equal(average[name.removeprefix("unet.")], value) for name, value in student.items())


def test_a_run_goes_on_exactly(teacher, distilled, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(distilled / "checkpoint-2", folder / "checkpoint-2")
    shutil.copy(distilled / "options.json", folder)
    printed = distil(folder, teacher, "--resume_from_checkpoint", "latest", "--teacher_guidance_scale", 2, status=2)
    assert "had other options: --teacher_guidance_scale was [1.0], is [2.0]." in printed
    assert "step 2." in distil(folder, teacher, "--resume_from_checkpoint", "latest")
    whole, other = tensors_of(distilled), tensors_of(folder)
    # Equal bits: a resumed run makes the same steps by the same kernels in as many threads.
    assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_guidance_motion_modules_only_and_a_cache(teacher, tmp_path):
    more = {"teacher_guidance_scale": [2, 4], "trainable": "motion_modules", "max_train_steps": 2, "loss_type": "l2"}
    distil(tmp_path / "run", teacher, "--gradient_checkpointing", cache_latents=tmp_path / "cache", **more)
    before, after = tensors_of(teacher), tensors_of(tmp_path / "run")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(".motion_modules." in f".{name}" for name in moved)


def test_motion_modules_that_the_teacher_leaves_out_stay_out(teacher, tmp_path):
    pipeline = HIAPipeline.from_pretrained(teacher)
    pipeline.unet.set_motion_modules(False)
    pipeline.save_pretrained(tmp_path / "spatial")
    printed = distil(tmp_path / "refused", tmp_path / "spatial", status=2)
    assert "leaves its motion modules out, as after a spatial stage; give --trainable unet" in printed
    distil(tmp_path / "run", tmp_path / "spatial", trainable="unet", max_train_steps=2)
    before, after = tensors_of(teacher), tensors_of(tmp_path / "run")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any(".motion_modules." in name for name in moved)
    assert not HIAPipeline.from_pretrained(tmp_path / "run").unet.config.use_motion_modules


# Mistakes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"teacher_guidance_scale": [4, 2]},
            "--teacher_guidance_scale must be one number, or least and greatest, got [4.0, 2.0].",
        ),
        ({"teacher_guidance_scale": -1}, "--teacher_guidance_scale must be a finite number, at least 0, got -1.0."),
        ({"train_data_dir": "data"}, "give either --train_data_dir or --procedural_clips."),
        ({"trainable": "controlnet"}, "invalid choice: 'controlnet'"),
        ({"pretrained_model_name_or_path": "run"}, "--output_dir must be another folder"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(capsys, more, message):
    with pytest.raises(SystemExit) as stopped:
        parsed(**more)
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and printed.count("\n") == 1
    assert printed.startswith("distill_hia_lcm.py: error: ") and message in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"num_ddim_timesteps": 30}, "--num_ddim_timesteps must divide 1000, got 30."),
        ({"num_frames": 301}, "--num_frames must fit into a clip"),
        ({"sizes": "31x48"}, "--sizes must be multiples of 2"),
    ],
)
def test_runs_that_cannot_be_are_one_sentence(teacher, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit, match="2"):
        script.main([*map(str, options(teacher, **more)), "--output_dir", str(tmp_path / "run")])
    assert f"distill_hia_lcm.py: error: {message}" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_finite_weights(teacher, tmp_path):
    more = {"learning_rate": 1e30, "lr_warmup_steps": 0, "checkpointing_steps": 1}
    printed = distil(tmp_path / "run", teacher, status=2, **more)
    assert "or its gradient, is not finite: lower --learning_rate" in printed
    checkpoints = [load_file(path / "model.safetensors") for path in (tmp_path / "run").glob("checkpoint-*")]
    assert checkpoints and all(value.isfinite().all() for state in checkpoints for value in state.values())
    assert not (tmp_path / "run" / "model_index.json").exists()


def test_a_run_whose_gradients_always_overflow_in_fp16_stops(teacher, tmp_path):
    printed = distil(tmp_path / "run", teacher, scale=2.0**127, max_skipped_steps=3, status=2)
    assert printed.count("Step 1 skipped: its gradient overflows in fp16.") == 3
    assert "The gradient overflowed in fp16 3 times in a row: lower --learning_rate" in printed
    assert not any((tmp_path / "run").glob("checkpoint-*")) and not (tmp_path / "run" / "model_index.json").exists()


def test_a_step_that_the_scaler_skips_is_none(teacher, tmp_path):
    printed = distil(tmp_path / "run", teacher, scale=2.0**24, max_skipped_steps=30)
    skipped = printed.count("Step 1 skipped: its gradient overflows in fp16.")
    assert 1 <= skipped < 30
    state = torch.load(tmp_path / "run" / "checkpoint-4" / "run.pt", weights_only=True)
    assert state["progress"]["step"] == state["lr_scheduler"]["last_epoch"] == 4
    assert state["progress"]["batches"] == 4 + skipped


def test_a_distilled_pipeline_is_no_teacher(distilled, tmp_path):
    printed = distil(tmp_path / "run", distilled, status=2)
    assert printed.splitlines()[-1].startswith("distill_hia_lcm.py: error: ")
    assert "must have a ShiftedSNRScheduler, got LCMScheduler" in printed.splitlines()[-1]
