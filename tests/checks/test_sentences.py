from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays

from pyro_mfcvae.checks.aggregate import DISTANCE, HOLES, SHAPE, USE
from pyro_mfcvae.checks.calibration import CALIBRATION
from pyro_mfcvae.checks.check import Check, Question
from pyro_mfcvae.checks.guide import DISCREPANCY, GAP, TAIL
from pyro_mfcvae.checks.information import CLUSTERS, LOSS
from pyro_mfcvae.checks.predictive import HELD_OUT, OUTLIERS, OVERFITTING, REPLICATED, TYPICAL
from pyro_mfcvae.checks.ranks import BETWEEN, CORRELATION, JOINT, SHIFT, WIDTH
from pyro_mfcvae.checks.sentences import SET_ASIDE, advise, describe_facet, describe_whole, suggest
from pyro_mfcvae.checks.stability import REDUNDANCY, REFITS, SEEDS

SETTINGS: dict[str, Any] = {
    "facets": {"num_clusters": [3, 2]},
    "prior": {"kind": "gaussian", "options": {"covariance": "full", "learn_weights": True}},
    "likelihood": {"kind": "gaussian", "options": {"scale": 1.5, "learn_scale": False}},
    "networks": {"kind": "mlp", "options": {"posterior": "diagonal", "head_init_scale": 0.0}},
    "assignment": {"kind": "analytic", "options": {}},
    "training": {"epochs": [3, 5], "free_nats": 0.0},
    "mixture_fit": {"items": 299},
}


def off(question: Question, facet: int | None = None, *, value: float = 10.0, **details: Any) -> Check:
    return Check(question, value, 0.0, "advice", facet, details)


def test_a_facet_without_faults_is_usable() -> None:
    data = exact_mixture_arrays()
    two = replace(data, facets=(replace(data.facets[0], groups=np.array([0, 1, 1])), data.facets[1]))
    assert describe_facet(two, [], 0) == ("facet 0: usable: 2 groups, made of 3 clusters; other seeds not compared.")
    seeds = Check(SEEDS, 0.02, 0.0, "", 0)
    assert "other seeds agree to 0.98 (ARI; 1 is the same)" in describe_facet(two, [seeds], 0)


@pytest.mark.parametrize(
    ("check", "part"),
    [
        (
            off(LOSS, 0, loss_without=0.004),
            "do not use it: it is empty, because the decoder draws the same items for every value of its z.",
        ),
        (off(CLUSTERS, 0, value=0.99), "do not use its clusters"),
        (
            off(SEEDS, 0, value=0.9),
            "do not rely on its 3 groups, made of 3 clusters: runs with other seeds",
        ),
        (off(REFITS, 0, value=0.9), "refits to resampled items find other groups (ARI 0.10; 1 is the same)"),
        (off(CALIBRATION, 0), "trust which cluster is most probable, but not how probable it is"),
        (off(WIDTH, 0), "its z are approximate, so plot them, but do not measure with them"),
        (off(HOLES, 0), "new items of it can look unlike yours"),
    ],
)
def test_a_fault_of_a_facet_changes_only_its_sentence(check: Check, part: str) -> None:
    data = exact_mixture_arrays()
    data = replace(data, facets=tuple(replace(f, groups=np.arange(len(f.groups))) for f in data.facets))
    assert part in describe_facet(data, [check], 0)
    assert describe_facet(data, [check], 1).startswith("facet 1: usable")


@pytest.mark.parametrize(
    ("groups", "suggested", "text"),
    [
        (
            [0, 1, 1],
            [0, 1, 2],
            "usable: 2 groups (the model suggests 3), made of 3 clusters; other seeds not compared.",
        ),
        (
            [0, 1, 2],
            [0, 0, 1],
            "use with care: 3 groups (the model suggests 2), made of 3 clusters; some of these groups overlap; other "
            "seeds not compared.",
        ),
        ([0, 0, 0], [0, 1, 1], "no division: all its clusters were merged into one group (the model suggests 2)."),
        ([0, 0, 0], [0, 0, 0], "no division: its 3 clusters overlap so much that they are one group."),
    ],
)
def test_the_sentence_compares_the_users_groups_with_those_of_the_model(
    groups: list[int], suggested: list[int], text: str
) -> None:
    facet = exact_mixture_arrays().facets[0]
    own = replace(facet, groups=np.array(groups), suggested_groups=np.array(suggested))
    assert describe_facet(replace(exact_mixture_arrays(), facets=(own,)), [], 0) == f"facet 0: {text}"


def test_a_facet_of_one_cluster_has_no_clusters_that_overlap() -> None:
    facet = exact_mixture_arrays().facets[0]
    one = replace(facet, groups=np.zeros(1, int), weights=np.ones(1), probs=np.ones((len(facet.probs), 1)))
    assert describe_facet(replace(exact_mixture_arrays(), facets=(one,)), [], 0) == (
        "facet 0: no division: it has one cluster."
    )
    first = np.eye(3)[np.zeros(len(facet.probs), int)]
    assert "all items are in one cluster" in describe_facet(
        replace(exact_mixture_arrays(), facets=(replace(facet, probs=first),)), [], 0
    )


OF_DIVISION = (LOSS, CLUSTERS, REFITS, SEEDS)
OF_FACET = (WIDTH, SHIFT, CORRELATION, TAIL, GAP, CALIBRATION, DISCREPANCY, DISTANCE, SHAPE, HOLES, USE)


@pytest.mark.parametrize("question", [*OF_DIVISION, *OF_FACET])
@pytest.mark.parametrize("groups", [[0, 1, 2], [0, 0, 0]])
def test_every_bad_row_of_a_facet_changes_its_sentence(question: Question, groups: list[int]) -> None:
    """Each bad row changes the sentence, also if the facet divides nothing, except for rows about the division."""
    if groups == [0, 0, 0] and question in (REFITS, SEEDS):
        return
    data = exact_mixture_arrays()
    data = replace(data, facets=(replace(data.facets[0], groups=np.array(groups)), data.facets[1]))
    assert describe_facet(data, [off(question, 0)], 0) != describe_facet(data, [], 0)


@pytest.mark.parametrize(
    "question", [REPLICATED, TYPICAL, HELD_OUT, REDUNDANCY, TAIL, GAP, JOINT, BETWEEN, OVERFITTING, OUTLIERS]
)
def test_every_bad_row_of_the_whole_changes_its_sentence(question: Question) -> None:
    details = {"statistic": "contrast"} if question is REPLICATED else {}
    assert describe_whole([off(question, **details)]) not in (describe_whole([]), describe_whole([off(WIDTH, 0)]))


def test_the_sentence_counts_the_rows_that_are_set_aside() -> None:
    """log p(x, z) of the true z is about drawn items, so it does not make the encoder's z approximate."""
    text = describe_whole([off(REPLICATED, statistic="contrast"), off(JOINT), off(WIDTH, 0)])
    assert text == (
        "whole: items that the model draws, noise included, look unlike yours (contrast), which does not make the "
        "clusters of yours wrong (2 rows about drawn items are set aside: they do not apply to yours)."
    )


def test_the_summary_is_one_sentence() -> None:
    assert describe_whole([]) == "whole: all checks of the model and of its facets are good."
    assert describe_whole([off(WIDTH, 0)]).endswith("all checks of the model are good; see the facets.")
    text = describe_whole([off(REPLICATED, statistic="contrast"), off(REDUNDANCY), off(OVERFITTING)])
    assert "look unlike yours (contrast), which does not make" in text and text.count(".") == 1
    assert "two facets divide the items in the same way" in text and "describes its training items better" in text


@pytest.mark.parametrize(
    ("check", "settings"),
    [
        (off(LOSS, 0), ["training.free_nats=0.5", "networks.options.head_init_scale=0.1"]),
        (off(REPLICATED, statistic="contrast"), ["likelihood.options.learn_scale=true"]),
        (off(REDUNDANCY), ["training.epochs=[6, 10]"]),
        (off(USE, 0), ["mixture_fit.items=598"]),
        (off(WIDTH, 0), ["training.epochs=[6, 10]"]),
        (off(CORRELATION, 0), ["training.epochs=[6, 10]", "networks.options.posterior=full"]),
        (off(CALIBRATION, 0), []),  # the analytic rule separates better; the advice says which probabilities to read
        (off(OVERFITTING), ["training.epochs=[1, 2]"]),
    ],
)
def test_suggestions_are_settings_of_the_run(check: Check, settings: list[str]) -> None:
    found = suggest(exact_mixture_arrays(), [check], SETTINGS)
    assert [suggestion.setting for suggestion in found] == settings
    assert all(suggestion.reason.endswith(".") for suggestion in found)


def test_values_that_are_already_set_are_not_suggested() -> None:
    learned = SETTINGS | {"likelihood": {"kind": "gaussian", "options": {"scale": 1.5, "learn_scale": True}}}
    assert suggest(exact_mixture_arrays(), [off(REPLICATED, statistic="contrast")], learned) == []
    fixed = SETTINGS | {"prior": {"kind": "gaussian", "options": {"covariance": "full", "learn_weights": False}}}
    assert suggest(exact_mixture_arrays(), [off(USE, 0)], fixed)[0].setting == "prior.options.learn_weights=true"
    enough = SETTINGS | {"mixture_fit": {"items": 300}}  # 100 items for each of three clusters
    assert suggest(exact_mixture_arrays(), [off(USE, 0)], enough) == []


@pytest.mark.parametrize(("scale", "residual", "suggested"), [(1.5, 1.0, True), (1.0, 1.5, True), (1.5, 0.5, False)])
def test_learned_noise_is_suggested_only_if_it_changes_little(scale: float, residual: float, suggested: bool) -> None:
    """The variance of a replication exceeds that of its item by scale² - residual²."""
    data = exact_mixture_arrays()
    observed = np.full_like(data.observed["contrast"], 2.0)
    replicated = np.full_like(data.replicated["contrast"], (4.0 + scale**2 - residual**2) ** 0.5)
    data = replace(data, observed={"contrast": observed}, replicated={"contrast": replicated})
    settings = SETTINGS | {"likelihood": {"kind": "gaussian", "options": {"scale": scale, "learn_scale": False}}}
    found = [suggestion.setting for suggestion in suggest(data, [off(REPLICATED, statistic="contrast")], settings)]
    assert found == (["likelihood.options.learn_scale=true"] if suggested else [])
    settings["likelihood"]["options"]["standardize"] = True  # the scale is then not in the data's units
    assert suggest(data, [off(REPLICATED, statistic="contrast")], settings) == []


def test_at_most_two_settings_are_suggested_and_the_most_serious_come_first() -> None:
    checks = [off(CALIBRATION, 0), off(WIDTH, 0), off(REPLICATED, statistic="contrast")]
    found = [suggestion.setting for suggestion in suggest(exact_mixture_arrays(), checks, SETTINGS)]
    assert found == ["likelihood.options.learn_scale=true"]  # the other checks are about drawn items
    checks = [off(HOLES, 0), off(GAP, 0), off(REPLICATED, statistic="contrast")]
    found = [suggestion.setting for suggestion in suggest(exact_mixture_arrays(), checks, SETTINGS)]
    assert found == ["likelihood.options.learn_scale=true", "training.epochs=[6, 10]"]


def test_an_overfitted_run_is_not_trained_for_longer() -> None:
    mild = Check(OVERFITTING, 0.2, 0.0, "advice")
    checks = [off(GAP), off(CORRELATION, 0), mild]
    found = [suggestion.setting for suggestion in suggest(exact_mixture_arrays(), checks, SETTINGS)]
    assert mild.verdict == "warn"
    assert found == ["training.epochs=[1, 2]", "networks.options.posterior=full"]


def test_checks_of_drawn_items_are_ignored_if_these_are_unlike_the_data() -> None:
    data = exact_mixture_arrays()
    data = replace(data, facets=tuple(replace(f, groups=np.arange(len(f.groups))) for f in data.facets))
    text = describe_facet(data, [off(WIDTH, 0), off(CALIBRATION, 0), off(REPLICATED, statistic="contrast")], 0)
    assert text == "facet 0: usable: 3 groups, made of 3 clusters; other seeds not compared."


def test_the_shape_of_a_cluster_is_set_aside_with_drawn_items_but_that_of_all_items_is_not() -> None:
    """The guide assigns a cluster to a drawn item, and can be wrong if the item is unlike the data."""
    of_one, of_all = off(SHAPE, 0, where="cluster 3"), off(SHAPE, 1, where="all items")
    unlike = off(REPLICATED, statistic="contrast")
    assert advise([of_one, of_all, unlike])["set aside", SET_ASIDE] == [f"{SHAPE.name}, facet 0"]
    assert "set aside" not in str(advise([of_one, of_all]).keys())


def test_advice_names_all_its_checks_and_sets_aside_those_of_drawn_items_that_are_unlike_the_data() -> None:
    checks = [off(GAP), off(WIDTH, 0), off(GAP, 1), Check(WIDTH, 0.0, 1.0, "advice", 1)]
    assert advise(checks) == {("bad", "advice"): [GAP.name, f"{WIDTH.name}, facet 0", f"{GAP.name}, facet 1"]}
    unlike = replace(off(REPLICATED, statistic="contrast"), advice="more contrast")
    assert advise([*checks, unlike]) == {
        ("bad", "advice"): [GAP.name, f"{GAP.name}, facet 1"],
        ("bad", "more contrast"): [REPLICATED.name],
        ("set aside", SET_ASIDE): [f"{WIDTH.name}, facet 0"],
    }
