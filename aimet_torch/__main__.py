"""``python -m aimet_torch``: the command line."""

from __future__ import annotations

from aimet_torch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
