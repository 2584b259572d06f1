"""Transforms: what they do to pixels, beside PyTorch where it has it; keyed draws; the same before and after ToTensor."""

import numpy as np
import pytest

from phalanx.core import rng
from phalanx.core.data import DataLoader, Dataset, Placement, default_collate, set_placement
from phalanx.core.data import transforms as T
from phalanx.core.data.sampling import keyed_sample
from phalanx.core.data.transforms.colour import brighten, changed, contrast, saturate, sharpen, turn_hue
from phalanx.core.data.transforms.geometry import inverse_affine
from phalanx.core.data.transforms.resample import affine_grid, resize, warp
from phalanx.core.errors import DTypeError, RangeError, ShapeError
from phalanx.core.tensor import Tensor

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
FLOATS = T.ToTensor()(PICTURE)


def test_to_tensor_and_normalize():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    tensor = T.ToTensor()(image)
    assert tensor.shape == (3, 2, 4) and (tensor.numpy()[1] == image[:, :, 1] / np.float32(255)).all()
    normal = T.Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))(tensor).numpy()
    assert normal.dtype == np.float32 and np.allclose(normal[2], (tensor.numpy()[2] - 0.3) / 4)
    with pytest.raises(ShapeError, match="ToTensor"):
        T.Normalize((0.5,), (0.5,))(image)
    with pytest.raises(ShapeError, match=r"2 means.*\(3, 2, 4\)"):
        T.Normalize((0.5, 0.5), (0.5, 0.5))(tensor)
    with pytest.raises(ShapeError, match=r"\(2,\)"):
        T.ToTensor()(np.zeros(2))
    with pytest.raises(RangeError, match="std"):
        T.Normalize((0.5,), (0.0,))


@pytest.mark.parametrize("colour", [False, True])
def test_random_transforms_do_the_same_before_and_after_to_tensor(colour):
    image = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)[..., : 3 if colour else 1]
    image = image if colour else image[..., 0]
    chain = [T.RandomHorizontalFlip(), T.RandomCrop((4, 3), padding=(1, 2))]
    seen = set()
    for seed in range(30):
        with keyed_sample(seed):
            before = T.Compose([*chain, T.ToTensor()])(image).numpy()
        with keyed_sample(seed):
            after = T.Compose([T.ToTensor(), *chain])(image).numpy()
        assert before.shape == (3 if colour else 1, 4, 3) and (before == after).all()
        seen.add(before.tobytes())
    assert len(seen) > 15


def test_crops_reach_every_place_and_padding_its_sides():
    image = np.arange(1, 10, dtype=np.uint8).reshape(3, 3)
    crops = set()
    for seed in range(400):
        with keyed_sample(seed):
            crops.add(T.RandomCrop(3, padding=1)(image).tobytes())
    assert len(crops) == 9
    padded = T.RandomCrop((6, 10), padding=(1, 2, 6, 1), fill=7)(image)
    assert (padded[2:5, 1:4] == image).all() and (padded == 7).sum() == 60 - 9 + 1
    with pytest.raises(ShapeError, match="too small"):
        T.RandomCrop(4)(image)
    for wrong in ({"size": 0}, {"size": 3, "padding": -1}, {"size": 3, "padding": (1, 2, 3)}):
        with pytest.raises(RangeError, match="RandomCrop"):
            T.RandomCrop(**wrong)
    with pytest.raises(RangeError, match="p must"):
        T.RandomHorizontalFlip(1.5)


# -- all of them --------------------------------------------------------------------------------------------------

EITHER = [
    T.RandomHorizontalFlip(),
    T.RandomVerticalFlip(),
    T.RandomCrop(9, padding=(1, 2), fill=0, padding_mode="reflect"),
    T.RandomCrop(20, pad_if_needed=True),
    T.CenterCrop((8, 20)),
    T.Pad((1, 2, 3, 4), padding_mode="edge"),
    T.Resize((7, 9), "nearest"),
    T.RandomResizedCrop(8, interpolation="nearest"),
    T.RandomRotation(40),
    T.RandomRotation(40, expand=True),
    T.RandomAffine(20, (0.2, 0.1), (0.8, 1.2), 10),
    T.RandomPerspective(p=1.0, interpolation="nearest"),
    T.RandomInvert(),
    T.RandomChoice([T.RandomVerticalFlip(), T.CenterCrop(5)]),
    T.RandomApply([T.RandomInvert(1.0)]),
    T.RandomOrder([T.Pad(1), T.CenterCrop(8)]),
]
"""They move whole pixels (or mirror values): before and after ToTensor they give the same picture."""

NEARLY = [
    T.Resize(7),
    T.Resize((7, 30), "bicubic", antialias=False),
    T.RandomResizedCrop(8),
    T.RandomRotation(40, "bilinear", fill=0),
    T.RandomAffine(20, (0.2, 0.1), (0.8, 1.2), (0, 5, 0, 5), "bilinear", center=(3, 4)),
    T.RandomPerspective(p=1.0),
    T.ColorJitter(0.4, 0.4, 0.4, 0.1),
    T.GaussianBlur((3, 5)),
    T.RandomAdjustSharpness(1.7),
    T.RandomGrayscale(0.5),
    T.RandomAutocontrast(),
    T.RandomPosterize(4),
    T.RandomSolarize(0.5),
    T.RandAugment(),
    T.TrivialAugmentWide(),
]
"""They compute: integers round."""


def name_of(transform):
    return type(transform).__name__


@pytest.mark.parametrize("transform", EITHER + NEARLY, ids=name_of)
@pytest.mark.parametrize("kind", ["colour", "grey", "two dimensions", "floats"])
def test_a_transform_is_keyed_keeps_kind_and_leaves_its_input(transform, kind):
    image = {"colour": PICTURE, "grey": PICTURE[..., :1], "two dimensions": PICTURE[..., 0]}.get(kind)
    image = FLOATS if image is None else image
    if kind == "floats":
        before = image.numpy().copy()
    else:
        before = image.copy()
        image.flags.writeable = False
    seen = set()
    for seed in range(12):
        with keyed_sample(seed):
            once = transform(image)
        with keyed_sample(seed):
            again = transform(image)
        assert type(once) is type(image) and once.ndim == image.ndim and once.dtype == image.dtype
        assert (np.asarray(once) == np.asarray(again)).all()
        seen.add(np.asarray(once).tobytes() + str(once.shape).encode())
    assert (np.asarray(image) == before).all()
    assert transform.keyed and repr(transform).startswith(name_of(transform))
    fixed = name_of(transform) in ("CenterCrop", "Pad", "Resize", "RandomOrder")
    assert fixed or len(seen) > 1 or kind != "colour"


@pytest.mark.parametrize(
    "transform", [each for each in EITHER + NEARLY if not isinstance(each, T.RandomSolarize)], ids=name_of
)  # whose threshold is in the image's own numbers
def test_before_and_after_to_tensor_are_the_same(transform):
    for seed in range(8):
        with keyed_sample(seed):
            before = T.ToTensor()(transform(PICTURE)).numpy()
        with keyed_sample(seed):
            after = transform(FLOATS).numpy()
        assert before.shape == after.shape
        apart = np.abs(before - after)
        # several changes in a row round several times, and thresholds may fall on either side
        assert apart.max() < 1e-6 if transform in EITHER else np.median(apart) < 0.02


def test_pillows_images_come_and_go():
    pytest.importorskip("PIL")
    for image in (PICTURE, PICTURE[..., :1], PICTURE[..., 0], FLOATS):
        made = T.ToPILImage()(image)
        assert made.size == (15, 12)
        expected = T.PILToTensor()(PICTURE if image is FLOATS else image).numpy()
        assert (T.PILToTensor()(made).numpy() == expected).all()
    assert (np.asarray(T.CenterCrop(4)(T.ToPILImage()(PICTURE))) == PICTURE[4:8, 6:10]).all()
    with pytest.raises(DTypeError, match="int64"):
        T.ToPILImage()(np.zeros((3, 3), np.int64))


def test_combining():
    flip = T.RandomHorizontalFlip(1.0)
    assert (T.RandomApply([flip, flip], p=1.0)(PICTURE) == PICTURE).all()
    assert T.Compose([T.Lambda(lambda image: image[:2]), flip])(PICTURE).shape == (2, 15, 3)
    assert not T.Compose([T.Lambda(abs)]).keyed and T.Compose([T.Lambda(abs, keyed=True)]).keyed
    assert not T.RandomChoice([flip, abs]).keyed
    counts = [0, 0]
    for seed in range(200):
        with keyed_sample(seed):
            counts[T.RandomChoice([lambda _: 0, lambda _: 1], p=[1, 3])(None)] += 1
    assert 130 < counts[1] < 170
    assert len({T.RandomOrder([lambda x: x + 1, lambda x: x * 2])(1) for _ in range(20)}) == 2
    for crop, (row, column) in zip(T.FiveCrop(3)(PICTURE), [(0, 0), (0, 12), (9, 0), (9, 12), (4, 6)], strict=True):
        assert (crop == PICTURE[row : row + 3, column : column + 3]).all()


def test_resized_crops_cover_what_was_asked():
    shares, ratios = [], []
    transform = T.RandomResizedCrop(8, scale=(0.2, 0.6), ratio=(0.5, 2.0))
    for seed in range(300):
        with keyed_sample(seed):
            _, _, height, width = transform._place(100, 160)
        shares.append(height * width / 16000)
        ratios.append(width / height)
    assert 0.19 < min(shares) < 0.25 and 0.55 < max(shares) < 0.61
    assert 0.49 < min(ratios) < 0.55 and 1.8 < max(ratios) < 2.02
    assert T.RandomResizedCrop(8, scale=(0.5, 1.0), ratio=(8, 8))._place(100, 100) == (44, 0, 12, 100)


def test_erasing_fills_a_window():
    image = Tensor(np.zeros((3, 20, 20), np.float32))
    for value in (5.0, (1.0, 2.0, 3.0), "random"):
        erased = T.RandomErasing(p=1.0, value=value)(image).numpy()
        rows, columns = np.nonzero((erased != 0).all(0))
        assert 0.01 < len(rows) / 400 < 0.36
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        if value != "random":
            assert (erased[:, rows[0], columns[0]] == value).all()
    assert (T.RandomErasing(p=0.0)(image).numpy() == 0).all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: T.Pad((1, 2, 3)), "1, 2 or 4"),
        (lambda: T.Pad(1, padding_mode="wrap"), "padding_mode"),
        (lambda: T.Pad(20, padding_mode="reflect")(PICTURE), "reflect"),
        (lambda: T.Pad(1, fill=(1, 2))(PICTURE), "fill has 2 values, the image 3 channels"),
        (lambda: T.Resize(0), "at least 1"),
        (lambda: T.Resize(8, "lanczos"), "nearest, bilinear, bicubic"),
        (lambda: T.Resize((8, 8), max_size=9), "max_size"),
        (lambda: T.FiveCrop(13)(PICTURE), "too small"),
        (lambda: T.RandomResizedCrop(8, scale=(0, 1)), "above 0"),
        (lambda: T.RandomRotation(-5), "must not be negative"),
        (lambda: T.RandomAffine(0, translate=(2, 0)), "translate"),
        (lambda: T.RandomAffine(0, scale=(2, 1)), "scale"),
        (lambda: T.RandomAffine(0, shear=(1, 2, 3)), "shear"),
        (lambda: T.RandomPerspective(2.0), "distortion_scale"),
        (lambda: T.ColorJitter(hue=0.6), "0.5"),
        (lambda: T.ColorJitter(brightness=-1), "must not be negative"),
        (lambda: T.GaussianBlur(4), "odd"),
        (lambda: T.GaussianBlur(31)(PICTURE), "too small"),
        (lambda: T.Grayscale(2), "1 or 3"),
        (lambda: T.Grayscale()(PICTURE[..., :2]), "1 or 3 channels"),
        (lambda: T.RandomErasing()(PICTURE), "ToTensor"),
        (lambda: T.RandomErasing(value="noise"), "random"),
        (lambda: T.RandomChoice([abs], p=[1, 2]), "weight"),
        (lambda: T.RandomPosterize(9), "bits"),
        (lambda: T.RandAugment(magnitude=31), "magnitude"),
        (lambda: T.Compose([3]), "got 3"),
        (lambda: T.CenterCrop(3)(np.zeros(3)), r"got shape \(3,\)"),
        (lambda: T.MixUp(alpha=0), "alpha"),
        (lambda: T.MixUp()(np.zeros((2, 3), np.float32), np.zeros(2, int)), "num_classes"),
        (lambda: T.CutMix(num_classes=2)(np.zeros((2, 3, 3, 3), np.float32), np.array([0, 2])), r"\[0, 2\)"),
        (lambda: T.MixUp(num_classes=2)(np.zeros((2, 3), np.float32), np.zeros(3, int)), r"\(2, 3\) and \(3,\)"),
        (lambda: T.MixUp(num_classes=2)(np.zeros((2, 3), np.uint8), np.zeros(2, int)), "floating-point"),
    ],
)
def test_what_cannot_be_is_said(make, words):
    with pytest.raises((RangeError, ShapeError, DTypeError), match=words):
        make()


# -- beside PyTorch -----------------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(9, 30), (40, 7), (12, 15), (1, 1)])
def test_resize_is_interpolate(mode, antialias, size):
    torch = pytest.importorskip("torch")
    options = {} if mode == "nearest" else {"antialias": antialias, "align_corners": False}
    peer = torch.nn.functional.interpolate(torch.tensor(FLOATS.numpy())[None], size, mode=mode, **options)[0]
    np.testing.assert_allclose(resize(FLOATS.numpy(), *size, mode, antialias), peer.numpy(), atol=2e-6)


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_warp_is_grid_sample(mode):
    torch = pytest.importorskip("torch")
    inverse = inverse_affine((12, 15), 23.0, (2, -3), 1.2, (10.0, 5.0))
    rows, columns = affine_grid(inverse, 12, 15)
    scaled = inverse * [[1, 12 / 15, 2 / 15], [15 / 12, 1, 2 / 12]]
    grid = torch.nn.functional.affine_grid(torch.tensor(scaled, dtype=torch.float32)[None], [1, 3, 12, 15], False)
    peer = torch.nn.functional.grid_sample(torch.tensor(FLOATS.numpy())[None], grid, mode, "zeros", align_corners=False)
    ours = warp(FLOATS.numpy(), rows, columns, mode, np.zeros((1, 1, 1)))
    np.testing.assert_allclose(ours, peer[0].numpy(), atol=1e-5)


# -- known answers ------------------------------------------------------------------------------------------------

RED = np.zeros((3, 3, 3), np.float32)
RED[0] = 1.0


@pytest.mark.parametrize(
    "change, factor, expected",
    [
        (brighten, 0.5, (0.5, 0, 0)),
        (contrast, 0.0, (0.2989,) * 3),
        (saturate, 0.0, (0.2989,) * 3),
        (saturate, 0.5, (0.64945, 0.14945, 0.14945)),
        (turn_hue, 1 / 3, (0, 1, 0)),
        (turn_hue, -1 / 3, (0, 0, 1)),
        (turn_hue, 0.5, (0, 1, 1)),
        (sharpen, 3.0, (1, 0, 0)),
    ],
)
def test_colours(change, factor, expected):
    np.testing.assert_allclose(changed(RED, change, factor)[:, 1, 1], expected, atol=1e-6)


def test_turns():
    corner = np.zeros((4, 4), np.uint8)
    corner[0, 0] = 1
    assert (T.RandomRotation((90, 90))(corner) == np.rot90(corner)).all()
    assert (T.RandomAffine((90, 90))(corner) == np.rot90(corner, -1)).all()  # torchvision's two senses of turning
    shifted = warp(corner, *affine_grid(inverse_affine((4, 4), 0, (1, 2)), 4, 4), "nearest", np.zeros((1, 1)))
    assert shifted[2, 1] == 1 and shifted.sum() == 1
    assert T.RandomRotation((45, 45), expand=True)(np.ones((10, 10), np.uint8)).shape == (16, 16)
    filled = T.RandomRotation((45, 45), fill=9)(np.ones((10, 10), np.uint8))
    assert filled[0, 0] == 9 and filled[5, 5] == 1


def test_equal_histograms_and_stretched_contrast():
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8) + 100
    assert T.RandomAutocontrast(1.0)(ramp).min() == 0 and T.RandomAutocontrast(1.0)(ramp).max() == 255
    flat = T.RandomEqualize(1.0)(np.repeat(ramp, 16, 0))
    assert len(np.unique(flat)) > 45 and flat.max() == 255 and flat.min() == 0
    assert (T.RandomEqualize(1.0)(np.full((4, 4), 7, np.uint8)) == 7).all()


def test_functions_are_the_transforms_with_given_strengths():
    import phalanx.data.transforms.functional as TF
    from phalanx.data.transforms import v2

    assert set(v2.__all__) == set(T.__all__) and TF.get_image_size(FLOATS) == [15, 12]
    assert (TF.rotate(PICTURE, 30, expand=True) == T.RandomRotation((30, 30), expand=True)(PICTURE)).all()
    assert (TF.resized_crop(PICTURE, 1, 2, 6, 7, 9) == T.Resize(9)(PICTURE[1:7, 2:9])).all()
    assert (TF.affine(PICTURE, 15, (0, 0), 1, 0) == T.RandomAffine((15, 15))(PICTURE)).all()
    assert (TF.adjust_brightness(PICTURE, 0.5) == T.ColorJitter((0.5, 0.5))(PICTURE)).all()
    assert (TF.hflip(TF.vflip(FLOATS)).numpy() == FLOATS.numpy()[:, ::-1, ::-1]).all()
    for call in (
        lambda: TF.crop(PICTURE, 5, 5, 8, 8),
        lambda: TF.adjust_contrast(PICTURE, -1),
        lambda: TF.adjust_hue(PICTURE, 0.7),
        lambda: TF.affine(PICTURE, 0, (0, 0), 0, 0),
    ):
        with pytest.raises((RangeError, ShapeError)):
            call()


# -- batches ------------------------------------------------------------------------------------------------------


class Labelled(Dataset):
    keyed = True

    def __len__(self):
        return 21

    def __getitem__(self, index):
        return np.full((1, 6, 6), index, np.float32), index % 3


@pytest.mark.parametrize("mix", [T.MixUp(0.7, num_classes=3), T.CutMix(num_classes=3)], ids=name_of)
def test_mixed_batches_are_equal_at_any_number_of_ranks(mix):
    def batches(size, in_collate):
        found = {}
        for rank in range(size):
            set_placement(Placement(rank, size, 4))
            collate = (lambda samples: list(mix(*default_collate(samples)))) if in_collate else None
            loader = DataLoader(Labelled(), 8, shuffle=True, seed=5, collate_fn=collate)
            rng.manual_seed(3)
            for step in loader.steps():
                for x, y in step:
                    x, y = (x, y) if in_collate else mix(x, y)
                    found[step.index, step.shard] = (x.numpy().tobytes(), y.numpy().tobytes())
                    np.testing.assert_allclose(y.numpy().sum(1), 1, atol=1e-6)
        return found

    try:
        for in_collate in (False, True):
            alone = batches(1, in_collate)
            assert alone == batches(2, in_collate) == batches(3, in_collate)
            assert len(set(alone.values())) == len(alone) == 12
    finally:
        set_placement(Placement())


def test_mixing_keeps_the_share_of_each_label():
    x = np.stack([np.full((1, 40, 40), i, np.float32) for i in range(3)])
    for seed in range(20):
        with keyed_sample(seed):
            images, labels = T.CutMix(num_classes=3)(x, np.arange(3))
        share = (images.numpy() == x).mean((1, 2, 3))
        np.testing.assert_allclose(labels.numpy()[range(3), range(3)], share, atol=1e-6)
        with keyed_sample(seed):
            images, labels = T.MixUp(num_classes=3)(x, np.eye(3, dtype=np.float32))
        share = labels.numpy()[1, 1]
        np.testing.assert_allclose(images.numpy()[1], share * 1 + (1 - share) * 0, atol=1e-6)
    nothing, none = T.MixUp(num_classes=3)(x[:0], np.arange(0))
    assert nothing.shape == (0, 1, 40, 40) and none.shape == (0, 3)
