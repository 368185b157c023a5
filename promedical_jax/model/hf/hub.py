"""Models by their name on the hub: the local folder of the snapshot that HF's own cache keeps."""

import re
from pathlib import Path

from promedical_jax.errors import InputError
from promedical_jax.model.hf.companions import MODEL, TOKENIZER

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
WEIGHTS = ("model*.safetensors", "model.safetensors.index.json", "heads.safetensors", "calibration.json")  # the last two are a reward model's


def is_hub_name(name: Path | str) -> bool:
    """Whether a name that is no folder can be one of the hub's: `organisation/model`."""
    return not Path(name).exists() and NAME.fullmatch(str(name)) is not None


def resolve(name: Path | str, weights: bool = True) -> Path:
    """The folder of a model: `name` itself where it is one, else the hub's model of this name, fetched into HF's cache or found there.

    `weights`: False fetches config and tokenizer alone. Raises InputError for a name that is neither, and for whatever the hub refuses.
    """
    if Path(name).is_dir():
        return Path(name)
    if not is_hub_name(name):
        what = "is a file, and a model is a folder" if Path(name).exists() else "no such folder, and no name of the hub's either"
        raise InputError(f"{name}: {what}; give a folder with HF's config.json, or a name such as Qwen/Qwen3-0.6B")
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(str(name), allow_patterns=[*MODEL, *TOKENIZER, *(WEIGHTS if weights else ())]))
    except errors.GatedRepoError:
        raise InputError(f"{name}: the hub asks for its licence; accept it on https://huggingface.co/{name}, then log in with `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{name}: no such folder here, and no such model on the hub; mend the name, or `hf auth login` if it is a private one") from None
    except errors.HFValidationError as error:
        raise InputError(f"{name}: not a name of the hub's ({_first(error)}); give a folder, or a name such as Qwen/Qwen3-0.6B") from None
    except errors.LocalEntryNotFoundError:
        raise InputError(f"{name}: no such folder here, and the hub cannot be reached; mend the path, or fetch it where there is a network") from None
    except (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError) as error:
        raise InputError(f"{name}: cannot be fetched from the hub ({_first(error)}); try again, or give the path of a folder") from None
    if not (folder / "config.json").is_file():
        raise InputError(f"{name}: the hub's model has no config.json, or only a part of it is in the cache; fetch it where there is a network")
    if weights and not any(folder.glob("model*.safetensors")):
        # Off line the cache gives what it has; training would start from random weights without a word.
        raise InputError(f"{name}: no safetensors on the hub, or only its config is in the cache; fetch it where there is a network, or take another model")
    return folder


def _first(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
