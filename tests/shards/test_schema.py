import json
import pickle
import re
import string
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.schema import (
    EMOTION,
    MELD_LABELS,
    MODALITIES,
    SENTIMENT,
    LabelSet,
    Modality,
    Presence,
    canonical_json,
    check_key,
)
from shards.spec import Encoding, FeatureSpec
from tests.support.samples import make_sample, make_spec

ALLOWED = string.ascii_letters + string.digits + "_-"
PROVENANCE = {"video.decoder_version", "video.encoder_version", "audio.decoder_version", "audio.transform_version"}
SPEC_FIELDS = [f"{part}.{name}" for part, values in make_spec().to_json().items() for name in values]


def with_field_changed(spec: FeatureSpec, name: str) -> FeatureSpec:
    """Change the one field with the dotted `name` to a value that no default has."""
    values = spec.to_json()
    part, field = name.split(".")
    values[part][field] = f"another {values[part][field]}" if isinstance(values[part][field], str) else 987
    return FeatureSpec.from_json(values)


@settings(deadline=None)
@given(st.text(ALLOWED, min_size=1, max_size=80))
def test_a_key_of_letters_digits_underscore_and_hyphen_is_taken(key: str) -> None:
    check_key(key)


@settings(deadline=None)
@given(
    before=st.text(ALLOWED, max_size=39),
    wrong=st.characters(exclude_characters=ALLOWED),
    after=st.text(ALLOWED, max_size=39),
)
def test_a_key_with_any_other_character_is_refused(before: str, wrong: str, after: str) -> None:
    with pytest.raises(ValueError, match="a sample key is 1 to 80 of"):
        check_key(f"{before}{wrong}{after}")


@pytest.mark.parametrize("key", ["", "a" * 81, "dia0.utt1", "train/dia0", "..", "dia0\n", " dia0", "dià0", "dia٣"])
def test_a_key_that_another_reader_could_misread_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(key))):
        check_key(key)


def test_metadata_cannot_be_made_with_a_key_outside_the_grammar() -> None:
    with pytest.raises(ValueError, match=r"dia0\.utt1"):
        replace(make_sample(0).meta, key="dia0.utt1")


@pytest.mark.parametrize(("present", "reason"), [(True, "no clip"), (False, "")])
def test_a_modality_has_a_reason_exactly_when_it_is_absent(present: bool, reason: str) -> None:
    with pytest.raises(ValueError, match="exactly when it is absent"):
        Presence(present=present, reason=reason)


def test_a_present_modality_needs_no_reason_and_an_absent_one_keeps_its_own() -> None:
    assert Presence(present=True).reason == ""
    assert Presence(present=False, reason="no clip").reason == "no clip"


def test_a_label_set_comes_back_from_what_is_kept_of_it() -> None:
    for labels in MELD_LABELS:
        assert LabelSet.from_json(json.loads(json.dumps(labels.to_json()))) == labels


def test_the_order_of_the_modalities_is_the_one_of_the_format() -> None:
    assert MODALITIES == ("video", "audio", "text")


def test_the_labels_have_the_indices_of_the_format() -> None:
    assert EMOTION.names == ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
    assert SENTIMENT.names == ("negative", "neutral", "positive")
    assert [labels.task for labels in MELD_LABELS] == ["emotion", "sentiment"]


def test_a_label_has_its_place_as_index() -> None:
    assert [SENTIMENT.index(name) for name in SENTIMENT.names] == [0, 1, 2]


def test_an_unknown_label_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="bored"):
        SENTIMENT.index("bored")


def test_a_label_set_with_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="must differ"):
        LabelSet(task="mood", names=("good", "bad", "good"))


@settings(deadline=None, max_examples=50)
@given(
    name=st.text(min_size=1),
    number=st.integers(0, 2**53),
    log_epsilon=st.floats(allow_nan=False, allow_infinity=False),
)
def test_a_spec_survives_json(name: str, number: int, log_epsilon: float) -> None:
    spec = make_spec()
    spec = replace(
        spec,
        video=replace(spec.video, decoder_version=name, height=number),
        audio=replace(spec.audio, log_epsilon=log_epsilon, downmix=name),
        text=replace(spec.text, tokenizer=name, vocab_size=number),
    )
    again = FeatureSpec.from_json(json.loads(canonical_json(spec.to_json())))
    assert again == spec
    assert again.fingerprints() == spec.fingerprints()


@pytest.mark.parametrize("name", SPEC_FIELDS)
def test_a_spec_without_one_of_its_fields_is_refused_by_name(name: str) -> None:
    part, field = name.split(".")
    values = make_spec().to_json()
    del values[part][field]
    with pytest.raises(ShardError, match=field):
        FeatureSpec.from_json(values)


@pytest.mark.parametrize("part", MODALITIES)
def test_a_spec_with_a_field_too_many_or_a_part_too_few_is_refused_by_name(part: str) -> None:
    values = make_spec().to_json()
    values[part]["colour"] = "red"
    with pytest.raises(ShardError, match="colour"):
        FeatureSpec.from_json(values)
    del values[part]
    with pytest.raises(ShardError, match=part):
        FeatureSpec.from_json(values)


ENCODED = make_spec(widths={"video": 5, "text": 3})
ENCODING_FIELDS = [item.name for item in fields(Encoding)]


def with_encoding_changed(modality: Modality, name: str) -> FeatureSpec:
    values = ENCODED.to_json()
    values["encoded"][modality][name] = 987 if name == "width" else "another"
    return FeatureSpec.from_json(values)


def test_a_spec_with_encodings_survives_json_and_pickle_in_the_order_of_the_modalities() -> None:
    assert FeatureSpec.from_json(json.loads(canonical_json(ENCODED.to_json()))) == ENCODED
    assert pickle.loads(pickle.dumps(ENCODED)) == ENCODED
    assert list(make_spec(widths={"text": 3, "audio": 1, "video": 5}).encoded) == list(MODALITIES)
    assert hash(ENCODED) == hash(FeatureSpec.from_json(ENCODED.to_json()))


@pytest.mark.parametrize("name", ENCODING_FIELDS)
@pytest.mark.parametrize("modality", ["video", "text"])
def test_an_encoding_that_differs_is_named_with_its_field_and_changes_its_fingerprint_alone(
    modality: Modality, name: str
) -> None:
    changed = with_encoding_changed(modality, name)
    [difference] = ENCODED.differences(changed, provenance=True)
    assert difference.field == f"encoded.{modality}.{name}"
    assert difference.theirs in ("another", 987)
    ours, theirs = ENCODED.fingerprints(), changed.fingerprints()
    assert [part for part in ours if ours[part] != theirs[part]] == [modality]


def test_the_precision_of_an_encoder_is_all_of_it_that_weights_do_not_depend_on() -> None:
    specs = {name: with_encoding_changed("video", name) for name in ENCODING_FIELDS}
    ignored = [name for name, spec in specs.items() if not ENCODED.differences(spec, provenance=False)]
    assert ignored == ["precision"]


def test_raw_arrays_and_the_outputs_of_an_encoder_differ_by_the_name_of_their_modality() -> None:
    found = [str(item) for item in make_spec().differences(ENCODED, provenance=False)]
    assert found == [
        "encoded.video: 'raw' against 'outputs of video net'",
        "encoded.text: 'raw' against 'outputs of text net'",
    ]
    assert make_spec().fingerprints()["audio"] == ENCODED.fingerprints()["audio"]
    assert make_spec().fingerprints()["text"] != ENCODED.fingerprints()["text"]


def test_an_encoding_without_one_of_its_fields_or_of_no_modality_is_refused_by_name() -> None:
    values = ENCODED.to_json()
    del values["encoded"]["text"]["pooling"]
    with pytest.raises(ShardError, match="pooling"):
        FeatureSpec.from_json(values)
    values["encoded"] = {"smell": values["encoded"]["video"]}
    with pytest.raises(ShardError, match="smell"):
        FeatureSpec.from_json(values)
    del values["encoded"]
    with pytest.raises(ShardError, match="encoded"):
        FeatureSpec.from_json(values)


def test_an_encoding_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        make_spec(widths={"video": 0})


@pytest.mark.parametrize("name", SPEC_FIELDS)
def test_a_difference_names_its_field_and_both_values(name: str) -> None:
    part, field = name.split(".")
    ours, theirs = make_spec(), with_field_changed(make_spec(), name)
    [difference] = ours.differences(theirs, provenance=True)
    assert difference.field == name
    assert difference.ours == ours.to_json()[part][field]
    assert difference.theirs == theirs.to_json()[part][field]
    assert str(difference) == f"{name}: {difference.ours!r} against {difference.theirs!r}"


def test_all_differences_are_named_and_equal_specs_have_none() -> None:
    other = with_field_changed(with_field_changed(make_spec(), "text.pad_id"), "video.width")
    assert [item.field for item in make_spec().differences(other, provenance=True)] == ["video.width", "text.pad_id"]
    assert make_spec().differences(make_spec(), provenance=True) == []


def test_only_the_versions_of_programs_are_ignored_when_asked() -> None:
    specs = {name: with_field_changed(make_spec(), name) for name in SPEC_FIELDS}
    ignored = {name for name, spec in specs.items() if not make_spec().differences(spec, provenance=False)}
    assert ignored == PROVENANCE


@pytest.mark.parametrize("name", SPEC_FIELDS)
def test_a_field_changes_the_fingerprint_of_its_own_modality_alone(name: str) -> None:
    changed, original = with_field_changed(make_spec(), name).fingerprints(), make_spec().fingerprints()
    assert [part for part in original if changed[part] != original[part]] == [name.partition(".")[0]]


def test_the_shapes_of_the_arrays_follow_from_the_spec() -> None:
    spec = make_spec(num_frames=4, size=8, num_mels=6, num_hops=10)
    assert (spec.video.shape, spec.audio.shape, spec.text.shape) == ((4, 8, 8, 3), (6, 10), (12,))


def test_metadata_does_not_change_with_the_dict_it_was_made_from() -> None:
    labels = {"emotion": "joy", "sentiment": "positive"}
    meta = replace(make_sample(0).meta, labels=labels)
    labels["emotion"] = "anger"
    assert meta.labels["emotion"] == "joy"


@pytest.mark.parametrize("name", ["labels", "presence"])
def test_the_mappings_of_metadata_are_read_only(name: str) -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        getattr(make_sample(0).meta, name)["emotion"] = "joy"


def test_equal_values_give_equal_json_bytes() -> None:
    assert canonical_json({"b": 1, "a": "é’"}) == canonical_json({"a": "é’", "b": 1}) == '{"a":"é’","b":1}'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)
