from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from aimet_torch.analysis import Sensitivity, SensitivityRow, Switchboard, find_quantizer_groups
from aimet_torch.mixed_precision import optimize_mixed_precision
from aimet_torch.mixed_precision.candidates import setting_of
from aimet_torch.mixed_precision.costs import Costs
from aimet_torch.mixed_precision.precision import Candidate, Precision
from aimet_torch.mixed_precision.sites import SiteMap
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.mixed_precision.test_configurator import Attention
from tests.python.mixed_precision.test_greedy import (
    DATA,
    INT,
    W4A8,
    W8A8,
    W8A16,
    Counting,
    make,
    search,
)

CANDIDATES = [W8A16, W8A8, W4A8]


def made_up(sim: QuantizationSimModel, seed: int = 0) -> Sensitivity:
    """Random losses that fall by a factor of 16 for every two bits."""
    rng = np.random.default_rng(seed)
    rows = []
    for name, _ in sim.named_quantizers():
        unit = rng.lognormal(sigma=2.0)
        rows += [
            SensitivityRow(name, "param" in name, bits, unit * 4.0**-bits, 0.0)
            for bits in (4, 8, 16)
        ]
    return Sensitivity(rows, "made up")


def test_it_is_the_best_of_all_choices() -> None:
    sim = make()
    sensitivity = made_up(sim)
    groups = find_quantizer_groups(sim)
    board = Switchboard(sim)
    costs = Costs(board, SiteMap(sim))
    candidates = [Candidate.of(c) for c in CANDIDATES]
    options = [
        list(
            dict.fromkeys(
                Candidate(c.activation if g.activations else None, c.param if g.params else None)
                for c in candidates
            )
        )
        for g in groups
    ]
    full = costs.measures(setting_of({g: Candidate.of(W8A16) for g in groups}))
    tried = []
    for choice in itertools.product(*options):
        setting = setting_of(dict(zip(groups, choice, strict=True)))
        shares = {name: cost / full[name] for name, cost in costs.measures(setting).items()}
        tried.append((sensitivity.of_setting(setting), shares))
    for budgets in ({"bit_ops": 0.6}, {"weight_bytes": 0.7}, {"bit_ops": 0.5, "bytes": 0.55}):
        best = min(
            loss
            for loss, shares in tried
            if all(shares[name] <= share for name, share in budgets.items())
        )
        plan = optimize_mixed_precision(
            make(), [DATA], CANDIDATES, sensitivity=sensitivity, **budgets
        )
        assert plan.is_optimal
        assert plan.predicted_loss == pytest.approx(best)
        assert all(plan.relative[name] <= share * (1 + 1e-9) for name, share in budgets.items())
        assert plan.evaluations == 0


def test_products_of_activations_tie_their_factors_together() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    sim = QuantizationSimModel(Attention().eval(), x)
    sim.compute_encodings([x])
    costs = Costs(Switchboard(sim), SiteMap(sim))
    factors = {product.op: (product.left, product.right) for product in costs.products}
    assert factors["matmul"] == ("q.output_quantizers.0", "k.output_quantizers.0")
    assert factors["matmul_1"] == ("softmax.output_quantizers.0", "v.output_quantizers.0")
    setting = {"q.output_quantizers.0": Precision(16), "k.output_quantizers.0": Precision(4)}
    scores = 2 * 5 * 5 * 8
    assert costs.bit_ops(setting) - costs.bit_ops({}) == scores * (16 * 4 - 8 * 8)
    plan = optimize_mixed_precision(
        sim, [x], CANDIDATES, bit_ops=0.55, sensitivity=made_up(sim, seed=1)
    )
    assert plan.is_optimal
    assert plan.relative["bit_ops"] <= 0.55


def test_bytes_count_weights_and_activations() -> None:
    sim = make()
    costs = Costs(Switchboard(sim), SiteMap(sim))
    measures = costs.measures({})
    weights = sum(m.weight.numel() for m in (sim.model.conv1, sim.model.conv2, sim.model.fc))
    assert measures["weight_bytes"] == weights
    pixels = 16 * 36
    activations = pixels * (3 + 6 + 6 + 6) + 16 * (6 + 4)  # input, relu, conv2, sum; mean, fc
    assert measures["activation_bytes"] == activations
    assert measures["bytes"] == weights + activations
    half = costs.measures({"fc.param_quantizers.weight": Precision(4)})
    assert half["weight_bytes"] == weights - 12


def test_an_allowed_drop_takes_few_evaluations() -> None:
    sim = make()
    count = Counting()
    plan = optimize_mixed_precision(
        sim,
        [DATA],
        CANDIDATES,
        allowed_accuracy_drop=90.0,
        eval_callback=count,
        sensitivity=made_up(sim),
    )
    assert plan.score >= plan.fp32_score - 90.0
    assert count.count == plan.evaluations <= 7
    assert [point for point in plan.curve if point.score is not None]
    shares = [point.relative_bit_ops for point in plan.curve]
    losses = [point.predicted_loss for point in plan.curve]
    assert shares == sorted(shares, reverse=True)
    assert losses == sorted(losses)


def test_the_estimate_leads_to_better_outputs_than_a_bad_choice() -> None:
    # The predicted order of whole choices is the order of what they do to the outputs.
    scores, losses = [], []
    for budget in (1.0, 0.55, 0.4, 0.3, 0.25):
        sim = make()
        plan = optimize_mixed_precision(
            sim, [DATA], [W8A16, W8A8, W4A8], bit_ops=budget, eval_callback=Counting()
        )
        scores.append(plan.score)
        losses.append(plan.predicted_loss)
    assert losses == sorted(losses)
    assert all(a > b - 1.0 for a, b in itertools.pairwise(scores))
    # Predicted: power of the error over that of the outputs.
    assert -10 * np.log10(losses[-1]) == pytest.approx(scores[-1], abs=4.0)


def plan_in_world() -> tuple:
    count = Counting()
    plan = optimize_mixed_precision(
        make(),
        [DATA],
        CANDIDATES,
        allowed_accuracy_drop=90.0,
        eval_callback=count,
        process_group=torch.distributed.group.WORLD,
    )
    return plan.choice, plan.score, count.count


def test_ranks_end_with_one_choice(two_ranks) -> None:
    first, second = two_ranks(plan_in_world)
    assert first[:2] == second[:2]
    sim = make()
    alone = optimize_mixed_precision(
        sim, [DATA], CANDIDATES, allowed_accuracy_drop=90.0, eval_callback=Counting()
    )
    assert (alone.choice, alone.score) == first[:2]
    assert first[2] + second[2] == alone.evaluations


def test_the_plan_can_be_read_and_kept(tmp_path) -> None:
    sim = make()
    plan = optimize_mixed_precision(
        sim, [DATA], CANDIDATES, bit_ops=0.6, sensitivity=made_up(sim), eval_callback=Counting()
    )
    assert "conv2" in str(plan)
    document = json.loads(plan.save_json(tmp_path / "plan.json").read_text())
    assert document["choice"] == plan.choice
    assert plan.evaluations == 1
    for name, quantizer in sim.named_quantizers():
        assert plan.setting[name] == f"int{quantizer.bitwidth}"


def test_wrong_arguments_are_named() -> None:
    sim = make()
    sensitivity = made_up(sim)

    def run(**options: object) -> None:
        optimize_mixed_precision(sim, [DATA], CANDIDATES, sensitivity=sensitivity, **options)

    with pytest.raises(ValueError, match="give a budget"):
        run()
    with pytest.raises(ValueError, match=r"`bit_ops` is a share .* got 2"):
        run(bit_ops=2)
    with pytest.raises(ValueError, match=r"`bit_ops` must be at least 0\.25.*got 0\.1"):
        run(bit_ops=0.1)
    with pytest.raises(TypeError, match="got an iterator"):
        optimize_mixed_precision(sim, iter([DATA]), CANDIDATES, bit_ops=0.5)
    with pytest.raises(ValueError, match="needs an `eval_callback`"):
        run(allowed_accuracy_drop=0.1)
    with pytest.raises(ValueError, match="must be at least 0, got -1"):
        run(allowed_accuracy_drop=-1, eval_callback=Counting())


@pytest.mark.parametrize("target", [38.0, 32.0])
def test_it_matches_the_search_on_the_budget_of_its_result(tmp_path, target: float) -> None:
    candidates = [((a, INT), (w, INT)) for a in (8, 4) for w in (8, 4)]
    sim = make()
    counts = (Counting(), Counting())
    fp32 = 10 * np.log10(float(counts[0].expected.square().sum()) / 1e-12)
    assert search(sim, tmp_path, fp32 - target, counts=counts, candidates=candidates)
    board = Switchboard(sim)
    costs = Costs(board, SiteMap(sim))
    full = costs.measures({name: Precision(8) for name in board.quantizers})
    shares = {name: cost / full[name] for name, cost in costs.measures({}).items()}
    again = make()
    plan = optimize_mixed_precision(
        again,
        [DATA],
        candidates,
        bit_ops=min(1.0, shares["bit_ops"] + 1e-9),
        bytes=min(1.0, shares["bytes"] + 1e-9),
    )
    assert Counting()(again.model) >= Counting()(sim.model) - 0.1
    assert 10 * plan.evaluations <= counts[0].count + counts[1].count


def test_onnx_runtime_computes_what_the_mixed_simulation_does(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    import aimet_torch
    from aimet_torch.onnx import export

    sim = make()
    candidates = [((a, INT), (w, INT)) for a in (16, 8) for w in (8, 4)]
    optimize_mixed_precision(sim, [DATA], candidates, bit_ops=0.45, bytes=0.8)
    assert {quantizer.bitwidth for quantizer in sim.quantizers()} == {4, 8, 16}
    export(sim, (DATA,), str(tmp_path / "mixed.onnx"))
    result = aimet_torch.verify(sim, str(tmp_path / "mixed.onnx"), [DATA])
    assert "all 6 operators are equal" in str(result)
