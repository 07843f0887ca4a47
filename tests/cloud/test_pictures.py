"""Pictures in the cloud: the teacher answers each as if it were alone; what is no picture is refused with a code."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from littoral.bundle import Bundle
from littoral.bundle.images import Picture, encode_image
from littoral.cloud.cloud import CloudConfig, make_tails
from littoral.cloud.metrics import Metrics
from littoral.cloud.pictures import PictureTeacher
from littoral.cloud.tails import TailConfig, Tails
from littoral.core.arrays import FloatArray
from littoral.core.batching import BatchConfig
from littoral.errors import BundleError, ModelOutputError, PayloadError
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.wire.messages import Offload, OffloadAnswer

CODINGS = ("lossless", "raw", "png")


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, require_cloud=True)


@pytest.fixture(scope="module")
def teacher(bundle: Bundle) -> PictureTeacher:
    return PictureTeacher(bundle, device="cpu")


def logits(bundle: Bundle, frames: np.ndarray) -> FloatArray:
    """Of the bundle's teacher, by its own factory."""
    spec = bundle.manifest.teacher
    assert spec is not None
    model = load_model(spec, bundle.load_tensors(spec.file))
    with torch.inference_mode():
        return model(normalise(torch.from_numpy(np.array(frames)), bundle.manifest.input)).numpy()  # type: ignore[no-any-return]


def picture(frame: np.ndarray, coding: str = "lossless") -> Picture:
    return encode_image(frame, coding)


def test_a_picture_without_loss_is_answered_as_the_teacher_answers_the_frame(
    bundle: Bundle, teacher: PictureTeacher
) -> None:
    frames = bundle.probe[0][:5]
    expected = logits(bundle, frames)
    for coding in ("lossless", "raw", "png"):
        came = teacher.answer([picture(frame, coding) for frame in frames])
        np.testing.assert_allclose(np.stack(came), expected, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]
    others = np.stack(teacher.answer([picture(frame // 2) for frame in frames]))  # type: ignore[arg-type]
    assert np.abs(others - expected).max() > 1e-2, "another picture has another answer"


def test_an_answer_does_not_depend_on_whose_pictures_are_in_the_batch(bundle: Bundle, teacher: PictureTeacher) -> None:
    frames = bundle.probe[0]
    alone = teacher.answer([picture(frames[0])])[0]
    among = teacher.answer([picture(np.zeros_like(frames[0])), picture(frames[0]), Picture("png", b"no")])[1]
    np.testing.assert_allclose(among, alone, rtol=1e-4, atol=1e-4)  # type: ignore[arg-type]


def png_of(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def hostile(bundle: Bundle) -> dict[str, Picture]:
    """What is no picture of a frame of this bundle."""
    height, width, _ = bundle.manifest.input.shape
    good = encode_image(bundle.probe[0][0], "png")[1]
    bomb = png_of(3_000, 3_000)
    liar = bytearray(bomb)
    liar[16:24] = good[16:24]  # the header says the right size, the pixels are of another
    liar[29:33] = zlib.crc32(bytes(liar[12:29])).to_bytes(4, "big")
    return {
        "nothing": Picture("png", b""),
        "no-image": Picture("webp", b"RIFF" + bytes(40)),
        "of-another-size": Picture("png", png_of(width + 1, height)),
        "inflates": Picture("png", bomb),
        "inflates-behind-a-header": Picture("png", bytes(liar)),
        "cut-short": Picture("png", good[: len(good) // 2]),
        "of-another-coding": Picture("jpeg", good),
        "of-a-coding-that-is-none": Picture("gif", good),
        "raw-and-short": Picture("raw", bytes(bundle.manifest.input.num_bytes - 1)),
    }


HOSTILE = (
    "nothing", "no-image", "of-another-size", "inflates", "inflates-behind-a-header", "cut-short", "of-another-coding",
    "of-a-coding-that-is-none", "raw-and-short",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_picture_of_a_frame_is_damaged_and_harms_no_other(
    bundle: Bundle, teacher: PictureTeacher, hostile: dict[str, Picture], name: str
) -> None:
    bad, good = hostile[name], picture(bundle.probe[0][0])
    first, refused, last = teacher.answer([good, bad, good])
    np.testing.assert_array_equal(first, last)  # type: ignore[arg-type]
    assert isinstance(refused, PayloadError)
    assert refused.code == "damaged"


def test_an_output_that_is_not_finite_is_no_answer(bundle: Bundle) -> None:
    broken = PictureTeacher(bundle, device="cpu")
    with torch.no_grad():
        for parameter in broken._model.parameters():
            parameter.fill_(float("nan"))
    (came,) = broken.answer([picture(bundle.probe[0][0])])
    assert isinstance(came, ModelOutputError)


def test_a_bundle_without_a_teacher_has_nobody_for_pictures(bundle: Bundle) -> None:
    other = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, teacher=None))
    with pytest.raises(BundleError, match="has no teacher to answer pictures"):
        PictureTeacher(other)
    assert make_tails(other, CloudConfig()) == {}


def test_a_cloud_that_is_told_not_to_makes_no_teacher_for_pictures(bundle: Bundle) -> None:
    assert list(make_tails(bundle, CloudConfig())) == [None]
    assert make_tails(bundle, CloudConfig(tails=TailConfig(pictures=False))) == {}


# Through the batcher.


def asked(bundle: Bundle, *pictures: Picture, has_teacher: bool = True) -> list[OffloadAnswer]:
    config = TailConfig(batch=BatchConfig(max_wait_ms=50.0, first_guess_ms=0.0))
    tails = Tails(
        {None: PictureTeacher(bundle, device="cpu")} if has_teacher else {},
        bundle.manifest.make_task(),
        config,
        Metrics("harbour"),
        max_picture_bytes=bundle.manifest.input.num_bytes,
    )
    assert tails.takes_pictures == has_teacher

    async def ask() -> list[OffloadAnswer]:
        now_ms = asyncio.get_running_loop().time() * 1000
        requests = [
            Offload(request=n, split=0, version=0, payload=one.image, deadline_ms=20_000, coding=one.coding)
            for n, one in enumerate(pictures)
        ]
        answers = await asyncio.gather(*(tails.answer(one, device="a", arrived_ms=now_ms) for one in requests))
        tails.close()
        return answers

    return asyncio.run(ask())


def test_pictures_wait_for_their_batch_and_are_answered_like_payloads(bundle: Bundle) -> None:
    frames = bundle.probe[0][:3]
    answers = asked(bundle, *(picture(frame, coding) for frame, coding in zip(frames, CODINGS, strict=True)))
    assert [one.code for one in answers] == ["ok"] * 3
    assert all(one.compute_ms > 0 for one in answers)


def test_a_picture_larger_than_a_frame_is_refused_before_it_waits(bundle: Bundle) -> None:
    num_bytes = bundle.manifest.input.num_bytes
    codes = [one.code for one in asked(bundle, Picture("raw", bytes(num_bytes)), Picture("raw", bytes(num_bytes + 1)))]
    assert codes == ["ok", "too-large"]


def test_a_cloud_that_has_no_teacher_says_so(bundle: Bundle) -> None:
    (answer,) = asked(bundle, picture(bundle.probe[0][0]), has_teacher=False)
    assert (answer.code, answer.answer) == ("unknown-split", b"")
    assert "no pictures" in answer.message
