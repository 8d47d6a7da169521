"""The `mmsent` command: parses, calls, draws. Heavy libraries are imported inside the commands: `--help` is instant."""

import errno
import json
import logging
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from drawing import (
    epoch_line,
    print_checks,
    print_diagnosis,
    print_estimate,
    print_evaluation,
    print_next,
    print_reports,
    print_scores_over_seeds,
    print_timings,
    size_text,
    stderr,
    stdout,
)
from mmsent.config import (
    ClassWeights,
    Fusion,
    Loss,
    ModelConfig,
    OrderKind,
    Precision,
    Schedule,
    Selection,
    TextPooling,
    TrainConfig,
    VideoEncoderName,
)
from preprocess.config import (
    DatasetFormat,
    Decoder,
    DemoConfig,
    Part,
    PreprocessConfig,
    Preset,
    TestClips,
    max_tokens_for,
    preset,
)
from shards.errors import ExpectedError, ShardError, describe
from shards.schema import MODALITIES, FeatureSpec, Modality, Storage

if TYPE_CHECKING:
    from mmsent.results import EpochResult, StepInfo, TrainResult
    from shards.cache import ShardCache
    from shards.verify import SplitCheck

__all__ = ["app", "main"]

app = typer.Typer(
    name="mmsent",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Emotion, sentiment or labels of your own from clips of people talking: raw clips to shards, a model, scores.",
)

_LOG = logging.getLogger(__name__)

_DEMO = DemoConfig()
_PREPROCESS = PreprocessConfig()
_MODEL = ModelConfig()
_TRAIN = TrainConfig()

T = TypeVar("T")
_DISK_TROUBLE = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR,
    errno.ENOTEMPTY, errno.EPERM, errno.EROFS,
}  # fmt: skip
"""What a disk or its owner may do to any file at any time, where no nearer message was written for it."""

_CACHE_GIGABYTES = 20.0
_ALL_MODALITIES = ",".join(MODALITIES)

_MODEL_PANEL = "The model"
_OPTIMISER_PANEL = "Optimisation"
_LOSS_PANEL = "Loss and augmentation"
_DATA_PANEL = "Reading the data"

CacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where shards behind a URL are kept, for all runs of this machine.",
        show_default="~/.cache/mmsent/shards",
        rich_help_panel=_DATA_PANEL,
    ),
]
CacheSizeOption = Annotated[
    float, typer.Option(help="Gigabytes that the cache never exceeds.", rich_help_panel=_DATA_PANEL)
]
TextEncoderOption = Annotated[
    str,
    typer.Option(
        help="A Hugging Face name, a folder, or `scratch`; the shards must be tokenized for it.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
TextPoolingOption = Annotated[
    TextPooling,
    typer.Option(
        help="What is taken of its output: BERT's pooler, the first token, or the mean of all.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
VideoEncoderOption = Annotated[
    VideoEncoderName, typer.Option(help="A video model of torchvision.", rich_help_panel=_MODEL_PANEL)
]
VideoWeightsOption = Annotated[
    str,
    typer.Option(
        help="Of the video encoder: `kinetics`, `none` (random), or the path of a state dict.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
ModalitiesOption = Annotated[
    str, typer.Option(help="What the model looks at, with commas.", rich_help_panel=_MODEL_PANEL)
]
TrainEncodersOption = Annotated[
    str,
    typer.Option(
        help="Pre-trained encoders to train too: `video`, `text` or `video,text`.", rich_help_panel=_MODEL_PANEL
    ),
]
BatchSizeOption = Annotated[
    int, typer.Option(help="Samples of a step, over all processes.", rich_help_panel=_OPTIMISER_PANEL)
]
AccumulationOption = Annotated[
    int,
    typer.Option(
        help="Parts in which a step is computed, for less memory; batch normalisation sees one at a time.",
        rich_help_panel=_OPTIMISER_PANEL,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="Of the forward pass; auto: bf16 or else fp16 on a GPU, fp32 on a CPU.", rich_help_panel=_OPTIMISER_PANEL
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the encoders: slower to start, then faster.", rich_help_panel=_OPTIMISER_PANEL
    ),
]
ReadersOption = Annotated[int, typer.Option(help="Threads that fill batches.", rich_help_panel=_DATA_PANEL)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def main() -> None:
    """Run the command; expected trouble is printed and ends with exit code 1, wrong usage with 2."""
    try:
        app()
    except ExpectedError as exc:
        first, *rest = str(exc).splitlines()
        stderr.print(f"[bold red]error:[/] {escape(first)}", highlight=False, soft_wrap=True)
        for line in rest:
            stderr.print(escape(line), highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as exc:
        if exc.errno not in _DISK_TROUBLE:
            raise
        stderr.print(f"[bold red]error:[/] {escape(exc.strerror or str(exc))}", highlight=False, soft_wrap=True)
        if exc.filename:
            stderr.print(f"  file: {escape(str(exc.filename))}", highlight=False, soft_wrap=True)
        then = "check the path, its permissions and the free space, and run the same command again"
        stderr.print(f"  next: {then}", highlight=False, soft_wrap=True)
        sys.exit(1)


@app.callback()
def _set_up() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_LogHandler()], force=True)
    for noisy in ("httpx", "huggingface_hub", "transformers"):
        logging.getLogger(noisy).setLevel(logging.ERROR)  # their last word comes back as an error of ours


class _LogHandler(logging.Handler):
    """Log lines as errors look, above the bars and never wrapped: Rich's own handler breaks them at 80 columns."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line on standard error."""
        level = f"[yellow]{record.levelname.lower()}:[/] " if record.levelno >= logging.WARNING else ""
        stderr.print(f"{level}{escape(self.format(record))}", highlight=False, soft_wrap=True)


@app.command("make-demo")
def make_demo_command(
    directory: Annotated[Path, typer.Argument(help="Folder to make; it must not exist or be empty.")],
    utterances: Annotated[int, typer.Option(help="Clips in all, over the three splits.")] = _DEMO.num_utterances,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = _DEMO.seed,
    workers: Annotated[int | None, typer.Option(help="Processes that encode; as many as cores if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a small MELD-format data set to try everything on.

    Three CSVs in MELD's columns and mp4 clips with picture and sound, whose emotion can be learned from the text, the
    sound or the picture alone, and better from all three.

    Example: `mmsent make-demo data/demo --utterances 120`
    """
    from preprocess.demo import make_demo

    config = _checked(lambda: DemoConfig(num_utterances=utterances, seed=seed, num_workers=_workers(workers)))
    with _progress() as progress:
        task = progress.add_task("clips", total=None)
        summary = make_demo(directory, config, on_progress=partial(_move, progress, task))
    if as_json:
        _print_json(asdict(summary))
        return
    rows = ", ".join(f"{split} {count}" for split, count in summary.num_rows.items())
    size = f"{summary.num_clips} clips, {summary.footage_seconds:.0f} s of footage, {size_text(summary.total_bytes)}"
    stdout.print(f"Demo data set in {escape(str(directory))}: {size}; rows: {rows}", highlight=False, soft_wrap=True)
    print_next(f"mmsent preprocess {shlex.quote(str(directory))} --out SHARDS --text-encoder scratch")


@app.command("doctor")
def doctor_command(
    meld: Annotated[Path, typer.Argument(help="Folder with MELD's CSVs and clips, in any of the known layouts.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Open every clip: count its frames, decode its sound and some pictures.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as one self-contained file, too.")] = None,
    clip_timeout: Annotated[
        float, typer.Option(help="With --deep: seconds after which a clip is given up, plus 10 per megabyte.")
    ] = 60.0,
    workers: Annotated[
        int | None, typer.Option(help="With --deep: processes that open clips; as many as cores if not given.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is wrong with a MELD folder, in seconds and without changing it.

    Compares rows and clips with the official counts, clips with their rows, and rows with each other; and says which of
    MELD's publicly known issues it found. Exit code 1 if there are errors: rows without picture or sound, splits that
    are not there, labels that contradict each other. Warnings and notes leave it 0.

    Example: `mmsent doctor MELD.Raw --html report.html`
    """
    from preprocess.doctor import diagnose, diagnosis_to_json
    from preprocess.doctor_html import render_html
    from shards.index import publish

    if not (math.isfinite(clip_timeout) and clip_timeout > 0):
        raise typer.BadParameter(f"--clip-timeout must be above 0, got {clip_timeout}")
    num_workers = _checked(lambda: _workers(workers))
    with _progress_by_name() as on_progress:
        diagnosis = diagnose(
            meld, deep=deep, num_workers=num_workers, timeout_seconds=clip_timeout, on_progress=on_progress
        )
    if html is not None:
        publish(html, render_html(diagnosis).encode())
    if as_json:
        _print_json(diagnosis_to_json(diagnosis))
    else:
        print_diagnosis(diagnosis)
        if html is not None:
            stdout.print(f"Report: {escape(str(html))}", highlight=False, soft_wrap=True)
    if diagnosis.count("error"):
        raise typer.Exit(1)


@app.command("preprocess")
def preprocess_command(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder of MELD or EmoryNLP, in any known layout, or a CSV of clips.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the shards. Run again with the same folder to go on or update.")
    ],
    kind: Annotated[
        DatasetFormat, typer.Option("--format", help="What DATA is; auto looks at the names of its files.")
    ] = "auto",
    preset_name: Annotated[
        Preset, typer.Option("--preset", help="Where the choices below begin; tutorial: 30 first frames of 224x224.")
    ] = "default",
    text_encoder: Annotated[
        str, typer.Option(help="Whose tokenizer: a Hugging Face name, a folder, or `scratch` (learned from train).")
    ] = _PREPROCESS.text_encoder,
    context: Annotated[
        int,
        typer.Option(metavar="K", help="Earlier utterances of the dialogue in an utterance's tokens, with speakers."),
    ] = _PREPROCESS.context_utterances,
    frames: Annotated[
        int | None, typer.Option(help="Frames per clip.", show_default=str(_PREPROCESS.num_frames))
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Height and width of a frame in pixels.",
            show_default=f"{_PREPROCESS.height}x{_PREPROCESS.width}",
        ),
    ] = None,
    storage: Annotated[
        Storage, typer.Option(help="Of frames: raw values, or one JPEG per sample, decoded while training.")
    ] = _PREPROCESS.storage,
    hops: Annotated[
        int | None,
        typer.Option(
            help="Columns of the log-mel, 32 ms each, from the start of the sound.",
            show_default=str(_PREPROCESS.num_hops),
        ),
    ] = None,
    test_clips: Annotated[
        TestClips, typer.Option(help="For test rows with a final_videos_test twin: the better fit, the twin, or never.")
    ] = _PREPROCESS.test_clips,
    samples_per_shard: Annotated[int, typer.Option(help="Rows in a shard.")] = _PREPROCESS.samples_per_shard,
    decoder: Annotated[
        Decoder, typer.Option(help="decord, with PyAV for what it cannot read; or pyav, which skips unneeded frames.")
    ] = _PREPROCESS.decoder,
    clip_timeout: Annotated[
        float, typer.Option(help="Seconds after which a clip's decoder is killed, plus 10 per megabyte.")
    ] = _PREPROCESS.clip_timeout_seconds,
    max_failed_fraction: Annotated[
        float, typer.Option(help="Refuse a split when more of its rows have no picture (0 to 1).")
    ] = _PREPROCESS.max_failed_fraction,
    part: Annotated[
        str, typer.Option(metavar="I/N", help="Make the I-th of N shares of the shards, here or on another machine.")
    ] = "1/1",
    remake: Annotated[
        bool, typer.Option("--remake", help="Decode pictures again if they are to be made in another way than before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Decode a few clips, and say what all would take; write nothing.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes that decode; as many as cores if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Decode every clip once and write WebDataset shards.

    Every row becomes a sample. A clip that is missing, broken or silent keeps its row, text and labels, with what it
    lacks marked absent and the reason in the report (also in OUT/report.json).

    DATA may also be a CSV that lists your own clips and their labels (docs/own-data.md).

    With `--context 2` the tokens of an utterance are `[CLS] Monica: … [SEP] Ross: … [SEP] Rachel: its text [SEP]`; in a
    folder of shards without it, `mmsent preprocess MELD.Raw --out data/shards --context 2` decodes nothing again.

    Example: `mmsent preprocess MELD.Raw --out data/shards`
    """
    from preprocess.adapters import read_dataset
    from preprocess.build import build_shards, build_tokenizer, check_run
    from preprocess.estimate import estimate_run
    from preprocess.report import REPORT_NAME, report_splits, report_to_json
    from shards.index import publish

    start = preset(preset_name)
    height, width = _size(size) if size is not None else (start.height, start.width)
    config = _checked(
        lambda: replace(
            start,
            num_frames=start.num_frames if frames is None else frames,
            height=height,
            width=width,
            storage=storage,
            num_hops=start.num_hops if hops is None else hops,
            text_encoder=text_encoder,
            context_utterances=context,
            max_tokens=max_tokens_for(context),
            samples_per_shard=samples_per_shard,
            test_clips=test_clips,
            decoder=decoder,
            clip_timeout_seconds=clip_timeout,
            max_failed_fraction=max_failed_fraction,
        )
    )
    num_workers = _checked(lambda: _workers(workers))
    share = _part(part)
    dataset = read_dataset(data, kind)
    for split in dataset.missing_splits:
        _LOG.warning("there are no annotations of %s: the split is left out", split)
    for path in dataset.other_csvs:
        _LOG.warning("not read, because there is one higher up: %s", path)
    tokenizer = build_tokenizer(dataset, config)
    if dry_run:
        claim = check_run(dataset, out, config=config, tokenizer=tokenizer, remake=remake)
        estimate = estimate_run(dataset, out, config=config, spec=claim.spec, part=share, num_workers=num_workers)
        if as_json:
            _print_json({**asdict(estimate), "fits": estimate.fits})
        else:
            print_estimate(estimate, out, part=share, num_workers=num_workers)
        return
    with _progress_by_name() as on_progress:
        made = build_shards(
            dataset,
            out,
            config=config,
            tokenizer=tokenizer,
            num_workers=num_workers,
            part=share,
            remake=remake,
            on_progress=on_progress,
        )
    reports = report_splits(dataset, out, made=made)
    value = report_to_json(dataset, reports)
    if all(item.finished for item in made.values()):
        publish(out / REPORT_NAME, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
    if as_json:
        _print_json({**value, "made": {split: asdict(item) for split, item in made.items()}})
        return
    if missing := [name for item in made.values() for name in item.shards_missing]:
        num_made = sum(item.shards_made for item in made.values())
        stdout.print(
            f"Part {share.number} of {share.count} is done, {num_made} shards made. Other parts are not: "
            f"{len(missing)} shards are missing, {missing[0]} for one.",
            highlight=False,
            soft_wrap=True,
        )
        print_next("the other parts; whichever ends last finishes the splits. Made apart, copy them together and run")
        stdout.print(f"  mmsent index {shlex.quote(str(out))}", highlight=False, soft_wrap=True)
        return
    print_reports(reports, out)
    print_next(f"mmsent train --shards {shlex.quote(str(out))} --out RUN{_encoder_option(text_encoder)}")


@app.command("index")
def index_command(
    shards: Annotated[
        Path,
        typer.Argument(
            help="Folder the parts were made or copied into, with their .work folders; or a folder of tars."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Finish splits whose shards were made in parts on machines that share no disk, or make tars of others loadable.

    Each part leaves its shards and what is recorded of them in the split's hidden .work folder. Copy all of it into one
    folder; when no shard is missing, this writes the index that makes a split readable.

    Tars that another program wrote need frames.npy (or frames.jpg), logmel.npy, tokens.npy and json under each key.
    Those in DIR are one split, or those in each of its sub-folders are; docs/loading.md has the details.

    Example: `mmsent index data/shards`
    """
    from preprocess.complete import complete_splits, is_made_here
    from shards.adopt import adopt_tars

    if is_made_here(shards):
        found = complete_splits(shards)
    else:
        with _progress_by_name() as on_progress:
            adopted = adopt_tars(shards, on_progress=on_progress)
        for split in adopted:
            if split.ignored:
                _LOG.info("%s: ignored in its tars: %s", split.name, ", ".join(split.ignored))
        found = {split.name: split.num_shards for split in adopted}
    if as_json:
        _print_json(found)
        return
    words = ", ".join(f"{split} {count} shards" for split, count in found.items())
    stdout.print(f"Finished: {words}", highlight=False, soft_wrap=True)
    print_next(f"mmsent verify {shlex.quote(str(shards))}")


@app.command("verify")
def verify_command(
    shards: Annotated[Path, typer.Argument(help="Folder of shards, or one split of it.")],
    repair: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Make broken shards, and no others, again from the data set they came from."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes for --repair; as many as cores if not given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check shards in full: sizes, digests, and every member of every sample. Exit code 1 if anything is wrong.

    Example: `mmsent verify data/shards`
    """
    from preprocess.complete import repair_shards, restore_tables
    from shards.index import INDEX_NAME, split_directories
    from shards.verify import verify_split

    if workers is not None and repair is None:
        raise typer.BadParameter("--workers is for --repair")
    num_workers = _checked(lambda: _workers(workers))

    def check_all() -> list["SplitCheck"]:
        if (shards / INDEX_NAME).is_file():
            directories = [shards]
        else:
            # A split with tars and no index is unfinished, one with an index and no tars was copied in part.
            found = {path.parent for pattern in ("*/*.tar", f"*/{INDEX_NAME}") for path in shards.glob(pattern)}
            directories = sorted(found) or list(split_directories(shards).values())
        checks = []
        with _progress() as progress:
            for directory in directories:
                task = progress.add_task(directory.name, total=None)
                checks.append(verify_split(directory, on_progress=partial(_move, progress, task)))
        return checks

    checks = check_all()
    if repair is not None and any(check.problems for check in checks):
        if not as_json:
            print_checks(checks, repair=True)
        broken = {check.split: check.broken_shards for check in checks}
        out = shards.parent if (shards / INDEX_NAME).is_file() else shards
        restore_tables(out, [check.split for check in checks if check.only_table_broken])
        if any(check.problems and not check.only_table_broken for check in checks):
            with _progress_by_name() as on_progress:
                repair_shards(out, repair, broken=broken, num_workers=num_workers, on_progress=on_progress)
        checks = check_all()
    if as_json:
        _print_json({check.split: asdict(check) for check in checks})
    else:
        print_checks(checks, repair=False)
    if any(check.problems for check in checks):
        raise typer.Exit(1)


@app.command("encode")
def encode_command(
    shards: Annotated[str, typer.Option(help="Folder that `mmsent preprocess --out` made, or its URL.")],
    out: Annotated[Path, typer.Option(help="Folder for the new shards. Run again with the same folder to go on.")],
    modalities: Annotated[
        str, typer.Option(help="What to encode, with commas; the others keep their arrays. audio needs --run.")
    ] = "video,text",
    text_encoder: TextEncoderOption = _MODEL.text_encoder,
    text_pooling: TextPoolingOption = _MODEL.text_pooling,
    video_encoder: VideoEncoderOption = _MODEL.video_encoder,
    video_weights: VideoWeightsOption = _MODEL.video_weights,
    run: Annotated[
        Path | None,
        typer.Option(help="Take the encoders of this run's best checkpoint, with what they have learned."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples that are encoded at a time.")] = _TRAIN.batch_size,
    precision: PrecisionOption = _TRAIN.precision,
    remake: Annotated[
        bool, typer.Option("--remake", help="Make shards in OUT again that were made in another way.")
    ] = False,
    cache: CacheOption = None,
    cache_size: CacheSizeOption = _CACHE_GIGABYTES,
    as_json: JsonOption = False,
) -> None:
    """Run frozen encoders once over all splits, and write shards of their outputs.

    The same samples in the same order, with one vector in place of a clip or a text: training on them runs the small
    rest of the model alone. A run that was stopped goes on where it was; shards that are up to date are kept.

    Example: `mmsent encode --shards data/shards --out data/features`
    """
    from mmsent.encode import encode_shards
    from mmsent.frozen import Pretrained, Run

    chosen = _names("modalities", modalities)
    if not chosen:
        raise typer.BadParameter("--modalities names nothing to encode")
    if batch_size < 1:
        raise typer.BadParameter(f"--batch-size must be at least 1, got {batch_size}")
    config = _checked(
        lambda: ModelConfig(
            modalities=tuple(name for name in MODALITIES if name in chosen),
            text_encoder=text_encoder,
            text_pooling=text_pooling,
            video_encoder=video_encoder,
            video_weights=video_weights,
        )
    )
    if run is not None and config != replace(_MODEL, modalities=config.modalities):
        raise typer.BadParameter("--run has encoders of its own: leave out --text-… and --video-…")
    started = time.monotonic()
    with _progress_by_name() as on_progress:
        result = encode_shards(
            shards,
            out,
            encoders=Pretrained(config) if run is None else Run(run, config.modalities),
            batch_size=batch_size,
            precision=precision,
            cache=_cache(shards, cache, cache_size),
            remake=remake,
            on_progress=on_progress,
        )
    if as_json:
        _print_json({**asdict(result), "spec": result.spec.to_json()})
        return
    if result.num_shards_made:
        seconds = time.monotonic() - started
        what = f"{result.num_samples_encoded:,} samples encoded in {seconds:.0f} s on {result.device}"
        words = f"{what} in {result.precision}; {result.num_shards_made} shards made, {result.num_shards_kept} kept"
    else:
        words = f"nothing to do: all {result.num_shards_kept} shards are up to date"
    stdout.print(f"{escape(str(out))}: {words}; {size_text(result.num_bytes)}", highlight=False, soft_wrap=True)
    print_next(f"mmsent train --shards {shlex.quote(str(out))} --out RUN{_encoded_options(result.spec)}")


@app.command("train")
def train_command(
    shards: Annotated[str, typer.Option(help="Folder that `mmsent preprocess` or `encode` made, or its URL.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, logs and history.")],
    text_encoder: TextEncoderOption = _MODEL.text_encoder,
    text_pooling: TextPoolingOption = _MODEL.text_pooling,
    video_encoder: VideoEncoderOption = _MODEL.video_encoder,
    video_weights: VideoWeightsOption = _MODEL.video_weights,
    modalities: ModalitiesOption = _ALL_MODALITIES,
    train_encoders: TrainEncodersOption = "",
    fusion: Annotated[
        Fusion,
        typer.Option(help="Features side by side, or weighted by learned gates.", rich_help_panel=_MODEL_PANEL),
    ] = _MODEL.fusion,
    dialogue_turns: Annotated[
        int,
        typer.Option(
            help="Utterances of a dialogue, up to the one to judge, that a GRU goes over; 1: no GRU.",
            rich_help_panel=_MODEL_PANEL,
        ),
    ] = _MODEL.dialogue_turns,
    epochs: Annotated[
        int, typer.Option(help="Passes over the training split, at most.", rich_help_panel=_OPTIMISER_PANEL)
    ] = _TRAIN.max_epochs,
    batch_size: BatchSizeOption = _TRAIN.batch_size,
    accumulation_steps: AccumulationOption = _TRAIN.accumulation_steps,
    learning_rate: Annotated[
        float, typer.Option(help="Of Adam, for what is not pre-trained.", rich_help_panel=_OPTIMISER_PANEL)
    ] = _TRAIN.learning_rate,
    text_learning_rate: Annotated[
        float, typer.Option(help="Of a pre-trained text encoder that is trained.", rich_help_panel=_OPTIMISER_PANEL)
    ] = _TRAIN.text_learning_rate,
    video_learning_rate: Annotated[
        float, typer.Option(help="Of a pre-trained video encoder that is trained.", rich_help_panel=_OPTIMISER_PANEL)
    ] = _TRAIN.video_learning_rate,
    layer_decay: Annotated[
        float,
        typer.Option(
            help="Each layer of a trained encoder learns at this times the rate of the one above.",
            rich_help_panel=_OPTIMISER_PANEL,
        ),
    ] = _TRAIN.layer_decay,
    warmup_steps: Annotated[
        int, typer.Option(help="First steps over which learning rates rise from 0.", rich_help_panel=_OPTIMISER_PANEL)
    ] = _TRAIN.warmup_steps,
    schedule: Annotated[
        Schedule,
        typer.Option(
            help="Learning rates fall when the validation loss stops falling, or in a line to 0 at the end.",
            rich_help_panel=_OPTIMISER_PANEL,
        ),
    ] = _TRAIN.schedule,
    ema_decay: Annotated[
        float,
        typer.Option(
            help="Keep a moving average of the weights with this decay, like 0.999; 0: none.",
            rich_help_panel=_OPTIMISER_PANEL,
        ),
    ] = _TRAIN.ema_decay,
    selection: Annotated[
        Selection,
        typer.Option(
            "--select",
            help="The epoch whose weights are kept: of the lowest validation loss or the highest weighted F1.",
            rich_help_panel=_OPTIMISER_PANEL,
        ),
    ] = _TRAIN.selection,
    patience: Annotated[
        int,
        typer.Option(help="Epochs without a better one before the run ends.", rich_help_panel=_OPTIMISER_PANEL),
    ] = _TRAIN.early_stopping_patience,
    precision: PrecisionOption = _TRAIN.precision,
    compile_encoders: CompileOption = _TRAIN.compile,
    loss: Annotated[
        Loss,
        typer.Option(
            help="logit-adjusted: logits raised by the frequency of their class in training.",
            rich_help_panel=_LOSS_PANEL,
        ),
    ] = _TRAIN.loss,
    class_weights: Annotated[
        ClassWeights,
        typer.Option(help="Of the losses, from the training labels' frequencies.", rich_help_panel=_LOSS_PANEL),
    ] = _TRAIN.class_weights,
    label_smoothing: Annotated[
        float, typer.Option(help="Part of each target spread over all classes.", rich_help_panel=_LOSS_PANEL)
    ] = _TRAIN.label_smoothing,
    modality_dropout: Annotated[
        float,
        typer.Option(help="Probability with which each modality of a sample is hidden.", rich_help_panel=_LOSS_PANEL),
    ] = _TRAIN.modality_dropout,
    crop_and_flip: Annotated[
        bool,
        typer.Option(
            "--crop-and-flip",
            help="Random parts of the picture, half of them mirrored, alike over a clip.",
            rich_help_panel=_LOSS_PANEL,
        ),
    ] = _TRAIN.crop_and_flip,
    spec_augment: Annotated[
        bool,
        typer.Option(
            "--spec-augment", help="Hide bands of the log-mel in time and frequency.", rich_help_panel=_LOSS_PANEL
        ),
    ] = _TRAIN.spec_augment,
    order: Annotated[
        OrderKind,
        typer.Option(
            help="Of the training samples; block-shuffle: for a slow disk or a network.", rich_help_panel=_DATA_PANEL
        ),
    ] = _TRAIN.order,
    shards_per_block: Annotated[
        int, typer.Option(help="With block-shuffle: shards that are mixed.", rich_help_panel=_DATA_PANEL)
    ] = _TRAIN.shards_per_block,
    readers: ReadersOption = _TRAIN.num_readers,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare every sample with its CRC-32 when it is read.", rich_help_panel=_DATA_PANEL
        ),
    ] = _TRAIN.check,
    cache: CacheOption = None,
    cache_size: CacheSizeOption = _CACHE_GIGABYTES,
    seed: Annotated[int, typer.Option(help="Of weights, order, dropout and augmentation.")] = _TRAIN.seed,
    seeds: Annotated[
        str, typer.Option(metavar="N,N,…", help="One run for each seed, in OUT/seed-N, and their mean and deviation.")
    ] = "",
    checkpoint_steps: Annotated[
        int, typer.Option(help="Steps between saves within an epoch; each epoch ends with one.")
    ] = _TRAIN.checkpoint_steps,
    keep_checkpoints: Annotated[
        int, typer.Option(help="How many of the last checkpoints are kept to go on from.")
    ] = _TRAIN.keep_checkpoints,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT, if any.")] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Profile 4 of the first 8 steps into OUT/profile.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the three encoders' fusion on shards.

    Keeps the weights of the best epoch on the validation split (best.safetensors) and where the run stands
    (checkpoints/). `wait` in the progress line is the share of time in which the trainer waited for data.

    Ctrl-C and SIGTERM save within seconds, wherever the run is, and `--resume` goes on from there as if nothing had
    been; a second one quits at once. Under torchrun it trains on many GPUs (docs/scaling.md).

    Example: `mmsent train --shards data/shards --out runs/first`
    """
    from mmsent.distributed import joined, world_from_environment
    from mmsent.seeds import seed_folder
    from mmsent.train import train

    chosen = _names("modalities", modalities)
    trained = _names("train-encoders", train_encoders)
    model_config = _checked(
        lambda: ModelConfig(
            modalities=tuple(name for name in MODALITIES if name in chosen),
            text_encoder=text_encoder,
            text_pooling=text_pooling,
            video_encoder=video_encoder,
            video_weights=video_weights,
            train_encoders=tuple(name for name in MODALITIES if name in trained),
            fusion=fusion,
            dialogue_turns=dialogue_turns,
        )
    )
    if shards_per_block != _TRAIN.shards_per_block and order != "block-shuffle":
        raise typer.BadParameter("--shards-per-block is for --order block-shuffle")
    for name, rate in (("text", text_learning_rate), ("video", video_learning_rate)):
        if rate != getattr(_TRAIN, f"{name}_learning_rate") and name not in trained:
            raise typer.BadParameter(f"--{name}-learning-rate is for --train-encoders {name}")
    if layer_decay != _TRAIN.layer_decay and not trained:
        raise typer.BadParameter("--layer-decay is for --train-encoders, which names none")
    for option, wanted, name in (("crop-and-flip", crop_and_flip, "video"), ("spec-augment", spec_augment, "audio")):
        if wanted and name not in chosen:
            raise typer.BadParameter(f"--{option} is for {name}, which --modalities leaves out")
    for option, changed, name in (
        ("text-pooling", text_pooling != _MODEL.text_pooling, "text"),
        ("video-encoder", video_encoder != _MODEL.video_encoder, "video"),
    ):
        if changed and name not in chosen:
            raise typer.BadParameter(f"--{option} is for {name}, which --modalities leaves out")
    if fusion != _MODEL.fusion and len(chosen) == 1:
        raise typer.BadParameter("--fusion is for several modalities")
    if modality_dropout and len(chosen) == 1:
        raise typer.BadParameter("--modality-dropout never hides the only modality there is")
    if seeds and seed != _TRAIN.seed:
        raise typer.BadParameter("give --seed or --seeds")
    train_config = _checked(
        lambda: TrainConfig(
            batch_size=batch_size,
            max_epochs=epochs,
            learning_rate=learning_rate,
            text_learning_rate=text_learning_rate,
            video_learning_rate=video_learning_rate,
            layer_decay=layer_decay,
            warmup_steps=warmup_steps,
            schedule=schedule,
            early_stopping_patience=patience,
            selection=selection,
            class_weights=class_weights,
            loss=loss,
            label_smoothing=label_smoothing,
            modality_dropout=modality_dropout,
            crop_and_flip=crop_and_flip,
            spec_augment=spec_augment,
            ema_decay=ema_decay,
            accumulation_steps=accumulation_steps,
            compile=compile_encoders,
            precision=precision,
            seed=seed,
            order=order,
            shards_per_block=shards_per_block,
            num_readers=readers,
            check=check,
            checkpoint_steps=checkpoint_steps,
            keep_checkpoints=keep_checkpoints,
        )
    )
    if seeds and (out / "run.json").exists():
        raise typer.BadParameter(f"--out {out} holds a single run: choose another folder for --seeds")
    runs = {number: seed_folder(out, number) for number in _seeds(seeds)} if seeds else {seed: out}
    configs = {number: _checked(partial(replace, train_config, seed=number)) for number in runs}
    world = world_from_environment()
    results: dict[int, TrainResult] = {}
    with joined(world):
        if not world.is_first:
            logging.getLogger().setLevel(logging.WARNING)
        for number, run in runs.items():
            if seeds and world.is_first:
                _LOG.info("seed %d, in %s", number, run)
            with _training_progress(shown=world.is_first) as (on_step, on_epoch, on_exit):
                results[number] = train(
                    shards,
                    run,
                    cache=_cache(shards, cache, cache_size),
                    model_config=model_config,
                    train_config=configs[number],
                    resume=resume,
                    profile=profile,
                    world=world,
                    on_step=on_step,
                    on_epoch=on_epoch,
                    on_exit=on_exit,
                )
            if results[number].signum:
                break
    if world.is_first:
        _print_training(shards, out, results, many=bool(seeds), as_json=as_json)
    if signum := results[number].signum:
        raise typer.Exit(128 + signum)


@app.command("evaluate")
def evaluate_command(
    shards: Annotated[str, typer.Option(help="Folder of shards, or its URL.")],
    run: Annotated[Path, typer.Option(help="Folder that `mmsent train --out` made.")],
    split: Annotated[str, typer.Option(help="Split to score.")] = "test",
    cache: CacheOption = None,
    cache_size: CacheSizeOption = _CACHE_GIGABYTES,
    as_json: JsonOption = False,
) -> None:
    """Score a run's best checkpoint on a split, every sample once, next to the majority baseline.

    Writes metrics.json, predictions.csv, a confusion matrix per task and the training curves to RUN/evaluation-SPLIT/.
    A folder that `mmsent train --seeds` made is scored seed by seed, with mean and deviation in one table.

    Example: `mmsent evaluate --shards data/shards --run runs/first --split test`
    """
    from mmsent.report import evaluate_run
    from mmsent.seeds import evaluate_seeds, evaluation_scores, seed_folders

    store = _cache(shards, cache, cache_size)
    if seed_folders(run):
        found = {}
        for seed, evaluation in evaluate_seeds(shards, run, split=split, cache=store):
            _LOG.info("seed %d: %s", seed, evaluation.directory)
            found[seed] = evaluation
        scores = evaluation_scores(found)
        if as_json:
            by_seed = {seed: evaluation.to_json() for seed, evaluation in found.items()}
            _print_json({"seeds": by_seed, split: [score.to_json() for score in scores]})
        else:
            print_scores_over_seeds(scores, split=split)
            for task, item in next(iter(found.values())).scores.items():
                base = f"{item.baseline.weighted_f1:.3f}, {item.baseline.macro_f1:.3f}, {item.baseline.accuracy:.3f}"
                label = escape(item.baseline.label)
                stdout.print(f"{task}: always '{label}' scores {base}", highlight=False, soft_wrap=True)
            where = escape(str(run / f"evaluation-{split}"))
            stdout.print(f"Means and deviations in {where}; each run's own report in its folder", highlight=False)
        return
    evaluation = evaluate_run(shards, run, split=split, cache=store)
    if as_json:
        _print_json(evaluation.to_json())
        return
    print_evaluation(evaluation)


@app.command("bench")
def bench_command(
    shards: Annotated[str, typer.Option(help="Folder of shards, on this machine.")],
    split: Annotated[str, typer.Option(help="Split whose shards are read.")] = "train",
    raw: Annotated[
        Path | None, typer.Option(metavar="MELD", help="The raw MELD folder: also time decoding on every access.")
    ] = None,
    text_encoder: TextEncoderOption = _MODEL.text_encoder,
    text_pooling: TextPoolingOption = _MODEL.text_pooling,
    video_encoder: VideoEncoderOption = _MODEL.video_encoder,
    video_weights: VideoWeightsOption = _MODEL.video_weights,
    modalities: ModalitiesOption = _ALL_MODALITIES,
    train_encoders: TrainEncodersOption = "",
    batch_size: BatchSizeOption = _TRAIN.batch_size,
    accumulation_steps: AccumulationOption = _TRAIN.accumulation_steps,
    precision: PrecisionOption = _TRAIN.precision,
    compile_encoders: CompileOption = _TRAIN.compile,
    readers: ReadersOption = _TRAIN.num_readers,
    samples: Annotated[int, typer.Option(help="How many samples the loaders read in a round, about.")] = 2000,
    seconds: Annotated[float, typer.Option(help="How long the trainer is timed in a round, about.")] = 5.0,
    rounds: Annotated[int, typer.Option(help="Rounds, all ways in turns; one more is not counted.")] = 5,
    plot: Annotated[Path | None, typer.Option(help="Write a chart to this PNG, too.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure this machine: memory, the loader, what others would use, the trainer; and say what bounds training.

    All in one run, in turns, medians over the rounds. What cannot be measured here stands in the table with its reason.

    Example: `mmsent bench --shards data/shards --plot bench.png`
    """
    from mmsent.bench import file_ways, loader_ways, train_ways
    from mmsent.machine import describe_machine, describe_samples
    from mmsent.plots import plot_timings
    from mmsent.verdict import verdict
    from preprocess.onthefly import on_the_fly_ways
    from shards.remote import is_url
    from shards.store import open_split
    from shards.timing import measure

    if samples < 1 or rounds < 1 or not (math.isfinite(seconds) and seconds > 0):
        raise typer.BadParameter("--samples, --rounds and --seconds must be above 0")
    if plot is not None and (plot.suffix.lower() != ".png" or not plot.parent.is_dir()):
        raise typer.BadParameter("--plot must be a PNG in a folder that exists")
    chosen, trained = _names("modalities", modalities), _names("train-encoders", train_encoders)
    model_config = _checked(
        lambda: ModelConfig(
            modalities=tuple(name for name in MODALITIES if name in chosen),
            text_encoder=text_encoder,
            text_pooling=text_pooling,
            video_encoder=video_encoder,
            video_weights=video_weights,
            train_encoders=tuple(name for name in MODALITIES if name in trained),
        )
    )
    train_config = _checked(
        lambda: TrainConfig(
            batch_size=batch_size,
            accumulation_steps=accumulation_steps,
            precision=precision,
            compile=compile_encoders,
            num_readers=readers,
        )
    )
    if is_url(shards):
        then = "copy the shards to a disk of this machine first, or look at `wait` in `mmsent train --shards URL`"
        raise ShardError(describe("bench measures shards on this machine, not behind a URL", file=shards, then=then))
    opened = open_split(shards, split)
    measured_on = {"machine": describe_machine(), "samples": describe_samples(opened, batch_size=batch_size)}
    tried = sorted({*range(1, min(4, max(2, _num_cores())) + 1), readers})
    ways = loader_ways(opened, num_samples=samples, batch_size=batch_size, readers=tried)
    with file_ways(opened, batch_size=batch_size) as from_files, _progress_by_name() as on_progress:
        ways += from_files
        if raw is not None:
            ways += on_the_fly_ways(raw, num_clips=12)
        ways += train_ways(opened, model_config=model_config, train_config=train_config, seconds=seconds)
        timings = measure(ways, rounds=rounds, on_progress=partial(on_progress, "measuring"))
    words = verdict(timings)
    if plot is not None:
        plot_timings(timings, plot)
    if as_json:
        measured = [{**asdict(timing), "median": timing.median} for timing in timings]
        _print_json({**measured_on, "rounds": rounds, "timings": measured, "verdict": words})
        return
    print_timings(timings)
    for line in measured_on.values():
        stdout.print(escape(line), highlight=False, soft_wrap=True)
    for line in words:
        stdout.print(f"- {escape(line)}", highlight=False, soft_wrap=True)
    if plot is not None:
        stdout.print(f"Chart: {escape(str(plot))}", highlight=False, soft_wrap=True)


@contextmanager
def _progress(info: str = "{task.speed:.1f}/s") -> Iterator[Progress]:
    """Show progress on standard error; where that is no terminal, the bars appear once, in their last state."""
    rate = TextColumn(info) if "speed" not in info else _RateColumn("")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=stderr, disable=False, transient=False, speed_estimate_period=60) as progress:
        yield progress


@contextmanager
def _training_progress(
    *, shown: bool
) -> Iterator[tuple[Callable[["StepInfo"], None], Callable[["EpochResult"], None], Callable[[str], None]]]:
    """Show the steps of an epoch and keep a line of each; on other ranks than the first, show nothing."""
    with _progress("{task.fields[info]}") as progress:
        task = progress.add_task("epoch 1", total=None, info="", visible=False)  # what comes before may be an error

        def on_step(info: "StepInfo") -> None:
            text = f"loss {info.loss:.3f}  {info.samples_per_second:.0f} samples/s  wait {info.wait_share:.1%}"
            progress.update(
                task,
                description=f"epoch {info.epoch + 1}",
                completed=info.step,
                total=info.num_steps,
                info=text,
                visible=shown,
            )

        def on_epoch(result: "EpochResult") -> None:
            if shown:
                progress.console.print(epoch_line(result), highlight=False, soft_wrap=True)

        def on_exit(line: str) -> None:
            if not shown:
                return
            stderr.show_cursor(True)  # the process ends without unwinding, and the bar has hidden it
            stderr.print(f"\n{escape(line)}", highlight=False, soft_wrap=True)

        yield on_step, on_epoch, on_exit


def _print_training(shards: str, out: Path, results: dict[int, "TrainResult"], *, many: bool, as_json: bool) -> None:
    """Say how the runs of `mmsent train` ended, and what to do next."""
    from mmsent.seeds import dev_scores

    last = list(results.values())[-1]
    scores = dev_scores(results) if many else []
    if as_json:
        if many:
            by_seed = {seed: asdict(result) for seed, result in results.items()}
            _print_json({"seeds": by_seed, "dev": [score.to_json() for score in scores]})
        else:
            _print_json(asdict(last))
        return
    line = partial(stdout.print, highlight=False, soft_wrap=True)
    if last.signum:
        name = signal.Signals(last.signum).name
        epochs = f"{len(last.epochs)} whole epoch{'s' * (len(last.epochs) != 1)}"
        line(f"Stopped by {name} after {last.num_steps} steps, {epochs}; all is saved in {escape(str(out))}")
        print_next("the same command with --resume")
        return
    for seed, result in results.items():
        assert result.best_epoch is not None
        why = "no epoch was better any more" if result.stopped_early else "all epochs done"
        where = f"{result.device}{f' x {result.world_size}' * (result.world_size > 1)}"
        run = out / f"seed-{seed}" if many else out
        line(
            f"{len(result.epochs)} epoch{'s' * (len(result.epochs) > 1)} on {where} in {result.precision} ({why}); "
            f"best is epoch {result.best_epoch + 1}: {escape(str(run / 'best.safetensors'))}"
        )
    if many:
        print_scores_over_seeds(scores, split="dev")
    print_next(f"mmsent evaluate --shards {shlex.quote(shards)} --run {shlex.quote(str(out))} --split test")


@contextmanager
def _progress_by_name() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each split or stage, from its first piece on."""
    with _progress() as progress:
        tasks: dict[str, TaskID] = {}

        def on_progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            _move(progress, tasks[name], done, total)

        yield on_progress


class _RateColumn(TextColumn):
    """Units per second, once there is one to say."""

    def render(self, task: Any) -> Any:
        """Draw the rate."""
        self.text_format = f"{task.speed:.1f}/s" if task.speed else ""
        return super().render(task)


def _move(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def _encoder_option(name: str) -> str:
    return "" if name == _MODEL.text_encoder else f" --text-encoder {shlex.quote(name)}"


def _encoded_options(spec: FeatureSpec) -> str:
    """Return the options with which a model takes the outputs of these encoders, as far as they are no defaults."""
    asked = {"--text-encoder": (spec.text.tokenizer, _MODEL.text_encoder)}
    if "video" in spec.encoded:
        asked["--video-encoder"] = (spec.encoded["video"].encoder, _MODEL.video_encoder)
    if "text" in spec.encoded:
        asked["--text-pooling"] = (spec.encoded["text"].pooling, _MODEL.text_pooling)
    return "".join(f" {name} {shlex.quote(value)}" for name, (value, default) in asked.items() if value != default)


def _checked(make: Callable[[], T]) -> T:
    """Make a config; a value it refuses is wrong usage."""
    try:
        return make()
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def _workers(asked: int | None) -> int:
    """Return how many processes to start: as asked, or as many as cores."""
    if asked is None:
        return _num_cores()
    if asked < 1:
        raise ValueError(f"workers must be at least 1, got {asked}")
    return asked


def _cache(shards: str, directory: Path | None, gigabytes: float) -> "ShardCache | None":
    """Return the cache that shards behind a URL come through; None for those of this machine."""
    from shards.cache import ShardCache
    from shards.remote import is_url

    if not is_url(shards):
        if directory is not None or gigabytes != _CACHE_GIGABYTES:
            raise typer.BadParameter("--cache and --cache-size are for --shards with a URL")
        return None
    if not (math.isfinite(gigabytes) and gigabytes > 0):
        raise typer.BadParameter(f"--cache-size must be above 0, got {gigabytes}")
    if directory is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(base) / "mmsent" / "shards"
    return ShardCache(directory, max_bytes=int(gigabytes * 1e9))


def _names(option: str, text: str) -> list[Modality]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in MODALITIES]:
        raise typer.BadParameter(f"--{option} takes {', '.join(MODALITIES)}; got {', '.join(unknown)}")
    return cast("list[Modality]", names)


def _seeds(text: str) -> list[int]:
    numbers = [item.strip() for item in text.split(",")]
    if not all(item.isascii() and item.isdigit() for item in numbers) or len(set(numbers)) != len(numbers):
        raise typer.BadParameter(f"--seeds is different numbers with commas, like 0,1,2; got {text!r}")
    return [int(item) for item in numbers]


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (text.isascii() and height.isdigit() and width.isdigit()):
        raise typer.BadParameter(f"--size is HEIGHTxWIDTH in pixels, like 112x112; got {text!r}")
    return int(height), int(width)


def _part(text: str) -> Part:
    number, _, count = text.partition("/")
    if not (text.isascii() and number.isdigit() and count.isdigit()):
        raise typer.BadParameter(f"--part is I/N, like 2/8; got {text!r}")
    return _checked(lambda: Part(number=int(number), count=int(count)))


def _num_cores() -> int:
    """Return the cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
