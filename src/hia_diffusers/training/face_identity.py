# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The identity loss of HIA (Eq. 2 of https://arxiv.org/abs/2409.19580): the face of a generated frame shall embed as
that of the reference picture.

Axes: N pictures, H, W. Pixels: the centre of the pixel `(i, j)` is `(i + 0.5, j + 0.5)`.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..conditioning.keypoints import SCORE_THRESHOLD
from ..metrics.identity import FACE_POINTS, FACE_SIDE, FACE_TEMPLATE
from .iresnet import IResNet


# A face has turned away when its points miss the template by more than this: root mean square, in pixels of the
# aligned face. A face with average proportions misses it by 2 to 3.5 from the front and by about 4, 5.5, 7 and 9 when
# turned by 30, 40, 50 and 60 degrees, nodding by 20 or not. (Where the nose is between the eyes tells less: nodding
# moves it as much as 20 degrees of turning.)
MAX_MISFIT = 7.0

# Samples along each side of a pixel of the aligned face. With 4, each pixel of the frame counts up to faces six times
# as large as the aligned one; with 2, up to three times; with 1, three of four are left out where it is four times.
SUBPIXELS = 4


def align_faces(frames: Tensor, landmarks: Tensor) -> Tensor:
    """
    Rotate, scale and shift each face so that its eyes, nose and mouth come closest to ArcFace's template.

    Gradients reach the frames. A face that is larger than the result is averaged over its pixels, so that all of them
    count; any other is sampled as [`~hia_diffusers.metrics.identity.ArcFace`] does.

    Args:
        frames (`torch.Tensor` of shape `(N, 3, H, W)`):
            Floating point RGB in [-1, 1].
        landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            x, y in pixels and score of the points of the face; 0 is the score of a missing point.

    Returns:
        `torch.Tensor`: `(N, 3, 112, 112)` in [-1, 1], float32 or, if the frames are, float64. Black surrounds the
        frame. Where a point that is needed is missing, the top left of the frame is shown.

    Raises:
        `ValueError`: the shapes are not as above.
    """
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"`frames` must be of shape (N, 3, H, W), got {tuple(frames.shape)}.")
    _check_landmarks("landmarks", landmarks, len(frames))
    # Half precision does not tell neighbouring pixels apart.
    frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
    height, width = frames.shape[-2:]
    fit = _fit_template(landmarks.to(frames.dtype))
    # Linear interpolation averages over about one pixel of the frame; the samples are spread over the rest.
    spread = (1 - fit.scale**2).clamp(min=0).sqrt()
    subpixels = (torch.arange(SUBPIXELS, device=frames.device) + 0.5) / SUBPIXELS - 0.5
    pixels = torch.arange(FACE_SIDE, device=frames.device) + 0.5
    positions = (pixels[:, None] + spread[:, None, None] * subpixels).flatten(1)  # (N, 112 * SUBPIXELS)
    x, y = fit.in_frame(positions[:, None, :], positions[:, :, None])
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1)
    with torch.autocast(frames.device.type, enabled=False):
        samples = functional.grid_sample(frames + 1, grid, align_corners=False)
        return functional.avg_pool2d(samples, SUBPIXELS) - 1


def aligned_boxes(landmarks: Tensor) -> Tensor:
    """
    Where [`align_faces`] reads: outside of this box, pixels have no effect and get no gradient.

    Args:
        landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            x, y in pixels and score of the points of the face.

    Returns:
        `torch.Tensor`: float32 `(N, 4)` on the device of the landmarks: x0, y0, x1, y1 in pixels, the box around the
        square that becomes the aligned face, and around the next pixels, with which linear interpolation takes place.
        Pixels lie in it with their centres; it may reach beyond the frame. 0, 0, 0, 0 where the face is missing or
        looks away, so that [`face_weights`] gives it no weight whatever its size.

    Raises:
        `ValueError`: the shape is not as above.
    """
    _check_landmarks("landmarks", landmarks, len(landmarks))
    fit = _fit_template(landmarks.float())
    sides = FACE_SIDE * torch.arange(2, device=landmarks.device)
    x, y = fit.in_frame(sides[None, None, :], sides[None, :, None])
    corners = torch.stack([x.flatten(1), y.flatten(1)], dim=-1)
    boxes = torch.cat([corners.amin(dim=1) - 1, corners.amax(dim=1) + 1], dim=1)
    return torch.where(_looks_at_camera(fit)[:, None], boxes, 0)


def face_weights(landmarks: Tensor, min_side: float = 32.0) -> Tensor:
    """
    Which faces the identity loss can judge.

    Args:
        landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            x, y in pixels and score of the points of the face.
        min_side (`float`, *optional*, defaults to `32.0`):
            How many pixels of the frame the side of the aligned face must span; the eyes are a third of it apart. The
            default is four latents of Stable Diffusion's VAE.

    Returns:
        `torch.Tensor`: float32 `(N,)`: 1, but 0 where an eye, the tip of the nose or a corner of the mouth is missing
        (a score of at most 0.3), where the face is smaller than `min_side`, and where the points are not those of a
        face that looks at the camera (they miss the template as by a turn of 45 to 50 degrees or more).

    Raises:
        `ValueError`: the shape is not as above.
    """
    _check_landmarks("landmarks", landmarks, len(landmarks))
    fit = _fit_template(landmarks.float())
    is_large = FACE_SIDE >= min_side * fit.scale
    return (_looks_at_camera(fit) & is_large).float()


def identity_loss(
    network: IResNet,
    predicted: Tensor,
    reference: Tensor,
    predicted_landmarks: Tensor,
    reference_landmarks: Tensor,
    min_side: float = 32.0,
) -> Tensor:
    """
    One minus the cosine of the angle between the embeddings of the two faces: L_cos (Eq. 2).

    It is given for each picture. Its mean over all pictures of a step, those without a face included, does not depend
    on how they are spread over processes.

    Args:
        network ([`IResNet`]):
            Embeds the faces, in float32.
        predicted (`torch.Tensor` of shape `(N, 3, H, W)`):
            Generated frames in [-1, 1]; gradients flow to them.
        reference (`torch.Tensor` of shape `(N, 3, H, W)`):
            The reference picture of each in [-1, 1], of any size; no gradient flows to it.
        predicted_landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            x, y in pixels and score of the points of the face in the frames that are to be generated.
        reference_landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            The same in the reference pictures.
        min_side (`float`, *optional*, defaults to `32.0`):
            As in [`face_weights`].

    Returns:
        `torch.Tensor`: float32 `(N,)` in [0, 2]; 0 where [`face_weights`] gives either face no weight.

    Raises:
        `ValueError`: the shapes are not as above.
    """
    if len(predicted) != len(reference):
        raise ValueError(
            f"`reference` must hold as many pictures as `predicted`, {len(predicted)}, got {len(reference)}."
        )
    _check_landmarks("predicted_landmarks", predicted_landmarks, len(predicted))
    _check_landmarks("reference_landmarks", reference_landmarks, len(reference))
    weights = face_weights(predicted_landmarks, min_side) * face_weights(reference_landmarks, min_side)
    with torch.no_grad():
        wanted = network(align_faces(reference, reference_landmarks))
    embeddings = network(align_faces(predicted, predicted_landmarks))
    return weights * (1 - functional.cosine_similarity(embeddings, wanted))


class _TemplateFit(NamedTuple):
    """A similarity transform `turn * (point - center) + template_center`, in complex numbers."""

    center: Tensor  # (N, 2) in pixels of the frame
    template_center: Tensor  # (2,) in pixels of the aligned face
    turn: Tensor  # (N, 2) real and imaginary part
    scale: Tensor  # (N,) absolute value of `turn`, positive
    misfit: Tensor  # (N,) root mean square distance of the points from the template, in pixels of the aligned face
    score: Tensor  # (N,) least score of the points; 0 where they form no face, the transform is the identity there

    def in_frame(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where points of the aligned faces are in the frames; x and y broadcast to `(N, rows, columns)`."""
        u, v = x - self.template_center[0], y - self.template_center[1]
        a, b, scale, x, y = (
            value[:, None, None] for value in (*self.turn.unbind(1), self.scale, *self.center.unbind(1))
        )
        return x + (a * u + b * v) / scale**2, y + (a * v - b * u) / scale**2


def _fit_template(landmarks: Tensor) -> _TemplateFit:
    """What brings the five points of each face closest to the template."""
    template = torch.from_numpy(FACE_TEMPLATE).to(landmarks, non_blocking=True)
    # Slices: an index of numbers would be copied to the device at each call.
    groups = [landmarks[:, points[0] : points[-1] + 1] for points in FACE_POINTS]
    xy = torch.stack([group[..., :2].mean(dim=1) for group in groups], dim=1)
    score = torch.cat([group[..., 2] for group in groups], dim=1).amin(dim=1)
    size = (xy - xy.mean(dim=1, keepdim=True)).square().sum(dim=(1, 2))
    is_face = (score > 0) & (size > 1e-3)
    xy = torch.where(is_face[:, None, None], xy, template)

    center, template_center = xy.mean(dim=1), template.mean(dim=0)
    x, y = (xy - center[:, None]).unbind(-1)
    u, v = (template - template_center).unbind(-1)
    size = (x**2 + y**2).sum(dim=1)
    a, b = (x * u + y * v).sum(dim=1) / size, (x * v - y * u).sum(dim=1) / size
    real, imaginary = a[:, None], b[:, None]
    misfit = ((real * x - imaginary * y - u) ** 2 + (imaginary * x + real * y - v) ** 2).mean(dim=1).sqrt()
    scale = torch.hypot(a, b).clamp(min=1e-4)
    return _TemplateFit(center, template_center, torch.stack([a, b], dim=1), scale, misfit, score * is_face)


def _looks_at_camera(fit: _TemplateFit) -> Tensor:
    return (fit.score > SCORE_THRESHOLD) & (fit.misfit <= MAX_MISFIT)


def _check_landmarks(name: str, landmarks: Tensor, count: int) -> None:
    if landmarks.shape != (count, 68, 3):
        raise ValueError(f"`{name}` must be of shape ({count}, 68, 3), got {tuple(landmarks.shape)}.")
