# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Starting points of training: checkpoints of several kinds, configurations, and mixes, as real files in folders."""

import copy
import json
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from hub_server import HubServer
from rounding import assert_equal_up_to_rounding
from small_networks import autoencoder_dc
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from hia_diffusers import HIAAppearanceEncoder, HIAControlNetModel, HIAUNetMotionModel, ShiftedSNRScheduler
from hia_diffusers.conversion.converted import Conversion
from hia_diffusers.conversion.parts import convert_parts


UNET = {
    "sample_size": 16,
    "block_out_channels": [16],
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
}
VAE = {
    "block_out_channels": [8, 8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "projection_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
ADAPTER = {
    "block_out_channels": [16],
    "motion_layers_per_block": 1,
    "motion_num_attention_heads": 2,
    "motion_norm_num_groups": 8,
    "motion_max_seq_length": 24,
    "use_motion_mid_block": True,
}
EMBEDDING = [8, 8, 16, 16]
SCRATCH = {
    "unet": UNET,
    "controlnet": {"conditioning_embedding_out_channels": EMBEDDING},
    "vae": VAE,
    "image_encoder": VISION,
}


def with_options(entry: str, without: tuple[str, ...] = (), **options) -> dict:
    """`SCRATCH` with other options in one entry."""
    changed = {name: value for name, value in {**SCRATCH.get(entry, {}), **options}.items() if name not in without}
    return {**SCRATCH, entry: changed}


@pytest.fixture(scope="module")
def scratch() -> Conversion:
    """What `SCRATCH` gives with seed 0, to be left as it is."""
    return convert_parts(base=SCRATCH)


@pytest.fixture(scope="module")
def folders(scratch, tmp_path_factory) -> Path:
    """Checkpoints as other tools write them: each folder is one, in the layout that Hub repositories have."""
    root = tmp_path_factory.mktemp("checkpoints") / "user"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**UNET)
        vae = AutoencoderKL(**VAE, scaling_factor=0.5)
        text_encoder = CLIPTextModel(CLIPTextConfig(**TEXT, bos_token_id=0, eos_token_id=1))
        controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=EMBEDDING)
        for parameter in controlnet.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        adapter = MotionAdapter(**ADAPTER)
        vision = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION))
        text = {**TEXT, "projection_dim": 32, "bos_token_id": 0, "eos_token_id": 1}
        clip = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=32))
    extractor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    (root / "vocabulary").mkdir(parents=True)
    (root / "vocabulary" / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (root / "vocabulary" / "merges.txt").write_text("#version: 0.2\n")
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(root / "vocabulary"),
        unet=unet,
        scheduler=PNDMScheduler(beta_schedule="scaled_linear", steps_offset=1),
        safety_checker=None,
        feature_extractor=extractor,
        requires_safety_checker=False,
    ).save_pretrained(root / "sd")
    controlnet.save_pretrained(root / "controlnet")
    adapter.save_pretrained(root / "adapter")
    for name, encoder in (("vision", vision), ("clip", clip)):
        encoder.save_pretrained(root / name)
        extractor.save_pretrained(root / name)
    AutoencoderTiny(latent_channels=4, **tiny_channels()).save_pretrained(root / "tiny-vae")
    scratch.model.save_pretrained(root / "hia")
    return root


def tiny_channels() -> dict:
    return {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}


@pytest.fixture
def sd(folders) -> dict:
    """The options of a start from Stable Diffusion and a ControlNet."""
    return {
        "base": folders / "sd",
        "controlnet": folders / "controlnet",
        "image_encoder": folders / "vision",
    }


@pytest.fixture(scope="module")
def start(folders) -> Conversion:
    """That start, loaded with seed 0 and to be left as it is."""
    return convert_parts(folders / "sd", folders / "controlnet", image_encoder=folders / "vision")


@pytest.fixture
def broken(folders, tmp_path):
    """A copy of a checkpoint with other options in one of its JSON files."""

    def make(name: str, file: str, **options) -> Path:
        folder = tmp_path / name
        shutil.copytree(folders / name, folder)
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**config, **options}))
        for weights in folder.rglob("*.safetensors"):
            weights.write_bytes(b"never read")
        return folder

    return make


def weights_of(pipeline) -> dict[str, torch.Tensor]:
    names = ("unet", "appearance_encoder", "controlnet", "vae", "image_encoder")
    return {f"{name}.{key}": value for name in names for key, value in getattr(pipeline, name).state_dict().items()}


def assert_same(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == others.keys()
    assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


def rows_of(components: Conversion) -> dict:
    return {row.component: row for row in components.report.rows}


def frames_of(pipeline, image_size: int = 32) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, image_size, image_size, generator=generator)
    condition = torch.rand(2, 6, image_size, image_size, generator=generator)
    return pipeline(image, condition, num_inference_steps=2, generator=generator, output_type="pt").frames


# From Stable Diffusion


def test_stable_diffusion_gives_the_networks_of_the_package_its_weights(folders, start):
    pipeline = start.model
    unet2d = UNet2DConditionModel.from_pretrained(folders / "sd", subfolder="unet")
    spatial = {name: v for name, v in pipeline.unet.state_dict().items() if ".motion_modules." not in name}
    assert_same(spatial, unet2d.state_dict())
    assert_same(pipeline.appearance_encoder.state_dict(), HIAAppearanceEncoder.from_unet(unet2d).state_dict())
    controlnet = ControlNetModel.from_pretrained(folders / "controlnet")
    assert_same(pipeline.controlnet.state_dict(), HIAControlNetModel.from_controlnet(controlnet).state_dict())
    vae = AutoencoderKL.from_pretrained(folders / "sd", subfolder="vae")
    assert_same(pipeline.vae.state_dict(), vae.state_dict())
    assert pipeline.vae.config.scaling_factor == 0.5
    vision = CLIPVisionModelWithProjection.from_pretrained(folders / "vision", dtype=torch.float32)
    assert_same(pipeline.image_encoder.state_dict(), vision.state_dict())
    assert pipeline.text_encoder is None and pipeline.tokenizer is None
    assert frames_of(pipeline).isfinite().all()


def test_the_report_of_stable_diffusion_names_what_is_taken_made_and_left(folders, start):
    rows, pipeline = rows_of(start), start.model
    unet2d = list(UNet2DConditionModel(**UNET).state_dict())
    encoder = list(pipeline.appearance_encoder.state_dict())
    motion = [name for name in pipeline.unet.state_dict() if ".motion_modules." in name]
    assert set(rows["unet"].taken) == set(unet2d) and rows["unet"].made == rows["unet"].left == ()
    assert (rows["motion_modules"].source, list(rows["motion_modules"].made)) == ("new", motion)
    assert list(rows["appearance_encoder"].taken) == encoder
    assert set(rows["appearance_encoder"].left) == set(unet2d) - set(encoder) != set()
    assert rows["controlnet"].made == ("controlnet_cond_embedding.conv_in.weight[:, 3:]",)
    assert rows["scheduler"].made == ("linear betas, gamma 0.5714, epsilon",)
    assert rows["vae"].source == str(folders / "sd" / "vae") and len(rows["vae"].taken) == len(
        pipeline.vae.state_dict()
    )
    assert set(start.report.left_over) == {
        f"{folders}/sd/{name}"
        for name in (
            "text_encoder (CLIPTextModel)",
            "tokenizer (CLIPTokenizer)",
            "scheduler (PNDMScheduler)",
            "feature_extractor (CLIPImageProcessor)",
        )
    }

    table = str(start.report).splitlines()
    assert table[0].split() == ["component", "taken", "made", "left", "from"]
    assert any(line.split()[:4] == ["unet", str(len(unet2d)), "0", "0"] for line in table)
    assert any(line.startswith(f"  motion_modules: {motion[0]}, ") for line in table)
    assert table.index("Made:") < table.index("Left:") < table.index(f"  {folders}/sd/text_encoder (CLIPTextModel)")


def test_without_a_controlnet_it_is_made_of_the_unet(folders, sd, tmp_path):
    # The conditioning embedding of HIA's size reduces by 8, as the autoencoder does.
    del sd["controlnet"]
    components = convert_parts(**sd)
    unet2d = UNet2DConditionModel.from_pretrained(folders / "sd", subfolder="unet").state_dict()
    controlnet = components.model.controlnet
    copied = {name: value for name, value in controlnet.state_dict().items() if name in unet2d}
    assert_same(copied, {name: unet2d[name] for name in copied})
    fresh = [name for name, _ in controlnet.named_parameters() if name not in unet2d]
    assert {name.split(".")[0] for name in fresh} == {
        "controlnet_cond_embedding",
        "controlnet_down_blocks",
        "controlnet_mid_block",
    }
    row = rows_of(components)["controlnet"]
    assert set(row.made) == set(fresh) and set(row.taken) == set(copied)
    assert controlnet.config.conditioning_channels == 6
    assert not any(block.weight.any() for block in controlnet.controlnet_down_blocks)


def test_new_weights_depend_on_the_seed_only_and_leave_the_random_state_alone(sd, start):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = weights_of(convert_parts(**sd).model)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(weights_of(start.model), first)
    other = weights_of(convert_parts(**sd, seed=2).model)
    differing = {name for name in first if not torch.equal(first[name], other[name])}
    assert differing and all(".motion_modules." in name for name in differing)


def test_all_is_float32_on_the_cpu_in_evaluation_mode_from_a_half_precision_variant(folders, sd, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(folders / "sd", dtype=torch.float16)
    pipeline.save_pretrained(tmp_path, variant="fp16")
    sd["base"] = tmp_path
    with pytest.raises(FileNotFoundError, match="`base`"):
        convert_parts(**sd)
    networks = [
        module
        for module in convert_parts(**sd, variant="fp16").model.components.values()
        if isinstance(module, torch.nn.Module)
    ]
    assert len(networks) == 5
    for network in networks:
        assert not network.training
        assert {(p.dtype, p.device.type, p.requires_grad) for p in network.parameters()} == {
            (torch.float32, "cpu", True)
        }


def test_the_prediction_type_is_the_bases_unless_given(folders, sd, tmp_path):
    shutil.copytree(folders / "sd", tmp_path / "sd")
    DDIMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "sd" / "scheduler")
    sd["base"] = tmp_path / "sd"
    assert convert_parts(**sd).model.scheduler.config.prediction_type == "v_prediction"
    components = convert_parts(**sd, schedule={"prediction_type": "epsilon", "snr_shift_factor": 0.25})
    assert components.model.scheduler.config.prediction_type == "epsilon"
    assert torch.equal(components.model.scheduler.betas, ShiftedSNRScheduler(snr_shift_factor=0.25).betas)
    assert rows_of(components)["scheduler"].made == (
        "linear betas, gamma 0.25, epsilon, but the UNet was trained for v_prediction",
    )


def test_older_names_of_weights_and_options_are_understood(folders, start, tmp_path):
    # Stable Diffusion 1.5's own autoencoder, ControlNets of 2023 and CLIP models of then look like this.
    for name in ("sd", "controlnet", "vision"):
        shutil.copytree(folders / name, tmp_path / name)
    file = tmp_path / "sd" / "vae" / "diffusion_pytorch_model.safetensors"
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in safetensors.torch.load_file(file).items():
        for new, old in old_names.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[name] = value
    assert any(".query." in name for name in renamed)
    safetensors.torch.save_file(renamed, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "controlnet" / "config.json").read_text())
    del config["conditioning_channels"]
    (tmp_path / "controlnet" / "config.json").write_text(json.dumps(config))
    file = tmp_path / "vision" / "model.safetensors"
    positions = {"vision_model.embeddings.position_ids": torch.arange(17)[None]}
    safetensors.torch.save_file(safetensors.torch.load_file(file) | positions, file, metadata={"format": "pt"})

    old = convert_parts(
        base=tmp_path / "sd",
        controlnet=tmp_path / "controlnet",
        image_encoder=tmp_path / "vision",
    )
    assert_same(weights_of(old.model), weights_of(start.model))
    assert rows_of(old)["controlnet"].made == ("controlnet_cond_embedding.conv_in.weight[:, 3:]",)


def test_the_vision_tower_of_a_whole_clip_model_is_taken(folders):
    components = convert_parts(folders / "hia", image_encoder=folders / "clip")
    clip = CLIPModel.from_pretrained(folders / "clip", dtype=torch.float32).state_dict()
    tower = components.model.image_encoder.state_dict()
    assert_same(tower, {name: clip[name] for name in tower})
    row = rows_of(components)["image_encoder"]
    assert set(row.taken) == set(tower) and set(row.left) == set(clip) - set(tower)


def test_an_image_encoder_of_the_checkpoint_itself_is_used(folders, sd, tmp_path):
    # As in checkpoints of image variations.
    shutil.copytree(folders / "sd", tmp_path / "sd")
    shutil.copytree(folders / "vision", tmp_path / "sd" / "image_encoder")
    index = json.loads((tmp_path / "sd" / "model_index.json").read_text())
    index["image_encoder"] = ["transformers", "CLIPVisionModelWithProjection"]
    (tmp_path / "sd" / "model_index.json").write_text(json.dumps(index))
    del sd["image_encoder"]
    components = convert_parts(**{**sd, "base": tmp_path / "sd"})
    assert rows_of(components)["image_encoder"].source == str(tmp_path / "sd" / "image_encoder")
    assert rows_of(components)["feature_extractor"].source == str(tmp_path / "sd" / "feature_extractor")
    left_over = {Path(item).name.split()[0] for item in components.report.left_over}
    assert left_over == {"text_encoder", "tokenizer", "scheduler"}


# Motion adapters


@pytest.mark.parametrize("mid_block", [True, False])
def test_a_motion_adapter_gives_its_weights_and_shape(folders, sd, tmp_path, mid_block):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        MotionAdapter(**{**ADAPTER, "use_motion_mid_block": mid_block}).save_pretrained(tmp_path)
    components = convert_parts(**sd, motion_adapter=tmp_path)
    unet2d = UNet2DConditionModel.from_pretrained(folders / "sd", subfolder="unet")
    expected = HIAUNetMotionModel.from_unet2d(unet2d, MotionAdapter.from_pretrained(tmp_path))
    unet = components.model.unet
    assert_same(unet.state_dict(), expected.state_dict())
    motion_options = ("motion_max_seq_length", "motion_num_attention_heads", "use_motion_mid_block", "motion_norm")
    assert {name: unet.config[name] for name in motion_options} == {
        name: expected.config[name] for name in motion_options
    }
    assert hasattr(unet.mid_block, "motion_modules") == mid_block
    row = rows_of(components)["motion_modules"]
    assert (row.source, row.made, row.left) == (str(tmp_path), (), ())
    assert set(row.taken) == set(MotionAdapter.from_pretrained(tmp_path).state_dict())
    sample, context = torch.rand(1, 4, 2, 8, 8), torch.rand(1, 1, 32)
    assert_equal_up_to_rounding(unet(sample, 5, context).sample, expected.eval()(sample, 5, context).sample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_out_channels": [32]}, "`block_out_channels` must be .* of the UNet, got"),
        ({"motion_layers_per_block": 2}, "`motion_layers_per_block` must be 1, the `layers_per_block` of the UNet"),
        ({"motion_norm_num_groups": 4}, "`motion_norm_num_groups` must be 8, the `norm_num_groups` of the UNet"),
        ({"motion_mid_block_layers_per_block": 2}, "`motion_mid_block_layers_per_block` must be 1"),
        ({"conv_in_channels": 9}, "an input convolution of 9 channels"),
        ({"_class_name": "ControlNetModel"}, "a model of class MotionAdapter, got ControlNetModel"),
    ],
)
def test_a_motion_adapter_that_does_not_fit_is_refused_before_weights_are_read(sd, broken, options, message):
    adapter = broken("adapter", "config.json", **options)
    base = broken("sd", "model_index.json")
    with pytest.raises(ValueError, match=message) as error:
        convert_parts(**{**sd, "base": base}, motion_adapter=adapter)
    assert "`motion_adapter`" in str(error.value)


# From a checkpoint of HIA


@pytest.mark.parametrize("kind", ["sd", "scratch"])
def test_what_is_saved_is_loaded_bit_for_bit_without_anything_new(folders, sd, scratch, tmp_path, kind):
    first, folder, gamma = scratch, folders / "hia", 4 / 7
    if kind == "sd":
        folder, gamma = tmp_path, 0.3
        first = convert_parts(**sd, schedule={"snr_shift_factor": gamma})
        first.model.save_pretrained(folder)
    again = convert_parts(base=folder)
    assert_same(weights_of(again.model), weights_of(first.model))
    assert_equal_up_to_rounding(frames_of(again.model), frames_of(first.model))
    assert again.model.scheduler.config.snr_shift_factor == gamma
    assert not any(row.made or row.left for row in again.report.rows) and again.report.left_over == ()
    taken = {name: set(row.taken) for name, row in rows_of(again).items()}
    taken["unet"] |= taken.pop("motion_modules")
    for name, component in again.model.components.items():
        if isinstance(component, torch.nn.Module):
            assert taken[name] == set(component.state_dict()), name


def test_options_replace_the_components_of_a_hia_checkpoint(folders, start, tmp_path):
    start.model.save_pretrained(tmp_path)
    (tmp_path / "controlnet" / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (tmp_path / "image_encoder" / "model.safetensors").unlink()
    components = convert_parts(
        base=tmp_path,
        controlnet=folders / "controlnet",
        motion_adapter=folders / "adapter",
        image_encoder=folders / "clip",
        vae=folders / "tiny-vae",
        schedule={"snr_shift_factor": 0.25},
    )
    rows, pipeline = rows_of(components), components.model
    for name, source in (
        ("controlnet", "controlnet"),
        ("motion_modules", "adapter"),
        ("image_encoder", "clip"),
        ("feature_extractor", "clip"),
        ("vae", "tiny-vae"),
    ):
        assert rows[name].source == str(folders / source)
    assert rows["unet"].source == str(tmp_path / "unet")
    assert isinstance(pipeline.vae, AutoencoderTiny)
    adapter = MotionAdapter.from_pretrained(folders / "adapter").state_dict()
    unet = pipeline.unet.state_dict()
    assert_same({name: unet[name] for name in unet if ".motion_modules." in name}, adapter)
    assert pipeline.unet.config.motion_max_seq_length == 24
    assert set(components.report.left_over) == {
        f"the motion modules of {tmp_path}/unet",
        f"{tmp_path}/controlnet (HIAControlNetModel)",
        f"{tmp_path}/image_encoder (CLIPVisionModelWithProjection)",
        f"{tmp_path}/feature_extractor (CLIPImageProcessor)",
        f"{tmp_path}/vae (AutoencoderKL)",
    }
    assert rows["scheduler"].made == (f"snr_shift_factor 0.25 in place of {4 / 7}",)
    assert torch.equal(pipeline.scheduler.betas, ShiftedSNRScheduler(snr_shift_factor=0.25).betas)
    assert frames_of(pipeline).isfinite().all()


def test_a_context_from_the_empty_prompt_is_kept_or_replaced(folders, start, tmp_path):
    pipeline = copy.deepcopy(start.model)
    text_encoder = CLIPTextModel.from_pretrained(folders / "sd", subfolder="text_encoder", dtype=torch.float32)
    tokenizer = CLIPTokenizer.from_pretrained(folders / "sd", subfolder="tokenizer")
    pipeline.register_modules(
        image_encoder=None, feature_extractor=None, text_encoder=text_encoder, tokenizer=tokenizer
    )
    pipeline.register_to_config(reference_timestep="current")
    pipeline.save_pretrained(tmp_path)
    kept = convert_parts(base=tmp_path)
    assert kept.model.image_encoder is None and kept.model.config.reference_timestep == "current"
    assert_same(kept.model.text_encoder.state_dict(), text_encoder.state_dict())
    assert rows_of(kept)["text_encoder"].source == str(tmp_path / "text_encoder")
    assert kept.report.left_over == ()

    replaced = convert_parts(base=tmp_path, image_encoder=folders / "vision")
    assert replaced.model.text_encoder is None and replaced.model.image_encoder is not None
    assert set(replaced.report.left_over) == {
        f"{tmp_path}/text_encoder (CLIPTextModel)",
        f"{tmp_path}/tokenizer (CLIPTokenizer)",
    }


def test_a_hia_checkpoint_of_another_scheduler_is_refused(broken):
    folder = broken("hia", "scheduler/scheduler_config.json", _class_name="DDIMScheduler")
    with pytest.raises(ValueError, match="must be a ShiftedSNRScheduler, got DDIMScheduler"):
        convert_parts(base=folder)


# From scratch


def test_a_configuration_gives_new_components_that_run(scratch, tmp_path):
    file = tmp_path / "tiny.yaml"
    entries = with_options("unet", motion_max_seq_length=20, resnet_norm="clip", motion_num_attention_heads=4)
    entries["controlnet"] = {"conditioning_embedding_out_channels": EMBEDDING, "zero_conv_std": 0.02}
    entries["vae"] = {**VAE, "scaling_factor": 0.7, "shift_factor": 0.1}
    entries["scheduler"] = {"snr_shift_factor": 0.5, "prediction_type": "v_prediction"}
    file.write_text(yaml.safe_dump(entries))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    components = convert_parts(base=file, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    pipeline = components.model
    assert pipeline.unet.config.motion_max_seq_length == 20 and pipeline.unet.config.resnet_norm == "clip"
    assert pipeline.unet.config.motion_num_attention_heads == 4
    assert (pipeline.vae.config.scaling_factor, pipeline.vae.config.shift_factor) == (0.7, 0.1)
    assert pipeline.scheduler.config.snr_shift_factor == 0.5
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    controlnet = pipeline.controlnet
    zero = torch.cat(
        [c.weight.flatten() for c in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block)]
    )
    assert zero.std().item() == pytest.approx(0.02, rel=0.1)
    assert controlnet.controlnet_cond_embedding.conv_out.weight.std().item() == pytest.approx(0.02, rel=0.1)
    unet2d = {name: v for name, v in pipeline.unet.state_dict().items() if ".motion_modules." not in name}
    encoder = pipeline.appearance_encoder.state_dict()
    assert_same(encoder, {name: unet2d[name] for name in encoder})
    assert frames_of(pipeline).isfinite().all()

    rows = components.report.rows
    assert {row.source for row in rows} == {"new"} and components.report.left_over == ()
    assert not any(row.taken or row.left for row in rows)
    assert set(rows_of(components)["unet"].made) == set(unet2d)
    assert_same(
        weights_of(convert_parts(base=yaml.safe_load(file.read_text()), seed=3).model),
        weights_of(pipeline),
    )
    other = weights_of(scratch.model)  # of another seed
    for name in ("unet.conv_in.weight", "vae.encoder.conv_in.weight", "image_encoder.visual_projection.weight"):
        assert not torch.equal(other[name], weights_of(pipeline)[name])


def test_self_attention_may_start_with_equal_queries_and_keys():
    loaded = convert_parts(base=with_options("unet", self_attention_gain=2, spatial_position_embedding=True))
    plain = convert_parts(base=SCRATCH).model
    for name in ("unet", "appearance_encoder", "controlnet"):
        network = getattr(loaded.model, name)
        assert name == "controlnet" or network.config.spatial_position_embedding
        weights, others = network.state_dict(), getattr(plain, name).state_dict()
        for key, value in weights.items():
            if ".attentions." in key and key.endswith("attn1.to_k.weight"):
                query = key.replace("to_k", "to_q")
                assert torch.equal(value, weights[query]) and torch.equal(value, 2 * others[query])
            elif not key.endswith("attn1.to_q.weight") and ".motion_modules." not in key:
                assert torch.equal(value, others[key]), key


def test_without_a_zero_conv_std_the_zero_convolutions_are_zero(scratch):
    controlnet = scratch.model.controlnet
    assert not any(block.weight.any() for block in controlnet.controlnet_down_blocks)
    assert not controlnet.controlnet_cond_embedding.conv_out.weight.any()


def test_options_replace_entries_which_may_be_left_out(folders, scratch):
    options = {
        "controlnet": folders / "controlnet",
        "motion_adapter": folders / "adapter",
        "image_encoder": folders / "vision",
        "vae": folders / "tiny-vae",
    }
    components = convert_parts(base={"unet": UNET}, **options, schedule={"snr_shift_factor": 0.5})
    rows = rows_of(components)
    assert {name for name, row in rows.items() if row.source == "new"} == {"unet", "appearance_encoder", "scheduler"}
    assert rows["controlnet"].made == ("controlnet_cond_embedding.conv_in.weight[:, 3:]",)
    assert components.report.left_over == ()
    assert components.model.scheduler.config.snr_shift_factor == 0.5

    components = convert_parts(base=SCRATCH, vae=folders / "tiny-vae")
    assert components.report.left_over == ("the entry `vae` of `base`",)
    # One component's draws do not move another's.
    assert_same(components.model.unet.state_dict(), scratch.model.unet.state_dict())


def test_the_autoencoder_of_a_configuration_may_be_tiny():
    channels = {name: list(value) for name, value in tiny_channels().items()}
    entries = {**SCRATCH, "vae": {"_class_name": "AutoencoderTiny", "scaling_factor": 2.0, **channels}}
    vae = convert_parts(base=entries).model.vae
    assert isinstance(vae, AutoencoderTiny) and vae.config.scaling_factor == 2.0


def test_the_autoencoder_of_a_configuration_may_be_a_deep_compression_one(tmp_path):
    vae = {"_class_name": "AutoencoderDC", **autoencoder_dc(scaling_factor=2.0)}
    (tmp_path / "networks.yaml").write_text(yaml.safe_dump({**SCRATCH, "vae": vae}))
    new = convert_parts(base=tmp_path / "networks.yaml")
    assert isinstance(new.model.vae, AutoencoderDC) and new.model.vae.config.scaling_factor == 2.0
    assert frames_of(new.model).isfinite().all()
    new.model.vae.save_pretrained(tmp_path / "vae")
    loaded = convert_parts(base=SCRATCH, vae=tmp_path / "vae")
    assert rows_of(loaded)["vae"].made == ()
    assert_same(loaded.model.vae.state_dict(), new.model.vae.state_dict())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({**SCRATCH, "optimizer": {}}, "`base` has the unknown entries optimizer; valid ones are unet"),
        ({name: SCRATCH[name] for name in ("vae", "image_encoder")}, "`base` must have the entry `unet`."),
        (
            {name: SCRATCH[name] for name in ("unet", "controlnet", "image_encoder")},
            "must have the entry `vae`, or `vae` must be given",
        ),
        (
            {name: SCRATCH[name] for name in ("unet", "controlnet", "vae")},
            "must have the entry `image_encoder`, or `image_encoder` must be given",
        ),
        ({**SCRATCH, "vae": 3}, "the entry `vae` must be a mapping of options, got 3"),
        (
            with_options("unet", motion_length=3, blocks=2),
            "entry `unet` has the unknown options blocks, motion_length",
        ),
        (with_options("controlnet", in_channels=4), "entry `controlnet` has the unknown options in_channels"),
        (with_options("vae", scale=1.0), "entry `vae` has the unknown options scale"),
        (
            with_options("vae", without=tuple(VAE), _class_name="AutoencoderDC", shift_factor=0.1),
            "entry `vae` has the unknown options shift_factor",
        ),
        (with_options("image_encoder", label2id={}), "entry `image_encoder` has the unknown options label2id"),
        (with_options("scheduler", trained_betas=[0.1]), "entry `scheduler` has the unknown options trained_betas"),
        (
            with_options("unet", norm_eps="1e-5"),
            "`norm_eps` of the entry `unet` must be a number, got the text '1e-5'",
        ),
        (with_options("unet", self_attention_gain=-1), "`self_attention_gain` must be a finite number, at least 0"),
        (with_options("unet", norm_num_groups=7), "`base` has an invalid entry `unet`"),
        (with_options("unet", motion_norm="batch"), "entry `unet`: `motion_norm` must be one of"),
        (with_options("unet", dropout=0.1), "entry `unet`: its `dropout` must be 0.0 for a motion UNet, got 0.1"),
        (with_options("unet", class_embed_type="timestep"), "its `class_embed_type` must be None"),
        (with_options("unet", down_block_types=["AttnDownBlock2D"]), "got AttnDownBlock2D"),
        (with_options("unet", out_channels=8), "as many channels as it takes, 4, got 8"),
        (with_options("vae", latent_channels=8), "`unet` takes 4 channels but `vae` has 8 latent channels"),
        (
            with_options("vae", _class_name="VQModel"),
            "AutoencoderKL or AutoencoderTiny or AutoencoderDC, got 'VQModel'",
        ),
        (with_options("controlnet", conditioning_embedding_out_channels=[8, 16]), "reduces conditioning frames by 2"),
        (with_options("controlnet", zero_conv_std=-0.1), "`zero_conv_std` must be a finite number, at least 0"),
        (
            with_options("image_encoder", projection_dim=16),
            "`image_encoder`: its `projection_dim` must be 32, the `cross_attention_dim` of the UNet, got 16",
        ),
        (
            with_options("scheduler", snr_shift_factor=2.0),
            "`snr_shift_factor` must be a finite number, above 0 and at most 1, got 2.0",
        ),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        convert_parts(base=entries)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("unet: [", "is not a YAML file"),
        ("", "must contain a mapping, got NoneType"),
        ("- unet", "must contain a mapping, got list"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, content, message):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"`base`: .*config.yaml {message}"):
        convert_parts(base=tmp_path / "config.yaml")


def test_missing_yaml_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "config.yaml").write_text("unet: {}")
    with pytest.raises(ImportError, match=r"hia-diffusers\[train\]"):
        convert_parts(base=tmp_path / "config.yaml")


# Bad options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"base": 3}, TypeError, "`base` must be a Hub id or the path of a local folder, got 3"),
        ({"base": None}, TypeError, "`base` must be a Hub id or the path of a local folder, got None"),
        ({"base": ""}, TypeError, "got ''"),
        ({"base": "nowhere.yaml"}, FileNotFoundError, "`base`: there is no file nowhere.yaml"),
        ({"base": SCRATCH, "vae": 3}, TypeError, "`vae` must be a Hub id or the path of a local folder, got 3"),
        ({"base": SCRATCH, "variant": "fp16"}, ValueError, "`variant` belongs to a checkpoint"),
        ({"base": SCRATCH, "schedule": {"betas": 1}}, ValueError, "`schedule` must contain snr_shift_factor and"),
        ({"base": SCRATCH, "schedule": {"prediction_type": "noise"}}, ValueError, "`prediction_type` must be one of"),
        (
            {"base": SCRATCH, "schedule": {"snr_shift_factor": 0}},
            ValueError,
            "`snr_shift_factor` must be a finite number, above 0 and at most 1",
        ),
        ({"base": SCRATCH, "seed": "0"}, TypeError, "`seed` must be an integer"),
    ],
)
def test_bad_options_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        convert_parts(**options)


@pytest.mark.parametrize(
    "option",
    [
        "base",
        "controlnet",
        "motion_adapter",
        "image_encoder",
        "vae",
    ],
)
def test_a_folder_without_the_component_is_named_with_its_option(sd, tmp_path, option):
    with pytest.raises(FileNotFoundError, match=f"^`{option}`: {tmp_path} cannot be read"):
        convert_parts(**{**sd, option: tmp_path})


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("base", "sd/unet", "cannot be read: Error no file named model_index.json"),
        (
            "controlnet",
            "tiny-vae",
            "class HIAControlNetModel or ControlNetModel, got AutoencoderTiny",
        ),
        ("motion_adapter", "controlnet", "class MotionAdapter, got ControlNetModel"),
        ("image_encoder", "sd/text_encoder", "cannot be read"),
        (
            "vae",
            "controlnet",
            "class AutoencoderKL or AutoencoderTiny or AutoencoderDC, got ControlNetModel",
        ),
    ],
)
def test_a_component_of_another_kind_is_named_with_its_option(folders, sd, option, name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=f"`{option}`.*{message}"):
        convert_parts(**{**sd, option: folders / name})


def test_stable_diffusion_needs_an_image_encoder(broken, sd):
    sd["base"] = broken("sd", "model_index.json")
    del sd["image_encoder"]
    with pytest.raises(ValueError, match="`image_encoder` must be given, such as openai/clip-vit-large"):
        convert_parts(**sd)


@pytest.mark.parametrize(
    ("option", "name", "file", "changes", "message"),
    [
        (
            "base",
            "sd",
            "model_index.json",
            {"unet": ["diffusers", "UNetMotionModel"]},
            "must lead to an HIAPipeline, or .* got StableDiffusionPipeline with UNetMotionModel and AutoencoderKL",
        ),
        ("base", "sd", "unet/config.json", {"freq_shift": 1}, "its `freq_shift` must be 0"),
        (
            "base",
            "sd",
            "unet/config.json",
            {"in_channels": 9},
            "as many channels as it takes",
        ),
        ("controlnet", "controlnet", "config.json", {"conditioning_channels": 1}, "must be 3 or 6"),
        ("controlnet", "controlnet", "config.json", {"block_out_channels": [32]}, "block_out"),
        ("controlnet", "controlnet", "config.json", {"cross_attention_dim": 16}, "must be 32"),
        (
            "controlnet",
            "controlnet",
            "config.json",
            {"in_channels": 8},
            "takes 8 channels but `unet` is for 4",
        ),
        (
            "controlnet",
            "controlnet",
            "config.json",
            {"controlnet_conditioning_channel_order": "bgr"},
            "must be rgb, got bgr",
        ),
        ("image_encoder", "vision", "config.json", {"projection_dim": 16}, "`projection_dim` must be 32"),
        ("image_encoder", "vision", "config.json", {"model_type": "siglip"}, "`model_type` must be clip"),
        ("image_encoder", "vision", "config.json", {"image_size": 64}, "must be its `image_size`, 64"),
        ("vae", "tiny-vae", "config.json", {"latent_channels": 8}, "`vae` has 8 latent channels"),
        ("vae", "tiny-vae", "config.json", {"_class_name": None}, "or AutoencoderDC, got None"),
    ],
)
def test_what_does_not_fit_is_refused_before_weights_are_read(sd, broken, option, name, file, changes, message):
    options = {"base": broken("sd", "model_index.json")} if name != "sd" else {}
    with pytest.raises(ValueError, match=message):
        convert_parts(**{**sd, **options, option: broken(name, file, **changes)})


@pytest.mark.parametrize(
    ("option", "name", "file", "fault"),
    [
        ("base", "sd", "unet/diffusion_pytorch_model.safetensors", "unexpected"),
        ("base", "sd", "vae/diffusion_pytorch_model.safetensors", "missing"),
        ("controlnet", "controlnet", "diffusion_pytorch_model.safetensors", "missing"),
        ("motion_adapter", "adapter", "diffusion_pytorch_model.safetensors", "unexpected"),
        ("image_encoder", "vision", "model.safetensors", "missing"),
        ("image_encoder", "clip", "model.safetensors", "unexpected"),
    ],
)
def test_weights_that_do_not_match_are_an_error(folders, sd, tmp_path, option, name, file, fault):
    folder = tmp_path / name
    shutil.copytree(folders / name, folder)
    tensors = safetensors.torch.load_file(folder / file)
    key = sorted(key for key in tensors if not key.startswith("text"))[-1]
    if fault == "missing":
        del tensors[key]
    else:
        key = "stray.weight"
        tensors[key] = torch.zeros(1)
    safetensors.torch.save_file(tensors, folder / file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"1 {fault} keys: {key}") as error:
        convert_parts(**{**sd, option: folder})
    assert str(error.value).startswith(f"`{option}`: {folder}")


def test_pickled_weights_are_not_read(folders, sd, tmp_path):
    ControlNetModel.from_pretrained(folders / "controlnet").save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(FileNotFoundError, match="`controlnet`.*safetensors"):
        convert_parts(**{**sd, "controlnet": tmp_path})


# From a Hub


@pytest.fixture
def hub(folders, tmp_path, monkeypatch):
    """A hub of these checkpoints in place of that on the internet, and an empty cache."""
    with HubServer(folders.parent) as server:
        server.take_the_hubs_place(monkeypatch, tmp_path)
        yield server


def test_all_starting_points_load_from_the_hub(hub, folders, scratch, start):
    mixed = convert_parts(
        base="user/sd",
        controlnet="user/controlnet",
        motion_adapter="user/adapter",
        image_encoder="user/vision",
        vae="user/tiny-vae",
    )
    downloaded = {path for method, path in hub.requests if method == "GET" and "/resolve/" in path}
    weights = {path for path in downloaded if path.endswith("safetensors") and path.startswith("/user/sd/")}
    assert {path.split("/")[-2] for path in weights} == {"unet"}  # what is replaced or left over stays there
    vae = AutoencoderTiny.from_pretrained(folders / "tiny-vae")
    adapter = MotionAdapter.from_pretrained(folders / "adapter")
    expected = {name: value for name, value in weights_of(start.model).items() if ".motion_modules." not in name}
    expected = {name: value for name, value in expected.items() if not name.startswith("vae.")}
    expected |= {f"vae.{name}": value for name, value in vae.state_dict().items()}
    expected |= {f"unet.{name}": value for name, value in adapter.state_dict().items()}
    assert_same(weights_of(mixed.model), expected)
    report = str(mixed.report)
    assert "user/sd/unet" in report and "user/sd/text_encoder (CLIPTextModel)" in report

    hia = convert_parts(base="user/hia")
    assert_same(weights_of(hia.model), weights_of(scratch.model))
    assert "user/hia/unet" in str(hia.report) and "Made:" not in str(hia.report)


@pytest.mark.parametrize("option", ["base", "vae"])
def test_what_is_not_on_the_hub_is_named_with_its_option(hub, option):
    with pytest.raises(FileNotFoundError, match=f"^`{option}`: user/absent cannot be read"):
        convert_parts(**{"base": "user/hia", option: "user/absent"})


def test_training_one_component_does_not_change_another(start):
    pipeline = copy.deepcopy(start.model)
    before = copy.deepcopy(weights_of(pipeline))
    with torch.no_grad():
        for parameter in pipeline.unet.parameters():
            parameter.add_(1)
    changed = {name for name, value in weights_of(pipeline).items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("unet.") for name in changed)
