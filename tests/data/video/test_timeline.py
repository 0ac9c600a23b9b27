"""Which source frame is shown when: against the definition, frame by frame."""

import math

import numpy as np
import pytest

from mmssl.data.video.timeline import Grid, frames_within, is_variable, still_gaps, usual_interval


def shown_by_grid(times: np.ndarray, start: float, fps: float, end: float) -> list[int]:
    grid, shown = Grid(start, fps, 1e-9), []
    for number, time in enumerate(times[1:]):
        shown += [number] * grid.until(float(time))
    shown += [len(times) - 1] * grid.until(end)
    return shown


@pytest.mark.parametrize("seed", range(20))
def test_each_frame_shows_the_last_source_frame_that_has_begun(seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(rng.uniform(0.005, 0.2), 60)) + rng.uniform(-1, 3)
    start, fps = float(rng.uniform(times[0], times[20])), float(rng.choice([10, 24, 25, 29.97, 60]))
    end = float(times[-1] + 0.1)
    found = shown_by_grid(times, start, fps, end)
    count = math.ceil((end - start) * fps - 1e-6)
    expected = [int(np.flatnonzero(times <= start + number / fps)[-1]) for number in range(count)]
    assert found == expected


def test_a_time_stamp_that_was_rounded_up_by_the_container_is_still_in_time() -> None:
    times = np.round(np.arange(60) / 30, 3)  # milliseconds: 0.033, 0.067, ...
    grid, shown = Grid(0.0, 30.0, 0.0005), []
    for number, time in enumerate(times[1:]):
        shown += [number] * grid.until(float(time))
    assert shown == list(range(59))


def test_only_whole_frames_count() -> None:
    assert frames_within(0.0, 3.0, 25.0) == 75
    assert frames_within(1.0, 1.0 + 2.999 / 25, 25.0) == 2 + 1  # 0.04 ms short: rounding
    assert frames_within(1.0, 1.0 + 2.9 / 25, 25.0) == 2
    assert frames_within(2.0, 1.0, 25.0) == 0


def test_variable_rates_and_gaps() -> None:
    steady = np.arange(50) / 25
    assert not is_variable(steady, 1e-3)
    assert not is_variable(np.round(np.arange(50) / 30, 3), 1e-3)  # rounding is no variation
    dropped = np.delete(steady, [10, 11])
    assert is_variable(dropped, 1e-3)
    assert usual_interval(dropped) == pytest.approx(0.04)
    assert still_gaps(dropped) == ()
    assert still_gaps(np.concatenate([steady, steady + 3.0])) == (pytest.approx((1.96, 1.04)),)
    assert still_gaps(np.arange(5) * 2.0) == ()  # a slide every 2 s is its usual rate
