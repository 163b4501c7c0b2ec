"""Conclusions from the verdicts: advice, a sentence per facet, one for the whole model, and settings to change next."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyro_mfcvae.checks.aggregate import DISTANCE, HOLES, SHAPE, USE
from pyro_mfcvae.checks.calibration import CALIBRATION
from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.guide import DISCREPANCY, GAP, TAIL
from pyro_mfcvae.checks.information import CLUSTERS, LOSS
from pyro_mfcvae.checks.predictive import HELD_OUT, OUTLIERS, OVERFITTING, TYPICAL
from pyro_mfcvae.checks.ranks import BETWEEN, CORRELATION, JOINT, SHIFT, WIDTH
from pyro_mfcvae.checks.stability import REDUNDANCY, REFITS, SEEDS
from pyro_mfcvae.draws.check_data import CheckData, FacetData
from pyro_mfcvae.draws.p_values import ALL

_LATENT = {q.name for q in (SHIFT, WIDTH, CORRELATION, TAIL, GAP)}
_OF_DRAWN_ITEMS = {q.name for q in (SHIFT, WIDTH, CORRELATION, CALIBRATION, JOINT, BETWEEN)}
_PRIOR = {q.name for q in (DISTANCE, SHAPE, HOLES, USE)}
_CAVEATS = (
    ({CALIBRATION.name, DISCREPANCY.name}, "trust which cluster is most probable, but not how probable it is"),
    (_LATENT, "its z are approximate, so plot them, but do not measure with them"),
    (_PRIOR, "new items of it can look unlike yours"),
)
_APPROXIMATE = {TAIL.name, GAP.name, JOINT.name, BETWEEN.name}
_OF_WHOLE = (
    (_APPROXIMATE, "the encoder's z are approximate, so the evidence log p(x) is a lower bound only"),
    ({OVERFITTING.name}, "the model describes its training items better than these"),
    ({OUTLIERS.name}, "some items are unlike the training items"),
)
_MOST_NOISE = 2.0  # noise over residuals; that of `shapes` is far larger
_FEW_ITEMS = 100  # per cluster, in fits of the mixture; `shapes` has at least 200, and 400 did not change the result
SET_ASIDE = "This concerns items that the model draws. They look unlike yours, so do not apply it to yours."


@dataclass(frozen=True)
class Suggestion:
    """A setting to change next.

    Attributes:
        setting: the change in the form of ``--set``, ``section.key=value``.
        reason: a sentence that says why.
    """

    setting: str
    reason: str


def is_replicated(check: Check) -> bool:
    """Whether the check is about a replicated statistic."""
    return "statistic" in check.details


def is_unlike(checks: Iterable[Check]) -> bool:
    """Whether drawn items differ from the data, which makes checks on drawn items invalid for the data."""
    return any(c.verdict == "bad" and (is_replicated(c) or c.name in (TYPICAL.name, HELD_OUT.name)) for c in checks)


def is_set_aside(check: Check, *, unlike: bool) -> bool:
    """Whether a check that is not good is set aside: it is about drawn items, and these are unlike the data.

    The shape of a single cluster is also about drawn items, since the guide assigns drawn items to the cluster.
    """
    of_cluster = check.name == SHAPE.name and check.details.get("where", ALL) != ALL
    return unlike and check.verdict != "good" and (check.name in _OF_DRAWN_ITEMS or of_cluster)


def advise(checks: Sequence[Check]) -> dict[tuple[str, str], list[str]]:
    """Maps (verdict or "set aside", advice) to the names of the checks; the worst come first."""
    unlike, found = is_unlike(checks), dict[tuple[str, str], list[str]]()
    off = [check for check in checks if check.verdict != "good"]
    for check in sorted(off, key=lambda c: (is_set_aside(c, unlike=unlike), c.verdict != "bad")):
        aside = is_set_aside(check, unlike=unlike)
        name = check.name if check.facet is None else f"{check.name}, facet {check.facet}"
        found.setdefault(("set aside", SET_ASIDE) if aside else (check.verdict, check.advice), []).append(name)
    return found


def _off(checks: Iterable[Check], names: Iterable[str], *, bad: bool = False) -> list[Check]:
    wanted = set(names)
    return [c for c in checks if c.name in wanted and (c.verdict == "bad" if bad else c.verdict != "good")]


def describe_facet(data: CheckData, checks: Sequence[Check], j: int) -> str:
    """The sentence about facet j, which depends on the checks of this facet.

    Args:
        data: the arrays that were checked.
        checks: all checks of the table.
        j: the facet.
    """
    own, facet = [check for check in checks if check.facet == j], data.facets[j]
    start = f"facet {j}: "
    if off := _off(own, [LOSS.name], bad=True):
        return start + "do not use it: it is empty, because the decoder draws the same items for every value of its z."
    unlike = is_unlike(checks)
    own = [check for check in own if not is_set_aside(check, unlike=unlike)]
    end = "".join(f"; {caveat}" for names, caveat in _CAVEATS if _off(own, names)) + "."
    if off := _off(own, [CLUSTERS.name], bad=True):
        num = 1 / max(off[0].value, 1e-12)
        return start + f"do not use its clusters: they separate items no better than {num:.1f} clusters would{end}"
    if facet.num_groups == 1:
        return f"{start}no division: {_why_one(facet)}{end}"
    others = f" (the model suggests {facet.num_suggested})" if facet.num_suggested != facet.num_groups else ""
    groups = f"{facet.num_groups} groups{others}, made of {facet.num_in_use} clusters"
    if off := _off(own, [SEEDS.name, REFITS.name], bad=True):
        again = "runs with other seeds" if off[0].name == SEEDS.name else "refits to resampled items"
        same = f"(ARI {1 - off[0].value:.2f}; 1 is the same)"
        return start + f"do not rely on its {groups}: {again} find other groups {same}{end}"
    agreement = [f"other seeds agree to {1 - c.value:.2f} (ARI; 1 is the same)" for c in own if c.name == SEEDS.name]
    overlap = ["some of these groups overlap"] if facet.num_groups > facet.num_suggested else []
    weak = overlap or _off(own, [LOSS.name, CLUSTERS.name, REFITS.name, SEEDS.name])
    parts = [groups, *overlap, *(agreement or ["other seeds not compared"])]
    return f"{start}{'use with care' if weak else 'usable'}: {'; '.join(parts)}{end}"


def _why_one(facet: FacetData) -> str:
    """Why all items are in one group."""
    if len(facet.weights) == 1:
        return "it has one cluster"
    if facet.num_suggested > 1:
        return f"all its clusters were merged into one group (the model suggests {facet.num_suggested})"
    if facet.num_in_use == 1:
        return "all items are in one cluster"
    return f"its {facet.num_in_use} clusters overlap so much that they are one group"


def describe_whole(checks: Sequence[Check]) -> str:
    """The sentence about the whole model."""
    aside = [check for check in checks if is_set_aside(check, unlike=is_unlike(checks))]
    whole = [check for check in checks if check.facet is None and check.verdict != "good" and check not in aside]
    unlike = [c for c in whole if is_replicated(c) or c.name in (TYPICAL.name, HELD_OUT.name)]
    parts = []
    if unlike:
        names = [c.details["statistic"].replace("_", " ") for c in unlike if is_replicated(c)] or ["log p(x)"]
        parts.append(
            f"items that the model draws, noise included, look unlike yours ({', '.join(names)}), which does not make "
            "the clusters of yours wrong"
            + (f" ({len(aside)} rows about drawn items are set aside: they do not apply to yours)" if aside else "")
        )
    if off := _off(whole, [REDUNDANCY.name]):
        parts.append("two facets divide the items in the same way" + (" in part" if off[0].verdict == "warn" else ""))
    if parts := parts + [text for names, text in _OF_WHOLE if _off(whole, names)]:
        return "whole: " + "; ".join(parts) + "."
    good = all(check.verdict == "good" for check in checks)
    return "whole: all checks of the model " + ("and of its facets are good." if good else "are good; see the facets.")


class _Settings:
    """The settings of a run, to be found by key alone, without the section."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def find(self, key: str, section: str | None = None) -> tuple[str, Any] | None:
        """``section.key`` or ``section.options.key``, and its value; None if the run has no such setting."""
        for name, values in self.settings.items():
            if isinstance(values, Mapping) and section in (None, name):
                options = values.get("options", {})
                if key in values:
                    return f"{name}.{key}", values[key]
                if key in options:
                    return f"{name}.options.{key}", options[key]
        return None

    def change(self, key: str, section: str | None, new: Callable[[Any], Any], reason: str) -> list[Suggestion]:
        """Suggest the value new(present value) for a key, unless it is None or the run has no such key."""
        found = self.find(key, section)
        value = None if found is None else new(found[1])
        if found is None or value is None:
            return []
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return [Suggestion(f"{found[0]}={text}", reason)]


def suggest(
    data: CheckData, checks: Sequence[Check], settings: Mapping[str, Any], *, most: int = 2
) -> list[Suggestion]:
    """The most useful settings to change next. A value that a setting of the run already has is not suggested.

    Args:
        data: the arrays that were checked.
        checks: all checks of the table.
        settings: section → key → value, as config.toml holds them.
        most: the largest number of suggestions.
    """
    run = _Settings(settings)
    unlike = is_unlike(checks)
    off = [c for c in checks if c.verdict != "good" and not is_set_aside(c, unlike=unlike)]
    by_rule = [(rule, [c for c in off if ("replicated" if is_replicated(c) else c.name) in n]) for n, rule in _RULES]
    # The rule for overfitting comes first, so that its fewer epochs rule out more epochs for the guide.
    by_rule.sort(key=lambda r: r[0] != _overfitted and all(c.verdict == "warn" for c in r[1]))
    found = [suggestion for rule, concerned in by_rule if concerned for suggestion in rule(run, data, concerned)]
    unique = list({suggestion.setting.partition("=")[0]: suggestion for suggestion in reversed(found)}.values())[::-1]
    return unique[:most]


def _collapsed(run: _Settings, data: CheckData, off: Sequence[Check]) -> list[Suggestion]:
    free = "A facet is empty; with this setting the first half nat of its information costs nothing."
    aware = "A facet is empty; with this setting its z depend on the items from the start."
    return run.change("free_nats", None, lambda v: None if v else 0.5, free) + run.change(
        "head_init_scale", None, lambda v: None if v else 0.1, aware
    )


def _unlike(run: _Settings, data: CheckData, off: Sequence[Check]) -> list[Suggestion]:
    """Suggest a learned scale of the noise, if this changes the scale only a little.

    A scale far above the residuals keeps details out of z. In `shapes`, learning it made 15 groups of four.
    """
    ratio = _noise_ratio(run, data)
    if ratio is None or not 1 / _MOST_NOISE <= ratio <= _MOST_NOISE:
        return []
    reason = "The model does not draw as much noise as your items have; with this setting it learns the right amount."
    return run.change("learn_scale", "likelihood", lambda v: None if v else True, reason)


def _noise_ratio(run: _Settings, data: CheckData) -> float | None:
    """Ratio of the scale of the Gaussian noise to that of the residuals; None if the scale is not a single number.

    The variance over the pixels of an item, or of a replication, is contrast². It is the sum of the variances of the
    mean and of the noise.
    """
    scale, units = run.find("scale", "likelihood"), run.find("standardize", "likelihood")
    is_number = scale is not None and isinstance(scale[1], float | int)
    if scale is None or not is_number or (units and units[1]) or "contrast" not in data.observed:
        return None
    excess = (data.replicated["contrast"] ** 2).mean() - (data.observed["contrast"] ** 2).mean()
    residual = scale[1] ** 2 - float(excess)
    return float("inf") if residual <= 0 else float(scale[1] / residual**0.5)


def _same(run: _Settings, data: CheckData, off: Sequence[Check]) -> list[Suggestion]:
    reason = "Two facets learned the same; with this setting the shallower one starts without information."
    return run.change("head_init_scale", None, lambda v: 0.0 if v else None, reason) or _longer(
        run, "Two facets learned the same; with this setting the deeper one trains alone for longer."
    )


def _unstable(run: _Settings, data: CheckData, off: Sequence[Check]) -> list[Suggestion]:
    facets = {check.facet for check in off}
    fewer = [
        max(2, min(2 * facet.num_groups, len(facet.weights))) if j in facets else len(facet.weights)
        for j, facet in enumerate(data.facets)
    ]
    reason = "Clusters that exceed the number of groups by far differ from run to run."
    return run.change("num_clusters", "facets", lambda v: fewer if list(v) != fewer else None, reason)


def _poor_guide(run: _Settings, data: CheckData, off: Sequence[Check]) -> list[Suggestion]:
    """Suggest more training first. Suggest a richer q(z | x) only if it ignores that coordinates depend on each other.

    On `shapes` they do not, and a full covariance changed nothing.
    """
    richer = {"diagonal": "full", "low_rank": "full", "full": "spline", "spline": "autoregressive"}
    time, shapes = "they have more time to improve", "q(z|x) can represent how its coordinates depend on each other"
    longer, wider = (f"The encoder's z are approximate; with this setting {gain}." for gain in (time, shapes))
    return _longer(run, longer) + (
        run.change("posterior", None, richer.get, wider) if _off(off, [CORRELATION.name]) else []
    )


def _other_prior(run: _Settings, data: CheckData, off: Sequence[Check]) -> list[Suggestion]:
    reason = "The mixture does not lie where z of your items lie."
    fixed = "The weights of the clusters are fixed, but the clusters are not used equally often."
    weights = run.change("learn_weights", "prior", lambda v: None if v else True, fixed)
    covariance = run.change("covariance", "prior", lambda v: None if v == "full" else "full", reason)
    few = _FEW_ITEMS * max(len(facet.weights) for facet in data.facets)
    return (weights if any(check.name == USE.name for check in off) else []) + covariance or run.change(
        "items",
        "mixture_fit",
        lambda v: 2 * v if v < few else None,
        f"{reason} With this setting more items are used in its fits.",
    )


def _overfitted(run: _Settings, data: CheckData, off: Sequence[Check]) -> list[Suggestion]:
    def shorter(epochs: Any) -> Any:
        return [max(1, e // 2) for e in epochs] if isinstance(epochs, Sequence) else max(1, epochs // 2)

    return run.change("epochs", None, shorter, "The model describes its training items better than new ones.")


def _longer(run: _Settings, reason: str) -> list[Suggestion]:
    return run.change("epochs", None, lambda e: [2 * n for n in e] if isinstance(e, Sequence) else 2 * e, reason)


_Rule = Callable[[_Settings, CheckData, Sequence[Check]], list[Suggestion]]
# The first suggestions that apply are used, so rules for faults that make a facet useless come before rules for inexact
# numbers.
_RULES: tuple[tuple[frozenset[str], _Rule], ...] = (
    (frozenset({LOSS.name, CLUSTERS.name}), _collapsed),
    (frozenset({REDUNDANCY.name}), _same),
    (frozenset({SEEDS.name, REFITS.name}), _unstable),
    (frozenset({"replicated", TYPICAL.name, HELD_OUT.name}), _unlike),
    (frozenset({OVERFITTING.name}), _overfitted),
    (frozenset({*_LATENT, JOINT.name}), _poor_guide),
    (frozenset(_PRIOR), _other_prior),
)
