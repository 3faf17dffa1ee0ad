"""Stages on Ray: `data make RECIPE --engine ray` compares, hashes and masks on all of a cluster's cores.

What is asked of a teacher waits for the network and stays in one process, as do the files of results: a row
goes out as JSON and comes back as JSON, in the order of the work, so that the dataset is the same to the
byte. Every machine must see the dataset's folder under the same path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from evlm.errors import ConfigError, RecordError

from .stages import Result, Stage

_BATCH = 32  # rows that a worker takes at once
_ROUND = 4096  # rows between two writes of the results


class RayEngine:
    """workers: processes; None: as many as the cluster has cores. Raises ConfigError where ray is missing."""

    def __init__(self, workers: int | None = None) -> None:
        try:
            import ray
            import ray.data
        except ImportError:
            raise ConfigError("--engine ray needs the package ray: pip install 'ray[data]'") from None
        if not ray.is_initialized():
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        ray.data.DataContext.get_current().enable_progress_bars = False
        ray.data.DataContext.get_current().execution_options.preserve_order = True

    def run(
        self,
        stage: Stage,
        work: Iterable[tuple[str, Any]],
        maker: Callable[..., Callable[[Any], Result]],
        arguments: tuple[Any, ...],
        report: Callable[[int], object] = lambda count: None,
    ) -> None:
        """As `Stage.run`. maker(*arguments) is called once in each worker and gives what does the work there;
        it, its arguments and the work are pickled or JSON."""
        import ray
        import ray.data

        left = [{"key": key, "task": json.dumps(task)} for key, task in stage.left(work, report)]
        for start in range(0, len(left), _ROUND):
            rows = ray.data.from_items(left[start : start + _ROUND], override_num_blocks=2 * self.workers)
            done = rows.map_batches(
                _Worker, fn_constructor_args=(maker, arguments), batch_size=_BATCH,
                compute=ray.data.ActorPoolStrategy(size=self.workers), batch_format="pandas",
            )  # fmt: skip
            try:
                results = {row["key"]: json.loads(row["result"]) for row in done.iter_rows()}
            except ray.exceptions.RayError as error:
                last = (str(error).strip() or "no word").splitlines()[-1]
                raise RecordError(f"a worker of ray failed: {last:.400}; run it again") from error
            stage.add((each["key"], results[each["key"]]) for each in left[start : start + _ROUND])
            report(len(results))


class _Worker:
    """In a worker's process."""

    def __init__(self, maker: Callable[..., Callable[[Any], Result]], arguments: tuple[Any, ...]) -> None:
        import torch

        torch.set_num_threads(1)
        self.do = maker(*arguments)

    def __call__(self, batch: Any) -> Any:
        batch["result"] = [json.dumps(self.do(json.loads(task))) for task in batch["task"]]
        getattr(self.do, "flush", lambda: None)()  # files that the results speak of
        return batch[["key", "result"]]
