"""AIMET's flat module paths: one table from its names to the modules of this project.

``import aimet_torch.batch_norm_fold`` gives the very module ``aimet_torch.ptq.batch_norm_fold``, so
classes and state exist once. An import hook does it; a name whose target does not exist stays an
ordinary ModuleNotFoundError. Names that are the same in both projects need no entry.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["ALIASES", "install", "resolve"]

#: Target by alias. An entry holds for everything below it too: the longest one that fits wins.
ALIASES = {
    "aimet_common": "aimet_torch.common",
    "aimet_torch.v2": "aimet_torch",
    # quantization
    "aimet_torch.elementwise_ops": "aimet_torch.nn.modules.custom",
    "aimet_torch.nn.fake_quant": "aimet_torch.nn",
    "aimet_torch.nn.true_quant": "aimet_torch.nn",
    "aimet_torch.onnx": "aimet_torch.export.onnx_qdq",
    "aimet_torch.quantization.affine.backends": "aimet_torch.quantization.affine",
    "aimet_torch.quantsim.quantsim": "aimet_torch.quantsim",
    "aimet_torch.utils": "aimet_torch.nn.removal",
    # post-training techniques
    "aimet_torch.adaround": "aimet_torch.ptq.adaround",
    "aimet_torch.adaround.adaround_weight": "aimet_torch.ptq.adaround",
    "aimet_torch.auto_quant": "aimet_torch.ptq.auto_quant",
    "aimet_torch.batch_norm_fold": "aimet_torch.ptq.batch_norm_folding",
    "aimet_torch.bias_correction": "aimet_torch.ptq.bias_correction",
    "aimet_torch.cross_layer_equalization": "aimet_torch.ptq.cross_layer_equalization",
    "aimet_torch.gptq": "aimet_torch.ptq.gptq",
    "aimet_torch.seq_mse": "aimet_torch.ptq.seq_mse",
    # training
    "aimet_torch.bn_reestimation": "aimet_torch.ptq.bn_reestimation",
    # analysis
    "aimet_torch.amp": "aimet_torch.mixed_precision",
    "aimet_torch.amp.mixed_precision_algo": "aimet_torch.mixed_precision",
    "aimet_torch.amp.quantizer_groups": "aimet_torch.mixed_precision",
    "aimet_torch.amp.utils": "aimet_torch.mixed_precision",
    "aimet_torch.common.amp": "aimet_torch.mixed_precision",
    "aimet_torch.common.amp.mixed_precision_algo": "aimet_torch.mixed_precision",
    "aimet_torch.common.amp.quantizer_groups": "aimet_torch.mixed_precision",
    "aimet_torch.common.amp.utils": "aimet_torch.mixed_precision",
    "aimet_torch.mixed_precision.manual_mixed_precision": "aimet_torch.mixed_precision",
    "aimet_torch.arch_checker": "aimet_torch.report.arch_checker",
    "aimet_torch.arch_checker.arch_checker": "aimet_torch.report.arch_checker",
    "aimet_torch.layer_output_utils": "aimet_torch.analysis.layer_outputs",
    "aimet_torch.model_preparer": "aimet_torch.analysis.model_preparer",
    "aimet_torch.model_validator": "aimet_torch.analysis.model_validator",
    "aimet_torch.model_validator.model_validator": "aimet_torch.analysis.model_validator",
    "aimet_torch.quant_analyzer": "aimet_torch.report.quant_analyzer",
    "aimet_torch.visualization_tools": "aimet_torch.report.quantizer_charts",
    "aimet_torch.visualize_model": "aimet_torch.report.weight_charts",
    # compression
    "aimet_torch.compress": "aimet_torch.compression",
    "aimet_torch.defs": "aimet_torch.compression.defs",
}


def resolve(name: str) -> str | None:
    """Return the module that ``name`` stands for, None if it is no alias."""
    prefix = name
    while prefix:
        target = ALIASES.get(prefix)
        if target is not None:
            target += name[len(prefix) :]
            # The target of one entry may be the alias of another: aimet_torch.v2.seq_mse.
            return resolve(target) or target
        prefix = prefix.rpartition(".")[0]
    return None


class _AliasFinder(MetaPathFinder, Loader):
    """Finds aliases before the path-based finder would load their files a second time."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec when ``name`` is an alias of a module that exists."""
        if not name.startswith(("aimet_torch.", "aimet_common")):
            return None
        real = resolve(name)
        if real is None or not _exists(real):
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system make a placeholder."""

    def exec_module(self, module: ModuleType) -> None:
        """Replace the placeholder by the target, which the import system then hands out."""
        name = module.__name__
        real = resolve(name)
        assert real is not None
        target = importlib.import_module(real)
        if not hasattr(target, "__path__"):
            target.__path__ = []  # aliases below this one: aimet_torch.adaround.adaround_weight
        sys.modules[name] = target


def _exists(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False  # a package above it does not exist


def install() -> None:
    """Put the hook in front of all finders; a second call does nothing."""
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())
