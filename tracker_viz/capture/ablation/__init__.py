"""Take heads out of a model and measure what it can no longer predict.

    outputs.py   where the heads of each block lie side by side
    rows.py      held-out rows of tokens, and which of their tokens can be copied
    losses.py    losses on these rows, with some heads replaced by their means

``pipeline.verify`` is the only caller.
"""
