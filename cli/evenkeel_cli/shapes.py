"""What a plan took its models to be, and who said so."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evenkeel_core.jobs import Job
    from evenkeel_core.models import Model

GIB = 2**30


def models(job: "Job") -> "list[Model]":
    """Return the models of a job, each once."""
    from evenkeel_core.jobs import Inference

    works = (task.work for task in job.tasks)
    return list(dict.fromkeys(work.model for work in works if isinstance(work, Inference)))


def document(job: "Job") -> list[dict[str, Any]]:
    """Return the models of a job as JSON."""
    return [
        {
            "name": model.name,
            "weights": model.weights,
            "layers": model.layers,
            "bytes": model.bytes,
            "layerBytes": [layer.bytes for layer in model.each] or model.layer_bytes,
            "embeddingBytes": model.embedding_bytes,
            "headBytes": model.head_bytes,
            "kvBytesPerToken": model.cached(0, model.layers, tokens=1),
            "slidingLayers": sum(layer.window > 0 for layer in model.each),
            "contextTokens": model.context,
            "quantization": model.quantization,
            "source": model.source,
        }
        for model in models(job)
    ]


def sentences(job: "Job") -> str:
    """Return a line a model: what it is and where that comes from."""
    return "".join(
        f"{model.name}: {model.layers} layers, {model.bytes / GIB:.1f} GiB"
        f"{' ' + model.quantization if model.quantization else ''}, from {model.source}.\n"
        for model in models(job)
    )
