# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""The page itself: what is on it, and what happens when it is used."""

import logging
from pathlib import Path
from typing import Any

from .animating import MAX_GUIDANCE, MAX_SEED, MAX_STEPS, Animations, Wish
from .jobs import Cancelled, Jobs
from .shipped import MOTIONS


OWN_MOTION = "My own file"

NOTICE = (
    "**Animate only people who have agreed to it, and say that the result is generated.** "
    "Videos that put words, acts or places on people who did not consent harm them."
)

# The animator's arguments in its messages, as the page calls them.
WORDS = {
    "`image`": "Picture",
    "`driving`": "Motion",
    "`sharpness`": "Sharpness of the hands",
    "`retarget`": "Fitting the motion",
    "; give `image_keypoints` or `retarget=False`": "",
    "; give keypoints or leave it out": "; let the model choose it",
}

CSS = """
.gradio-container { max-width: 1080px !important; margin: auto !important; }
#notice { border-left: 4px solid #d97706; padding: 6px 12px; background: #d9770618; border-radius: 4px; }
#picture img { object-fit: contain; }
.gallery-item .container { width: 56px !important; height: 92px !important; }
.gallery-item img { width: 100% !important; height: 100% !important; object-fit: cover; }
"""

logger = logging.getLogger(__name__)


def build_page(animations: Animations, jobs: Jobs, model: str, steps: int = 25, guidance: float = 3.5) -> Any:
    """
    The page as `gradio.Blocks`.

    Args:
        animations ([`~app.animating.Animations`]):
            Makes what users ask for.
        jobs ([`~app.jobs.Jobs`]):
            Runs it.
        model (`str`):
            A sentence on the model.
        steps (`int`, *optional*, defaults to 25):
            Denoising steps where the user does not choose.
        guidance (`float`, *optional*, defaults to 3.5):
            Guidance scale where the user does not choose.
    """
    import gradio as gr

    examples = _write_examples(animations)
    max_frames = animations.limits.max_frames

    # Gradio's own preprocessing opens files in this process, so values come as the browser sends them.
    raw: dict[str, Any] = {"preprocess": False, "api_visibility": "private"}

    with gr.Blocks(title="Human image animation", analytics_enabled=False) as page:
        gr.Markdown(f"# Human image animation\nA picture of a person and a motion in, a video out. {model}")
        gr.Markdown(NOTICE, elem_id="notice")
        with gr.Row():
            with gr.Column(min_width=300):
                picture = gr.Image(
                    examples[0], label="Picture", sources=["upload"], height=260, buttons=[], elem_id="picture"
                )
                gr.Examples(
                    [[path] for path in examples], picture, label="Drawn people to try", api_visibility="private"
                )
                names = [*MOTIONS, OWN_MOTION]
                motion = gr.Radio(names, value=names[0], label="Motion", elem_id="motion")
                own_motion = gr.File(
                    label="Video of a person, OpenPose-style pose video, or keypoint file",
                    height=170,
                    visible=False,
                    elem_id="own-motion",
                )
                with gr.Group():
                    automatic = gr.Checkbox(True, label="The model chooses how sharp the hands are", elem_id="auto")
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
                        *(1, MAX_GUIDANCE, guidance), step=0.5, label="Guidance", buttons=[], elem_id="guidance"
                    )
                    seed = gr.Number(
                        0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, buttons=[], elem_id="seed"
                    )
                    fit = gr.Checkbox(
                        False,
                        label="Fit the motion to the person in my picture",
                        info="Finds the person, where the server has the models for it. Videos of a person, and "
                        "motions of the drawn people above, always fit.",
                        elem_id="fit",
                    )
            with gr.Column(min_width=300):
                with gr.Row():
                    run = gr.Button("Animate", variant="primary", elem_id="run")
                    cancel = gr.Button("Cancel", variant="stop", interactive=False, elem_id="cancel")
                result = gr.Video(
                    label="Picture, condition, result",
                    autoplay=True,
                    loop=True,
                    interactive=False,
                    height=380,
                    buttons=[],
                    elem_id="result",
                )
                status = gr.Markdown("", elem_id="status")
                download = gr.DownloadButton("Download the result (MP4)", interactive=False, elem_id="download")

        # The progress of a run is shown over the video; until it ends, only Cancel can be pressed.
        def begin() -> list[Any]:
            off = gr.DownloadButton(value=None, interactive=False)
            return [gr.Button(interactive=False), gr.Button(interactive=True), None, "", off]

        def end() -> list[Any]:
            return [gr.Button(interactive=True), gr.Button(interactive=False)]

        def animate(
            picture: Any,
            motion: Any,
            own_motion: Any,
            automatic: Any,
            sharpness: Any,
            num_frames: Any,
            num_steps: Any,
            scale: Any,
            seed: Any,
            fit: Any,
            request: gr.Request,
            progress: Any = gr.Progress(),  # noqa: B008  how Gradio finds it
        ) -> list[Any]:
            def report(stage: str, done: int, total: int) -> None:
                progress((done, total), desc=stage)

            try:
                wish = Wish(
                    picture=_uploaded(picture, "picture", animations.folder),
                    motion=_uploaded(own_motion, "motion", animations.folder) if motion == OWN_MOTION else str(motion),
                    num_frames=num_frames,
                    sharpness=None if automatic else sharpness,
                    steps=num_steps,
                    guidance=scale,
                    seed=seed,
                    fit=bool(fit),
                )
                with jobs.running(str(request.session_hash), report) as job:
                    made = animations.make(wish, job)
            except Cancelled as reached:
                logger.info("Cancelled at: %s", reached)
                return [gr.skip()] * 3
            except (ImportError, ValueError) as error:
                raise gr.Error(_as_sentence(str(error)), duration=30, print_exception=False) from error
            except Exception as error:
                logger.exception("An animation failed.")
                message = "This could not be animated; the log of the server says why."
                raise gr.Error(message, duration=30, print_exception=False) from error
            logger.info("Made %s.", made.about)
            about = f"{made.about}. This video is generated: say so where you show it."
            return [made.preview, about, gr.DownloadButton(value=made.video, interactive=True)]

        def stop(request: gr.Request) -> list[Any]:
            jobs.cancel(str(request.session_hash))
            return [*end(), "Cancelled."]

        def leave(request: gr.Request) -> None:
            jobs.cancel(str(request.session_hash))

        inputs = [picture, motion, own_motion, automatic, sharpness, num_frames, num_steps, scale, seed, fit]
        outputs = [result, status, download]
        at_once: dict[str, Any] = {"queue": False, "show_progress": "hidden", **raw}
        motion.change(lambda name: gr.File(visible=name == OWN_MOTION), motion, own_motion, **at_once)
        automatic.change(lambda on: gr.Slider(interactive=not on), automatic, sharpness, **at_once)
        begun = run.click(begin, None, [run, cancel, *outputs], **at_once)
        animated = begun.then(animate, inputs, outputs, show_progress_on=result, **raw)
        animated.success(end, None, [run, cancel], **at_once)
        animated.failure(end, None, [run, cancel], **at_once)
        cancel.click(stop, None, [run, cancel, status], cancels=[animated], **at_once)
        page.unload(leave)
    return page


def _write_examples(animations: Animations) -> list[str]:
    """The example pictures as files, which keep every pixel."""
    folder = animations.folder / "examples"
    folder.mkdir()
    paths = [str(folder / f"person-{number}.png") for number in range(1, len(animations.shipped.pictures) + 1)]
    for path, picture in zip(paths, animations.shipped.pictures, strict=True):
        picture.save(path)
    return paths


def _uploaded(file: Any, name: str, folder: Path) -> Path:
    """The path of a file that Gradio stored, and of no other."""
    if not file:
        raise ValueError(f"Give a {name} first.")
    path = Path(str(file.get("path") if isinstance(file, dict) else file)).resolve()
    if not path.is_relative_to(folder):
        raise ValueError(f"The {name} must be uploaded.")
    if not path.is_file():
        raise ValueError(f"The {name} is no longer there; upload it again.")
    return path


def _as_sentence(message: str) -> str:
    for word, ours in WORDS.items():
        message = message.replace(word, ours)
    return " ".join(message.split()).rstrip(".") + "."
