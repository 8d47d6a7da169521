"""The matrix at work: files written, read by ffmpeg, and by the decoders."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from preprocess.config import Decoder
from tests.support.matrix.case import Case
from tests.support.matrix.judge import Judgement, extract_cases, judge, read_reference
from tests.support.matrix.studio import Reference, Studio

__all__ = ["Matrix"]


class Matrix:
    """Some files, and what ffmpeg reads from each."""

    def __init__(self, root: Path, cases: Sequence[Case], *, num_threads: int = 2) -> None:
        """Write the files and let ffmpeg read them.

        Args:
            root: The folder for them.
            cases: The files.
            num_threads: Runs of ffmpeg at a time.
        """
        self._root = root
        self.cases = tuple(cases)
        self._studio = Studio(root / "raw")
        for axis in {case.axis for case in cases}:
            (root / axis).mkdir()
        with ThreadPoolExecutor(num_threads) as threads:
            self._references = list(threads.map(self._prepare, self.cases))

    def judge(self, decoder: Decoder) -> dict[str, Judgement]:
        """Read all files by a decoder; return how each fares, by its name."""
        extracts = extract_cases(self._root, self.cases, decoder=decoder)
        return {
            case.name: judge(extracted, reference)
            for case, extracted, reference in zip(self.cases, extracts, self._references, strict=True)
        }

    def _prepare(self, case: Case) -> Reference:
        case.write(self._studio, self._root / case.axis / case.name)
        return read_reference(self._root, case)
