"""A torch data set over the raw clips, without a cache: decode, transform and tokenize on every access.

It calls the functions that preprocessing calls, so its items are the arrays that the shards hold. Training on it
repeats all decoding in every epoch: it is for a first look, for debugging, and the baseline that the shards are held
against.
"""

from pathlib import Path

from torch.utils.data import Dataset as TorchDataset

from preprocess.building.sample import make_sample
from preprocess.clips.extract import MEDIA, Extract, absent_feature, extract
from preprocess.config import PreprocessConfig
from preprocess.datasets.annotations import Utterance
from preprocess.datasets.meld import read_meld
from preprocess.errors import DatasetError
from preprocess.text.context import with_context
from preprocess.text.tokenizer import TextTokenizer
from shards.errors import describe
from shards.items import Item, sample_item
from shards.schema import MELD_LABELS
from shards.spec import FeatureSpec

__all__ = ["MeldDataset"]


class MeldDataset(TorchDataset[Item]):
    """One split of a MELD folder, decoded on the fly; its items are those of `mmsent.batches.dataset.ShardDataset`."""

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
            config: How clips are decoded and chosen; the rest of it is in `spec`.
            spec: The one of `preprocess.building.feature_spec.feature_spec`.
            tokenizer: The one of `preprocess.building.feature_spec.build_tokenizer`.

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

    def __getitem__(self, index: int) -> Item:
        utterance = self.utterances[index]
        sample = make_sample(
            utterance,
            self._extract(utterance),
            spec=self._spec,
            tokenizer=self._tokenizer,
            source_sha256="",  # no item says where it is from, and it would be another pass over the clip
        )
        return sample_item(sample, number=index % len(self), spec=self._spec, label_sets=MELD_LABELS)

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
