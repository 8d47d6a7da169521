"""What the device can do at most: products of matrices, copies on it and to it."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu.setting import Setting, free_memory

__all__ = ["limits"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def limits(setting: Setting) -> None:
    """Measure products of square matrices in each precision, a copy on the device, and copies from the host."""
    device, sizes = setting.device, setting.sizes
    on_gpu = device.type == "cuda"
    torch.set_float32_matmul_precision("high" if on_gpu else "highest")
    for precision, dtype in _DTYPES.items():
        if precision == "fp16" and not on_gpu:
            continue
        with free_memory(device):
            left, right = (torch.randn(sizes.matrix, sizes.matrix, device=device).to(dtype) for _ in range(2))
            seconds = seconds_of(lambda left=left, right=right: left @ right, device=device)  # type: ignore[misc]
            flops = 2 * sizes.matrix**3 / seconds
            setting.matmul_flops[precision] = flops
            name = f"{sizes.matrix} x {sizes.matrix} product, {'TF32' if dtype == torch.float32 else precision}"
            setting.report.add("limits", name, tflops=flops / 1e12)
    with free_memory(device):
        source = torch.randint(0, 255, (sizes.copy_bytes,), dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        seconds = seconds_of(lambda: target.copy_(source), device=device)
        setting.report.add("limits", "copy on the device, read and written", gb_per_second=2e-9 * len(source) / seconds)
        if not on_gpu:
            return
        for name, pinned in (("pinned", True), ("pageable", False)):
            host = torch.empty(sizes.copy_bytes // 8, dtype=torch.uint8, pin_memory=pinned)
            target = torch.empty(len(host), dtype=torch.uint8, device=device)
            seconds = seconds_of(
                lambda host=host, target=target: target.copy_(host, non_blocking=True),  # type: ignore[misc]
                device=device,
            )
            setting.report.add("limits", f"copy to the device, {name}", gb_per_second=1e-9 * len(host) / seconds)


def seconds_of(run: Callable[[], Tensor], *, device: torch.device, repeats: int = 10) -> float:
    """Return the median time of some runs, by the device's clock if it has one."""
    for _ in range(3):
        run()
    found = []
    for _ in range(repeats):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            run()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end) / 1000)
        else:
            start = time.perf_counter()
            run()
            found.append(time.perf_counter() - start)
    return float(statistics.median(found))
