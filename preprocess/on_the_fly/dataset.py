"""A torch data set over the raw clips, without a cache: decode, transform and tokenize on every access.

It calls the functions that preprocessing calls, so its items are the arrays that the shards hold. Training on it
repeats all decoding in every epoch: it is for a first look, for debugging, and the baseline that the shards are held
against.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from preprocess.clips.extract import MEDIA, Extract, absent_feature, extract
from preprocess.config import PreprocessConfig
from preprocess.datasets.annotations import Utterance
from preprocess.datasets.meld import read_meld
from preprocess.errors import DatasetError
from preprocess.text.context import tokenize, with_context
from preprocess.text.tokenizer import TextTokenizer
from shards.errors import describe
from shards.format.codec import pixels
from shards.schema import MELD_LABELS
from shards.spec import FeatureSpec

__all__ = ["MeldDataset"]


class MeldDataset(TorchDataset[dict[str, Any]]):
    """One split of a MELD folder, decoded on the fly.

    An item holds, without a batch axis, as `torch.utils.data.default_collate` wants it, and like those of
    `mmsent.batches.dataset.ShardDataset`:
        `key`: str;
        `sample`: int, the number of the utterance in the split;
        `text_input`: `input_ids` `(L,)` int64 and `attention_mask` `(L,)` int64, 1 where a token is real;
        `video_frames`: `(C, T, H, W)` uint8, a view in channels-last memory, zeros when absent;
        `audio_features`: `(M, S)` float16 log-mel, zeros when absent;
        `num_hops`: int, the real hops of it;
        `present`: `(3,)` bool for video, audio, text;
        `emotion_label`, `sentiment_label`: int.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        config: PreprocessConfig,
        spec: FeatureSpec,
        tokenizer: TextTokenizer,
    ) -> None:
        """Read the annotations.

        Args:
            root: A MELD folder.
            split: `train`, `dev` or `test`.
            config: Of `preprocess.building.build`.
            spec: From `preprocess.building.feature_spec.feature_spec`.
            tokenizer: From `preprocess.building.feature_spec.build_tokenizer`.

        Raises:
            DatasetError: if the folder is no MELD folder or does not have the split.
        """
        splits = {found.name: found for found in read_meld(root).splits}
        if split not in splits:
            raise DatasetError(describe(f"there is no split {split}", file=root, then=f"choose from {sorted(splits)}"))
        context = spec.text.context_utterances
        self.utterances = with_context(splits[split].utterances, context_utterances=context)
        self._root = root
        self._config = config
        self._spec = spec
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, index: int) -> dict[str, Any]:
        utterance = self.utterances[index]
        extracted = self._extract(utterance)
        tokens = tokenize(utterance, self._tokenizer, self._spec.text)
        labels = {f"{item.task}_label": item.index(utterance.labels[item.task]) for item in MELD_LABELS}
        present = [*(extracted.features[name].presence.present for name in MEDIA), bool(utterance.text.strip())]
        return {
            "key": utterance.key,
            "sample": index % len(self),
            "text_input": {
                "input_ids": torch.from_numpy(tokens.ids.astype(np.int64)),
                "attention_mask": (torch.arange(len(tokens.ids)) < tokens.num_tokens).long(),
            },
            "video_frames": self._load_video_frames(extracted),
            "audio_features": self._extract_audio_features(extracted),
            "num_hops": extracted.features["audio"].length,
            "present": torch.tensor(present),
            **labels,
        }

    def _extract(self, utterance: Utterance) -> Extract:
        if not utterance.clip and not utterance.twin:
            feature = absent_feature("the clip is missing")
            return Extract(path="", notes=(), features=dict.fromkeys(MEDIA, feature))
        return extract(
            self._root,
            utterance,
            media=MEDIA,
            decoder=self._config.decoder,
            spec=self._spec,
            test_clips=self._config.test_clips,
        )

    def _load_video_frames(self, extracted: Extract) -> Tensor:
        """Return `(C, T, H, W)` uint8."""
        video = extracted.features["video"]
        if not video.presence.present:
            return torch.zeros(self._spec.video.shape, dtype=torch.uint8).permute(3, 0, 1, 2)
        return torch.from_numpy(pixels(video.array, self._spec.video)).permute(3, 0, 1, 2)

    def _extract_audio_features(self, extracted: Extract) -> Tensor:
        """Return `(M, S)` float16."""
        audio = extracted.features["audio"]
        if not audio.presence.present:
            return torch.zeros(self._spec.audio.shape, dtype=torch.float16)
        return torch.from_numpy(audio.array)
