"""Models are found below their folder and nowhere else, whole, and read without hanging."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenkeel_core.facts import gguf
from evenkeel_core.models import InvalidModel
from evenkeel_kube import modelfiles

SIZES = {number: (block, size) for number, (_, block, size) in gguf.TYPES.items()}
Write = Callable[..., bytes]
SHAPE = {
    "general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
}  # fmt: skip
TENSORS = [
    ("token_embd.weight", (64, 100), 0), ("blk.0.attn_q.weight", (64, 64), 0),
    ("output.weight", (64, 100), 0),
]  # fmt: skip
CONFIG = {
    "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "intermediate_size": 128, "vocab_size": 100,
}  # fmt: skip
STORED = {
    "model.embed_tokens.weight": ("F32", (100, 64), 32),
    "model.layers.0.mlp.weight": ("F32", (64, 64), 32),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    return root


def sparse(path: Path, header: bytes, data: int) -> None:
    """Write a header and a hole as large as the weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + data)


def one_gguf(path: Path, write: Write) -> None:
    sparse(path, write(SHAPE, TENSORS, SIZES), 4 * 64 * (100 + 64 + 100))


def test_a_gguf_is_read_by_name_and_by_folder(folder: Path, write_gguf: Write) -> None:
    one_gguf(folder / "team/tiny.gguf", write_gguf)
    found = modelfiles.model(folder, "file://team/tiny.gguf")
    assert (found.layers, found.bytes, found.weights) == (1, 67_584, "tiny.gguf")
    assert found.source == "the GGUF header of team/tiny.gguf"
    assert modelfiles.model(folder, "file://team").bytes == found.bytes
    assert modelfiles.models(folder, ["pvc://a/b", "file://team"]).keys() == {"file://team"}


def test_a_split_gguf_needs_all_its_parts(folder: Path, write_gguf: Write) -> None:
    names = list(gguf.parts("tiny-00001-of-00002.gguf"))
    split = {"split.count": 2}
    sparse(
        folder / names[0], write_gguf({**SHAPE, **split, "split.no": 0}, TENSORS[:1], SIZES), 25_600
    )
    with pytest.raises(InvalidModel, match=r"tiny-00002-of-00002\.gguf: is not in"):
        modelfiles.model(folder, f"file://{names[0]}")
    sparse(folder / names[1], write_gguf({**split, "split.no": 1}, TENSORS[1:], SIZES), 41_984)
    assert modelfiles.model(folder, f"file://{names[0]}").bytes == 67_584
    assert modelfiles.model(folder, f"file://{names[1]}").bytes == 67_584


def test_safetensors_need_their_config(folder: Path, write_safetensors: Write) -> None:
    sparse(folder / "m/model.safetensors", write_safetensors(STORED), 4 * 64 * 164)
    with pytest.raises(InvalidModel, match=r"config\.json: is not in"):
        modelfiles.model(folder, "file://m")
    (folder / "m/config.json").write_text(json.dumps(CONFIG))
    found = modelfiles.model(folder, "file://m")
    assert (found.bytes, found.quantization, found.weights) == (4 * 64 * 164, "F32", "m")
    assert modelfiles.model(folder, "file://m/model.safetensors").bytes == found.bytes
    (folder / "m/config.json").write_text("[" * 100_000)
    with pytest.raises(InvalidModel, match=r"config\.json: is no JSON"):
        modelfiles.model(folder, "file://m")


def outside(folder: Path, _: Write) -> str:
    (folder / "link").symlink_to("/etc/passwd")
    return "link"


def loop(folder: Path, _: Write) -> str:
    (folder / "loop").symlink_to("loop")
    return "loop"


def pipe(folder: Path, _: Write) -> str:
    os.mkfifo(folder / "pipe.gguf")
    return "pipe.gguf"


def cut(folder: Path, write: Write) -> str:
    (folder / "cut.gguf").write_bytes(write(SHAPE, TENSORS, SIZES))
    return "cut.gguf"


def linked_part(folder: Path, write: Write) -> str:
    header = write({**SHAPE, "split.count": 2, "split.no": 0}, TENSORS, SIZES)
    sparse(folder / "a-00001-of-00002.gguf", header, 67_584)
    (folder / "a-00002-of-00002.gguf").symlink_to("/etc/passwd")
    return "a-00001-of-00002.gguf"


def both(folder: Path, _: Write) -> str:
    (folder / "d").mkdir()
    for name in ("a.gguf", "b.safetensors"):
        (folder / "d" / name).touch()
    return "d"


def several(folder: Path, _: Write) -> str:
    (folder / "d").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (folder / "d" / name).touch()
    return "d"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda *_: "nowhere.gguf", "nowhere.gguf: is not in"),
        (lambda *_: "nul\0.gguf", "is not in"),
        (lambda *_: "../models", "leads out of"),
        (lambda *_: "/etc/passwd", "leads out of"),
        (outside, "link: leads out of"),
        (loop, "loop: is not in"),
        (pipe, "pipe.gguf: is not there, or no plain file"),
        (cut, "cut.gguf: tensor .* beyond the end of the file"),
        (linked_part, "a-00002-of-00002.gguf: leads out of"),
        (both, "d: has both .safetensors and .gguf files; name one"),
        (several, "d: has several models; name one"),
        (lambda *_: "x-00001-of-99999.gguf", "is not in"),
    ],
)
def test_what_is_not_a_model_below_the_folder_is_refused(
    folder: Path, write_gguf: Write, make: Callable[..., str], said: str
) -> None:
    with pytest.raises(InvalidModel, match=said):
        modelfiles.model(folder, f"file://{make(folder, write_gguf)}")


def test_a_file_without_rights_is_named(folder: Path, monkeypatch: Any) -> None:
    (folder / "a.gguf").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InvalidModel, match=r"a\.gguf: can't be read: Permission denied"):
        modelfiles.model(folder, "file://a.gguf")
