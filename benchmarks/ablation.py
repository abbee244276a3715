"""Test whether labels hold: take the labeled heads out of the demo's model, and measure
what it can no longer predict, as ``tracker-viz verify`` does for any run.

    python benchmarks/ablation.py                   # trains the demo first: some minutes
    python benchmarks/ablation.py run=local:<directory>       # of a run of train.py

Writes ablation.json and ablation.md beside this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import tracker_viz as tv
from tracker_viz.jobs.verify import report
from tracker_viz.pipeline import VerifyResult

HERE = Path(__file__).parent
PAGE = """# Ablation: what a model loses without the heads that carry a label

Written by `python benchmarks/ablation.py`: `train.py experiment=demo` (4 blocks x 4 heads), seed 0,
and `tracker-viz verify` with its defaults. Losses are in nats per token, on 32 held-out rows of
each kind. *Later copies* are the tokens of repeated random spans that can be predicted by looking
back; *others* and *at most* are the mean and the largest loss without as many other heads. A head's
output is replaced by its mean over all rows of the same kind and all positions.

The rule: {rule}.

```
{report}
```

Induction is built on previous-token heads in earlier blocks (Elhage et al. 2021), so that both
serve the same loss: without either of them nothing is copied.
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        given = [word.removeprefix("run=") for word in sys.argv[1:] if word.startswith("run=")]
        run = given[0] if given else trained_demo(Path(directory))
        result = tv.verify(run, upload=False, output=directory, cache=directory)
        described = json.loads((Path(directory) / "verify.json").read_text())
    (HERE / "ablation.json").write_text(json.dumps(described, indent=1) + "\n")
    (HERE / "ablation.md").write_text(page(result, described["rule"]))
    print(report(result))


def trained_demo(directory: Path) -> str:
    """Train the demo and return its run."""
    words = ["experiment=demo", "render=false", "tracker=local", f"spool={directory}/spool"]
    subprocess.run([sys.executable, HERE.parent / "train.py", *words], cwd=directory, check=True)
    return f"local:{directory}/spool"


def page(result: VerifyResult, rule: str) -> str:
    """Return the results as a page."""
    return PAGE.format(rule=rule, report=report(result).rstrip())


if __name__ == "__main__":
    main()
