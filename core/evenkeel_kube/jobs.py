"""InferenceJobs to `Job`s: every default filled in, everything the planner needs.

A manifest that came through the API server has been validated there; one from a file has not,
so `job` validates again, by the same types and by the same rules between fields.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from pydantic import ValidationError

from evenkeel_core import facts
from evenkeel_core.jobs import (
    Constraints,
    CostModel,
    Engine,
    Expression,
    Inference,
    Job,
    Objective,
    Parallelism,
    Requests,
    Stage,
    Task,
    Template,
    Term,
    Toleration,
    Workload,
)
from evenkeel_core.models import Model, from_config, stored_as
from evenkeel_core.quantities import Bytes, Seconds
from evenkeel_kube import amounts, names, nodes
from evenkeel_kube.kinds import inferencejob as api

Object = Mapping[str, Any]

SINGLE = "batch"
"""Name of the only task of a job with a model and an input."""
CHARACTERS_PER_TOKEN = 4.0
"""Of English text with the vocabularies of 2024: the usual rule of thumb. Only the size of
shards and the predicted seconds depend on it, and measured times correct those."""
MAX_LINES = 50_000
MAX_INPUT_BYTES = 200 * 1024**2
"""Limits of the OpenAI batch format."""


class InvalidJob(ValueError):
    """A manifest that breaks a rule: says which field, which rule, and what to do."""


class UnknownModel(InvalidJob):
    """Nothing is known of the model's shape yet: inspection may find out."""


def job(
    manifest: Object,
    *,
    priority: int = 0,
    lines: Sequence[str] | None = None,
    models: Mapping[str, Model] | None = None,
) -> Job:
    """Return the job an InferenceJob describes.

    Parameters
    ----------
    manifest : mapping
        The object, from the API server or from a file.
    priority : int, default=0
        Value of its priority class.
    lines : sequence of str, optional
        The requests, where they are in a ConfigMap; without them a guess is made.
    models : mapping, optional
        What was read from files, by URI; of others the spec's config or the name table tells.

    Raises
    ------
    InvalidJob
        If a rule is broken; the message names the field, the rule and the remedy.
    UnknownModel
        If the model's shape is not known.
    """
    spec = parse(manifest).spec
    metadata = manifest["metadata"]
    read = models or {}
    tasks = (
        tuple(_task(task, spec, read) for task in spec.tasks)
        if spec.tasks
        else (_single(spec, lines, read),)
    )
    return Job(
        key=f"{metadata.get('namespace', 'default')}/{metadata['name']}",
        uid=metadata.get("uid", ""),
        tasks=tasks,
        priority=priority,
        objective=Objective(spec.objective),
        cost_model=CostModel(spec.cost_model),
    )


def model_uris(spec: api.Spec) -> tuple[str, ...]:
    """Return where a job's models are, each once, in the order of its tasks."""
    inferred = [task.inference.model for task in spec.tasks or () if task.inference]
    return tuple(dict.fromkeys(m.uri for m in (spec.model, *inferred) if m is not None))


def parse(manifest: Object) -> api.InferenceJob:
    """Return the typed manifest.

    Raises
    ------
    InvalidJob
        If it is no InferenceJob or breaks a rule.
    """
    if not isinstance(manifest, Mapping) or manifest.get("kind") != "InferenceJob":
        raise InvalidJob("kind must be InferenceJob")
    if manifest.get("apiVersion") != names.API_VERSION:
        raise InvalidJob(f"apiVersion must be {names.API_VERSION}")
    metadata = manifest.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        raise InvalidJob("metadata.name is missing, or no text")
    if not isinstance(manifest.get("spec"), Mapping):
        raise InvalidJob("spec is missing")
    try:
        typed = api.InferenceJob.model_validate({"spec": manifest["spec"]})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidJob(f"{field}: {first['msg']}") from None
    _rules(typed.spec)
    return typed


Rules = Iterator[tuple[bool, str]]


def _rules(spec: api.Spec) -> None:
    """Check the rules between fields, as the CRD's CEL does."""
    checked = chain(_of_spec(spec), _of_models(spec), _of_runtimes(spec), _of_tasks(spec))
    broken = next((message for holds, message in checked if not holds), None)
    if broken:
        raise InvalidJob(broken)


def _of_spec(spec: api.Spec) -> Rules:
    tasks, stages, given, output = spec.tasks, spec.stages, spec.input, spec.output
    yield (tasks is None) != (given is None), "spec must have exactly one of input and tasks"
    yield given is None or spec.model is not None, "spec.model is needed with spec.input"
    yield tasks is None or spec.model is None, "spec.model must not be set with spec.tasks"
    yield tasks is None or stages is None, "spec.stages must not be set with spec.tasks"
    if stages is not None:
        message = "spec.stages and spec.parallelism.pipeline disagree on the number of stages"
        yield spec.parallelism.pipeline in ("auto", len(stages)), message
    if given is not None:
        sources = (given.prompts, given.config_map_ref, given.persistent_volume_claim)
        message = "input must have exactly one of prompts, configMapRef and persistentVolumeClaim"
        yield sum(source is not None for source in sources) == 1, message
    if output is not None:
        both = output.persistent_volume_claim is not None and output.config_map is not None
        yield not both, "output must have at most one of persistentVolumeClaim and configMap"


def _of_models(spec: api.Spec) -> Rules:
    models = [spec.model, *(task.inference.model for task in spec.tasks or () if task.inference)]
    for model in models:
        uri = model.uri if model else "file://none"
        message = (
            "model.uri: hf:// needs the internet; put the file on the servers, use file://NAME"
        )
        yield not uri.startswith("hf://"), message
        message = "model.uri must begin with file://, pvc:// or oci:// and name something"
        yield re.fullmatch(r"(file|pvc|oci)://[A-Za-z0-9].*", uri) is not None, message
        message = "model.uri: a file:// name must not contain '..'"
        yield not uri.startswith("file://") or ".." not in uri, message
        claim = re.fullmatch(r"pvc://[a-z0-9.-]+/.+", uri) is not None
        yield not uri.startswith("pvc://") or claim, "model.uri: pvc:// must be pvc://CLAIM/PATH"


def _of_runtimes(spec: api.Spec) -> Rules:
    own = [task.inference.runtime for task in spec.tasks or () if task.inference]
    for runtime in (spec.runtime, *own):
        simulated = runtime.engine == "simulator"
        for field, value in (("timeScale", runtime.time_scale), ("seed", runtime.seed)):
            yield simulated or value is None, f"runtime.{field} is for engine simulator only"


def _of_tasks(spec: api.Spec) -> Rules:
    known: set[str] = set()
    for task in spec.tasks or ():
        one = (task.template is None) != (task.inference is None)
        yield one, f"tasks.{task.name} must have exactly one of template and inference"
        earlier = set(task.depends_on) <= known
        yield earlier, f"tasks.{task.name}.dependsOn must name earlier tasks"
        yield task.name not in known, f"tasks: two are named {task.name}"
        retries = not task.retry_on_node_loss or task.template is not None
        yield retries, f"tasks.{task.name}.retryOnNodeLoss is for template tasks only"
        known.add(task.name)
        if task.template is not None:
            yield from _of_template(task.template.spec, f"tasks.{task.name}.template.spec")


def _of_template(pod: Object, where: str) -> Rules:
    containers = pod.get("containers")
    some = isinstance(containers, list) and len(containers) > 0
    yield some, f"{where}.containers: at least one container is needed"
    never = pod.get("restartPolicy") in (None, "Never")
    yield never, f"{where}.restartPolicy must be Never: Evenkeel retries by itself"
    yield "schedulerName" not in pod, f"{where}.schedulerName must not be set: Evenkeel has its own"
    message = f"{where}.nodeName must not be set: use nodeSelector kubernetes.io/hostname"
    yield "nodeName" not in pod, message
    yield from _of_shapes(pod, where)


LISTS = ("initContainers", "volumes", "tolerations", "schedulingGates", "imagePullSecrets")


def _of_shapes(pod: Object, where: str) -> Rules:
    """Check the shape of what is read of a template before the API server looks into it."""
    for field in ("containers", *LISTS):
        yield _listed(pod.get(field)), f"{where}.{field} must be a list of objects"
    for field in ("containers", "initContainers"):
        containers = pod.get(field) or []
        for container in containers if _listed(containers) else []:
            env = container.get("env")
            yield _listed(env), f"{where}.{field}.env must be a list of objects"
    for field in ("nodeSelector", "affinity"):
        mapped = pod.get(field) is None or isinstance(pod[field], dict)
        yield mapped, f"{where}.{field} must be an object"


def _listed(value: object) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(item, dict) for item in value)
    )


# Inference


def _single(spec: api.Spec, lines: Sequence[str] | None, models: Mapping[str, Model]) -> Task:
    assert spec.model is not None  # noqa: S101 - `_rules` has seen to it
    assert spec.input is not None  # noqa: S101
    resources = spec.resources or api.Resources()
    work = Inference(
        model=models.get(spec.model.uri) or known_model(spec.model),
        engine=Engine(spec.runtime.engine),
        requests=_requests(spec.input, spec.workload, lines),
        workload=Workload(
            spec.workload.max_input_tokens,
            spec.workload.max_output_tokens,
            spec.workload.concurrency,
        ),
        parallelism=Parallelism(
            _exact(spec.parallelism.pipeline),
            _exact(spec.parallelism.tensor),
            _exact(spec.parallelism.data),
        ),
        stages=tuple(Stage(stage.node_name, stage.layers) for stage in spec.stages or ()),
        overhead=amounts.vector(resources.requests),
        limits=amounts.vector(resources.limits),
        time_scale=spec.runtime.time_scale or 1.0,
    )
    simulated = spec.runtime.engine == "simulator"
    return Task(SINGLE, work, None, constraints=_constraints(spec, {}, simulated=simulated))


def known_model(model: api.Model) -> Model:
    """Return the model's shape, from the spec's config or from the name table.

    Raises
    ------
    UnknownModel
        If neither tells it.
    """
    if model.config:
        stated = model.quantization or facts.quantization(model.uri) or stored_as(model.config)
        kind = (stated or facts.DEFAULT_QUANTIZATION).upper()
        if kind not in facts.BITS_PER_WEIGHT:
            raise InvalidJob(f"model.quantization: {kind} is not known; use one such as Q4_K_M")
        try:
            return from_config(
                model.config,
                name=model.uri,
                bits=facts.bits(kind),
                quantization=kind,
                source="model.config",
            )
        except ValueError as error:
            raise InvalidJob(f"model.{str(error).replace('`', '')}") from None
    found = facts.model(model.uri, model.quantization)
    if found is None:
        raise UnknownModel(
            f"model.uri: the name table has no model {model.uri}; give its shape in model.config"
        )
    return found


def _exact(count: int | str) -> int | None:
    return None if count == "auto" else int(count)


def _requests(given: api.Input, workload: api.Workload, lines: Sequence[str] | None) -> Requests:
    answer = (given.defaults.max_tokens if given.defaults else None) or workload.max_output_tokens
    if given.prompts is not None:
        pairs = [(prompt_tokens(prompt), answer) for prompt in given.prompts]
    elif lines is not None:
        pairs = [_line(line, answer) for line in lines]
    else:
        # A file nobody has read yet: one request a replica could hold, until inspection counts.
        return Requests(workload.concurrency, float(workload.max_input_tokens), float(answer))
    if not pairs:
        raise InvalidJob("input has no requests")
    capped = tuple(
        (min(size, workload.max_input_tokens), min(out, workload.max_output_tokens))
        for size, out in pairs
    )
    count = len(capped)
    means = (sum(pair[0] for pair in capped) / count, sum(pair[1] for pair in capped) / count)
    return Requests(count, means[0], means[1], capped)


def prompt_tokens(text: str) -> int:
    """Return a guess of the tokens of a text."""
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


def request_lines(text: str) -> list[str]:
    """Return the lines of a JSONL text that hold a request.

    Raises
    ------
    InvalidJob
        If there are more than the batch format allows.
    """
    if len(text) > MAX_INPUT_BYTES:
        raise InvalidJob(f"input is larger than {MAX_INPUT_BYTES} bytes; split it")
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > MAX_LINES:
        raise InvalidJob(f"input has {len(lines)} requests, a job may have {MAX_LINES}; split it")
    return lines


def _line(line: str, answer: int) -> tuple[int, int]:
    """Return the estimated lengths of one batch line; one that is broken counts as a short one.

    It will be one failed request with its line number, not a failed job. A line may say its own
    length in ``metadata.input_tokens``, as lines made from a trace do.
    """
    try:
        request = json.loads(line)
        body = request.get("body", request)
        wanted = body.get("max_tokens") or body.get("max_completion_tokens") or answer
        stated = (body.get("metadata") or {}).get("input_tokens")
        if stated is not None:
            return max(1, int(stated)), max(1, int(wanted))
        text = body.get("prompt") or [m.get("content", "") for m in body.get("messages", ())]
        size = prompt_tokens(text if isinstance(text, str) else "".join(map(str, text)))
        return size, max(1, int(wanted))
    except (ValueError, AttributeError, TypeError, ArithmeticError, RecursionError):
        return 1, 1


# Templates and constraints


def _task(task: api.Task, spec: api.Spec, models: Mapping[str, Model]) -> Task:
    if task.inference is not None:
        return _inference_task(task, task.inference, spec, models)
    assert task.template is not None  # noqa: S101 - `_rules` has seen to it
    pod = task.template.spec
    try:
        demand = nodes.pod_demand(pod)
    except (ValueError, AttributeError, TypeError) as error:
        raise InvalidJob(f"tasks.{task.name}.template.spec: {error}") from None
    work = Template(
        demand, Seconds(task.estimated_seconds), task.migratable, task.retry_on_node_loss
    )
    return Task(
        name=task.name,
        work=work,
        shards=_exact(task.shards) or 1,
        depends_on=tuple(task.depends_on),
        output_bytes=Bytes(task.output_bytes),
        constraints=_constraints(spec, pod, simulated=False),
    )


def _inference_task(
    task: api.Task, inference: api.TaskInference, spec: api.Spec, models: Mapping[str, Model]
) -> Task:
    shape = inference.workload
    work = Inference(
        model=models.get(inference.model.uri) or known_model(inference.model),
        engine=Engine(inference.runtime.engine),
        requests=Requests(
            shape.concurrency, float(shape.max_input_tokens), float(shape.max_output_tokens)
        ),
        workload=Workload(shape.max_input_tokens, shape.max_output_tokens, shape.concurrency),
        parallelism=Parallelism(
            _exact(inference.parallelism.pipeline),
            _exact(inference.parallelism.tensor),
            _exact(inference.parallelism.data),
        ),
        time_scale=inference.runtime.time_scale or 1.0,
    )
    simulated = inference.runtime.engine == "simulator"
    return Task(
        name=task.name,
        work=work,
        shards=_exact(task.shards),
        depends_on=tuple(task.depends_on),
        output_bytes=Bytes(task.output_bytes),
        constraints=_constraints(spec, {}, simulated=simulated),
    )


SIMULATED = Toleration(names.TAINT_SIMULATED, "Equal", "fake", "NoSchedule")


def _constraints(spec: api.Spec, pod: Object, *, simulated: bool) -> Constraints:
    """Return where a task's pods may run: the job's wishes and those of the template."""
    own = [toleration.model_dump(by_alias=True) for toleration in spec.tolerations or ()]
    try:
        tolerations = [toleration(item) for item in [*own, *(pod.get("tolerations") or ())]]
        hash(tuple(tolerations))
    except (AttributeError, TypeError):
        raise InvalidJob("template.spec.tolerations: must be a list of tolerations") from None
    if simulated:
        tolerations.append(SIMULATED)
    job_terms = _stated_terms(spec.affinity, "spec.affinity")
    pod_terms = _stated_terms(pod.get("affinity"), "template.spec.affinity")
    return Constraints(
        node_selector={**(spec.node_selector or {}), **_stated_selector(pod)},
        tolerations=tuple(tolerations),
        required=both(job_terms, pod_terms),
    )


def _stated_selector(pod: Object) -> dict[str, str]:
    selector: dict[str, str] = pod.get("nodeSelector") or {}
    if not all(isinstance(value, str) for value in selector.values()):
        raise InvalidJob("template.spec.nodeSelector: must be a map of labels to their values")
    return selector


def both(left: tuple[Term, ...], right: tuple[Term, ...]) -> tuple[Term, ...]:
    """Return the terms of which one holds when one of each side holds; empty is no wish."""
    if not left or not right:
        return left or right
    return tuple((*one, *other) for one in left for other in right)


def toleration(item: Object) -> Toleration:
    """Return a toleration of a pod spec."""
    return Toleration(
        item.get("key", ""),
        item.get("operator") or "Equal",
        item.get("value", ""),
        item.get("effect", ""),
    )


OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")


def _stated_terms(affinity: Object | None, field: str) -> tuple[Term, ...]:
    """Return the required node affinity a user wrote; the API server has not looked into it."""
    try:
        terms = _terms(affinity or {})
    except (AttributeError, KeyError, TypeError):
        message = "nodeSelectorTerms must be a list of matchExpressions with key and operator"
        raise InvalidJob(f"{field}.nodeAffinity: {message}") from None
    for expression in (expression for term in terms for expression in term):
        if not isinstance(expression.key, str):
            raise InvalidJob(f"{field}.nodeAffinity: key must be a label's name")
        if expression.operator not in OPERATORS:
            known = ", ".join(OPERATORS)
            raise InvalidJob(f"{field}.nodeAffinity: operator must be one of {known}")
    return terms


def _terms(affinity: Object) -> tuple[Term, ...]:
    """Return the required node affinity of a pod spec."""
    required = (affinity.get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return node_terms(required or {})


def node_terms(selector: Object) -> tuple[Term, ...]:
    """Return the terms of a node selector, of which one must hold."""
    return tuple(
        tuple(
            Expression(item["key"], item["operator"], tuple(item.get("values") or ()), field)
            for key, field in (("matchExpressions", False), ("matchFields", True))
            for item in term.get(key) or ()
        )
        for term in selector.get("nodeSelectorTerms") or ()
    )
