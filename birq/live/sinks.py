"""Tools that take training curves: DVCLive, TensorBoard, Weights & Biases, MLflow. Each package is an extra of birq and optional."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from birq.errors import BirqError
from birq.live.trainings import Training

Values = Mapping[str, float]


class Sink(Protocol):
    """One run of one tool."""

    step: int  # the last one that the tool has already; 0 for a run that begins

    def log(self, step: int, values: Values) -> None: ...
    def end(self) -> None: ...


class DVCLive:
    """FOLDER/STAGE/RUN, written anew."""

    def __init__(self, training: Training, folder: Path):
        from dvclive import Live

        # its dvc.yaml lies beside the curves: the project's own is not touched, and no experiment is saved
        place, self.step = folder / training.name, 0
        self._live = Live(dir=str(place / "curves"), dvcyaml=str(place / "dvc.yaml"), save_dvc_exp=False)

    def log(self, step: int, values: Values) -> None:
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.next_step()

    def end(self) -> None:
        self._live.end()


class TensorBoard:
    """FOLDER/STAGE/RUN, written anew: `tensorboard --logdir FOLDER`."""

    def __init__(self, training: Training, folder: Path):
        from torch.utils.tensorboard import SummaryWriter

        place, self.step = folder / training.name, 0
        for old in place.glob("events.out.tfevents.*"):  # a second file of the same run would be drawn over the first
            old.unlink()
        self._writer = SummaryWriter(str(place))

    def log(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run STAGE/RUN of the project `birq`, or WANDB_PROJECT, kept by its key: started again, it goes on. Files lie in FOLDER."""

    def __init__(self, training: Training, folder: Path):
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        project = os.environ.get("WANDB_PROJECT", "birq")
        about = {"key": training.key, "stage": training.node.stage.name, **training.node.wildcards}
        try:
            self._run = wandb.init(
                project=project, name=training.name, id=training.key, resume="allow", dir=str(folder), config=about, reinit="create_new"
            )
        except wandb.Error as e:
            why = " ".join(str(e).split())
            raise BirqError(f"W&B does not take {training.name}: {why}; `wandb login`, or WANDB_MODE=offline to keep it here") from None
        self.step = self._run.step  # where a kept run goes on

    def log(self, step: int, values: Values) -> None:
        self._run.log(dict(values), step=step)

    def end(self) -> None:
        self._run.finish()


class MLflow:
    """A run STAGE/RUN of the experiment `birq`, kept by its key: started again, it goes on. MLFLOW_TRACKING_URI, else FOLDER/mlflow.db."""

    def __init__(self, training: Training, folder: Path):
        import mlflow

        address = os.environ.get("MLFLOW_TRACKING_URI")
        if not address:
            folder.mkdir(parents=True, exist_ok=True)
            address = f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        try:
            self._client = mlflow.MlflowClient(tracking_uri=address)
            self._run = self._found(training)
            past = self._client.get_metric_history(self._run, "loss")
        except mlflow.exceptions.MlflowException as e:
            raise BirqError(f"MLflow at {address} does not take {training.name}: {' '.join(str(e).split())[:300]}") from None
        self.step = max((m.step for m in past), default=0)

    def _found(self, training: Training) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "birq")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        kept = self._client.search_runs([experiment], f"tags.`birq.key` = '{training.key}'")
        if kept:
            return kept[0].info.run_id
        about = {"key": training.key, "stage": training.node.stage.name, **training.node.wildcards}
        tags = {f"birq.{name}": value for name, value in about.items()}
        return self._client.create_run(experiment, tags=tags, run_name=training.name).info.run_id

    def log(self, step: int, values: Values) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, float(value), now_ms, step) for name, value in values.items()])

    def end(self) -> None:
        self._client.set_terminated(self._run)


# by the name of its package
TOOLS: dict[str, Callable[[Training, Path], Sink]] = {
    "dvclive": DVCLive,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def opener(tool: str, folder: Path) -> Callable[[Training], Sink]:
    """What begins a run of a tool. Errors: BirqError for an unknown tool, and for one whose package is not installed."""
    if tool not in TOOLS:
        raise BirqError(f"--to {tool}: unknown, birq knows {', '.join(TOOLS)}")
    try:
        importlib.import_module(tool)
    except ImportError as e:
        raise BirqError(f"the package {tool} cannot be imported ({e}): pip install 'birq[{tool}]'") from None
    return lambda training: TOOLS[tool](training, folder)
