"""What every test stands on: eight simulated CPU devices, one compilation cache, one hypothesis profile, and the real data where it is present."""

import os
from collections.abc import Iterator
from pathlib import Path

# Unless told otherwise, the tests run on the CPU, also on a machine with accelerators. Before jax is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from hypothesis import settings
from served import Server

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "promedical_jax" / "tests"

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# The same examples on every run of the continuous integration; fresh ones at the desk. Compilation makes a deadline meaningless.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """Compiles quickly, and forgets a module's programs after it: a process may map 65,530 pieces of memory, and one that keeps the programs of all modules
    comes near that and is killed by a segmentation fault. A module that wants code as users have it has a fixture of this name."""
    from tiny import quick_compilation

    with quick_compilation():
        yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data: PROMEDICAL_DATA, or shared/data beside the repository. Skips the test where there is none."""
    folder = Path(os.environ.get("PROMEDICAL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set PROMEDICAL_DATA to a folder that holds it")
    return folder


@pytest.fixture
def server() -> Iterator[Server]:
    """An endpoint to ask; `server.reply` is what it says."""
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()
