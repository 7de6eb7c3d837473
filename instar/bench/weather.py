"""Synthetic weather with a class for each pixel: moving vortices and filaments in sixteen channels, as CAM5 has them.

Made up, and always called so: no number in it was measured or simulated. It looks enough like the DeepCAM fields to try
everything on: the same channels and units, cyclones and atmospheric rivers that are born, drift and die, labels that
follow from wind and moisture as TECA's do, and the three classes as often as published. A sample is a pure function of
(seed, time), so any of them can be made by itself.

Legend: H W pixels (south first, longitude from 0), C channels, lat and lon in degrees.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Channels of the files of the DeepCAM benchmark, in their order.
CHANNELS = (
    *("TMQ", "U850", "V850", "UBOT", "VBOT", "QREFHT", "PS", "PSL"),
    *("T200", "T500", "PRECT", "TS", "TREFHT", "Z1000", "Z200", "ZBOT"),
)
CLASSES = ("background", "cyclone", "river")
# Shares of all pixels in the benchmark's training files, which its loss is weighted with.
FREQUENCIES = (0.986267818390377, 0.0004578708870701058, 0.01327431072255291)

_DAY = 4  # snapshots, one every six hours
_SLOT = 10 * _DAY  # no storm lives longer
_CYCLONES, _RIVERS = 1.08, 3.6  # born in a slot, on average; settled so that pixels are as frequent as published
_GALE = 17.0  # m/s: where a cyclone is one, by the tropical storm's definition
_TRANSPORT = 250.0  # kg/m/s of water vapour: where a filament is a river
_WAVES = 10

Grid = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Cyclone:
    """A vortex: where it is, the radius of its strongest wind in degrees, and that wind in m/s."""

    lat: float
    lon: float
    radius: float
    wind: float


@dataclass(frozen=True)
class River:
    """A filament of moist air: its middle, its heading and bend, and its size in degrees; how strong it is, 0 to 1."""

    lat: float
    lon: float
    heading: float
    bend: float
    length: float
    width: float
    strength: float


def sample(seed: int, time: int, *, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """data_HWC (float32) and class_HW (int32) of one moment; `time` counts snapshots of six hours."""
    lat_H1 = (np.arange(height) + 0.5)[:, None] * 180 / height - 90
    lon_1W = np.arange(width)[None, :] * 360 / width
    grid = (lat_H1, lon_1W)
    season = np.cos(2 * np.pi * time / (365 * _DAY))
    stream, u, v = _waves(seed, time, grid)
    moisture = _waves(seed + 1, time, grid)[0] + 1.6 * _waves(seed + 2, time, grid, coarsest=8, finest=22)[0]
    surface = 300 - 0.0095 * (lat_H1 - 8 * season) ** 2 + 2 * moisture
    u = u + 12 * np.exp(-(((np.abs(lat_H1) - 42) / 14) ** 2)) - 5 * np.exp(-((lat_H1 / 14) ** 2))
    water = 42 * np.exp(-(((lat_H1 - 5 * season - 22 * moisture) / 20) ** 2)) + 9 + 10 * moisture
    fields = {"u": u, "v": v, "water": np.maximum(water, 2.0), "psl": 101_300 + 900 * stream, "rain": 0.0, "core": 0.0}
    class_HW = np.zeros((height, width), np.int32)
    for river in rivers(seed, time):
        flowing = _add_river(fields, river, grid)
        transport = fields["water"] * np.hypot(fields["u"], fields["v"])
        class_HW[flowing & (transport >= _TRANSPORT)] = 2
    for cyclone in cyclones(seed, time):
        class_HW[_add_cyclone(fields, cyclone, grid)] = 1
    return _channels(fields, surface, stream, lat_H1), class_HW


def cyclones(seed: int, time: int) -> list[Cyclone]:
    """The vortices of one moment: born over warm water, carried west and poleward, then east."""
    found = []
    for age, draw in _alive(seed, time, _CYCLONES, stream=2):
        lat0, lon0 = draw.choice([-1, 1]) * draw.uniform(9, 20), draw.uniform(0, 360)
        days, peak, radius = age * _SLOT / _DAY, draw.uniform(38, 70), draw.uniform(1.5, 2.2)
        lat = lat0 + np.sign(lat0) * (0.6 * days + 0.16 * days**2)
        lon = (lon0 - 3.5 * days + 0.45 * days**2) % 360
        found.append(Cyclone(lat, lon, radius, peak * np.sin(np.pi * age)))
    return found


def rivers(seed: int, time: int) -> list[River]:
    """The filaments of one moment, drifting east and poleward through middle latitudes."""
    found = []
    for age, draw in _alive(seed, time, _RIVERS, stream=3):
        side, lon0 = draw.choice([-1, 1]), draw.uniform(0, 360)
        days, middle = age * _SLOT / _DAY, draw.uniform(31, 42)
        heading, bend = side * np.deg2rad(draw.uniform(15, 40)), side * draw.uniform(-0.006, 0.006)
        length, width = draw.uniform(24, 40), draw.uniform(2.4, 3.6)
        lat, lon = side * (middle + 0.5 * days), (lon0 + 7 * days) % 360
        found.append(River(lat, lon, heading, bend, length, width, np.sin(np.pi * age)))
    return found


def _alive(seed: int, time: int, births: float, *, stream: int) -> Iterator[tuple[float, np.random.Generator]]:
    """Age (0 to 1) and own generator of everything that was born lately and lives."""
    for slot in (time // _SLOT - 1, time // _SLOT):
        for number in range(np.random.default_rng([seed, stream, slot + 2**31]).poisson(births)):
            draw = np.random.default_rng([seed, stream, slot + 2**31, number])
            born, life = slot * _SLOT + draw.integers(_SLOT), draw.uniform(0.5, 1.0) * _SLOT
            if 0 <= time - born < life:
                yield (time - born) / life, draw


def _waves(
    seed: int, time: int, grid: Grid, *, coarsest: int = 1, finest: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disturbances of about size 1, the smaller the weaker, and the winds (m/s) that blow along their lines.

    coarsest, finest   how many of a wave go around the globe
    """
    lat_H1, lon_1W = (np.deg2rad(axis) for axis in grid)
    draw = np.random.default_rng([seed, 1, coarsest])
    total, east, north = (np.zeros((lat_H1.size, lon_1W.size)) for _ in range(3))
    for _ in range(_WAVES):
        m, n = draw.integers(coarsest, finest + 1), draw.uniform(coarsest, 0.75 * finest)
        phase, other, speed = draw.uniform(0, 2 * np.pi), draw.uniform(0, 2 * np.pi), draw.uniform(-0.02, 0.1)
        size = draw.uniform(0.3, 1) / np.hypot(m, n)
        turn_1W, tilt_H1 = m * lon_1W + phase - m * speed * time, n * lat_H1 + other
        envelope_H1 = size * np.cos(lat_H1) ** 2
        total += envelope_H1 * np.cos(tilt_H1) * np.cos(turn_1W)
        # Of a flow along the lines of a stream function: its slopes, turned by a right angle.
        east += envelope_H1 * n * np.sin(tilt_H1) * np.cos(turn_1W)
        north -= envelope_H1 * m * np.cos(tilt_H1) * np.sin(turn_1W)
    return total, 5 * east, 5 * north


def _add_river(fields: dict[str, np.ndarray], river: River, grid: Grid) -> np.ndarray:
    """Put a filament into the fields; gives where it is."""
    lat_H1, lon_1W = grid
    east = _around(lon_1W - river.lon) * np.cos(np.deg2rad(river.lat))
    north = lat_H1 - river.lat
    along = east * np.cos(river.heading) + north * np.sin(river.heading)
    across = north * np.cos(river.heading) - east * np.sin(river.heading) - river.bend * along**2
    profile = np.exp(-0.5 * (across / river.width) ** 2 - (along / river.length) ** 6) * river.strength
    fields["water"] = fields["water"] + 26 * profile
    fields["u"] = fields["u"] + 17 * profile * np.cos(river.heading)
    fields["v"] = fields["v"] + 17 * profile * np.sin(river.heading)
    fields["rain"] = fields["rain"] + 1.5e-7 * profile**2
    fields["psl"] = fields["psl"] - 500 * profile
    return profile > 0.4


def _add_cyclone(fields: dict[str, np.ndarray], cyclone: Cyclone, grid: Grid) -> np.ndarray:
    """Put a vortex into the fields; gives where its own wind is a gale, and the eye within."""
    lat_H1, lon_1W = grid
    east = _around(lon_1W - cyclone.lon) * np.cos(np.deg2rad(cyclone.lat))
    north = lat_H1 - cyclone.lat
    distance = np.hypot(east, north) / cyclone.radius
    # Strongest at distance 1, solid rotation within, a Gaussian's tail without.
    share = np.exp(0.5 * (1 - distance**2))
    turning = np.sign(cyclone.lat) * cyclone.wind * share / cyclone.radius
    core = np.exp(-0.5 * distance**2) * cyclone.wind / 70
    fields["u"], fields["v"] = fields["u"] - turning * north, fields["v"] + turning * east
    fields["psl"] = fields["psl"] - 7500 * core
    fields["water"] = fields["water"] + 22 * core
    fields["rain"] = fields["rain"] + 6e-7 * core
    fields["core"] = fields["core"] + 9 * core
    if cyclone.wind < _GALE:
        return np.zeros(np.broadcast_shapes(lat_H1.shape, lon_1W.shape), bool)
    return (cyclone.wind * share * distance >= _GALE) | (distance < 1)


def _around(degrees: np.ndarray) -> np.ndarray:
    """The short way around the globe."""
    return (degrees + 180) % 360 - 180


def _channels(fields: dict[str, np.ndarray], surface: np.ndarray, stream: np.ndarray, lat_H1: np.ndarray) -> np.ndarray:
    """data_HWC in the units of CAM5, out of the few quantities that everything here follows from."""
    u, v, water, psl, core = (fields[name] for name in ("u", "v", "water", "psl", "core"))
    mountains = 900 * np.maximum(0, np.sin(np.deg2rad(3 * lat_H1)) * np.cos(np.deg2rad(2 * lat_H1)))
    air = surface - 1.5 + 0.02 * (water - 25)
    made = {
        "TMQ": water,
        "U850": u,
        "V850": v,
        "UBOT": 0.75 * u - 0.1 * v,
        "VBOT": 0.75 * v + 0.1 * u,
        "QREFHT": 2.6e-4 * water * np.exp(0.03 * (air - 288)),
        "PS": psl - 11.5 * mountains,
        "PSL": psl,
        "T200": 218 + 0.35 * core + 3 * stream + 4 * np.cos(np.deg2rad(2 * lat_H1)),
        "T500": 0.75 * (surface - 288) + 258 + core,
        "PRECT": 4e-8 * np.maximum(0, water / 25 - 0.6) ** 2 + fields["rain"],
        "TS": surface,
        "TREFHT": air,
        "Z1000": (psl - 100_000) / 11.8,
        "Z200": 11_800 + 14 * (surface - 288) + 60 * stream + 8 * core,
        "ZBOT": 60 + 0.22 * (surface - 288),
    }
    shape = stream.shape
    return np.stack([np.broadcast_to(made[name], shape) for name in CHANNELS], axis=-1).astype(np.float32)
