# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA of [`HIAPipeline`]: applied to exactly the layers of a file, or rejected without changes."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.peft import _SET_ADAPTER_SCALE_FN_MAPPING
from diffusers.utils import recurse_remove_peft_layers

from .. import checks
from ..models.attachments import has_fused_projections, lora_layers
from .lora_files import PEFT_PREFIX, SOURCE, LoraLayer, layers_of, read_lora, shown


logger = logging.getLogger(__name__)

# Scales by block, for which diffusers uses the names of its own classes.
_SET_ADAPTER_SCALE_FN_MAPPING["HIAUNetMotionModel"] = _SET_ADAPTER_SCALE_FN_MAPPING["UNetMotionModel"]
_SET_ADAPTER_SCALE_FN_MAPPING["HIAAppearanceEncoder"] = _SET_ADAPTER_SCALE_FN_MAPPING["UNet2DConditionModel"]

# Names of the two weights of a layer that diffusers' loaders of the networks accept without guessing.
WEIGHT_NAMES = {
    "unet": ("lora_A.weight", "lora_B.weight"),
    "appearance_encoder": ("lora_A.weight", "lora_B.weight"),
    "text_encoder": ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
}


class HIALoraLoaderMixin(StableDiffusionLoraLoaderMixin):
    """Load LoRA into the UNet, the appearance encoder and, if there is one, the text encoder of a pipeline."""

    _lora_loadable_modules = ["unet", "text_encoder", "appearance_encoder"]

    unet: Any
    appearance_encoder: Any
    text_encoder: Any
    controlnet: Any

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | os.PathLike | Mapping[str, torch.Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load LoRA for Stable Diffusion 1.5, as [`~diffusers.loaders.StableDiffusionLoraLoaderMixin`] does.

        Files of kohya's trainers, diffusers and PEFT are supported, and AnimateDiff's for motion modules, with or
        without a prefix that names the network. A file is applied to exactly the layers that it was made for. If the
        pipeline has no text encoder, weights for one are skipped with a warning. Weights for the appearance encoder,
        which only LoRA trained for HIA have, need its prefix.

        Args:
            pretrained_model_name_or_path_or_dict (`str`, `os.PathLike` or `dict[str, torch.Tensor]`):
                A file, a folder, a Hub id, or the weights.
            adapter_name (`str`, *optional*):
                Name of the LoRA; by default `default_0`, `default_1` and so on.
            hotswap (`bool`, *optional*, defaults to `False`):
                Whether to replace the LoRA of that name.
            kwargs:
                `weight_name`, `subfolder`, `use_safetensors`, `low_cpu_mem_usage`, and the options of downloads.

        Raises:
            ImportError: If PEFT is not installed.
            OSError: If there is no such file.
            TypeError, ValueError: If it is not a LoRA, has layers that the networks do not have, or weights that do
                not fit or are not finite, or the name is in use. Nothing is changed in this case.
        """
        try:
            import peft  # noqa: F401
        except ImportError as error:
            raise ImportError("LoRA needs the `train` extra: pip install 'hia-diffusers[train]'.") from error
        checks.flag("hotswap", hotswap)
        low_cpu_mem_usage = kwargs.pop("low_cpu_mem_usage", True)
        # Compiled networks wrap their original.
        networks: dict[str, Any] = {name: getattr(self, name, None) for name in self._lora_loadable_modules}
        networks = {name: getattr(network, "_orig_mod", network) for name, network in networks.items()}
        adapter_name = _adapter_name(adapter_name, networks, hotswap)
        file = read_lora(pretrained_model_name_or_path_or_dict, **kwargs)
        layers, without_text_encoder = layers_of(file, networks)
        self._check_lora(layers)
        prepared = {name: _for_diffusers(name, layers[name], networks[name]) for name in layers}
        if hotswap:
            _check_hotswap(networks["unet"], adapter_name, layers, prepared)

        active = {name: _active_adapters(network) for name, network in networks.items() if network is not None}
        trained = [p for network in networks.values() if network is not None for p in network.parameters()]
        trained = [parameter for parameter in trained if parameter.requires_grad]
        arguments = {"adapter_name": adapter_name, "_pipeline": self, "low_cpu_mem_usage": low_cpu_mem_usage}
        try:
            for name in layers:
                weights, options = prepared[name]
                arguments |= {"network_alphas": None, "metadata": options, "hotswap": hotswap}
                if name == "text_encoder":
                    self.load_lora_into_text_encoder(weights, text_encoder=networks[name], **arguments)
                else:
                    networks[name].load_lora_adapter(weights, prefix=name, **arguments)
        except BaseException:
            if not hotswap:
                for name, adapters in active.items():
                    _remove_adapter(networks[name], adapter_name, adapters)
            raise
        finally:
            for parameter in trained:  # PEFT freezes them, which also affects the rounding of torch's kernels
                parameter.requires_grad_(True)
        if without_text_encoder:
            logger.warning(
                "The LoRA %s is applied only to the UNet: the pipeline has no text encoder, for which the file has %d"
                " more layers: %s.",
                adapter_name,
                len(without_text_encoder),
                shown(without_text_encoder),
            )
        if not file.options and any(key.startswith(PEFT_PREFIX) for key in file.weights):
            logger.warning(
                "The LoRA %s has no adapter_config.json of PEFT with its scale, which is assumed to be 1.",
                adapter_name,
            )

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | os.PathLike,
        unet_lora_layers: Mapping[str, Any] | None = None,
        text_encoder_lora_layers: Mapping[str, Any] | None = None,
        appearance_encoder_lora_layers: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Save LoRA in diffusers' layout, for `load_lora_weights`.

        Args:
            save_directory (`str` or `os.PathLike`):
                Folder of the file `pytorch_lora_weights.safetensors`; created if it does not exist.
            unet_lora_layers, text_encoder_lora_layers, appearance_encoder_lora_layers (`Mapping`, *optional*):
                Weights of a network in PEFT's layout, from `peft.get_peft_model_state_dict`. At least one is needed.
            kwargs:
                `unet_lora_adapter_metadata` and the same of the other networks, from `peft.LoraConfig.to_dict`;
                without it, the scale is 1. And `weight_name`, `safe_serialization`, `save_function` and
                `is_main_process`, as in [`~diffusers.loaders.StableDiffusionLoraLoaderMixin.save_lora_weights`].

        Raises:
            ValueError: If there are no weights.
        """
        given = (unet_lora_layers, text_encoder_lora_layers, appearance_encoder_lora_layers)
        layers = {name: weights for name, weights in zip(cls._lora_loadable_modules, given, strict=True) if weights}
        metadata = {name: kwargs.pop(f"{name}_lora_adapter_metadata", None) for name in cls._lora_loadable_modules}
        if not layers:
            raise ValueError("`unet_lora_layers`, or the layers of another network, must contain weights.")
        cls._save_lora_weights(save_directory, layers, {name: metadata[name] for name in layers}, **kwargs)

    def fuse_lora(
        self, components: Sequence[str] = ("unet", "text_encoder", "appearance_encoder"), *args: Any, **kwargs: Any
    ) -> None:
        """Merge LoRA into the weights of networks, as [`~diffusers.loaders.lora_base.LoraBaseMixin.fuse_lora`] does.

        Args:
            components (`Sequence[str]`, *optional*, defaults to `("unet", "text_encoder", "appearance_encoder")`):
                Names of the networks.
            args, kwargs:
                `lora_scale`, `safe_fusing` and `adapter_names`.
        """
        super().fuse_lora(list(components), *args, **kwargs)

    def unfuse_lora(
        self, components: Sequence[str] = ("unet", "text_encoder", "appearance_encoder"), **kwargs: Any
    ) -> None:
        """Reverse `fuse_lora`.

        Args:
            components (`Sequence[str]`, *optional*, defaults to `("unet", "text_encoder", "appearance_encoder")`):
                Names of the networks.
            kwargs:
                Ignored arguments of older versions of diffusers.
        """
        super().unfuse_lora(list(components), **kwargs)

    def _check_lora(self, layers: Mapping[str, Mapping[str, LoraLayer]]) -> None:
        """Raise an error for LoRA without effect in this pipeline."""
        for name in layers:
            if has_fused_projections(getattr(self, name)):
                raise ValueError(
                    f"`{name}` has fused projections, on which LoRA has no effect: call"
                    " `unfuse_qkv_projections()` first."
                )
        of_unet = layers.get("unet", {})
        motion = [name for name in of_unet if ".motion_modules." in name]
        if motion and not self.unet.config.use_motion_modules:
            raise ValueError(
                f"`{SOURCE}` has LoRA for motion modules, which this pipeline's UNet disables: {shown(motion)}."
            )
        if "conv_in" in of_unet and "pose_features" in getattr(self.controlnet, "unet_arguments", ()):
            raise ValueError(f"`{SOURCE}` has LoRA for conv_in, where the pose features of this pipeline are added.")


def _adapter_name(name: str | None, networks: Mapping[str, Any], hotswap: bool) -> str:
    """Return the name of an adapter for all networks: the given one, or the first free one."""
    used = {name for network in networks.values() for name in getattr(network, "peft_config", {})}
    if name is None and not hotswap:
        return next(free for i in range(len(used) + 1) if (free := f"default_{i}") not in used)
    checks.instance("adapter_name", name, str)
    if not name or "." in name:
        raise ValueError(f"`adapter_name` must be a name without dots, got {name!r}.")
    if hotswap and name not in getattr(networks["unet"], "peft_config", {}):
        raise ValueError(f"`adapter_name` must be the name of a LoRA of the UNet to replace, got {name!r}.")
    if not hotswap and name in used:
        raise ValueError(f"`adapter_name` must not be in use, got {name!r}.")
    return name


def _for_diffusers(
    component: str, layers: Mapping[str, LoraLayer], network: ModelMixin
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return weights and PEFT's configuration, with the prefix of the network, for diffusers' loaders."""
    weights = {}
    for module, layer in layers.items():
        dtype = network.dtype if network.dtype.itemsize > 1 else layer.up.dtype  # not the storage dtype
        for name, tensor in zip(WEIGHT_NAMES[component], (layer.down, layer.up), strict=True):
            weights[f"{component}.{module}.{name}"] = tensor.to(dtype)
    rank = Counter(layer.rank for layer in layers.values()).most_common(1)[0][0]
    alpha = Counter(layer.alpha for layer in layers.values()).most_common(1)[0][0]
    options = {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": layer.rank for name, layer in layers.items() if layer.rank != rank},
        "alpha_pattern": {f"^{name}": layer.alpha for name, layer in layers.items() if layer.alpha != alpha},
        "target_modules": list(layers),
    }
    return weights, {f"{component}.{name}": value for name, value in options.items()}


def _check_hotswap(unet: ModelMixin, name: str, layers: Mapping[str, Mapping[str, LoraLayer]], prepared: Any) -> None:
    """Raise an error for LoRA that cannot replace an adapter: diffusers would also remove the old one."""
    from peft import LoraConfig
    from peft.utils.hotswap import check_hotswap_configs_compatible

    if set(layers) != {"unet"}:
        others = " and the ".join(name.replace("_", " ") for name in layers if name != "unet")
        raise ValueError(f"`hotswap` supports LoRA for the UNet only, but `{SOURCE}` has some for the {others}.")
    if any(layer.merged for layer in lora_layers(unet)):
        raise ValueError("`hotswap` cannot be used while LoRA is fused: call `unfuse_lora()` first.")
    old = {module for module, layer in unet.named_modules() if name in getattr(layer, "lora_A", {})}
    if new := [module for module in layers["unet"] if module not in old]:
        raise ValueError(f"`hotswap` supports only layers of the old LoRA, not {shown(new)}.")
    # PEFT applies the most frequent scale to all layers.
    if len({layer.alpha / layer.rank for layer in layers["unet"].values()}) > 1:
        raise ValueError(f"`hotswap` needs one scale for all layers, but those of `{SOURCE}` differ.")
    options = {key.removeprefix("unet."): value for key, value in prepared["unet"][1].items()}
    try:
        check_hotswap_configs_compatible(unet.peft_config[name], LoraConfig(**options))
    except ValueError as error:
        raise ValueError(f"`hotswap` needs a LoRA similar to the old one: {error}.") from error


def _active_adapters(network: ModelMixin) -> list[str]:
    return next((list(layer.active_adapters) for layer in lora_layers(network)), [])


def _remove_adapter(network: ModelMixin, name: str, active: list[str]) -> None:
    """Remove a possibly incomplete adapter, and keep the active ones."""
    network.peft_config = {key: value for key, value in getattr(network, "peft_config", {}).items() if key != name}
    if not network.peft_config:
        recurse_remove_peft_layers(network)
        del network.peft_config
        network._hf_peft_config_loaded = None
        return
    for layer in lora_layers(network):
        layer.delete_adapter(name)
        layer.set_adapter(active)
