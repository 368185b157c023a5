"""Where cases come from: importers of public sources."""

from promedical_jax.corpus.healthbench import import_healthbench
from promedical_jax.corpus.kqa import import_kqa

__all__ = ["import_healthbench", "import_kqa"]
