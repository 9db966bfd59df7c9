# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Every code block of the README and of docs/, page by page, in the order in which they are read."""

import functools
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import documented_inputs as inputs
import pytest
from documented_code import LANGUAGES, ROOT, CodeBlock, PageRunner, code_blocks
from hub_server import HubServer


PAGES = ["README.md", *sorted(f"docs/{path.relative_to(ROOT / 'docs')}" for path in (ROOT / "docs").rglob("*.md"))]

# What is written for a GPU runs on a CPU, on all pages.
ON_A_CPU = {
    '.to("cuda")': '.to("cpu")',
    'device="cuda"': 'device="cpu"',
    "torch.float16": "torch.float32",
}


@dataclass(frozen=True)
class Page:
    """What blocks need: names that they do not make, files, and what is smaller here than in the text."""

    names: tuple[str, ...] = ()
    files: tuple[Callable, ...] = ()
    hub: Callable | None = None
    replaced: dict[str, str] = field(default_factory=dict)


SMALL_PROCDANCE = {
    "procdance-v1 --model": "procdance-v1 --max_clips 2 --num_frames 16 --num_inference_steps 1 --model"
}
SMALL_PREPARATION = {"--size 512x896 --workers 4": "--size 96x128 --workers 1"}
SMALL_TRAINING = "--procedural_clips 2 --max_train_steps 1 --train_batch_size 1 --num_frames 2 --sizes 64x96"

# Pages that are not named run as they are.
NEEDS = {
    "README.md": Page(
        files=(inputs.write_videos, inputs.write_predictions),
        hub=inputs.write_published_weights,
        replaced={
            "--model moore-animate-anyone": "--model moore-animate-anyone --size 64x64 --num_inference_steps 2",
            "scene.render(range(16)": "scene.render(range(2)",
            'output="out.mp4", sharpness=0.8)': 'output="out.mp4", sharpness=0.8, num_inference_steps=2)',
            "height=896, width=512": "height=64, width=64",
            'load_image("person.png"), condition': 'load_image("person.png"), condition, num_inference_steps=2',
            **SMALL_PREPARATION,
            **SMALL_PROCDANCE,
        },
    ),
    "docs/animate.md": Page(
        names=("model",),
        replaced={
            "person=(40, 60, 300, 700)": "person=(16, 4, 40, 60)",
            "start=2, end=5": "start=0.05, end=0.1",
            "preview()[0].show()": "preview()[0].load()",
            "num_inference_steps=25": "num_inference_steps=2",
            "guidance_scale=3.5": "guidance_scale=3.5, num_inference_steps=2",
            "height=896, width=512": "height=64, width=64",
            "for_size(896, 512)": "for_size(64, 64)",
            'output="sharp.mp4"': 'output="sharp.mp4", num_inference_steps=2',
            "ID_OR_PATH": "path/or/hub-id",
        },
    ),
    "docs/conditioning.md": Page(names=("frames",)),
    "docs/conversion.md": Page(
        names=(
            *("HIAPipeline", "HIAUNetMotionModel", "MotionAdapter", "densepose", "image", "poses", "torch"),
            "unet2d",
        ),
        hub=inputs.write_published_weights,
        replaced={
            "    densepose,": "    densepose, num_inference_steps=2,",
            "    poses,": "    poses, num_inference_steps=2,",
        },
    ),
    "docs/data_preparation.md": Page(files=(inputs.write_videos,), replaced=SMALL_PREPARATION),
    "docs/dataset.md": Page(
        names=("finished_steps", "rank", "world_size"),
        files=(inputs.write_dataset,),
        replaced={
            "sizes=[(896, 512)]": "sizes=[(64, 64)]",
            "num_workers=4, persistent_workers=True": "num_workers=0",
            "while True:": "for _ in range(2):",
        },
    ),
    "docs/evaluation.md": Page(
        files=(inputs.write_predictions,),
        replaced={
            "--predictions DIR --targets DIR": "--predictions generated --targets truth",
            **SMALL_PROCDANCE,
            "ID_OR_PATH": "path/or/hub-id",
        },
    ),
    "docs/feature_networks.md": Page(names=("videos",), files=(inputs.write_i3d,)),
    "docs/index.md": Page(
        files=(inputs.write_photo,),
        hub=inputs.write_published_weights,
        replaced={"--output me.mp4": "--output me.mp4 --size 64x64 --max_frames 2 --num_inference_steps 2"},
    ),
    "docs/keypoints.md": Page(
        names=("np", "image"),
        files=(inputs.write_openpose, inputs.write_pose_file),
        replaced={
            "person=(40, 60, 300, 700)": "person=(16, 4, 40, 60)",
            # Its models are not at hand everywhere.
            "detector = MediaPipeKeypointDetector()": "detector = KeypointDetector()",
            "--detector mediapipe --pose_model mediapipe-0.10.21-cp312-cp312-manylinux_2_28_x86_64.whl": (
                "--max_frames 2 --num_inference_steps 2"
            ),
        },
    ),
    "docs/live_previews.md": Page(names=("condition", "image", "pipe")),
    "docs/loading.md": Page(names=("folder",)),
    "docs/long_video.md": Page(names=("condition", "generator", "image")),
    "docs/one_person.md": Page(
        files=(inputs.write_videos, inputs.write_person_lora),
        hub=inputs.write_published_weights,
        replaced={"--size 512x768 --workers 4": "--size 96x128 --workers 1"},
    ),
    "docs/photo.md": Page(
        files=(inputs.write_photo,),
        hub=inputs.write_published_weights,
        replaced={
            "--output me.mp4": "--output me.mp4 --size 64x64 --max_frames 2 --num_inference_steps 2",
            'output="me.mp4"': 'output="me.mp4", height=64, width=64, num_inference_steps=2',
        },
    ),
    "docs/pipeline.md": Page(
        names=(
            *("HIAPipeline", "condition", "conditioning_frames", "generator", "image", "model", "pipe"),
            "torch",
        ),
        files=(inputs.write_published_adapter,),
        replaced={
            "num_inference_steps=25": "num_inference_steps=2",
            "ip_adapter_image=image": "ip_adapter_image=image, num_inference_steps=2",
            "6 * 2**30, pipe, height=896, width=512": "2**26, pipe, height=64, width=64",
            "context_batch_size=size": "context_batch_size=size, num_inference_steps=2",
            "compile_repeated_blocks(fullgraph=True)": 'compile_repeated_blocks(fullgraph=True, backend="eager")',
            "torch.compile(pipe.unet)": "torch.compile(pipe.unet, disable=True)",  # the blocks are traced
            'init_process_group("nccl")': 'init_process_group("gloo")',
            "torch.cuda.set_device(dist.get_rank())": "assert dist.get_rank() == 0",
        },
    ),
    "docs/quickstart.md": Page(
        replaced={
            "range(16)": "range(2)",
            "--output demo\n": "--output demo --num_frames 2\n",
        }
    ),
    "docs/schedulers.md": Page(names=("condition", "image", "pipe")),
    "docs/synthetic.md": Page(replaced={"in proc_dance_v1()": "in proc_dance_v1()[:1]", "range(32)": "range(2)"}),
    "docs/training.md": Page(
        names=("HIAPipeline", "condition", "generator", "image"),
        files=(inputs.write_videos, inputs.write_trained_pipelines),
        hub=lambda folder, hub: inputs.write_base_models(hub),
        replaced={
            **SMALL_PREPARATION,
            "--procedural_clips 8 --max_train_steps 4": SMALL_TRAINING,
            "runs/tiny/vae --max_train_steps 0": "runs/tiny/vae --max_train_steps 0 --size 32x48 --validation_clips 1",
            "--model runs/dance/temporal-full --size 512x896": (
                "--model runs/dance/temporal-full --max_clips 2 --num_frames 16 --num_inference_steps 1 --size 64x64"
            ),
        },
    ),
    "docs/troubleshooting.md": Page(names=("pipe", "torch")),
}


def blocks_as_run(page: str) -> list[CodeBlock]:
    def as_run(text: str) -> str:
        for written, smaller in {**ON_A_CPU, **NEEDS.get(page, Page()).replaced}.items():
            text = text.replace(written, smaller)
        return text

    return [replace(block, text=as_run(block.text)) for block in code_blocks(ROOT / page)]


def text_of(page: str) -> str:
    return "".join(block.text for block in code_blocks(ROOT / page))


@pytest.fixture(scope="module")
def common_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documented")
    inputs.write_common_files(folder)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What a function writes to the folder of a page and to that of a hub; several pages need the same."""

    @functools.cache
    def written(write):
        folder = tmp_path_factory.mktemp("published")
        for name in ("page", "hub"):
            (folder / name).mkdir()
        write(folder / "page", folder / "hub")
        return folder

    return written


@pytest.fixture(scope="module")
def runner(hub, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    inputs.write_keypoint_models(home / "torch")
    environment = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "TORCH_HOME": str(home / "torch"),
        "OMP_NUM_THREADS": "1",
        # As torchrun has it for one process.
        **{"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"},
    }
    with PageRunner(environment) as runner:
        yield runner


@pytest.fixture
def checkout(common_files, tmp_path):
    """A folder to run blocks in."""
    shutil.copytree(common_files, tmp_path, dirs_exist_ok=True)
    for name in ("benchmarks", "examples", "integrations"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if code_blocks(ROOT / page)])
def test_blocks_run_in_order(page, runner, hub, published, checkout):
    needs = NEEDS.get(page, Page())
    for write in needs.files:
        write(checkout)
    if needs.hub is not None:
        shutil.rmtree(hub.root)
        for name, folder in (("hub", hub.root), ("page", checkout)):
            shutil.copytree(published(needs.hub) / name, folder, dirs_exist_ok=True)
    runner.run(blocks_as_run(page), needs.names, checkout)


@pytest.mark.slow
def test_all_stages_train_as_documented(runner, checkout):
    """In the other test, a block's `train_all_stages.sh` does not train."""
    script = "examples/train_all_stages.sh"
    (block,) = [block for block in blocks_as_run("docs/training.md") if f"{script} runs/tiny " in block.text]
    runner.run([replace(block, text=block.text.replace(script, f"LAUNCH={sys.executable} {script}"))], [], checkout)
    assert (checkout / "runs/tiny/temporal-full/model_index.json").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_its_language(page):
    unknown = [block for block in code_blocks(ROOT / page) if block.language not in LANGUAGES]
    assert not unknown


@pytest.mark.parametrize("page", NEEDS)
def test_nothing_is_prepared_that_is_not_written(page):
    text = text_of(page)
    assert [written for written in NEEDS[page].replaced if written not in text] == []
    assert [name for name in NEEDS[page].names if name not in text] == []


def test_every_change_for_the_cpu_is_needed():
    text = "".join(map(text_of, PAGES))
    assert [written for written in ON_A_CPU if written not in text] == []
