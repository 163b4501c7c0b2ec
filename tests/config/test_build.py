import pytest
import torch

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.parts import ASSIGNMENTS, LIKELIHOODS
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.convolutions import ResidualBlock
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    ConvLadderEncoder,
    FlowHead,
    FullCovarianceHead,
    GaussianHead,
    LowRankHead,
    MLPLadderEncoder,
    MonteCarloAssignment,
    SampleAssignment,
    SeparateEncoder,
    VaDEAssignment,
)
from pyro_mfcvae.infer.schedule import ProgressiveSchedule
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import (
    BayesianMixturePrior,
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    ConvLadderDecoder,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    MixturePrior,
    MLPLadderDecoder,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    StandardNormalPrior,
    StudentTMixturePrior,
    VampPrior,
)

BASE = Config(data=DataConfig(source="none"))
CHANNELS = {"mlp": [], "conv": ["networks.channels=[4]"]}
LIKELIHOOD_CLASSES = {
    "bernoulli": BernoulliLikelihood,
    "continuous_bernoulli": ContinuousBernoulliLikelihood,
    "gaussian": GaussianLikelihood,
    "discretized_logistic": DiscretizedLogisticLikelihood,
    "poisson": PoissonLikelihood,
    "negative_binomial": NegativeBinomialLikelihood,
    "categorical": CategoricalLikelihood,
}
RULES = {
    "analytic": AnalyticAssignment,
    "monte_carlo": MonteCarloAssignment,
    "sample": SampleAssignment,
    "vade": VaDEAssignment,
    "amortized": AmortizedAssignment,
}


def build(*settings: str) -> MFCVAE:
    small = ["facets.num_clusters=[3, 4]", "facets.latent_dim=[1, 2]", "networks.encoder_dims=[8, 9]"]
    small += ["networks.decoder_dims=[6, 7]", "networks.hidden_dim=5"]
    return build_pair(override(override(BASE, small), settings), (1, 2, 3))


def test_the_tables_and_the_tests_name_the_same_parts() -> None:
    assert set(LIKELIHOODS) == set(LIKELIHOOD_CLASSES)
    assert set(ASSIGNMENTS) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_built(name: str) -> None:
    options = {"monte_carlo": ["assignment.num_samples=7"], "vade": ["assignment.num_samples=7"]}
    pair = build(f"assignment.kind={name}", *options.get(name, []))
    assert type(pair.guide.assignment) is RULES[name]
    assert getattr(pair.guide.assignment, "num_samples", 7) == 7
    assert [tuple(probs.shape) for probs in pair.assign(torch.rand(5, 1, 2, 3))] == [(5, 3), (5, 4)]


@pytest.mark.parametrize("kind", LIKELIHOOD_CLASSES)
def test_likelihoods_are_built(kind: str) -> None:
    settings = ["likelihood.num_categories=5"] if kind == "categorical" else []
    pair = build(f"likelihood.kind={kind}", *settings)
    assert type(pair.model.likelihood) is LIKELIHOOD_CLASSES[kind]
    assert pair.model.event_shape == (1, 2, 3)
    assert pair.model.decoder.out_shape == ((1, 2, 3, 5) if kind == "categorical" else (1, 2, 3))


def test_options_of_likelihoods_reach_them() -> None:
    assert build(
        "likelihood=negative_binomial", "likelihood.dispersion=3"
    ).model.likelihood.dispersion.item() == pytest.approx(3)
    likelihood = build("likelihood=discretized_logistic", "likelihood.num_levels=16").model.likelihood
    assert (likelihood.num_levels, likelihood.scale.item()) == (16, pytest.approx(0.1))


def test_every_channel_may_have_a_scale() -> None:
    settings = ["likelihood.kind=gaussian", "likelihood.scale=0.3", "likelihood.per_channel=true"]
    settings += ["likelihood.learn_scale=true", "networks.kind=conv", "networks.channels=[2]"]
    likelihood = build_pair(override(BASE, settings), (3, 8, 8)).model.likelihood
    torch.testing.assert_close(likelihood.scale, torch.full((3, 1, 1), 0.3))


@pytest.mark.parametrize("learn_scale", [True, False])
@pytest.mark.parametrize("sigmoid_mean", [True, False])
def test_the_gaussian_likelihood_is_built(learn_scale: bool, sigmoid_mean: bool) -> None:
    likelihood = build(
        "likelihood.kind=gaussian",
        "likelihood.scale=0.3",
        f"likelihood.learn_scale={str(learn_scale).lower()}",
        f"likelihood.sigmoid_mean={str(sigmoid_mean).lower()}",
    ).model.likelihood
    assert type(likelihood) is GaussianLikelihood
    assert likelihood.scale.item() == pytest.approx(0.3)
    assert bool(list(likelihood.parameters())) is learn_scale
    assert likelihood.mean(torch.zeros(1)).item() == (0.5 if sigmoid_mean else 0.0)


@pytest.mark.parametrize("covariance", ["diagonal", "full", "spherical", "tied"])
@pytest.mark.parametrize("learn_weights", [True, False])
def test_priors_are_built(covariance: str, learn_weights: bool) -> None:
    pair = build(f"prior.covariance={covariance}", f"prior.learn_weights={str(learn_weights).lower()}")
    assert [(f.num_clusters, f.latent_dim) for f in pair.model.facets] == [(3, 1), (4, 2)]
    assert [prior.covariance for prior in pair.model.priors] == [covariance] * 2
    assert [prior.learns_weights for prior in pair.model.priors] == [learn_weights] * 2


@pytest.mark.parametrize("kind", ["gaussian", "bayesian"])
def test_every_facet_may_have_covariances_of_its_own_shape(kind: str) -> None:
    pair = build(f"prior={kind}", "prior.covariance=['diagonal', 'full']")
    assert [prior.covariance for prior in pair.model.priors] == ["diagonal", "full"]


def test_a_facet_with_one_cluster_has_a_standard_normal() -> None:
    pair = build("facets.num_clusters=[1, 4]")
    assert [type(prior) for prior in pair.model.priors] == [StandardNormalPrior, MixturePrior]


def test_students_t_is_built() -> None:
    pair = build("prior.kind=student_t", "assignment.kind=monte_carlo", "prior.learn_weights=false")
    assert all(isinstance(prior, StudentTMixturePrior) and not prior.learns_weights for prior in pair.model.priors)


def test_bayesian_mixtures_are_built() -> None:
    pair = build(
        "prior=bayesian",
        'prior.random=["probs"]',
        "prior.stick_breaking=true",
        "prior.concentration=0.5",
        "prior.covariance=full",
    )
    for prior in pair.model.priors:
        assert isinstance(prior, BayesianMixturePrior)
        assert (prior.random, prior.stick_breaking, prior.covariance) == (("probs",), True, "full")
        assert prior.concentration.item() == 0.5
    assert pair.model.global_sites == ["sticks_0", "sticks_1"]


@pytest.mark.parametrize("posterior", ("diagonal", "full"))
def test_vamp_priors_are_built_over_the_guides_encoder(posterior: str) -> None:
    pair = build("prior=vamp", f"networks.posterior={posterior}")
    for j, prior in enumerate(pair.model.priors):
        assert isinstance(prior, VampPrior)
        z = torch.randn(2, pair.model.facets[j].latent_dim)
        expected = torch.stack([pair.guide.encoder(u[None])[j].log_prob(z) for u in prior.pseudo_inputs], -1)
        torch.testing.assert_close(prior().log_prob(z), expected)


@pytest.mark.parametrize("networks", ("mlp", "conv"))
@pytest.mark.parametrize("separate", ("true", "false"))
def test_encoders_read_the_mask_of_missing_pixels(networks: str, separate: str) -> None:
    settings = [f"networks={networks}", f"networks.separate={separate}", *CHANNELS[networks]]
    pair = build_pair(override(BASE, ["likelihood.missing=true", *settings]), (3, 8, 8))
    assert (pair.guide.encoder.in_shape, pair.model.event_shape) == ((6, 8, 8), (3, 8, 8))
    x = torch.rand(2, 3, 8, 8)
    x[0, :, :4] = torch.nan
    assert all(posterior.mean.isfinite().all() for posterior in pair.encode(x))


@pytest.mark.parametrize(
    ("posterior", "head"),
    [
        ("diagonal", GaussianHead),
        ("full", FullCovarianceHead),
        ("low_rank", LowRankHead),
        ("spline", FlowHead),
        ("autoregressive", FlowHead),
    ],
)
@pytest.mark.parametrize("kind", ("mlp", "conv"))
def test_posteriors_are_built(posterior: str, head: type, kind: str) -> None:
    rule = "analytic" if head not in (FlowHead,) else "sample"
    settings = [f"networks={kind}", f"networks.posterior={posterior}", f"assignment={rule}", *CHANNELS[kind]]
    ladder = build_pair(override(BASE, settings), (1, 8, 8)).guide.encoder
    assert [type(part) for part in ladder.heads] == [head, head]
    settings.append("networks.separate=true")
    apart = build_pair(override(BASE, settings), (1, 8, 8)).guide.encoder
    assert isinstance(apart, SeparateEncoder)
    assert [type(encoder.heads[0]) for encoder in apart.encoders] == [head, head]


def test_separate_encoders_have_the_widths_of_the_configuration() -> None:
    encoders = build("networks.separate=true").guide.encoder.encoders
    assert [tuple(encoder.rungs[0][0].weight.shape) for encoder in encoders] == [(8, 6), (9, 6)]


def test_parts_of_the_users_own_are_built() -> None:
    pair = build(
        "prior=parts_of_a_user.MyPrior",
        "prior.options.covariance=full",
        "likelihood=parts_of_a_user.MyLikelihood",
        "assignment=parts_of_a_user.MyRule",
        "assignment.options={num_samples=3}",
        "networks=parts_of_a_user.my_ladder",
    )
    assert [type(prior).__name__ for prior in pair.model.priors] == ["MyPrior"] * 2
    assert [prior.covariance for prior in pair.model.priors] == ["full"] * 2
    assert type(pair.model.likelihood).__name__ == "MyLikelihood"
    assert (type(pair.guide.assignment).__name__, pair.guide.assignment.num_samples) == ("MyRule", 3)
    assert len(pair.guide.encoder.rungs[0][0].bias) == 7


def test_networks_have_the_widths_of_the_configuration() -> None:
    pair = build("networks.merge_weight=0.25")
    encoder, decoder = pair.guide.encoder, pair.model.decoder
    assert isinstance(encoder, MLPLadderEncoder) and isinstance(decoder, MLPLadderDecoder)
    assert [tuple(rung[0].weight.shape) for rung in encoder.rungs] == [(8, 6), (9, 8)]
    assert [tuple(rung[0].weight.shape) for rung in decoder.rungs] == [(6, 1), (7, 2)]
    assert [tuple(part[0].weight.shape) for part in decoder.backbone] == [(5, 6), (6, 7)]
    assert tuple(decoder.output.weight.shape) == (6, 5)
    assert decoder.merge_weight == 0.25
    assert pair.model.event_shape == (1, 2, 3)


def test_widths_that_are_not_set_are_those_of_the_paper() -> None:
    config = BASE
    encoder = build_pair(config, (1, 2, 3)).guide.encoder
    assert isinstance(encoder, MLPLadderEncoder)
    assert [len(rung[0].bias) for rung in encoder.rungs] == [500, 2000]


def test_convolutions_are_built() -> None:
    config = override(BASE, ["networks.kind=conv", "networks.channels=[4, 6]"])
    pair = build_pair(
        override(config, ["networks.num_residual_blocks=2", "networks.head_init_scale=1.0", "networks.gated=true"]),
        (3, 32, 32),
    )
    assert list(pair.model.decoder.gates) == ["1"]
    for part, kind in ((pair.guide.encoder, ConvLadderEncoder), (pair.model.decoder, ConvLadderDecoder)):
        assert isinstance(part, kind)
        assert [shape[0] for shape in part.pyramid.shapes] == [3, 4, 6]
        assert sum(isinstance(m, ResidualBlock) for m in part.modules()) == 4
    assert pair.guide.encoder.heads[0].linear.weight.any()


def test_the_schedule_is_built() -> None:
    config = override(
        BASE,
        [
            "training.epochs=[2, 3]",
            "schedule.fade_in_steps=6",
            "schedule.kl_fade_in_steps=[4, 9]",
            "schedule.kl_delay_steps=[0, 8]",
            "mixture_fit.warmup_steps=[3, 4]",
            "mixture_fit.refit_steps=[5, 7]",
            "mixture_fit.joint_refit_steps=[9]",
            "schedule.kl_weights=[[1, 20], [2, 3]]",
            "schedule.kl_relax_steps=[0, 30]",
        ],
    )
    assert build_schedule(config, 10) == ProgressiveSchedule(
        stage_steps=(20, 30),
        fade_in_steps=6,
        kl_fade_in_steps=(4, 9),
        kl_delay_steps=(0, 8),
        warmup_steps=(3, 4),
        refit_steps=(5, 7),
        joint_refit_steps=(9,),
        kl_weights=((1.0, 20.0), (2.0, 3.0)),
        kl_relax_steps=(0, 30),
    )


def test_the_whole_schedule_is_scaled() -> None:
    config = override(BASE, ["training.epochs=[3, 5]", "mixture_fit.warmup_steps=20"])
    scaled = build_schedule(override(config, ["schedule.scale=0.1"]), 10)
    assert scaled == ProgressiveSchedule(stage_steps=(10, 10), warmup_steps=(2, 2))
    assert build_schedule(override(config, ["schedule.scale=2"]), 10).stage_steps == (60, 100)


def test_epochs_and_facets_are_counted_from_the_same_configuration() -> None:
    config = override(BASE, ["facets.num_clusters=[2, 3, 4]", "facets.latent_dim=[1, 1, 1]"])
    assert build_schedule(config, 2) == ProgressiveSchedule(stage_steps=(20, 20, 20))
