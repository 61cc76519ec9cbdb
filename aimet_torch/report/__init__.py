"""What a quantization run did: measures of agreement, and a report as one HTML file and as JSON."""

from aimet_torch.report.deployment import DeploymentReport, deployment_report
from aimet_torch.report.document import QuantizationReport, Step, environment
from aimet_torch.report.layers import LayerRow, QuantizerRow, describe_quantizers, layer_sqnr
from aimet_torch.report.metrics import sqnr_db, top1_agreement

__all__ = [
    "DeploymentReport",
    "LayerRow",
    "QuantizationReport",
    "QuantizerRow",
    "Step",
    "deployment_report",
    "describe_quantizers",
    "environment",
    "layer_sqnr",
    "sqnr_db",
    "top1_agreement",
]
