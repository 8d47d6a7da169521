"""Both decoders against ffmpeg on the matrix: a few dozen files always, several hundred on demand."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest

from preprocess.config import Decoder
from tests.support.matrix.case import Case
from tests.support.matrix.cases import all_cases
from tests.support.matrix.judge import Judgement
from tests.support.matrix.run import Matrix

CASES = all_cases()
QUICK = [case for case in CASES if case.quick]
OTHERS = [case for case in CASES if not case.quick]
each_decoder = pytest.mark.parametrize("decoder", get_args(Decoder))


@cache
def judged(*, quick: bool, decoder: Decoder) -> dict[str, Judgement]:
    return made(quick=quick).judge(decoder)


_FOLDERS: list[TemporaryDirectory[str]] = []


@cache
def made(*, quick: bool) -> Matrix:
    _FOLDERS.append(TemporaryDirectory())
    return Matrix(Path(_FOLDERS[-1].name), QUICK if quick else OTHERS)


@pytest.fixture(scope="module", autouse=True)
def forget_files_after_the_last_test() -> object:
    yield
    made.cache_clear()
    judged.cache_clear()
    while _FOLDERS:
        _FOLDERS.pop().cleanup()


def check(case: Case, judgement: Judgement) -> None:
    """Check that a file gives what ffmpeg reads, or says in a note why not, and has the notes of its kind."""
    assert judgement.outcome in ("agrees", "noted"), judgement.why
    assert set(case.notes) <= judgement.notes


@each_decoder
@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.name)
def test_a_file_gives_what_ffmpeg_reads(case: Case, decoder: Decoder) -> None:
    check(case, judged(quick=True, decoder=decoder)[case.name])


@pytest.mark.exhaustive
@each_decoder
@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_every_file_of_the_matrix_gives_what_ffmpeg_reads(case: Case, decoder: Decoder) -> None:
    check(case, judged(quick=False, decoder=decoder)[case.name])


def test_no_two_files_of_the_matrix_have_one_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 500
