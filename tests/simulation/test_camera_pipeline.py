"""Scenes, lens, sensor and in-camera processing of the simulated cameras: each step follows its model."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exiflang.simulation import camera_pipeline as imaging
from exiflang.simulation.cameras import CAMERAS, CFA_PATTERNS, DEMOSAICINGS
from exiflang.simulation.exposure import draw_settings, max_aperture_at
from exiflang.simulation.scenes import render_scene

PLAIN = CAMERAS[0]


def plain_settings(**changes):
    fixed = {"iso": 100, "flash": False, "light_source": 0, "exposure_bias": 0.0, "sharpness": 0, "saturation": 0}
    return replace(draw_settings(PLAIN, np.random.default_rng(0)), **fixed | {"contrast": 0} | changes)


@given(st.integers(0, 10**6))
@settings(deadline=None, max_examples=6)
def test_scenes_are_finite_float32_of_the_requested_size(seed):
    scene = render_scene(np.random.default_rng(seed), 72, 64)
    assert scene.shape == (64, 72, 3)
    assert scene.dtype == np.float32
    assert np.isfinite(scene).all()
    assert scene.min() >= 0
    assert scene.max() <= 2


def test_brightness_varies_within_a_scene():
    scene = render_scene(np.random.default_rng(5), 512, 384)
    blocks = scene.reshape(6, 64, 8, 64, 3).mean(axis=(1, 3, 4))  # [H, W, 3] -> [6, 8]
    assert np.quantile(blocks, 0.9) > 2.5 * np.quantile(blocks, 0.1)


@pytest.mark.parametrize(("cfa", "method"), list(product(CFA_PATTERNS, DEMOSAICINGS)))
def test_demosaicing_keeps_colors(cfa, method):
    color = np.array([0.2, 0.5, 0.8], np.float32)
    mosaic = np.zeros((24, 30), np.float32)
    for channel, name in enumerate("RGB"):
        for row, col in imaging.cfa_offsets(cfa)[name]:
            mosaic[row::2, col::2] = color[channel]
    rgb = imaging.demosaic(mosaic, cfa, method)
    assert rgb.shape == (24, 30, 3)
    assert rgb.dtype == np.float32
    assert np.allclose(rgb[4:-4, 4:-4], color, atol=0.004)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_malvar_equals_its_formulas(cfa):
    """Pixel by pixel: bilinear estimate plus the gradient gain of the paper (alpha 1/2, beta 5/8, gamma 3/4)."""
    mosaic = np.random.default_rng(1).uniform(0.4, 0.6, (12, 12)).astype(np.float32)
    color = np.array([[cfa[2 * (r % 2) + c % 2] for c in range(12)] for r in range(12)])
    rgb = imaging.demosaic(mosaic, cfa, "malvar")
    plus, cross = [(-1, 0), (1, 0), (0, -1), (0, 1)], [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    far = [(-2, 0), (2, 0), (0, -2), (0, 2)]

    def mean(r, c, steps):
        return np.mean([mosaic[r + dr, c + dc] for dr, dc in steps])

    for r, c in product(range(2, 10), repeat=2):
        here, own = color[r, c], mosaic[r, c]
        if here == "G":
            for name, channel in (("R", 0), ("B", 2)):
                steps = [step for step in plus if color[r + step[0], c + step[1]] == name]
                along = [(2 * dr, 2 * dc) for dr, dc in steps]
                beyond = [step for step in far if step not in along]
                same = sum(mosaic[r + dr, c + dc] for dr, dc in cross + along) - 0.5 * sum(
                    mosaic[r + dr, c + dc] for dr, dc in beyond
                )
                assert rgb[r, c, channel] == pytest.approx(mean(r, c, steps) + 5 / 8 * own - same / 8, abs=1e-5)
        else:
            gradient = own - mean(r, c, far)
            assert rgb[r, c, 1] == pytest.approx(mean(r, c, plus) + 0.5 * gradient, abs=1e-5)
            assert rgb[r, c, 2 if here == "R" else 0] == pytest.approx(mean(r, c, cross) + 0.75 * gradient, abs=1e-5)
        assert rgb[r, c, "RGB".index(here)] == own


def test_noise_grows_with_iso_and_signal_as_modeled():
    flat = np.full((200, 200, 3), 0.18, np.float32)
    camera = replace(PLAIN, cfa="RGGB")
    spread = {}
    for iso, level in product((100, 1600), (1.0, 3.0)):
        mosaic = imaging.sense(camera, plain_settings(iso=iso), flat * np.float32(level), np.random.default_rng(0))
        green = mosaic[::2, 1::2]
        spread[iso, level] = green.std()
        assert green.std() == pytest.approx(imaging.noise_deviation(camera, iso, 0.18 * level), rel=0.05)
    assert spread[1600, 1.0] > 3 * spread[100, 1.0]
    assert spread[100, 3.0] > spread[100, 1.0]


def test_lens_darkens_and_shifts_the_corners_only():
    scene = np.full((120, 160, 3), 0.5, np.float32)
    lens = replace(PLAIN, falloff=1.0, distortion=(-0.05, 0.0), chromatic=(1.5, -1.5))
    wide = plain_settings(focal_length=lens.focal_range[0], f_number=lens.max_aperture)
    flat = imaging.through_lens(lens, wide, scene)
    assert flat[60, 80] == pytest.approx([0.5] * 3, rel=0.01)
    assert flat[0, 0, 0] < 0.95 * flat[60, 80, 0]
    ramp = np.broadcast_to(np.linspace(0.2, 0.8, 160, dtype=np.float32)[None, :, None], scene.shape).copy()
    straight = imaging.through_lens(replace(lens, falloff=0.0, distortion=(0.0, 0.0)), wide, ramp)
    per_pixel = 0.6 / 159
    assert straight[60, 140, 0] - straight[60, 140, 1] == pytest.approx(1.5 * per_pixel * 60.5 / 100, rel=0.05)
    assert straight[60, 140, 2] - straight[60, 140, 1] == pytest.approx(-1.5 * per_pixel * 60.5 / 100, rel=0.05)


def test_sharpness_setting_and_exposure_bias_affect_pixels():
    linear = np.random.default_rng(2).uniform(0.1, 0.4, (80, 80, 3)).astype(np.float32)
    camera = replace(PLAIN, sensor_scale=1.0, luma_denoise=0.0)
    soft, sharp = (
        imaging.finish(camera, plain_settings(sharpness=code), linear, 64, 64).astype(float).std() for code in (1, 2)
    )
    assert sharp > 1.1 * soft
    light = [imaging.expose(PLAIN, plain_settings(exposure_bias=bias), linear).mean() for bias in (0, 1)]
    assert light[1] == pytest.approx(2 * light[0], rel=1e-5)


def test_tone_curve_is_monotone_for_all_cameras():
    for camera, contrast in product(CAMERAS, (0, 1, 2)):
        curve = imaging.tone_curve(camera, contrast)
        assert curve[0] == 0
        assert curve[-1] == pytest.approx(1)
        assert (np.diff(curve) >= 0).all()


def test_settings_stay_within_the_camera():
    for seed, camera in enumerate(CAMERAS):
        drawn = draw_settings(camera, np.random.default_rng(seed))
        assert drawn.iso in camera.isos
        assert camera.focal_range[0] <= drawn.focal_length <= camera.focal_range[1] + 0.05
        assert drawn.f_number >= max_aperture_at(camera, drawn.focal_length)
        assert drawn.exposure_time > 0
