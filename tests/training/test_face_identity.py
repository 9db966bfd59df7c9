# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from random_tiny import random_tiny_pipeline
from rounding import assert_equal_up_to_rounding
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from hia_diffusers.conditioning.whole_body import FACE
from hia_diffusers.metrics.identity import FACE_POINTS, FACE_TEMPLATE, ArcFace
from hia_diffusers.procedural.scene import ProceduralScene
from hia_diffusers.training.face_identity import align_faces, aligned_boxes, face_weights, identity_loss
from hia_diffusers.training.iresnet import IResNet


SIDE = 112
NEEDED = [index for points in FACE_POINTS for index in points]

# Eyes, tip of the nose and corners of the mouth of a head that faces the viewer: to the right, down, away from him.
# The proportions are those of common head pose estimation; the eyes are 320 apart.
HEAD = np.array([[-160, -170, 135], [160, -170, 135], [0, 0, 0], [-130, 150, 125], [130, 150, 125]]) / 320


def landmarks_of(points, score=0.9):
    """`(68, 3)` with the five points at the places that are looked at, and zeros elsewhere."""
    landmarks = torch.zeros(68, 3)
    for indices, point in zip(FACE_POINTS, points, strict=True):
        landmarks[list(indices)] = torch.tensor([*point, score], dtype=torch.float32)
    return landmarks


def placed_face(angle=0.0, scale=1.0, center=(100.0, 100.0)):
    """Landmarks of the template, turned by degrees, `scale` times as large, its middle at `center`."""
    radians = np.deg2rad(angle)
    turn = scale * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    return landmarks_of((FACE_TEMPLATE - SIDE / 2) @ turn.T + center)


def turned_head(yaw, pitch=0.0, eye_distance=60.0):
    (sin_y, cos_y), (sin_p, cos_p) = ((np.sin(angle), np.cos(angle)) for angle in np.deg2rad([yaw, pitch]))
    nod = np.array([[1, 0, 0], [0, cos_p, -sin_p], [0, sin_p, cos_p]])
    turn = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
    return landmarks_of(eye_distance * (HEAD @ (turn @ nod).T)[:, :2] + 200)


def smooth_images(count=1, height=200, width=200, seed=0, cell=8):
    """Random images in [-1, 1] without detail below `cell` pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, height // cell, width // cell, generator=generator)
    return 2 * functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1) - 1


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return IResNet((1, 1, 1, 1), widths=(8, 8, 16, 16, 32), num_features=64)


@pytest.fixture(scope="module")
def evaluated_face(tmp_path_factory):
    """ArcFace of the metrics with a network that gives the aligned face back."""
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["face"], ["embedding"])],
        "embed",
        [helper.make_tensor_value_info("face", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 3 * SIDE * SIDE])],
    )
    path = tmp_path_factory.mktemp("arcface") / "flatten.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    arcface = ArcFace(path)
    return lambda frames, landmarks: arcface((frames + 1) / 2, landmarks[..., :2].numpy()).reshape(-1, 3, SIDE, SIDE)


# Alignment


@pytest.mark.parametrize(
    "angle, scale, center",
    [(0, 1, (100, 100)), (0, 0.9, (93.3, 120.8)), (20, 0.7, (110, 90)), (-75, 0.5, (60, 140)), (160, 1, (20, 190))],
)
def test_faces_that_are_not_shrunk_are_aligned_as_for_evaluation(evaluated_face, angle, scale, center):
    frames, landmarks = smooth_images(), placed_face(angle, scale, center)[None]
    landmarks[:, NEEDED, :2] += torch.randn(len(NEEDED), 2, generator=torch.Generator().manual_seed(1)) * 2 * scale
    ours, theirs = align_faces(frames, landmarks), evaluated_face(frames, landmarks)
    assert ours.std() > 0.2
    # The border of the frame is as sharp as its blackness, so OpenCV's rounding of positions shows there.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.06)
    assert (ours - theirs).abs().mean() < 0.003


def test_each_face_of_a_batch_is_aligned_by_its_own_points():
    frames = smooth_images(3)
    landmarks = torch.stack([placed_face(10), placed_face(-20, 1.5), placed_face(90, 0.6)])
    alone = [align_faces(frames[i : i + 1], landmarks[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(align_faces(frames, landmarks), torch.cat(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4, 6])
def test_large_faces_are_averaged_over_their_pixels(scale):
    """White noise keeps `1 / scale` of its variation, and each pixel counts."""
    size = 140 * scale
    noise = (2 * torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) - 1).requires_grad_()
    faces = align_faces(noise, placed_face(13, scale, (size / 2, size / 2))[None])
    ideal = (1 / 3) ** 0.5 / scale
    assert 0.8 * ideal < faces.std() < 1.1 * ideal
    faces.sum().backward()
    middle = noise.grad[..., size // 4 : -size // 4, size // 4 : -size // 4]
    assert (middle > 0.1 / scale**2).all()


def test_frames_of_half_precision_are_aligned_in_float32():
    frames, landmarks = smooth_images(), placed_face(30, 0.8)[None]
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            faces = align_faces(frames.to(dtype), landmarks)
        assert faces.dtype == torch.float32
        # Equal bits: the same kernels on the same float32 values.
        torch.testing.assert_close(faces, align_faces(frames.to(dtype).float(), landmarks), rtol=0, atol=0)


def test_gradient_of_the_alignment_is_exact():
    frames = smooth_images(2, 24, 20, cell=2).double().requires_grad_()
    landmarks = torch.stack([placed_face(30, 0.1, (9, 12)), placed_face(-10, 1.7, (10, 10))])
    assert torch.autograd.gradcheck(align_faces, (frames, landmarks), fast_mode=True)


def without_points():
    missing = placed_face()
    missing[30] = 0
    nan = placed_face()
    nan[48] = torch.tensor([torch.nan, torch.nan, 0])
    one_place = placed_face()
    one_place[:, :2] = 50
    mirrored = placed_face()
    mirrored[:, 0] = 200 - mirrored[:, 0]
    return {"none": torch.zeros(68, 3), "no nose": missing, "NaN": nan, "one place": one_place, "mirrored": mirrored}


@pytest.mark.parametrize("case", without_points())
def test_what_is_no_face_gives_finite_values_and_counts_nothing(network, case):
    landmarks = torch.stack([without_points()[case], placed_face()])
    frames = smooth_images(2).requires_grad_()
    assert align_faces(frames, landmarks).isfinite().all()
    assert face_weights(landmarks).tolist() == [0, 1]
    reference, reference_landmarks = smooth_images(2, seed=1), torch.stack([placed_face()] * 2)
    for losses in (
        identity_loss(network, frames, reference, landmarks, reference_landmarks),
        identity_loss(network, frames, reference, reference_landmarks, landmarks),
    ):
        assert losses[0] == 0 < losses[1]
        (gradient,) = torch.autograd.grad(losses.mean(), frames)
        assert gradient.isfinite().all()
        assert not gradient[0].any()
        assert gradient[1].any()


# Boxes


@pytest.mark.parametrize(
    "angle, scale, center",
    [
        (0, 1, (100, 100)),
        (0, 0.4, (93.3, 120.8)),
        (30, 0.7, (110, 90)),
        (-75, 2.5, (230, 240)),
        (135, 1.5, (210, 190)),
    ],
)
def test_box_holds_all_that_is_read_and_little_more(angle, scale, center):
    landmarks = placed_face(angle, scale, center)[None]
    frames = smooth_images(1, 480, 480).requires_grad_()
    align_faces(frames, landmarks).sum().backward()
    y, x = frames.grad[0].abs().sum(0).nonzero().T + 0.5
    read = torch.stack([x.min(), y.min(), x.max(), y.max()])
    (box,) = aligned_boxes(landmarks)
    outside = torch.tensor([1, 1, -1, -1]) * (read - box)
    assert (outside >= 0).all()
    assert (outside < 2).all()
    half = SIDE / 2 * scale * (abs(np.cos(np.deg2rad(angle))) + abs(np.sin(np.deg2rad(angle)))) + 1
    expected = [center[0] - half, center[1] - half, center[0] + half, center[1] + half]
    torch.testing.assert_close(box, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=1e-2)


def test_what_is_outside_of_the_box_may_be_black():
    frames, landmarks = smooth_images(1, 240, 240), placed_face(20, 1.2, (117.3, 125.1))[None]
    x0, y0, x1, y1 = aligned_boxes(landmarks)[0].tolist()
    black = torch.full_like(frames, -1)
    black[..., int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = frames[
        ..., int(y0) : int(y1) + 1, int(x0) : int(x1) + 1
    ]
    assert (black != frames).any()
    # Equal bits: the same kernels on the same shapes; what differs has no weight.
    torch.testing.assert_close(align_faces(black, landmarks), align_faces(frames, landmarks), rtol=0, atol=0)


def test_box_reaches_beyond_the_frame():
    (box,) = aligned_boxes(placed_face(center=(10.0, 20.0))[None])
    torch.testing.assert_close(box, torch.tensor([-47.0, -37.0, 67.0, 77.0]), rtol=0, atol=1e-3)


def test_each_face_has_its_own_box_and_those_that_are_missing_or_turned_have_an_empty_one():
    unseen = placed_face()
    unseen[30, 2] = 0.3
    none = [*without_points().values(), unseen, turned_head(60)]
    landmarks = torch.stack([placed_face(10), placed_face(90, 0.6), turned_head(30), *none])
    boxes = aligned_boxes(landmarks)
    assert boxes.shape == (len(landmarks), 4) and boxes.dtype == torch.float32
    for index in range(3):
        assert_equal_up_to_rounding(boxes[[index]], aligned_boxes(landmarks[[index]]))
        assert (boxes[index, 2:] - boxes[index, :2] > 60).all()
    assert torch.equal(boxes[3:], torch.zeros(len(none), 4))
    assert aligned_boxes(torch.zeros(0, 68, 3)).shape == (0, 4)


# Weights


@pytest.mark.parametrize("pitch", [-20, 0, 20])
def test_faces_that_turn_away_have_no_weight(pitch):
    turned = {yaw: face_weights(turned_head(yaw, pitch)[None]).item() for yaw in range(-90, 91, 5)}
    assert all(turned[yaw] == 1 for yaw in turned if abs(yaw) <= 45)
    assert all(turned[yaw] == 0 for yaw in turned if abs(yaw) >= 55)


def test_turned_procedural_people_have_no_weight():
    weights = {"front": [], "turned": []}
    for identity in (19, 22, 25, 27):
        scene = ProceduralScene("train", identity, identity, identity)
        numbers = np.arange(0, 400, 10)
        turn = scene.dance.skeleton(numbers / 30, scene.person.proportions).head_turn
        yaw = np.rad2deg(np.arctan2(turn[:, 0, 2], turn[:, 2, 2]))
        for name, chosen in (("front", np.abs(yaw) < 4), ("turned", np.abs(yaw) > 56)):
            keypoints = scene.keypoints(numbers[chosen][:3].tolist(), 896, 512)
            # Where hair or a hand is before the face, the score says so; that is not what this is about.
            face = np.concatenate([keypoints.xy[:, FACE], np.ones((len(keypoints), 68, 1))], axis=-1)
            weights[name] += face_weights(torch.from_numpy(face)).tolist()
    assert len(weights["turned"]) >= 4
    assert set(weights["turned"]) == {0}
    assert set(weights["front"]) == {1}


def test_faces_that_roll_keep_their_weight():
    assert all(face_weights(placed_face(angle)[None]) == 1 for angle in range(0, 360, 45))


def test_tiny_faces_have_no_weight():
    sides = torch.tensor([31.0, 33.0, 63.0, 65.0])
    landmarks = torch.stack([placed_face(20, side / SIDE) for side in sides.tolist()])
    assert face_weights(landmarks).tolist() == [0, 1, 1, 1]
    assert face_weights(landmarks, min_side=64).tolist() == [0, 0, 0, 1]
    assert face_weights(landmarks, min_side=1).tolist() == [1, 1, 1, 1]


def test_every_point_that_is_needed_must_be_seen_and_no_other():
    for index in range(68):
        landmarks = placed_face()
        landmarks[index, 2] = 0.3
        assert face_weights(landmarks[None]) == float(index not in NEEDED)
        landmarks[index, 2] = 0.31
        assert face_weights(landmarks[None]) == 1


# Loss


def test_loss_is_one_minus_the_cosine_of_the_embeddings(network):
    predicted, reference = smooth_images(2), smooth_images(2, 160, 240, seed=1)
    landmarks, reference_landmarks = (
        torch.stack([placed_face(10), placed_face(-30, 0.6)]),
        torch.stack([placed_face(-5, 0.9, (120, 80)), placed_face(40, 1.5, (110, 90))]),
    )
    ours = network(align_faces(predicted, landmarks)).double().numpy()
    wanted = network(align_faces(reference, reference_landmarks)).double().numpy()
    cosine = (ours * wanted).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(wanted, axis=1)
    losses = identity_loss(network, predicted, reference, landmarks, reference_landmarks)
    assert losses.shape == (2,)
    assert losses.dtype == torch.float32
    np.testing.assert_allclose(losses.numpy(), 1 - cosine, atol=1e-5)


def test_same_face_elsewhere_in_the_image_has_no_loss(network):
    frames = smooth_images(1, 200, 300)
    moved = frames.roll((17, 60), dims=(2, 3))
    landmarks = placed_face(15, 0.8)[None]
    shifted = landmarks + torch.tensor([60, 17, 0])
    other = smooth_images(1, 200, 300, seed=1)
    assert identity_loss(network, moved, frames, shifted, landmarks).abs() < 1e-5
    assert identity_loss(network, moved, frames, landmarks, landmarks) > 1e-3
    assert identity_loss(network, other, frames, landmarks, landmarks) > 1e-3


def test_gradient_of_the_loss_is_exact(network):
    double = IResNet((1, 1, 1, 1), widths=(8, 8, 16, 16, 32), num_features=64)
    double.load_state_dict(network.state_dict())
    double.double()
    landmarks, reference_landmarks = placed_face(25, 1.3)[None], placed_face()[None]
    frames, reference = smooth_images().double().requires_grad_(), smooth_images(seed=1).double()
    direction = torch.randn(frames.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(step):
        moved = frames + step * direction
        return identity_loss(double, moved, reference, landmarks, reference_landmarks).sum()

    (gradient,) = torch.autograd.grad(loss(0), frames)
    numeric = (loss(1e-6) - loss(-1e-6)) / 2e-6
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-3, atol=0)


def test_reference_gets_no_gradient(network):
    predicted, reference = smooth_images().requires_grad_(), smooth_images(seed=1).requires_grad_()
    landmarks = placed_face()[None]
    identity_loss(network, predicted, reference, landmarks, landmarks).sum().backward()
    assert predicted.grad.any()
    assert reference.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_loss(network, dtype):
    predicted, reference, landmarks = smooth_images(), smooth_images(seed=1), placed_face(10)[None]
    with torch.autocast("cpu", dtype=dtype):
        losses = identity_loss(network, predicted, reference, landmarks, landmarks)
    expected = identity_loss(network, predicted, reference, landmarks, landmarks)
    # Equal bits: autocast is off inside, so the kernels are the same.
    torch.testing.assert_close(losses, expected, rtol=0, atol=0)


def test_no_value_is_waited_for(network):
    """On an accelerator, whatever asks for a value or for the number of true ones makes the host wait."""

    class Operators(TorchDispatchMode):
        names: set[str] = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.add(function.overloadpacket._qualified_op_name.removeprefix("aten::"))
            return function(*args, **(kwargs or {}))

    frames, landmarks = smooth_images().requires_grad_(), placed_face()[None]
    with Operators() as operators:
        aligned_boxes(landmarks)
        identity_loss(network, frames, frames, landmarks, landmarks).mean().backward()
    assert {"grid_sampler_2d", "grid_sampler_2d_backward"} <= operators.names
    assert not operators.names & {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "unique"}
    with operators:
        bool(landmarks.any())
    assert "_local_scalar_dense" in operators.names or "is_nonzero" in operators.names


def test_steps_on_the_pixels_lower_the_loss(network):
    reference, landmarks = smooth_images(2, seed=1), torch.stack([placed_face(20), placed_face(-10, 1.4)])
    predicted = smooth_images(2).requires_grad_()
    optimizer = torch.optim.Adam([predicted], lr=0.02)
    history = []
    for _ in range(8):
        losses = identity_loss(network, predicted, reference, landmarks, landmarks)
        history.append(losses.detach())
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    assert (history[-1] < 0.3 * history[0]).all()


def test_loss_trains_the_appearance_encoder_through_the_pipeline(network):
    """Sec. 3.3: noise is predicted at a small timestep, `x0'` follows in one step, is decoded and embedded."""
    pipeline = random_tiny_pipeline()
    pipeline.unet.requires_grad_(False)
    pipeline.vae.requires_grad_(False)
    encoder = pipeline.appearance_encoder
    generator = torch.Generator().manual_seed(0)
    height, width, timestep = 96, 96, torch.tensor([120])
    reference, target = smooth_images(2, height, width, seed=3).split(1)
    landmarks, reference_landmarks = placed_face(10, 0.7, (50, 50))[None], placed_face(0, 0.6, (45, 50))[None]
    context = torch.randn(1, 1, 32, generator=generator)
    with torch.no_grad():
        latents, reference_latents = (
            pipeline.vae.encode(image).latent_dist.mean * pipeline.vae.config.scaling_factor
            for image in (target, reference)
        )
    noise = torch.randn(latents.shape, generator=generator)
    noisy = pipeline.scheduler.add_noise(latents, noise, timestep)
    alpha = pipeline.scheduler.alphas_cumprod[timestep]

    def loss():
        features = encoder(reference_latents, 0, context).reference_features
        output = pipeline.unet(noisy[:, :, None], timestep, context, reference_features=features)
        predicted_noise = output.sample[:, :, 0]
        clean = (noisy - (1 - alpha).sqrt() * predicted_noise) / alpha.sqrt()
        frames = pipeline.vae.decode(clean / pipeline.vae.config.scaling_factor).sample
        return identity_loss(network, frames, reference, landmarks, reference_landmarks).mean()

    frozen = [pipeline.unet, pipeline.vae, network]
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in frozen]
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    history = []
    for step in range(20):
        value = loss()
        history.append(value.item())
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())
        optimizer.step()
    assert history == sorted(history, reverse=True)
    assert history[-1] < 0.92 * history[0]
    for model, values in zip(frozen, before, strict=True):
        assert all(torch.equal(value, values[name]) for name, value in model.state_dict().items())


def test_bad_input_is_named(network):
    landmarks, frames = torch.zeros(1, 68, 3), torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"`frames` must be of shape \(N, 3, H, W\), got \(3, 64, 64\)"):
        align_faces(frames[0], landmarks)
    with pytest.raises(ValueError, match=r"`landmarks` must be of shape \(1, 68, 3\), got \(1, 68, 2\)"):
        align_faces(frames, landmarks[..., :2])
    with pytest.raises(ValueError, match=r"`landmarks` must be of shape \(1, 68, 3\), got \(1, 5, 3\)"):
        face_weights(landmarks[:, :5])
    with pytest.raises(ValueError, match=r"`landmarks` must be of shape \(1, 68, 3\), got \(1, 68, 2\)"):
        aligned_boxes(landmarks[..., :2])
    with pytest.raises(ValueError, match="`reference` must contain as many images as `predicted`, 1, got 2"):
        identity_loss(network, frames, frames.repeat(2, 1, 1, 1), landmarks, landmarks)
    with pytest.raises(ValueError, match=r"`reference_landmarks` must be of shape \(1, 68, 3\), got \(2, 68, 3\)"):
        identity_loss(network, frames, frames, landmarks, landmarks.repeat(2, 1, 1))
