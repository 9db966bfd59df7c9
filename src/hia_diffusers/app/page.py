# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The page: its elements, and what happens when it is used."""

import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..conditioning.pose_maps import DENSEPOSE
from ..pipelines.call_defaults import POSE_MAP
from .animating import MAX_GUIDANCE, MAX_SEED, MAX_STEPS, AnimationRequest, Animations, Result
from .example_motions import MOTIONS
from .guard import is_inside
from .jobs import Cancelled, Jobs


OWN_MOTION = "My own file"

# What a file can be, for pipelines that read skeletons.
KINDS = {"Recognise it": "auto", "A video of a person": "video", "An OpenPose-style pose video": "pose"}

# The inputs of the function that animates, and which of them are files.
NUM_INPUTS, FILE_INPUTS = 11, (0, 2)

NOTICE = (
    "**Animate only people who have agreed to it, and say that the result is generated.** "
    "Videos that put words, acts or places on people who did not consent harm them."
)

# Names of the animator's arguments in messages, and the labels of the page.
WORDS = {
    "`image`": "Image",
    "`driving`": "Motion",
    "`driving_type`": "What the file is",
    "`sharpness`": "Sharpness of the hands",
    "`retarget`": "Fitting the motion",
    "; give `image_keypoints` or `retarget=False`": "",
    "; give keypoints or leave it out": "; let the model choose it",
}

CSS = """
.gradio-container { max-width: 1080px !important; margin: auto !important; }
#notice { border-left: 4px solid #d97706; padding: 6px 12px; background: #d9770618; border-radius: 4px; }
#image img { object-fit: contain; }
#people button div { width: 56px !important; height: 92px !important; }
#people img { width: 100% !important; height: 100% !important; object-fit: cover; }
"""

logger = logging.getLogger(__name__)


def build_page(animations: Animations, jobs: Jobs, model: str) -> tuple[Any, int]:
    """Build the page. Except for animating, everything on it happens in the browser.

    Args:
        animations ([`~app.animating.Animations`]):
            Makes what users request.
        jobs ([`~app.jobs.Jobs`]):
            The jobs of the sessions.
        model (`str`):
            A sentence on the model.

    Returns:
        `tuple[gradio.Blocks, int]`: The page, and Gradio's number of the function that animates.
    """
    import gradio as gr

    pipe = animations.animator.pipe
    assert pipe is not None  # the server is given an animator that generates
    steps, guidance = (pipe.call_default(name) for name in ("num_inference_steps", "guidance_scale"))
    reads_densepose = pipe.config.call_defaults.get(POSE_MAP) == DENSEPOSE
    examples = _write_examples(animations)
    max_frames = animations.limits.max_frames

    with gr.Blocks(title="Human image animation", delete_cache=(60, animations.limits.keep_seconds)) as page:
        gr.Markdown(f"# Human image animation\nAnimates an image of a person with a motion. {model}")
        gr.Markdown(NOTICE, elem_id="notice")
        with gr.Row():
            with gr.Column(min_width=300):
                image = gr.Image(
                    examples[0], label="Image", sources=["upload"], height=260, buttons=[], elem_id="image"
                )
                people = gr.Dataset(
                    components=[image],
                    samples=[[path] for path in examples],
                    type="index",
                    label="Drawn people to try",
                    elem_id="people",
                )
                names = [OWN_MOTION] if reads_densepose else [*MOTIONS, OWN_MOTION]
                motion = gr.Radio(names, value=names[0], label="Motion", elem_id="motion")
                own_motion = gr.File(
                    label="DensePose video"
                    if reads_densepose
                    else "Video of a person, OpenPose-style pose video, or keypoint file",
                    height=170,
                    visible=reads_densepose,
                    elem_id="own-motion",
                )
                kinds = {"A DensePose video": "densepose"} if reads_densepose else KINDS
                kind = gr.Dropdown(
                    list(kinds.items()),
                    value=next(iter(kinds.values())),
                    label="What the file is",
                    visible=reads_densepose,
                    elem_id="kind",
                )
                with gr.Group():
                    automatic = gr.Checkbox(True, label="Hands as sharp as a camera would show them", elem_id="auto")
                    sharpness = gr.Slider(
                        *(0, 1, 0.5),
                        step=0.05,
                        label="Sharpness of the hands",
                        info="0: all motion blur, 1: none",
                        interactive=False,
                        buttons=[],
                        elem_id="sharpness",
                    )
                num_frames = gr.Slider(
                    *(1, max_frames, min(16, max_frames)), step=1, label="Frames", buttons=[], elem_id="frames"
                )
                with gr.Accordion("More settings", open=False, elem_id="more"):
                    num_steps = gr.Slider(
                        *(1, MAX_STEPS, steps), step=1, label="Denoising steps", buttons=[], elem_id="steps"
                    )
                    scale = gr.Slider(
                        *(1, MAX_GUIDANCE, guidance), step=0.25, label="Guidance", buttons=[], elem_id="guidance"
                    )
                    seed = gr.Number(
                        0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, buttons=[], elem_id="seed"
                    )
                    fit = gr.Checkbox(
                        False,
                        label="Fit the motion to the person in my image",
                        info="Finds the person, where the server has the models for it. Videos of a person, and "
                        "motions of the drawn people above, always fit.",
                        elem_id="fit",
                    )
            with gr.Column(min_width=300):
                with gr.Row():
                    run = gr.Button("Animate", variant="primary", elem_id="run")
                    cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="cancel")
                result = gr.Video(
                    label="Image, conditioning frames, result",
                    autoplay=True,
                    loop=True,
                    interactive=False,
                    height=380,
                    buttons=[],
                    elem_id="result",
                )
                live = gr.Image(
                    label="How some frames will look", interactive=False, visible=False, buttons=[], elem_id="live"
                )
                status = gr.Markdown("", elem_id="status")
                download = gr.DownloadButton("Download the result (MP4)", interactive=False, elem_id="download")

        def animate(
            image: Any,
            motion: Any,
            own_motion: Any,
            automatic: Any,
            sharpness: Any,
            num_frames: Any,
            num_steps: Any,
            scale: Any,
            seed: Any,
            fit: Any,
            kind: Any,
            request: gr.Request,
            progress: Any = gr.Progress(),  # noqa: B008  how Gradio finds it
        ) -> Iterator[list[Any]]:
            def report(stage: str, done: int, total: int) -> None:
                progress((done, total), desc=stage)

            previews: SimpleQueue[Path | None] = SimpleQueue()
            no_preview = gr.Image(value=None, visible=False)

            def make() -> Result:
                asked = AnimationRequest(
                    image=_uploaded(image, "an image"),
                    motion=_uploaded(own_motion, "a motion") if motion == OWN_MOTION else str(motion),
                    num_frames=num_frames,
                    sharpness=None if automatic else sharpness,
                    steps=num_steps,
                    guidance=scale,
                    seed=seed,
                    fit=bool(fit),
                    kind=str(kind),
                )
                with jobs.running(str(request.session_hash), report) as job:
                    return animations.make(asked, job, previews.put)

            thread = ThreadPoolExecutor(1)
            made = thread.submit(copy_context().run, make)  # Gradio finds a progress by its context
            made.add_done_callback(lambda _: previews.put(None))
            thread.shutdown(wait=False)  # it ends with its work, also if this is left at a preview
            for preview in iter(previews.get, None):
                yield [gr.skip(), gr.skip(), gr.skip(), gr.Image(value=str(preview), visible=True)]
            try:
                result = made.result()
            except Cancelled as reached:
                logger.info("Cancelled at: %s", reached)
                yield [gr.skip(), gr.skip(), gr.skip(), no_preview]
                return
            except (ImportError, ValueError) as error:
                raise gr.Error(_as_sentence(str(error)), duration=30, print_exception=False) from error
            except Exception as error:
                logger.exception("An animation failed.")
                message = "This could not be animated; the log of the server says why."
                raise gr.Error(message, duration=30, print_exception=False) from error
            logger.info("Made %s.", result.about)
            about = f"{result.about}. This video is generated: say so where you show it."
            yield [result.preview, about, gr.DownloadButton(value=result.video, interactive=True), no_preview]

        inputs = [image, motion, own_motion, automatic, sharpness, num_frames, num_steps, scale, seed, fit, kind]
        outputs = [result, status, download, live]
        off, on = gr.update(interactive=False), gr.update(interactive=True)
        shown = [
            gr.FileData(path=path, url=f"./gradio_api/file={path}", orig_name=Path(path).name).model_dump()
            for path in examples
        ]
        people.click(None, people, image, js=f"number => {json.dumps(shown)}[number]")
        visible, hidden = gr.update(visible=True), gr.update(visible=False)
        for own in (own_motion, kind):
            motion.change(None, motion, own, js=_chosen(f"=== '{OWN_MOTION}'", visible, hidden))
        automatic.change(None, automatic, sharpness, js=_chosen("", off, on))

        no_live = gr.update(value=None, visible=False)

        # The progress of a run is shown over the video; until it ends, only Cancel can be pressed.
        begun = run.click(
            None, None, [run, cancel, *outputs], js=_always(off, on, None, "", {**off, "value": None}, no_live)
        )
        animated = begun.then(animate, inputs, outputs, show_progress_on=result, preprocess=False)
        animated.success(None, None, [run, cancel], js=_always(on, off))
        animated.failure(None, None, [run, cancel, live], js=_always(on, off, no_live))
        cancel.click(
            None, None, [run, cancel, status, live], js=_always(on, off, "Cancelled.", no_live), cancels=[animated]
        )
    return page, animated["id"]


def read_inputs(sent: Any, folder: Path) -> tuple[list[Any], frozenset[Path]]:
    """Check the inputs of the page's function.

    Args:
        sent (`Any`):
            What a browser sent as inputs.
        folder (`Path`):
            The folder that files must be in.

    Returns:
        `tuple[list[Any], frozenset[Path]]`: The inputs, of which files have nothing but a path, and their files.

    Raises:
        ValueError: If the page would not send them.
    """
    import gradio as gr

    if not isinstance(sent, list) or len(sent) != NUM_INPUTS:
        raise ValueError(f"There are {NUM_INPUTS} inputs.")
    inputs, files = list(sent), set()
    for number, value in enumerate(sent):
        if number in FILE_INPUTS and isinstance(value, dict):
            path = str(value.get("path"))
            if not is_inside(path, folder):
                raise ValueError("Only files that were uploaded are read.")
            if not os.path.isfile(path):
                raise ValueError("An uploaded file is no longer there; upload it again.")
            inputs[number] = gr.FileData(path=path).model_dump()
            files.add(Path(path))
        elif not (value is None or number not in FILE_INPUTS and isinstance(value, (str, int, float))):
            raise ValueError(f"Input {number} cannot be used.")
    return inputs, frozenset(files)


def _always(*values: Any) -> str:
    """A function in JavaScript that returns the values."""
    return f"() => {json.dumps(values)}"


def _chosen(condition: str, value: Any, other: Any) -> str:
    """A function in JavaScript that returns one of two values."""
    return f"input => input {condition} ? {json.dumps(value)} : {json.dumps(other)}"


def _write_examples(animations: Animations) -> list[str]:
    """Writes the example images losslessly, and returns their paths."""
    folder = animations.folder / "examples"
    folder.mkdir()
    paths = [str(folder / f"person-{number}.png") for number in range(1, len(animations.examples.images) + 1)]
    for path, image in zip(paths, animations.examples.images, strict=True):
        image.save(path)
    return paths


def _uploaded(file: Any, name: str) -> Path:
    if not file:
        raise ValueError(f"Upload {name} first.")
    return Path(file["path"])


def _as_sentence(message: str) -> str:
    for word, ours in WORDS.items():
        message = message.replace(word, ours)
    return " ".join(message.split()).rstrip(".") + "."
