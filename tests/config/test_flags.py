from dataclasses import fields, replace

from pyro_mfcvae.config.flags import SettingFlags, as_settings, describe_settings
from pyro_mfcvae.config.parts import PARTS, option_names
from pyro_mfcvae.config.text import _all_setting_names


def test_every_setting_has_a_flag_with_help() -> None:
    settings = describe_settings()
    names = {f"{section}.{name}" if section else name for section, texts in settings.items() for name in texts}
    assert names == {*_all_setting_names(), "facets.number"}
    texts = [text for of_section in settings.values() for text in of_section.values()]
    assert [text for text in texts if not text[0].isupper() or not text.endswith(".")] == []


def test_the_help_of_an_option_names_the_kinds_that_have_it() -> None:
    for section, table in PARTS.items():
        for kind in table:
            for name in option_names(section, kind) or ():
                assert kind in describe_settings()[section][name]
    assert describe_settings()["assignment"]["num_samples"] == "Number of draws (monte_carlo, vade)."


def test_flags_become_settings() -> None:
    flags = SettingFlags()
    assert as_settings(flags) == []
    prior = replace(flags.prior, covariance="full")
    assert as_settings(replace(flags, seed="3", prior=prior)) == ["seed=3", "prior.covariance=full"]
    assert {f.name for f in fields(flags)} == {"description", "seed", *describe_settings()} - {""}
