import tomllib
from typing import Any

import pytest
import tomli_w

from pyro_mfcvae.config.schema import Config, FacetsConfig, TrainingConfig
from pyro_mfcvae.config.text import load_preset, override, preset_names, read_config, setting_names, to_toml
from pyro_mfcvae.errors import InputError

BASE = Config(data="shapes")


@pytest.mark.parametrize("name", preset_names())
def test_toml_gives_a_preset_back(name: str) -> None:
    config = load_preset(name)
    assert read_config(to_toml(config), source="config.toml") == config


def test_toml_gives_the_defaults_back() -> None:
    assert read_config('data = "shapes"', source="here") == BASE
    assert read_config(to_toml(BASE), source="here") == BASE


def test_toml_gives_every_changed_value_back() -> None:
    config = override(
        BASE,
        [
            "facets.num_clusters=[3, 4, 5]",
            "facets.latent_dim=[1, 2, 3]",
            "networks.encoder_dims=[8, 9, 10]",
            "training.epochs=[1, 2, 3]",
            "training.final_learning_rate=1e-5",
            "training.mixture_variance=0.01",
            "training.refit_steps=[7, 8]",
            'description="quotes \\" and backslash \\\\ and größer"',
        ],
    )
    assert read_config(to_toml(config), source="here") == config
    assert config.description == 'quotes " and backslash \\ and größer'


def test_toml_leaves_out_what_the_code_decides() -> None:
    table = tomllib.loads(to_toml(BASE))
    assert "final_learning_rate" not in table["training"]
    assert "encoder_dims" not in table["networks"]
    assert table["training"]["epochs"] == 10


def values(config: Config) -> dict[str, Any]:
    """Setting's name → its value."""
    found = {}
    for name in setting_names():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        found[name] = value
    return found


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.batch_size=5", 5),
        ("training.epochs=3", 3),
        ("training.epochs=[3, 4]", (3, 4)),
        ("training.refit_steps=[7]", (7,)),
        ("training.learning_rate=0.25", 0.25),
        ("training.learning_rate=1", 1.0),
        ("training.learning_rate=2e-4", 2e-4),
        ("training.data_dependent_init=true", True),
        ("prior.learn_weights=false", False),
        ("training.fade=cosine", "cosine"),
        ('training.fade="cosine"', "cosine"),
        (" training.fade = cosine ", "cosine"),
        ("data=/some/where/x y.npz", "/some/where/x y.npz"),
        ("description=a = b", "a = b"),
        ("training.mixture_variance=0.5", 0.5),
    ],
)
def test_override_changes_one_value(setting: str, expected: object) -> None:
    name = setting.partition("=")[0].strip()
    before, after = values(BASE), values(override(BASE, [setting]))
    assert after.pop(name) == expected
    assert type(values(override(BASE, [setting]))[name]) is type(expected)
    assert before.pop(name) != expected
    assert after == before


def test_override_takes_a_value_back_with_none() -> None:
    config = override(BASE, ["training.mixture_variance=0.5", "networks.decoder_dims=[3, 4]"])
    assert override(config, ["training.mixture_variance=none", "networks.decoder_dims=none"]) == BASE


def test_overrides_are_checked_together_and_the_last_one_counts() -> None:
    config = override(BASE, ["facets.num_clusters=[3, 4, 5]", "facets.latent_dim=[1, 1, 1]", "seed=1", "seed=2"])
    assert config.facets == FacetsConfig(num_clusters=(3, 4, 5), latent_dim=(1, 1, 1))
    assert config.seed == 2


def test_a_part_is_chosen_by_its_sections_name() -> None:
    config = override(BASE, ["prior=student_t", "assignment=my_package.MyRule", "assignment.options.depth=3"])
    assert (config.prior.kind, config.assignment.rule) == ("student_t", "my_package.MyRule")
    assert config.assignment.options == {"depth": 3}
    assert (
        override(BASE, ["assignment=my_package.MyRule", "assignment.options={depth=3}"]).assignment == config.assignment
    )
    assert read_config(to_toml(config), source="here") == config


@pytest.mark.parametrize("setting", ("prior=laplace", "prior=my_package.", "prior=my package.MyPrior", "prior.kind=x"))
def test_a_name_that_is_neither_ours_nor_an_import_path(setting: str) -> None:
    message = (
        "prior.kind: expected gaussian, student_t, bayesian, vamp, or the import path of a part of your own, such as"
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
        ("zzzzzz=5", "unknown setting 'zzzzzz': did you mean data or .* or supervision.batch_size\\?"),
        ("training.epochs.deep=5", "setting 'training.epochs.deep=5': epochs is a value and has no keys"),
        ("training.epochs", "a setting looks like training.epochs=5, got 'training.epochs'"),
        ("training=5", "--set: training: input should be .*, got 5"),
        (
            "training.epochs=fast",
            "--set: training.epochs: expected a list .*, got 'fast'; .*integer, got 'fast'",
        ),
        ("training.batch_size=2.5", "--set: training.batch_size: input should be a valid integer, got 2.5"),
        ("training.batch_size=true", "--set: training.batch_size: input should be a valid integer, got True"),
        ("training.learning_rate=high", "--set: training.learning_rate: input should be a valid number, got 'high'"),
        ("training.data_dependent_init=7", "--set: training.data_dependent_init: input should be a valid boolean"),
        ("data=5", "--set: data: input should be a valid string, got 5"),
        ("data=none", "--set: data: input should be a valid string, got None"),
        ("training.compile=maybe", "--set: training.compile: input should be 'auto', True or False, got 'maybe'"),
        ("training.precision=32", "--set: training.precision: input should be 'float32' or 'bf16', got 32"),
        ("training.fade=jump", "--set: training.fade: input should be 'linear' or 'cosine', got 'jump'"),
        (
            "prior.covariance=round",
            "--set: prior.covariance: input should be 'diagonal', 'full', 'spherical' or 'tied'",
        ),
        ("training.batch_size=0", "--set: training.batch_size: input should be greater than or equal to 1, got 0"),
        ("training.epochs=[1, 0]", "--set: training.epochs: input should be greater than or equal to 1, got 0"),
        ("training.warmup_steps=-1", "training.warmup_steps: input should be greater than or equal to 0, got -1"),
        ("training.learning_rate=0", "--set: training.learning_rate: input should be greater than 0, got 0"),
        ("training.learning_rate=nan", "--set: training.learning_rate: input should be a finite number, got nan"),
        ("likelihood.scale=inf", "--set: likelihood.scale: input should be a finite number, got inf"),
        ("seed=-1", "--set: seed: input should be greater than or equal to 0, got -1"),
        ("seed=4294967296", "--set: seed: input should be less than 4294967296, got 4294967296"),
        ("facets.num_clusters=[]", "--set: facets.num_clusters: tuple should have at least 1 item"),
        ("facets.num_clusters=[3, 4, 5]", "names 3 facets but facets.latent_dim = \\[5, 5\\] has 2 values"),
        ("facets.latent_dim=[3]", "names 2 facets but facets.latent_dim = \\[3\\] has 1 values: give one per facet"),
        ("training.warmup_steps=[3]", "names 2 facets but training.warmup_steps = \\[3\\] has 1 values"),
        ("training.epochs=[1, 2, 3]", "names 2 facets but training.epochs = \\[1, 2, 3\\] has 3 values"),
        ("prior.covariance=['tied']", "names 2 facets but prior.covariance = \\['tied'\\] has 1 values: give one per"),
        ("prior.covariance=[]", "prior.covariance: tuple should have at least 1 item"),
        ("prior.covariance=['full', 'round']", "prior.covariance: .* 'spherical' or 'tied', got 'round'"),
        ("networks.encoder_dims=[8]", "names 2 facets but networks.encoder_dims = \\[8\\] has 1 values"),
        ("networks.decoder_dims=[8]", "names 2 facets but networks.decoder_dims = \\[8\\] has 1 values"),
    ],
)
def test_wrong_settings_are_told_in_one_line(setting: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        override(BASE, [setting])
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(InputError, match=r"^--set: seed: .*, got -1; training.batch_size: .*, got 0$"):
        override(BASE, ["training.batch_size=0", "seed=-1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed = 1", "^my.toml: data: field required$"),
        ("data = ", "^my.toml is not valid TOML: "),
        ('data = "x"\ndata = "y"', "^my.toml is not valid TOML: "),
        ('data = "x"\n[trainin]\nepochs = 1', "^my.toml: trainin: unexpected keyword argument$"),
        ('data = "x"\n[training]\nepoch = 1', "^my.toml: training.epoch: unexpected keyword argument, got 1$"),
        ('data = "x"\n[training]\nepochs = "5"', "^my.toml: training.epochs: .* valid integer, got '5'$"),
        ('data = "x"\n[facets]\nnum_clusters = [2]', "^my.toml: facets.num_clusters names 1 facets but"),
    ],
)
def test_wrong_files_are_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_config(text, source="my.toml")
    assert "\n" not in str(caught.value)


def test_a_configuration_made_in_python_is_checked_too() -> None:
    with pytest.raises(InputError, match=r"names 2 facets but training.epochs = \[1\] has 1 values"):
        Config(data="shapes", training=TrainingConfig(epochs=(1,)))


def test_setting_names_are_the_keys_of_the_file() -> None:
    names = setting_names()
    assert {"data", "seed", "facets.num_clusters", "training.refit_steps"} <= set(names)
    assert len(names) == len(set(names)) == len(values(BASE))
