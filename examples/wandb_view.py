"""Save a view of a W&B project with the films of its runs side by side.

    pip install wandb-workspaces
    python examples/wandb_view.py <entity>/<project> [layout]

Prints the address of the view. docs/pages/wandb.md describes how to build it by hand.
"""

from __future__ import annotations

import sys

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

STEP = "tracker_viz/step"  # the training step; W&B's own step counts calls of log
ROLES = ("induction", "previous_token", "current_token", "duplicate_token", "sink")


def save_view(entity: str, project: str, layout: str = "overview") -> str:
    """Save a view of the films of this layout, and return its address."""
    films = ws.Section(
        name="Films",
        is_open=True,
        panels=[
            wr.MediaBrowser(
                title="The film of every run",
                media_keys=[f"tracker_viz/{layout}"],
                mode="gallery",
                gallery_axis="run",
                num_columns=2,
            ),
            wr.MediaBrowser(
                title="Key frames: runs below each other, steps beside each other",
                media_keys=[f"tracker_viz/frames/{layout}"],
                mode="grid",
                grid_x_axis="step",
                grid_y_axis="run",
            ),
        ],
    )
    charts = ws.Section(
        name="What heads become",
        is_open=True,
        panels=[
            wr.LinePlot(title="loss", x=STEP, y=["loss"]),
            *(wr.LinePlot(title=role, x=STEP, y=[f"attn/{role}_max"]) for role in ROLES),
        ],
    )
    view = ws.Workspace(
        entity=entity,
        project=project,
        name="tracker_viz",
        sections=[films, charts],
        settings=ws.WorkspaceSettings(x_axis=STEP),
    )
    view.save()
    return str(view.url)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].count("/") != 1:
        sys.exit(__doc__)
    print(save_view(*sys.argv[1].split("/"), *sys.argv[2:3]))
