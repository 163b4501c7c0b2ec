import tomllib
from typing import Any

import pytest
import tomli_w

from pyro_mfcvae.config.schema import Config, DataConfig, FacetsConfig
from pyro_mfcvae.config.text import load_preset, override, preset_names, read_config, setting_names, to_toml
from pyro_mfcvae.config.training_sections import TrainingConfig
from pyro_mfcvae.errors import InputError

BASE = Config(data=DataConfig(source="shapes"))


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_unchanged_by_toml(name: str) -> None:
    config = load_preset(name)
    assert read_config(to_toml(config), source="config.toml") == config


def test_defaults_are_unchanged_by_toml() -> None:
    assert read_config('data.source = "shapes"', source="here") == BASE
    assert read_config(to_toml(BASE), source="here") == BASE


def test_changed_values_are_unchanged_by_toml() -> None:
    config = override(
        BASE,
        [
            "facets.num_clusters=[3, 4, 5]",
            "facets.latent_dim=[1, 2, 3]",
            "networks.encoder_dims=[8, 9, 10]",
            "training.epochs=[1, 2, 3]",
            "training.final_learning_rate=1e-5",
            "mixture_fit.variance=0.01",
            "mixture_fit.refit_steps=[7, 8]",
            'description="quotes \\" and backslash \\\\ and größer"',
        ],
    )
    assert read_config(to_toml(config), source="here") == config
    assert config.description == 'quotes " and backslash \\ and größer'


def test_toml_leaves_out_values_that_are_none() -> None:
    table = tomllib.loads(to_toml(BASE))
    assert "final_learning_rate" not in table["training"]
    assert "encoder_dims" not in table["networks"]["options"]
    assert table["training"]["epochs"] == 10


def values(config: Config) -> dict[str, Any]:
    """Setting's name → its value."""
    found = {}
    for name in setting_names(config):
        value: Any = config
        for part in name.split("."):
            value = value[part] if isinstance(value, dict) else getattr(value, part)
        found[name] = value
    return found


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.batch_size=5", 5),
        ("training.epochs=3", 3),
        ("training.epochs=[3, 4]", (3, 4)),
        ("mixture_fit.refit_steps=[7]", (7,)),
        ("training.learning_rate=0.25", 0.25),
        ("training.learning_rate=1", 1.0),
        ("training.learning_rate=2e-4", 2e-4),
        ("training.data_dependent_init=true", True),
        ("prior.options.learn_weights=false", False),
        ("training.precision=bf16", "bf16"),
        ('training.precision="bf16"', "bf16"),
        (" training.precision = bf16 ", "bf16"),
        ("data.source=/some/where/x y.npz", "/some/where/x y.npz"),
        ("description=a = b", "a = b"),
        ("mixture_fit.variance=0.5", 0.5),
    ],
)
def test_override_changes_one_value(setting: str, expected: object) -> None:
    name = setting.partition("=")[0].strip()
    before, after = values(BASE), values(override(BASE, [setting]))
    assert after.pop(name) == expected
    assert type(values(override(BASE, [setting]))[name]) is type(expected)
    assert before.pop(name) != expected
    assert after == before


def test_override_resets_a_value_with_none() -> None:
    config = override(BASE, ["mixture_fit.variance=0.5", "networks.decoder_dims=[3, 4]"])
    assert override(config, ["mixture_fit.variance=none", "networks.decoder_dims=none"]) == BASE


def test_overrides_are_checked_together_and_the_last_one_counts() -> None:
    config = override(BASE, ["facets.num_clusters=[3, 4, 5]", "facets.latent_dim=[1, 1, 1]", "seed=1", "seed=2"])
    assert config.facets == FacetsConfig(num_clusters=(3, 4, 5), latent_dim=(1, 1, 1))
    assert config.seed == 2


def test_a_part_is_chosen_by_its_sections_name() -> None:
    rule = "assignment=parts_of_a_user.MyRule"
    config = override(BASE, ["prior=student_t", rule, "assignment.options.num_samples=3"])
    assert (config.prior.kind, config.assignment.kind) == ("student_t", "parts_of_a_user.MyRule")
    assert config.assignment.options == {"num_samples": 3}
    assert override(BASE, [rule, "assignment.options={num_samples=3}"]).assignment == config.assignment
    assert override(BASE, [rule, "assignment.num_samples=3"]).assignment == config.assignment
    assert read_config(to_toml(config), source="here") == config
    assert override(BASE, ["data=x.npz"]).data == DataConfig(source="x.npz")


def test_another_kind_keeps_the_options_that_both_have() -> None:
    full = override(BASE, ["prior.covariance=full", "prior.learn_weights=false"])
    assert override(full, ["prior=bayesian"]).prior.options["covariance"] == "full"
    assert override(full, ["prior=student_t"]).prior.options == {"df": 5.0, "learn_weights": False}
    assert override(full, ["prior=gaussian"]) == full
    assert override(full, ["prior=parts_of_a_user.MyPrior"]).prior.options == {}
    kept = override(BASE, ["likelihood=gaussian", "likelihood.scale=0.5"])
    assert override(kept, ["likelihood=discretized_logistic"]).likelihood.options["scale"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["networks=conv", "networks.hidden_dim=8"],
            "networks.options.hidden_dim has no effect with networks.kind = 'conv', whose options are .*channels, .*: "
            "leave it out, or choose mlp",
        ),
        (["networks.gated=true"], "networks.options.gated has no effect with networks.kind = 'mlp', .* or choose conv"),
        (
            ["prior=student_t", "assignment=sample", "prior.covariance=full"],
            "prior.options.covariance has no effect with prior.kind = 'student_t', whose options are df, learn_weights"
            ": leave it out, or choose gaussian or bayesian",
        ),
        (["likelihood.scale=0.5"], "likelihood.options.scale has no effect with .*'bernoulli', which has no options"),
        (["assignment.num_samples=2"], "has no effect with assignment.kind = 'analytic', .* monte_carlo or vade"),
        (
            ["prior.options.covarianc=full"],
            "unknown setting 'prior.options.covarianc' .* did you mean prior.options.cov",
        ),
        (
            ["prior=bayesian", 'prior.random=["loc"]', "prior.concentration=2"],
            'prior.options: expected no concentration where random does not name "probs", got 2.0: leave it out',
        ),
        (["prior=bayesian", "prior.correlation=2"], "no correlation where no covariance is full or tied, got 2.0"),
        (
            ["prior.globals_guide=normal"],
            "expected no globals_guide with prior.kind = 'gaussian', whose parameters are",
        ),
        (["likelihood=gaussian", "likelihood.per_channel=true"], "no per_channel where the scale is not learned"),
        (["supervision.items_per_value=3"], "expected no items_per_value without supervision.label, got 3: leave it"),
        (["schedule.kl_relax_steps=[1, 2]"], r"expected no kl_relax_steps without schedule.kl_weights, got \(1, 2\)"),
        (["networks=conv", "networks.recompute=true", "training.compile=true"], '"auto" with networks.recompute, got'),
        (["facets.num_clusters=[3]", "training.independence=1"], "no independence in training with one facet, got 1.0"),
        (["prior=vamp", "mixture_fit.variance=0.1"], 'expected no variance in mixture_fit with prior.kind = "vamp"'),
    ],
)
def test_a_setting_without_effect_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        override(BASE, settings)


def test_a_file_s_text_is_bounded() -> None:
    start = 'data.source = "x"\n'
    for text in ("a." * 20_000 + "a = 1", "a." * 500 + "a = 1", "seed = " + "[" * 20_000, "seed = " + "[" * 5000):
        with pytest.raises(
            InputError, match=r"expected (at most 50,000 characters|keys and lists nested at most 10 deep)"
        ):
            read_config(start + text, source="config.toml")
    with pytest.raises(InputError, match=r"nested at most 10 deep, got deeper ones in seed: flatten them"):
        override(BASE, ["seed=" + "[" * 5000])
    assert (
        read_config(start + 'description = "a.b.c.d.e.f.g.h.i.j.k.l.m.n [[[[[[[[[[[[["', source="x").data.source == "x"
    )


@pytest.mark.parametrize("setting", ("prior=laplace", "prior=my_package.", "prior=my package.MyPrior", "prior.kind=x"))
def test_a_name_that_is_no_kind_and_no_import_path_is_refused(setting: str) -> None:
    message = (
        "prior.kind: expected gaussian, student_t, bayesian, vamp, or the import path of a part of your own, such as "
    )
    with pytest.raises(InputError, match=message):
        override(BASE, [setting])


def test_override_without_settings_changes_nothing() -> None:
    assert override(BASE, []) == BASE


@pytest.mark.parametrize("name", setting_names())
def test_every_setting_takes_its_own_value_as_toml_writes_it(name: str) -> None:
    value = values(BASE)[name]
    if value is None:
        text = "none"
    elif value == {}:
        text = "{}"  # tomli_w would write a section
    else:
        text = tomli_w.dumps({"value": value}).removeprefix("value = ")
    assert override(BASE, [f"{name}={text}"]) == BASE


def test_one_number_of_epochs_serves_all_stages() -> None:
    assert override(BASE, ["training.epochs=4"]).stage_epochs == (4, 4)
    assert override(BASE, ["training.epochs=[4, 5]"]).stage_epochs == (4, 5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epoch=5", "unknown setting 'training.epoch': did you mean training.epochs or .*\\?"),
        ("epochs=5", "unknown setting 'epochs': did you mean .*training.epochs"),
        ("trainin.epochs=5", "unknown setting 'trainin.epochs': did you mean training.epochs"),
        ("zzzzzz=5", "unknown setting 'zzzzzz': did you mean .*\\?"),
        (
            "training.epochs.deep=5",
            "expected no keys below epochs, which is a value, got training.epochs.deep: leave them out",
        ),
        ("training.epochs", "expected a setting such as training.epochs=5, got 'training.epochs': write NAME=VALUE"),
        ("training=5", "--set: training: input should be .*, got 5"),
        (
            "training.epochs=fast",
            "--set: training.epochs: expected a list .*, got 'fast'; .*integer, got 'fast'",
        ),
        ("training.batch_size=2.5", "--set: training.batch_size: input should be a valid integer, got 2.5"),
        ("training.batch_size=true", "--set: training.batch_size: input should be a valid integer, got True"),
        ("training.learning_rate=high", "--set: training.learning_rate: input should be a valid number, got 'high'"),
        ("training.data_dependent_init=7", "--set: training.data_dependent_init: input should be a valid boolean"),
        ("data.source=5", "--set: data.source: input should be a valid string, got 5"),
        ("data=none", "--set: data.source: input should be a valid string, got None"),
        ("training.compile=maybe", "--set: training.compile: input should be 'auto', True or False, got 'maybe'"),
        ("training.precision=32", "--set: training.precision: input should be 'float32', 'tf32' or 'bf16', got 32"),
        ("training.on_divergence=go", "--set: training.on_divergence: input should be 'stop' or 'retry', got 'go'"),
        (
            "prior.covariance=round",
            "--set: prior.options.covariance: input should be 'diagonal', 'full', 'spherical' or 'tied'",
        ),
        ("training.batch_size=0", "--set: training.batch_size: input should be greater than or equal to 1, got 0"),
        ("training.epochs=[1, 0]", "--set: training: expected 1 epoch or more in the last stage, got 0: raise"),
        ("mixture_fit.warmup_steps=-1", "mixture_fit.warmup_steps: input should be greater than or equal to 0, got -1"),
        ("training.learning_rate=0", "--set: training.learning_rate: input should be greater than 0, got 0"),
        ("training.learning_rate=nan", "--set: training.learning_rate: input should be a finite number, got nan"),
        ("prior.kind=5", "--set: prior.kind: input should be a valid string, got 5"),
        ("seed=-1", "--set: seed: input should be greater than or equal to 0, got -1"),
        ("seed=4294967296", "--set: seed: input should be less than 4294967296, got 4294967296"),
        ("facets.num_clusters=[]", "--set: facets.num_clusters: tuple should have at least 1 item"),
        ("facets.num_clusters=[3, 4, 5]", "expected 3 values in facets.latent_dim, .*, got 2 in \\[5, 5\\]"),
        ("facets.latent_dim=[3]", "expected 2 values in facets.latent_dim, .*, got 1 in \\[3\\]"),
        ("mixture_fit.warmup_steps=[3]", "expected 2 values in mixture_fit.warmup_steps, .*, got 1 in \\[3\\]"),
        ("training.epochs=[1, 2, 3]", "expected 2 values in training.epochs, .*, got 3 in \\[1, 2, 3\\]"),
        (
            "prior.covariance=['tied']",
            "expected 2 values in prior.options.covariance, .*, got 1 in \\['tied'\\]",
        ),
        ("prior.covariance=[]", "prior.options.covariance: tuple should have at least 1 item"),
        ("prior.covariance=['full', 'round']", "prior.options.covariance: .* 'spherical' or 'tied', got 'round'"),
        ("networks.encoder_dims=[8]", "expected 2 values in networks.options.encoder_dims, .*, got 1 in \\[8\\]"),
        ("networks.decoder_dims=[8]", "expected 2 values in networks.options.decoder_dims, .*, got 1 in \\[8\\]"),
    ],
)
def test_wrong_settings_are_reported_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        override(BASE, [setting])
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(InputError, match=r"^--set: seed: .*, got -1; training.batch_size: .*, got 0$"):
        override(BASE, ["training.batch_size=0", "seed=-1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1", "^my.toml: data: field required$"),
        ("data = ", "^expected valid TOML in my.toml, got an error: "),
        ("seed = 1\nseed = 2", "^expected valid TOML in my.toml, got an error: "),
        ('data.source = "x"\n[trainin]\nepochs = 1', "^my.toml: trainin: unexpected keyword argument$"),
        ('data.source = "x"\n[training]\nepoch = 1', "^my.toml: training.epoch: unexpected keyword argument, got 1$"),
        ('data.source = "x"\n[training]\nepochs = "5"', "^my.toml: training.epochs: .* valid integer, got '5'$"),
        ('data.source = "x"\n[facets]\nnum_clusters = [2]', "^my.toml: expected 1 values in "),
    ],
)
def test_wrong_files_are_reported_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_config(text, source="my.toml")
    assert "\n" not in str(caught.value)


def test_a_configuration_made_in_python_is_checked_too() -> None:
    with pytest.raises(InputError, match=r"expected 2 values in training.epochs, .*, got 1 in \[1\]"):
        Config(data=DataConfig(source="shapes"), training=TrainingConfig(epochs=(1,)))


def test_setting_names_are_the_keys_of_the_file() -> None:
    names = setting_names()
    assert {"data.source", "seed", "facets.num_clusters", "mixture_fit.refit_steps"} <= set(names)
    assert len(names) == len(set(names)) == len(values(BASE))
