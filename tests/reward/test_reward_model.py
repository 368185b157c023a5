"""A reward model as files."""

from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from folders import save_reward_model
from tiny import CONFIG, reward_params

from promedical_jax.clinic import build_tokenizer
from promedical_jax.config import GrpoConfig
from promedical_jax.errors import InputError
from promedical_jax.model.sharding import make_mesh
from promedical_jax.reward import UNCALIBRATED, RewardModel, TierVerdicts, Verdicts, is_reward_model, load_reward_model
from promedical_jax.reward.calibration import Platt
from promedical_jax.rubric import Tier
from promedical_jax.train.rewards import check_kind

MESH = make_mesh()


def test_a_saved_reward_model_is_the_same_one(tmp_path: Path) -> None:
    tiers = {tier: TierVerdicts(calibration=Platt(scale=1 / 3, shift=1e-17), low=0.1 + 0.2, high=0.4, labels=5) for tier in Tier}
    model = RewardModel(reward_params(), CONFIG, Verdicts(tiers=tiers))
    save_reward_model(tmp_path / "rm", model, build_tokenizer())
    assert is_reward_model(tmp_path / "rm") and not is_reward_model(tmp_path)
    loaded = load_reward_model(tmp_path / "rm", MESH)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, dict(model.params))
    assert loaded.verdicts == model.verdicts and loaded.config == CONFIG and loaded.kind == "explicit"
    (tmp_path / "rm" / "heads.safetensors").unlink()
    with pytest.raises(InputError, match="not a reward model"):
        load_reward_model(tmp_path / "rm", MESH)


@pytest.mark.parametrize(("name", "content", "sentence"), [
    ("calibration.json", b"{", "cannot be read"),
    ("calibration.json", b'{"proficiency": {"scale": 1, "shift": 0}}', "cannot be read"),
    ("calibration.json", b'{"kind": "explicit", "tiers": {}}', "must be proficiency, excellence, safety"),
    ("calibration.json", b'{"kind": "implicit", "tiers": {}}', "heads.safetensors: has tensors"),  # three heads, and an implicit model has one
    ("heads.safetensors", b"junk", "heads.safetensors: "),
    ("heads.safetensors", safetensors.numpy.save({"weight": np.zeros((2, 16), np.float32), "bias": np.zeros(2, np.float32)}), "calibration.json ask for"),
])  # fmt: skip
def test_damaged_files_are_sentences(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    save_reward_model(tmp_path / "rm", RewardModel(reward_params(), CONFIG, UNCALIBRATED), build_tokenizer())
    (tmp_path / "rm" / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        load_reward_model(tmp_path / "rm", MESH)


def test_the_hash_names_weights_heads_and_calibration(tmp_path: Path) -> None:
    hashes = set()
    for i, (params, verdicts) in enumerate([(reward_params(), UNCALIBRATED), (reward_params(seed=1), UNCALIBRATED),
                                            (reward_params(), Verdicts(tiers=dict.fromkeys(Tier, TierVerdicts(low=0.4)))), (reward_params(), UNCALIBRATED)]):
        save_reward_model(tmp_path / str(i), RewardModel(params, CONFIG, verdicts), build_tokenizer())
        hashes.add(load_reward_model(tmp_path / str(i), MESH).hash)
    assert len(hashes) == 3  # the last is the first again
    assert RewardModel({}, CONFIG, UNCALIBRATED, "abc" * 20).rater == "reward-model-abcabcabcabc"


@pytest.mark.parametrize("kind", ["blind", "implicit"])
def test_a_model_of_another_kind_is_told_apart(kind: str, tmp_path: Path) -> None:
    heads = 1 if kind == "implicit" else 3
    params = reward_params() | {"heads": {name: x[:heads] for name, x in reward_params()["heads"].items()}}
    verdicts = Verdicts(kind=kind) if kind == "blind" else Verdicts(kind=kind, tiers={})
    save_reward_model(tmp_path / "rm", RewardModel(params, CONFIG, verdicts), build_tokenizer())
    assert load_reward_model(tmp_path / "rm", MESH).kind == kind
    config = GrpoConfig(out="o", cases="c", model="m", reward_model=tmp_path / "rm")
    with pytest.raises(InputError, match="use one of kind explicit"):
        check_kind(config, kind)
    check_kind(config, "explicit")
    if kind == "implicit":
        check_kind(config.model_copy(update={"advantage": "scalar"}), kind)
