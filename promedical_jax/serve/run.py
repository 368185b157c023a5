"""`promedical serve`: opens the models, and serves until it is told to end."""

from time import time

import jax
from rich.console import Console

from promedical_jax.data.encode import stop_token
from promedical_jax.data.load import load_tokenizer
from promedical_jax.errors import InputError
from promedical_jax.model import decode, hf, transformer
from promedical_jax.model.sharding import check_divisible, make_mesh, shardings
from promedical_jax.model.transformer import Compute
from promedical_jax.reward import RewardJudge, is_reward_model, open_judge
from promedical_jax.selfcheck import check_tree
from promedical_jax.serve.engine import Engine
from promedical_jax.serve.recipe import ServeConfig
from promedical_jax.serve.service import Service


def run(config: ServeConfig) -> None:
    """Serves until SIGTERM or Ctrl-C. Raises InputError for what cannot be served."""
    try:
        from promedical_jax.serve import grammar  # noqa: F401
        from promedical_jax.serve.app import Server, listen
    except ImportError as error:
        raise InputError(f"serving needs {error.name}, which is not installed; pip install 'promedical-jax[serve]'") from None
    console = Console(stderr=True)
    listening = listen(config.host, config.port)  # first, for what takes long comes after it
    service = open_service(config)
    address = f"[{config.host}]" if ":" in config.host else config.host
    console.print(f"serving {service.name} at http://{address}:{listening.getsockname()[1]}/v1", soft_wrap=True, highlight=False)
    Server(service).run([listening])
    console.print("ended")


def open_service(config: ServeConfig, mesh: jax.sharding.Mesh | None = None) -> Service:
    """The models, loaded, and all programs compiled; on the recipe's mesh where none is given. Raises InputError for what is no policy, no reward model, or
    does not fit the mesh."""
    from promedical_jax.serve.grammar import Grammars  # of the extra

    key, folder = config.secret(), hf.resolve(config.model)
    if is_reward_model(folder):
        raise InputError(f"model: {config.model} is a reward model; give it with --reward_model, beside a policy")
    model = hf.read_config(folder)
    named = hf.resolve(config.tokenizer, weights=False) if config.tokenizer else folder
    encoder, tokenizer = (load_tokenizer(named, model.vocabulary) for _ in range(2))
    mesh = mesh or make_mesh(config.mesh.fsdp, config.mesh.tp, config.mesh.slice)
    check_divisible(mesh, {"batch": config.slots})
    judge = _judge(config, mesh)
    with jax.set_mesh(mesh):
        params = hf.load_trained(folder, model, shardings(mesh, transformer.axes(model)), config.dtype)
        check_tree("the policy", params, model, Compute(config.dtype), samples=True)
        weights = jax.jit(decode.settle, static_argnums=1)(params, config.dtype)
    stop = stop_token(tokenizer)
    grammars = Grammars(tokenizer, model.vocabulary, stop)
    engine = Engine(weights, model, count=config.slots, queue=config.queue, longest=config.longest, stop=stop, mesh=mesh)
    engine.warm()
    return Service(config, engine, encoder, tokenizer, grammars, judge, key, int(time()))


def _judge(config: ServeConfig, mesh: jax.sharding.Mesh) -> RewardJudge | None:
    if config.reward_model is None:
        return None
    judge = open_judge(config.reward_model, batch=1, dtype=config.dtype, mesh=mesh)
    if judge.model.kind == "implicit":
        raise InputError(f"reward_model: {config.reward_model} is an implicit one, which is told no criterion; give one of another kind")
    return judge
