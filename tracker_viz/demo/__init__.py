"""A small LLaMA-style decoder, its data and its training loop, for ``train.py``.

    model.py       the decoder
    data.py        text and repeated random spans -> batches of tokens
    trainer.py     the training loop
    checkpoint.py  everything a resumed run needs, in one safetensors file
    settings.py    every option of train.py, checked

Nothing else in the package imports it: your own model and loop take its place.
"""
