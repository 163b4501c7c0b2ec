import json
import math

import numpy as np
import pytest

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.metrics import (
    FacetScores,
    ari,
    clusters_in_use,
    hungarian_accuracy,
    majority_accuracy,
    nmi,
    redundancy,
    score_facets,
)

# Cluster 0 holds the labels 0, 0, 1; cluster 1 holds 1, 1; cluster 2 holds 0.
CLUSTERS = np.array([0, 0, 0, 1, 1, 2])
LABELS = np.array([0, 0, 1, 1, 1, 0])


def test_markup_in_the_names_of_labels_is_text() -> None:
    shown = score_facets([[0], [1]], {"<script>": [0, 1]}, num_clusters=[2])._repr_html_()
    assert "<td>&lt;script&gt;</td>" in shown and "<script>" not in shown


def test_majority_accuracy_equals_the_value_computed_by_hand() -> None:
    assert majority_accuracy(CLUSTERS, LABELS) == 5 / 6


def test_majority_accuracy_is_one_when_every_item_has_its_own_cluster() -> None:
    assert majority_accuracy(np.arange(6), LABELS) == 1.0


def test_majority_labels_are_those_of_the_reference() -> None:
    # In the reference cluster 0 has label 1, cluster 2 has label 0, and cluster 1 is empty: the third and the last
    # item are right.
    assert majority_accuracy(CLUSTERS, LABELS, reference=([0, 0, 0, 2], [1, 1, 0, 0])) == 2 / 6


def test_clusters_above_all_of_the_reference_are_wrong() -> None:
    assert majority_accuracy([0, 7], [3, 3], reference=([0, 1], [3, 3])) == 0.5


def test_hungarian_accuracy_equals_the_value_computed_by_hand() -> None:
    # Cluster 0 is matched with label 0 (2 items), cluster 1 with label 1 (2 items), and cluster 2 with no label.
    assert hungarian_accuracy(CLUSTERS, LABELS) == 4 / 6


def test_nmi_equals_the_value_computed_by_hand() -> None:
    # y = (0, 0, 1, 1), c = (0, 1, 2, 2): H[y] = ln 2, H[c] = 1.5 ln 2, I = ln 2.
    assert nmi([0, 1, 2, 2], [0, 0, 1, 1]) == pytest.approx(1 / 1.25, abs=1e-12)
    assert nmi([0, 1, 0, 1], [0, 0, 1, 1]) == pytest.approx(0.0, abs=1e-12)


def test_ari_equals_the_value_computed_by_hand() -> None:
    # Pairs together in both: 1; in c: 1; in y: 2; of 6. Expected 1·2/6, at most (1 + 2)/2: (1 − 1/3) / (3/2 − 1/3).
    assert ari([0, 1, 2, 2], [0, 0, 1, 1]) == pytest.approx(4 / 7, abs=1e-12)


@pytest.mark.parametrize("score", [majority_accuracy, hungarian_accuracy, nmi, ari])
def test_scores_do_not_depend_on_the_names_of_clusters_and_are_plain_floats(score) -> None:  # noqa: ANN001
    value = score(CLUSTERS, LABELS)
    assert type(value) is float
    assert score(np.array([9, 4, 1])[CLUSTERS], LABELS) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("score", [majority_accuracy, hungarian_accuracy, nmi, ari])
def test_unlabelled_items_are_left_out(score) -> None:  # noqa: ANN001
    padded = score(np.append(CLUSTERS, [0, 1, 5]), np.append(LABELS, [-1, -1, -1]))
    assert padded == score(CLUSTERS, LABELS)


def test_clusters_in_use_by_assignment_and_by_probability() -> None:
    assert clusters_in_use([0, 0, 3], 5) == 2
    probs = [[0.6, 0.4, 0.0], [0.5, 0.1, 0.4], [0.0, 0.2, 0.8]]
    assert clusters_in_use(probs, 3) == 2


def test_clusters_in_use_have_at_least_the_given_share() -> None:
    assignments = [0] * 6 + [1] * 3 + [2]
    assert [clusters_in_use(assignments, 4, min_share=share) for share in (0.0, 0.1, 0.2, 0.5, 0.7)] == [3, 3, 2, 1, 0]


def test_redundancy_of_equal_and_of_independent_facets() -> None:
    assignments = np.array([[0, 1, 0], [0, 1, 1], [1, 0, 0], [1, 0, 1]])
    # Of four items in two pairs each, drawn at random, the pairs agree in 2 of 6 cases: E[I] = ⅓ log 2.
    independent = (0 - 1 / 3) / (1 - 1 / 3)
    expected = [[1.0, 1.0, independent], [1.0, 1.0, independent], [independent, independent, 1.0]]
    np.testing.assert_allclose(redundancy(assignments), expected, atol=1e-12)


def test_facets_with_one_cluster_share_no_information() -> None:
    assignments = np.array([[0, 2, 0], [0, 2, 1], [0, 2, 0]])
    np.testing.assert_array_equal(redundancy(assignments), np.eye(3))


def test_redundancy_does_not_grow_with_the_number_of_clusters() -> None:
    assignments = np.random.default_rng(0).integers([60, 30], size=(960, 2))
    assert nmi(*assignments.T) > 0.2
    assert abs(redundancy(assignments)[0, 1]) < 0.02


def test_score_facets_agrees_with_the_single_scores() -> None:
    assignments = np.stack([CLUSTERS, LABELS], axis=1)
    scores = score_facets(assignments, {"shape": LABELS, "hue": CLUSTERS}, num_clusters=(4, 2))
    np.testing.assert_array_equal(scores.accuracy["shape"], [5 / 6, 1.0])
    np.testing.assert_array_equal(scores.hungarian["shape"], [4 / 6, 1.0])
    np.testing.assert_array_equal(scores.nmi["hue"], [nmi(CLUSTERS, CLUSTERS), nmi(LABELS, CLUSTERS)])
    np.testing.assert_array_equal(scores.ari["hue"], [1.0, ari(LABELS, CLUSTERS)])
    np.testing.assert_array_equal(scores.clusters_in_use, [3, 2])
    np.testing.assert_array_equal(scores.redundancy, redundancy(assignments))


def test_facet_records_are_plain_json() -> None:
    scores = score_facets(np.stack([CLUSTERS, LABELS], axis=1), {"shape": LABELS}, num_clusters=(4, 2))
    records = scores.facet_records()
    assert json.loads(json.dumps(records)) == records
    assert records[1] == {
        "num_clusters": 2,
        "clusters_in_use": 2,
        "accuracy": {"shape": 1.0},
        "hungarian": {"shape": 1.0},
        "nmi": {"shape": 1.0},
        "ari": {"shape": 1.0},
    }
    assert records[0]["num_clusters"] == 4
    assert math.isclose(records[0]["accuracy"]["shape"], 5 / 6)


def scores_with_nmi(**nmi: list[float]) -> FacetScores:
    table = {label: np.array(values) for label, values in nmi.items()}
    num_facets = len(next(iter(nmi.values())))
    return FacetScores(
        num_clusters=(2,) * num_facets,
        accuracy=table,
        hungarian=table,
        nmi=table,
        ari=table,
        clusters_in_use=np.full(num_facets, 2),
        redundancy=np.eye(num_facets),
    )


def test_best_facets_are_matched_one_to_one() -> None:
    # Both label sets agree best with facet 0. The sum is largest if shape is matched with facet 1: 0.9 + 0.5 > 0.8 +
    # 0.1.
    assert scores_with_nmi(shape=[0.8, 0.5], hue=[0.9, 0.1]).best_facets() == {"shape": 1, "hue": 0}


def test_best_facets_repeat_when_there_are_more_label_sets_than_facets() -> None:
    scores = scores_with_nmi(a=[0.8, 0.5], b=[0.9, 0.1], c=[0.2, 0.3])
    assert scores.best_facets() == {"a": 0, "b": 0, "c": 1}


def test_facets_without_labels_have_no_best() -> None:
    scores = score_facets([[0, 1], [1, 1]], {}, num_clusters=(2, 2))
    assert scores.best_facets() == {}
    assert scores.facet_records()[1]["clusters_in_use"] == 1


def test_lengths_must_agree() -> None:
    with pytest.raises(InputError, match="one entry of labels per item, 3 in all, got 2"):
        nmi([0, 1, 1], [0, 1])
    with pytest.raises(InputError, match="label set 'hue' per item, 2 in all, got 1"):
        score_facets([[0], [1]], {"hue": [0]}, num_clusters=(2,))
    with pytest.raises(InputError, match=r"num_clusters for 1 facets, .* got 2"):
        score_facets([[0], [1]], {}, num_clusters=(2, 2))


def test_values_must_be_integers_of_the_right_shape() -> None:
    with pytest.raises(InputError, match="labels as integers with 1 dimension, got float64"):
        ari([0, 1], [0.0, 1.0])
    with pytest.raises(InputError, match=r"assignments as integers with 2 dimensions, got int64 of shape \(2,\)"):
        redundancy([0, 1])


def test_clusters_must_be_in_range() -> None:
    with pytest.raises(InputError, match="assignments of facet 1 from 0 to 1, got 2"):
        score_facets([[0, 2], [1, 0]], {}, num_clusters=(2, 2))
    with pytest.raises(InputError, match="from 0 to 4, got -1"):
        clusters_in_use([0, -1], 5)
    with pytest.raises(InputError, match=r"4 columns, one per cluster, got the shape \(1, 2\)"):
        clusters_in_use([[0.5, 0.5]], 4)


def test_a_label_set_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="label set 'hue', but all 2 are unlabelled"):
        score_facets([[0], [1]], {"hue": [-1, -1]}, num_clusters=(2,))


def test_many_clusters_raise_no_warning() -> None:
    assert nmi(np.arange(40), np.zeros(40, dtype=int)) == 0.0
    assert ari(np.arange(40), np.arange(40)) == 1.0
