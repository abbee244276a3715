"""The small LLaMA-style model and the data that ``train.py`` trains it on, so that there is
something to watch learn.

    model.py       the decoder
    data.py        text and repeated random spans -> batches of tokens
    trainer.py     the training loop
    checkpoint.py  everything a resumed run needs, in one safetensors file

Nothing else in the package knows of it: your own model and loop take its place.
"""
