"""The built-in parts by name: all kinds of every section with a ``kind``, with the import path and the options of each
kind.

A built-in part is made like a custom part: its name is replaced by an import path, and `pyro_mfcvae.config.build` calls
the class or function at this path. A new part needs one line here. This module does not import torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pyro_mfcvae.config import options as of
from pyro_mfcvae.errors import InputError

_BUILDERS = "pyro_mfcvae.config.builders"


@dataclass(frozen=True)
class Part:
    """A built-in part.

    Attributes:
        path: import path of a class, or of a function that makes the part.
        options: class of its options, which checks them before torch is loaded; if None, they are checked against the
            signature when the part is built, like those of a custom part.
    """

    path: str
    options: type | None = None


PRIORS: Mapping[str, Part] = {
    "gaussian": Part("pyro_mfcvae.models.MixturePrior", of.GaussianPriorOptions),
    "student_t": Part("pyro_mfcvae.models.StudentTMixturePrior", of.StudentTPriorOptions),
    "bayesian": Part("pyro_mfcvae.models.BayesianMixturePrior", of.BayesianPriorOptions),
    "vamp": Part(f"{_BUILDERS}.vamp_prior", of.VampPriorOptions),
}
LIKELIHOODS: Mapping[str, Part] = {
    "bernoulli": Part("pyro_mfcvae.models.BernoulliLikelihood", of.NoOptions),
    "continuous_bernoulli": Part("pyro_mfcvae.models.ContinuousBernoulliLikelihood", of.NoOptions),
    "gaussian": Part(f"{_BUILDERS}.gaussian_likelihood", of.GaussianLikelihoodOptions),
    "discretized_logistic": Part(f"{_BUILDERS}.discretized_logistic_likelihood", of.DiscretizedLogisticOptions),
    "poisson": Part("pyro_mfcvae.models.PoissonLikelihood", of.NoOptions),
    "negative_binomial": Part("pyro_mfcvae.models.NegativeBinomialLikelihood", of.NegativeBinomialOptions),
    "categorical": Part("pyro_mfcvae.models.CategoricalLikelihood", of.CategoricalOptions),
}
NETWORKS: Mapping[str, Part] = {
    "mlp": Part(f"{_BUILDERS}.mlp_ladder", of.MLPOptions),
    "conv": Part(f"{_BUILDERS}.conv_ladder", of.ConvOptions),
}
ASSIGNMENTS: Mapping[str, Part] = {
    "analytic": Part("pyro_mfcvae.guides.AnalyticAssignment", of.NoOptions),
    "monte_carlo": Part("pyro_mfcvae.guides.MonteCarloAssignment", of.MonteCarloOptions),
    "sample": Part("pyro_mfcvae.guides.SampleAssignment", of.NoOptions),
    "vade": Part("pyro_mfcvae.guides.VaDEAssignment", of.VaDEOptions),
    "amortized": Part("pyro_mfcvae.guides.AmortizedAssignment", of.AmortizedOptions),
}
GLOBALS_GUIDES: Mapping[str, Part] = {
    "conjugate": Part("pyro_mfcvae.guides.ConjugateGuide", of.NoOptions),
    "delta": Part(f"{_BUILDERS}.auto_delta", of.NoOptions),
    "normal": Part(f"{_BUILDERS}.auto_normal", of.NoOptions),
    "multivariate_normal": Part(f"{_BUILDERS}.auto_multivariate_normal", of.NoOptions),
}

PARTS: Mapping[str, Mapping[str, Part]] = {
    "prior": PRIORS,
    "likelihood": LIKELIHOODS,
    "networks": NETWORKS,
    "assignment": ASSIGNMENTS,
}
"""The built-in parts of every section that has a ``kind``."""


def is_import_path(name: str) -> bool:
    """Whether a kind is the import path of a custom part: only import paths have a dot."""
    return "." in name and all(part.isidentifier() for part in name.split("."))


def option_names(section: str, kind: str) -> tuple[str, ...] | None:
    """The names of the options of a kind; None if they are known only after the part is imported."""
    part = PARTS[section].get(kind)
    return None if part is None or part.options is None else tuple(f.name for f in fields(part.options))


def check_kind(name: str, kind: str, table: Mapping[str, Part]) -> None:
    """Refuse a kind that is neither in the table nor an import path.

    Args:
        name: name of the setting.
        kind: its value.
        table: table of the kinds.

    Raises:
        InputError: the kind is neither.
    """
    if kind not in table and not is_import_path(kind):
        close = get_close_matches(kind, table, n=1)
        hint = f"did you mean {close[0]}?" if close else "choose one of them"
        raise InputError(
            f"{name}: expected {', '.join(table)}, or the import path of a part of your own, such as "
            f"my_package.MyPart, got {kind!r}: {hint}"
        )


def complete_options(section: str, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the options of a part, and add the defaults of options that are not given.

    Args:
        section: section of the configuration.
        kind: name of a built-in part, or an import path, whose options are checked when it is built.
        given: the options that are set.

    Raises:
        InputError: there is no such kind, an option has no effect for it, or a value does not fit.
    """
    check_kind(f"{section}.kind", kind, PARTS[section])
    known = option_names(section, kind)
    if known is None:
        return dict(given)
    for name in given:
        if name not in known:
            raise InputError(_no_such_option(section, kind, name))
    part = PARTS[section][kind]
    assert part.options is not None
    try:
        return asdict(_adapter(part.options).validate_python(dict(given)))
    except ValidationError as error:
        raise InputError(describe_errors(error, under=f"{section}.options")) from None


@cache
def _adapter(options: type) -> TypeAdapter[Any]:
    """The adapter that checks options. It is cached, because making one takes longer than a check."""
    return TypeAdapter(options)


def kept_options(section: str, before: str, options: Mapping[str, Any], after: str) -> dict[str, Any]:
    """The options that stay when one kind is replaced by another: those that both kinds have and that are not
    defaults.
    """
    known = option_names(section, after)
    if before == after or known is None or option_names(section, before) is None:
        return dict(options) if before == after else {}
    defaults = {f.name: f.default for f in fields(PARTS[section][before].options)}  # type: ignore[arg-type]
    return {name: value for name, value in options.items() if name in known and value != defaults[name]}


def _no_such_option(section: str, kind: str, name: str) -> str:
    known = option_names(section, kind) or ()
    others = [other for other in PARTS[section] if name in (option_names(section, other) or ())]
    has = f"whose options are {', '.join(known)}" if known else "which has no options"
    if others:
        return (
            f"{section}.options.{name} has no effect with {section}.kind = {kind!r}, {has}: leave it out, or choose "
            f"{' or '.join(others)}"
        )
    close = get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(f'{section}.options.{c}' for c in close)}?" if close else "leave it out"
    return f"unknown setting '{section}.options.{name}' of {section}.kind = {kind!r}, {has}: {hint}"


def describe_errors(error: ValidationError, *, under: str = "") -> str:
    """All errors, separated by semicolons: the setting, the expected value, and the given value.

    Args:
        error: the error of pydantic.
        under: the section of the settings.
    """
    return "; ".join(_describe(details, under) for details in error.errors())


def _describe(details: Any, under: str) -> str:
    # For unions, pydantic adds the name of the alternative to the path; the user knows only the keys of the file.
    path = ".".join([*([under] if under else []), *(str(p) for p in details["loc"] if str(p).isidentifier())])
    if details["type"] == "value_error":  # an error of this package, which usually names its setting
        message = details["msg"].removeprefix("Value error, ")
        return message if not path or message.startswith(path.partition(".")[0]) else f"{path}: {message}"
    message = "expected a list such as [20, 10]" if details["type"] == "tuple_type" else details["msg"]
    got = "" if isinstance(details["input"], dict) else f", got {details['input']!r}"
    return f"{path}: {message[0].lower()}{message[1:]}{got}" if path else message
