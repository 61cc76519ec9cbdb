"""Post-training techniques: what repairs the accuracy of a quantized model without training."""

from aimet_torch.ptq.activation_equalization import equalize_activations
from aimet_torch.ptq.adaround import Adaround, AdaroundParameters
from aimet_torch.ptq.auto_quant import AutoQuant
from aimet_torch.ptq.batch_norm_folding import fold_all_batch_norms, fold_given_batch_norms
from aimet_torch.ptq.batch_norm_to_scale import fold_all_batch_norms_to_scale
from aimet_torch.ptq.bias_correction import correct_bias
from aimet_torch.ptq.block_reconstruction import (
    BlockReconstructionParameters,
    apply_block_reconstruction,
)
from aimet_torch.ptq.bn_reestimation import reestimate_bn_stats
from aimet_torch.ptq.cross_layer_equalization import (
    CrossLayerScaling,
    HighBiasFold,
    equalize_bn_folded_model,
    equalize_model,
)
from aimet_torch.ptq.data_free import data_free_quantization
from aimet_torch.ptq.gptq import apply_gptq
from aimet_torch.ptq.logit_ranges import set_logit_ranges
from aimet_torch.ptq.norm_ranges import set_ranges_before_norms
from aimet_torch.ptq.range_tuning import RangeTuning, tune_activation_ranges
from aimet_torch.ptq.recipe import quantize_without_labels
from aimet_torch.ptq.seq_mse import SeqMseParams, apply_seq_mse
from aimet_torch.ptq.sim_rounding import round_weights_of_sim

__all__ = [
    "Adaround",
    "AdaroundParameters",
    "AutoQuant",
    "BlockReconstructionParameters",
    "CrossLayerScaling",
    "HighBiasFold",
    "RangeTuning",
    "SeqMseParams",
    "apply_block_reconstruction",
    "apply_gptq",
    "apply_seq_mse",
    "correct_bias",
    "data_free_quantization",
    "equalize_activations",
    "equalize_bn_folded_model",
    "equalize_model",
    "fold_all_batch_norms",
    "fold_all_batch_norms_to_scale",
    "fold_given_batch_norms",
    "quantize_without_labels",
    "reestimate_bn_stats",
    "round_weights_of_sim",
    "set_logit_ranges",
    "set_ranges_before_norms",
    "tune_activation_ranges",
]
