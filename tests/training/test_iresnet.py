# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import hashlib
import sys
import warnings

import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
from rounding import assert_equal_up_to_rounding

from hia_diffusers.training.iresnet import IResNet


SMALL = {"depths": (2, 1, 1, 1), "widths": (8, 8, 8, 16, 16), "num_features": 32}


def random_network(seed=0, **config):
    """A network whose norms and slopes are no identities, so that each of its weights matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = IResNet(**config)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2.0)
            elif isinstance(module, torch.nn.PReLU):
                module.weight.uniform_(0.1, 0.4)
    return network


def faces(count=2, seed=0):
    return 2 * torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(seed)) - 1


def write_onnx(network, path, **options):
    """As InsightFace's `torch2onnx.py` does: norms behind convolutions are folded into them."""
    with warnings.catch_warnings():  # that newer exporters are better
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, faces(1), path, input_names=["data"], dynamic_axes={"data": {0: "None"}}, dynamo=False, **options
        )
    return path


def onnx_embeddings(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"data": images.numpy()})[0])


@pytest.fixture(scope="module")
def small():
    return random_network(**SMALL)


@pytest.fixture(scope="module")
def small_onnx(small, tmp_path_factory):
    return write_onnx(small, tmp_path_factory.mktemp("buffalo") / "small.onnx", opset_version=11)


def folded_state(path):
    """The weights of an ONNX file in the layout of `py-feat/arcface_r50`, whose shortcuts are bare convolutions."""
    state = IResNet.from_weights(path).state_dict()
    return {name.replace("downsample.0", "downsample"): value for name, value in state.items()}


@pytest.mark.parametrize("depths", [(2, 2, 2, 2), (3, 4, 14, 3)], ids=["r18", "r50"])
def test_network_of_an_onnx_file_equals_onnxruntime(tmp_path, depths):
    network = random_network(**{**SMALL, "depths": depths})
    path = write_onnx(network, tmp_path / "exported.onnx", opset_version=11)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert kinds.count("Conv") == 1 + 2 * sum(depths) + 4
    assert kinds.count("BatchNormalization") == sum(depths) + 2

    read = IResNet.from_weights(path)
    assert [len(stage) for stage in (read.layer1, read.layer2, read.layer3, read.layer4)] == list(depths)
    torch.testing.assert_close(read(faces()), onnx_embeddings(path, faces()), rtol=0, atol=1e-4)
    assert read(faces()).std() > 0.1
    assert read.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_onnx_file_with_norms_that_are_not_folded_is_read(tmp_path, small):
    path = write_onnx(small, tmp_path / "norms.onnx", training=torch.onnx.TrainingMode.PRESERVE)
    assert "layer1.0.bn2.weight" in {tensor.name for tensor in onnx.load(path).graph.initializer}
    torch.testing.assert_close(IResNet.from_weights(path)(faces()), small(faces()), rtol=0, atol=1e-5)


def test_epsilon_of_the_onnx_file_counts(tmp_path, small_onnx):
    model = onnx.load(small_onnx)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            next(item for item in node.attribute if item.name == "epsilon").f = 0.1
    onnx.save(model, tmp_path / "epsilon.onnx")
    expected = onnx_embeddings(tmp_path / "epsilon.onnx", faces())
    torch.testing.assert_close(IResNet.from_weights(tmp_path / "epsilon.onnx")(faces()), expected, rtol=0, atol=1e-4)


def test_state_dict_has_the_keys_of_insightface(tmp_path, small):
    names = set(small.state_dict())
    block = ["bn1.running_mean", "conv1.weight", "bn2.bias", "prelu.weight", "conv2.weight", "bn3.running_var"]
    assert names >= {f"layer1.0.{name}" for name in [*block, "downsample.0.weight", "downsample.1.weight"]}
    assert names >= {f"layer1.1.{name}" for name in block}
    assert names >= {"conv1.weight", "bn1.weight", "prelu.weight", "bn2.weight", "fc.bias", "features.running_var"}
    assert not any("dropout" in name or name.startswith("layer1.1.downsample") for name in names)
    assert "conv1.bias" not in names


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_insightface_state_dict_is_read(tmp_path, small, suffix):
    path = tmp_path / f"backbone.{suffix}"
    state = {name: value for name, value in small.state_dict().items() if "num_batches_tracked" not in name}
    safetensors.torch.save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    assert_equal_up_to_rounding(IResNet.from_weights(path)(faces()), small(faces()))


def test_py_feat_state_dict_is_read(tmp_path, small, small_onnx):
    state = folded_state(small_onnx)
    assert {"layer1.0.downsample.weight", "layer1.0.downsample.bias", "layer1.0.conv1.bias"} <= set(state)
    safetensors.torch.save_file(state, tmp_path / "arcface_r50.safetensors")
    read = IResNet.from_weights(tmp_path / "arcface_r50.safetensors")
    torch.testing.assert_close(read(faces()), small(faces()), rtol=0, atol=1e-5)


def test_network_is_frozen_and_stays_in_evaluation_mode(small):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    parent = torch.nn.ModuleDict({"identity": small}).train()
    assert not any(module.training for module in parent["identity"].modules())
    assert not any(parameter.requires_grad for parameter in small.parameters())
    images = faces().requires_grad_()
    small(images).sum().backward()
    assert (images.grad.abs().amax(dim=(1, 2, 3)) > 0).all()
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


def test_autocast_changes_no_embedding(small):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        embeddings = small(faces())
    # Equal bits: autocast is off inside, so the kernels are the same.
    torch.testing.assert_close(embeddings, small(faces()), rtol=0, atol=0)


def test_weights_that_do_not_match_are_named(tmp_path, small, small_onnx):
    path = tmp_path / "weights.safetensors"
    state = small.state_dict()

    def error_for(changed):
        safetensors.torch.save_file(changed, path)
        with pytest.raises(ValueError, match="contains no IResNet") as error:
            IResNet.from_weights(path)
        return str(error.value)

    assert "it lacks conv1.weight, fc.weight, layer1.0.conv2.weight" in error_for({"weight": torch.zeros(3)})
    assert "it lacks layer1.1.prelu.weight." in error_for({k: state[k] for k in state if k != "layer1.1.prelu.weight"})
    assert "it has the unknown head.weight." in error_for({**state, "head.weight": torch.zeros(3)})
    assert "the shape differs for features.bias." in error_for({**state, "features.bias": torch.zeros(3)})
    # Half of a network with norms, half of one without.
    mixed = {**folded_state(small_onnx), "bn1.weight": state["bn1.weight"]}
    assert "it has the unknown bn1.weight." in error_for(mixed)


def test_other_onnx_networks_are_refused(tmp_path, small_onnx):
    def error_for(change):
        model = onnx.load(small_onnx)
        change(model.graph)
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(ValueError, match="contains no IResNet") as error:
            IResNet.from_weights(tmp_path / "other.onnx")
        return str(error.value)

    def first(graph, kind):
        return next(node for node in graph.node if node.op_type == kind)

    def replace_slopes(graph):
        first(graph, "PRelu").op_type = "Relu"

    def replace_stride(graph):
        next(item for item in first(graph, "Conv").attribute if item.name == "strides").ints[:] = [2, 2]

    def add_from_elsewhere(graph):
        first(graph, "Add").input[1] = first(graph, "Conv").output[0]

    def end_early(graph):
        graph.output[0].name = first(graph, "Gemm").output[0]

    def compute_weight(graph):
        node = first(graph, "Conv")
        graph.node.insert(0, onnx.helper.make_node("Neg", [node.input[1]], ["negative"]))
        node.input[1] = "negative"

    assert "must be read by one PRelu, got Relu" in error_for(replace_slopes)
    assert "conv1 must have stride 1, got [2, 2]" in error_for(replace_stride)
    assert "layer1.0 adds" in error_for(add_from_elsewhere)
    assert "it maps data to" in error_for(end_early)
    assert "conv1.weight is computed" in error_for(compute_weight)


def test_weights_in_half_precision_are_read_as_float32(tmp_path, small_onnx):
    state = {name: value.half() for name, value in folded_state(small_onnx).items()}
    safetensors.torch.save_file(state, tmp_path / "half.safetensors")
    read = IResNet.from_weights(tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in read.parameters()} == {torch.float32}
    assert read(faces()).dtype == torch.float32


def test_files_that_are_no_networks_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.onnx"):
        IResNet.from_weights(tmp_path / "none.onnx")
    for name in ("text.onnx", "text.safetensors", "text.pth"):
        (tmp_path / name).write_text("no network")
        with pytest.raises(ValueError, match=rf"{name}'? cannot be read"):
            IResNet.from_weights(tmp_path / name)


def test_doubled_folder_of_the_zip_file_is_explained(tmp_path, small_onnx):
    folder = tmp_path / "antelopev2" / "antelopev2"
    folder.mkdir(parents=True)
    (folder / "glintr100.onnx").write_bytes(small_onnx.read_bytes())
    with pytest.raises(
        FileNotFoundError, match="a folder of its own name; give '.*antelopev2/antelopev2/glintr100.onnx'"
    ):
        IResNet.from_weights(tmp_path / "antelopev2" / "glintr100.onnx")
    with pytest.raises(
        FileNotFoundError, match="is a folder, pass the file .* it contains .*antelopev2/glintr100.onnx"
    ):
        IResNet.from_weights(tmp_path / "antelopev2")
    assert IResNet.from_weights(folder / "glintr100.onnx").sha256


def test_missing_onnx_names_the_extra(monkeypatch, small_onnx):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"hia-diffusers\[train\]"):
        IResNet.from_weights(small_onnx)


def test_bad_input_is_named(small):
    with pytest.raises(ValueError, match=r"`faces` must be of shape \(N, 3, 112, 112\), got \(1, 3, 64, 64\)"):
        small(torch.zeros(1, 3, 64, 64))
