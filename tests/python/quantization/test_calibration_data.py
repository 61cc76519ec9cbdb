"""What unusual data does to a range: every analyzer, every kind of data."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from aimet_torch.common.defs import QuantScheme
from aimet_torch.quantization.affine import (
    GroupedBlockQuantizeDequantize,
    Quantize,
    QuantizeDequantize,
)
from aimet_torch.quantization.encoding_analyzer import (
    EncodingAnalyzer,
    EntropyEncodingAnalyzer,
    MinMaxEncodingAnalyzer,
    MseEncodingAnalyzer,
    PercentileEncodingAnalyzer,
    SqnrEncodingAnalyzer,
    StatisticsNotFoundError,
    TfEnhancedEncodingAnalyzer,
)

ANALYZERS = [
    MinMaxEncodingAnalyzer,
    PercentileEncodingAnalyzer,
    SqnrEncodingAnalyzer,
    TfEnhancedEncodingAnalyzer,
    MseEncodingAnalyzer,
    EntropyEncodingAnalyzer,
]
HISTOGRAMS = ANALYZERS[1:]
NAN, INF = math.nan, math.inf

every_analyzer = pytest.mark.parametrize("analyzer", ANALYZERS)
every_symmetry = pytest.mark.parametrize("symmetric", [False, True])


def calibrated(analyzer, symmetric, *batches, shape=(), bits=8):
    quantizer = QuantizeDequantize(shape, bits, symmetric, analyzer(shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quantizer.compute_encodings():
            for batch in batches:
                quantizer(batch)
    return quantizer


@every_analyzer
def test_no_data_leaves_the_quantizer_uninitialized(analyzer):
    quantizer = QuantizeDequantize((), 8, False, analyzer(()))
    with (
        pytest.warns(UserWarning, match="no data was observed, so the quantizer stays uninit"),
        quantizer.compute_encodings(),
    ):
        pass
    assert not quantizer.is_initialized()
    with pytest.raises(RuntimeError, match="last time: no data was observed"):
        quantizer(torch.ones(1))


@every_analyzer
def test_empty_tensors_are_no_data(analyzer):
    quantizer = QuantizeDequantize((), 8, False, analyzer(()))
    with pytest.warns(UserWarning, match="no data"), quantizer.compute_encodings():
        quantizer(torch.ones(0, 3))
    assert not quantizer.is_initialized()


@every_analyzer
def test_only_nan_and_infinities_leave_the_range_as_it_was(analyzer):
    data = torch.tensor([NAN, INF, -INF])
    quantizer = QuantizeDequantize((), 8, False, analyzer(()))
    with pytest.warns(UserWarning, match="were NaN or infinite"), quantizer.compute_encodings():
        quantizer(data)
    assert not quantizer.is_initialized()
    quantizer.set_range(-1.0, 2.0)
    with pytest.warns(UserWarning, match="keeps its range"), quantizer.compute_encodings():
        quantizer(data)
    assert (quantizer.min.item(), quantizer.max.item()) == (-1.0, 2.0)


@every_analyzer
@every_symmetry
def test_non_finite_values_are_ignored(analyzer, symmetric):
    data = torch.linspace(-1.0, 2.0, 300)
    dirty = torch.cat([data, torch.tensor([NAN, INF, -INF])])
    clean_one = calibrated(analyzer, symmetric, data)
    dirty_one = calibrated(analyzer, symmetric, dirty)
    assert torch.equal(clean_one.min, dirty_one.min)
    assert torch.equal(clean_one.max, dirty_one.max)
    output = dirty_one(torch.tensor([NAN, INF, -INF]))
    assert output[0].isnan()
    assert output[1:].tolist() == [dirty_one.get_max().item(), dirty_one.get_min().item()]


@every_analyzer
@every_symmetry
def test_zeros_give_a_small_step_and_exact_zero(analyzer, symmetric):
    quantizer = calibrated(analyzer, symmetric, torch.zeros(50))
    scale = quantizer.get_scale().item()
    # Histograms put half a unit around a constant, so their ranges may be that wide.
    assert 0 < scale <= 1.2 / 255
    assert torch.equal(quantizer(torch.zeros(3)), torch.zeros(3))


@every_symmetry
def test_zeros_give_the_smallest_step_with_min_max(symmetric):
    quantizer = calibrated(MinMaxEncodingAnalyzer, symmetric, torch.zeros(5))
    assert quantizer.get_scale().item() == pytest.approx(1.1920929e-7, rel=1e-3)


@every_analyzer
@every_symmetry
@pytest.mark.parametrize("value", [3.0, -3.0])
def test_constant_data_is_represented(analyzer, symmetric, value):
    quantizer = calibrated(analyzer, symmetric, torch.full((50,), value))
    step = quantizer.get_scale().item()
    assert abs(quantizer(torch.tensor(value)).item() - value) <= step
    assert quantizer(torch.zeros(1)).item() == 0.0
    assert step <= 8 / 255


@every_analyzer
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_sided_data_includes_zero(analyzer, sign):
    torch.manual_seed(0)
    data = sign * (torch.rand(500) + 2.0)
    quantizer = calibrated(analyzer, False, data)
    low, high = quantizer.get_min().item(), quantizer.get_max().item()
    assert (low == 0.0) if sign > 0 else (high == 0.0)
    assert quantizer(torch.zeros(1)).item() == 0.0
    assert (quantizer(data) - data).abs().max() < 0.3


@every_analyzer
@every_symmetry
def test_channels_are_independent(analyzer, symmetric):
    torch.manual_seed(0)
    batches = [torch.randn(3, 100) * torch.tensor([[1.0], [10.0], [0.1]]) * k for k in (1, 2)]
    together = calibrated(analyzer, symmetric, *batches, shape=(3, 1))
    for channel in range(3):
        alone = calibrated(analyzer, symmetric, *(batch[channel] for batch in batches))
        torch.testing.assert_close(together.min[channel, 0], alone.min)
        torch.testing.assert_close(together.max[channel, 0], alone.max)


@every_analyzer
def test_channel_without_finite_values_gets_the_smallest_range(analyzer):
    data = torch.stack([torch.linspace(-1, 1, 100), torch.full((100,), NAN)])
    quantizer = calibrated(analyzer, True, data, shape=(2, 1))
    scale = quantizer.get_scale()
    assert quantizer.is_initialized()
    assert 0 < scale[1, 0] <= scale[0, 0]


@every_analyzer
def test_channel_whose_values_come_late(analyzer):
    torch.manual_seed(0)
    values = torch.randn(100) * 5
    first = torch.stack([values, torch.full((100,), NAN)])
    second = torch.stack([values, values])
    quantizer = calibrated(analyzer, True, first, second, shape=(2, 1))
    twice = calibrated(analyzer, True, values, values)
    once = calibrated(analyzer, True, values)
    torch.testing.assert_close(quantizer.max[:, 0], torch.stack([twice.max, once.max]))


@every_analyzer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(analyzer, dtype):
    data = torch.linspace(-1, 2, 64).to(dtype)
    quantizer = calibrated(analyzer, False, data)
    expected = calibrated(analyzer, False, data.float())
    torch.testing.assert_close(quantizer.get_scale(), expected.get_scale())


@pytest.mark.parametrize("analyzer", HISTOGRAMS)
def test_range_grows_with_later_batches(analyzer):
    torch.manual_seed(0)
    small, large = torch.randn(500), torch.randn(500) * 2
    grown = calibrated(analyzer, False, small, large)
    first_only = calibrated(analyzer, False, small)
    assert grown.get_max() > first_only.get_max()


def test_min_max_is_the_running_extreme():
    quantizer = calibrated(
        MinMaxEncodingAnalyzer, False, torch.tensor([-1.0, 0.5]), torch.tensor([0.1, 2.0])
    )
    assert (quantizer.min.item(), quantizer.max.item()) == (-1.0, 2.0)


def test_percentile_leaves_outliers_out():
    data = torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([50.0])])
    whole = PercentileEncodingAnalyzer((), percentile=100)
    most = PercentileEncodingAnalyzer((), percentile=99.9)
    for analyzer in (whole, most):
        analyzer.update_stats(data)
    assert whole.compute_encodings(255, False)[1].item() == pytest.approx(50.0)
    assert most.compute_encodings(255, False)[1].item() == pytest.approx(1.0, abs=50 / 1000)
    most.set_percentile(100)
    assert most.compute_encodings(255, False)[1].item() == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("analyzer", "most"),
    [(SqnrEncodingAnalyzer, 0.8), (MseEncodingAnalyzer, 0.8), (EntropyEncodingAnalyzer, 0.95)],
)
def test_searches_clip_long_tails(analyzer, most):
    torch.manual_seed(0)
    data = torch.distributions.Laplace(0.0, 1.0).sample((20000,))
    quantizer = calibrated(analyzer, True, data, bits=4)
    assert quantizer.get_max() < most * data.abs().max()
    naive = calibrated(MinMaxEncodingAnalyzer, True, data, bits=4)
    assert (quantizer(data) - data).square().mean() < (naive(data) - data).square().mean()


def test_growth_limit_of_tf_enhanced():
    first, second = torch.linspace(-1, 1, 200), torch.linspace(-100, 100, 200)
    analyzer = TfEnhancedEncodingAnalyzer(())
    analyzer.update_stats(first)
    analyzer.update_stats(second)
    low, high = analyzer.compute_encodings(255, True)
    # The first range is 2 wide; it may grow by 3 / 2 of that on each side.
    assert high.item() <= (1 + 3) * 1.01  # the widest candidate is a hundredth wider
    assert low.item() >= -(1 + 3) * 1.01 * 128 / 127


def test_growth_limit_can_be_set():
    try:
        TfEnhancedEncodingAnalyzer.set_growth_limit(1.0)
        assert TfEnhancedEncodingAnalyzer(()).growth_limit == 1.0
        with pytest.raises(ValueError, match=r"`growth_limit` must be at least 1, got 0.5"):
            TfEnhancedEncodingAnalyzer.set_growth_limit(0.5)
    finally:
        TfEnhancedEncodingAnalyzer.set_growth_limit(3.0)


def test_dynamic_encodings_leave_the_statistics_alone():
    analyzer = MinMaxEncodingAnalyzer(())
    analyzer.update_stats(torch.tensor([-1.0, 1.0]))
    low, high = analyzer.compute_dynamic_encodings(torch.tensor([0.0, 5.0]), 255, False)
    assert (low.item(), high.item()) == (0.0, 5.0)
    assert [end.item() for end in analyzer.compute_encodings(255, False)] == [-1.0, 1.0]


def test_analyzer_errors():
    with pytest.raises(StatisticsNotFoundError, match="no data"):
        MinMaxEncodingAnalyzer(()).compute_encodings(255, False)
    with pytest.raises(ValueError, match="`num_steps` must be positive, got 0"):
        MinMaxEncodingAnalyzer(()).compute_encodings(0, False)
    with pytest.raises(ValueError, match="`percentile` must be within 50 and 100, got 20"):
        PercentileEncodingAnalyzer((), percentile=20)
    with pytest.raises(ValueError, match="`num_bins` must be positive, got 0"):
        SqnrEncodingAnalyzer((), num_bins=0)


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("tf", MinMaxEncodingAnalyzer),
        ("min_max", MinMaxEncodingAnalyzer),
        ("tf_enhanced", TfEnhancedEncodingAnalyzer),
        ("percentile", PercentileEncodingAnalyzer),
        (QuantScheme.training_range_learning_with_tf_enhanced_init, TfEnhancedEncodingAnalyzer),
    ],
)
def test_analyzer_of_a_scheme(scheme, expected):
    analyzer = EncodingAnalyzer.for_scheme(scheme, (4, 1), block_size=(1, -1))
    assert type(analyzer) is expected
    assert (analyzer.shape, analyzer.block_size) == ((4, 1), (1, -1))


def test_every_scheme_has_an_analyzer():
    assert all(EncodingAnalyzer.for_scheme(scheme, ()) for scheme in QuantScheme)


@pytest.mark.parametrize("analyzer", [MinMaxEncodingAnalyzer, SqnrEncodingAnalyzer])
@pytest.mark.parametrize("kind", [Quantize, QuantizeDequantize])
def test_during_calibration_each_tensor_is_quantized_with_its_own_range(kind, analyzer):
    torch.manual_seed(0)
    small, large = torch.randn(4, 50), torch.randn(4, 50) * 7
    quantizer = kind((4, 1), 4, True, analyzer((4, 1)))
    with quantizer.compute_encodings():
        outputs = [quantizer(small), quantizer(large), quantizer(torch.full((4, 2), NAN))]
    for data, output in zip((small, large), outputs, strict=False):
        alone = kind((4, 1), 4, True, analyzer((4, 1)))
        with alone.compute_encodings():
            alone(data)
        assert torch.equal(output, alone(data))
        assert torch.equal(output.encoding.scale, alone.get_scale())
    assert outputs[2].isnan().all()
    assert type(outputs[2]) is torch.Tensor
    assert torch.equal(quantizer.get_scale(), alone.get_scale()) == (
        analyzer is MinMaxEncodingAnalyzer
    )


def test_grouped_blocks_during_calibration():
    torch.manual_seed(0)
    data = torch.randn(4, 6)
    quantizer = GroupedBlockQuantizeDequantize(
        (4, 2), 4, True, 8, block_size=(1, 3), block_grouping=(1, -1)
    )
    with quantizer.compute_encodings():
        inside = quantizer(data)
    assert torch.equal(inside, quantizer(data))
    encoding = inside.encoding
    torch.testing.assert_close(encoding.per_channel_scale, quantizer.get_per_channel_scale())


def test_calibration_can_pass_tensors_through():
    data = torch.tensor([0.1, 1.0])
    quantizer = QuantizeDequantize((), 2, False)
    with quantizer.compute_encodings(passes_through=True):
        assert quantizer(data) is data
    assert quantizer.is_initialized()


def test_an_exception_during_calibration_leaves_the_range():
    quantizer = calibrated(MinMaxEncodingAnalyzer, False, torch.tensor([-1.0, 1.0]))

    def fail():
        with quantizer.compute_encodings():
            quantizer(torch.tensor([99.0]))
            raise KeyError("from the forward pass")

    with pytest.raises(KeyError):
        fail()
    assert quantizer.max.item() == 1.0
    assert quantizer(torch.tensor([99.0])).item() == pytest.approx(1.0, abs=0.01)
