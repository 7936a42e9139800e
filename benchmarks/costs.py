"""The cost model against measured times: calibrate on a tenth of the rows, predict the rest.

python -m benchmarks.costs --data ../shared/data --json
python -m benchmarks.costs --profiles mine.csv --json

A profiles file is CSV with the columns below; --write makes one of the measured sources, as an
example. Work is `prompts` prompts of `prompt_tokens` tokens each that read the weights `passes`
times, and `steps` decode steps of `batch` sequences attending to `context` tokens each, through
`layers` layers (0: the whole model with its head). Models and devices are rows of the shipped
tables. Phases are prefill, decode and first-token: the last is a prefill that also waited in a
queue, whose error counts and from which nothing is learnt.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import profiles
from benchmarks.profiles import Row
from evenkeel_core import calibrating, costs, facts
from evenkeel_core.calibrating import Observation, Place
from evenkeel_core.costs import Effort
from evenkeel_core.efficiencies import Estimate, Setting
from evenkeel_core.jobs import Engine, Inference, Requests
from evenkeel_core.problems import Array, Floats
from evenkeel_core.quantities import CPU, Bytes
from evenkeel_core.servers import Device, Server
from evenkeel_core.subtasks import Variant

GPU = "nvidia.com/gpu"


def main() -> int:
    """Calibrate, predict and compare with several seeds; print what came out."""
    options = _options()
    try:
        given = options.profiles
        rows = profiles.read(given) if given else list(profiles.measured(options.data))
    except (profiles.InvalidProfile, OSError) as error:
        print(f"costs: {error}", file=sys.stderr)
        return 2
    known = [row for row in rows if profiles.model(row.model, row.quantization)]
    if options.write:
        profiles.write(options.write, known)
    trials = Trials([Case.of(row) for row in known], options.share)
    results = [trials.run(seed) for seed in range(options.seed, options.seed + options.seeds)]
    summary = _summary(trials.cases, results)
    summary["models_not_in_the_table"] = sorted(
        {row.model for row in rows} - {row.model for row in known}
    )
    summary["rows_left_out"] = len(rows) - len(known)
    for name, part in summary["by"].items():
        line = f"{name:32}{part['rows']:6} rows  calibrated {_shown(part['calibrated'])}"
        print(f"{line}  uncalibrated {_shown(part['uncalibrated'])}", file=sys.stderr)
    if options.json:
        print(json.dumps(summary))
    return 0


def _shown(percent: float | None) -> str:
    return "      -" if percent is None else f"{percent:5.1f} %"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"columns: {', '.join(profiles.COLUMNS)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--profiles", type=Path, help="rows of your own instead, as CSV")
    parser.add_argument("--write", type=Path, help="write the rows that are used, as CSV")
    parser.add_argument("--share", type=float, default=0.1, help="of the rows to calibrate on")
    parser.add_argument("--seeds", type=int, default=5, help="random choices of these rows")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--json", action="store_true", help="print a summary as the last line")
    options = parser.parse_args()
    if not 0 <= options.share < 1:
        parser.error("--share must be at least 0 and below 1")
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    return options


@dataclass(frozen=True, slots=True)
class Case:
    """A row as the core takes it."""

    row: Row
    server: Server
    device: Device
    work: Inference
    effort: Effort

    @classmethod
    def of(cls, row: Row) -> "Case":
        """Translate a row."""
        table = facts.device(row.device)
        model = profiles.model(row.model, row.quantization)
        if table is None or model is None:
            raise ValueError("`row` must be of a known device and model")
        processor = table["kind"] == "cpu"
        device = Device(
            table["name"], CPU if processor else GPU, row.devices, facts.memory(table),
            facts.peak_flops(table), facts.bandwidth(table), facts.confidence(table),
        )  # fmt: skip
        none = Device("none", CPU, 1, Bytes(0), 1.0, 1.0)
        name = f"{row.source} {row.server} {row.engine}"
        server = Server(name, {}, device) if processor else Server(name, {}, none, (device,))
        weights = replace(model, weights=f"{row.model}.{row.quantization}")
        # Engines that Evenkeel does not run are told apart by the server's name.
        work = Inference(weights, Engine.VLLM, Requests(1, 1.0, 1.0))
        return cls(row, server, device, work, _effort(row, work, processor=processor))

    @property
    def place(self) -> Place:
        """Where its time belongs to."""
        return self.server.name, costs.setting(self.device, self.work, self.row.devices)

    @property
    def observation(self) -> Observation:
        """What calibration sees of it."""
        at = costs.ceiling(
            self.device, self.server, Variant(self.device.resource, {}), self.row.devices
        )
        return Observation(self.effort, at, self.row.seconds)

    def predicted(self, server: Server) -> float:
        """Return the seconds on its server as it is known."""
        at = costs.speed(
            self.device, server, Variant(self.device.resource, {}), self.row.devices, self.work
        )
        return costs.seconds(self.effort, at)


def _effort(row: Row, work: Inference, *, processor: bool) -> Effort:
    model = work.model
    layers = row.layers or model.layers
    parts = []
    if row.prompts:
        tokens = row.prompts * row.prompt_tokens
        part = costs.Tokens(max(1, round(row.prompts)), tokens, tokens * row.prompt_tokens, 0.0)
        parts.append(costs.prefill_effort(model, part, layers=layers, passes=row.passes))
    if row.steps:
        parts.append(
            costs.step_effort(
                model, row.batch, row.context, layers=layers * row.steps, processor=processor
            )
        )
        if not row.layers:
            parts.append(costs.head_effort(model, row.batch, steps=row.steps))
    return costs.together(parts)


@dataclass(frozen=True, slots=True)
class Trial:
    """What one choice of rows gave."""

    hidden: Array
    """Rows that were predicted."""
    unseen: Array
    """Those of them whose very work was not calibrated on: a measurement repeated is no test."""
    calibrated: Floats
    """Seconds of every row."""
    recursive: Floats
    """Seconds of every row by the estimates that were made one observation at a time."""


class Trials:
    """The same rows, calibrated on one random choice of them after the other."""

    def __init__(self, cases: Sequence[Case], share: float) -> None:
        self.cases = cases
        self._chosen = min(round(share * len(cases)), len(cases) - 1)

    def run(self, seed: int) -> Trial:
        """Calibrate on a random choice without regard to what it holds, predict all."""
        order = np.random.default_rng(seed).permutation(len(self.cases))
        chosen = order[: self._chosen].tolist()
        seen: dict[Place, list[Observation]] = {}
        for number in chosen:
            if self.cases[number].row.phase == profiles.WAITED:
                continue
            seen.setdefault(self.cases[number].place, []).append(self.cases[number].observation)
        hidden = np.ones(len(self.cases), dtype=bool)
        hidden[chosen] = False
        known = {(self.cases[number].place, self.cases[number].effort) for number in chosen}
        new = np.array([(case.place, case.effort) not in known for case in self.cases])
        return Trial(
            hidden,
            new,
            self._predicted(calibrating.learn(seen)),
            self._predicted(_one_by_one(seen)),
        )

    def _predicted(self, learnt: Mapping[Place, Estimate]) -> Floats:
        by_server: dict[str, dict[Setting, Estimate]] = {}
        for (name, setting), belief in learnt.items():
            by_server.setdefault(name, {})[setting] = belief
        servers = {case.server.name: case.server for case in self.cases}
        rack = calibrating.shared(
            [
                replace(server, calibration=by_server.get(name, {}))
                for name, server in servers.items()
            ]
        )
        known = {server.name: server for server in rack}
        return np.array([case.predicted(known[case.server.name]) for case in self.cases])


def _one_by_one(seen: Mapping[Place, Sequence[Observation]]) -> dict[Place, Estimate]:
    """Return the estimates as they grow while a server is in use."""
    found = {}
    for place, observations in seen.items():
        belief = calibrating.default(processor=observations[0].at.processor)
        for observation in observations:
            belief = calibrating.update(belief, observation)
        found[place] = belief
    return found


def _summary(cases: Sequence[Case], trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the errors over all rows that were predicted, and by what they are of."""
    seconds = np.array([case.row.seconds for case in cases])
    bounds = np.array([costs.bound(case.effort, case.observation.at) for case in cases])
    before = np.array([case.predicted(case.server) for case in cases])
    made = np.array([before, *(part for t in trials for part in (t.calibrated, t.recursive))])
    errors = [(trial.hidden, _percent(trial.calibrated, seconds)) for trial in trials]
    plain = _percent(before, seconds)
    medians = [float(np.median(error[hidden])) for hidden, error in errors]
    return {
        "rows": len(cases),
        "calibrated_on": int((~trials[0].hidden).sum()),
        "median_abs_error_percent": round(float(np.median(medians)), 2),
        "median_abs_error_percent_by_seed": [round(median, 2) for median in medians],
        "median_abs_error_percent_uncalibrated": round(float(np.median(plain)), 2),
        "median_abs_error_percent_of_work_never_seen": _median(
            [(trial.unseen, error) for trial, (_, error) in zip(trials, errors, strict=True)]
        ),
        "median_abs_error_percent_one_by_one": round(
            float(np.median([_percent(t.recursive, seconds)[t.hidden] for t in trials])), 2
        ),
        "ceiling_violations": int((made < bounds * (1 - ROUNDING)).sum()),
        "measured_above_the_ceiling": int((seconds < bounds).sum()),
        "by": {
            name: {
                "rows": int(members.sum()),
                "calibrated": _median(errors, members),
                "uncalibrated": round(float(np.median(plain[members])), 2),
            }
            for name, members in _parts([case.row for case in cases])
        },
    }


ROUNDING = 1e-9
"""Of sums of floats in another order."""


def _percent(predicted: Floats, seconds: Floats) -> Floats:
    error: Floats = 100 * np.abs(predicted / seconds - 1)
    return error


def _median(errors: Sequence[tuple[Array, Floats]], members: Array | bool = True) -> float | None:
    """Return the median error of some rows over all trials, None where none was predicted."""
    found = np.concatenate([error[hidden & members] for hidden, error in errors])
    return round(float(np.median(found)), 2) if len(found) else None


def _parts(rows: Sequence[Row]) -> Iterator[tuple[str, Array]]:
    """Yield every source, device and phase, and source with phase, with its rows."""
    views: tuple[Callable[[Row], str], ...] = (
        lambda row: row.source,
        lambda row: f"{row.device} x{row.devices}",
        lambda row: row.phase,
        lambda row: f"{row.source} {row.phase}",
    )
    for view in views:
        names = np.array([view(row) for row in rows])
        for name in sorted(set(names.tolist())):
            yield name, names == name


if __name__ == "__main__":
    sys.exit(main())
