# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Small files and values by the names that the documentation gives them.

Whoever detects people sees those of `onnx_models.py`, and pipelines are random and small.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from dancing_videos import dancer_boxes, draw_scene, write_dance
from diffusers import ControlNetModel, LCMScheduler, MotionAdapter, UNet2DConditionModel
from onnx_models import draw_people, points_in, write_detector, write_pose_model
from PIL import Image
from published_adapters import write_ip_adapter
from published_weights import (
    SMALL_SIZE,
    draw_weights,
    image_encoder,
    motion_shapes,
    original_unet_key,
    shapes_of,
    single_file_weights,
    stable_diffusion,
    write_image_encoder,
    write_magic_animate,
    write_moore,
    write_stable_diffusion,
)
from random_tiny import random_tiny_pipeline
from transformers import CLIPImageProcessor

from hia_diffusers import HIAPipeline, MotionBlurConditioner, WholeBodyKeypoints
from hia_diffusers.detection.model_files import PERSON_DETECTORS, POSE_MODELS
from hia_diffusers.detection.openpose_detector import import_openpose
from hia_diffusers.metrics.video_networks import I3D
from hia_diffusers.preparation.clip_preparation import PreparationOptions
from hia_diffusers.preparation.clip_rules import ClipRules
from hia_diffusers.preparation.prepare_dataset import prepare_dataset
from hia_diffusers.video.writing import write_video


NUM_FRAMES, HEIGHT, WIDTH, FPS = 4, 64, 64, 30
BOXES = [[(16 + 2 * frame, 4, 40 + 2 * frame, 60)] for frame in range(NUM_FRAMES)]


def dance() -> WholeBodyKeypoints:
    points = np.stack([points_in(box) for (box,) in BOXES])
    return WholeBodyKeypoints(points, np.ones(points.shape[:2]), HEIGHT, WIDTH, FPS)


def image() -> Image.Image:
    return Image.fromarray(draw_people([[(20, 6, 42, 58)]], HEIGHT, WIDTH)[0])


def frames() -> np.ndarray:
    return draw_people(BOXES, HEIGHT, WIDTH)


def small_pipeline() -> HIAPipeline:
    return HIAPipeline.from_pretrained("path/or/hub-id")


def conditioning_maps() -> torch.Tensor:
    """For weights of other projects, whose condition has three channels."""
    return torch.rand(NUM_FRAMES, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


# The names that blocks use and do not make.
INPUTS = {
    "HIAPipeline": lambda: HIAPipeline,
    "HIAUNetMotionModel": lambda: __import__("hia_diffusers").HIAUNetMotionModel,
    "MotionAdapter": lambda: MotionAdapter,
    "MotionBlurConditioner": lambda: MotionBlurConditioner,
    "condition": lambda: MotionBlurConditioner()(dance()),
    "conditioning_frames": lambda: MotionBlurConditioner()(dance()),
    "densepose": conditioning_maps,
    "finished_steps": lambda: 0,
    "folder": lambda: "saved",
    "frames": frames,
    "generator": lambda: torch.Generator().manual_seed(0),
    "image": image,
    "model": lambda: "path/or/hub-id",
    "np": lambda: np,
    "pipe": small_pipeline,
    "poses": conditioning_maps,
    "rank": lambda: 0,
    "torch": lambda: torch,
    "unet2d": lambda: UNet2DConditionModel(sample_size=8, **SMALL_SIZE),
    "videos": lambda: [(torch.rand(16, 3, 32, 32), torch.rand(16, 3, 32, 32)) for _ in range(2)],
    "world_size": lambda: 1,
}


# Files


def write_common_files(folder: Path) -> None:
    """A person, a dance, and a pipeline."""
    image().save(folder / "person.png")
    image().save(folder / "another person.png")
    write_video(folder / "dance.mp4", frames(), FPS)
    dance().save(folder / "motion.safetensors")
    pipeline = random_tiny_pipeline()
    for variant in (None, "fp16"):
        pipeline.save_pretrained(folder / "path" / "or" / "hub-id", variant=variant)


def write_photo(folder: Path) -> None:
    image().save(folder / "me.jpg")


def write_keypoint_models(folder: Path) -> None:
    """Where rtmlib keeps what it has downloaded, `folder` being torch's home."""
    for name, model in {**PERSON_DETECTORS, **POSE_MODELS}.items():
        path = folder / "hub" / "hia_diffusers" / name / f"{Path(model.url).stem}.onnx"
        path.parent.mkdir(parents=True)
        if name in PERSON_DETECTORS:
            write_detector(path, model.height, model.width)
        else:
            write_pose_model(path, model.height, model.width, score=0.9 * model.score_scale)


def write_trained_pipelines(folder: Path) -> None:
    pipeline = HIAPipeline.from_pretrained(folder / "path" / "or" / "hub-id")
    pipeline.save_pretrained(folder / "runs" / "dance" / "temporal-full")
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(folder / "runs" / "dance" / "lcm")


def write_person_lora(folder: Path) -> None:
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    width = SMALL_SIZE["block_out_channels"][0]
    layers = {f"{layer}.lora_A.weight": torch.rand(2, width), f"{layer}.lora_B.weight": torch.rand(width, 2)}
    HIAPipeline.save_lora_weights(folder / "runs" / "person-lora", unet_lora_layers=layers)


def write_published_adapter(folder: Path) -> None:
    write_ip_adapter(folder / "h94" / "IP-Adapter", random_tiny_pipeline().unet)


def write_videos(folder: Path) -> None:
    write_dance(folder / "videos" / "dance.mp4", [(dancer_boxes(40), (10, 30, 200))])
    frames = folder / "TikTok_dataset" / "00001" / "images"
    frames.mkdir(parents=True)
    for number, frame in enumerate(draw_scene(dancer_boxes(40), (10, 30, 200)), start=1):
        Image.fromarray(frame).save(frames / f"{number:04d}.png")


def write_dataset(folder: Path) -> None:
    write_dance(folder / "videos" / "dance.mp4", [(dancer_boxes(40), (10, 30, 200))], folder / "keypoints")
    options = PreparationOptions(keypoints=str(folder / "keypoints"), rules=ClipRules(min_seconds=0.5))
    prepare_dataset(str(folder / "videos"), str(folder / "data" / "dance"), options)


def write_predictions(folder: Path) -> None:
    scene = draw_scene(dancer_boxes(17))
    for name in ("generated", "truth"):
        (folder / name).mkdir()
        write_video(folder / name / "dance.mp4", scene, FPS)


def write_i3d(folder: Path) -> None:
    torch.manual_seed(0)
    torch.save(I3D().state_dict(), folder / "i3d_pretrained_400.pt")


def write_pose_file(folder: Path) -> None:
    """The dance as ComfyUI saves it."""
    canvas = {"canvas_height": HEIGHT, "canvas_width": WIDTH}
    bodies = [
        np.concatenate([body, score[:, None]], axis=1) for body, score in zip(*dance().openpose_body(), strict=True)
    ]
    poses = [{"people": [{"pose_keypoints_2d": body.ravel().tolist()}], **canvas} for body in bodies]
    (folder / "pose.json").write_text(json.dumps(poses))


def write_openpose(folder: Path) -> None:
    """Random networks in the files of OpenPose."""
    openpose = import_openpose()
    face, model = openpose.face, openpose.model
    annotators = folder / "lllyasviel" / "Annotators"
    annotators.mkdir(parents=True)
    for name, network in (("body_pose_model", model.bodypose_model()), ("hand_pose_model", model.handpose_model())):
        weights = {key.partition(".")[2]: value for key, value in network.state_dict().items()}
        torch.save(weights, annotators / f"{name}.pth")
    torch.save(face.FaceNet().state_dict(), annotators / "facenet.pth")


def write_base_models(hub: Path) -> None:
    """What Stable Diffusion 1.5 parts are on the Hub, `hub` being the folder of its namespaces."""
    (hub / "stable-diffusion-v1-5").mkdir()
    write_stable_diffusion(hub / "stable-diffusion-v1-5" / "stable-diffusion-v1-5")
    clip = hub / "openai" / "clip-vit-large-patch14"
    image_encoder().save_pretrained(clip)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(clip)
    ControlNetModel(**SMALL_SIZE).save_pretrained(hub / "lllyasviel" / "control_v11p_sd15_openpose")
    adapter = MotionAdapter(
        block_out_channels=SMALL_SIZE["block_out_channels"], motion_num_attention_heads=8, motion_norm_num_groups=32
    )
    adapter.save_pretrained(hub / "guoyww" / "animatediff-motion-adapter-v1-5-3")


def write_published_weights(folder: Path, hub: Path) -> None:
    """What docs/conversion.md downloads, and the files that it takes to be there."""
    write_base_models(hub)
    pipeline = stable_diffusion(folder / "vocabulary")
    pipeline.vae.save_pretrained(hub / "stabilityai" / "sd-vae-ft-mse")
    write_image_encoder(hub / "lambdalabs" / "sd-image-variations-diffusers")
    for name, write in (("zcxu-eric/MagicAnimate", write_magic_animate), ("patrolli/AnimateAnyone", write_moore)):
        (folder / "published").mkdir()
        write(folder / "published")
        (hub / name).parent.mkdir(parents=True)
        (folder / "published" / "weights").rename(hub / name)
        shutil.rmtree(folder / "published")
    for name in ("MusePose", "DynamicPose", "champ", "AniPortrait"):  # of the same files
        shutil.copytree(hub / "patrolli" / "AnimateAnyone", folder / name)
    torch.save(draw_weights(motion_shapes(SMALL_SIZE, 32, True), "unet"), folder / "mm_sd_v15_v2.ckpt")
    weights = {key: tensor.contiguous() for key, tensor in single_file_weights(pipeline).items()}
    safetensors.torch.save_file(weights, folder / "v1-5-pruned-emaonly.safetensors")
    weights = draw_weights(shapes_of(ControlNetModel, **SMALL_SIZE), "controlnet")
    weights = {f"control_model.{original_unet_key(key)}": tensor for key, tensor in weights.items()}
    torch.save(weights, folder / "control_v11p_sd15_openpose.pth")
