"""Take heads out of a model and measure what it can no longer predict.

    outputs.py   finds the input that holds a block's heads side by side
    rows.py      held-out rows of tokens, and which of their tokens can be copied
    losses.py    losses on these rows, with some heads replaced by their means

``pipeline.verify`` is the only caller.
"""
