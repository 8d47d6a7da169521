"""Prove the trainer on a GPU, in one run that needs no clips and no network.

    python -m benchmarks.gpu --out figures --minutes 6
    python -m benchmarks.gpu --out figures --smoke        # on any machine: that it runs, not how fast

Samples of real shapes are made up in a temporary folder. The parts run in order of importance; what there was no time
for is said. Every figure is printed as it comes and written to OUT/gpu.json.
"""

import argparse
import platform
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.gpu.encoding import encoding
from benchmarks.gpu.first_steps import first_steps
from benchmarks.gpu.jpegs import jpegs
from benchmarks.gpu.limits import limits
from benchmarks.gpu.loaders import loaders
from benchmarks.gpu.runs import runs
from benchmarks.gpu.setting import SMOKE, Report, Setting, Sizes, say
from benchmarks.gpu.throughput import compiled, other_precisions, training
from mmsent.bench.machine import describe_machine
from mmsent.compute.precision import choose_device

_PARTS: dict[str, Callable[[Setting], None]] = {
    "limits": limits,
    "first-steps": first_steps,
    "runs": runs,
    "training": training,
    "compile": compiled,
    "loaders": loaders,
    "encoding": encoding,
    "other-precisions": other_precisions,
    "jpegs": jpegs,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 1 if one failed or a tolerance did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--minutes", type=float, default=6.0, help="after which no measurement is begun")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on the CPU if there is no GPU")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), metavar="PART", help="%(choices)s")
    options = parser.parse_args(arguments)
    if not (options.smoke or torch.cuda.is_available()):
        parser.error("there is no GPU here; --smoke shows on a CPU that everything runs")
    options.out.mkdir(parents=True, exist_ok=True)
    device = choose_device()
    report = Report(path=options.out / "gpu.json", about=_about(smoke=options.smoke))
    for name, value in report.about.items():
        say(f"{name}: {value}")
    with tempfile.TemporaryDirectory(prefix="mmsent-gpu-") as scratch:
        sizes = SMOKE if options.smoke else Sizes()
        setting = Setting(device=device, sizes=sizes, scratch=Path(scratch), report=report, minutes=options.minutes)
        for name in options.parts:
            start = time.monotonic()
            try:
                _PARTS[name](setting)
            except Exception as exc:  # the other parts are to be measured all the same
                traceback.print_exc()
                report.fail(name, f"{type(exc).__name__}: {exc}")
            say(f"-- {name}: {time.monotonic() - start:.0f} s")
    broken = [figure.name for figure in report.figures if figure.values.get("holds") is False]
    for name in broken:
        say(f"does not hold: {name}")
    return 1 if broken or report.failures else 0


def _about(*, smoke: bool) -> dict[str, float | int | bool | str]:
    about: dict[str, float | int | bool | str] = {
        "machine": describe_machine(),
        "smoke": smoke,
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "transformers": version("transformers"),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        driver = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        about |= {
            "device": properties.name,
            "device_memory_gib": properties.total_memory / 2**30,
            "cuda": torch.version.cuda or "",
            "cudnn": torch.backends.cudnn.version() or 0,  # type: ignore[no-untyped-call]
            "driver": subprocess.run(driver, stdout=subprocess.PIPE, text=True, check=False).stdout.strip(),
        }
    return about


if __name__ == "__main__":
    raise SystemExit(main())
