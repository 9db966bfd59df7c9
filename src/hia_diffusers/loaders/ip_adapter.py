# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""IP-Adapters of [`HIAPipeline`], with their own image encoder in addition to that of the pipeline.

Axes: B clips, A an adapter's images, T tokens, C channels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.image_processor import PipelineImageInput
from diffusers.loaders import IPAdapterMixin
from diffusers.models.attention_processor import (
    AttnProcessor2_0,
    IPAdapterAttnProcessor,
    IPAdapterAttnProcessor2_0,
    IPAdapterXFormersAttnProcessor,
    XFormersAttnProcessor,
)
from diffusers.models.embeddings import ImageProjection, IPAdapterFullImageProjection
from diffusers.models.modeling_utils import load_state_dict
from diffusers.utils import _get_model_file
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from .. import checks
from ..images import image_tensors
from ..models.components import HIAComponents
from ..models.modeling_hia import load_without_mismatch
from ..models.unet_motion import HIAUNetMotionModel
from ..tensor_checks import check_tensor


SOURCE = "pretrained_model_name_or_path_or_dict"
PARTS = ("image_proj", "ip_adapter")
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")
IP_PROCESSORS = (IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0, IPAdapterXFormersAttnProcessor)


class HIAIPAdapterMixin(IPAdapterMixin):
    """Load IP-Adapters into the UNet of a pipeline, without changing the pipeline's image encoder."""

    unet: Any
    image_encoder: Any
    feature_extractor: Any
    ip_adapter_image_encoder: Any
    _processors_before_ip_adapter: Mapping[str, Any] = {}

    def load_ip_adapter(
        self,
        pretrained_model_name_or_path_or_dict: object,
        subfolder: str | list[str],
        weight_name: str | list[str],
        image_encoder_folder: str | None = "image_encoder",
        **kwargs: Any,
    ) -> None:
        """Load IP-Adapters, as in [`~diffusers.loaders.IPAdapterMixin`], replacing loaded ones.

        Their image encoder becomes the component `ip_adapter_image_encoder`; an existing one with the right width is
        kept.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike`, `dict` or a list of them):
                Folder or Hub id, or the weights `{"image_proj": ..., "ip_adapter": ...}`.
            subfolder (`str` or `list[str]`):
                Folder of the file.
            weight_name (`str` or `list[str]`):
                Name of the file.
            image_encoder_folder (`str`, *optional*, defaults to `"image_encoder"`):
                Folder of the encoder: in `subfolder`, or from the top if it contains a slash. With `None`, none is
                loaded, and images are encoded by `ip_adapter_image_encoder`, or by the pipeline's `image_encoder` if
                its width matches; without either, calls need `ip_adapter_image_embeds`.
            kwargs:
                `low_cpu_mem_usage`, and the options of downloads.

        Raises:
            OSError: If a file is missing.
            TypeError, ValueError: If an adapter cannot be read, is for face embeddings (FaceID), or was made for
                another UNet or encoder. Nothing is changed in this case.
        """
        low_cpu_mem_usage = kwargs.pop("low_cpu_mem_usage", False)  # which would skip the check of the keys
        if unknown := sorted(set(kwargs) - set(HUB_OPTIONS)):
            raise TypeError(f"`load_ip_adapter` takes no argument `{unknown[0]}`.")
        sources = _same_lengths(
            **{SOURCE: pretrained_model_name_or_path_or_dict}, subfolder=subfolder, weight_name=weight_name
        )
        adapters = [_read_adapter(source, folder, name, kwargs) for source, folder, name in sources]
        for adapter in adapters:
            _check_adapter(adapter, self.unet)

        unet = getattr(self.unet, "_orig_mod", self.unet)  # compiled networks wrap their original
        processors, projection, kind = _processors(unet), unet.encoder_hid_proj, unet.config.encoder_hid_dim_type
        try:
            # diffusers recreates processors without arguments and settings: replace them by plain ones first.
            _set_processors(unet, {name: _plain(processor) for name, processor in processors.items()})
            unet._load_ip_adapter_weights(adapters, low_cpu_mem_usage=low_cpu_mem_usage)
            replaced = {name for name, new in _processors(unet).items() if isinstance(new, IP_PROCESSORS)}
            _set_processors(unet, {name: old for name, old in processors.items() if name not in replaced})
            _check_loaded(unet)
            source, folder, _ = sources[0]
            if image_encoder_folder is not None and not isinstance(source, Mapping):
                self._load_ip_adapter_encoder(source, folder, image_encoder_folder, kwargs)
        except BaseException as error:
            unet.encoder_hid_proj, unet.config.encoder_hid_dim_type = projection, kind
            _set_processors(unet, processors)
            expected = (OSError, MemoryError, torch.OutOfMemoryError, ValueError)
            if isinstance(error, Exception) and not isinstance(error, expected):
                raise ValueError(f"`{SOURCE}` cannot be used ({' '.join(str(error).split())}).") from error
            raise
        if projection is None:
            self._processors_before_ip_adapter = {name: processors[name] for name in replaced}

    def _load_ip_adapter_encoder(
        self, source: Any, subfolder: str | None, folder: str, options: Mapping[str, Any]
    ) -> None:
        if self.ip_adapter_image_encoder is not None and not _unfit(self.unet, self.ip_adapter_image_encoder):
            return
        path = folder if "/" in folder else Path(subfolder or "", folder).as_posix()
        if Path(source).is_dir() and not Path(source, path).is_dir():
            raise FileNotFoundError(
                f"`image_encoder_folder`: there is no folder {Path(source, path)}; pass None if the adapter has no"
                " image encoder of its own."
            )
        hub = {name: value for name, value in options.items() if value is not None}
        dtype = {"dtype": self.unet.dtype} if self.unet.dtype.itemsize > 1 else {}
        encoder = load_without_mismatch(CLIPVisionModelWithProjection, source, subfolder=path, **dtype, **hub)
        if unfit := _unfit(self.unet, encoder):
            raise ValueError(f"`image_encoder_folder` must contain the image encoder of the IP-Adapter, but {unfit}.")
        device = "cpu" if self.unet.device.type == "meta" else self.unet.device  # during sequential offloading
        self.register_modules(ip_adapter_image_encoder=encoder.to(device).eval())

    def unload_ip_adapter(self) -> None:
        """Remove IP-Adapters and `ip_adapter_image_encoder`. Everything else is restored bit for bit."""
        unet = getattr(self.unet, "_orig_mod", self.unet)
        if _layers(unet) is not None:
            unet.encoder_hid_proj = unet.config.encoder_hid_dim_type = None
            adapted = [name for name, processor in _processors(unet).items() if isinstance(processor, IP_PROCESSORS)]
            before = self._processors_before_ip_adapter
            _set_processors(unet, {name: before.get(name, AttnProcessor2_0()) for name in adapted})
        self.register_modules(ip_adapter_image_encoder=None)

    @torch.no_grad()
    def prepare_ip_adapter_image_embeds(
        self,
        ip_adapter_image: object,
        ip_adapter_image_embeds: list[torch.Tensor] | None,
        device: torch.device | str | None,
        num_images_per_prompt: int,
        do_classifier_free_guidance: bool,
    ) -> list[torch.Tensor]:
        """Compute the embeddings of images, as pipelines of diffusers do, to reuse them in several calls.

        Args:
            ip_adapter_image, ip_adapter_image_embeds:
                As for [`HIAPipeline.__call__`].
            device (`torch.device`, `str` or `None`):
                Device of the result; `None` is that of the call.
            num_images_per_prompt (`int`):
                Number of repetitions.
            do_classifier_free_guidance (`bool`):
                Whether to include those of the unconditional branch.

        Returns:
            `list[torch.Tensor]`: Per adapter `(B, A, C)`, or `(B, A, T, C)` for adapters that read hidden states; with
            guidance `2 * B`, those of the unconditional branch first.
        """
        pairs = _ip_adapter_pairs(self, ip_adapter_image, ip_adapter_image_embeds, do_classifier_free_guidance)
        device = self._execution_device if device is None else device
        result = []
        for pair in pairs:
            parts = pair if do_classifier_free_guidance else pair[1:]
            result.append(torch.cat([part for part in parts for _ in range(num_images_per_prompt)]).to(device))
        return result


def check_ip_adapter_inputs(
    components: HIAComponents,
    ip_adapter_image: PipelineImageInput | None,
    ip_adapter_image_embeds: list[torch.Tensor] | None,
    batch_size: int,
    do_classifier_free_guidance: bool,
) -> None:
    """Raise an error for invalid images or embeddings of IP-Adapters, before a network runs.

    Args:
        components:
            Object with `unet`, `image_encoder` and `ip_adapter_image_encoder`, as in [`HIAPipeline`].
        ip_adapter_image, ip_adapter_image_embeds:
            As for [`HIAPipeline.__call__`].
        batch_size (`int`):
            Number of clips, B.
        do_classifier_free_guidance (`bool`):
            Whether there is an unconditional branch.

    Raises:
        TypeError, ValueError: If they cannot be used.
    """
    layers = _layers(components.unet)
    given = {"ip_adapter_image": ip_adapter_image, "ip_adapter_image_embeds": ip_adapter_image_embeds}
    given = {name: value for name, value in given.items() if value is not None}
    if layers is None:
        if given:
            raise ValueError("`ip_adapter_image` and `ip_adapter_image_embeds` need `load_ip_adapter` first.")
        return
    if len(given) != 1:
        raise ValueError("An IP-Adapter is loaded: pass either `ip_adapter_image` or `ip_adapter_image_embeds`.")
    if not any(isinstance(processor, IP_PROCESSORS) for processor in components.unet.attn_processors.values()):
        raise ValueError(
            "The IP-Adapter has no effect, because other attention processors replaced its own: call"
            " `load_ip_adapter` again."
        )
    [(name, values)] = given.items()
    values = _entries(values)
    if len(values) != len(layers):
        raise ValueError(f"`{name}` must contain one entry per IP-Adapter ({len(layers)}), got {len(values)}.")
    if name == "ip_adapter_image_embeds":
        for embeds, layer in zip(values, layers, strict=True):
            _check_embeds(embeds, layer, batch_size, do_classifier_free_guidance, components.unet.dtype)
        return
    _, encoder = _ip_adapter_encoder(components)
    unfit = _unfit(components.unet, encoder) if encoder is not None else "there is none"
    if unfit:
        raise ValueError(
            f"`ip_adapter_image` needs the image encoder of the IP-Adapter, but {unfit}: load the"
            " adapter with its `image_encoder_folder`, or pass `ip_adapter_image_embeds`."
        )
    for images in values:
        image_tensors(images, "ip_adapter_image")


def prepare_ip_adapter_embeds(
    components: HIAComponents,
    ip_adapter_image: PipelineImageInput | None,
    ip_adapter_image_embeds: list[torch.Tensor] | None,
    batch_size: int,
    do_classifier_free_guidance: bool,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return the embeddings for the UNet: one list over adapters per branch, the conditional branch first.

    Both are empty without IP-Adapters. The arguments are those of [`check_ip_adapter_inputs`].
    """
    if ip_adapter_image is None and ip_adapter_image_embeds is None:
        return [], []
    pairs = _ip_adapter_pairs(components, ip_adapter_image, ip_adapter_image_embeds, do_classifier_free_guidance)
    device: Any = components._execution_device
    unconditional, conditional = (
        [part.repeat_interleave(batch_size // len(part), dim=0).to(device, components.unet.dtype) for part in parts]
        for parts in zip(*pairs, strict=True)
    )
    return conditional, unconditional


def _ip_adapter_pairs(
    components: HIAComponents,
    images: PipelineImageInput | None,
    embeds: list[torch.Tensor] | None,
    do_classifier_free_guidance: bool,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the embeddings of the unconditional and conditional branch for each adapter."""
    if embeds is None:
        layers = _layers(components.unet)
        return [_encode(components, image, layer) for image, layer in zip(_entries(images), layers, strict=True)]
    if not do_classifier_free_guidance:
        return [(torch.zeros_like(one), one) for one in _entries(embeds)]
    return [(torch.zeros_like(one), one) if len(one) == 1 else tuple(one.chunk(2)) for one in _entries(embeds)]


def _encode(
    components: HIAComponents, image: PipelineImageInput, layer: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the unconditional embeddings and those of an adapter's images, each `(1, A, ...)`."""
    name, encoder = _ip_adapter_encoder(components)
    size = encoder.config.image_size
    extractor = components.feature_extractor if name == "image_encoder" else None
    if extractor is None:
        extractor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    images = [(pixels * 255).round().byte() for pixels in image_tensors(image)]
    pixels = extractor(images=images, return_tensors="pt").pixel_values
    # Offloading hooks expect inputs on the host.
    on_host = encoder.device.type == "meta"  # weights are loaded one by one
    pixels = pixels.to("cpu" if on_host else encoder.device, encoder.dtype)
    if isinstance(layer, ImageProjection):
        embeds = encoder(pixels).image_embeds
        return torch.zeros_like(embeds)[None], embeds[None]
    nothing, embeds = (
        encoder(values, output_hidden_states=True).hidden_states[-2] for values in (torch.zeros_like(pixels), pixels)
    )
    return nothing[None], embeds[None]


def _unfit(unet: HIAUNetMotionModel, encoder: CLIPVisionModelWithProjection) -> str:
    """Return the mismatch between the width of an image encoder and the loaded adapters; empty if there is none."""
    for layer in _layers(unet):
        option = "projection_dim" if isinstance(layer, ImageProjection) else "hidden_size"
        width, expected = getattr(encoder.config, option), _width(layer)
        if width != expected:
            return f"the `{option}` must be {expected}, got {width}"
    return ""


def _ip_adapter_encoder(components: HIAComponents) -> tuple[str, Any]:
    if components.ip_adapter_image_encoder is None and components.image_encoder is not None:
        return "image_encoder", components.image_encoder
    return "ip_adapter_image_encoder", components.ip_adapter_image_encoder


def _entries(values: object) -> list[Any]:
    return list(values) if isinstance(values, (list, tuple)) else [values]


def _layers(unet: object) -> Any:
    """Return the projections of the loaded adapters, or None."""
    return getattr(getattr(unet, "encoder_hid_proj", None), "image_projection_layers", None)


def _width(layer: ImageProjection | IPAdapterFullImageProjection) -> int:
    """Return the number of input channels of a projection."""
    if isinstance(layer, ImageProjection):
        return layer.image_embeds.in_features
    if isinstance(layer, IPAdapterFullImageProjection):
        return layer.ff.net[0].proj.in_features
    return layer.proj_in.in_features


def _processors(unet: HIAUNetMotionModel) -> dict[str, Any]:
    """Return the attention processors of a UNet's blocks, without those in projections of adapters."""
    return {name: p for name, p in unet.attn_processors.items() if not name.startswith("encoder_hid_proj.")}


def _set_processors(unet: HIAUNetMotionModel, processors: Mapping[str, Any]) -> None:
    for name, processor in processors.items():
        unet.get_submodule(name.removesuffix(".processor")).set_processor(processor)


def _plain(processor: object) -> Any:
    return XFormersAttnProcessor() if "XFormers" in type(processor).__name__ else AttnProcessor2_0()


def _same_lengths(**arguments: Any) -> list[tuple[Any, Any, Any]]:
    """Return one tuple per adapter from arguments that are lists or apply to all."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in arguments.items()}
    number = len(lists["weight_name"])
    for name, values in lists.items():
        if len(values) not in (1, number):
            raise ValueError(f"`{name}` must contain one entry per `weight_name` ({number}), got {len(values)}.")
    columns = [values * number if len(values) == 1 else values for values in lists.values()]
    return list(zip(*columns, strict=True))


def _read_adapter(
    source: object, subfolder: object, weight_name: object, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Read the two parts of an adapter's weights."""
    if isinstance(source, Mapping):
        weights = dict(source)
    else:
        checks.instance("weight_name", weight_name, str)
        file = _get_model_file(source, weights_name=weight_name, subfolder=subfolder or None, **options)
        try:
            weights = load_file(file) if str(file).endswith(".safetensors") else load_state_dict(file)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # damaged files raise many kinds of errors
            raise ValueError(f"`{SOURCE}`: {file} cannot be read ({' '.join(str(error).split())}).") from error
    if not any(name in weights for name in PARTS):
        weights = {
            part: {key.removeprefix(f"{part}."): value for key, value in weights.items() if key.startswith(f"{part}.")}
            for part in PARTS
        }
    if not all(isinstance(weights.get(part), Mapping) and weights[part] for part in PARTS):
        raise ValueError(f"`{SOURCE}` must contain an IP-Adapter, with weights `image_proj` and `ip_adapter`.")
    return weights


def _check_adapter(adapter: Mapping[str, Any], unet: HIAUNetMotionModel) -> None:
    """Raise an error for an adapter that was made for another UNet."""
    if "perceiver_resampler.proj_in.weight" in adapter["image_proj"] or (
        "proj.0.weight" in adapter["image_proj"] and "proj.3.weight" not in adapter["image_proj"]
    ):
        raise ValueError(f"`{SOURCE}` is an IP-Adapter for face embeddings (FaceID), which cannot be loaded.")
    names = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    attentions = [unet.get_submodule(name) for name in names if "motion_modules" not in name]
    width = unet.config.cross_attention_dim
    expected = {
        f"{2 * i + 1}.to_{layer}_ip.weight": (attention.inner_dim, width)
        for i, attention in enumerate(attentions)
        for layer in ("k", "v")
    }
    weights = adapter["ip_adapter"]
    if differing := sorted(expected.keys() ^ weights.keys()):
        raise ValueError(
            f"`{SOURCE}` must contain an IP-Adapter for this UNet, with {len(expected)} weights `ip_adapter` for its"
            f" {len(attentions)} cross-attentions, got {len(weights)}; {differing[0]} is missing or too many."
        )
    for key, shape in expected.items():
        check_tensor(f"{SOURCE}`: `ip_adapter.{key}", weights[key], shape, unet.dtype)


def _check_loaded(unet: HIAUNetMotionModel) -> None:
    """Raise an error for an adapter whose projection is incomplete or has the wrong width."""
    for layer in _layers(unet):
        norm = layer.norm_out if hasattr(layer, "norm_out") else layer.norm
        if norm.normalized_shape[0] != unet.config.cross_attention_dim:
            raise ValueError(
                f"`{SOURCE}` must contain an IP-Adapter for a `cross_attention_dim` of "
                f"{unet.config.cross_attention_dim}, got one for {norm.normalized_shape[0]}."
            )
        for name, parameter in layer.named_parameters():
            if parameter.is_meta or not parameter.isfinite().all():
                raise ValueError(f"`{SOURCE}` has missing or infinite weights in its `image_proj`, for {name}.")


def _check_embeds(embeds: torch.Tensor, layer: nn.Module, batch_size: int, guided: bool, dtype: torch.dtype) -> None:
    """Raise an error for embeddings of another shape, width or number."""
    name, width = "ip_adapter_image_embeds", _width(layer)
    is_single = isinstance(layer, ImageProjection)
    check_tensor(name, embeds, (None, None, width) if is_single else (None, None, None, width), dtype)
    pairs = 2 if guided else 1
    numbers = {pairs * n for n in range(1, batch_size + 1) if batch_size % n == 0} | ({1} if is_single else set())
    if len(embeds) not in numbers:
        order = ", those of the unconditional branch first," if guided else ""
        raise ValueError(
            f"`{name}` must contain {' or '.join(map(str, sorted(numbers)))} entries{order} for {batch_size} clips"
            f" {'with' if guided else 'without'} guidance, got {len(embeds)}."
        )
