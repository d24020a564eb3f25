import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from services.evaluator.linear import Examples
from services.evaluator.neighbours import CHUNK_SIMILARITIES, predict_neighbours
from shared.errors import Rejected
from tests.evaluator.examples import digits

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.5)])
def test_votes_agree_with_scikit_learn_s_at_the_same_weights(k: int, temperature: float) -> None:
    training, test = (Examples(part.features.double(), part.labels) for part in digits())

    def weights(distances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.exp((1 - distances) / temperature)

    model = KNeighborsClassifier(k, metric="cosine", weights=weights).fit(*(part.numpy() for part in training))
    ours = predict_neighbours(training, test.features, 10, k=k, temperature=temperature)
    assert ours.tolist() == model.predict(test.features.numpy()).tolist()


def test_near_neighbours_outvote_more_distant_ones_when_the_temperature_is_low() -> None:
    bank = Examples(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), torch.tensor([1, 0, 0]))
    query = torch.tensor([[1.0, 0.5]])  # cosines 0.89, 0.45, 0.45
    votes = [int(predict_neighbours(bank, query, 2, k=3, temperature=heat)) for heat in (0.1, 10.0, 0.001)]
    assert votes == [1, 0, 1]


def test_chunks_of_queries_join_in_order() -> None:
    bank = Examples(torch.eye(4).repeat(1000, 1), torch.arange(4).repeat(1000))
    labels = torch.arange(CHUNK_SIMILARITIES // 4000 + 7) % 4
    assert torch.equal(predict_neighbours(bank, torch.eye(4)[labels], 4, k=5, temperature=0.07), labels)


def test_a_bank_smaller_than_k_votes_as_a_whole() -> None:
    bank = Examples(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert predict_neighbours(bank, torch.tensor([[0.1, 1.0]]), 2, k=200, temperature=0.07).tolist() == [1]


def test_a_bank_with_a_nan_is_refused() -> None:
    bank = Examples(torch.tensor([[1.0, torch.nan]]), torch.tensor([0]))
    with pytest.raises(Rejected, match="feature 1 of image 0 is nan"):
        predict_neighbours(bank, torch.ones(1, 2), 2, k=1, temperature=0.07)
