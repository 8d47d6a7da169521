"""`mmsent encode`, and epochs on what it makes."""

import time
from dataclasses import replace

from benchmarks.gpu.setting import Setting, free_memory
from benchmarks.made_up import write_made_up
from benchmarks.training import encoded_spec, time_epochs
from mmsent.encoding.encode_shards import encode_shards
from mmsent.encoding.frozen_encoders import Pretrained

__all__ = ["encoding"]


def encoding(setting: Setting) -> None:
    """Encode video and text, each alone and together; then train on shards of features of MELD's size."""
    sizes = setting.sizes
    shards = setting.shards(num_train=sizes.num_small)
    for modalities in (("video",), ("text",), ("video", "text")):
        if not setting.has_time(10, f"encoding {' and '.join(modalities)}"):
            continue
        out = setting.scratch / f"encoded-{'-'.join(modalities)}"
        config = setting.model_config()
        if "video" not in modalities:  # a setting of what is left out is refused
            config = replace(config, video_encoder="r3d_18")
        config = replace(config, modalities=modalities)
        with free_memory(setting.device):
            start = time.perf_counter()
            done = encode_shards(shards, out, encoders=Pretrained(config), batch_size=64, precision="auto")
            seconds = time.perf_counter() - start
        setting.report.add(
            "encoding",
            f"{' and '.join(modalities)} in {done.precision}, start and writing included",
            samples_per_second=done.num_samples / seconds,
        )
    if not setting.has_time(25, "epochs on encoded shards"):
        return
    features = setting.scratch / "features"
    write_made_up(features, encoded_spec(), {"train": sizes.num_encoded, "dev": sizes.num_dev})
    for batch_size in sizes.epoch_batch_sizes:
        cost = time_epochs(
            features, setting.scratch / f"features-run-{batch_size}", batch_size=batch_size, num_epochs=5
        )
        setting.report.add(
            "epochs on features",
            f"{sizes.num_encoded:,} samples, batch {batch_size}",
            epoch_seconds=cost.seconds,
            samples_per_second=sizes.num_encoded / cost.seconds,
            wait_share=cost.wait_share,
        )
