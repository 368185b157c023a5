"""A server of this process's own: the real one, on a free port, with a small random policy and reward model and the clinic's tokenizer."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import jax
from folders import save_policy, save_reward_model
from tiny import CONFIG, policy, reward_params
from watching import until

from promedical_jax.clinic import build_tokenizer
from promedical_jax.model.sharding import make_mesh
from promedical_jax.reward import RewardModel, TierVerdicts, Verdicts
from promedical_jax.rubric import Tier
from promedical_jax.serve.app import Server, listen
from promedical_jax.serve.recipe import ServeConfig
from promedical_jax.serve.run import open_service
from promedical_jax.serve.service import Service

ONE_DEVICE = make_mesh(devices=jax.devices()[:1])
SIZES: dict[str, Any] = {"slots": 8, "longest": 128, "queue": 64, "max_body": 20_000, "timeout": 60, "grace": 20}


def write_models(folder: Path) -> None:
    """folder/policy and folder/judge."""
    tokenizer = build_tokenizer()
    config = replace(CONFIG, vocabulary=len(tokenizer), tied=True)
    save_policy(folder / "policy", policy(config), config, tokenizer)
    judge = replace(CONFIG, vocabulary=len(tokenizer))
    verdicts = Verdicts(tiers={tier: TierVerdicts(low=0.35, high=0.65) for tier in Tier})
    save_reward_model(folder / "judge", RewardModel(reward_params(judge), judge, verdicts), tokenizer)


class Hosted:
    """A running server. `url` ends in /v1."""

    def __init__(self, service: Service):
        self.service, self.server, listening = service, Server(service), listen("127.0.0.1", 0)
        self.http = httpx2.Client(timeout=60, trust_env=False, limits=httpx2.Limits(max_keepalive_connections=0))  # each request on a connection of its own
        self.root = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.url = f"{self.root}/v1"
        self.thread = threading.Thread(target=self.server.run, args=([listening],), daemon=True)
        self.thread.start()
        until(lambda: self.server.started)

    def end(self) -> None:
        self.http.close()
        if self.thread.is_alive():
            self.server.handle_exit(signal.SIGTERM, None)
            self.thread.join(60)
        assert not self.thread.is_alive()


@contextmanager
def hosted(folder: Path, **changed: Any) -> Iterator[Hosted]:
    """`changed`: keys of the recipe beside SIZES."""
    made = Hosted(open_service(ServeConfig(model=folder / "policy", **{"port": 0, "name": "tiny"} | SIZES | changed), ONE_DEVICE))
    try:
        yield made
    finally:
        made.end()
