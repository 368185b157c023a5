"""The recipe of `promedical serve`."""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from promedical_jax.config import Mesh, Positive, Settings
from promedical_jax.errors import InputError

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServeConfig(Settings):
    """A policy behind an OpenAI-compatible endpoint, and with it, if asked for, a reward model that judges criteria."""

    model: Path = Field(description="model folder of a policy, or its name on the hub")
    tokenizer: Path | None = Field(None, description="folder of the tokenizer, where the model folder has none")
    reward_model: Path | None = Field(None, description="folder of a trained reward model, for /v1/score")
    name: str | None = Field(None, min_length=1, description="what clients call the model; null: the last two parts of `model`")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen at; all but this machine's own need a key")
    port: Annotated[int, Field(ge=0, lt=2**16)] = Field(8000, description="0 takes a free one")
    key: str | None = Field(None, description="name of the environment variable that holds the key which clients must have; null: none is asked for")
    slots: Annotated[int, Field(ge=2)] = Field(16, description="answers that are written at a time; others wait")
    longest: Annotated[int, Field(ge=2)] = Field(2048, description="tokens of an instruction and its answer together; each slot has memory for so many")
    queue: Annotated[int, Field(ge=0)] = Field(128, description="answers that may wait for a slot; more are refused with status 429")
    max_body: Positive = Field(2**20, description="bytes of a request; larger ones are refused with status 413")
    timeout: Seconds = Field(300.0, description="seconds for one request, waiting included")
    grace: Seconds = Field(30.0, description="seconds that requests under way have left when the server is told to end")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="what matrix products compute in, and weights and cache are kept in")
    mesh: Mesh = Mesh()

    @model_validator(mode="after")
    def _who_listens_to_others_has_a_key(self) -> Self:
        if self.key is None and not _loopback(self.host):
            raise ValueError(f"host {self.host} can be reached from other machines, and no key is set; give key the name of an environment variable that "
                             "holds one, or listen at 127.0.0.1")  # fmt: skip
        return self

    @property
    def called(self) -> str:
        return self.name or "/".join(self.model.resolve().parts[-2:] if self.model.is_dir() else self.model.parts)

    def secret(self) -> str | None:
        """The key itself. Raises InputError where the environment has none, or what no client can send."""
        if self.key is None:
            return None
        secret = os.environ.get(self.key, "").strip()
        if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
            raise InputError(f"key: the environment's {self.key} holds no key; set it to letters and digits without spaces, or leave key out")
        return secret


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which others may know too
        return False
