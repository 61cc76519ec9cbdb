"""ModelCompressor: AIMET's interface, both ways to choose ratios, and what goes wrong."""

from __future__ import annotations

import copy
import json
import math
import warnings

import pytest
import torch
from aimet_common.defs import (
    CompressionScheme,
    CompressionStats,
    CostMetric,
    GreedySelectionParameters,
    RankSelectScheme,
)
from torch import nn

from aimet_torch.compress import ModelCompressor
from aimet_torch.compression import estimate_cost
from aimet_torch.defs import (
    ChannelPruningParameters,
    ExactSelectionParameters,
    LowRankParameters,
    ModuleCompRatioPair,
    SpatialSvdParameters,
    WeightSvdParameters,
)
from tests.python.compression.networks import images, likeness, small

pytestmark = pytest.mark.usefixtures("one_thread")

Spatial, Weight, LowRank = SpatialSvdParameters, WeightSvdParameters, LowRankParameters


def auto(selection, scheme=Spatial, ignore=None, **options):
    if scheme is Weight:
        params = Weight.AutoModeParams(RankSelectScheme.greedy, selection, ignore)
    else:
        params = scheme.AutoModeParams(selection, ignore)
    return scheme(scheme.Mode.auto, params, **options)


def manual(*pairs, scheme=Spatial, **options):
    params = scheme.ManualModeParams([ModuleCompRatioPair(*pair) for pair in pairs])
    return scheme(scheme.Mode.manual, params, **options)


def compress(model, parameters, evaluate=likeness, metric=CostMetric.mac, **options):
    kinds = {Weight: CompressionScheme.weight_svd, LowRank: CompressionScheme.low_rank}
    return ModelCompressor.compress_model(
        model=model,
        eval_callback=evaluate,
        eval_iterations=None,
        input_shape=(1, 3, 8, 8),
        compress_scheme=kinds.get(type(parameters), CompressionScheme.spatial_svd),
        cost_metric=metric,
        parameters=parameters,
        **options,
    )


# ---------------------------------------------------------------------------- results


@pytest.mark.parametrize("scheme", [Spatial, Weight, LowRank])
@pytest.mark.parametrize("selection", [GreedySelectionParameters, ExactSelectionParameters])
def test_the_ratio_is_kept_and_the_model_stays_as_it_is(scheme, selection):
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    compressed, stats = compress(model, auto(selection(0.6), scheme))
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    ratio = estimate_cost(compressed, images(1)).macs / estimate_cost(model, images(1)).macs
    assert stats.mac_compression_ratio == pytest.approx(ratio)
    assert 0.45 < ratio <= 0.6
    assert stats.compression_ratio_selection_stats.achieved == pytest.approx(ratio)
    assert compressed.training  # as the user's model is
    assert {type(m).__module__.partition(".")[0] for m in compressed.modules()} <= {
        "torch",
        "tests",
    }


def test_saved_scores_are_those_of_the_same_data(tmp_path):
    """With data candidates are fitted to them: scores of others are of other layers."""
    selection = GreedySelectionParameters(0.6, 3, saved_eval_scores_dict=str(tmp_path / "s.json"))
    data = [images(32, seed=7)]
    compress(small(), auto(selection, data_loader=data))
    _, again = compress(small(), auto(selection, data_loader=data))
    assert again.compression_ratio_selection_stats.evaluations == 0
    for other in (None, [images(32, seed=8)]):
        with pytest.raises(ValueError, match=r"the same model and settings; in .*data is"):
            compress(small(), auto(selection, data_loader=other))


def test_layers_become_what_was_counted_although_data_prefer_other_factors():
    data = [images(32, seed=seed) for seed in (7, 8)]
    for ratio in (0.5, 0.6, 0.7):
        parameters = auto(ExactSelectionParameters(ratio), LowRank, data_loader=data)
        _, stats = compress(small(), parameters)
        achieved = stats.compression_ratio_selection_stats.achieved
        assert stats.mac_compression_ratio == pytest.approx(achieved)
        assert achieved <= ratio


def test_the_exact_choice_loses_less_and_comes_nearer():
    model = small()
    _, greedy = compress(model, auto(GreedySelectionParameters(0.6)))
    _, exact = compress(model, auto(ExactSelectionParameters(0.6, num_samples=64)))
    assert exact.compressed_model_accuracy > greedy.compressed_model_accuracy
    assert 0.6 * 0.99 < exact.mac_compression_ratio <= 0.6
    found = exact.compression_ratio_selection_stats
    assert found.is_exact
    assert found.evaluations == 0
    assert not found.note
    assert greedy.compression_ratio_selection_stats.evaluations > 20


def test_data_make_the_final_model_better():
    model, selection = small(), ExactSelectionParameters(0.5)
    _, plain = compress(model, auto(selection))
    _, fitted = compress(model, auto(selection, data_loader=[images(64, seed=7)]))
    assert fitted.compressed_model_accuracy > plain.compressed_model_accuracy


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(24, 32), nn.Linear(32, 5)

    def forward(self, x, mask):
        return self.last(torch.relu(self.first(x)) * mask)


@pytest.mark.parametrize("scheme", ["weight_svd", "channel_pruning"])
def test_batches_of_several_inputs(scheme):
    torch.manual_seed(1)
    batches = [(torch.randn(8, 24), torch.rand(8, 1) > 0.3) for _ in range(4)]
    model, select = TwoInputs(), ExactSelectionParameters(0.7, data_loader=batches)
    parameters = auto(select, Weight, data_loader=batches)
    if scheme == "channel_pruning":
        kind = ChannelPruningParameters
        parameters = kind(batches, 32, True, kind.Mode.auto, kind.AutoModeParams(select))
    compressed, _ = ModelCompressor.compress_model(
        model,
        lambda network, *_: -(network(*batches[0]) - model(*batches[0])).square().mean().item(),
        None,
        batches[0],
        CompressionScheme[scheme],
        CostMetric.mac,
        parameters,
    )
    ratio = [estimate_cost(network, batches[0]).macs for network in (compressed, model)]
    assert ratio[0] <= 0.7 * ratio[1]
    assert compressed(*batches[0]).shape == (8, 5)


def test_memory_is_another_budget():
    model = small()
    parameters = auto(ExactSelectionParameters(0.5), Weight)
    compressed, stats = compress(model, parameters, metric=CostMetric.memory)
    counts = [sum(p.numel() for p in m.parameters()) for m in (compressed, model)]
    assert 0.48 < counts[0] / counts[1] <= 0.5
    assert stats.memory_compression_ratio == pytest.approx(counts[0] / counts[1])


def test_measured_time_is_a_budget():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(700, 700), nn.ReLU(), nn.Linear(700, 700)).eval()
    result, stats = ModelCompressor.compress_model(
        model, lambda m, _, __: float(m(torch.ones(1, 700)).detach().mean() * 0), None,
        (16, 700), CompressionScheme.weight_svd, CostMetric.latency,
        auto(ExactSelectionParameters(0.7, 5, [torch.randn(16, 700)]), Weight),
    )  # fmt: skip
    assert stats.latency_ratio is not None
    assert stats.compression_ratio_selection_stats.achieved < 0.9  # measured; machines are noisy
    assert stats.mac_compression_ratio < 0.95
    assert isinstance(result, nn.Sequential)


def test_manual_ratios():
    model = small()
    compressed, stats = compress(model, manual((model.conv1, 0.5), (model.down, 0.75)))
    assert isinstance(compressed.conv1, nn.Sequential)
    assert isinstance(compressed.conv2, nn.Conv2d)
    rows = {row.name: row for row in stats.per_layer_stats}
    assert set(rows) == {"conv1", "down"}
    assert rows["conv1"].compression_ratio == 0.5
    assert rows["conv1"].reached == pytest.approx(compressed.conv1[0].out_channels * 72 / 1296)
    assert stats.compression_ratio_selection_stats is None


def test_ignored_layers_keep_their_shape():
    model = small()
    compressed, _ = compress(model, auto(ExactSelectionParameters(0.7), ignore=[model.conv1]))
    assert isinstance(compressed.conv1, nn.Conv2d)
    assert isinstance(compressed.conv2, nn.Sequential)


def test_multiplicity():
    compressed, _ = compress(small(), auto(ExactSelectionParameters(0.8), multiplicity=4))
    ranks = [m[0].out_channels for m in compressed.modules() if isinstance(m, nn.Sequential)]
    assert ranks
    assert all(rank % 4 == 0 for rank in ranks)


def test_a_trainer_is_called_for_each_layer():
    class Recording:
        def __init__(self):
            self.calls = []

        def train_model(self, model, layer, train_flag=True):
            self.calls.append((layer, train_flag))
            with torch.no_grad():
                model.fc.bias.fill_(len(self.calls))

    model = small()
    before = model.fc.bias.clone()
    trainer = Recording()
    compressed, stats = compress(
        model, manual((model.conv1, 0.5), (model.conv2, 0.5)), trainer=trainer
    )
    (first, flag), *rest = trainer.calls
    assert isinstance(first, nn.Module)
    assert not flag
    assert [layer.name for layer, _ in rest] == ["conv1", "conv2"]
    assert all(isinstance(layer.module, nn.Sequential) for layer, _ in rest)
    assert compressed.fc.bias[0] == 3
    assert torch.equal(model.fc.bias, before)
    assert [row.detail[:7] for row in stats.per_layer_stats] == ["spatial"] * 2
    assert stats.mac_compression_ratio < 1


def test_stats_print_and_save(tmp_path):
    _, stats = compress(small(), auto(GreedySelectionParameters(0.6)))
    assert isinstance(stats, CompressionStats)
    text = str(stats)
    assert "conv1" in text
    assert "its weight" not in text
    document = json.loads(stats.write_json(tmp_path / "stats.json").read_text())
    assert document["mac_compression_ratio"] == stats.mac_compression_ratio
    rows = document["compression_ratio_selection_stats"]["eval_scores_dictionary"]
    assert set(rows["conv1"]) <= {f"{i / 10}" for i in range(1, 10)}


# ---------------------------------------------------------------------------- the saved scores


def test_a_run_that_broke_off_goes_on(tmp_path):
    path = tmp_path / "scores.json"
    model, calls = small(), []

    def fails_later(model, iterations, use_cuda):
        calls.append(1)
        if len(calls) == 10:
            raise OSError("disk full")
        return likeness(model)

    selection = GreedySelectionParameters(0.6, saved_eval_scores_dict=str(path))
    with pytest.raises(RuntimeError, match=r"`eval_callback` raised OSError .*: disk full.*run it"):
        compress(model, auto(selection), fails_later)
    saved = json.loads(path.read_text())
    assert sum(len(row) for row in saved["scores"].values()) == 8  # and the original model
    _, resumed = compress(model, auto(selection))
    _, whole = compress(model, auto(GreedySelectionParameters(0.6)))
    counts = [s.compression_ratio_selection_stats.evaluations for s in (resumed, whole)]
    assert counts[0] == counts[1] - 8
    for name, row in whole.compression_ratio_selection_stats.eval_scores_dictionary.items():
        assert resumed.compression_ratio_selection_stats.eval_scores_dictionary[name] == row
    _, again = compress(model, auto(selection))
    assert again.compression_ratio_selection_stats.evaluations == 0


def test_scores_of_something_else_are_refused(tmp_path):
    path = tmp_path / "scores.json"
    selection = GreedySelectionParameters(0.6, 3, saved_eval_scores_dict=str(path))
    compress(small(), auto(selection))
    with pytest.raises(ValueError, match=r"for the same model and settings; .*, model is"):
        compress(small(seed=1), auto(selection))
    with pytest.raises(ValueError, match="multiplicity is 1 instead of 2"):
        compress(small(), auto(selection, multiplicity=2))
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ValueError, match=r"scores.json is not one .*Pickles of AIMET's are not"):
        compress(small(), auto(selection))


# ---------------------------------------------------------------------------- bad input


def test_a_ratio_that_cannot_be_reached():
    for selection in (GreedySelectionParameters(0.05), ExactSelectionParameters(0.05)):
        with pytest.raises(ValueError, match=r"got 0.05; the smallest with them is 0\.\d+"):
            compress(small(), auto(selection))


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_model_without_a_score(score):
    with pytest.raises(ValueError, match="must return a finite score for the original model, got"):
        compress(small(), auto(GreedySelectionParameters(0.6)), lambda *_: score)


def test_a_callback_that_raises():
    def evaluate(model, iterations, use_cuda):
        raise KeyError("label")

    with pytest.raises(RuntimeError, match="raised KeyError for the original model: 'label'"):
        compress(small(), auto(ExactSelectionParameters(0.6)), evaluate)
    with pytest.raises(TypeError, match="must return a number for the original model, got str"):
        compress(small(), auto(ExactSelectionParameters(0.6)), lambda *_: "good")


def test_candidates_without_a_score_are_not_chosen():
    def evaluate(model, iterations, use_cuda):
        factors = model.conv2[0].out_channels if isinstance(model.conv2, nn.Sequential) else 99
        return math.nan if factors < 9 else likeness(model)

    with pytest.warns(UserWarning, match="no finite score with conv2 at .*0.1: these are not"):
        compressed, _ = compress(small(), auto(GreedySelectionParameters(0.7)), evaluate)
    conv2 = compressed.conv2
    assert not isinstance(conv2, nn.Sequential) or conv2[0].out_channels >= 9


def test_nothing_to_compress():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(ValueError, match=r"has no layer that spatial makes smaller .0: spatial f"):
        ModelCompressor.compress_model(
            model, lambda *_: 1.0, None, (1, 4), CompressionScheme.spatial_svd, CostMetric.mac,
            auto(ExactSelectionParameters(0.5)),
        )  # fmt: skip


def test_a_compressed_model_is_not_compressed_again():
    model = small()
    pairs = [(m, 0.6) for m in (model.stem, model.conv1, model.conv2, model.down)]
    once, _ = compress(model, manual(*pairs))
    with pytest.raises(ValueError, match=r"conv1\.0: it is a factor of an earlier compression"):
        compress(once, auto(ExactSelectionParameters(0.5), ignore=[once.fc]))
    again, stats = compress(once, auto(ExactSelectionParameters(0.98), Weight))
    assert isinstance(again.fc, nn.Sequential)
    notes = {row.name: row.note for row in stats.per_layer_stats}
    assert notes["conv1.0"] == "it is a factor of an earlier compression"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "net"}, TypeError, "`model` must be an nn.Module, got str"),
        ({"parameters": None}, TypeError, "`parameters` must be those of `compress_scheme`"),
        ({"cost_metric": "mac"}, TypeError, "`cost_metric` must be a CostMetric, got 'mac'"),
        ({"eval_callback": 3}, TypeError, "`eval_callback` must be a function of"),
        ({"input_shape": "large"}, TypeError, "`input_shapes` must be a shape"),
    ],
)
def test_arguments_are_checked(change, error, message):
    arguments = {
        "model": small(),
        "eval_callback": likeness,
        "eval_iterations": 1,
        "input_shape": (1, 3, 8, 8),
        "compress_scheme": CompressionScheme.spatial_svd,
        "cost_metric": CostMetric.mac,
        "parameters": auto(ExactSelectionParameters(0.5)),
    }
    with pytest.raises(error, match=f"compress_model: .*{message}"):
        ModelCompressor.compress_model(**{**arguments, **change})


def test_parameters_are_checked():
    with pytest.raises(TypeError, match="`params` must be AutoModeParams in auto mode, got Manual"):
        Spatial(Spatial.Mode.auto, Spatial.ManualModeParams([]))
    with pytest.raises(TypeError, match=r"`mode` must be SpatialSvdParameters.Mode.manual or"):
        Spatial("auto", Spatial.AutoModeParams(ExactSelectionParameters(0.5)))
    with pytest.raises(ValueError, match="`multiplicity` must be at least 1, got 0"):
        auto(ExactSelectionParameters(0.5), multiplicity=0)
    with pytest.raises(ValueError, match="`num_samples` must be at least 1, got 0"):
        ExactSelectionParameters(0.5, num_samples=0)
    with pytest.raises(ValueError, match=r"`target_comp_ratio` must be in \(0, 1\], got 1.5"):
        compress(small(), auto(GreedySelectionParameters(1.5)))
    stranger = nn.Conv2d(3, 3, 3)
    with pytest.raises(ValueError, match="must hold modules of `model`, got a Conv2d that is none"):
        compress(small(), manual((stranger, 0.5)))


# ---------------------------------------------------------------------------- ranks


def _on_ranks(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = []
        for selection in (
            GreedySelectionParameters(0.6, 4, saved_eval_scores_dict=path),
            ExactSelectionParameters(0.6, 8),
        ):
            _, stats = compress(
                small(), auto(selection), process_group=torch.distributed.group.WORLD
            )
            results.append(stats)
        return results


def test_ranks_choose_what_one_process_chooses(two_ranks, tmp_path):
    path = tmp_path / "scores.json"
    first, second = two_ranks(_on_ranks, str(path))
    for index, selection in enumerate(
        (GreedySelectionParameters(0.6, 4), ExactSelectionParameters(0.6, 8))
    ):
        _, alone = compress(small(), auto(selection))
        for stats in (first[index], second[index]):
            assert [(r.name, r.compression_ratio) for r in stats.per_layer_stats] == [
                (r.name, r.compression_ratio) for r in alone.per_layer_stats
            ]
        shared = first[index].compression_ratio_selection_stats
        own = alone.compression_ratio_selection_stats
        for name, row in own.eval_scores_dictionary.items():
            assert shared.eval_scores_dictionary[name] == pytest.approx(row, rel=1e-6)
    counts = [s[0].compression_ratio_selection_stats.evaluations for s in (first, second)]
    assert min(counts) > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.json"]
