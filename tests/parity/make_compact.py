"""Makes the compact subset of the original's outputs that lies in `tests/parity/compact`.

    python -m tests.parity.make_compact FOLDER

FOLDER holds the full outputs, `<model>.json` and `<model>.npz`. Of each model it keeps the counts, the losses of the
first training step, the map of classes at 97x131 pixels and every eighth logit in both directions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from tests.parity.cases import CASES

COMPACT = Path(__file__).parent / "compact"


def main(folder: Path) -> None:
    COMPACT.mkdir(exist_ok=True)
    facts = {}
    for name in CASES:
        full = json.loads((folder / f"{name}.json").read_text("utf-8"))
        step = full["train"]["steps"][0]
        facts[name] = {key: full[key] for key in ("num_classes", "trainable", "state_values", "paddle", "paddleseg")}
        facts[name] |= {"loss": step["loss"], "loss_list": step["loss_list"]}
        with np.load(folder / f"{name}.npz") as arrays:
            logits = arrays["eval_97x131_out0_s2"]
            facts[name]["std"] = float(logits.std())
            np.savez_compressed(
                COMPACT / f"{name}.npz",
                argmax=arrays["eval_97x131_argmax"].astype(np.uint8),
                logits=logits[:, :, ::4, ::4],
            )
    (COMPACT / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
