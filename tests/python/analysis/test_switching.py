"""Quantizers off, on and at other bits, and that everything is as before afterwards."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from aimet_torch.analysis import OFF, Precision, Switchboard, evaluate_settings
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.analysis.networks import data, simulation


def output(sim):
    with torch.no_grad():
        return sim.model(data()[0])


def state(sim):
    return {
        name: (id(quantizer), quantizer.bitwidth, quantizer.get_min(), quantizer.get_max())
        for name, quantizer in sim.named_quantizers()
    }


def test_all_off_is_floating_point_and_the_end_restores_every_bit():
    sim = simulation()
    reference, before = output(sim), state(sim)
    board = Switchboard(sim)
    with board.only([]):
        expected = sim.get_original_model(simulation().model)(data()[0])
        torch.testing.assert_close(output(sim), expected)
    assert torch.equal(output(sim), reference)
    for name, (identity, bits, low, high) in state(sim).items():
        assert before[name][:2] == (identity, bits)
        assert torch.equal(low, before[name][2])
        assert torch.equal(high, before[name][3])


def test_an_exception_restores_too():
    sim = simulation()
    reference, board = output(sim), Switchboard(sim)

    def interrupted():
        with board.at(dict.fromkeys(board.quantizers, Precision(4))):
            assert not torch.equal(output(sim), reference)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(output(sim), reference)


def test_only_and_without_are_opposites():
    sim = simulation()
    board = Switchboard(sim)
    chosen = board.params
    with board.only(chosen):
        weights_only = output(sim)
    with board.without(board.activations):
        assert torch.equal(output(sim), weights_only)
    assert len(chosen) + len(board.activations) == len(board.quantizers)


def test_contexts_nest():
    sim = simulation()
    board = Switchboard(sim)
    with board.without(["fc.param_quantizers.weight"]):
        outer = output(sim)
        with board.at({"fc.param_quantizers.weight": Precision(4)}):
            assert sim.model.fc.param_quantizers["weight"].bitwidth == 4
        assert torch.equal(output(sim), outer)
    assert sim.model.fc.param_quantizers["weight"].bitwidth == 8


def test_weights_at_other_bits_are_those_of_a_simulation_made_with_them():
    sim, narrow = simulation(), simulation(default_param_bw=4)
    board = Switchboard(sim)
    with board.at(dict.fromkeys(board.params, Precision(4))):
        for name, quantizer in narrow.named_quantizers():
            if name in board.params:
                found = dict(sim.named_quantizers())[name]
                # fit_weight_steps moves steps by 1e-4 of themselves for the whole network.
                torch.testing.assert_close(
                    found.get_scale(), quantizer.get_scale(), rtol=2.1e-4, atol=0
                )


@pytest.mark.parametrize("scheme", ["min_max", "tf_enhanced", "mse", "percentile"])
def test_activations_at_other_bits_are_those_of_a_simulation_made_with_them(scheme):
    sim = simulation(quant_scheme=scheme)
    narrow = simulation(quant_scheme=scheme, default_output_bw=4)
    board = Switchboard(sim)
    board.observe(data(), [4, 16])
    with board.at(dict.fromkeys(board.activations, Precision(4))):
        for name, quantizer in narrow.named_quantizers():
            if name in board.activations:
                found = dict(sim.named_quantizers())[name]
                width = (quantizer.get_max() - quantizer.get_min()).item()
                for ours, theirs in (
                    (found.get_min(), quantizer.get_min()),
                    (found.get_max(), quantizer.get_max()),
                ):
                    # fit_weight_steps moved the weights by 1e-4, which may move a value from one
                    # bin of a histogram to the next.
                    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * width)


def test_observing_changes_nothing():
    sim = simulation()
    reference, before = output(sim), state(sim)
    Switchboard(sim).observe(data(), [4])
    assert torch.equal(output(sim), reference)
    assert all(torch.equal(before[name][2], low) for name, (_, _, low, _) in state(sim).items())


def test_floating_point_and_unknown_precisions():
    sim = simulation()
    board = Switchboard(sim)
    with board.at({"fc.param_quantizers.weight": Precision(16, is_float=True)}):
        assert isinstance(sim.model.fc.param_quantizers["weight"], FloatQuantizeDequantize)
    with pytest.raises(ValueError, match="'nothing' is no quantizer"), board.at({"nothing": OFF}):
        pass
    with pytest.raises(ValueError, match="must be float16, float32 or an integer one, got float8"):
        board.quantizer_at("fc.param_quantizers.weight", Precision(8, is_float=True))


def test_frozen_ranges_stay():
    sim = simulation()
    sim.model.fc.param_quantizers["weight"].freeze()
    board = Switchboard(sim)
    copied = board.quantizer_at("fc.param_quantizers.weight", Precision(4))
    assert torch.equal(copied.min, sim.model.fc.param_quantizers["weight"].min)


def test_one_quantizer_in_several_places_is_off_everywhere():
    class Twice(nn.Module):
        def forward(self, x):
            return torch.sigmoid(x) + torch.tanh(x)

    x = data()[0]
    sim = QuantizationSimModel(Twice(), x)
    sim.compute_encodings([x])
    board = Switchboard(sim)
    shared = [name for name in board.quantizers if "input_quantizers" in name]
    assert len(shared) == 1
    with board.without(board.quantizers):
        assert torch.equal(sim.model(x), Twice()(x))


def test_training_mode_comes_back():
    sim = simulation()
    sim.model.train()
    seen = []
    settings = {"all": {}}
    evaluate_settings(
        Switchboard(sim),
        settings,
        lambda m: seen.append((m.training, torch.is_grad_enabled())) or 1.0,
    )
    assert seen == [(False, False)]
    assert sim.model.training


def score(model):
    with torch.no_grad():
        return model(data()[0]).square().mean().item()


def settings_of(board):
    return {name: board.only_at({name: Precision(4)}) for name in board.quantizers}


def test_scores_that_are_known_are_not_evaluated_again():
    board, calls = Switchboard(simulation()), []
    settings = settings_of(board)
    known = {}

    def stopped(model):
        return score(model) if len(known) < 3 else 1 / 0

    with pytest.raises(ZeroDivisionError):
        evaluate_settings(board, settings, stopped, known=known)
    assert len(known) == 3

    def counted(model):
        calls.append(1)
        return score(model)

    whole = evaluate_settings(board, settings, counted, known=copy.copy(known))
    assert len(calls) == len(settings) - 3
    assert whole == evaluate_settings(board, settings, score)


def scores_on_a_rank(is_shared):
    board, own = Switchboard(simulation()), []

    def evaluate(model):
        own.append(1)
        return score(model)

    group = dist.group.WORLD if is_shared else None
    return evaluate_settings(board, settings_of(board), evaluate, process_group=group), len(own)


def test_ranks_share_evaluations_and_get_all_scores(two_ranks, one_thread):
    (first, count), (second, other) = two_ranks(scores_on_a_rank, True)
    alone, total = scores_on_a_rank(False)
    assert first == second == alone
    assert count + other == total
    assert abs(count - other) <= 1


def fail_on_one(rank):
    board = Switchboard(simulation())

    def evaluate(model):
        if dist.get_rank() == rank:
            raise ValueError("broken data")
        return score(model)

    try:
        evaluate_settings(board, settings_of(board), evaluate, process_group=dist.group.WORLD)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "no error"


def test_a_failure_on_one_rank_ends_all(two_ranks):
    texts = two_ranks(fail_on_one, 1)
    assert "rank 1: ValueError: broken data" in texts[0]
    assert texts[1] == "broken data"
