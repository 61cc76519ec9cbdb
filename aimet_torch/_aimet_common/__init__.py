"""AIMET's second package: another name of ``aimet_torch.common``."""

import sys

import aimet_torch.common

sys.modules[__name__] = aimet_torch.common
