"""Tag the MLflow runs of a Hydra job with its overrides. Registered as an
``mlflow.run_context_provider``.

MLflow asks this for every run that starts anywhere, so it must cost nothing where Hydra is not
used.
"""

from __future__ import annotations

import sys

from tracker_viz.trackers.redaction import shown_override


class HydraRunContext:
    """Provides the tags ``hydra.overrides``, ``hydra.job.name`` and, in a sweep, ``hydra.job.num``
    and ``hydra.sweep.id``."""

    def in_context(self) -> bool:
        if "hydra.core.hydra_config" not in sys.modules:
            return False
        from hydra.core.hydra_config import HydraConfig

        return HydraConfig.initialized()

    def tags(self) -> dict[str, str]:
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        hydra = HydraConfig.get()
        tags = {"hydra.job.name": str(hydra.job.name)}
        if hydra.overrides.task:
            tags["hydra.overrides"] = "\n".join(map(shown_override, hydra.overrides.task))
        if not OmegaConf.is_missing(hydra.job, "num"):
            # Jobs of one sweep share its directory, which carries the time at which it began.
            tags |= {"hydra.job.num": str(hydra.job.num), "hydra.sweep.id": str(hydra.sweep.dir)}
        return tags
