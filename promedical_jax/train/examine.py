"""`promedical doctor`: a stage's recipe, looked over before it is trained."""

import shutil
from pathlib import Path
from tempfile import mkdtemp

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from promedical_jax.cluster import chief
from promedical_jax.config import OnPolicy, RmConfig, Stage
from promedical_jax.doctor import Finding, NotApplicable, look, numbers
from promedical_jax.doctor.before import findings
from promedical_jax.errors import InputError
from promedical_jax.model.lora import join
from promedical_jax.model.sharding import shardings
from promedical_jax.model.transformer import ModelConfig, Params
from promedical_jax.selfcheck import check_tree
from promedical_jax.train.checkpoint import read_parameters, write_parameters
from promedical_jax.train.stage import Setup, backbone, prepare

MARKS = {"passed": "[green]passed[/]", "failed": "[red]failed[/]", "not applicable": "[dim]not applicable[/]"}


def examine(config: Stage) -> list[Finding]:
    """Looks, and prints a line a check. Raises InputError where one failed. Trains nothing, and leaves nothing behind."""
    kind = config.kind if isinstance(config, RmConfig) else "explicit"
    setup = prepare(config.model_copy(update={"doctor": False}), kind)  # else the first fault would be all that is heard of
    found = findings(config, setup.mesh, setup.model, setup.tokenizer, setup.cases)
    with jax.set_mesh(setup.mesh):
        model, params = _model(config, setup)
        found += [
            look("tree against flat", lambda: _tree(config, setup, model, params)),
            look("sampler against trainer", lambda: _sampler(config, setup, model, params)),
            look("batch invariance", lambda: numbers.batch_invariance(params, model, setup.compute, setup.mesh, setup.cases)),
        ]
    found.append(look("checkpoint", lambda: _checkpoint(config.out)))
    if chief():
        _show(found, Console())
    failed = [one.check for one in found if one.outcome == "failed"]
    if failed:
        raise InputError(f"doctor: {len(failed)} of {len(found)} checks failed: {', '.join(failed)}; mend what their lines say, and run it again")
    return found


def _show(found: list[Finding], console: Console) -> None:
    table = Table("check", "", "", box=box.SIMPLE_HEAD, pad_edge=False)
    for one in found:
        table.add_row(one.check, MARKS[one.outcome], one.said)
    console.print(table)


def _model(config: Stage, setup: Setup) -> tuple[ModelConfig, Params]:
    """As the stage begins with it."""
    model, parts = backbone(config, setup, jax.random.key(config.seed))
    trained = parts.trained
    if callable(trained):
        trained = jax.jit(trained, out_shardings=shardings(setup.mesh, parts.axes))()
    return model, join(parts.frozen, trained)


def _tree(config: Stage, setup: Setup, model: ModelConfig, params: Params) -> str:
    check_tree("the model", params, model, setup.compute, trains=True, packs=getattr(config, "row", None) is not None)
    return "states and gradients of trees are those of flat rows"


def _sampler(config: Stage, setup: Setup, model: ModelConfig, params: Params) -> str:
    if not isinstance(config, OnPolicy):
        raise NotApplicable("this stage samples no answers")
    check_tree("the sampler", params, model, setup.compute, samples=True)
    return "log-probs of sampled tokens are those that the trainer gives them"


def _checkpoint(out: Path) -> str:
    """A small one, written where the run's will be and read back."""
    if jax.process_count() > 1:
        raise NotApplicable("in several processes the run's own first checkpoint shows it")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    place = None
    try:
        out.mkdir(parents=True, exist_ok=True)
        place = Path(mkdtemp(prefix=".doctor-", dir=out))
        written = {"numbers": jnp.arange(1000, dtype=jnp.float32), "more": jnp.ones((3, 5), jnp.bfloat16)}
        write_parameters(place, 1, written)
        read, _ = read_parameters(place)
        if not all(np.array_equal(np.asarray(read[name]), np.asarray(x)) for name, x in written.items()):
            raise InputError(f"{out}: a checkpoint that was written there comes back otherwise; choose another --out, on another file system")
    except OSError as error:
        raise InputError(f"{out}: {error.strerror or error}; see to its permissions and free space, or choose another --out") from error
    finally:
        if place:
            shutil.rmtree(place, ignore_errors=True)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return f"one was written at {out} and read back"
