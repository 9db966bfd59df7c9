# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""IP-Adapters with the image encoder that they bring, in the layout in which they are published."""

import copy

import PIL.Image
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, FusedAttnProcessor2_0, SlicedAttnProcessor
from published_adapters import (
    CONTEXT,
    HIDDEN,
    PROJECTION,
    PROJECTIONS,
    attention_weights,
    base_projection,
    encoder,
    write_ip_adapter,
)
from rounding import assert_equal_up_to_rounding
from text_parts import text_parts
from transformers import CLIPImageProcessor

from hia_diffusers import HIAPipeline


RED, BLUE = (PIL.Image.new("RGB", (40, 40), colour) for colour in ("red", "blue"))


@pytest.fixture
def animate(animate):
    """One step, without decoding."""
    return lambda pipeline, **options: animate(
        pipeline, **({"num_inference_steps": 1, "output_type": "latent"} | options)
    )


@pytest.fixture
def text_pipe(pipe):
    """A pipeline whose context comes from a text encoder."""
    pipeline = HIAPipeline(**{**pipe.components, "image_encoder": None, "feature_extractor": None, **text_parts()})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def published(tmp_path, pipe):
    """A folder like h94/IP-Adapter: two adapters, and the image encoder of both beside them."""
    folder = tmp_path / "published"
    for kind in PROJECTIONS:
        write_ip_adapter(folder, pipe.unet, f"{kind}.safetensors", kind)
    return folder


def load(pipe, published, kind="base", **options):
    pipe.load_ip_adapter(published, subfolder="models", weight_name=f"{kind}.safetensors", **options)


def embeddings(kind, images):
    """What the adapters' own encoder says of no image and of some, by hand: `(2, images, ...)`."""
    extractor = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
    pixels = extractor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        if kind == "base":
            embeds = encoder()(pixels).image_embeds
            return torch.stack([torch.zeros_like(embeds), embeds])
        nothing, some = (encoder()(x, output_hidden_states=True) for x in (torch.zeros_like(pixels), pixels))
        return torch.stack([nothing.hidden_states[-2], some.hidden_states[-2]])


def state_of(pipe):
    """What loading an adapter might change."""
    return (
        dict(pipe.components),
        dict(pipe.unet.attn_processors),
        {key: tensor.clone() for key, tensor in pipe.unet.state_dict().items()},
        dict(pipe.unet.config),
        {name: p.requires_grad for name, p in pipe.unet.named_parameters()},
    )


def assert_same_state(pipe, state):
    components, processors, weights, config, trained = state
    assert pipe.components.keys() == components.keys()
    assert all(pipe.components[name] is component for name, component in components.items())
    now = pipe.unet.attn_processors
    assert now.keys() == processors.keys() and all(type(now[name]) is type(p) for name, p in processors.items())
    assert pipe.unet.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[key]) for key, tensor in pipe.unet.state_dict().items())
    assert pipe.unet.encoder_hid_proj is None and dict(pipe.unet.config) == config
    assert {name: p.requires_grad for name, p in pipe.unet.named_parameters()} == trained


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_images_are_read_by_the_encoder_that_the_adapter_brings(pipe, animate, published, kind):
    before, base = state_of(pipe), animate(pipe)
    load(pipe, published, kind)
    assert pipe.image_encoder is before[0]["image_encoder"]
    assert pipe.ip_adapter_image_encoder.config.projection_dim == PROJECTION
    red = animate(pipe, ip_adapter_image=RED)
    assert torch.equal(red, animate(pipe, ip_adapter_image_embeds=[embeddings(kind, [RED])]))
    assert (red - animate(pipe, ip_adapter_image=BLUE)).abs().max() > 1e-3
    assert (red - base).abs().max() > 1e-2
    negative = embeddings(kind, [RED])
    negative[0] = embeddings(kind, [BLUE])[1]
    assert (red - animate(pipe, ip_adapter_image_embeds=[negative])).abs().max() > 1e-3
    pipe.unload_ip_adapter()
    assert_same_state(pipe, before)
    assert torch.equal(animate(pipe), base)


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_embeddings_in_the_form_of_diffusers(pipe, animate, published, image, condition, kind):
    load(pipe, published, kind)
    made = pipe.prepare_ip_adapter_image_embeds([[RED, BLUE]], None, None, 1, True)
    expected = embeddings(kind, [RED, BLUE])
    assert [embeds.shape for embeds in made] == [expected.shape]
    assert_equal_up_to_rounding(made[0], expected)
    assert pipe.prepare_ip_adapter_image_embeds(RED, None, "cpu", 3, True)[0].shape[:2] == (6, 1)
    assert pipe.prepare_ip_adapter_image_embeds(RED, None, "cpu", 1, False)[0].shape[:2] == (1, 1)
    both = animate(pipe, ip_adapter_image=[[RED, BLUE]])
    assert torch.equal(animate(pipe, ip_adapter_image_embeds=made), both)
    assert torch.equal(pipe.prepare_ip_adapter_image_embeds(None, made, None, 1, True)[0], made[0])

    # Without guidance there is no unconditional branch, and nothing for it.
    unguided = {"guidance_scale": 1.0}
    assert torch.equal(
        animate(pipe, ip_adapter_image_embeds=[expected[1:]], **unguided),
        animate(pipe, ip_adapter_image=[[RED, BLUE]], **unguided),
    )
    # One embedding for each clip of a batch: first all of the unconditional branch.
    generators = {"generator": [torch.Generator().manual_seed(seed) for seed in (0, 0)]}
    of_clips = torch.stack([embeddings(kind, [RED]), embeddings(kind, [BLUE])], dim=1).flatten(0, 1)
    batch = animate(pipe, image=[image, image], ip_adapter_image_embeds=[of_clips], **generators)
    for clip, colour in zip(batch, (RED, BLUE), strict=True):
        assert_equal_up_to_rounding(clip[None], animate(pipe, ip_adapter_image=colour))


def test_embeddings_alone_have_zeros_for_the_unconditional_branch(pipe, animate, published):
    load(pipe, published, image_encoder_folder=None)
    pair = embeddings("base", [RED])
    assert torch.equal(
        animate(pipe, ip_adapter_image_embeds=[pair[1:]]), animate(pipe, ip_adapter_image_embeds=[pair])
    )
    assert pipe.ip_adapter_image_encoder is None


def test_two_adapters_and_their_scales(pipe, animate, published):
    base = animate(pipe)
    load(pipe, published)
    red = animate(pipe, ip_adapter_image=RED)
    names = ["base.safetensors", "plus.safetensors"]
    pipe.load_ip_adapter(published, subfolder="models", weight_name=names)
    pipe.set_ip_adapter_scale([1.0, 0.0])
    assert_equal_up_to_rounding(animate(pipe, ip_adapter_image=[RED, BLUE]), red)
    pipe.set_ip_adapter_scale([0.0, 0.5])
    plus = animate(pipe, ip_adapter_image=[RED, BLUE])
    assert (plus - red).abs().max() > 1e-3 and (plus - base).abs().max() > 1e-3
    pipe.set_ip_adapter_scale([0.0, 0.0])
    assert_equal_up_to_rounding(animate(pipe, ip_adapter_image=[RED, BLUE]), base)
    with pytest.raises(ValueError, match=r"`ip_adapter_image` must contain one entry per IP-Adapter \(2\), got 1"):
        animate(pipe, ip_adapter_image=RED)


def test_an_encoder_that_the_pipeline_was_given(pipe, animate, published, tmp_path):
    load(pipe, published)
    red = animate(pipe, ip_adapter_image=RED)
    pipe.unload_ip_adapter()
    own = encoder()
    given = HIAPipeline(**{**pipe.components, "ip_adapter_image_encoder": own})
    given.set_progress_bar_config(disable=True)
    for options in ({"image_encoder_folder": None}, {}):
        load(given, published, **options)
        assert given.ip_adapter_image_encoder is own
        assert torch.equal(animate(given, ip_adapter_image=RED), red)
    elsewhere = {"image_encoder_folder": "models/image_encoder"}
    pipe.load_ip_adapter(published, subfolder="models", weight_name="base.safetensors", **elsewhere)
    assert torch.equal(animate(pipe, ip_adapter_image=RED), red)
    pipe.unload_ip_adapter()
    saved = HIAPipeline(**{**pipe.components, "ip_adapter_image_encoder": own})
    saved.save_pretrained(tmp_path / "saved")
    loaded = HIAPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    load(loaded, published, image_encoder_folder=None)
    assert torch.equal(animate(loaded, ip_adapter_image=RED), red)


def test_the_encoder_of_the_context_is_used_where_the_adapter_was_made_for_it(pipe, animate):
    adapter = {"image_proj": base_projection(CONTEXT), "ip_adapter": attention_weights(pipe.unet)}
    pipe.load_ip_adapter(adapter, subfolder="", weight_name="")
    assert pipe.ip_adapter_image_encoder is None
    embeds = pipe.encode_image(RED)[0]
    expected = animate(pipe, ip_adapter_image_embeds=[torch.cat([torch.zeros_like(embeds), embeds])])
    assert torch.equal(animate(pipe, ip_adapter_image=RED), expected)


def test_the_context_may_come_from_a_text_encoder(text_pipe, animate, published):
    before, base = state_of(text_pipe), animate(text_pipe)
    load(text_pipe, published)
    red = animate(text_pipe, ip_adapter_image=RED)
    assert (red - base).abs().max() > 1e-2 and text_pipe.image_encoder is None and text_pipe.feature_extractor is None
    text_pipe.unload_ip_adapter()
    assert_same_state(text_pipe, before)
    assert torch.equal(animate(text_pipe), base)


def test_what_a_call_cannot_use_is_one_sentence_before_networks_run(pipe, animate, published):
    load(pipe, published, image_encoder_folder=None)
    for network in (pipe.image_encoder, pipe.vae.encoder, pipe.unet):
        network.register_forward_pre_hook(lambda *args: pytest.fail("a network ran"))
    one, plus = embeddings("base", [RED]), embeddings("plus", [RED])
    for options, message in (
        (
            {"ip_adapter_image": RED},
            r"needs the image encoder of the IP-Adapter, but the `projection_dim` must be 64, got 32",
        ),
        ({}, "An IP-Adapter is loaded: pass either `ip_adapter_image` or"),
        (
            {"ip_adapter_image": RED, "ip_adapter_image_embeds": [one]},
            "pass either `ip_adapter_image` or `ip_adapter_image_embeds`",
        ),
        ({"ip_adapter_image_embeds": [one[..., :32]]}, r"must be a floating-point tensor of shape \(any, any, 64\)"),
        ({"ip_adapter_image_embeds": [plus]}, r"of shape \(any, any, 64\), got \(2, 1, 10, 48\)"),
        ({"ip_adapter_image_embeds": [one, one]}, r"one entry per IP-Adapter \(1\), got 2"),
        ({"ip_adapter_image_embeds": [one.repeat(2, 1, 1)]}, "must contain 1 or 2 entries.* with guidance, got 4"),
        ({"ip_adapter_image_embeds": [one], "guidance_scale": 1.0}, "contain 1 entries.* without guidance, got 2"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            animate(pipe, **options)
        assert "\n" not in str(error.value)
    load(pipe, published, "plus", image_encoder_folder=None)
    with pytest.raises(ValueError, match="the `hidden_size` must be 48, got 32"):
        animate(pipe, ip_adapter_image=RED)
    with pytest.raises(ValueError, match="must contain 2 entries, those of the unconditional branch first,"):
        animate(pipe, ip_adapter_image_embeds=[plus[1:]])
    pipe.unload_ip_adapter()
    with pytest.raises(ValueError, match="need `load_ip_adapter` first"):
        animate(pipe, ip_adapter_image=RED)


def broken(change):
    def adapter(unet):
        parts = {"image_proj": base_projection(CONTEXT), "ip_adapter": attention_weights(unet)}
        change(parts)
        return parts

    return adapter


FACE = {"proj.0.weight": torch.ones(8, 8), "proj.2.weight": torch.ones(128, 8), "norm.weight": torch.ones(32)}
UNFIT = {
    "face": (broken(lambda parts: parts.update(image_proj=FACE)), "for face embeddings"),
    "other-unet": (broken(lambda parts: parts["ip_adapter"].popitem()), "for its 4 cross-attentions, got 7"),
    "other-width": (broken(lambda parts: parts["ip_adapter"].update({"1.to_k_ip.weight": torch.ones(16, 99)})), "99"),
    "other-context": (broken(lambda parts: parts.update(image_proj=base_projection(32, 40))), "got one for 40"),
    "no-projection": (broken(lambda parts: parts.pop("image_proj")), "must contain an IP-Adapter, with weights"),
    "odd-projection": (broken(lambda parts: parts.update(image_proj={"x": torch.ones(1)})), "cannot be used"),
    "missing": (broken(lambda parts: parts["image_proj"].pop("norm.bias")), "cannot be used.*norm.bias"),
    "nan": (broken(lambda parts: parts["image_proj"]["norm.bias"].fill_(float("nan"))), "missing or infinite"),
}


@pytest.mark.parametrize("is_loaded", [False, True])
def test_adapters_that_do_not_fit_are_refused_and_nothing_is_changed(pipe, animate, published, is_loaded):
    if is_loaded:
        load(pipe, published, "plus")
    state = (pipe.components, pipe.unet.attn_processors, pipe.unet.encoder_hid_proj, pipe.unet.state_dict().keys())
    options = {"ip_adapter_image": RED} if is_loaded else {}
    frames = animate(pipe, **options)
    for adapter, message in UNFIT.values():
        with pytest.raises(ValueError, match=message) as error:
            pipe.load_ip_adapter(adapter(pipe.unet), subfolder="", weight_name="")
        assert "\n" not in str(error.value)
    encoder(HIDDEN, 40).save_pretrained(published / "models" / "other")
    (published / "models" / "damaged.safetensors").write_bytes(b"damaged")
    for error_class, message, arguments in (
        (FileNotFoundError, "there is no folder .*none; pass None", {"image_encoder_folder": "none"}),
        (ValueError, "the `projection_dim` must be 64, got 40", {"image_encoder_folder": "models/other"}),
        (ValueError, "damaged.safetensors cannot be read", {"weight_name": "damaged.safetensors"}),
        (OSError, "none.safetensors", {"weight_name": "none.safetensors"}),
        (ValueError, "`subfolder` must contain one entry per `weight_name`", {"subfolder": ["models", "models"]}),
        (TypeError, "takes no argument `folder`", {"folder": "models"}),
    ):
        pipe.ip_adapter_image_encoder = None if message.startswith("th") else pipe.ip_adapter_image_encoder
        with pytest.raises(error_class, match=message):
            pipe.load_ip_adapter(published, **({"subfolder": "models", "weight_name": "base.safetensors"} | arguments))
    pipe.register_modules(ip_adapter_image_encoder=state[0]["ip_adapter_image_encoder"])
    now = (pipe.components, pipe.unet.attn_processors, pipe.unet.encoder_hid_proj, pipe.unet.state_dict().keys())
    assert now == state
    assert torch.equal(animate(pipe, **options), frames)


@pytest.mark.parametrize(
    "change, processor",
    [
        (lambda pipe: pipe.unet.set_attn_processor(SlicedAttnProcessor(1)), SlicedAttnProcessor),
        (lambda pipe: pipe.fuse_qkv_projections(vae=False), FusedAttnProcessor2_0),
        (lambda pipe: pipe.unet.set_attention_backend("native"), AttnProcessor2_0),
    ],
    ids=["slicing", "fused", "backend"],
)
def test_other_processors_come_back(pipe, animate, published, change, processor):
    load(pipe, published)
    red = animate(pipe, ip_adapter_image=RED)
    pipe.unload_ip_adapter()
    change(pipe)
    before, base = state_of(pipe), animate(pipe)
    load(pipe, published)
    assert_equal_up_to_rounding(animate(pipe, ip_adapter_image=RED), red)
    pipe.unload_ip_adapter()
    assert_same_state(pipe, before)
    assert all(pipe.unet.attn_processors[name] is before[1][name] for name in before[1])
    assert {type(p) for p in pipe.unet.attn_processors.values()} == {processor}
    assert torch.equal(animate(pipe), base)


def test_an_adapter_that_acts_no_more_is_said(pipe, animate, published):
    load(pipe, published)
    pipe.unet.set_attn_processor(SlicedAttnProcessor(1))
    with pytest.raises(ValueError, match="has no effect.*`load_ip_adapter` again"):
        animate(pipe, ip_adapter_image=RED)


def test_lora_and_an_adapter_together(pipe, animate, published):
    from peft import LoraConfig, get_peft_model_state_dict

    donor = copy.deepcopy(pipe.unet)
    donor.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_k", "to_out.0"]))
    lora = get_peft_model_state_dict(donor)
    load(pipe, published)
    red = animate(pipe, ip_adapter_image=RED)
    pipe.load_lora_weights(lora)
    assert (animate(pipe, ip_adapter_image=RED) - red).abs().max() > 1e-3
    pipe.unload_lora_weights()
    assert torch.equal(animate(pipe, ip_adapter_image=RED), red)


def test_saving_asks_to_unload_first(pipe, animate, published, tmp_path):
    base = animate(pipe)
    load(pipe, published)
    for network in (pipe, pipe.unet):
        with pytest.raises(
            ValueError, match=r"has an IP-Adapter in addition to its weights: call `unload_ip_adapter\(\)`"
        ):
            network.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    pipe.unload_ip_adapter()
    pipe.save_pretrained(tmp_path / "saved")
    loaded = HIAPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(animate(loaded), base)


def test_offloading(pipe, animate, published):
    load(pipe, published)
    red = animate(pipe, ip_adapter_image=RED)
    pipe.enable_model_cpu_offload(device="cpu")
    assert torch.equal(animate(pipe, ip_adapter_image=RED), red)
