"""Synthetic weather: the same every time, physically plausible, and labelled as often as the benchmark's fields."""

import numpy as np
import pytest

from instar.bench import weather

SMALL = {"height": 48, "width": 72}


def channel(data_HWC, name):
    return data_HWC[..., weather.CHANNELS.index(name)]


def test_a_sample_is_a_function_of_seed_and_time_alone():
    data, label = weather.sample(3, 40, **SMALL)
    weather.sample(3, 41, **SMALL)
    again, label_again = weather.sample(3, 40, **SMALL)
    assert np.array_equal(data, again) and np.array_equal(label, label_again)
    assert not np.array_equal(data, weather.sample(4, 40, **SMALL)[0])
    assert not np.array_equal(data, weather.sample(3, 41, **SMALL)[0])


@pytest.mark.parametrize(("height", "width"), [(16, 24), (33, 50), (96, 144)])
def test_any_size_has_sixteen_finite_channels_of_the_benchmarks_types(height, width):
    data, label = weather.sample(0, 7, height=height, width=width)
    assert data.shape == (height, width, 16) and data.dtype == np.float32
    assert label.shape == (height, width) and label.dtype == np.int32
    assert np.isfinite(data).all()
    assert set(np.unique(label)) <= {0, 1, 2}


def test_classes_are_as_frequent_as_published():
    counts = sum(
        np.bincount(weather.sample(seed, time, **SMALL)[1].ravel(), minlength=3)
        for seed in range(5)
        for time in range(0, 3000, 50)
    )
    shares = counts / counts.sum()
    # 300 moments: storms come in bunches, so the rarest class is known to a tenth or so.
    assert shares[0] == pytest.approx(weather.FREQUENCIES[0], abs=0.002)
    assert shares[1] == pytest.approx(weather.FREQUENCIES[1], rel=0.25)
    assert shares[2] == pytest.approx(weather.FREQUENCIES[2], rel=0.1)


def test_numbers_are_those_of_an_atmosphere():
    data = np.stack([weather.sample(1, time, **SMALL)[0] for time in range(0, 400, 40)])
    limits = {"TMQ": (1, 120), "U850": (-95, 110), "PSL": (90_000, 105_000), "TS": (190, 320), "T500": (180, 300)}
    for name, (low, high) in limits.items():
        found = channel(data, name)
        assert low < found.min() and found.max() < high, (name, found.min(), found.max())
    assert channel(data, "PRECT").min() >= 0
    tropics, poles = channel(data, "TS")[:, 22:26].mean(), channel(data, "TS")[:, :3].mean()
    assert tropics > poles + 25


def first_strong_cyclone(seed):
    for time in range(2000):
        for storm in weather.cyclones(seed, time):
            if storm.wind > 45 and abs(storm.lat) > 12:
                return time, storm
    raise AssertionError("no strong cyclone in 500 days")


def test_a_cyclone_is_a_low_around_which_the_wind_turns_with_the_hemisphere():
    time, storm = first_strong_cyclone(2)
    data, label = weather.sample(2, time, height=180, width=360)
    row, column = round(storm.lat + 89.5), round(storm.lon) % 360
    assert label[row, column] == 1
    pressure = channel(data, "PSL")
    assert pressure[row, column] < pressure[row].mean() - 3000
    east, west = (channel(data, "V850")[row, (column + step) % 360] for step in (2, -2))
    assert np.sign(east - west) == np.sign(storm.lat)  # anticlockwise in the north
    inside = label == 1
    assert np.hypot(channel(data, "U850"), channel(data, "V850"))[inside].mean() > 15


def test_storms_move_and_do_not_jump():
    time, storm = first_strong_cyclone(2)
    later = weather.cyclones(2, time + 1)
    nearest = min(later, key=lambda other: abs(other.lat - storm.lat) + abs(weather._around(other.lon - storm.lon)))
    far = np.hypot(nearest.lat - storm.lat, weather._around(nearest.lon - storm.lon))
    assert 0 < far < 3


def test_a_river_carries_at_least_the_transport_it_is_defined_by():
    for time in range(0, 200, 20):
        data, label = weather.sample(5, time, **SMALL)
        transport = channel(data, "TMQ") * np.hypot(channel(data, "U850"), channel(data, "V850"))
        # A cyclone that passes may stir up what a river had before.
        near_cyclone = bool(weather.cyclones(5, time))
        river = label == 2
        assert not river.any() or transport[river].mean() > 250
        assert near_cyclone or (transport[river] >= 249).all()
