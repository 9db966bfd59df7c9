# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from hia_diffusers.conditioning.tracking import follow_boxes


WIDTH, HEIGHT = 40, 100


def box(x, y=0.0):
    """Of a person whose left side is at x."""
    return (x, y, x + WIDTH, y + HEIGHT)


def tracks_of(frames, fps):
    """For each person, named by the keys of `frames`, the tracks that he is in."""
    arrays = [np.reshape(list(people.values()), (-1, 4)).astype(np.float32) for people in frames]
    found = {}
    for people, tracks in zip(frames, follow_boxes(arrays, fps), strict=True):
        for person, track in zip(people, tracks.tolist(), strict=True):
            found.setdefault(person, set()).add(track)
    return found


def there_and_back(fps, heights_per_second, seconds=3.0):
    """A person who runs two heights to the right and back, again and again."""
    way = heights_per_second * HEIGHT * np.arange(round(seconds * fps)) / fps % (4 * HEIGHT)
    return [{"runner": box(x)} for x in np.minimum(way, 4 * HEIGHT - way)]


@pytest.mark.parametrize("heights_per_second", [0.5, 2.6, 8, 40])
@pytest.mark.parametrize("fps", [1, 5, 8, 10, 12, 24, 29.97, 60, 240])
def test_a_person_alone_is_one_track_at_any_frame_rate_and_speed(fps, heights_per_second):
    assert len(tracks_of(there_and_back(fps, heights_per_second), fps)["runner"]) == 1


@pytest.mark.parametrize(("fps", "missed"), [(1, 1), (8, 1), (8, 7), (30, 20)])
def test_a_person_alone_may_be_missed_for_a_while_wherever_he_is_next(fps, missed):
    frames = [{"dancer": box(0)}, *[{}] * missed, {"dancer": box(500)}]
    assert len(tracks_of(frames, fps)["dancer"]) == 1


def test_a_person_who_comes_back_elsewhere_much_later_is_another():
    assert len(tracks_of([{"person": box(0)}, *[{}] * 31, {"person": box(500)}], 30)["person"]) == 2


@pytest.mark.parametrize("fps", [5, 8, 10, 12, 15, 24, 30, 60])
def test_two_who_run_past_each_other_stay_themselves(fps):
    """At 5 frames per second, each is half a height further in every frame, where the other has just been."""
    seconds = np.arange(round(4 * fps)) / fps
    frames = [{"right": box(2.5 * HEIGHT * t), "left": box(1000 - 2.5 * HEIGHT * t, 15)} for t in seconds]
    found = tracks_of(frames, fps)
    assert len(found["right"]) == len(found["left"]) == 1 and found["right"] != found["left"]


@pytest.mark.parametrize("fps", [8, 24])
def test_two_who_run_side_by_side_and_turn_round_stay_themselves(fps):
    frames = [{**people, "second": box(people["runner"][0] + 150)} for people in there_and_back(fps, 2.6)]
    found = tracks_of(frames, fps)
    assert len(found["runner"]) == len(found["second"]) == 1 and found["runner"] != found["second"]


def test_someone_who_comes_by_does_not_end_the_track_of_a_fast_person():
    frames = there_and_back(8, 2.6)
    for number in (6, 7, 15):
        frames[number]["other"] = box(900)
    found = tracks_of(frames, 8)
    assert len(found["runner"]) == 1 and not found["runner"] & found["other"]


def test_someone_who_appears_while_a_person_is_missed_is_not_taken_for_him():
    frames = [{"dancer": box(0)}, {"guest": box(300)}, *[{"dancer": box(0), "guest": box(300)}] * 3]
    found = tracks_of(frames, 30)
    assert len(found["dancer"]) == len(found["guest"]) == 1 and found["dancer"] != found["guest"]


def test_someone_hidden_behind_another_is_found_where_his_steps_lead():
    frames = [{"in front": box(200), "behind": box(14 * number)} for number in range(30)]
    for people in frames:
        if abs(people["behind"][0] - 200) < 30:
            del people["behind"]
    found = tracks_of(frames, 12)
    assert len(found["behind"]) == 1 and found["in front"] != found["behind"]
