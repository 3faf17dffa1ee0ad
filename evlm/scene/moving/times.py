"""At which times a scene is drawn, by words, and which camera sees it then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...errors import SceneError
from ..camera import Camera
from ..motion import Motion
from ..poses import farthest

MOST = 10_000
_FORM = "all (when the motion is known), 24 (so many, from beginning to end), or 0.0,0.5,1.0"


def times_of(said: str, motion: Motion | None) -> tuple[float, ...]:
    """`all`, how many, or which, parted by commas. Raises SceneError: of a scene that stands still, or none
    of these."""
    if motion is None:
        raise SceneError(f"times {said!r:.60}: the scene stands still, it looks the same at all times")
    said = said.strip()
    if said == "all":
        return tuple(motion.keys.times.tolist())
    if said.isdecimal() and len(said) <= 6:
        count = int(said)
        if not 2 <= count <= MOST:
            raise SceneError(f"times {said}: expected 2 to {MOST} of them; a time is written 0.0, 0.5 or 1.0")
        return tuple(number / (count - 1) for number in range(count))
    try:
        found = tuple(float(each) for each in said.split(","))
    except ValueError as error:
        raise SceneError(f"times {said!r:.60}: expected {_FORM}") from error
    if len(found) > MOST or not all(0 <= each <= 1 for each in found):
        raise SceneError(f"times {said!r:.60}: expected numbers from 0 to 1; {_FORM}")
    return found


def paired(cameras: Sequence[Camera], times: Sequence[float]) -> tuple[Camera, ...]:
    """Cameras that know their time, as many as there are of the more numerous; the fewer are spread over
    them: one camera sees all times, an orbit goes around while time goes on."""
    count = max(len(cameras), len(times))
    return tuple(
        replace(cameras[at * len(cameras) // count], time=times[at * len(times) // count])
        for at in range(count)
    )


def views_in_time(cameras: Sequence[Camera], motion: Motion, views: int, times: int) -> tuple[Camera, ...]:
    """At most `views` pairs of a place and a time to edit a moving scene by: `times` of its times, the first
    camera's first, and at each the same places, those that differ most, the first camera's first."""
    known = sorted({each.time for each in cameras if each.time is not None})
    known = known if len(known) > 1 else motion.keys.times.tolist()
    begin = known[0] if cameras[0].time is None else cameras[0].time
    count = max(1, min(times, views, len(known)))
    last = max(1, count - 1)
    spread = [known[at * (len(known) - 1) // last] for at in range(count)]
    if begin not in spread:
        spread[min(range(count), key=lambda at: abs(spread[at] - begin))] = begin
    places: dict[tuple[object, ...], Camera] = {}
    for camera in cameras:
        where = (*camera.view.flatten().tolist(), *camera.intrinsics.flatten().tolist())
        places.setdefault((*where, camera.width, camera.height), camera)
    alone = list(places.values())
    some = [0, *farthest(alone, max(1, views // count))[1:]]
    order = sorted(set(spread), key=lambda time: (time != begin, time))
    return tuple(replace(alone[at], time=time) for time in order for at in dict.fromkeys(some))
