# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints by name, from a Hub on loopback with random weights in the published layouts."""

import shutil
import time
from pathlib import Path

import PIL.Image
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants
from published_weights import TRUE_SIZE, moore_shapes, split, write_magic_animate, write_moore

from hia_diffusers import HIAPipeline
from hia_diffusers.__main__ import main
from hia_diffusers.commands.loading import choose_dtype
from hia_diffusers.conversion.hub_downloads import converted_checkpoint, converted_folder
from hia_diffusers.conversion.published import PUBLISHED, published_checkpoint
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.video.reading import read_video


MOORE_LIKE = ("moore-animate-anyone", "musepose", "dynamicpose", "champ", "aniportrait")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Small weights of both families."""
    folder = tmp_path_factory.mktemp("written")
    for name in ("moore", "magic"):
        (folder / name).mkdir()
    families = {"moore": write_moore(folder / "moore"), "magic": write_magic_animate(folder / "magic")}
    tokenizer = families["magic"] / "base" / "tokenizer"  # in the form of 2022
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(families["magic"] / "base-vocabulary" / name, tokenizer)
    (tokenizer / "tokenizer.json").unlink()
    (tokenizer / "special_tokens_map.json").write_text("{}")
    return families


@pytest.fixture
def hub_root(written, tmp_path):
    """Every repository of the table with exactly the files that the table names."""
    root = tmp_path / "hub"
    for name, checkpoint in PUBLISHED.items():
        family = written["moore" if name in MOORE_LIKE else "magic"]
        folders = {
            "weights": family / "weights",
            "base": family / "base",
            "vae": family / "base" / "vae",
            "image_encoder": family / "variations",
        }
        for argument, files in checkpoint.sources.items():
            for file in files.sizes:
                target = root / files.repo_id / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folders[argument] / Path(file).relative_to(files.folder), target)
    return root


@pytest.fixture
def hub(hub_root, monkeypatch, tmp_path):
    """A hub of these repositories, and an empty cache of `huggingface_hub`."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    with HubServer(hub_root) as server:
        server.take_the_hubs_place(monkeypatch, tmp_path / "home" / "hub")
        yield server


def files_sent(server):
    return [path for method, path in server.requests if method == "GET" and "/resolve/" in path]


def test_the_first_run_downloads_what_it_needs_and_the_second_asks_nobody(hub, tmp_path):
    messages = []
    folder = converted_checkpoint("musepose", torch.float16, tmp_path / "cache", notify=messages.append)
    sources = PUBLISHED["musepose"].sources.values()
    assert len(files_sent(hub)) == sum(len(files.sizes) for files in sources)
    assert "GB" in messages[0] and "OpenRAIL" in messages[0]
    assert messages[1:] == [f"Converting MusePose; the result is kept in {folder}."]
    pipe = HIAPipeline.from_pretrained(folder, dtype=torch.float16)
    assert pipe.scheduler.config.beta_schedule == "scaled_linear"
    assert pipe.config.call_defaults["num_inference_steps"] == 20
    assert pipe.config.call_defaults["pose_map"] == PUBLISHED["musepose"].pose_map == "musepose"
    assert pipe.config.call_defaults["area"] == PUBLISHED["musepose"].area

    hub.requests.clear()
    again = HIAPipeline.from_published("musepose", dtype=torch.float16, cache_dir=tmp_path / "cache")
    assert hub.requests == []
    for key, tensor in pipe.unet.state_dict().items():
        assert torch.equal(tensor, again.unet.state_dict()[key])


def test_another_dtype_is_made_of_the_same_downloads(hub, tmp_path):
    converted_checkpoint("moore-animate-anyone", torch.float16, tmp_path)
    hub.requests.clear()
    messages = []
    folder = converted_checkpoint("moore-animate-anyone", torch.float32, tmp_path, notify=messages.append)
    assert hub.requests == [] and [message.split(";")[0] for message in messages] == [
        "Converting Moore-AnimateAnyone",
    ]
    assert HIAPipeline.from_pretrained(folder).scheduler.config.beta_schedule == "linear"


def test_magic_animate_by_name(hub, tmp_path):
    pipe = HIAPipeline.from_published("magic-animate", cache_dir=tmp_path)
    assert pipe.config.call_defaults["guidance_scale"] == 7.5
    assert pipe.config.call_defaults["pose_map"] == PUBLISHED["magic-animate"].pose_map == "densepose"
    assert pipe.config.call_defaults["area"] == PUBLISHED["magic-animate"].area
    assert pipe.text_encoder is not None


def test_a_download_that_breaks_off_is_one_sentence_and_resumes(hub, tmp_path, monkeypatch):
    size = (hub.root / "patrolli/AnimateAnyone/denoising_unet.pth").stat().st_size
    hub.bytes_left = size // 2
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(ConnectionError, match="denoising_unet.pth.*try again") as raised:
        converted_checkpoint("moore-animate-anyone", cache_dir=tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "hia-diffusers").exists() or not [*(tmp_path / "hia-diffusers").iterdir()]

    hub.bytes_left = None
    hub.requests.clear()
    assert converted_checkpoint("moore-animate-anyone", cache_dir=tmp_path).is_dir()


@pytest.mark.parametrize("removed", ["pose_guider.pth", ""])
def test_a_file_or_repository_that_is_not_there_is_named_before_downloading(hub, tmp_path, removed):
    path = hub.root / "patrolli" / "AnimateAnyone" / removed
    path.unlink() if removed else shutil.rmtree(path)
    messages = []
    with pytest.raises(FileNotFoundError, match=f"patrolli/AnimateAnyone.*{removed}") as raised:
        converted_checkpoint("moore-animate-anyone", cache_dir=tmp_path, notify=messages.append)
    assert "\n" not in str(raised.value)
    assert files_sent(hub) == messages == []


def test_another_revision_must_be_there(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="`revision`.*'v2'"):
        converted_checkpoint("moore-animate-anyone", cache_dir=tmp_path, revision="v2")


def test_too_little_space_is_known_before_downloading(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1000, 900, 100))
    with pytest.raises(OSError, match="free space; the files need"):
        converted_checkpoint("moore-animate-anyone", cache_dir=tmp_path)
    assert files_sent(hub) == []


def test_without_a_network_what_is_missing_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="downloads are switched off") as raised:
        converted_checkpoint("moore-animate-anyone", cache_dir=tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["champ", "aniportrait"])
def test_what_cannot_animate_says_what_is_missing(name, tmp_path):
    with pytest.raises(ValueError, match=f"cannot animate: .*guid.*convert {name}"):
        converted_checkpoint(name, cache_dir=tmp_path)


def test_another_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="moore-animate-anyone, musepose.*got 'sd15'"):
        published_checkpoint("sd15")


def test_revisions_and_dtypes_have_folders_of_their_own(tmp_path):
    folders = {
        converted_folder("champ", dtype, tmp_path, revision)
        for dtype in (torch.float16, torch.float32)
        for revision in (None, "refs/pr/1")
    }
    assert len(folders) == 4
    assert {folder.parent for folder in folders} == {tmp_path / "hia-diffusers"}


def test_the_sizes_of_the_table_are_those_of_networks_of_true_size():
    """Of float32 weights, within the rounding of listings and the overhead of pickles."""
    shapes = moore_shapes(TRUE_SIZE)
    sizes = PUBLISHED["moore-animate-anyone"].sources["weights"].sizes
    spatial, motion = split(shapes["unet"])
    expected = {
        "denoising_unet.pth": spatial,
        "motion_module.pth": motion,
        "reference_unet.pth": shapes["appearance_encoder"],
        "pose_guider.pth": shapes["pose_guider"],
    }
    for file, weights in expected.items():
        size = 4 * sum(torch.Size(shape).numel() for shape in weights.values())
        assert sizes[file] == pytest.approx(size, rel=0.01)


def test_one_command_from_a_name_to_a_video(hub, tmp_path, capsys):
    clip = ProceduralScene("train", identity=0, motion=0, setting=0).render(range(2), 64, 48)
    PIL.Image.fromarray(clip.frames[0]).save(tmp_path / "me.png")
    clip.keypoints.save(tmp_path / "dance.npz")
    command = ["animate", "--model", "moore-animate-anyone", "--image", tmp_path / "me.png"]
    command += ["--driving", tmp_path / "dance.npz", "--output", tmp_path / "me.mp4"]
    command += ["--size", "64x64", "--max_frames", "2", "--num_inference_steps", "1", "--device", "cpu"]
    main([str(word) for word in command])
    printed = capsys.readouterr().out
    assert printed.index("License: Apache-2.0") < printed.index("Wrote ")
    assert read_video(tmp_path / "me.mp4").frames.shape == (2, 64, 64, 3)

    hub.requests.clear()
    main(["models"])
    printed = capsys.readouterr().out
    assert f"ready in {str(choose_dtype('auto', 'cpu')).removeprefix('torch.')}" in printed
    assert "GPU memory: " in printed
    assert hub.requests == []


def test_convert_downloads_what_is_not_given(hub, tmp_path, written, capsys):
    base = written["moore"] / "base"
    main(["convert", "musepose", "--base", str(base), "--output", str(tmp_path / "musepose")])
    assert not any("stable-diffusion" in path or "sd-vae" in path for path in files_sent(hub))
    assert "License: CreativeML OpenRAIL-M" in capsys.readouterr().out
    assert HIAPipeline.from_pretrained(tmp_path / "musepose").scheduler.config.beta_schedule == "scaled_linear"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "champ"], "champ cannot animate"),
        (["--model", "moore-animate-anyone", "--variant", "fp16"], "--variant: moore-animate-anyone has none"),
        (["--revision", "v1"], "--revision: needs --model"),
        (["--model", "user/model", "--revision", "v1"], "--revision: needs a --model listed"),
    ],
)
def test_what_does_not_go_with_a_name_is_one_sentence_before_anything_else(tmp_path, capsys, options, message):
    image, driving = tmp_path / "me.png", tmp_path / "dance.npz"
    image.touch()
    driving.touch()
    with pytest.raises(SystemExit) as ended:
        files = ["--image", str(image), "--driving", str(driving), "--output", str(tmp_path / "a.mp4")]
        main(["animate", *files, *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
