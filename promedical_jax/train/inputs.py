"""What the files and folders are that a recipe names: a run that went on by others under the same names would be another run."""

from operator import attrgetter
from pathlib import Path
from zlib import crc32

from promedical_jax.config import Stage
from promedical_jax.model.hf.companions import companions
from promedical_jax.model.hf.hub import WEIGHTS
from promedical_jax.recipe import keys
from promedical_jax.train.checkpoint import RECORD, steps
from promedical_jax.train.source import find

READ = ("cases", "model", "tokenizer", "lora.start", "held_out", "reward_model", "watch.cases", "watch.judge")  # the keys that name what a run reads
PIECES, PIECE = 64, 2**20


def digests(config: Stage) -> dict[str, int]:
    """A checksum of what each of these keys names, where it is a file or folder of this machine: names of the hub's are left to the hub."""
    known = {key.name for key in keys(type(config))}
    named = {key: attrgetter(key)(config) for key in READ if key in known}
    return {key: _folder(path) if path.is_dir() else _file(path) for key, path in named.items() if path is not None and path.exists()}


def _folder(path: Path) -> int:
    """Of a model folder's companions, weights and adapters; of a folder of checkpoints the newest one's record, which has a checksum of each array."""
    source = find(path)
    found = crc32(repr(sorted(companions(source.folder).items())).encode())
    if source.checkpoints:
        files = [source.checkpoints / str(step) / RECORD for step in steps(source.checkpoints)[-1:]]
    else:
        files = sorted({file for pattern in (*WEIGHTS, "adapter_*") for file in source.folder.glob(pattern)})
    for file in filter(Path.is_file, files):  # a checkpoint that is gone or not whole is a change; whoever reads it says what it lacks
        found = _file(file, crc32(file.name.encode(), found))
    return found


def _file(path: Path, found: int = 0) -> int:
    """Of all bytes after `found`; of large weights of their number and of pieces from the first to the last, for training moves every weight and to read tens
    of gigabytes takes minutes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if path.suffix == ".safetensors" and size > PIECES * PIECE:
            found = crc32(str(size).encode(), found)
            for piece in range(PIECES):
                file.seek((size - PIECE) * piece // (PIECES - 1))
                found = crc32(file.read(PIECE), found)
        else:
            while block := file.read(16 * PIECE):
                found = crc32(block, found)
    return found
