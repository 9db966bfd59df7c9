# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA files in all layouts: applied to exactly their layers, or refused with nothing changed."""

import copy
import json
import logging

import pytest
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from rounding import assert_equal_up_to_rounding
from safetensors.torch import save_file
from text_parts import text_parts

from hia_diffusers import HIAAppearanceEncoder, HIAControlNetModel, HIAPipeline, HIAUNetMotionModel
from hia_diffusers.models.attachments import lora_layers


ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0"
MOTION = "up_blocks.1.motion_modules.0.transformer_blocks.0"
UNET_LAYERS = [
    *(f"{ATTENTION}.attn1.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *("mid_block.attentions.0.transformer_blocks.0.attn2.to_v", "mid_block.attentions.0.proj_in"),
    *(f"{ATTENTION}.ff.net.0.proj", f"{ATTENTION}.ff.net.2", "conv_in", "down_blocks.0.resnets.0.conv1"),
    *("down_blocks.0.downsamplers.0.conv", "up_blocks.1.resnets.0.time_emb_proj", "time_embedding.linear_1"),
]
ATTENTION_LAYERS = [name for name in UNET_LAYERS if ".attn" in name]
TEXT_LAYERS = ["encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.out_proj", "encoder.layers.0.mlp.fc1"]


@pytest.fixture
def animate(animate):
    """One step, without decoding: what LoRA does is in the UNet and the context."""
    return lambda pipeline: animate(pipeline, num_inference_steps=1, output_type="latent")


@pytest.fixture
def text_pipe(pipe):
    """A pipeline whose context comes from a text encoder."""
    parts = {**pipe.components, "image_encoder": None, "feature_extractor": None, **text_parts()}
    pipeline = HIAPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random_lora(network, names, mixed=True):
    """For each module a random `down`, `up` and alpha, of ranks and scales that differ if `mixed`."""
    generator = torch.Generator().manual_seed(7)
    layers = {}
    for i, name in enumerate(names):
        weight = network.get_submodule(name).weight
        rank = 2 + i % 2 if mixed else 2
        down = torch.randn(rank, *weight.shape[1:], generator=generator) * 0.3
        up = torch.randn(len(weight), rank, *[1] * (weight.ndim - 2), generator=generator) * 0.3
        layers[name] = (down, up, float(1 + i % 3) if mixed else 2.0)
    return layers


def merge(network, layers):
    """Add LoRA to a network's weights, by the formula."""
    for name, (down, up, alpha) in layers.items():
        weight = network.get_submodule(name).weight
        weight.data += (up.flatten(1) @ down.flatten(1)).view_as(weight) * alpha / len(down)


def kohya(layers, prefix="lora_unet_"):
    state = {}
    for name, (down, up, alpha) in layers.items():
        name = prefix + name.replace(".", "_")
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)}
    return state


def peft(layers, prefix="", adapter=""):
    """The keys of PEFT, which have no alpha."""
    state = {}
    for name, (down, up, _) in layers.items():
        state |= {f"{prefix}{name}.lora_A{adapter}.weight": down, f"{prefix}{name}.lora_B{adapter}.weight": up}
    return state


def old_diffusers(layers, prefix=""):
    """The keys of diffusers' first trainers, where a LoRA belonged to an attention processor."""
    state = {}
    for name, (down, up, _) in layers.items():
        block, _, projection = name.removesuffix(".0").rpartition(".")
        state |= {f"{prefix}{block}.processor.{projection}_lora.down.weight": down}
        state |= {f"{prefix}{block}.processor.{projection}_lora.up.weight": up}
    return state


def animatediff(layers):
    """The keys of AnimateDiff's own motion LoRA, as its training saves them."""
    names = {"transformer_blocks.0.attn1": "temporal_transformer.transformer_blocks.0.attention_blocks.0"}
    state = old_diffusers(layers, "module.")
    return {"state_dict": {key.replace(*next(iter(names.items()))): value for key, value in state.items()}}


def scale_one(layers):
    return {name: (down, up, float(len(down))) for name, (down, up, _) in layers.items()}


def is_untouched(pipe, before, frames, animate):
    """No LoRA is left anywhere, in part or whole, and the frames are the same bit for bit."""
    for network in (pipe.unet, pipe.text_encoder):
        if network is not None:
            assert lora_layers(network) == [] and not getattr(network, "peft_config", None)
    assert pipe.get_list_adapters() == {} and pipe.get_active_adapters() == []
    assert pipe.unet.state_dict().keys() == before.keys()
    assert torch.equal(animate(pipe), frames)


KINDS = {
    "kohya": (kohya, UNET_LAYERS, False),
    "diffusers": (lambda layers: peft(layers, "unet."), UNET_LAYERS, True),
    "peft": (lambda layers: peft(layers, "base_model.model."), UNET_LAYERS, True),
    "peft-with-name": (lambda layers: peft(layers, "base_model.model.", ".default"), UNET_LAYERS, True),
    "compiled": (lambda layers: peft(layers, "module._orig_mod."), UNET_LAYERS, True),
    "no-prefix": (peft, UNET_LAYERS, True),
    "old-diffusers": (lambda layers: old_diffusers(layers, "unet."), ATTENTION_LAYERS, True),
    "v3-sd15-adapter": (old_diffusers, ATTENTION_LAYERS, True),
    "motion-lora": (animatediff, [f"{MOTION}.attn1.to_q", f"{MOTION}.attn1.to_out.0"], True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_does_what_merging_by_hand_does(pipe, animate, tmp_path, kind):
    write, names, is_scale_one = KINDS[kind]
    layers = random_lora(pipe.unet, names)
    layers = scale_one(layers) if is_scale_one else layers
    base, expected = animate(pipe), copy.deepcopy(pipe)
    merge(expected.unet, layers)
    expected = animate(expected)
    assert (expected - base).abs().max() > 1e-3
    before = pipe.unet.state_dict()
    if kind == "motion-lora":
        path = tmp_path / "zoom.ckpt"
        torch.save(write(layers), path)
    else:
        path = tmp_path / "lora.safetensors"
        save_file(write(layers), path)
    sources = [path]
    if kind in ("kohya", "motion-lora"):  # what is read from them does not depend on the kind
        sources += [str(tmp_path), write(layers).get("state_dict", write(layers))]
    for source in sources:
        pipe.load_lora_weights(source, adapter_name="style")
        assert {name for name, m in pipe.unet.named_modules() if m in lora_layers(pipe.unet)} == set(layers)
        assert_equal_up_to_rounding(animate(pipe), expected)
        pipe.unload_lora_weights()
    is_untouched(pipe, before, base, animate)


def test_the_scale_of_peft_comes_from_its_configuration(pipe, animate, tmp_path):
    """A folder that PEFT itself has saved, with ranks and scales that differ, and with its `use_rslora`."""
    base = copy.deepcopy(pipe.unet)
    options = {"rank_pattern": {"to_k": 3}, "alpha_pattern": {"to_v": 7}, "use_rslora": True}
    network = get_peft_model(
        copy.deepcopy(pipe.unet), LoraConfig(r=2, lora_alpha=5, target_modules=r".*attn1\.to_[qkv]", **options)
    )
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(3))
    network.save_pretrained(tmp_path)
    pipe.load_lora_weights(tmp_path)
    loaded = animate(pipe)
    pipe.unload_lora_weights()
    pipe.unet = network.merge_and_unload()
    assert_equal_up_to_rounding(loaded, animate(pipe))
    pipe.unet = base
    assert (loaded - animate(pipe)).abs().max() > 1e-3


def test_the_scale_of_diffusers_comes_from_the_metadata_of_its_file(pipe, animate, tmp_path):
    layers = {
        name: (down, up, 6.0) for name, (down, up, _) in random_lora(pipe.unet, UNET_LAYERS, mixed=False).items()
    }
    metadata = {"unet.r": 2, "unet.lora_alpha": 6.0}
    save_file(peft(layers, "unet."), tmp_path / "lora.safetensors", {LORA_ADAPTER_METADATA_KEY: json.dumps(metadata)})
    expected = copy.deepcopy(pipe)
    merge(expected.unet, layers)
    pipe.load_lora_weights(tmp_path)
    assert_equal_up_to_rounding(animate(pipe), animate(expected))


def test_peft_weights_without_their_configuration_are_taken_at_scale_one_and_said(pipe, tmp_path, caplog):
    save_file(peft(random_lora(pipe.unet, UNET_LAYERS), "base_model.model."), tmp_path / "adapter_model.safetensors")
    with caplog.at_level(logging.WARNING, "hia_diffusers"):
        pipe.load_lora_weights(tmp_path)
    assert "adapter_config.json" in caplog.text and "assumed to be 1" in caplog.text


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "peft", "bare"])
def test_layers_of_the_text_encoder(text_pipe, animate, layout):
    base, before = animate(text_pipe), text_pipe.unet.state_dict()
    unet, text = (random_lora(text_pipe.unet, UNET_LAYERS), random_lora(text_pipe.text_encoder, TEXT_LAYERS))
    if layout != "kohya":
        unet, text = scale_one(unet), scale_one(text)
    expected = copy.deepcopy(text_pipe)
    merge(expected.text_encoder, text)
    text_alone = animate(expected)
    merge(expected.unet, unet)
    assert (text_alone - base).abs().max() > 1e-4
    state = {
        "kohya": lambda: kohya(unet) | kohya(text, "lora_te_text_model_"),
        "diffusers": lambda: peft(unet, "unet.") | peft(text, "text_encoder.text_model."),
        "peft": lambda: peft(unet, "base_model.model.") | peft(text, "base_model.model.text_model."),
        "bare": lambda: peft(unet) | peft(text),
    }[layout]()
    text_pipe.load_lora_weights(state, adapter_name="style")
    assert text_pipe.get_list_adapters() == {"unet": ["style"], "text_encoder": ["style"]}
    assert_equal_up_to_rounding(animate(text_pipe), animate(expected))
    text_pipe.unload_lora_weights()
    is_untouched(text_pipe, before, base, animate)


def test_names_of_adapters_are_the_same_in_both_networks(text_pipe):
    unet, text = (random_lora(text_pipe.unet, UNET_LAYERS), random_lora(text_pipe.text_encoder, TEXT_LAYERS))
    text_pipe.load_lora_weights(kohya(unet))
    text_pipe.load_lora_weights(kohya(unet) | kohya(text, "lora_te_text_model_"))
    assert text_pipe.get_list_adapters() == {"unet": ["default_0", "default_1"], "text_encoder": ["default_1"]}


def test_layers_of_a_text_encoder_that_is_not_there_are_named(pipe, animate, caplog):
    layers = random_lora(pipe.unet, UNET_LAYERS)
    text = dict.fromkeys(TEXT_LAYERS, layers[ATTENTION_LAYERS[0]])
    expected = copy.deepcopy(pipe)
    merge(expected.unet, layers)
    with caplog.at_level(logging.WARNING, "hia_diffusers"):
        pipe.load_lora_weights(kohya(layers) | kohya(text, "lora_te_text_model_"))
    assert "no text encoder" in caplog.text
    assert all("lora_te_text_model_" + name.replace(".", "_") in caplog.text for name in TEXT_LAYERS)
    assert_equal_up_to_rounding(animate(pipe), animate(expected))


def other_method(*suffixes):
    """The keys of a kind of LyCORIS, with something in them."""
    name = "lora_unet_" + ATTENTION.replace(".", "_") + "_attn1_to_q"
    return lambda layers: {f"{name}.{suffix}": torch.ones(2, 2) for suffix in suffixes}


def changed(change):
    def write(layers):
        state = kohya(layers)
        change(state)
        return state

    return write


DOWN, UP, ALPHA = kohya({UNET_LAYERS[0]: (torch.zeros(1), torch.zeros(1), 1.0)})


def with_layer(name, prefix="lora_unet_"):
    """A LoRA of the UNet, and one layer more."""
    return lambda layers: kohya(layers) | kohya({name: layers[UNET_LAYERS[0]]}, prefix)


def with_weight(name, weight):
    return changed(lambda state: state.update({name: weight}))


LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha")
REFUSED = {
    "loha": (other_method(*LOHA), "is a LoHa of LyCORIS, not a LoRA"),
    "lokr": (other_method("lokr_w1", "lokr_w2", "alpha"), "is a LoKr of LyCORIS, not a LoRA"),
    "loha-beside-lora": (lambda layers: kohya(layers) | other_method(*LOHA[:4])(layers), "is a LoHa"),
    "oft": (other_method("oft_blocks"), "is an OFT"),
    "tucker": (other_method("lora_mid.weight"), "is a LoCon of LyCORIS with a Tucker"),
    "dora": (lambda layers: kohya(layers) | other_method("dora_scale")(layers), "is a DoRA"),
    "full": (other_method("diff", "diff_b"), "is a full difference"),
    "empty": (lambda layers: {}, "contains no weights"),
    "no-lora": (lambda layers: {"conv_in.weight": torch.ones(2, 2)}, "no LoRA but 1 other keys: conv_in.weight"),
    "bundle": (with_weight("bundle_emb.x", torch.ones(1)), "1 other keys: bundle_emb.x"),
    "nothing-fits": (lambda layers: kohya(layers, "lora_unet_x_"), "13 of its 13 layers are not: lora_unet_x_down"),
    "some-fit": (with_layer("mid_block.x"), "1 of its 14 layers are not: lora_unet_mid_block_x"),
    "second-text-encoder": (with_layer("x", "lora_te2_"), "1 of its 14 layers are not: lora_te2_x"),
    "text-alone": (lambda layers: kohya(layers, "lora_te_"), "all of its 13 layers are those of a text encoder"),
    "no-up": (changed(lambda state: state.pop(UP)), "lacks one of its two weights"),
    "alpha-alone": (changed(lambda state: (state.pop(UP), state.pop(DOWN))), "lacks one of its two weights"),
    "shape": (with_weight(DOWN, torch.ones(2, 999)), r"must have weights of shapes \(2, 16\)"),
    "integers": (with_weight(DOWN, torch.ones(2, 16, dtype=int)), "floating-point"),
    "nan": (changed(lambda state: state[DOWN].fill_(float("nan"))), "not finite"),
    "nan-alpha": (with_weight(ALPHA, torch.tensor(float("nan"))), "alpha"),
    "twice": (lambda layers: peft(layers, "unet.") | peft(layers), "two LoRA for|two weights for"),
}


@pytest.mark.parametrize("with_text_encoder", [False, True])
def test_what_does_not_fit_is_refused_and_nothing_is_changed(pipe, text_pipe, animate, with_text_encoder):
    pipe = text_pipe if with_text_encoder else pipe
    base, before = animate(pipe), pipe.unet.state_dict()
    for kind, (write, message) in REFUSED.items():
        if kind == "text-alone" and with_text_encoder:
            message = "13 of its 13 layers are not: lora_te_down"
        with pytest.raises(ValueError, match=message) as error:
            pipe.load_lora_weights(write(random_lora(pipe.unet, UNET_LAYERS)))
        assert "\n" not in str(error.value), kind
        assert lora_layers(pipe.unet) == [], kind
    is_untouched(pipe, before, base, animate)


def test_files_that_are_missing_damaged_or_several(pipe, animate, tmp_path):
    base, before = animate(pipe), pipe.unet.state_dict()
    state = kohya(random_lora(pipe.unet, UNET_LAYERS))
    with pytest.raises(FileNotFoundError, match="there is no LoRA file in"):
        pipe.load_lora_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file .*none.safetensors"):
        pipe.load_lora_weights(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="there is no file .*none.safetensors"):
        pipe.load_lora_weights(tmp_path, weight_name="none.safetensors")
    save_file(state, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="`weight_name` must name one of the files .*: a.safetensors, b.safetensors"):
        pipe.load_lora_weights(tmp_path)
    with pytest.raises(ValueError, match="b.safetensors cannot be read"):
        pipe.load_lora_weights(tmp_path, weight_name="b.safetensors")
    with pytest.raises(TypeError, match="takes no argument `adapter`"):
        pipe.load_lora_weights(tmp_path, weight_name="a.safetensors", adapter="x")
    is_untouched(pipe, before, base, animate)
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    assert pipe.get_active_adapters() == ["default_0"]


def test_refused_lora_leaves_those_that_are_loaded_as_they_are(pipe, animate):
    layers = random_lora(pipe.unet, UNET_LAYERS)
    pipe.load_lora_weights(kohya(layers), adapter_name="first")
    pipe.set_adapters(["first"], [0.5])
    frames = animate(pipe)
    for state, name, message in (
        (kohya(layers), "first", "must not be in use, got 'first'"),
        (kohya(layers), "a.b", "must be a name without dots, got 'a.b'"),
        (kohya({"x": layers["conv_in"]}), "second", "lora_unet_x"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.load_lora_weights(state, adapter_name=name)
    assert pipe.get_list_adapters() == {"unet": ["first"]} and pipe.get_active_adapters() == ["first"]
    assert torch.equal(animate(pipe), frames)


@pytest.mark.parametrize("loaded_before", [False, True])
def test_a_failure_half_way_is_taken_back(text_pipe, animate, loaded_before):
    """The UNet's LoRA is in place when the text encoder's fails, as where memory is short."""

    class ShortOfMemory(HIAPipeline):
        @classmethod
        def load_lora_into_text_encoder(cls, state_dict, text_encoder, adapter_name, **kwargs):
            inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), text_encoder, adapter_name)
            raise MemoryError("no memory")

    pipe = ShortOfMemory(**text_pipe.components)
    pipe.set_progress_bar_config(disable=True)
    before = pipe.unet.state_dict()
    unet, text = (random_lora(pipe.unet, UNET_LAYERS), random_lora(pipe.text_encoder, TEXT_LAYERS))
    if loaded_before:
        pipe.load_lora_weights(kohya(unet), adapter_name="first")
    frames = animate(pipe)
    with pytest.raises(MemoryError):
        pipe.load_lora_weights(kohya(unet) | kohya(text, "lora_te_text_model_"), adapter_name="second")
    if loaded_before:
        assert pipe.get_list_adapters() == {"unet": ["first"]} and pipe.get_active_adapters() == ["first"]
        assert torch.equal(animate(pipe), frames)
    else:
        is_untouched(pipe, before, frames, animate)


def test_lora_where_it_would_not_act_is_refused(pipe, animate):
    motion = kohya(random_lora(pipe.unet, [f"{MOTION}.attn1.to_q"]))
    pipe.unet.set_motion_modules(False)
    with pytest.raises(ValueError, match="motion modules, which this pipeline's UNet disables: up_blocks.1"):
        pipe.load_lora_weights(motion)
    pipe.fuse_qkv_projections()
    with pytest.raises(ValueError, match=r"`unet` has fused projections.*unfuse_qkv_projections"):
        pipe.load_lora_weights(kohya(random_lora(pipe.unet, UNET_LAYERS)))
    pipe.unfuse_qkv_projections()
    pipe.load_lora_weights(kohya(random_lora(pipe.unet, UNET_LAYERS)))
    frames = animate(pipe)
    with pytest.raises(ValueError, match="`unet` has LoRA in addition to its weights"):
        pipe.fuse_qkv_projections()
    assert torch.equal(animate(pipe), frames)


def test_scales_by_block(pipe, animate):
    layers = random_lora(pipe.unet, ATTENTION_LAYERS)
    pipe.load_lora_weights(kohya(layers), adapter_name="style")
    pipe.set_adapters("style", {"unet": {"down": {"block_0": [0.5]}, "mid": 2.0}})
    scaled = animate(pipe)
    pipe.unload_lora_weights()
    scales = {name: 2.0 if name.startswith("mid") else 0.5 for name in layers}
    merge(pipe.unet, {name: (down, up, alpha * scales[name]) for name, (down, up, alpha) in layers.items()})
    assert_equal_up_to_rounding(scaled, animate(pipe))


def test_hotswap_takes_the_place_of_a_lora_or_leaves_it(pipe, animate):
    first, second = (random_lora(pipe.unet, UNET_LAYERS, mixed=False) for _ in range(2))
    second = {name: (down.flip(0), 2 * up, alpha) for name, (down, up, alpha) in second.items()}
    pipe.load_lora_weights(kohya(first), adapter_name="style")
    frames = animate(pipe)
    down, up, alpha = second["conv_in"]
    for state, message in (
        (second | {"conv_out": random_lora(pipe.unet, ["conv_out"])["conv_out"]}, "not conv_out"),
        (second | {"conv_in": (down, up, 3 * alpha)}, "needs one scale"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.load_lora_weights(kohya(state), adapter_name="style", hotswap=True)
        assert torch.equal(animate(pipe), frames)
    with pytest.raises(ValueError, match="`adapter_name` must be the name of a LoRA of the UNet"):
        pipe.load_lora_weights(kohya(second), adapter_name="other", hotswap=True)
    pipe.load_lora_weights(kohya(second), adapter_name="style", hotswap=True)
    swapped = animate(pipe)
    pipe.unload_lora_weights()
    merge(pipe.unet, second)
    assert_equal_up_to_rounding(swapped, animate(pipe))
    assert (swapped - frames).abs().max() > 1e-3


def test_half_precision_files_are_computed_in_the_precision_of_the_network(pipe, animate):
    layers = random_lora(pipe.unet, UNET_LAYERS)
    layers = {name: (down.half(), up.half(), alpha) for name, (down, up, alpha) in layers.items()}
    pipe.load_lora_weights(kohya(layers))
    loaded = animate(pipe)
    pipe.unload_lora_weights()
    merge(pipe.unet, {name: (down.float(), up.float(), alpha) for name, (down, up, alpha) in layers.items()})
    assert_equal_up_to_rounding(loaded, animate(pipe))


# Saving


def attach_lora(pipe):
    pipe.load_lora_weights(kohya(random_lora(pipe.unet, UNET_LAYERS)), adapter_name="style")


def attach_fused_lora(pipe):
    attach_lora(pipe)
    pipe.fuse_lora()


def attach_text_lora(pipe):
    pipe.load_lora_weights(kohya(random_lora(pipe.text_encoder, TEXT_LAYERS), "lora_te_text_model_"))


def attach_to_reference(pipe):
    pipe.appearance_encoder.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))


unload = HIAPipeline.unload_lora_weights
ATTACHMENTS = {
    "lora": (attach_lora, r"`unet` has LoRA in addition to its weights: call `unload_lora_weights\(\)`", unload),
    "fused-lora": (attach_fused_lora, r"`unet` has LoRA fused into .* `unload_lora_weights\(\)`", unload),
    "text-lora": (attach_text_lora, r"`text_encoder` has LoRA in addition to its weights", unload),
    "reference-lora": (
        attach_to_reference,
        r"`appearance_encoder` .* `unload_lora_weights\(\)`",
        unload,
    ),
    "fused-projections": (
        HIAPipeline.fuse_qkv_projections,
        r"`\w+` has fused .* `unfuse_qkv_projections\(\)`",
        HIAPipeline.unfuse_qkv_projections,
    ),
}


@pytest.mark.parametrize("attach, message, undo", ATTACHMENTS.values(), ids=ATTACHMENTS)
def test_saving_says_what_to_undo_and_then_loads_to_the_same(text_pipe, animate, tmp_path, attach, message, undo):
    attach(text_pipe)
    folder = tmp_path / "saved"
    with pytest.raises(ValueError, match=message):
        text_pipe.save_pretrained(folder)
    assert not folder.exists()
    undo(text_pipe)
    frames = animate(text_pipe)
    text_pipe.save_pretrained(folder)
    loaded = HIAPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(animate(loaded), frames)


def test_fused_lora_stays_in_the_weights(pipe, animate, tmp_path):
    base = animate(pipe)
    attach_fused_lora(pipe)
    fused = animate(pipe)
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path)
    loaded = HIAPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(animate(loaded), fused) and (fused - base).abs().max() > 1e-3


def test_what_unfusing_leaves_in_the_autoencoder_is_not_saved(pipe, animate, tmp_path):
    frames = animate(pipe)
    pipe.vae.fuse_qkv_projections()
    pipe.vae.unfuse_qkv_projections()  # that of diffusers
    pipe.save_pretrained(tmp_path)
    loaded = HIAPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(animate(loaded), frames)


@pytest.mark.parametrize("name", ["unet", "appearance_encoder", "controlnet"])
def test_networks_alone_are_saved_without_attachments_only(pipe, tmp_path, name):
    network = getattr(pipe, name)
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    with pytest.raises(ValueError, match=rf"`{type(network).__name__}` has LoRA .* `unload_lora\(\)`"):
        network.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    network.unload_lora()
    if name != "controlnet":
        network.fuse_qkv_projections()
        with pytest.raises(ValueError, match="has fused projections"):
            network.save_pretrained(tmp_path / "saved")
        network.unfuse_qkv_projections()
    network.save_pretrained(tmp_path / "saved", variant="fp16")
    assert type(network).from_pretrained(tmp_path / "saved", variant="fp16").dtype == torch.float32


def test_networks_with_lora_are_not_converted(pipe, tmp_path):
    unet2d = HIAAppearanceEncoder.from_config(pipe.appearance_encoder.config)
    for convert, network in (
        (HIAUNetMotionModel.from_unet_motion, pipe.unet),
        (HIAUNetMotionModel.from_unet2d, unet2d),
        (HIAAppearanceEncoder.from_unet, unet2d),
        (HIAControlNetModel.from_unet, unet2d),
        (HIAControlNetModel.from_controlnet, pipe.controlnet),
    ):
        if not lora_layers(network):
            network.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
        with pytest.raises(ValueError, match=r"has LoRA in addition to its weights: call `unload_lora\(\)` first"):
            convert(network)


def test_lora_that_hia_saves_is_lora_that_hia_loads(pipe, animate, tmp_path):
    attach_lora(pipe)
    frames = animate(pipe)
    pipe.unet.save_lora_adapter(tmp_path, adapter_name="style")
    state = get_peft_model_state_dict(pipe.unet, adapter_name="style")
    pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path)
    assert torch.equal(animate(pipe), frames)
    pipe.unload_lora_weights()
    HIAPipeline.save_lora_weights(tmp_path / "pipeline", unet_lora_layers=state)
    pipe.load_lora_weights(tmp_path / "pipeline")
    assert pipe.get_active_adapters() == ["default_0"]


def attach_to_both(pipe):
    """LoRA of the UNet and of the appearance encoder, with random weights and other scales."""
    for network, rank, alpha in ((pipe.unet, 2, 3.0), (pipe.appearance_encoder, 3, 1.5)):
        network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=["attn1.to_q", "attn1.to_v"]))
        for name, parameter in network.named_parameters():
            if ".lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.3


def save_both(pipe, folder):
    layers, metadata = {}, {}
    for name in ("unet", "appearance_encoder"):
        network = getattr(pipe, name)
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(network, adapter_name="default")
        metadata[f"{name}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
    HIAPipeline.save_lora_weights(folder, **layers, **metadata)


def test_lora_of_the_appearance_encoder_is_saved_loaded_scaled_fused_and_unloaded(pipe, animate, tmp_path):
    base = animate(pipe)
    attach_to_both(pipe)
    expected = animate(pipe)
    save_both(pipe, tmp_path)
    pipe.unload_lora_weights()
    assert torch.equal(animate(pipe), base)

    pipe.load_lora_weights(tmp_path, adapter_name="person")
    assert pipe.get_list_adapters() == {"unet": ["person"], "appearance_encoder": ["person"]}
    assert torch.equal(animate(pipe), expected)
    pipe.set_adapters("person", {"appearance_encoder": 0.0})
    of_unet = animate(pipe)
    pipe.set_adapters("person", {"unet": 0.0})
    of_encoder = animate(pipe)
    assert all((frames - other).abs().max() > 1e-3 for frames in (of_unet, of_encoder) for other in (base, expected))
    pipe.set_adapters("person", 0.0)
    assert_equal_up_to_rounding(animate(pipe), base)

    pipe.set_adapters("person", 1.0)
    pipe.fuse_lora()
    assert_equal_up_to_rounding(animate(pipe), expected)
    pipe.unfuse_lora()
    assert_equal_up_to_rounding(animate(pipe), expected)
    pipe.unload_lora_weights()
    assert_equal_up_to_rounding(animate(pipe), base)


def test_the_scale_of_a_call_is_that_of_both_networks(pipe, tmp_path):
    def frames(**arguments):
        generator = torch.Generator().manual_seed(0)
        arguments |= {"num_inference_steps": 1, "output_type": "latent", "generator": generator}
        image, condition = torch.rand(1, 3, 64, 64, generator=generator), torch.rand(3, 6, 64, 64, generator=generator)
        return pipe(image, condition, **arguments).frames

    base = frames()
    attach_to_both(pipe)
    assert (frames() - base).abs().max() > 1e-3
    assert_equal_up_to_rounding(frames(cross_attention_kwargs={"scale": 0.0}), base)


def test_names_without_a_prefix_are_not_those_of_the_appearance_encoder(pipe):
    pipe.load_lora_weights(peft(random_lora(pipe.unet, ATTENTION_LAYERS)))
    assert pipe.get_list_adapters() == {"unet": ["default_0"]}
    with pytest.raises(ValueError, match="1 of its 1 layers are not: appearance_encoder.conv_out"):
        pipe.load_lora_weights(peft({"conv_out": (torch.zeros(1, 2), torch.zeros(2, 1), 1)}, "appearance_encoder."))


def test_saving_no_layers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`unet_lora_layers`, or the layers of another network"):
        HIAPipeline.save_lora_weights(tmp_path / "none")
    assert not (tmp_path / "none").exists()
