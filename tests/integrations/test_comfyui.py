# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The node pack, imported and called as ComfyUI does, without its server."""

import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hia_diffusers import HIA_TINY, HIAPipeline, MotionBlurConditioner
from hia_diffusers.procedural.scene import ProceduralScene


PACK = Path(__file__).parents[2] / "integrations" / "comfyui"
WORKFLOW = json.loads((PACK / "example_workflows" / "hia_tiny_api.json").read_text())
SCENE = ProceduralScene("test", identity=1, motion=2, setting=1)
KEYPOINTS = SCENE.keypoints(range(2), height=160, width=96)
STATED = {"pose_fps": 0.0, "pose_width": 0, "pose_height": 0}
ANYHOW = {"sharpness": "auto", "sharpness_value": 0.0, "width": 0, "height": 0, "retarget": "auto"}


def import_pack():
    """As `load_custom_node` of ComfyUI: the folder, wherever it lies, by its path."""
    name = str(PACK).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


PACK_MODULE = import_pack()


def run(node, **inputs):
    """Outputs of a node, called by the names that its class states, with inputs that its class accepts."""
    kind = PACK_MODULE.NODE_CLASS_MAPPINGS[node]
    check_inputs(kind, inputs)
    outputs = getattr(kind(), kind.FUNCTION)(**inputs)
    assert len(outputs) == len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES)
    for output, type_ in zip(outputs, kind.RETURN_TYPES, strict=True):
        if type_ == "IMAGE":
            assert output.dtype == torch.float32 and output.ndim == 4 and output.shape[-1] == 3
            assert 0 <= output.min() and output.max() <= 1
    return outputs


def check_inputs(kind, inputs):
    """What ComfyUI checks: every input is there, choices are among a list, numbers within their limits."""
    declared = kind.INPUT_TYPES()["required"]
    assert inputs.keys() == declared.keys()
    for name, (type_, *options) in declared.items():
        if isinstance(type_, list):
            assert inputs[name] in type_
        else:
            assert re.fullmatch("[A-Z_]+", type_)
        limits = options[0] if options else {}
        if "min" in limits and not isinstance(inputs[name], list):
            assert limits["min"] <= inputs[name] <= limits["max"]


DEFAULTS = {"steps": "num_inference_steps", "guidance_scale": "guidance_scale"}  # where a node is given 0


def test_nodes_in_sequence_give_the_frames_of_the_pipeline():
    (pipe,) = run("HIALoadPipeline", model="hia-tiny", dtype="float32")
    image, motion = run("HIAExampleMotion", person=1, dance=2, frames=2)
    choice = {**ANYHOW, "sharpness": "value", "sharpness_value": 0.7}
    condition, preview = run("HIACondition", image=image, motion=motion, **choice)
    assert preview.shape == (2, 160, 2 * 96, 3)
    np.testing.assert_array_equal(preview[0, :, :96], image[0])
    inputs = {"pipeline": pipe, "condition": condition, "steps": 2, "guidance_scale": 2.0}
    frames, fps = run("HIAAnimate", **inputs, seed=3)
    assert frames.shape == (2, 160, 96, 3) and fps == 30

    image = Image.fromarray(SCENE.render([60], height=160, width=96).frames[0])
    expected = HIAPipeline.from_pretrained(HIA_TINY)(
        image,
        MotionBlurConditioner.for_size(160, 96)(KEYPOINTS, sharpness=0.7),
        num_inference_steps=2,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(3),
        output_type="np",
    ).frames[0]
    # Equal bits: the node makes the same call.
    np.testing.assert_array_equal(frames.numpy(), expected)
    chosen = {name: pipe.call_default(argument) for name, argument in DEFAULTS.items()}
    own, given = (run("HIAAnimate", **inputs | options, seed=3)[0] for options in (dict.fromkeys(DEFAULTS, 0), chosen))
    assert torch.equal(own, given) and not torch.equal(own, frames)


def test_motions_of_files_and_of_frames_are_the_same(tmp_path):
    image, motion = run("HIAExampleMotion", person=1, dance=2, frames=2)
    KEYPOINTS.save(tmp_path / "dance.safetensors")
    file = str(tmp_path / "dance.safetensors")
    (loaded,) = run("HIALoadMotion", file=file, kind="auto", max_frames=0, **STATED)
    (shorter,) = run("HIALoadMotion", file=file, kind="keypoints", max_frames=1, **STATED)
    conditions = [run("HIACondition", image=image, motion=m, **ANYHOW)[0] for m in (motion, loaded, shorter)]
    expected = conditions[0].condition
    np.testing.assert_array_equal(conditions[1].condition.to_tensor(), expected.to_tensor())
    # One frame shows no motion, by which the first frame's sharpness is expected where there are two.
    np.testing.assert_array_equal(conditions[2].condition.pose, expected[:1].pose)

    drawn = torch.from_numpy(expected.pose).float() / 255
    (poses,) = run("HIAMotionFromFrames", frames=drawn, fps=24.0, kind="auto")
    condition, _ = run("HIACondition", image=image, motion=poses, **ANYHOW)
    assert condition.fps == 24
    np.testing.assert_array_equal(condition.condition.pose, expected.pose)
    condition, preview = run("HIACondition", image=image, motion=poses, **{**ANYHOW, "width": 48, "height": 80})
    assert condition.condition.pose.shape == (2, 80, 48, 3) and preview.shape == (2, 80, 2 * 48, 3)


@pytest.mark.parametrize(
    ("pixel", "seen"),
    [((0.0, 1.0, 0.0, 0.0), (255, 255, 255)), ((1.0, 0.0, 0.0, 0.5), (255, 128, 128)), ((0.2,), (51, 51, 51))],
)
def test_alpha_of_an_image_is_laid_on_white_and_grey_is_taken(pixel, seen):
    image = torch.tensor(pixel).expand(1, 160, 96, -1)
    _, motion = run("HIAExampleMotion", person=1, dance=2, frames=1)
    _, preview = run("HIACondition", image=image, motion=motion, **ANYHOW)
    np.testing.assert_allclose(preview[0, 0, 0] * 255, seen, atol=1)


def test_pose_files_are_read_and_ask_for_what_they_do_not_state(tmp_path):
    frame = {"people": [{"pose_keypoints_2d": [20, 30, 1] * 18}]}
    (tmp_path / "comfyui.json").write_text(json.dumps([{**frame, "canvas_height": 160, "canvas_width": 96}] * 3))
    (tmp_path / "openpose.json").write_text(json.dumps(frame))

    def load(name, **stated):
        file = str(tmp_path / name)
        return run("HIALoadMotion", file=file, kind="auto", max_frames=0, **{**STATED, **stated})[0]

    motion = load("comfyui.json", pose_fps=24.0)
    assert (len(motion), motion.kind, motion.fps) == (3, "keypoints", 24.0)
    motion = load("openpose.json", pose_fps=24.0, pose_width=96, pose_height=160)
    assert (len(motion), motion.width, motion.height) == (1, 96, 160)
    with pytest.raises(ValueError, match="comfyui.json does not state its frame rate; pass `pose_fps`"):
        load("comfyui.json")
    with pytest.raises(ValueError, match="the size of its image; pass `pose_width` and `pose_height`"):
        load("openpose.json", pose_fps=24.0)
    with pytest.raises(ValueError, match="`pose_width` and `pose_height` must both be given"):
        load("openpose.json", pose_fps=24.0, pose_width=96)


def test_a_file_that_changes_is_read_again(tmp_path):
    is_changed = PACK_MODULE.NODE_CLASS_MAPPINGS["HIALoadMotion"].IS_CHANGED
    choice = {"file": str(tmp_path / "dance.npz"), "kind": "auto", "max_frames": 0, **STATED}
    assert is_changed(**choice) != is_changed(**choice)  # it is not there, and may come
    KEYPOINTS.save(tmp_path / "dance.npz")
    first = is_changed(**choice)
    assert is_changed(**choice) == first
    KEYPOINTS.save(tmp_path / "dance.npz")
    assert is_changed(**choice) > first


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"image": torch.zeros(2, 8, 8, 3)}, "`image` must be one image, got a batch of 2"),
        ({"sharpness": "driving"}, "`sharpness`: it can be measured only if `driving` is a video"),
        ({"width": 20}, "`width` must be a multiple of 8 from 8 to 16384, got 20"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_named(changed, message):
    image, motion = run("HIAExampleMotion", person=1, dance=2, frames=1)
    with pytest.raises(ValueError, match=message):
        run("HIACondition", **{"image": image, "motion": motion, **ANYHOW, **changed})


@pytest.mark.parametrize("value", [True, 1.5, -1, 2**64, 10**400, None])
def test_numbers_that_a_workflow_hands_on_are_checked(value):
    nodes = {name: kind() for name, kind in PACK_MODULE.NODE_CLASS_MAPPINGS.items()}
    for name in ("person", "dance", "frames"):
        with pytest.raises((TypeError, ValueError), match=f"`{name}` must be an integer"):
            nodes["HIAExampleMotion"].draw(**{"person": 1, "dance": 2, "frames": 1} | {name: value})
    for name in ("steps", "seed"):
        numbers = {"steps": 1, "seed": 0} | {name: value}
        with pytest.raises((TypeError, ValueError), match=f"`{name}` must be an integer"):
            nodes["HIAAnimate"].animate(None, SimpleNamespace(condition=None), guidance_scale=1.0, **numbers)


def test_example_workflow_uses_the_nodes_as_they_are():
    kinds = PACK_MODULE.NODE_CLASS_MAPPINGS
    ours = {number: node for number, node in WORKFLOW.items() if node["class_type"] in kinds}
    assert len(ours) == 4
    for node in ours.values():
        kind, inputs = kinds[node["class_type"]], node["inputs"]
        links = {name: value for name, value in inputs.items() if isinstance(value, list)}
        check_inputs(kind, inputs)
        for name, (source, output) in links.items():
            given = kinds[WORKFLOW[source]["class_type"]].RETURN_TYPES[output]
            assert given == kind.INPUT_TYPES()["required"][name][0]


def declared_inputs(kind):
    declared = kind.INPUT_TYPES()
    return {**declared["required"], **declared.get("optional", {})}


@pytest.mark.parametrize("name", ["hia_tiny", "animate_a_photo"])
def test_workflows_of_the_editor_use_the_nodes_as_they_are(name):
    kinds = PACK_MODULE.NODE_CLASS_MAPPINGS
    workflow = json.loads((PACK / "example_workflows" / f"{name}.json").read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link[1:] for link in workflow["links"]}
    for number, (source, output, target, slot, type_) in links.items():
        given, taken = nodes[source]["outputs"][output], nodes[target]["inputs"][slot]
        assert number in given["links"] and number == taken["link"] and given["type"] == taken["type"] == type_
    ours = [node for node in nodes.values() if node["type"] in kinds]
    assert len(ours) >= 4
    for node in ours:
        kind = kinds[node["type"]]
        declared = declared_inputs(kind)
        assert [output["type"] for output in node["outputs"]] == list(kind.RETURN_TYPES)
        assert {each["name"] for each in node["inputs"]} <= declared.keys()
        assert all(each["type"] == declared[each["name"]][0] for each in node["inputs"])
        values = iter(node["widgets_values"])
        for type_, *more in declared.values():
            if not (isinstance(type_, list) or type_ in ("STRING", "INT", "FLOAT")):
                continue  # it has no widget
            value, limits = next(values), more[0] if more else {}
            assert value in type_ if isinstance(type_, list) else "min" not in limits or value >= limits["min"]
            if limits.get("control_after_generate"):
                assert next(values) == "fixed"
        assert next(values, None) is None


@pytest.mark.parametrize("name", ["hia_tiny", "animate_a_photo"])
def test_nodes_of_a_workflow_do_not_lie_over_each_other(name):
    nodes = json.loads((PACK / "example_workflows" / f"{name}.json").read_text())["nodes"]
    for one, other in itertools.combinations(nodes, 2):
        apart = (
            one["pos"][axis] + one["size"][axis] < other["pos"][axis]
            or other["pos"][axis] + other["size"][axis] < one["pos"][axis]
            for axis in (0, 1)
        )
        assert any(apart), (one["type"], other["type"])


def test_the_pack_names_and_describes_every_node():
    kinds = PACK_MODULE.NODE_CLASS_MAPPINGS
    assert PACK_MODULE.NODE_DISPLAY_NAME_MAPPINGS.keys() == kinds.keys()
    assert all(kind.CATEGORY == "HIA" and kind.DESCRIPTION for kind in kinds.values())
    readme = (PACK / "README.md").read_text()
    assert all(name in readme for name in PACK_MODULE.NODE_DISPLAY_NAME_MAPPINGS.values())


def test_the_pack_asks_for_this_package_wherever_its_needs_are_read():
    (needed,) = re.findall(r'^dependencies = \["(.*)"\]$', (PACK / "pyproject.toml").read_text(), re.MULTILINE)
    assert (PACK / "requirements.txt").read_text() == f"{needed}\n" == "hia-diffusers\n"
