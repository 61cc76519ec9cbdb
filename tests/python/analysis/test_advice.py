"""Findings from measurements, and that every call they show runs."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

from aimet_torch import ptq
from aimet_torch.analysis import NetworkFacts, TensorFacts, advise
from aimet_torch.analysis.advice import CALLS
from aimet_torch.quantsim import QuantizationSimModel

WEIGHT = TensorFacts("conv.param_quantizers.weight", "Conv", True, 8, 16, 0.01, 40.0)
ACTIVATION = TensorFacts("relu.output_quantizers.0", "Relu", False, 8, 1, 0.01, 40.0)


def kinds(*tensors, **facts):
    return [finding.kind for finding in advise(NetworkFacts(tensors, **facts))]


def changed(facts, **changes):
    return dataclasses.replace(facts, **changes)


def test_nothing_to_say_about_a_network_that_is_well():
    assert kinds(WEIGHT, ACTIVATION) == []


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (changed(WEIGHT, share=0.3, scales=1, spread=50.0), ["per_channel", "equalize"]),
        (changed(WEIGHT, share=0.3, bitwidth=4), ["round"]),
        (changed(WEIGHT, share=0.3, sqnr_db=12.0), ["round"]),
        (changed(WEIGHT, share=0.3, bitwidth=4, is_frozen=True), []),
        (changed(WEIGHT, share=0.01, bitwidth=4), []),
        (changed(ACTIVATION, share=0.09, tail=9.0), ["equalize_activations", "range"]),
        (changed(ACTIVATION, share=0.09, tail=9.0, is_before_norm=True), ["norm_range"]),
        (changed(ACTIVATION, share=0.09, clipped=0.1), ["wider_range"]),
    ],
)
def test_each_cause_has_its_fix(tensor, expected):
    assert kinds(tensor, ACTIVATION) == expected


def test_bits_only_where_they_help():
    rest = [changed(ACTIVATION, quantizer=f"a{i}.output_quantizers.0") for i in range(40)]
    helped = changed(ACTIVATION, share=0.6, share_left=0.001)
    assert kinds(helped, *rest) == ["more_bits"]
    assert kinds(changed(helped, share_left=0.9), *rest) == ["exclude"]
    assert kinds(changed(helped, share_left=None), *rest) == []


def test_few_bits_become_eight_first():
    (finding,) = advise(
        NetworkFacts(
            [
                changed(
                    WEIGHT,
                    bitwidth=4,
                    share=0.6,
                    share_left=0.01,
                    is_frozen=False,
                    op_type="Gather",
                )
            ]
        )
    )
    assert finding.kind == "more_bits"
    assert "bitwidth = 8" in finding.call
    assert finding.fix == "give it 8 bits"


def test_the_scheme_matters_for_outliers():
    outlier = changed(ACTIVATION, share=0.09, tail=9.0)
    assert kinds(outlier, scheme="post_training_mse") == ["equalize_activations"]


def test_what_has_to_be_done_first_comes_first():
    loud = changed(WEIGHT, share=0.9, bitwidth=4)
    found = kinds(loud, unfolded_batch_norms=["bn"], uncalibrated=["x.output_quantizers.0"])
    assert found == ["calibrate", "fold", "round"]


def test_a_finding_names_all_tensors_and_the_worst_first():
    many = [
        changed(WEIGHT, quantizer=f"conv{i}.param_quantizers.weight", bitwidth=4, share=0.1 * i)
        for i in (1, 3, 2)
    ]
    (finding,) = advise(NetworkFacts(many))
    assert finding.subjects[0] == "conv3.param_quantizers.weight"
    assert finding.share == pytest.approx(0.6)
    assert "conv3 (weight) and 2 more" in finding.cause
    assert "4 bits" in finding.cause


def test_poor_outputs_call_for_the_whole_recipe():
    loud = changed(WEIGHT, share=0.6, share_left=0.001)
    assert kinds(loud, output_sqnr_db=12.0) == ["repair", "more_bits"]
    assert kinds(loud, output_sqnr_db=25.0) == kinds(loud) == ["more_bits"]
    # Weights with learned rounding are kept; without weights there is nothing to round.
    assert kinds(changed(loud, is_frozen=True), output_sqnr_db=12.0) == []
    assert kinds(ACTIVATION, output_sqnr_db=12.0) == []
    found = kinds(loud, output_sqnr_db=12.0, unfolded_batch_norms=["bn"])
    assert found == ["fold", "repair", "more_bits"]


@pytest.mark.parametrize(("weight", "expected"), [(0.9, "round"), (0.1, "learn_ranges")])
def test_noise_that_is_everywhere(weight, expected):
    tensors = [
        changed(kind, quantizer=f"l{i}.{kind.tensor}.{kind.quantizer}", share=share, sqnr_db=15.0)
        for kind, total in ((WEIGHT, weight), (ACTIVATION, 1 - weight))
        for i, share in enumerate([total / 25] * 25)
    ]
    quiet = [changed(t, is_frozen=True) for t in tensors]
    assert kinds(*quiet) == [expected]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3))) * 2)


@pytest.mark.parametrize("kind", sorted(CALLS))
def test_every_call_runs(kind, monkeypatch):
    few = functools.partial(ptq.tune_activation_ranges, num_iterations=4)  # 128 take seconds
    monkeypatch.setattr(ptq, "tune_activation_ranges", few)
    torch.manual_seed(0)
    model, dummy_input = Small().eval(), torch.randn(1, 3, 8, 8)
    data_loader = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    sim = QuantizationSimModel(model, dummy_input)
    sim.compute_encodings(data_loader)
    paths = ["fc.output_quantizers.0", "relu.output_quantizers.0"]
    call = CALLS[kind]
    if "{" in call:
        call = call.format(names=["fc"], paths=paths, bits=16)
    names = {
        "model": model,
        "dummy_input": dummy_input,
        "data_loader": data_loader,
        "sim": sim,
        "QuantizationSimModel": QuantizationSimModel,
    }
    exec(call, names)
    with torch.no_grad():
        assert names["sim"].model(dummy_input).isfinite().all()
    widths = {q.bitwidth for _, q in names["sim"].named_quantizers()}
    assert (16 in widths) == (kind == "more_bits")
    assert (kind == "exclude") == (sim.excluded_layers == ["fc"])
