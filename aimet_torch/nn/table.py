"""Every class of torch.nn with a quantized class: ``nn.Conv2d`` -> ``QuantizedConv2d``, and so on.

Only classes whose calls take or return other than one tensor need an entry of their own.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from aimet_torch.nn.kernels import shadow, unshadow
from aimet_torch.nn.mixin import QuantizationMixin, make_quantized_class

__all__ = ["CLASSES", "QuantizedMultiheadAttention"]

_NAMES = """
AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
AdaptiveMaxPool3d AlphaDropout AvgPool1d AvgPool2d AvgPool3d BCELoss BCEWithLogitsLoss BatchNorm1d
BatchNorm2d BatchNorm3d Bilinear CELU CTCLoss ChannelShuffle CircularPad1d CircularPad2d
CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d Conv1d Conv2d Conv3d ConvTranspose1d
ConvTranspose2d ConvTranspose3d CosineEmbeddingLoss CosineSimilarity CrossEntropyLoss Dropout
Dropout1d Dropout2d Dropout3d ELU Embedding EmbeddingBag FeatureAlphaDropout Flatten Fold
FractionalMaxPool2d FractionalMaxPool3d GELU GLU GRU GRUCell GaussianNLLLoss GroupNorm Hardshrink
Hardsigmoid Hardswish Hardtanh HingeEmbeddingLoss HuberLoss Identity InstanceNorm1d InstanceNorm2d
InstanceNorm3d KLDivLoss L1Loss LPPool1d LPPool2d LPPool3d LSTM LSTMCell LayerNorm LeakyReLU Linear
LocalResponseNorm LogSigmoid LogSoftmax MSELoss MarginRankingLoss MaxPool1d MaxPool2d MaxPool3d
MaxUnpool1d MaxUnpool2d MaxUnpool3d Mish MultiLabelMarginLoss MultiLabelSoftMarginLoss
MultiMarginLoss NLLLoss NLLLoss2d PReLU PairwiseDistance PixelShuffle PixelUnshuffle
PoissonNLLLoss RMSNorm RNN RNNCell RReLU ReLU ReLU6 ReflectionPad1d ReflectionPad2d ReflectionPad3d
ReplicationPad1d ReplicationPad2d ReplicationPad3d SELU SiLU Sigmoid SmoothL1Loss SoftMarginLoss
Softmax Softmax2d Softmin Softplus Softshrink Softsign SyncBatchNorm Tanh Tanhshrink Threshold
TripletMarginLoss TripletMarginWithDistanceLoss Unflatten Unfold Upsample UpsamplingBilinear2d
UpsamplingNearest2d ZeroPad1d ZeroPad2d ZeroPad3d
""".split()  # noqa: SIM905 - a list of 120 quoted lines would hide them

# (tensors taken, tensors returned) where the arguments without a default do not tell.
_TENSOR_COUNTS = {
    "Embedding": (1, 1),
    "EmbeddingBag": (3, 1),
    "GRU": (2, 2),
    "GRUCell": (2, 1),
    "LSTM": (3, 3),
    "LSTMCell": (3, 2),
    "RNN": (2, 2),
    "RNNCell": (2, 1),
}


def _make_classes() -> dict[str, type[nn.Module]]:
    classes: dict[str, type[nn.Module]] = {}
    originals = {name: getattr(nn, name) for name in _NAMES if hasattr(nn, name)}
    originals["NonDynamicallyQuantizableLinear"] = NonDynamicallyQuantizableLinear
    for name, original in originals.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # NLLLoss2d warns when subclassed
            made = make_quantized_class(original, _TENSOR_COUNTS.get(name))
        # Pickle finds the class by this module and its name.
        made.__module__, made.__qualname__ = "aimet_torch.nn", f"Quantized{name}"
        made.__name__ = made.__qualname__
        classes[made.__name__] = QuantizationMixin.implements(original)(made)
    return classes


#: Quantized class by its name.
CLASSES = _make_classes()


@QuantizationMixin.implements(nn.MultiheadAttention)
class QuantizedMultiheadAttention(QuantizationMixin, nn.MultiheadAttention):
    """Quantized `nn.MultiheadAttention` as one operator: inputs, parameters and outputs.

    Its output projection becomes a quantized module too, whose parameter quantizers act here. To
    quantize the matrix products and the softmax inside, let the simulation trace into the module.
    """

    tensor_counts = (3, 2)

    def __quant_init__(self) -> None:
        super().__quant_init__()
        self.out_proj = QuantizationMixin.from_module(self.out_proj)

    def _quantized_forward(self, *args: Any, call_site: int = 0, **kwargs: Any) -> Any:
        """Run with the parameters of the output projection quantized too."""
        projection: Any = self.out_proj
        before = shadow(projection, projection._quantized_parameters() or {})
        try:
            return super()._quantized_forward(*args, call_site=call_site, **kwargs)
        finally:
            unshadow(projection, before)

    forward = _quantized_forward

    def get_original_module(self) -> nn.Module:
        """Return the module without quantization, its output projection included."""
        module = super().get_original_module()
        projection: Any = self.out_proj
        module.out_proj = projection.get_original_module()
        return module


CLASSES["QuantizedMultiheadAttention"] = QuantizedMultiheadAttention
QuantizedMultiheadAttention.__module__ = "aimet_torch.nn"
QuantizedMultiheadAttention.accepts_call_site = True
