"""``python -m zoo.minilm``: a sentence encoder, by its rank correlation with people's ratings."""

from aimet_torch.common.defs import CompressionScheme
from benchmarks import minilm
from benchmarks.accuracy_subjects import WORDS, few_bits_for_layers_only
from zoo.common import Entry, run

# As docs/ptq.md advises for transformers.
_OPTIONS = {"quant_scheme": "min_max", "alpha": None, "configure": few_bits_for_layers_only}

ENTRIES = (
    Entry(
        name="minilm",
        title="MiniLM-L6",
        load=minilm.load,
        batches=lambda: minilm.calibration_batches(WORDS),
        score=minilm.spearman,
        unit="Spearman",
        data=f"WordSim-353; {WORDS} other words calibrate",
        tolerance=0.02,
        scheme=CompressionScheme.channel_pruning,
        ratio=0.75,
        options={8: _OPTIONS, 4: _OPTIONS},
    ),
)

if __name__ == "__main__":
    raise SystemExit(run(ENTRIES))
