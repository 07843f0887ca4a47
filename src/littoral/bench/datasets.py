"""The data sets that the benches know: what is in a folder, under which terms, and where the rest is to be had.

Standard library only, so that ``littoral data`` works wherever the package does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One file at a data set's own home."""

    part: str
    url: str
    md5: str
    """As its authors publish it. It tells damage; the home itself is told by HTTPS."""
    max_bytes: int
    """More than this is not taken. The file's own size, where that is known."""
    holds: tuple[str, ...]
    """What is there once it is unpacked, below the data set's folder."""

    @property
    def file(self) -> str:
        """Its name at home."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set by the name that ``littoral data`` takes."""

    name: str
    title: str
    home: str
    licence: str
    into: str = ""
    """Folder that archives are unpacked in, below the user's."""
    archives: tuple[Archive, ...]
    instead: tuple[str, ...] = ()
    """Other files that serve as well, below the user's folder; all of them."""

    def is_in(self, folder: Path) -> bool:
        """Whether all of it is there."""
        if self.instead and all((folder / path).exists() for path in self.instead):
            return True
        return not self.missing_from(folder)

    def missing_from(self, folder: Path) -> tuple[Archive, ...]:
        """The archives of which something is not there."""
        below = folder / self.into
        return tuple(a for a in self.archives if not all((below / path).exists() for path in a.holds))


def _imagenet_c(part: str, md5: str, size: int, *holds: str) -> Archive:
    url = f"https://zenodo.org/records/2235448/files/{part}.tar"
    return Archive(part=part, url=url, md5=md5, max_bytes=size, holds=holds)


DATA_SETS: tuple[DataSet, ...] = (
    DataSet(
        name="cifar10",
        title="CIFAR-10: 60,000 photographs of 32 x 32 pixels in 10 classes (Krizhevsky 2009)",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated by its authors; cite the report",
        archives=(
            Archive(
                part="all",
                url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",  # the version without pickles
                md5="c32a1d4ab5d03f1284b67883e8d87530",
                max_bytes=170_052_171,
                holds=tuple(
                    f"cifar-10-batches-bin/{name}.bin"
                    for name in ("test_batch", *(f"data_batch_{number}" for number in range(1, 6)))
                ),
            ),
        ),
        instead=("cifar10/train.npz", "cifar10/test.npz"),
    ),
    DataSet(
        name="cifar10-c",
        title="CIFAR-10-C: the CIFAR-10 test set under 19 corruptions at 5 severities (Hendrycks & Dietterich 2019)",
        home="https://zenodo.org/records/2535967",
        licence="CC BY 4.0",
        archives=(
            Archive(
                part="all",
                url="https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
                md5="56bf5dcef84df0e2308c6dcbcbbd8499",
                max_bytes=2_918_471_680,
                holds=("CIFAR-10-C/labels.npy", "CIFAR-10-C/gaussian_noise.npy", "CIFAR-10-C/jpeg_compression.npy"),
            ),
        ),
    ),
    DataSet(
        name="imagenet-c",
        title="ImageNet-C: ImageNet's validation set, 19 corruptions at 5 severities (Hendrycks & Dietterich 2019)",
        home="https://zenodo.org/records/2235448",
        licence="CC BY 4.0 for the record; the pictures keep ImageNet's terms (non-commercial research)",
        into="ImageNet-C",
        archives=(
            _imagenet_c(
                *("noise", "e80562d7f6c3f8834afb1ecf27252745", 22_565_673_785),
                *("gaussian_noise", "shot_noise", "impulse_noise"),
            ),
            _imagenet_c(
                *("blur", "2d8e81fdd8e07fef67b9334fa635e45c", 7_112_704_951),
                *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
            ),
            _imagenet_c(
                *("weather", "33ffea4db4d93fe4a428c40a6ce0c25d", 12_797_438_995),
                *("snow", "frost", "fog", "brightness"),
            ),
            _imagenet_c(
                *("digital", "89157860d7b10d5797849337ca2e5c03", 7_757_510_705),
                *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
            ),
            _imagenet_c(
                *("extra", "d492dfba5fc162d8ec2c3cd8ee672984", 15_789_490_144),
                *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
            ),
        ),
    ),
    DataSet(
        name="imagenet-r",
        title="ImageNet-R: 30,000 renditions (art, toys, sketches) of 200 ImageNet classes (Hendrycks et al. 2021)",
        home="https://github.com/hendrycks/imagenet-r",
        licence="MIT for the repository; the pictures keep their makers' terms",
        archives=(
            Archive(
                part="all",
                url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
                md5="a61312130a589d0ca1a8fca1f2bd3337",
                max_bytes=2_300 * MB,
                holds=("imagenet-r",),
            ),
        ),
    ),
)


def find(name: str) -> DataSet:
    """A data set by its name. Raises: ValueError: there is none of this name."""
    for known in DATA_SETS:
        if known.name == name:
            return known
    raise ValueError(f"no data set is called {name!r}; there are {', '.join(known.name for known in DATA_SETS)}")


def size(data_set: DataSet) -> str:
    """What has to be downloaded, for people."""
    return _bytes(sum(archive.max_bytes for archive in data_set.archives))


def _bytes(count: int) -> str:
    return f"{count / 1000 / MB:.1f} GB" if count >= 1000 * MB else f"{count / MB:.0f} MB"
