"""Simulated cameras: EXIF matches the settings, rendering is reproducible, and splices match their masks."""

import csv
import io
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from exiflang.simulation import splices
from exiflang.simulation.cameras import CAMERAS, CFA_PATTERNS, DEMOSAICINGS
from exiflang.simulation.exposure import draw_settings
from exiflang.simulation.render import _generator, render_photo, simulate_photos
from exiflang.simulation.splices import make_authentic, make_splice, write_splices

SMALL = (96, 80)
PLAIN = CAMERAS[0]


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def pixels(data: bytes) -> np.ndarray:
    return np.array(opened(data).convert("RGB"))


def test_there_are_48_distinct_cameras():
    assert len(CAMERAS) == 48
    assert len({camera.make for camera in CAMERAS}) == 12
    assert len({camera.name for camera in CAMERAS}) == 48
    assert {camera.demosaicing for camera in CAMERAS} == set(DEMOSAICINGS)
    assert {camera.cfa for camera in CAMERAS} == set(CFA_PATTERNS)
    assert {camera.subsampling for camera in CAMERAS} == {"4:4:4", "4:2:2", "4:2:0"}
    assert len({hash(camera) for camera in CAMERAS}) == 48  # usable as keys


@pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)
def test_camera_parameters_are_plausible(camera):
    assert np.allclose(np.sum(camera.color_matrix, axis=1), 1, atol=1e-3)
    for quality in ("fine", "normal"):
        for table in camera.tables(quality):
            assert len(table) == 64
            assert all(1 <= step <= 255 for step in table)
    assert sum(camera.fine_tables[0]) < sum(camera.normal_tables[0])
    assert camera.focal_range[0] < camera.focal_range[1]


@pytest.mark.parametrize("camera", CAMERAS[::5], ids=lambda camera: camera.name)
def test_exif_and_jpeg_follow_the_settings(camera):
    photo = opened(render_photo(camera, 7, SMALL))
    used = draw_settings(camera, _generator(7, camera.name))
    exif = photo.getexif()
    tags = {ExifTags.TAGS[tag]: value for tag, value in (dict(exif) | exif.get_ifd(ExifTags.IFD.Exif)).items()}
    assert len(tags) >= 20
    assert tags["Make"] == camera.make
    assert tags["Model"] == camera.model
    assert tags["Software"] == camera.software
    assert tags["ISOSpeedRatings"] == used.iso
    assert float(tags["FNumber"]) == used.f_number
    assert float(tags["FocalLength"]) == used.focal_length
    assert float(tags["ExposureTime"]) == pytest.approx(used.exposure_time, rel=0.12)
    assert float(tags["ExposureBiasValue"]) == pytest.approx(used.exposure_bias)
    assert bool(tags["Flash"] & 1) == used.flash
    assert tags["WhiteBalance"] == int(used.manual_white)
    assert (tags["ExifImageWidth"], tags["ExifImageHeight"]) == SMALL == photo.size
    assert not camera.omitted_tags & set(tags)
    if "Sharpness" not in camera.omitted_tags:
        assert tags["Sharpness"] == used.sharpness
    if "CompressedBitsPerPixel" not in camera.omitted_tags:
        assert float(tags["CompressedBitsPerPixel"]) == {"fine": 4, "normal": 2}[used.quality]
    tables = camera.tables(used.quality)
    assert [tuple(photo.quantization[i]) for i in (0, 1)] == list(tables)
    factors = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}[camera.subsampling]
    assert photo.layer[0][1:3] == factors


def test_every_camera_renders_its_default_size():
    for camera in CAMERAS[::16]:
        assert opened(render_photo(camera, 1)).size == camera.size


def test_a_photo_depends_only_on_camera_seed_and_size():
    first = render_photo(PLAIN, 3, SMALL)
    render_photo(CAMERAS[9], 4, SMALL)
    assert render_photo(PLAIN, 3, SMALL) == first
    assert len({first, render_photo(PLAIN, 4, SMALL), render_photo(CAMERAS[1], 3, SMALL)}) == 3


@pytest.mark.parametrize("size", [(64, 64), (65, 67), (101, 64)])
@pytest.mark.parametrize("scale", [1.0, 1.37, 0.71])
def test_odd_sizes_are_rendered(size, scale):
    assert opened(render_photo(replace(PLAIN, sensor_scale=scale), 0, size)).size == size


@pytest.mark.parametrize("size", [(0, 100), (63, 100), (100, 8193), (100.0, 100), (100,)])
def test_a_wrong_size_is_refused(size):
    with pytest.raises(ValueError, match="size must be"):
        render_photo(PLAIN, 0, size)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1"])
def test_a_wrong_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        render_photo(PLAIN, seed, SMALL)


@given(st.integers(0, 10**9), st.integers(64, 300), st.integers(64, 300))
@settings(deadline=None, max_examples=40)
def test_a_region_covers_5_to_25_percent(seed, width, height):
    mask = splices.random_region(np.random.default_rng(seed), width, height)
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    assert 0.05 <= mask.mean() <= 0.25


@given(st.integers(0, 10**6), st.integers(-40, 0), st.integers(16, 60), st.integers(1, 15))
@settings(deadline=None, max_examples=40)
def test_shifts_are_misaligned_with_every_grid(seed, low, span, other):
    shift = splices._misaligned(np.random.default_rng(seed), low, low + span, other)
    assert low <= shift <= low + span
    assert shift % 8
    assert (shift - other) % 8


def test_a_splice_is_the_host_outside_its_mask_and_the_donor_inside():
    host, donor = CAMERAS[2], CAMERAS[30]
    splice = make_splice(host, donor, 11, (128, 96))
    authentic = make_authentic(host, 11, (128, 96))
    picture, untouched = pixels(splice.data), pixels(authentic.data)
    assert (picture[~splice.mask] == untouched[~splice.mask]).all()
    assert (picture[splice.mask] != untouched[splice.mask]).any(axis=1).mean() > 0.9
    assert splice.tampered_fraction == splice.mask.mean()
    assert (splice.host, splice.donor, authentic.donor) == (host.name, donor.name, None)
    assert not authentic.mask.any()
    assert not opened(splice.data).getexif()


def test_a_splice_region_is_misaligned_in_the_donor_photo(monkeypatch):
    """Find the pasted pixels in the donor's photo and check their offsets against all three grids."""
    photos = {}
    original = splices.render_photo

    def recorded(camera, seed, size=None):
        photos[camera.name] = original(camera, seed, size)
        return photos[camera.name]

    monkeypatch.setattr(splices, "render_photo", recorded)
    for seed in range(3):
        host, donor = CAMERAS[4 * seed], CAMERAS[4 * seed + 20]
        splice = make_splice(host, donor, seed, (96, 80))
        picture = pixels(splice.data)
        offsets = []
        for camera, part in ((host, ~splice.mask), (donor, splice.mask)):
            photo = pixels(photos[camera.name])
            ys, xs = np.nonzero(part)
            found = [
                (dx, dy)
                for dy, dx in product(range(-ys.min(), 96 - ys.max()), range(-xs.min(), 112 - xs.max()))
                if (photo[ys[0] + dy, xs[0] + dx] == picture[ys[0], xs[0]]).all()
                and (photo[ys + dy, xs + dx] == picture[ys, xs]).all()
            ]
            assert len(found) == 1
            offsets += found
        (host_x, host_y), (donor_x, donor_y) = offsets
        assert all(n % 8 for n in (host_x, host_y, donor_x, donor_y, donor_x - host_x, donor_y - host_y))


@pytest.mark.parametrize(("fmt", "kind"), [("png", "PNG"), ("jpeg95", "JPEG"), ("jpeg85", "JPEG")])
def test_files_have_the_requested_format(fmt, kind):
    splice = make_splice(CAMERAS[1], CAMERAS[40], 0, SMALL, fmt)
    assert opened(splice.data).format == kind
    assert opened(splice.data).size == SMALL


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match="png, jpeg95, jpeg85"):
        make_splice(CAMERAS[1], CAMERAS[40], 0, SMALL, "webp")


def test_write_splices_gives_the_same_bytes_for_any_number_of_workers(tmp_path):
    cameras = CAMERAS[:2] + CAMERAS[4:6]
    one = write_splices(tmp_path / "one", cameras, 4, 2, 5, workers=1, size=SMALL)
    two = write_splices(tmp_path / "two", cameras, 4, 2, 5, workers=2, size=SMALL)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 13
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]

    with (one / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "name", "kind", "format", "host_camera", "donor_camera", "donor_scale", "tampered_fraction"
    ]  # fmt: skip
    assert [row["kind"] for row in rows] == ["spliced"] * 4 + ["authentic"] * 2
    assert [row["format"] for row in rows] == ["png", "jpg95", "jpg85"] * 2
    makes = {camera.name: camera.make for camera in cameras}
    for row in rows:
        with Image.open(one / "masks" / f"{row['name']}.png") as image:
            mask = np.array(image)
        suffix = ".png" if row["format"] == "png" else ".jpg"
        with Image.open(one / "images" / (row["name"] + suffix)) as image:
            assert image.size == SMALL
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask > 0).mean() == pytest.approx(float(row["tampered_fraction"]), abs=1e-4)
        if row["kind"] == "spliced":
            assert makes[row["host_camera"]] != makes[row["donor_camera"]]
        else:
            assert row["donor_camera"] == ""


def test_write_splices_leaves_nothing_behind_on_failure(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError("disk full")

    monkeypatch.setattr(splices, "_store", failing)
    with pytest.raises(OSError, match="disk full"):
        write_splices(tmp_path / "set", CAMERAS[:5], 1, 0, 0, workers=1, size=SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cameras", "count", "authentic", "workers", "message"),
    [
        ((), 1, 0, 1, "non-empty"),
        (("Altamere",), 1, 0, 1, "sequence of Camera"),
        ((PLAIN, PLAIN), 1, 0, 1, "two different"),
        (CAMERAS, 0, 0, 1, "not both 0"),
        (CAMERAS, -1, 2, 1, "0 or more"),
        (CAMERAS, 1, 0, 0, "workers must be"),
    ],
)
def test_write_splices_refuses_invalid_arguments(tmp_path, cameras, count, authentic, workers, message):
    with pytest.raises(ValueError, match=message):
        write_splices(tmp_path / "set", cameras, count, authentic, 0, workers, SMALL)
    assert list(tmp_path.iterdir()) == []


def test_write_splices_keeps_an_existing_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="already exists"):
        write_splices(tmp_path, CAMERAS, 1, 0, 0, workers=1, size=SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_simulated_photos_have_a_fixed_order_and_names():
    cameras = [replace(CAMERAS[12], size=SMALL), replace(CAMERAS[0], size=SMALL)]
    photos = list(simulate_photos(cameras, 2, seed=1, workers=1))
    assert [camera for _, camera, _ in photos] == [cameras[0]] * 2 + [cameras[1]] * 2
    names = [name for name, _, _ in photos]
    assert len(set(names)) == 4
    assert all("." not in name and " " not in name and "/" not in name for name in names)
    alone = list(simulate_photos(cameras[1:], 2, seed=1, workers=1))
    assert alone == photos[2:]  # the photos of a camera do not depend on the others
    with pytest.raises(ValueError, match="photos_per_camera"):
        next(simulate_photos(cameras, 0, seed=1, workers=1))
