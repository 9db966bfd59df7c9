# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The three networks as diffusers models: saving, loading, dtypes, checkpointing, compilation, casting, offloading."""

import copy
import json
from inspect import signature

import pytest
import safetensors.torch
import torch
from diffusers import (
    AutoModel,
    ControlNetModel,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
)
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from random_tiny import UNET
from rounding import assert_equal_up_to_rounding

from hia_diffusers import (
    HIAAppearanceEncoder,
    HIAControlNetModel,
    HIAPoseGuider,
    HIAUNetMotionModel,
    ReferenceFeatures,
)
from hia_diffusers.models.attention import MotionAttention


F = 3
NETWORKS = ["unet", "appearance_encoder", "controlnet"]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def run(pipe):
    """Call a network on fixed inputs; returns one tensor that depends on all its parameters."""
    with torch.no_grad():
        features = pipe.appearance_encoder(draw(1, 4, 8, 6), 0, draw(1, 1, 32)).reference_features

    def call(network, name):
        dtype = network.dtype
        if name == "unet":
            reference = {key: value.to(dtype) for key, value in features.items()}
            return network(draw(1, 4, F, 8, 6).to(dtype), 7, draw(1, 1, 32).to(dtype), reference_features=reference)[0]
        if name == "appearance_encoder":
            written = network(draw(1, 4, 8, 6).to(dtype), 0, draw(1, 1, 32).to(dtype)).reference_features
            return torch.cat([value.flatten() for value in written.values()])
        condition = torch.rand(F, 6, 64, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
        if name == "pose_guider":
            return network(condition).pose_features
        output = network(draw(F, 4, 8, 6).to(dtype), 7, draw(F, 1, 32).to(dtype), condition)
        residuals = (*output.down_block_res_samples, output.mid_block_res_sample)
        return torch.cat([value.flatten() for value in residuals])

    return call


# Saving and loading


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip_shards_and_auto_model(pipe, run, name, tmp_path):
    network = getattr(pipe, name)
    expected = run(network, name)
    network.save_pretrained(tmp_path / "whole")
    reloaded = type(network).from_pretrained(tmp_path / "whole")
    weights = reloaded.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in network.state_dict().items())
    assert_equal_up_to_rounding(run(reloaded, name), expected)
    saved, original = (json.loads(n.to_json_string()) for n in (reloaded, network))
    assert saved == {**original, "_name_or_path": saved["_name_or_path"]}

    network.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert_equal_up_to_rounding(run(type(network).from_pretrained(tmp_path / "sharded"), name), expected)

    pipe.save_pretrained(tmp_path / "pipeline")
    found = AutoModel.from_pretrained(str(tmp_path / "pipeline"), subfolder=name)
    assert type(found) is type(network)
    assert_equal_up_to_rounding(run(found, name), expected)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_variants_and_dtypes(pipe, run, name, dtype, tmp_path):
    network = getattr(pipe, name)
    full = run(network, name)
    half = copy.deepcopy(network).to(dtype)
    half.save_pretrained(tmp_path, variant="half")
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["diffusion_pytorch_model.half.safetensors"]
    reloaded = type(network).from_pretrained(tmp_path, variant="half", dtype=dtype)
    assert reloaded.dtype is dtype
    output = run(reloaded, name)
    assert output.dtype is dtype
    assert_equal_up_to_rounding(output, run(half, name))
    assert (output.float() - full).abs().max() < 0.05 * full.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_missing_and_unexpected_keys_are_errors(pipe, name, tmp_path):
    network = getattr(pipe, name)
    network.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(path)

    safetensors.torch.save_file(weights | {"stray.weight": torch.zeros(1)}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 unexpected keys: stray\.weight"):
        type(network).from_pretrained(tmp_path)

    lost = sorted(weights)[0]
    safetensors.torch.save_file({k: v for k, v in weights.items() if k != lost}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"1 missing keys: {lost}"):
        type(network).from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("plain", "hia", "hint"),
    [
        (UNet2DConditionModel, HIAAppearanceEncoder, "from_unet"),
        (ControlNetModel, HIAControlNetModel, "from_controlnet"),
        (UNetMotionModel, HIAUNetMotionModel, "from_unet_motion"),
    ],
)
def test_a_checkpoint_of_another_class_is_an_error(plain, hia, hint, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": plain.__name__}))
    with pytest.raises(ValueError, match=f"holds a {plain.__name__}, not a {hia.__name__}.*{hint}"):
        hia.from_pretrained(tmp_path)


# Construction


def tiny_unet2d(**kwargs):
    torch.manual_seed(0)
    return UNet2DConditionModel(**(UNET | kwargs)).eval()


@pytest.mark.parametrize(
    ("hia", "parent", "new", "others"),
    [
        (HIAAppearanceEncoder, UNet2DConditionModel, {"spatial_position_embedding"}, {}),
        (HIAControlNetModel, ControlNetModel, set(), {"conditioning_channels": 6}),
        (
            HIAUNetMotionModel,
            UNetMotionModel,
            {
                "input_skip",
                "motion_norm",
                "reference_attention_blocks",
                "resnet_norm",
                "spatial_position_embedding",
                "use_motion_modules",
            },
            {},
        ),
    ],
)
def test_the_configuration_is_the_parents_and_what_is_new(hia, parent, new, others):
    """A release of diffusers that adds an option or changes a default is noticed here."""
    own, inherited = ({k: p.default for k, p in signature(c.__init__).parameters.items()} for c in (hia, parent))
    assert own.keys() - inherited.keys() == new
    assert {name: own[name] for name in inherited} == inherited | others


@pytest.mark.parametrize("name", NETWORKS)
def test_other_classes_read_the_defaults_here_as_given(pipe, name):
    """diffusers leaves options out that it knows to be defaults, and takes those of the class that reads."""
    network = getattr(pipe, name)
    with torch.device("meta"):
        new = type(network)()
    parent = {"unet": UNetMotionModel, "appearance_encoder": UNet2DConditionModel, "controlnet": ControlNetModel}[name]
    options = signature(parent.__init__).parameters.keys() - {"self"}
    read = parent.extract_init_dict(new.config)[0]
    assert read == {option: new.config[option] for option in options}


def test_controlnet_takes_six_channels_by_default():
    assert (
        HIAControlNetModel(
            block_out_channels=(8,),
            down_block_types=("DownBlock2D",),
            norm_num_groups=4,
            mid_block_type="UNetMidBlock2D",
        ).config.conditioning_channels
        == 6
    )


def test_controlnet_takes_channels_in_their_order_only():
    with pytest.raises(ValueError, match="`controlnet_conditioning_channel_order` must be 'rgb'.*'bgr'"):
        HIAControlNetModel(controlnet_conditioning_channel_order="bgr")


def test_every_parameter_of_the_appearance_encoder_reaches_a_feature(pipe):
    for encoder in (
        pipe.appearance_encoder,
        HIAAppearanceEncoder.from_unet(tiny_unet2d(transformer_layers_per_block=2)),
        HIAAppearanceEncoder.from_unet(
            tiny_unet2d(
                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            )
        ),
    ):
        features = encoder(draw(1, 4, 8, 8), 0, draw(1, 1, 32)).reference_features
        assert list(features) == encoder.reference_names or set(features) == set(encoder.reference_names)
        sum(value.square().sum() for value in features.values()).backward()
        assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_features_are_the_normed_inputs_of_the_unets_self_attentions():
    unet = tiny_unet2d(transformer_layers_per_block=2)
    seen = {}
    for name, module in unet.named_modules():
        if name.endswith(".attn1"):
            module.register_forward_pre_hook(lambda m, args, n=name: seen.update({n.removesuffix(".attn1"): args[0]}))
    unet(draw(2, 4, 8, 8), 0, draw(2, 1, 32))
    features = HIAAppearanceEncoder.from_unet(unet)(draw(2, 4, 8, 8), 0, draw(2, 1, 32)).reference_features
    assert features.keys() == seen.keys()
    for name, value in features.items():
        assert_equal_up_to_rounding(value, seen[name])


@torch.no_grad()
def test_sd15_encoder_has_the_published_layout_of_magic_animate():
    with torch.device("meta"):
        encoder = HIAAppearanceEncoder(cross_attention_dim=768, attention_head_dim=8)
    assert len(encoder.state_dict()) == 662
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 2) == 857.07


@torch.no_grad()
def test_widening_a_controlnet_leaves_its_outputs_unchanged():
    plain = ControlNetModel.from_unet(tiny_unet2d(), conditioning_embedding_out_channels=(8, 16))
    for parameter in plain.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    wide = HIAControlNetModel.from_controlnet(plain, conditioning_channels=6).eval()
    condition = torch.rand(2, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs = (draw(2, 4, 8, 8), 7, draw(2, 1, 32))
    old = plain.eval()(*inputs, condition[:, :3], return_dict=False)
    new = wide(*inputs, condition, return_dict=False)
    for a, b in zip((*old[0], old[1]), (*new[0], new[1]), strict=True):
        assert_equal_up_to_rounding(a, b)
    torch.nn.init.normal_(
        wide.controlnet_cond_embedding.conv_in.weight[:, 3:], generator=torch.Generator().manual_seed(0)
    )
    assert not torch.allclose(wide(*inputs, condition, return_dict=False)[1], old[1])
    wider = HIAControlNetModel.from_controlnet(HIAControlNetModel.from_config(wide.config), conditioning_channels=8)
    assert wider.config.conditioning_channels == wider.controlnet_cond_embedding.conv_in.in_channels == 8


@torch.no_grad()
def test_from_unet2d_starts_as_the_2d_unet_frame_by_frame():
    unet2d = tiny_unet2d()
    unet = HIAUNetMotionModel.from_unet2d(unet2d).eval()
    sample, context = draw(2, 4, F, 8, 8), draw(2, 1, 32)
    frames = unet2d(sample.transpose(1, 2).flatten(0, 1), 7, context.repeat_interleave(F, 0)).sample
    assert_equal_up_to_rounding(unet(sample, 7, context).sample.transpose(1, 2).flatten(0, 1), frames)


def test_from_unet2d_takes_the_weights_of_a_motion_adapter():
    adapter = MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=8, motion_num_attention_heads=2
    )
    unet = HIAUNetMotionModel.from_unet2d(tiny_unet2d(), adapter)
    key = "down_blocks.0.motion_modules.0.proj_out.weight"
    assert torch.equal(unet.state_dict()[key], adapter.state_dict()[key])
    assert unet.config.motion_num_attention_heads == 2


@torch.no_grad()
def test_converting_a_motion_unet_shares_weights_and_keeps_the_function():
    torch.manual_seed(0)
    stock = UNetMotionModel.from_unet2d(tiny_unet2d()).eval()
    unet = HIAUNetMotionModel.from_unet_motion(stock)
    sample, context = draw(1, 4, F, 8, 8), draw(F, 1, 32)
    assert_equal_up_to_rounding(unet(sample, 7, context).sample, stock(sample, 7, context).sample)
    assert unet.conv_in.weight.data_ptr() == stock.conv_in.weight.data_ptr()


@torch.no_grad()
@pytest.mark.parametrize("timestep", [7, torch.tensor(7), torch.tensor([7, 900])])
def test_an_input_skip_begins_as_nothing_and_can_pass_the_input_on(timestep):
    torch.manual_seed(0)
    plain = HIAUNetMotionModel.from_unet2d(tiny_unet2d()).eval()
    unet = HIAUNetMotionModel.from_config(plain.config, input_skip=True).eval()
    unet.load_state_dict(plain.state_dict(), strict=False)
    sample, context = draw(2, 4, F, 8, 8), draw(2, 1, 32)
    # A factor of 1 and a summand of 0 change no bit.
    assert torch.equal(unet(sample, timestep, context).sample, plain(sample, timestep, context).sample)
    unet.input_skip_projection.bias.copy_(torch.tensor([-1.0] * 4 + [1.0] * 4))
    (output,) = unet(sample, timestep, context, return_dict=False)
    torch.testing.assert_close(output, sample)
    unet.input_skip_projection.weight.normal_()
    assert not torch.allclose(unet(sample, 7, context).sample, unet(sample, 900, context).sample)


def test_an_input_skip_wants_an_output_like_the_input():
    config = HIAUNetMotionModel.from_unet2d(tiny_unet2d()).config
    with pytest.raises(ValueError, match="`input_skip` needs as many `in_channels` as `out_channels`, got 4 and 3."):
        HIAUNetMotionModel.from_config(config, input_skip=True, out_channels=3)


@torch.no_grad()
@pytest.mark.parametrize(
    ("norms", "independent"),
    [
        ({"motion_norm": "frame", "resnet_norm": "frame"}, True),
        ({"motion_norm": "clip", "resnet_norm": "frame"}, False),
        ({"motion_norm": "frame", "resnet_norm": "clip"}, False),
    ],
)
def test_frame_norms_make_a_frame_independent_of_its_window(norms, independent):
    """Without temporal attention, a frame depends on the others only through norms over the clip."""
    torch.manual_seed(0)
    unet = HIAUNetMotionModel.from_config({**HIAUNetMotionModel.from_unet2d(tiny_unet2d()).config, **norms}).eval()
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            torch.nn.init.normal_(module.proj_out.weight, std=0.1)
            for block in module.transformer_blocks:
                for attention in (block.attn1, block.attn2):
                    torch.nn.init.zeros_(attention.to_out[0].weight)
    sample, context = draw(1, 4, F, 8, 8), draw(1, 1, 32)
    changed = sample.clone()
    changed[:, :, 1:] += 3
    first, second = (unet(s, 7, context).sample[:, :, 0] for s in (sample, changed))
    assert torch.allclose(first, second, atol=1e-5) == independent


@torch.no_grad()
def test_a_single_frame_attends_to_itself_as_by_the_kernel(pipe, monkeypatch):
    for module in pipe.unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            torch.nn.init.normal_(module.proj_out.weight, std=0.3)
    sample, context = draw(1, 4, 1, 8, 6), draw(1, 1, 32)
    frame = pipe.unet(sample, 7, context).sample
    monkeypatch.setattr(MotionAttention, "forward", Attention.forward)
    assert_equal_up_to_rounding(frame, pipe.unet(sample, 7, context).sample)


@torch.no_grad()
def test_motion_modules_are_left_out_whatever_their_weights(tmp_path):
    torch.manual_seed(0)
    unet = HIAUNetMotionModel.from_unet2d(tiny_unet2d()).eval()
    sample, context = draw(1, 4, F, 8, 8), draw(1, 1, 32)
    expected = unet(sample, 7, context).sample  # new modules are the identity
    calls = []
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            torch.nn.init.normal_(module.proj_out.weight, std=0.3)
            module.norm.register_forward_hook(lambda *_: calls.append(1))
    with_modules = unet(sample, 7, context).sample
    assert calls and not torch.allclose(with_modules, expected, atol=1e-2)
    calls.clear()
    unet.set_motion_modules(False)
    assert_equal_up_to_rounding(unet(sample, 7, context).sample, expected)
    assert not calls
    unet.save_pretrained(tmp_path)
    again = HIAUNetMotionModel.from_pretrained(tmp_path).eval()
    assert_equal_up_to_rounding(again(sample, 7, context).sample, expected)
    assert not HIAUNetMotionModel.from_unet_motion(again).config.use_motion_modules
    again.set_motion_modules(True)
    assert_equal_up_to_rounding(again(sample, 7, context).sample, with_modules)


def test_bad_options_and_types_are_named():
    for name in ("reference_attention_blocks", "motion_norm", "resnet_norm"):
        with pytest.raises(ValueError, match=f"`{name}` must be one of"):
            HIAUNetMotionModel(**{name: "all"})
    for build, name in (
        (HIAUNetMotionModel.from_unet2d, "unet"),
        (HIAUNetMotionModel.from_unet_motion, "unet"),
        (HIAAppearanceEncoder.from_unet, "unet"),
        (HIAControlNetModel.from_unet, "unet"),
        (HIAControlNetModel.from_controlnet, "controlnet"),
    ):
        with pytest.raises(TypeError, match=f"`{name}` must be a"):
            build(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="up_block_types"):
        HIAAppearanceEncoder.from_unet(
            tiny_unet2d(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D",) * 2)
        )
    with pytest.raises(ValueError, match="conditioning_channels"):
        HIAControlNetModel.from_controlnet(
            ControlNetModel.from_unet(tiny_unet2d(), conditioning_embedding_out_channels=(8, 16)), 2
        )


# Training and speed features


def test_gradient_checkpointing_gives_the_same_gradients(pipe):
    unet, encoder = pipe.unet.train(), pipe.appearance_encoder.train()
    gradients, recomputed = [], []
    for module in unet.modules():
        if isinstance(module, AnimateDiffTransformer3D):
            module.norm.register_forward_hook(lambda *_: recomputed.append(1))
    for checkpoint in (False, True):
        for network in (unet, encoder):
            network.zero_grad()
            if checkpoint:
                network.enable_gradient_checkpointing()
        recomputed.clear()
        features = encoder(draw(1, 4, 8, 6), 0, draw(1, 1, 32)).reference_features
        output = unet(draw(1, 4, F, 8, 6), 7, draw(1, 1, 32), reference_features=features).sample
        output.square().mean().backward()
        gradients.append({k: p.grad for n in (unet, encoder) for k, p in n.named_parameters()})
        gradients[-1]["calls"] = len(recomputed)
    calls = [g.pop("calls") for g in gradients]
    assert calls[1] >= 2 * calls[0]  # the motion modules are recomputed too
    assert all(g is not None for g in gradients[0].values())
    for key, expected in gradients[0].items():
        assert torch.allclose(expected, gradients[1][key], atol=1e-6), key


@torch.no_grad()
def test_unet_compiles_without_a_graph_break():
    unet2d = tiny_unet2d()
    unet = HIAUNetMotionModel.from_unet2d(unet2d).eval()
    sample, context = draw(1, 4, F, 8, 8), draw(1, 1, 32)
    features = HIAAppearanceEncoder.from_unet(unet2d)(draw(1, 4, 8, 8), 0, context).reference_features
    expected = unet(sample, 7, context, reference_features=features).sample
    torch._dynamo.reset()
    compiled = torch.compile(unet, fullgraph=True, backend="eager")
    reference = ReferenceFeatures(features)
    for _ in range(2):  # projects K and V, then finds them
        assert_equal_up_to_rounding(compiled(sample, 7, context, reference_features=reference).sample, expected)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_repeated_blocks_compile_once_per_shape(pipe, run, name):
    from torch._dynamo.testing import CompileCounter

    network = getattr(pipe, name)
    expected = run(network, name)
    torch._dynamo.reset()
    counter = CompileCounter()
    network.compile_repeated_blocks(fullgraph=True, backend=counter)
    assert_equal_up_to_rounding(run(network, name), expected)
    compiled = counter.frame_count
    assert 0 < compiled <= 8  # fewer than there are blocks: they share code
    run(network, name)
    assert counter.frame_count == compiled


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_layerwise_casting(pipe, run, name):
    network = getattr(pipe, name)
    expected = run(network, name)
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert any(p.dtype is torch.float8_e4m3fn for p in network.parameters())
    output = run(network, name)
    assert output.dtype is torch.float32
    assert 0 < (output - expected).abs().max() < 0.5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("level", ["leaf_level", "block_level"])
@pytest.mark.parametrize("name", NETWORKS)
def test_group_offload(pipe, run, name, level):
    network = getattr(pipe, name)
    expected = run(network, name)
    cpu = torch.device("cpu")
    apply_group_offloading(network, onload_device=cpu, offload_device=cpu, offload_type=level, num_blocks_per_group=1)
    for _ in range(2):
        assert_equal_up_to_rounding(run(network, name), expected)


# Devices


@torch.no_grad()
@pytest.mark.parametrize("name", [*NETWORKS, "pose_guider"])
@pytest.mark.parametrize("share", [None, 0.6, 0.2])
def test_device_map_auto(pipe, run, name, share, tmp_path):
    """In one piece, and split between memory and disk. Outputs come back whole."""
    if name == "pose_guider":
        pipe.controlnet = HIAPoseGuider(6, (8, 8, 16, 16), out_channels=16)
        torch.nn.init.normal_(pipe.controlnet.controlnet_cond_embedding.conv_out.weight)
    network = pipe.controlnet if name == "pose_guider" else getattr(pipe, name)
    expected = run(network, name)
    network.save_pretrained(tmp_path / "saved")
    options = {}
    if share is not None:
        size = sum(parameter.nbytes for parameter in network.parameters())
        options = {"max_memory": {"cpu": int(share * size)}, "offload_folder": tmp_path / "offloaded"}
    placed = type(network).from_pretrained(tmp_path / "saved", device_map="auto", **options)
    devices = set(placed.hf_device_map.values())
    assert ("disk" in devices) == (share is not None)
    assert "cpu" in devices or share == 0.2 or name == "pose_guider"
    assert torch.equal(run(placed, name), expected)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_device_maps_of_one_device(pipe, run, name, tmp_path):
    network = getattr(pipe, name)
    expected = run(network, name)
    network.save_pretrained(tmp_path)
    for device_map in ("cpu", torch.device("cpu"), {"": "cpu"}, "balanced"):
        placed = type(network).from_pretrained(tmp_path, device_map=device_map)
        assert torch.equal(run(placed, name), expected)


def test_names_that_diffusers_looks_for_are_those_of_layers(pipe):
    for network in (pipe.unet, pipe.appearance_encoder, pipe.controlnet, HIAPoseGuider()):
        classes = {type(module).__name__ for module in network.modules()}
        assert set(network._repeated_blocks) <= classes and set(network._no_split_modules) <= classes
    assert set(pipe.unet._skip_keys) <= signature(pipe.unet.forward).parameters.keys()
