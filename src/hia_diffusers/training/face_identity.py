# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The identity loss of HIA (Eq. 2 of https://arxiv.org/abs/2409.19580).

The face of a generated frame should have the embedding of the face in the reference image.

Axes: N images, H, W. Pixels: the centre of the pixel `(i, j)` is `(i + 0.5, j + 0.5)`.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ..conditioning.whole_body import SCORE_THRESHOLD
from ..metrics.identity import FACE_POINTS, FACE_SIDE, FACE_TEMPLATE
from .iresnet import IResNet


# A face counts as turned away when the root mean square distance of its points from the template exceeds this, in
# pixels of the aligned face. For a face with average proportions, the distance is 2 to 3.5 from the front and about 4,
# 5.5, 7 and 9 when turned by 30, 40, 50 and 60 degrees, with or without nodding by 20 degrees. (The position of the
# nose between the eyes is less informative: nodding moves it as much as 20 degrees of turning.)
MAX_MISFIT = 7.0

# Samples along each side of a pixel of the aligned face. With 4, each pixel of the frame counts for faces up to six
# times as large as the aligned one; with 2, up to three times; with 1, three of four pixels are ignored for faces four
# times as large.
SUBPIXELS = 4


def align_faces(frames: Tensor, landmarks: Tensor) -> Tensor:
    """Rotate, scale and shift each face so that its eyes, nose and mouth come closest to ArcFace's template.

    Gradients flow to the frames. A face that is larger than the result is averaged, so that all of its pixels count;
    other faces are sampled as in [`~hia_diffusers.metrics.identity.ArcFace`].

    Args:
        frames (`torch.Tensor` of shape `(N, 3, H, W)`):
            Floating point RGB in [-1, 1].
        landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            x, y in pixels and score of the face points; missing points have score 0.

    Returns:
        `torch.Tensor`: `(N, 3, 112, 112)` in [-1, 1], float32 or, if the frames are, float64. Pixels outside the frame
        are black. If a required point is missing, the result shows the top left of the frame.

    Raises:
        ValueError: If a shape is wrong.
    """
    if frames.ndim != 4 or frames.shape[1] != 3:
        raise ValueError(f"`frames` must be of shape (N, 3, H, W), got {tuple(frames.shape)}.")
    _check_landmarks("landmarks", landmarks, len(frames))
    # Half precision cannot distinguish neighbouring pixels.
    frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
    height, width = frames.shape[-2:]
    fit = _fit_template(landmarks.to(frames.dtype))
    # Linear interpolation averages over about one pixel of the frame; the samples cover the rest.
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
    """Return the boxes that [`align_faces`] reads: pixels outside have no effect and get no gradient.

    Args:
        landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            x, y in pixels and score of the face points.

    Returns:
        `torch.Tensor`: float32 `(N, 4)` on the device of the landmarks: x0, y0, x1, y1 in pixels, the box around the
        square that becomes the aligned face, including the neighbouring pixels for linear interpolation. A pixel
        belongs to the box if its centre lies in it; the box may extend beyond the frame. It is 0, 0, 0, 0 if the face
        is missing or turned away, so that [`face_weights`] is 0 for any size.

    Raises:
        ValueError: If the shape is wrong.
    """
    _check_landmarks("landmarks", landmarks, len(landmarks))
    fit = _fit_template(landmarks.float())
    sides = FACE_SIDE * torch.arange(2, device=landmarks.device)
    x, y = fit.in_frame(sides[None, None, :], sides[None, :, None])
    corners = torch.stack([x.flatten(1), y.flatten(1)], dim=-1)
    boxes = torch.cat([corners.amin(dim=1) - 1, corners.amax(dim=1) + 1], dim=1)
    return torch.where(_looks_at_camera(fit)[:, None], boxes, 0)


def face_weights(landmarks: Tensor, min_side: float = 32.0) -> Tensor:
    """Return the weights of faces in the identity loss.

    Args:
        landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            x, y in pixels and score of the face points.
        min_side (`float`, *optional*, defaults to `32.0`):
            Minimum side of the aligned face in pixels of the frame; the distance of the eyes is a third of it. The
            default is four latents of Stable Diffusion's VAE.

    Returns:
        `torch.Tensor`: float32 `(N,)`: 0 if an eye, the tip of the nose or a corner of the mouth is missing (a score
        of at most 0.3), the face is smaller than `min_side`, or the face is turned away (the points miss the template
        as for a turn of 45 to 50 degrees or more); otherwise 1.

    Raises:
        ValueError: If the shape is wrong.
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
    """Return one minus the cosine of the angle between the embeddings of the two faces: L_cos (Eq. 2).

    The loss is per image. Its mean over all images of a step, including those without a face, does not depend on their
    distribution over processes.

    Args:
        network ([`IResNet`]):
            Network that embeds the faces, in float32.
        predicted (`torch.Tensor` of shape `(N, 3, H, W)`):
            Generated frames in [-1, 1]; gradients flow to them.
        reference (`torch.Tensor` of shape `(N, 3, H, W)`):
            The reference image of each frame in [-1, 1], of any size; no gradient flows to it.
        predicted_landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            x, y in pixels and score of the face points in the ground-truth frames.
        reference_landmarks (`torch.Tensor` of shape `(N, 68, 3)`):
            The same in the reference images.
        min_side (`float`, *optional*, defaults to `32.0`):
            As in [`face_weights`].

    Returns:
        `torch.Tensor`: float32 `(N,)` in [0, 2]; 0 if [`face_weights`] of either face is 0.

    Raises:
        ValueError: If a shape is wrong.
    """
    if len(predicted) != len(reference):
        raise ValueError(
            f"`reference` must contain as many images as `predicted`, {len(predicted)}, got {len(reference)}."
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
    score: Tensor  # (N,) minimum score of the points; 0 with the identity as transform if they form no face

    def in_frame(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Map points of the aligned faces to the frames; x and y broadcast to `(N, rows, columns)`."""
        u, v = x - self.template_center[0], y - self.template_center[1]
        a, b, scale, x, y = (
            value[:, None, None] for value in (*self.turn.unbind(1), self.scale, *self.center.unbind(1))
        )
        return x + (a * u + b * v) / scale**2, y + (a * v - b * u) / scale**2


def _fit_template(landmarks: Tensor) -> _TemplateFit:
    """Compute the transform that brings the five points of each face closest to the template."""
    template = torch.from_numpy(FACE_TEMPLATE).to(landmarks, non_blocking=True)
    # Slices, because an index tensor would be copied to the device at each call.
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
