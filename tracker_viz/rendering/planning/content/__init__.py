"""Find the arrays that a layout's panels mean in this run: names are resolved, shapes checked,
orders and ranges taken from the captures."""

from tracker_viz.rendering.planning.content.heads import (
    Heads,
    heads_that_share,
    indexed_heads,
    indexer_places,
    leaves_keys_out,
    most_changed,
    pool_words,
    resolve_attention,
    weighted_heads,
)
from tracker_viz.rendering.planning.content.matrices import (
    Matrices,
    add_weight_scale,
    matrix_title,
    resolve_weights,
    short_kind,
    weight_source,
)
from tracker_viz.rendering.planning.content.names import (
    block_of,
    head_numbers,
    kind_of,
    probe_row,
    probe_rows,
    row_title,
)

__all__ = [
    "Heads",
    "Matrices",
    "add_weight_scale",
    "block_of",
    "head_numbers",
    "heads_that_share",
    "indexed_heads",
    "indexer_places",
    "kind_of",
    "leaves_keys_out",
    "matrix_title",
    "most_changed",
    "pool_words",
    "probe_row",
    "probe_rows",
    "resolve_attention",
    "resolve_weights",
    "row_title",
    "short_kind",
    "weight_source",
    "weighted_heads",
]
