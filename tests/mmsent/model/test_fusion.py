import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsent.model.fusion import DialogueGru, GatedFusion


def test_an_absent_modality_contributes_exactly_nothing_to_gated_fusion() -> None:
    torch.manual_seed(0)
    fusion = GatedFusion(num_modalities=2, feature_dim=4)
    there, absent = torch.randn(3, 4), torch.zeros(3, 4)
    gate = torch.sigmoid(fusion.gates(torch.cat([there, absent], dim=1)))[:, :4]
    value = torch.tanh(fusion.values[0](there))
    assert torch.equal(fusion([there, absent]), gate * value)
    assert not fusion([absent, absent]).any()


@settings(deadline=None, max_examples=30)
@given(history=st.integers(0, 4), padding=st.integers(0, 3), others=st.integers(0, 3))
def test_a_dialogue_is_read_from_its_first_turn_whatever_the_window_and_the_others(
    history: int, padding: int, others: int
) -> None:
    torch.manual_seed(0)
    gru = DialogueGru(dim=6)
    turns = torch.randn(history + 1, 6)  # the sample itself first, then what came before it, oldest first
    before = list(range(1, history + 1))
    alone = gru(turns, torch.tensor([[*before, 0]]))
    rows = torch.cat([turns[:1], torch.full((others, 6), 9.0), turns[1:]])
    shifted = [row + others for row in before]
    window = [[-1] * padding + [*shifted, 0], *([-1] * (padding + history) + [row + 1] for row in range(others))]
    torch.testing.assert_close(gru(rows, torch.tensor(window))[0], alone[0])


def test_the_turns_are_read_as_torch_s_own_gru_reads_them() -> None:
    torch.manual_seed(0)
    ours, theirs = DialogueGru(dim=6), torch.nn.GRU(6, 6, batch_first=True)
    theirs.load_state_dict({f"{name}_l0": value for name, value in ours.cell.state_dict().items()})
    fused = torch.randn(3, 6)
    expected = theirs(fused[[1, 2, 0]].unsqueeze(0))[1][0] + fused[:1]
    torch.testing.assert_close(ours(fused, torch.tensor([[1, 2, 0]])), expected)


def test_the_order_of_the_turns_matters() -> None:
    torch.manual_seed(0)
    gru, fused = DialogueGru(dim=6), torch.randn(3, 6)
    assert not torch.allclose(gru(fused, torch.tensor([[1, 2, 0]])), gru(fused, torch.tensor([[2, 1, 0]])))
